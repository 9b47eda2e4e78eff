//! What the wire does, and how an engine sleeps on it.

use std::collections::VecDeque;

use machnet_core::Driver;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::bench::{Bench, Outcome, Stop, must, payload};
use crate::{PATIENCE, Subject};

pub(super) fn checksums(subject: &dyn Subject) -> Outcome {
    let mut bench = Bench::of(subject)?;
    if !bench.rig.damage(true) {
        return Err(Stop::NotApplicable("the wire damages nothing on purpose"));
    }
    let before = bench.drops(1).total();
    for n in 0..200 {
        bench.send(0, &[payload(n, 40 + n as usize * 5)])?;
        bench.rig.step();
    }
    bench.silent(1)?;
    let counted = bench.drops(1).total() - before;
    must!(counted == 200, "{counted} of 200 damaged ones were counted: {:?}", bench.drops(1));
    bench.rig.damage(false);
    bench.exchange(0, &[payload(1, 1000)])?;
    bench.all_home()
}

pub(super) fn link_down(subject: &dyn Subject) -> Outcome {
    let mut bench = Bench::of(subject)?;
    for _ in 0..3 {
        if !bench.rig.set_link(false) {
            return Err(Stop::NotApplicable("the link cannot be taken down"));
        }
        let mut batch = VecDeque::new();
        for n in 0..400 {
            batch.extend(bench.packet(0, &payload(n, 100)));
            bench.driver(0).tx_burst(&mut batch);
            must!(bench.receive(1, 32).is_empty(), "something came through a link that is down");
            bench.rig.step();
        }
        must!(batch.len() < 400, "nothing was taken, and nothing lost: it would pile up");
        drop(batch);
        bench.rig.set_link(true);
        bench.rig.step();
        for _ in 0..50 {
            bench.receive(1, 256);
            bench.rig.step();
        }
        bench.exchange(0, &[payload(1, 1000)])?;
        bench.exchange(1, &[payload(2, 1000)])?;
    }
    bench.all_home()
}

fn is_readable(driver: &dyn Driver) -> Result<bool, Stop> {
    let fd = driver.wait().ok_or_else(|| Stop::Wrong("it says that it can sleep, and has no descriptor".to_owned()))?;
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let ready = poll(&mut fds, Some(&Timespec::default()));
    Ok(ready.map_err(|error| Stop::Wrong(format!("poll: {error}")))? > 0)
}

/// As an engine sleeps: everything done, [`Driver::starve`] called, then the descriptor.
pub(super) fn sleep(subject: &dyn Subject) -> Outcome {
    let mut bench = Bench::of(subject)?;
    if !bench.driver(1).capabilities().can_sleep {
        return Err(Stop::NotApplicable("it does not sleep"));
    }
    for n in 0..50 {
        bench.silent(1)?;
        let awake = bench.driver(1).starve();
        must!(!awake && !is_readable(bench.driver(1))?, "round {n}: nothing is to be done, and it does not let sleep");
        bench.send(0, &[payload(n, 100)])?;
        let mut woken = false;
        for _ in 0..PATIENCE {
            woken = is_readable(bench.driver(1))?;
            if woken {
                break;
            }
            bench.rig.step();
        }
        must!(woken, "round {n}: a datagram came, and the descriptor does not say so");
        bench.await_some(1, 1)?;
    }
    bench.all_home()
}

pub(super) fn reduced(subject: &dyn Subject) -> Outcome {
    let reduced = subject.reduced();
    if reduced.is_empty() {
        return Err(Stop::NotApplicable("it has no capability that can be switched off"));
    }
    for (without, rig) in reduced {
        let tell = |stop| match stop {
            Stop::Wrong(why) => Stop::Wrong(format!("without {without}: {why}")),
            other => other,
        };
        let mut bench = Bench::with(rig).map_err(tell)?;
        let longest = bench.driver(0).capabilities().max_payload as usize;
        for side in [0, 1] {
            for n in 0..100u32 {
                let payloads = [payload(n, n as usize), payload(n, longest - n as usize)];
                bench.exchange(side, &payloads).map_err(tell)?;
            }
        }
        bench.all_home().map_err(tell)?;
    }
    Ok(())
}
