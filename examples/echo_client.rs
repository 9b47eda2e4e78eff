//! Sends messages to an `echo_server` and checks that each comes back: all of them, in order, unchanged.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::error::Error;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use machnet::{Endpoint, RecvHalf, SendHalf, Udp};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use siphasher::sip::SipHasher13;
use tokio::sync::{Semaphore, mpsc};

/// Sends messages of random content and log-uniform size to an echo server, several at once, and compares what comes
/// back. Fails on any difference.
#[derive(Debug, Parser)]
struct Args {
    /// The server: address and port.
    server: SocketAddr,

    /// Address of this host to send from, with UDP sockets. Default: the endpoint that MACHNET_ENDPOINT names; without it, any
    /// of the server's family.
    #[arg(long)]
    bind: Option<IpAddr>,

    /// Number of messages.
    #[arg(long, default_value_t = 10_000)]
    messages: u64,

    /// Largest message, bytes. Sizes are log-uniform from 0 to this.
    #[arg(long, default_value_t = 1 << 20)]
    max_size: usize,

    /// Seed of sizes and content.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Messages underway at once.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    outstanding: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let endpoint = match args.bind {
        Some(ip) => Endpoint::builder().driver(Udp::bind((ip, 0))?).start()?,
        None => Endpoint::default_for(args.server.ip())?,
    };
    let flow = endpoint.connect(args.server).await?;
    if args.max_size > flow.max_message_size() {
        let limit = flow.max_message_size();
        return Err(format!("--max-size {} is over the flow's limit of {limit} bytes", args.max_size).into());
    }
    println!("connected {} to {}", flow.local_addr(), flow.peer_addr());

    let began = Instant::now();
    let (mut send, mut recv) = flow.into_split();
    let permits = Arc::new(Semaphore::new(args.outstanding as usize));
    let (tell, told) = mpsc::unbounded_channel();
    let ((), report) =
        tokio::try_join!(produce(&args, &mut send, &permits, &tell), check(args.messages, &mut recv, &permits, told))?;
    let elapsed = began.elapsed();
    let stats = send.stats();
    // The server has finished, so it has our FIN; this is only to be sure.
    send.close().await?;
    report.print(elapsed, args.outstanding);
    println!(
        "packets: {} sent, {} declared lost, {} received",
        stats.packets_sent, stats.packets_lost, stats.packets_received
    );
    Ok(endpoint.shutdown().await?)
}

/// What a message was, told to the side that expects it back.
struct Sent {
    hash: u64,
    len: usize,
    at: Instant,
}

async fn produce(
    args: &Args,
    send: &mut SendHalf,
    permits: &Semaphore,
    tell: &mpsc::UnboundedSender<Sent>,
) -> Result<(), Box<dyn Error>> {
    let mut random = ChaCha8Rng::seed_from_u64(args.seed);
    for _ in 0..args.messages {
        permits.acquire().await?.forget();
        let mut message = vec![0; log_uniform(&mut random, args.max_size)];
        random.fill_bytes(&mut message);
        tell.send(Sent { hash: hash(&message), len: message.len(), at: Instant::now() })?;
        send.send(message).await?;
    }
    send.finish();
    Ok(())
}

/// From 0 to `max`, such that each power of two is about as likely as any other.
fn log_uniform(random: &mut ChaCha8Rng, max: usize) -> usize {
    let unit = random.next_u32() as f64 / (f64::from(u32::MAX) + 1.0);
    let size = (unit * (max as f64 + 2.0).ln()).exp() as usize;
    (size - 1).min(max)
}

fn hash(message: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(message);
    hasher.finish()
}

struct Report {
    messages: u64,
    bytes: u64,
    round_trips: Histogram<u64>,
}

async fn check(
    expected: u64,
    recv: &mut RecvHalf,
    permits: &Semaphore,
    mut told: mpsc::UnboundedReceiver<Sent>,
) -> Result<Report, Box<dyn Error>> {
    let mut report = Report { messages: 0, bytes: 0, round_trips: Histogram::new(3)? };
    while let Some(message) = recv.recv().await? {
        let number = report.messages;
        let sent = told.try_recv().map_err(|_| format!("message {number} came, but was never sent"))?;
        if message.len() != sent.len || hash(message.as_slice()) != sent.hash {
            let (len, was) = (message.len(), sent.len);
            return Err(format!("message {number} of {was} bytes came back different, {len} bytes long").into());
        }
        report.round_trips.record(u64::try_from(sent.at.elapsed().as_nanos())?)?;
        report.messages += 1;
        report.bytes += message.len() as u64;
        permits.add_permits(1);
    }
    if report.messages != expected {
        return Err(format!("{} of {expected} messages came back", report.messages).into());
    }
    Ok(report)
}

impl Report {
    fn print(&self, elapsed: Duration, outstanding: u32) {
        let seconds = elapsed.as_secs_f64();
        let us = |quantile| self.round_trips.value_at_quantile(quantile) as f64 / 1000.0;
        println!("{} messages, {} bytes each way: all came back, in order, unchanged", self.messages, self.bytes);
        println!(
            "{seconds:.3} s, {:.0} messages/s, {:.1} MB/s each way",
            self.messages as f64 / seconds,
            self.bytes as f64 / seconds / 1e6
        );
        println!(
            "round trip with up to {outstanding} outstanding, us: p50 {:.1}, p99 {:.1}, p99.9 {:.1}",
            us(0.5),
            us(0.99),
            us(0.999)
        );
    }
}
