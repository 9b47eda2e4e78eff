//! The tasks that wait for one direction of a stream.
//!
//! One place is reserved for the task that polls `AsyncRead` or `AsyncWrite`; those that wait in `readable` and its like,
//! on a shared reference, each have their own.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::task::Waker;

use machnet_channel::{Poked, Work};

#[derive(Debug, Default)]
pub(super) struct Waits {
    reserved: Option<Waker>,
    others: Vec<(u64, Waker)>,
    /// The next name of one of `others`; names are never used again.
    next: u64,
}

impl Waits {
    /// Notes that the task of `waker` waits at `place`.
    pub(super) fn note(&mut self, waker: &Waker, place: &mut Place) {
        let Place::Own(name) = place else {
            return match &mut self.reserved {
                Some(reserved) => reserved.clone_from(waker),
                none => *none = Some(waker.clone()),
            };
        };
        match name.and_then(|name| self.others.iter_mut().find(|(own, _)| *own == name)) {
            Some((_, own)) => own.clone_from(waker),
            None => {
                self.others.push((self.next, waker.clone()));
                *name = Some(self.next);
                self.next += 1;
            }
        }
    }

    fn forget(&mut self, name: u64) {
        self.others.retain(|(own, _)| *own != name);
    }

    /// All that wait: they wait no more.
    pub(super) fn take(&mut self) -> Self {
        Self { reserved: self.reserved.take(), others: std::mem::take(&mut self.others), next: 0 }
    }

    /// Wakes them. Not under a lock: a waker may be anything.
    pub(super) fn wake(self) {
        for waker in self.reserved.into_iter().chain(self.others.into_iter().map(|(_, waker)| waker)) {
            waker.wake();
        }
    }
}

/// State with tasks that wait.
pub(super) trait Waited: Work {
    fn waits(&mut self) -> &mut Waits;
}

/// Nothing but tasks that wait: to be poked wakes them.
impl Work for Waits {
    type Rest = Self;

    fn work(&mut self, _cx: &std::task::Context<'_>) -> Self {
        self.take()
    }

    fn finish(woken: Self) {
        woken.wake();
    }
}

impl Waited for Waits {
    fn waits(&mut self) -> &mut Waits {
        self
    }
}

/// Where a task waits.
#[derive(Debug)]
pub(super) enum Place {
    /// Where the one that polls `AsyncRead` or `AsyncWrite` does: the last one is woken.
    Reserved,
    /// Beside others, under a name given when it first waits.
    Own(Option<u64>),
}

/// A place beside others, given up when dropped.
pub(super) struct OwnPlace<'a, T: Waited> {
    shared: &'a Arc<Poked<T>>,
    place: Place,
}

impl<'a, T: Waited> OwnPlace<'a, T> {
    pub(super) const fn new(shared: &'a Arc<Poked<T>>) -> Self {
        Self { shared, place: Place::Own(None) }
    }
}

impl<T: Waited> Deref for OwnPlace<'_, T> {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl<T: Waited> DerefMut for OwnPlace<'_, T> {
    fn deref_mut(&mut self) -> &mut Place {
        &mut self.place
    }
}

impl<T: Waited> Drop for OwnPlace<'_, T> {
    fn drop(&mut self) {
        if let Place::Own(Some(name)) = self.place {
            self.shared.with(|state| state.waits().forget(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn each_place_is_woken_once_and_a_dropped_one_not() {
        let counts: [Arc<Count>; 4] = Default::default();
        let wakers = counts.clone().map(Waker::from);
        let shared = Poked::new(Waits::default());
        let mut reserved = Place::Reserved;
        let [mut one, mut other] = [OwnPlace::new(&shared), OwnPlace::new(&shared)];
        shared.with(|waits| {
            waits.note(&wakers[0], &mut reserved);
            waits.note(&wakers[1], &mut reserved); // takes the place of the one before
            waits.note(&wakers[2], &mut one);
            waits.note(&wakers[2], &mut one);
            waits.note(&wakers[3], &mut other);
        });
        drop(other);
        shared.waker().wake();
        assert_eq!(counts.each_ref().map(|count| count.0.load(Ordering::Relaxed)), [0, 1, 1, 0]);
        // A name from before a wake is nobody else's now.
        shared.with(|waits| waits.note(&wakers[3], &mut Place::Own(None)));
        drop(one);
        shared.waker().wake();
        assert_eq!(counts[3].0.load(Ordering::Relaxed), 1);
    }
}
