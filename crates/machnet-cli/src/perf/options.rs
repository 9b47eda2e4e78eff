//! Options of both sides: where things run, and how they wait.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use machnet::{Congestion, IdlePolicy, ParkHook, Placement};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::{Value, json};

use crate::args::{self, Cores};
use crate::wire::{Scheme, Setup, Url};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Place {
    /// A thread of its own
    Thread,
    /// A task of the runtime
    Inline,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Running {
    /// Who polls the engine of a Machnet endpoint [default: thread]
    #[arg(long, value_enum)]
    placement: Option<Place>,

    /// How long an engine without work (and a runtime with the park hook) spins, microseconds [default: 0]
    #[arg(long, value_name = "US")]
    spin_us: Option<u64>,

    /// How long it yields after that, before it sleeps, microseconds [default: 100]
    #[arg(long, value_name = "US")]
    yield_us: Option<u64>,

    /// Never sleep: for a core of its own
    #[arg(long, conflicts_with_all = ["spin_us", "yield_us"])]
    spin: bool,

    /// Let the runtime wait awake for its flows: no system call wakes it
    #[arg(long)]
    park_hook: bool,

    /// Cores: the first for the runtime, the second (or the same) for the engine's thread
    #[arg(long, value_name = "CORES", value_parser = args::cores)]
    pin: Option<Cores>,

    /// The longest UDP payload of a Machnet endpoint, bytes [default: the library's]
    #[arg(long, value_name = "BYTES", value_parser = args::size)]
    max_payload: Option<usize>,

    /// How flows of a Machnet endpoint find out how much the path takes, in this side's sending direction: cubic, swift,
    /// or fixed:BYTES in flight, whatever is lost (not for networks that others use) [default: the library's]
    #[arg(long, value_name = "WHICH", value_parser = args::congestion)]
    congestion: Option<Congestion>,

    /// How long the other side may be silent
    #[arg(long, default_value = "5s", value_parser = args::positive_duration)]
    pub(crate) timeout: Duration,
}

impl Running {
    /// How endpoints are set up, with room for `flows`.
    pub(crate) fn setup(&self, url: &Url, flows: usize) -> anyhow::Result<Setup> {
        let only_machnet = [
            ("--placement", self.placement.is_some()),
            ("--spin-us", self.spin_us.is_some()),
            ("--yield-us", self.yield_us.is_some()),
            ("--spin", self.spin),
            ("--park-hook", self.park_hook),
            ("--max-payload", self.max_payload.is_some()),
            ("--congestion", self.congestion.is_some()),
        ];
        if let Some((option, _)) = only_machnet.iter().find(|(_, given)| *given && !url.scheme.is_machnet()) {
            bail!("{option} is for Machnet endpoints; {}:// has no engine", url.scheme.name());
        }
        let of_an_engine = [
            ("--placement", self.placement.is_some()),
            ("--yield-us", self.yield_us.is_some()),
            ("--spin", self.spin),
            ("--max-payload", self.max_payload.is_some()),
            ("--congestion", self.congestion.is_some()),
        ];
        if let Some((option, _)) = of_an_engine.iter().find(|(_, given)| *given && url.scheme == Scheme::Unix) {
            bail!(
                "{option} is for an engine of one's own; that of unix:// is the daemon's, and its configuration says how it works"
            );
        }
        let placement = match self.place() {
            Place::Thread => Placement::Thread,
            Place::Inline => Placement::Inline,
        };
        let flows = u32::try_from(flows).context("too many flows")?;
        let max_payload = self.max_payload.map(u32::try_from).transpose().context("--max-payload is too large")?;
        Ok(Setup {
            placement,
            idle: self.idle(),
            recv_spin: Duration::from_micros(self.spin_us.unwrap_or(0)),
            engine_core: self.engine_core(),
            bind: None,
            flows,
            max_flows: flows.max(1 << 16),
            max_payload,
            congestion: self.congestion,
            timeout: self.timeout,
        })
    }

    /// An inline engine has no thread of its own: it runs where its runtime does.
    fn engine_core(&self) -> Option<usize> {
        let cores = self.cores().filter(|_| self.place() == Place::Thread)?;
        cores.get(1).or(cores.first()).copied()
    }

    fn place(&self) -> Place {
        self.placement.unwrap_or(Place::Thread)
    }

    fn times(&self) -> (Duration, Duration) {
        let default = IdlePolicy::DEFAULT_YIELD;
        (Duration::from_micros(self.spin_us.unwrap_or(0)), self.yield_us.map_or(default, Duration::from_micros))
    }

    fn idle(&self) -> IdlePolicy {
        let (spin_for, yield_for) = self.times();
        match spin_for {
            _ if self.spin => IdlePolicy::Spin,
            Duration::ZERO if yield_for.is_zero() => IdlePolicy::Park,
            Duration::ZERO => IdlePolicy::YieldThenPark { yield_for },
            _ => IdlePolicy::Ladder { spin_for, yield_for },
        }
    }

    fn cores(&self) -> Option<&[usize]> {
        self.pin.as_ref().map(|Cores(cores)| cores.as_slice())
    }

    /// Pins this thread.
    pub(crate) fn pin(&self) -> anyhow::Result<()> {
        if let Some(&core) = self.cores().and_then(<[usize]>::first) {
            let mut only = CpuSet::new();
            only.set(core);
            sched_setaffinity(None, &only).with_context(|| format!("cannot run on core {core}"))?;
        }
        Ok(())
    }

    /// Pins this thread and makes its runtime.
    pub(crate) fn runtime(&self) -> anyhow::Result<tokio::runtime::Runtime> {
        self.pin()?;
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all();
        if self.park_hook {
            let (spin_for, yield_for) = self.times();
            builder.on_thread_park(ParkHook::new().spin_for(spin_for).yield_for(yield_for).build());
        }
        builder.build().context("cannot make a runtime")
    }

    /// For the report.
    pub(crate) fn describe(&self, url: &Url) -> Value {
        let machnet = url.scheme.is_machnet();
        json!({
            "placement": machnet.then(|| match self.place() { Place::Thread => "thread", Place::Inline => "inline" }),
            "idle": machnet.then(|| format!("{:?}", self.idle())),
            "park_hook": self.park_hook,
            "pinned_to": self.cores(),
            "max_payload": self.max_payload,
            "congestion": self.congestion.map(|congestion| format!("{congestion:?}")),
        })
    }
}

/// Resolves when somebody asks this process to end.
pub(crate) async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => if interrupted.is_err() { std::future::pending().await },
        _ = terminate.recv() => {}
    }
}
