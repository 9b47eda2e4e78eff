//! The serving side: one client at a time, so that nothing is measured but what it asks for.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::content;
use super::control::{Answer, Hello, Mode, Sample, Settings, decode, encode};
use super::options::{Running, asked_to_end};
use super::usage::Usage;
use crate::wire::{self, Job, Link, Listener, Rx, Side, Tx, Url, Wire};

/// How long a connection may say nothing before it says what it is.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(crate) struct Options {
    /// Where to listen: udp://127.0.0.1:7000, with several engines udp://127.0.0.1:7000?engines=4; port 0 takes any free one. Rivals: tcp, tcp+spin, udp+spin, quic, uds
    url: Url,

    /// End after the first client
    #[arg(long)]
    once: bool,

    /// Flows that a Machnet endpoint has room for
    #[arg(long, value_name = "N", default_value_t = 1 << 16)]
    max_flows: usize,

    #[command(flatten)]
    running: Running,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let setup = options.running.setup(&options.url, options.max_flows)?;
    #[cfg(feature = "dpdk")]
    if options.url.scheme.is_bare() {
        options.running.pin()?;
        super::raw::serve(&options.url, options.once)?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = options.running.runtime()?;
    let serving = wire::over(Serve(options), &options.url, &setup, Side::Server);
    runtime.block_on(async {
        tokio::select! {
            result = serving => result,
            () = asked_to_end() => Ok(()),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

struct Serve<'a>(&'a Options);

impl Job for Serve<'_> {
    type Output = ();

    async fn run<W: Wire>(self, wire: W) -> anyhow::Result<()> {
        let Options { url, once, running, .. } = self.0;
        let mut listener = wire.listen().await.with_context(|| format!("cannot listen at {url}"))?;
        let mut out = io::stdout();
        writeln!(out, "listening on {}", listener.url())?;
        out.flush()?;

        let max_size = wire.max_size();
        let sessions = AtomicU64::new(u64::from(std::process::id()) << 32);
        let server = Arc::new(Server { wire, session: Mutex::default(), sessions, ended: Notify::new() });
        let about = running.describe(url);
        // A task of its own: the runtime polls the outermost future a little later than its tasks.
        let accepting = tokio::spawn({
            let server = Arc::clone(&server);
            async move {
                loop {
                    let link = listener.accept().await?;
                    if server.measures_connects() {
                        drop(link);
                        continue;
                    }
                    tokio::spawn(Arc::clone(&server).serve(link, max_size, about.clone()));
                }
            }
        });
        let result: io::Result<()> = tokio::select! {
            result = accepting => result?,
            () = server.ended.notified(), if *once => Ok(()),
        };
        result.context("cannot accept")?;
        // What was sent last is delivered; for a client that is gone nobody waits long.
        let _ = tokio::time::timeout(running.timeout, server.wire.shut_down()).await;
        Ok(())
    }
}

struct Server<W: Wire> {
    wire: W,
    session: Mutex<Option<Session<W>>>,
    /// How many there were, in this process and, so that they are told apart, in those before it.
    sessions: AtomicU64,
    /// Told of each session's end.
    ended: Notify,
}

/// A client's measurement.
struct Session<W: Wire> {
    id: u64,
    settings: Settings,
    /// What serves its flows.
    tasks: Vec<AbortHandle>,
    /// Idle flows, that nothing serves.
    idle: Vec<Link<W>>,
    bad: Arc<AtomicU64>,
}

impl<W: Wire> Server<W> {
    fn session(&self) -> MutexGuard<'_, Option<Session<W>>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn measures_connects(&self) -> bool {
        self.session().as_ref().is_some_and(|session| session.settings.mode == Mode::Connect)
    }

    /// Serves one connection, whatever it turns out to be.
    async fn serve(self: Arc<Self>, link: Link<W>, max_size: usize, about: Value) {
        if let Err(error) = self.try_serve(link, max_size, about).await {
            eprintln!("{error:#}");
        }
    }

    async fn try_serve(&self, (mut tx, mut rx): Link<W>, max_size: usize, about: Value) -> anyhow::Result<()> {
        let Ok(first) = tokio::time::timeout(PATIENCE, rx.recv()).await else { return Ok(()) };
        let Some(first) = first? else { return Ok(()) };
        match decode(first.as_ref(), "client") {
            Ok(Hello::Join { session, flow }) => self.join(session, flow, (tx, rx)).await,
            Ok(Hello::Measure(settings)) => match self.begin(&settings, max_size) {
                Ok(id) => {
                    // Ends the session whatever happens to this task.
                    let _session = EndOnDrop(self, id);
                    tx.send(encode(&Answer::Session { id, server: about })?.into()).await?;
                    tx.flush().await?;
                    self.control(tx, rx).await
                }
                Err(refusal) => refuse::<W>(tx, rx, refusal).await,
            },
            // The client is told in words of this version: a newer one may understand them.
            Err(error) => refuse::<W>(tx, rx, format!("{error:#}")).await,
        }
    }

    /// Begins a session; or says why not.
    fn begin(&self, settings: &Settings, max_size: usize) -> Result<u64, String> {
        let mut session = self.session();
        if session.is_some() {
            return Err("it is busy with another client".to_owned());
        }
        if settings.size > max_size {
            return Err(format!("messages of {} bytes; it takes at most {max_size}", settings.size));
        }
        let id = self.sessions.fetch_add(1, Ordering::Relaxed);
        *session =
            Some(Session { id, settings: settings.clone(), tasks: Vec::new(), idle: Vec::new(), bad: Arc::default() });
        Ok(id)
    }

    /// Says what was used so far, whenever asked, until the client ends.
    async fn control(&self, mut tx: W::Tx, mut rx: W::Rx) -> anyhow::Result<()> {
        rx.calm();
        // Whether it ended in order or is gone makes no difference.
        while let Ok(Some(_asked)) = rx.recv().await {
            let bad = self.session().as_ref().map_or(0, |session| session.bad.load(Ordering::Relaxed));
            let sample = Sample { usage: Usage::now(), bad, facts: self.wire.facts() };
            tx.send(encode(&sample)?.into()).await?;
            tx.flush().await?;
        }
        let _ = tx.close().await;
        Ok(())
    }

    /// Adds a flow to its session.
    async fn join(&self, id: u64, flow: usize, (mut tx, rx): Link<W>) -> anyhow::Result<()> {
        tx.send(Bytes::new().into()).await?;
        tx.flush().await?;
        let mut session = self.session();
        // None: it is over meanwhile, and the flow with it.
        let Some(session) = session.as_mut().filter(|session| session.id == id) else { return Ok(()) };
        let Settings { mode, verify, .. } = session.settings;
        let bad = Arc::clone(&session.bad);
        let task = match mode {
            // The first one echoes all the same: it is used to warm up.
            Mode::Idle if flow > 0 => {
                session.idle.push((tx, rx));
                return Ok(());
            }
            Mode::Stream => tokio::spawn(async move { drop(sink::<W>(tx, rx, verify.then_some(flow), &bad).await) }),
            Mode::Rr | Mode::Connect | Mode::Idle => tokio::spawn(async move { drop(echo::<W>(tx, rx).await) }),
        };
        session.tasks.push(task.abort_handle());
        Ok(())
    }
}

struct EndOnDrop<'a, W: Wire>(&'a Server<W>, u64);

impl<W: Wire> Drop for EndOnDrop<'_, W> {
    fn drop(&mut self) {
        let session = self.0.session().take_if(|session| session.id == self.1);
        for task in session.into_iter().flat_map(|session| session.tasks) {
            task.abort();
        }
        self.0.ended.notify_one();
    }
}

/// Tells a client why it is not served, and waits until it has gone.
async fn refuse<W: Wire>(mut tx: W::Tx, mut rx: W::Rx, why: String) -> anyhow::Result<()> {
    tx.send(encode(&Answer::Error(why))?.into()).await?;
    tx.close().await?;
    let gone = async { while let Ok(Some(_)) = rx.recv().await {} };
    // Whoever stays longer is not waited for.
    let _ = tokio::time::timeout(PATIENCE, gone).await;
    Ok(())
}

/// Sends everything back until the client ends.
async fn echo<W: Wire>(mut tx: W::Tx, mut rx: W::Rx) -> io::Result<()> {
    loop {
        if !rx.is_ready() {
            tx.flush().await?;
        }
        match rx.recv().await? {
            Some(message) => tx.send(message).await?,
            None => return tx.close().await,
        }
    }
}

/// Counts messages; an empty one asks how many there were since the last.
async fn sink<W: Wire>(mut tx: W::Tx, mut rx: W::Rx, verify: Option<usize>, bad: &AtomicU64) -> io::Result<()> {
    let (mut count, mut sequence) = (0_u64, 0);
    while let Some(message) = rx.recv().await? {
        let message = message.as_ref();
        if message.is_empty() {
            tx.send(Bytes::copy_from_slice(&count.to_be_bytes()).into()).await?;
            tx.flush().await?;
            count = 0;
            continue;
        }
        if verify.is_some_and(|flow| !content::is_right(message, flow, sequence)) {
            bad.fetch_add(1, Ordering::Relaxed);
        }
        sequence += 1;
        count += 1;
    }
    tx.close().await
}
