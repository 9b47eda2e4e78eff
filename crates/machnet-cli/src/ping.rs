//! `machnet ping`: is there a Machnet host, does somebody listen, how far is it.
//!
//! Each probe is a handshake: a flow is connected and ended again without a message, so whoever listens sees a flow that
//! ends at once, and no application is sent what it does not expect. `time` is what the application waited for the flow,
//! wake-ups of both its threads included; `rtt` is what the two engines took. An acknowledged message would tell less:
//! its acknowledgement may wait for company, 250 us by default.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use machnet::{Endpoint, Placement, Udp};

use crate::args;
use crate::perf::asked_to_end;
use crate::wire::Place;

#[derive(Args)]
pub(crate) struct Options {
    /// The host, and the UDP port that somebody listens at: `127.0.0.1:7000`, `[::1]:7000`, `server:7000`
    #[arg(value_name = "HOST:PORT", value_parser = Place::host)]
    to: Place,

    /// End after so many probes; without it, go on until interrupted
    #[arg(short, long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Time between probes
    #[arg(short, long, default_value = "1s", value_parser = args::duration)]
    interval: Duration,

    /// How long a probe waits for its answer
    #[arg(long, default_value = "1s", value_parser = args::positive_duration)]
    timeout: Duration,

    /// Only the summary
    #[arg(short, long)]
    quiet: bool,

    /// The local address to use
    #[arg(long, value_name = "IP")]
    bind: Option<IpAddr>,
}

/// As ping(8): success if anything was answered, 1 if nothing was; 2, by way of an error, for anything else.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let summary = runtime.block_on(options.ping())?;
    Ok(if summary.times.is_empty() { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

impl Options {
    async fn ping(&self) -> anyhow::Result<Summary> {
        let to = self.to.resolve().await?;
        let any = if to.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        let driver = Udp::bind((self.bind.unwrap_or(any), 0)).context("cannot send")?;
        // Its engine is this thread's: fewer wake-ups are measured.
        let endpoint = Endpoint::builder().driver(driver).placement(Placement::Inline).start()?;
        let mut out = io::stdout();
        if !self.quiet {
            writeln!(out, "machnet ping {} ({to}): handshakes", self.to)?;
        }
        let began = Instant::now();
        let mut summary = Summary::default();
        tokio::select! {
            result = self.probe(&endpoint, to, &mut summary) => result?,
            () = asked_to_end() => {}
        }
        write!(out, "{}", summary.text(&self.to, began.elapsed()))?;
        out.flush()?;
        // Tells the peer of the last flow's end, if it is there.
        let _ = tokio::time::timeout(self.timeout, endpoint.shutdown()).await;
        Ok(summary)
    }

    async fn probe(&self, endpoint: &Endpoint, to: SocketAddr, summary: &mut Summary) -> io::Result<()> {
        let mut ticks = tokio::time::interval(self.interval.max(Duration::from_micros(1)));
        for number in 1..=self.count.unwrap_or(u64::MAX) {
            ticks.tick().await;
            let began = Instant::now();
            let answer = tokio::time::timeout(self.timeout, endpoint.connect(to)).await;
            // Here: the one that is underway when the user has seen enough is not counted.
            summary.tried += 1;
            let text = match answer {
                Ok(Ok(flow)) => {
                    let time = began.elapsed();
                    summary.times.push(time);
                    let rtt = flow.rtt().map_or_else(String::new, |rtt| format!(" rtt={}", ms(rtt)));
                    drop(flow.close());
                    format!("from {to}: handshake={number} time={}{rtt}", ms(time))
                }
                Ok(Err(error)) => format!("from {to}: handshake={number} {error}"),
                Err(_) => format!("handshake={number}: no answer from {to} within {}", ms(self.timeout)),
            };
            if !self.quiet {
                let mut out = io::stdout();
                writeln!(out, "{text}")?;
                out.flush()?;
            }
        }
        Ok(())
    }
}

fn ms(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}

#[derive(Default)]
struct Summary {
    tried: u64,
    times: Vec<Duration>,
}

impl Summary {
    fn text(&self, to: &Place, total: Duration) -> String {
        let Self { tried, times } = self;
        let (answered, total) = (times.len(), ms(total));
        let lost = 100.0 * (*tried as f64 - answered as f64) / (*tried).max(1) as f64;
        let mut text = format!("\n--- {to} machnet ping statistics ---\n");
        let _ = writeln!(text, "{tried} handshakes, {answered} answered, {lost:.0}% failed, in {total}");
        let seconds = || times.iter().map(Duration::as_secs_f64);
        if let (Some(min), Some(max)) = (times.iter().min(), times.iter().max()) {
            let mean = seconds().sum::<f64>() / answered as f64;
            let deviation = (seconds().map(|time| (time - mean).powi(2)).sum::<f64>() / answered as f64).sqrt();
            let [min, mean, max, deviation] =
                [min.as_secs_f64(), mean, max.as_secs_f64(), deviation].map(|s| format!("{:.3}", s * 1e3));
            let _ = writeln!(text, "time min/avg/max/mdev = {min}/{mean}/{max}/{deviation} ms");
        }
        text
    }
}
