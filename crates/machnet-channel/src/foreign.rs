//! Memory shared with another process, which may write it at any time.
//!
//! A [`ForeignRegion`] is a sealed memfd, mapped. It is the counterpart of `Region<Private>`, and a type of its own, so
//! that the compiler keeps the two apart: no reference to its bytes exists, only atomic words and copies of them
//! ([`Words`]). The seals say that it neither shrinks nor grows, so no access to it can fault for its size, and that
//! no seal is added. What the other side can still do is write, and punch holes: those read as zeros.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::Words;
use crate::sync::atomic::AtomicU64;

/// Sizes are multiples of this.
const PAGE: usize = 4096;

/// What a region must be sealed against.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Words in memory that another process can write.
pub struct ForeignRegion {
    base: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the memory is reached through atomics only.
unsafe impl Send for ForeignRegion {}
// SAFETY: as above.
unsafe impl Sync for ForeignRegion {}

impl ForeignRegion {
    /// A new region of `bytes` zeros, and the descriptor to give to the other process. `name` is for humans who look
    /// into `/proc`.
    ///
    /// # Errors
    /// `InvalidInput` if `bytes` is 0 or no multiple of 4096; else what the system says: no memory, no descriptors.
    pub fn create(name: &str, bytes: usize) -> io::Result<(Self, OwnedFd)> {
        check_size(bytes)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
            // Before Linux 6.3.
            Err(Errno::INVAL) => memfd_create(name, flags)?,
            other => other?,
        };
        ftruncate(&fd, bytes as u64)?;
        fcntl_add_seals(&fd, SEALS)?;
        Ok((Self::map(&fd, bytes, MapFlags::empty())?, fd))
    }

    /// Maps the region that another process created, and touches all of it, so that its pages exist and count as ours.
    ///
    /// # Errors
    /// `InvalidData` if it has not `bytes` bytes or is not sealed; else what the system says.
    pub fn open(fd: impl AsFd, bytes: usize) -> io::Result<Self> {
        check_size(bytes)?;
        let bad = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let seals =
            fcntl_get_seals(&fd).map_err(|error| bad(format!("shared memory that cannot be sealed: {error}")))?;
        if !seals.contains(SEALS) {
            return Err(bad(format!("shared memory that is not sealed against changes of size: {seals:?}")));
        }
        // After the seals were seen: it stays so.
        let size = fstat(&fd)?.st_size;
        if u64::try_from(size) != Ok(bytes as u64) {
            return Err(bad(format!("shared memory of {size} bytes: it must have {bytes}")));
        }
        Self::map(fd, bytes, MapFlags::POPULATE)
    }

    fn map(fd: impl AsFd, bytes: usize, flags: MapFlags) -> io::Result<Self> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, flags | MapFlags::SHARED);
        // SAFETY: a new mapping, where the kernel likes, of a descriptor that is open.
        let base = unsafe { mmap(std::ptr::null_mut(), bytes, protection, flags, fd, 0) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, words: bytes / size_of::<AtomicU64>() })
    }
}

fn check_size(bytes: usize) -> io::Result<()> {
    if bytes == 0 || !bytes.is_multiple_of(PAGE) {
        let text = format!("shared memory of {bytes} bytes: it must be a multiple of {PAGE}, and not 0");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(())
}

impl Words for ForeignRegion {
    #[inline]
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped, page-aligned, `words` long, never remapped before `drop`, and sealed, so that it is there. Atomics
        // may change under a shared reference, whoever writes them.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words) }
    }
}

impl Drop for ForeignRegion {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and no reference is left: they borrow `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.words * size_of::<AtomicU64>()) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

impl fmt::Debug for ForeignRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignRegion").field("words", &self.words).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn both_mappings_are_the_same_memory() {
        let (here, fd) = ForeignRegion::create("test", 8192).unwrap();
        let there = ForeignRegion::open(&fd, 8192).unwrap();
        drop(fd);
        assert_eq!(here.words().len(), 1024);
        assert!(there.words().iter().all(|word| word.load(Relaxed) == 0));
        here.copy_in(1000, b"hello, world");
        let mut bytes = [0; 12];
        there.copy_out(1000, &mut bytes);
        assert_eq!(&bytes, b"hello, world");
        drop(here);
        there.copy_out(1000, &mut bytes);
        assert_eq!(&bytes, b"hello, world");
    }

    #[test]
    fn its_size_is_for_ever() {
        let (_here, fd) = ForeignRegion::create("test", 4096).unwrap();
        assert!(ftruncate(&fd, 0).is_err() && ftruncate(&fd, 8192).is_err());
        assert!(fcntl_add_seals(&fd, SealFlags::WRITE).is_err());
    }

    #[test]
    fn what_is_no_sealed_memory_of_that_size_is_refused() {
        let (_here, fd) = ForeignRegion::create("test", 8192).unwrap();
        let text = ForeignRegion::open(&fd, 4096).unwrap_err().to_string();
        assert!(text.contains("8192 bytes: it must have 4096"), "{text}");

        let unsealed = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&unsealed, 4096).unwrap();
        let text = ForeignRegion::open(&unsealed, 4096).unwrap_err().to_string();
        assert!(text.contains("not sealed"), "{text}");

        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(ForeignRegion::open(&file, 4096).unwrap_err().kind(), io::ErrorKind::InvalidData);
        for bytes in [0, 4095, 4097] {
            assert_eq!(ForeignRegion::create("test", bytes).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
