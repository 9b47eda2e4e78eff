//! What DPDK logs: handed to `tracing`, and its last lines kept for errors that would otherwise be a number.

use std::collections::VecDeque;
use std::ffi::c_char;
use std::sync::{Mutex, PoisonError};

use crate::{ffi, gate};

/// Lines kept.
const KEPT: usize = 16;

/// What drivers say who would share their devices with other processes, and need not. In no error's place.
const NOISE: &str = "register mp action";

/// The line that is being written, and those before it.
struct Log {
    line: Vec<u8>,
    lines: VecDeque<String>,
}

static LOG: Mutex<Log> = Mutex::new(Log { line: Vec::new(), lines: VecDeque::new() });

/// Where DPDK writes to. Called by any thread, also by those that DPDK started.
///
/// # Safety
/// `text` has `length` bytes.
pub(crate) unsafe extern "C" fn sink(text: *const c_char, length: usize) {
    if length == 0 {
        return;
    }
    // SAFETY: says the caller.
    let text = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length) };
    let mut lines = Vec::new();
    let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    for &byte in text {
        if byte != b'\n' {
            log.line.push(byte);
            continue;
        }
        let line = String::from_utf8_lossy(&log.line).trim().to_owned();
        log.line.clear();
        if line.is_empty() {
            continue;
        }
        lines.push(line);
    }
    let is_chatter = ffi::logs_for_developers();
    let is_noise = |line: &str| line.contains(NOISE) || (is_chatter && gate::asked_for(line));
    for line in lines.iter().filter(|line| !is_noise(line)) {
        if log.lines.len() == KEPT {
            log.lines.pop_front();
        }
        log.lines.push_back(line.clone());
    }
    drop(log);
    for line in &lines {
        tracing::debug!(target: "machnet::dpdk", "{line}");
        gate::heard(line);
    }
}

/// Forgets what was said so far.
pub(crate) fn forget() {
    LOG.lock().unwrap_or_else(PoisonError::into_inner).lines.clear();
}

/// The last lines since [`forget`].
pub(crate) fn said() -> Vec<String> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner).lines.iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_and_the_last_ones_kept() {
        let say = |text: &str| {
            // SAFETY: text that is there.
            unsafe { sink(text.as_ptr().cast(), text.len()) }
        };
        forget();
        say("EAL: No fr");
        say("ee huge pages\n\nEAL: bye\nunfinished");
        assert_eq!(said(), ["EAL: No free huge pages", "EAL: bye"]);
        for n in 0..2 * KEPT {
            say(&format!("\n{n}"));
        }
        assert_eq!(said().len(), KEPT);
    }
}
