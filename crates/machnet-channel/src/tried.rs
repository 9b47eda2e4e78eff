//! State that several engines share and none of them waits for.

use std::ops::DerefMut;
use std::sync::{Mutex, PoisonError, TryLockError};

/// Somebody uses it or nobody does; who finds it in use goes on without. For what is good to know and not needed: nobody
/// can wait here, so nobody's delay is another's.
#[derive(Debug, Default)]
pub struct Tried<T>(Mutex<T>);

impl<T> Tried<T> {
    /// Nobody uses it.
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// The state, unless somebody has it at the moment.
    pub fn get(&self) -> Option<impl DerefMut<Target = T> + '_> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            // What a panic left is as good as any: it is only good to know.
            Err(TryLockError::Poisoned(poisoned)) => Some(PoisonError::into_inner(poisoned)),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

#[cfg(all(test, not(machnet_loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_and_nobody_waits() {
        let tried = Tried::new(1);
        let mut first = tried.get().unwrap();
        *first = 2;
        assert!(tried.get().is_none());
        drop(first);
        assert_eq!(*tried.get().unwrap(), 2);
    }
}
