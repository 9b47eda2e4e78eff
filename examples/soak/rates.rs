//! What is measured: the CPU of idleness, and the rate beside a reader that stands still.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use machnet::{Config, Endpoint, Flow};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::process::{Process, Request, endpoint_with, idle};

/// Nanoseconds of the wall clock: a seed for who gave none.
pub(crate) fn clock() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

/// CPU time of the thread named `name` of this process, from its scheduler statistics.
fn cpu_of(name: &str) -> Option<Duration> {
    std::fs::read_dir("/proc/self/task").ok()?.flatten().find_map(|task| {
        let comm = std::fs::read_to_string(task.path().join("comm")).ok()?;
        if comm.trim() != name {
            return None;
        }
        let statistics = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        Some(Duration::from_nanos(statistics.split(' ').next()?.parse().ok()?))
    })
}

/// CPU time of all threads of a process.
fn cpu_of_process(process: u32) -> Result<Duration, String> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).map_err(|e| e.to_string())?;
    let of = |task: std::io::Result<std::fs::DirEntry>| {
        let statistics = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        statistics.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    };
    Ok(tasks.filter_map(of).sum())
}

/// The share of a core that the engine of an endpoint with 1 000 idle flows takes.
pub(crate) async fn idle_share() -> Result<f64, String> {
    const NAME: &str = "soak-idle";
    const TIME: Duration = Duration::from_secs(3);
    let server = Process::start(&[], "keep");
    let to = server.hear_address();
    let driver = machnet::Udp::bind((crate::process::V4, 0)).map_err(|e| e.to_string())?;
    let endpoint = Endpoint::builder().driver(driver).thread_name(NAME).start().map_err(|e| e.to_string())?;
    idle::touch_frames(endpoint.connect(to).await.map_err(|e| e.to_string())?).await;
    let flows = idle::open(&endpoint, to, 1000).await;
    // Until their queues are given back.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = cpu_of(NAME).ok_or("no such thread")?;
    let began = Instant::now();
    tokio::time::sleep(TIME).await;
    let used = cpu_of(NAME).ok_or("no such thread")? - before;
    let share = used.as_secs_f64() / began.elapsed().as_secs_f64();
    drop(flows);
    Ok(share)
}

/// What a flow keeps of its rate while readers beside it, of the same two endpoints, stand still.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beside {
    /// Of its messages per second.
    pub(crate) by_time: f64,
    /// Of its messages per second of CPU that the processes took. Who takes the cores away hardly matters to it.
    pub(crate) by_cpu: f64,
    /// Messages of both measurements.
    pub(crate) messages: u64,
}

impl Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { by_time, by_cpu, messages } = self;
        let (by_time, by_cpu) = (100.0 * by_time, 100.0 * by_cpu);
        write!(f, "{by_time:.0} % per second, {by_cpu:.0} % per second of CPU, of that alone; {messages} messages")
    }
}

/// An endpoint of this process, one of a process of its own, and an echo between the two.
struct Pair {
    server: Process,
    to: SocketAddr,
    endpoint: Endpoint,
    echo: Flow,
    /// Flows whose reader stands still.
    held: Vec<Flow>,
}

/// What a slice of time was good for.
#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    messages: u64,
    time: Duration,
    cpu: Duration,
}

impl Pair {
    async fn new(config: Config) -> Result<Self, String> {
        let server = Process::start(&[], "serve 0 last-core");
        let to = server.hear_address();
        let endpoint = endpoint_with(config);
        let echo = Request::Echo.connect(&endpoint, to).await.map_err(|e| e.to_string())?;
        Ok(Self { server, to, endpoint, echo, held: Vec::new() })
    }

    /// From now on readers stand still, and what they hold back is full.
    async fn hold(&mut self) -> Result<(), String> {
        for _ in 0..4 {
            let mut flow = Request::Hold.connect(&self.endpoint, self.to).await.map_err(|e| e.to_string())?;
            while let Ok(sent) = tokio::time::timeout(Duration::from_millis(100), flow.send(vec![1; 10_000])).await {
                sent.map_err(|e| e.to_string())?;
            }
            self.held.push(flow);
        }
        Ok(())
    }

    fn let_go(&mut self) {
        self.held.drain(..).for_each(Flow::abort);
    }

    /// Echoes for `time`.
    async fn measure(&mut self, time: Duration) -> Result<Slice, String> {
        let cpu = || Ok::<_, String>(cpu_of_process(std::process::id())? + cpu_of_process(self.server.id())?);
        let (cpu_before, began, mut messages) = (cpu()?, Instant::now(), 0);
        while began.elapsed() < time {
            self.echo.send(vec![1; 1000]).await.map_err(|e| e.to_string())?;
            self.echo.recv().await.map_err(|e| e.to_string())?.ok_or("the echo ended")?;
            messages += 1;
        }
        Ok(Slice { messages, time: began.elapsed(), cpu: cpu()?.saturating_sub(cpu_before) })
    }
}

/// What a flow keeps of its rate beside readers that stand still.
///
/// Two pairs of endpoints that differ in nothing but such readers are measured in turn, in slices that are short against
/// what else goes on: it disturbs both alike. Then they change parts, again and again. Each process keeps to one core: where
/// the kernel puts its two threads makes a factor of four in the rate of an echo, and so decided the ratio.
pub(crate) async fn beside_a_stopped_reader(config: Config) -> Result<Beside, String> {
    let anywhere = sched_getaffinity(None).map_err(|e| e.to_string())?;
    keep_to(Core::First)?;
    let result = beside_on_one_core(config).await;
    sched_setaffinity(None, &anywhere).map_err(|e| e.to_string())?;
    result
}

/// A core that this program may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    First,
    Last,
}

/// From now on this thread, and those that it starts, run on one core only.
pub(crate) fn keep_to(core: Core) -> Result<(), String> {
    let allowed = sched_getaffinity(None).map_err(|e| e.to_string())?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
    let core = if core == Core::First { cores.next() } else { cores.next_back() };
    let mut only = CpuSet::new();
    only.set(core.ok_or("no core to run on")?);
    sched_setaffinity(None, &only).map_err(|e| e.to_string())
}

async fn beside_on_one_core(config: Config) -> Result<Beside, String> {
    const SLICE: Duration = Duration::from_millis(10);
    const SLICES: usize = 50;
    const CHANGES: usize = 6;
    let mut pairs = [Pair::new(config).await?, Pair::new(config).await?];
    for pair in &mut pairs {
        pair.measure(10 * SLICE).await?;
    }
    let (mut messages, mut by_time, mut by_cpu) = (0, Vec::new(), Vec::new());
    for _ in 0..CHANGES {
        pairs.reverse();
        let [free, held] = &mut pairs;
        free.let_go();
        held.hold().await?;
        let (mut times, mut cpus) = (Vec::new(), Vec::new());
        for _ in 0..SLICES {
            let [alone, beside] = [free.measure(SLICE).await?, held.measure(SLICE).await?];
            let share = |of: fn(Slice) -> Duration| {
                (beside.messages as f64 / of(beside).as_secs_f64()) / (alone.messages as f64 / of(alone).as_secs_f64())
            };
            times.push(share(|slice| slice.time));
            cpus.push(share(|slice| slice.cpu));
            messages += alone.messages + beside.messages;
        }
        by_time.push(median(times));
        by_cpu.push(median(cpus));
    }
    Ok(Beside { by_time: mean(&by_time), by_cpu: mean(&by_cpu), messages })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Of ratios: the geometric one.
fn mean(ratios: &[f64]) -> f64 {
    (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp()
}
