//! CPU time and memory of this process.

use std::fs;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// What a process has used so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// CPU time of all threads, also of those that ended, ns. Includes what the kernel did on their behalf.
    pub(crate) cpu_ns: u64,
    /// CPU time of each thread, ns.
    pub(crate) threads: Vec<Thread>,
    /// Resident memory, bytes.
    pub(crate) rss: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Thread {
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) cpu_ns: u64,
}

impl Usage {
    /// Of now.
    pub(crate) fn now() -> Self {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let cpu_ns = u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap_or(0);
        Self { cpu_ns, threads: threads(), rss: rss() }
    }

    /// What was used since `before`, except memory, which is as it is.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let threads = self.threads.iter().map(|thread| {
            let was = before.threads.iter().find(|was| was.id == thread.id).map_or(0, |was| was.cpu_ns);
            Thread { cpu_ns: thread.cpu_ns.saturating_sub(was), ..thread.clone() }
        });
        Self { cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns), threads: threads.collect(), rss: self.rss }
    }
}

/// A thread that ends meanwhile, or a file that is not there, is left out.
fn threads() -> Vec<Thread> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let mut threads: Vec<Thread> = tasks
        .filter_map(|task| {
            let id = task.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(task.path().join("comm")).ok()?.trim().to_owned();
            // The first number: ns on a core. `stat` has it in ticks of 10 ms.
            let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
            let cpu_ns = schedstat.split_whitespace().next()?.parse().ok()?;
            Some(Thread { id, name, cpu_ns })
        })
        .collect();
    threads.sort_by_key(|thread| thread.id);
    threads
}

fn rss() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    1024 * line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_seen_in_the_process_and_in_its_thread() {
        let before = Usage::now();
        let mut sum = 0_u64;
        while Usage::now().since(&before).cpu_ns < 20_000_000 {
            sum = std::hint::black_box(sum + 1);
        }
        let used = Usage::now().since(&before);
        assert!(used.threads.iter().any(|thread| thread.cpu_ns > 1_000_000), "{used:?}");
        assert!(used.rss > 100_000);
    }
}
