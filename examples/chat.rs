//! A chat room: what one says, all others read. Flows as `Stream` and `Sink`, and `select!`.
//!
//! ```sh
//! cargo run --example chat -- serve            # one terminal
//! cargo run --example chat -- join --name ann  # others
//! cargo run --example chat -- demo             # all of it in one process, checked
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::error::Error;
use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use futures::{SinkExt, StreamExt};
use machnet::{Flow, Listener, Message};
use tokio::sync::{broadcast, mpsc};

/// A chat room over Machnet. `MACHNET_ENDPOINT` chooses the endpoint, for example `udp://192.0.2.1`.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Opens a room.
    Serve {
        /// Address and UDP port to listen at.
        #[arg(default_value = "127.0.0.1:9001")]
        at: SocketAddr,
    },
    /// Joins a room: sends the lines of standard input, prints what others say. Ends with the input.
    Join {
        /// The room: address and port.
        #[arg(default_value = "127.0.0.1:9001")]
        room: SocketAddr,
        /// Name to speak under.
        #[arg(long, default_value = "somebody")]
        name: String,
    },
    /// A room and its guests in one process: checks that all read what each says, in order.
    Demo {
        /// Number of guests.
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=100))]
        guests: u32,
        /// Lines that each of them says.
        #[arg(long, default_value_t = 25)]
        lines: u32,
    },
}

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    let done = match Args::parse().role {
        Role::Serve { at } => serve(at).await,
        Role::Join { room, name } => join(room, &name).await,
        Role::Demo { guests, lines } => demo(guests, lines).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(at: SocketAddr) -> Result<()> {
    let listener = Listener::bind(at).await?;
    println!("open at {}", listener.local_addr());
    open_room(listener).await
}

/// Lines that a guest may be behind the others before it misses some.
const BEHIND: usize = 1 << 14;

/// A line, and who said it, by number: a guest does not read itself. (Flows of one endpoint share its address.)
type Said = (u64, Message);

async fn open_room(mut listener: Listener) -> Result<()> {
    let (say, _) = broadcast::channel(BEHIND);
    let mut incoming = listener.incoming().zip(futures::stream::iter(0..));
    while let Some((flow, own)) = incoming.next().await {
        let flow = flow?;
        // Subscribed before the next guest is let in.
        let (peer, say, hear) = (flow.peer_addr(), say.clone(), say.subscribe());
        tokio::spawn(async move {
            println!("{peer} came");
            match seat(flow, own, &say, hear).await {
                Ok(()) => println!("{peer} left"),
                Err(error) => println!("{peer} is gone: {error}"),
            }
        });
    }
    Ok(())
}

/// One guest: what it says goes to all, what others say to it, until it leaves.
async fn seat(flow: Flow, own: u64, say: &broadcast::Sender<Said>, mut hear: broadcast::Receiver<Said>) -> Result<()> {
    let (mut sink, mut stream) = flow.into_messages().split();
    loop {
        // All of these may be dropped at any await: nothing is lost by it.
        tokio::select! {
            line = stream.next() => match line {
                Some(line) => drop(say.send((own, line?))),
                None => break,
            },
            said = hear.recv() => match said {
                // Slow guests hold this task up, and only this one: at worst they miss lines.
                Ok((who, line)) if who != own => sink.send(line).await?,
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(lines)) => sink.send(format!("({lines} lines missed)").into()).await?,
                Err(broadcast::error::RecvError::Closed) => break,
            },
        }
    }
    // What was said before this guest left is told to it.
    while let Ok((who, line)) = hear.try_recv() {
        if who != own {
            sink.send(line).await?;
        }
    }
    Ok(sink.close().await?)
}

async fn join(room: SocketAddr, name: &str) -> Result<()> {
    let flow = Flow::connect(room).await?;
    println!("joined {room} as {name}; end with ^D");
    let (mut sink, mut stream) = flow.into_messages().split();
    sink.send(format!("{name} joins").into()).await?;
    let mut input = lines_of_stdin();
    loop {
        tokio::select! {
            line = input.recv() => match line {
                Some(line) => sink.send(format!("{name}: {line}").into()).await?,
                None => break,
            },
            said = stream.next() => match said {
                Some(said) => print_line(&said?),
                None => return Err("the room was closed".into()),
            },
        }
    }
    sink.send(format!("{name} leaves").into()).await?;
    // Everything said has arrived; the room tells the rest, and then closes too.
    sink.close().await?;
    while let Some(said) = stream.next().await {
        print_line(&said?);
    }
    Ok(())
}

fn print_line(line: &Message) {
    println!("{}", String::from_utf8_lossy(line.as_slice()));
}

/// Reading a terminal blocks, so a thread does it; it dies with the process.
fn lines_of_stdin() -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            if line.is_err() || line.is_ok_and(|line| tell.blocking_send(line).is_err()) {
                break;
            }
        }
    });
    told
}

async fn demo(guests: u32, lines: u32) -> Result<()> {
    let listener = Listener::bind("127.0.0.1:0".parse()?).await?;
    let room = listener.local_addr();
    let serving = tokio::spawn(open_room(listener));
    let everybody = (0..guests).map(|guest| tokio::spawn(attend(room, guest, guests, lines)));
    let mut read = 0;
    for guest in everybody.collect::<Vec<_>>() {
        read += guest.await??;
    }
    serving.abort();
    println!("{guests} guests said {lines} lines each, and read {read}: every line of the others, in order");
    Ok(())
}

/// Waits until all are there, says its lines while it reads, and leaves when it has read those of the others.
async fn attend(room: SocketAddr, own: u32, guests: u32, lines: u32) -> Result<u32> {
    let (mut sink, mut stream) = Flow::connect(room).await?.into_messages().split();
    // Who comes late heard nobody who greeted before: so all repeat it until they know all.
    let mut next = vec![None; guests as usize];
    next[own as usize] = Some(0);
    let (mut said, mut read) = (0, 0);
    let mut greeting = tokio::time::interval(std::time::Duration::from_millis(5));
    let mut greeted = false;
    while read < lines * (guests - 1) || said < lines {
        let all_here = next.iter().all(Option::is_some);
        if all_here && !greeted {
            // Who still waits knows this guest before its first line.
            greeted = true;
            sink.send(format!("{own} hello").into()).await?;
        }
        tokio::select! {
            _ = greeting.tick(), if !all_here => sink.send(format!("{own} hello").into()).await?,
            () = std::future::ready(()), if all_here && said < lines => {
                sink.send(format!("{own} {said}").into()).await?;
                said += 1;
            }
            heard = stream.next() => {
                let heard = heard.ok_or("the room was closed")??;
                let text = std::str::from_utf8(heard.as_slice())?;
                let (guest, line) = text.split_once(' ').ok_or("a line without its speaker")?;
                let expected = next.get_mut(guest.parse::<usize>()?).ok_or("a stranger")?.get_or_insert(0);
                if line != "hello" {
                    if line.parse::<u32>()? != *expected {
                        return Err(format!("guest {guest} said {line}, expected was {expected}").into());
                    }
                    *expected += 1;
                    read += 1;
                }
            }
        }
    }
    sink.close().await?;
    Ok(read)
}
