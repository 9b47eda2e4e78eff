//! The measuring side: connect, warm up, measure, report.

use std::io::{self, IsTerminal, Write};
use std::net::IpAddr;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use tokio::task::JoinSet;

use super::control::{Control, Hello, Mode, Sample, Settings, encode};
use super::host;
use super::load::{End, Flow, Phase, Plan, come_and_go, wait};
use super::options::{Running, asked_to_end};
use super::report::{self, Report, SideReport};
use super::usage::Usage;
use crate::args::{self, Limit};
use crate::wire::{self, Job, Rx, Side, Tx, Url, Wire};

/// Flows that are opened at once.
const OPENING: usize = 64;
/// Messages that pass all packet buffers, of which there are some thousand.
const TOUCHING: u64 = 60_000;
/// More flows than anybody has memory for.
const MOST_FLOWS: usize = 1 << 20;

#[derive(Args)]
pub(crate) struct Options {
    /// Where the server listens: what it printed
    url: Url,

    /// What to measure
    #[arg(long, value_enum, default_value_t = Mode::Rr)]
    mode: Mode,

    /// Bytes of each message
    #[arg(long, default_value = "1KiB", value_parser = args::size)]
    size: usize,

    /// Requests underway on each flow; with --mode connect, connections underway
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "rate")]
    outstanding: usize,

    /// Flows at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    flows: usize,

    /// Requests per second, of all flows together, sent whether or not replies come (an open loop): latencies count from
    /// when a request was due
    #[arg(long, value_name = "PER_S", value_parser = args::rate)]
    rate: Option<f64>,

    /// How long [default: 3s]
    #[arg(long, value_parser = args::positive_duration, conflicts_with = "count")]
    duration: Option<Duration>,

    /// How many operations instead, of all flows together
    #[arg(long, value_name = "N")]
    count: Option<u64>,

    /// What is done before, and not counted: a time or a number of operations
    #[arg(long, value_name = "TIME|N", default_value = "200ms", value_parser = args::limit)]
    warmup: Limit,

    /// Check every byte
    #[arg(long)]
    verify: bool,

    /// One JSON object instead of the table
    #[arg(long, conflicts_with = "csv")]
    json: bool,

    /// A line of names and a line of values instead of the table
    #[arg(long)]
    csv: bool,

    /// The local address to use
    #[arg(long, value_name = "IP")]
    bind: Option<IpAddr>,

    #[command(flatten)]
    running: Running,
}

impl Options {
    fn limit(&self) -> Limit {
        self.count.map_or(Limit::Time(self.duration.unwrap_or(Duration::from_secs(3))), Limit::Count)
    }

    fn check(&self) -> anyhow::Result<()> {
        let scheme = self.url.scheme;
        if self.outstanding == 0 || self.flows == 0 || self.count == Some(0) {
            bail!("--outstanding, --flows and --count must be at least 1");
        }
        if self.flows > MOST_FLOWS || self.outstanding > MOST_FLOWS {
            bail!("--flows and --outstanding can be {MOST_FLOWS} at most");
        }
        if self.mode == Mode::Stream && self.size == 0 {
            bail!("--mode stream needs messages of at least 1 byte");
        }
        if self.rate.is_some() && self.mode != Mode::Rr {
            bail!("--rate is for --mode rr");
        }
        if scheme.is_bare() && (self.flows > 1 || self.rate.is_some() || self.verify) {
            bail!("{}:// has no flows: --flows, --rate and --verify are not for it", scheme.name());
        }
        if scheme.loses() && self.mode != Mode::Rr {
            bail!("{}:// repeats nothing that is lost: it can do --mode rr only", scheme.name());
        }
        Ok(())
    }

    /// What a report says of the measurement itself, at its end.
    fn report(&self) -> Report {
        Report {
            machnet: env!("CARGO_PKG_VERSION"),
            url: self.url.to_string(),
            scheme: self.url.scheme.name(),
            mode: self.mode,
            size: self.size,
            outstanding: self.outstanding,
            flows: self.flows,
            offered_rate: self.rate,
            verified: self.verify,
            warm_up: format!("{:?}", self.warmup),
            host: host::facts(),
            load_after: host::load(),
            at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            ..Report::default()
        }
    }

    fn plan(&self) -> Plan {
        let Self { size, outstanding, flows, rate, verify, .. } = *self;
        Plan { size, outstanding, flows, rate, verify }
    }
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    options.check()?;
    let mut setup = options.running.setup(&options.url, options.flows + 1024)?;
    setup.bind = options.bind;
    let report = if options.url.scheme.is_bare() {
        bare(options)?
    } else {
        let runtime = options.running.runtime()?;
        runtime.block_on(wire::over(Measure(options), &options.url, &setup, Side::Client))?
    };
    let text = match (options.json, options.csv) {
        (true, _) => report.json()?,
        (_, true) => report.csv()?,
        _ => report.table().trim_end().to_owned(),
    };
    writeln!(io::stdout(), "{text}")?;
    if let (Some(error), true) = (&report.first_error, options.json || options.csv) {
        eprintln!("{} errors; the first: {error}", report.errors);
    }
    Ok(match report {
        Report { interrupted: true, .. } => ExitCode::from(crate::INTERRUPTED),
        Report { errors: 0, .. } => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Measures frames, not messages.
#[cfg(feature = "dpdk")]
fn bare(options: &Options) -> anyhow::Result<Report> {
    let Options { url, mode, size, outstanding, running, .. } = options;
    running.pin()?;
    let load_before = host::load();
    let load = super::raw::Load { url, mode: *mode, size: *size, outstanding: *outstanding, timeout: running.timeout };
    let found =
        super::raw::measure(&load, options.warmup, options.limit()).with_context(|| format!("cannot measure {url}"))?;
    let mut report = Report { load_before, ..options.report() };
    report.client.counts.insert("frames_lost".to_owned(), found.lost.into());
    report.found(&found.recorder.recorded(), found.took.as_secs_f64());
    Ok(report)
}

#[cfg(not(feature = "dpdk"))]
fn bare(options: &Options) -> anyhow::Result<Report> {
    bail!("{} is not in this build", options.url)
}

struct Measure<'a>(&'a Options);

impl Job for Measure<'_> {
    type Output = Report;

    async fn run<W: Wire>(self, wire: W) -> anyhow::Result<Report> {
        let options = self.0;
        if options.size > wire.max_size() {
            let most = wire.max_size();
            bail!("--size {}: {}:// takes {most} bytes at most", options.size, options.url.scheme.name());
        }
        let mut asked_to_end = pin!(asked_to_end());
        let wire = Arc::new(wire);
        let opening = tokio::select! {
            opened = open(options, &wire) => opened.with_context(|| format!("cannot measure {}", options.url)),
            () = &mut asked_to_end => Err(crate::Interrupted.into()),
        };
        let report = match opening {
            Ok(opened) => opened.measure(options, &wire, &mut asked_to_end).await,
            Err(error) => Err(error),
        };
        // Also of what failed: a server that is not told waits until it believes its client dead. The peer may be gone: whoever
        // measured does not wait for it, but for many flows to end.
        let patience = Duration::from_secs(1) + Duration::from_micros(100) * options.flows as u32;
        let _ = tokio::time::timeout(patience, wire.shut_down()).await;
        report
    }
}

/// A session with the server, and its flows.
struct Opened<W: Wire> {
    control: Control<W>,
    server_runs: Value,
    flows: Vec<Flow<W>>,
    /// How long it took to open them, s.
    opening_s: f64,
    /// Memory before and after, of client and server.
    client_rss: (u64, u64),
    server_rss: (u64, u64),
}

async fn open<W: Wire>(options: &Options, wire: &Arc<W>) -> anyhow::Result<Opened<W>> {
    let settings = Settings { mode: options.mode, size: options.size, verify: options.verify };
    let (mut control, session, server_runs) =
        within(options.running.timeout, Control::open(wire.as_ref(), &settings)).await?;
    if options.mode == Mode::Idle {
        within(options.running.timeout, touch_frames(wire, session)).await?;
    }
    let server_before = within(options.running.timeout, control.sample()).await?;
    let client_before = Usage::now();
    let began = tokio::time::Instant::now();
    let wanted = if options.mode == Mode::Connect { 0 } else { options.flows };
    tracing::debug!(wanted, "opening flows");
    let flows = stream::iter(0..wanted)
        .map(|index| within(options.running.timeout, join(wire, session, index)))
        .buffer_unordered(OPENING)
        .try_collect()
        .await
        .context("opening the flows")?;
    let opening_s = began.elapsed().as_secs_f64();
    let server_after = within(options.running.timeout, control.sample()).await?;
    Ok(Opened {
        control,
        server_runs,
        flows,
        opening_s,
        client_rss: (client_before.rss, Usage::now().rss),
        server_rss: (server_before.usage.rss, server_after.usage.rss),
    })
}

async fn within<T>(limit: Duration, what: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    match tokio::time::timeout(limit, what).await {
        Ok(result) => result,
        Err(_) => bail!("no answer within {:.1} s", limit.as_secs_f64()),
    }
}

/// Opens a flow that belongs to the session.
async fn join<W: Wire>(wire: &Arc<W>, session: u64, index: usize) -> anyhow::Result<Flow<W>> {
    let (mut tx, mut rx) = wire.connect().await?;
    tx.send(encode(&Hello::Join { session, flow: index })?.into()).await?;
    tx.flush().await?;
    match rx.recv().await? {
        Some(welcome) if welcome.as_ref().is_empty() => Ok(Flow { index, tx, rx, sequence: 0 }),
        _ => bail!("the server does not take flow {index}"),
    }
}

/// Uses the packet buffers of both sides once: they are memory that has nothing to do with how many flows there are.
async fn touch_frames<W: Wire>(wire: &Arc<W>, session: u64) -> anyhow::Result<()> {
    let plan = Plan { size: 0, outstanding: 1024, flows: 1, rate: None, verify: false };
    let phase = Phase::new(&plan, Limit::Count(TOUCHING));
    let mut flow = join(wire, session, 0).await?;
    flow.round_trips(&phase, &Bytes::new()).await;
    Ok(flow.tx.close().await?)
}

impl<W: Wire> Opened<W> {
    async fn measure(
        mut self,
        options: &Options,
        wire: &Arc<W>,
        interrupted: &mut (impl Future<Output = ()> + Unpin),
    ) -> anyhow::Result<Report> {
        let plan = options.plan();
        let load_before = host::load();
        if options.mode != Mode::Idle {
            let warm_up = Phase::new(&plan, options.warmup);
            let end = self.phase(options, wire, &warm_up, interrupted, |_| ()).await;
            let found = warm_up.recorder.recorded();
            if end == End::Interrupted {
                bail!(crate::Interrupted);
            }
            if let (Some(error), 0) = (found.first_error, found.operations) {
                bail!("the warm-up failed: {error}");
            }
        }
        let server_before = within(options.running.timeout, self.control.sample()).await.context("before measuring")?;
        let (client_before, counts_before) = (Usage::now(), wire.facts());
        let phase = Phase::new(&plan, options.limit());
        let bar = progress_bar(options.limit());
        let end = self.phase(options, wire, &phase, interrupted, |done| show(&bar, &phase, done)).await;
        let seconds = phase.began.elapsed().as_secs_f64();
        bar.finish_and_clear();
        let client_used = Usage::now().since(&client_before);
        let server_after = within(options.running.timeout, self.control.sample()).await;
        match &server_after {
            Ok(sample) if sample.bad > server_before.bad => {
                phase.recorder.failed(sample.bad - server_before.bad, "messages arrived other than they were sent");
            }
            Ok(_) => {}
            Err(error) => phase.recorder.failed(1, format!("the server is gone: {error:#}")),
        }

        let found = phase.recorder.recorded();
        let side =
            |used: &Usage, rss| SideReport::new(used, found.operations, seconds, self.flows_opened(options), rss);
        let mut client = side(&client_used, self.client_rss);
        client.runs = options.running.describe(&options.url);
        client.counts = wire.facts();
        let server = server_after.ok().map(|Sample { usage, facts, .. }| {
            let mut server = side(&usage.since(&server_before.usage), self.server_rss);
            server.runs = self.server_runs.clone();
            server.counts = facts;
            server
        });
        let handover_ratio = server.as_ref().and_then(|server| {
            report::handover_ratio([&counts_before, &server_before.facts], [&client.counts, &server.counts])
        });
        let total = |server: &SideReport| Some(client.cpu_us_per_op? + server.cpu_us_per_op?);
        let mut report = Report {
            cpu_us_per_op: server.as_ref().and_then(total),
            interrupted: end == End::Interrupted,
            client,
            server,
            opening_s: self.opening_s,
            handover_ratio,
            load_before,
            ..options.report()
        };
        report.found(&found, seconds);
        // The server may be gone, which was said.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.control.close()).await;
        Ok(report)
    }

    fn flows_opened(&self, options: &Options) -> usize {
        if options.mode == Mode::Connect { 0 } else { options.flows }
    }

    /// Runs one phase on all flows.
    async fn phase(
        &mut self,
        options: &Options,
        wire: &Arc<W>,
        phase: &Arc<Phase>,
        interrupted: &mut (impl Future<Output = ()> + Unpin),
        tick: impl FnMut(u64),
    ) -> End {
        // Sparse requests are far apart.
        let interval = options.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64((1.0 / rate).min(1e6)));
        let stall = (options.mode != Mode::Idle).then_some(options.running.timeout.saturating_add(interval));
        let mode = options.mode;
        match mode {
            Mode::Rr | Mode::Stream => {
                let payload = Bytes::from_iter((0..options.size).map(|i| (i % 251) as u8));
                let mut workers = JoinSet::new();
                for mut flow in self.flows.drain(..) {
                    let (phase, payload) = (Arc::clone(phase), payload.clone());
                    workers.spawn(async move {
                        let works = match mode {
                            Mode::Stream => flow.one_way(&phase, &payload).await,
                            _ => flow.round_trips(&phase, &payload).await,
                        };
                        works.then_some(flow)
                    });
                }
                let (flows, end) = wait(workers, phase, stall, interrupted, tick).await;
                self.flows = flows;
                end
            }
            Mode::Connect => {
                let mut workers = JoinSet::new();
                for index in 0..options.outstanding {
                    let (phase, wire) = (Arc::clone(phase), Arc::clone(wire));
                    workers.spawn(async move {
                        come_and_go(wire.as_ref(), index, &phase).await;
                        None::<()>
                    });
                }
                wait(workers, phase, stall, interrupted, tick).await.1
            }
            Mode::Idle => {
                let mut workers = JoinSet::new();
                let idle = Arc::clone(phase);
                workers.spawn(async move {
                    Flow::<W>::idle(&idle).await;
                    None::<()>
                });
                wait(workers, phase, stall, interrupted, tick).await.1
            }
        }
    }
}

/// Shown only on a terminal.
fn progress_bar(limit: Limit) -> ProgressBar {
    let length = match limit {
        Limit::Time(time) => u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        Limit::Count(count) => count,
    };
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{bar:32} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(length), target).with_style(style);
    bar.set_message("measuring");
    bar
}

fn show(bar: &ProgressBar, phase: &Phase, done: u64) {
    if done > 0 {
        tracing::debug!(done, "measured so far");
    }
    if bar.is_hidden() {
        return;
    }
    let elapsed = phase.began.elapsed();
    bar.set_position(match phase.limit {
        Limit::Time(_) => u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        Limit::Count(_) => done,
    });
    bar.set_message(format!("{done} done, {:.0} per second", done as f64 / elapsed.as_secs_f64()));
}
