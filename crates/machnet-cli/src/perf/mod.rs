//! `machnet perf`: what a transport does, measured between two processes.
//!
//! ```text
//! server.rs   answers one client at a time
//! client.rs   connects, warms up, measures, reports
//! load.rs     what each flow does in a phase
//! window.rs   what of a flow is underway, without wakers
//! recorder.rs what all flows measured together
//! pace.rs     waiting for the moment of an open loop's next request
//! control.rs  what client and server tell each other first, versioned
//! usage.rs    CPU time and memory of this process
//! host.rs     what machine it was, and how busy
//! report.rs   table, JSON, CSV
//! content.rs  messages whose every byte can be checked
//! raw.rs      bare frames on a DPDK wire, beside all this
//! ```
//!
//! Both sides run everything of theirs in one thread, a current-thread tokio runtime, besides the engine's thread if
//! there is one. Latencies of an open loop count from the moment a request was due, not from when it was sent.

mod client;
mod content;
mod control;
mod host;
mod load;
mod options;
mod pace;
#[cfg(feature = "dpdk")]
mod raw;
mod recorder;
mod report;
mod server;
mod usage;
mod window;

use std::process::ExitCode;

use clap::Subcommand;

pub(crate) use options::asked_to_end;

#[derive(Subcommand)]
pub(crate) enum Perf {
    /// Serve measurements, of one client at a time
    Server(server::Options),
    /// Measure against a server
    Client(client::Options),
}

impl Perf {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Server(options) => server::run(&options),
            Self::Client(options) => client::run(&options),
        }
    }
}
