//! What is measured: the CPU of idleness, and the rate beside a reader that stands still.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use machnet::{Config, Endpoint, Flow};

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

/// Messages per second on one flow.
async fn rate(flow: &mut Flow, time: Duration) -> Result<f64, String> {
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < time {
        flow.send(vec![1; 1000]).await.map_err(|e| e.to_string())?;
        flow.recv().await.map_err(|e| e.to_string())?.ok_or("the echo ended")?;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

/// What a flow keeps of its rate while the reader of others, of the same two endpoints, stands still: the median of
/// pairs of measurements.
pub(crate) async fn beside_a_stopped_reader(config: Config) -> Result<f64, String> {
    const TIME: Duration = Duration::from_millis(300);
    let server = Process::start(&[], "serve 0");
    let to: SocketAddr = server.hear_address();
    let endpoint = endpoint_with(0, config);
    let mut flow = Request::Echo.connect(&endpoint, to).await.map_err(|e| e.to_string())?;
    rate(&mut flow, TIME).await?;
    let mut shares = Vec::new();
    for _ in 0..5 {
        let alone = rate(&mut flow, TIME).await?;
        let mut held = Vec::new();
        for _ in 0..4 {
            let mut flow = Request::Hold.connect(&endpoint, to).await.map_err(|e| e.to_string())?;
            // Until both sides are full.
            while let Ok(sent) = tokio::time::timeout(Duration::from_millis(100), flow.send(vec![1; 10_000])).await {
                sent.map_err(|e| e.to_string())?;
            }
            held.push(flow);
        }
        shares.push(rate(&mut flow, TIME).await? / alone);
        held.into_iter().for_each(Flow::abort);
    }
    shares.sort_by(f64::total_cmp);
    Ok(shares[shares.len() / 2])
}
