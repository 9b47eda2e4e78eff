//! Peers that go while frames come and go.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::*;

/// Peers that come, send and go.
const PEERS: u32 = 150;
/// Frames that each sends before it goes.
const FRAMES: u64 = 32;

/// Everything on one core, so that the thread that hears of the peer's end interrupts bursts in the middle, as it does on a machine with
/// more to do than cores. Without the gate the server, or the client that still sends, dies of SIGSEGV.
#[test]
fn a_peer_that_goes_takes_nothing_with_it() {
    let cores = sched_getaffinity(None).unwrap();
    let mut first = CpuSet::new();
    first.set((0..CpuSet::MAX_CPU).find(|&core| cores.is_set(core)).unwrap());
    // DPDK's threads, too: they have theirs from whoever starts DPDK.
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let id = task.unwrap().file_name().to_str().unwrap().parse().unwrap();
        let set = sched_setaffinity(rustix::process::Pid::from_raw(id), &first);
        // Another test's thread may end meanwhile.
        assert!(matches!(set, Ok(()) | Err(rustix::io::Errno::SRCH)), "{set:?}");
    }
    let socket = format!("socket=/machnet-gone-{}", std::process::id());
    let mut server = vdev("net_memif900", &format!("role=server,{socket}")).open().unwrap();
    let (received, done) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut frames = Vec::new();
            while !done.load(Ordering::Relaxed) {
                server.reap();
                received.fetch_add(server.rx_burst(&mut frames, 32) as u64, Ordering::Relaxed);
                frames.clear();
            }
        });
        for _ in 0..PEERS {
            let before = received.load(Ordering::Relaxed);
            let mut client = vdev("net_memif901", &format!("role=client,{socket}")).open().unwrap();
            let mut batch = VecDeque::new();
            wait_for(|| {
                client.reap();
                client.rx_burst(&mut Vec::new(), 1);
                while batch.len() < 8
                    && let Some(frame) = frame(&mut client, 1, 1514)
                {
                    batch.push_back(frame);
                }
                client.tx_burst(&mut batch);
                received.load(Ordering::Relaxed) - before >= FRAMES
            });
        }
        done.store(true, Ordering::Relaxed);
    });
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let id = task.unwrap().file_name().to_str().unwrap().parse().unwrap();
        let _ = sched_setaffinity(rustix::process::Pid::from_raw(id), &cores);
    }
}
