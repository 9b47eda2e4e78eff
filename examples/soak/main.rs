//! Faults at random, for as long as wanted, against a model: every message arrives once, in order and unchanged, whatever
//! is killed, stopped or slow around it. `cargo xtask soak` runs it.
//!
//! This process is one side; the other sides are children: this program once more. What is drawn from the seed is what
//! is done, and in what order; what it meets depends on the machine.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

#[path = "../../tests/process/mod.rs"]
mod process;
mod rates;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser;
use machnet::{Config, Endpoint};
use process::{Process, Request, content, count_of, endpoint_with, idle, say, serve, size, verify};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rustix::process::Signal;
use tokio::task::JoinSet;

/// Runs random faults against a model of what must arrive.
#[derive(Debug, Parser)]
struct Args {
    /// How long, seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Seed of what is done. Default: from the clock.
    #[arg(long)]
    seed: Option<u64>,
}

/// How long a peer may be silent, everywhere here.
const DEAD: Duration = Duration::from_secs(2);
/// Nothing takes so long: a step that does has hung.
const HANG: Duration = Duration::from_secs(120);
/// Sides at once, each a process.
const SIDES: usize = 3;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    if let Some(role) = process::role() {
        let role: Vec<&str> = role.iter().map(String::as_str).collect();
        runtime.block_on(child(&role)).expect("a child ends only when it is killed");
        return ExitCode::SUCCESS;
    }
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(|| u64::from(std::process::id()) ^ rates::clock());
    println!("seed {seed}, {} s", args.seconds);
    match runtime.block_on(soak(seed, Duration::from_secs(args.seconds))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(violation) => {
            eprintln!("violation: {violation}");
            eprintln!("to repeat it: cargo xtask soak --minutes {} --seed {seed}", args.seconds.div_ceil(60));
            ExitCode::FAILURE
        }
    }
}

fn config() -> Config {
    let mut config = Config::default();
    config.dead_peer_timeout = DEAD;
    config
}

async fn child(role: &[&str]) -> io::Result<()> {
    if role.contains(&"last-core") {
        rates::keep_to(rates::Core::Last).map_err(io::Error::other)?;
    }
    let endpoint = match role {
        ["keep"] => idle::crowd_endpoint(),
        _ => endpoint_with(config()),
    };
    let port = if let ["serve", port, ..] = role { port.parse().map_err(io::Error::other)? } else { 0 };
    let listener = endpoint.listen_with(port, 1024).await?;
    say(listener.local_addr());
    if role == ["keep"] {
        idle::keep(listener).await;
        return Ok(());
    }
    serve(listener).await
}

/// The steps that have begun and not ended, by key.
type Running = Arc<Mutex<BTreeMap<u64, String>>>;

/// A violation of the model, in words.
type Outcome = Result<(), String>;

/// What was done.
#[derive(Debug, Default)]
struct Counters {
    messages: AtomicU64,
    bytes: AtomicU64,
    flows: AtomicU64,
    /// Flows that a fault ended.
    broken: AtomicU64,
    kills: AtomicU64,
    stops: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// A serving process, and the faults it suffers: flows are excused only for those.
struct Side {
    process: Mutex<Process>,
    address: SocketAddr,
    /// Faults so far, each counted when it begins, and when it ends if that takes time.
    faults: AtomicU64,
    /// Faults that have begun and not ended.
    underway: AtomicU64,
}

impl Side {
    /// Where faults stand; `None` if one is underway.
    fn calm(&self) -> Option<u64> {
        let faults = self.faults.load(Ordering::SeqCst);
        (self.underway.load(Ordering::SeqCst) == 0).then_some(faults)
    }
}

async fn soak(seed: u64, time: Duration) -> Outcome {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let counters = Arc::new(Counters::default());
    let idle_share = rates::idle_share().await?;
    let beside = rates::beside_a_stopped_reader(config()).await?;

    let endpoint = endpoint_with(config());
    let sides: Vec<Arc<Side>> = (0..SIDES)
        .map(|_| {
            let process = Process::start(&[], "serve 0");
            let address = process.hear_address();
            Arc::new(Side {
                process: Mutex::new(process),
                address,
                faults: AtomicU64::new(0),
                underway: AtomicU64::new(0),
            })
        })
        .collect();
    let end = Instant::now() + time;
    let mut steps = JoinSet::new();
    let running = Running::default();
    let mut key = seed << 20;
    while Instant::now() < end {
        // The first side suffers nothing: what fails there has no excuse.
        let side = Arc::clone(&sides[(random.next_u32() % SIDES as u32) as usize]);
        let (endpoint, counters) = (endpoint.clone(), Arc::clone(&counters));
        key += 1;
        let may_suffer = side.address != sides[0].address;
        match random.next_u32() % 100 {
            0..2 if may_suffer => kill(&side, &counters)?,
            2..5 if may_suffer => {
                // Up to twice the time after which others give it up.
                let pause = Duration::from_millis(u64::from(random.next_u32()) % (2 * DEAD.as_millis() as u64));
                steps.spawn(async move { stop(&side, pause, &counters).await });
            }
            draw => {
                let step = Step::draw(draw, &mut random);
                let running = Arc::clone(&running);
                steps.spawn(async move {
                    note(&running, |running| running.insert(key, format!("{step:?} to {}", side.address)));
                    let outcome = step.run(&endpoint, &side, key, &counters).await;
                    note(&running, |running| running.remove(&key));
                    outcome
                });
            }
        }
        // A few at once, so that a storm does not outrun the machine.
        while steps.len() >= 24 {
            finish_one(&mut steps, &running).await?;
        }
        while let Some(done) = steps.try_join_next() {
            done.map_err(|panic| panic.to_string())??;
        }
        hear(&sides)?;
    }
    while !steps.is_empty() {
        finish_one(&mut steps, &running).await?;
    }
    hear(&sides)?;
    let stats = endpoint.stats();
    println!("{counters:?}");
    println!(
        "packets: {} received, {} sent, {} declared lost; drops {:?}",
        stats.packets_received,
        stats.packets_sent,
        stats.packets_lost,
        stats.drops.iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>()
    );
    println!("CPU of an endpoint with 1000 idle flows: {:.2} % of a core", 100.0 * idle_share);
    println!("rate beside a stopped reader: {beside}");
    tokio::time::timeout(HANG, endpoint.shutdown()).await.map_err(|_| "shutdown hangs")?.map_err(|e| e.to_string())?;
    if idle_share >= 0.01 {
        return Err(format!("an idle endpoint takes {:.2} % of a core", 100.0 * idle_share));
    }
    if beside.by_time < 0.8 {
        return Err(format!("beside a stopped reader others keep {beside}"));
    }
    Ok(())
}

async fn finish_one(steps: &mut JoinSet<Outcome>, running: &Running) -> Outcome {
    match tokio::time::timeout(HANG, steps.join_next()).await {
        Err(_) => Err(format!("none of these ends: {:#?}", running.lock().map_err(|poisoned| poisoned.to_string())?)),
        Ok(None) => Ok(()),
        Ok(Some(done)) => done.map_err(|panic| panic.to_string())?,
    }
}

fn note<T>(running: &Running, change: impl FnOnce(&mut BTreeMap<u64, String>) -> T) {
    if let Ok(mut running) = running.lock() {
        change(&mut running);
    }
}

/// What the other sides found.
fn hear(sides: &[Arc<Side>]) -> Outcome {
    for side in sides {
        let process = side.process.lock().map_err(|poisoned| poisoned.to_string())?;
        while let Some(said) = process.try_hear() {
            if said.starts_with("violation") {
                return Err(format!("the other side says: {said}"));
            }
        }
    }
    Ok(())
}

/// Kills the side's process and starts another one at its port.
fn kill(side: &Side, counters: &Counters) -> Outcome {
    side.faults.fetch_add(1, Ordering::SeqCst);
    let mut process = side.process.lock().map_err(|poisoned| poisoned.to_string())?;
    process.signal(Signal::KILL);
    // Dropped, the old one is waited for: its port is free then.
    let port = side.address.port();
    process.reap();
    *process = Process::start(&[], format_args!("serve {port}"));
    if process.hear_address() != side.address {
        return Err("a restarted side listens elsewhere".to_owned());
    }
    Counters::add(&counters.kills, 1);
    Ok(())
}

async fn stop(side: &Side, pause: Duration, counters: &Counters) -> Outcome {
    side.underway.fetch_add(1, Ordering::SeqCst);
    side.faults.fetch_add(1, Ordering::SeqCst);
    let signal = |signal| side.process.lock().map(|process| process.signal(signal)).map_err(|p| p.to_string());
    signal(Signal::STOP)?;
    tokio::time::sleep(pause).await;
    // Killed and replaced meanwhile, it takes this as well.
    signal(Signal::CONT)?;
    // Flows that were opened while it stood still may fail later.
    side.faults.fetch_add(1, Ordering::SeqCst);
    side.underway.fetch_sub(1, Ordering::SeqCst);
    Counters::add(&counters.stops, 1);
    Ok(())
}

/// A flow, and what is done with it.
#[derive(Clone, Copy, Debug)]
struct Step {
    request: Kind,
    count: u64,
    max: usize,
    /// Ended in the middle, by this side.
    leave: bool,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Sink { pause: Duration },
    Source,
    Echo,
    Hold,
}

impl Step {
    fn draw(draw: u32, random: &mut ChaCha8Rng) -> Self {
        let mut below = |n: u64| u64::from(random.next_u32()) % n;
        let (request, count, max) = match draw {
            // A connection for hardly anything.
            0..45 => (Kind::Echo, below(3), 200),
            45..55 => (Kind::Echo, below(200), 20_000),
            55..70 => (Kind::Sink { pause: Duration::ZERO }, below(5_000), 200),
            70..80 => (Kind::Source, below(2_000), 5_000),
            80..86 => (Kind::Sink { pause: Duration::from_micros(below(3_000)) }, below(300), 50_000),
            86..90 => (Kind::Sink { pause: Duration::ZERO }, below(3), 64 << 20),
            90..94 => (Kind::Source, below(3), 64 << 20),
            94..97 => (Kind::Sink { pause: Duration::ZERO }, below(30), 1 << 20),
            _ => (Kind::Hold, 50, 10_000),
        };
        Self { request, count, max, leave: below(10) == 0 }
    }

    async fn run(self, endpoint: &Endpoint, side: &Side, key: u64, counters: &Counters) -> Outcome {
        let before = side.calm();
        Counters::add(&counters.flows, 1);
        match self.talk(endpoint, side.address, key, counters).await {
            Ok(()) => Ok(()),
            Err(Failure::Model(violation)) => Err(violation),
            Err(Failure::Io(_)) if before.is_none() || side.calm() != before => {
                Counters::add(&counters.broken, 1);
                Ok(())
            }
            Err(Failure::Io(error)) => Err(format!("{self:?}, flow {key}, to a side that suffered nothing: {error}")),
        }
    }

    async fn talk(self, endpoint: &Endpoint, to: SocketAddr, key: u64, counters: &Counters) -> Result<(), Failure> {
        let Self { count, max, leave, .. } = self;
        let note = |len: usize| {
            Counters::add(&counters.messages, 1);
            Counters::add(&counters.bytes, len as u64);
        };
        let message = |index| content(key, index, size(key, index, max));
        match self.request {
            Kind::Echo => {
                let flow = Request::Echo.connect(endpoint, to).await?;
                let (mut send, mut recv) = flow.into_split();
                let sending = async {
                    for index in 0..count {
                        send.send(message(index)).await?;
                    }
                    send.finish();
                    Ok::<_, Failure>(())
                };
                let receiving = async {
                    let mut index = 0;
                    while let Some(echo) = recv.recv().await? {
                        if index == count {
                            return Err(Failure::Model(format!("flow {key}: more than {count} messages came back")));
                        }
                        verify(key, index, max, echo.as_slice()).map_err(Failure::Model)?;
                        note(echo.len());
                        index += 1;
                    }
                    if index < count {
                        return Err(Failure::Model(format!("flow {key}: {index} of {count} messages came back")));
                    }
                    Ok(())
                };
                tokio::try_join!(sending, receiving)?;
                closed(send.close().await)?;
            }
            Kind::Sink { pause } => {
                let mut flow = Request::Sink { key, max, pause }.connect(endpoint, to).await?;
                for index in 0..count {
                    let message = message(index);
                    note(message.len());
                    flow.send(message).await?;
                    if leave && 2 * index > count {
                        flow.abort();
                        return Ok(());
                    }
                }
                flow.finish();
                let sunk = count_of(&mut flow).await?;
                if sunk != count {
                    return Err(Failure::Model(format!("flow {key}: {sunk} of {count} messages arrived")));
                }
                closed(flow.close().await)?;
            }
            Kind::Source => {
                let mut flow = Request::Source { key, max, count }.connect(endpoint, to).await?;
                let mut index = 0;
                while let Some(message) = flow.recv().await? {
                    verify(key, index, max, message.as_slice()).map_err(Failure::Model)?;
                    note(message.len());
                    index += 1;
                    if leave && 2 * index > count {
                        return Ok(());
                    }
                }
                if index != count {
                    return Err(Failure::Model(format!("flow {key}: {index} of {count} messages came")));
                }
                closed(flow.close().await)?;
            }
            Kind::Hold => {
                // Nobody reads: it fills what it may, and is given up.
                let mut flow = Request::Hold.connect(endpoint, to).await?;
                for index in 0..count {
                    if tokio::time::timeout(Duration::from_millis(20), flow.send(message(index))).await.is_err() {
                        break;
                    }
                }
                flow.abort();
            }
        }
        Ok(())
    }
}

/// How a flow ended of which everything is known to have arrived. The peer, done, may have ended both directions before its
/// last acknowledgement came through: `close` then cannot know what we know, and says `BrokenPipe`.
fn closed(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Why a flow did not do what it was to do.
enum Failure {
    /// An error: excused if the other side suffered.
    Io(io::Error),
    /// Never excused.
    Model(String),
}

impl<E: Into<io::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Io(error.into())
    }
}
