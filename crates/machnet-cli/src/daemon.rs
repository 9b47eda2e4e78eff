//! `machnet daemon`: the sidecar that applications of this host share, until SIGTERM or SIGINT.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use machnet_daemon::{Config, Daemon};
use tokio::signal::unix::{SignalKind, signal};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The configuration; examples/machnet.toml shows all that it may say
    #[arg(long)]
    config: PathBuf,
    /// Only check the configuration
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let config = Config::load(&options.config)?;
    if options.check {
        let settings = &config.settings;
        let engines = match settings.engines {
            1 => "1 engine".to_owned(),
            many => format!("{many} engines"),
        };
        let (file, socket) = (options.config.display(), settings.socket.display());
        println!("{file}: good: {} at {socket}, {engines}", config.driver);
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    // Before anything can be interrupted half way.
    let (mut terminate, mut interrupt) = {
        let _entered = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let driver = config.driver.to_string();
    let daemon = Daemon::open(config).with_context(|| format!("cannot serve {driver}"))?;
    println!("serving {} at {}", daemon.home(), daemon.socket().display());
    let stopper = daemon.stopper();
    let (tell, mut told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || tell.send(daemon.join()));
    runtime.block_on(async {
        let mut asked = false;
        loop {
            tokio::select! {
                // Also if the engine ends by itself.
                result = &mut told => {
                    result.context("the daemon panicked")?.context("the daemon did not end in order")?;
                    return Ok(ExitCode::SUCCESS);
                }
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if std::mem::replace(&mut asked, true) {
                // A second time: it waits for nothing.
                return Ok(ExitCode::from(crate::INTERRUPTED));
            }
            stopper.stop();
        }
    })
}
