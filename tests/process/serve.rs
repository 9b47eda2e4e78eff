//! A server that does with each flow what its first message asks for.

use std::fmt::{self, Display};
use std::io;
use std::time::Duration;

use machnet::{Endpoint, Flow, Listener};

use super::{content, say, size, verify};

/// What a flow is to be used for: its first message.
#[derive(Clone, Copy, Debug)]
pub enum Request {
    /// Every message comes back.
    Echo,
    /// Messages of `key` up to `max` bytes are read and verified, with a pause after each; at the end their number comes back.
    Sink { key: u64, max: usize, pause: Duration },
    /// Nothing is read, ever.
    Hold,
    /// `count` messages of `key` come.
    Source { key: u64, max: usize, count: u64 },
}

impl Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Echo => write!(f, "echo"),
            Self::Sink { key, max, pause } => write!(f, "sink {key} {max} {}", pause.as_micros()),
            Self::Hold => write!(f, "hold"),
            Self::Source { key, max, count } => write!(f, "source {key} {max} {count}"),
        }
    }
}

impl Request {
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut words = text.split(' ');
        let name = words.next()?;
        let mut number = || words.next()?.parse::<u64>().ok();
        Some(match name {
            "echo" => Self::Echo,
            "sink" => Self::Sink { key: number()?, max: number()? as usize, pause: Duration::from_micros(number()?) },
            "hold" => Self::Hold,
            "source" => Self::Source { key: number()?, max: number()? as usize, count: number()? },
            _ => return None,
        })
    }

    /// Connects a flow and makes the request.
    pub async fn connect(self, endpoint: &Endpoint, to: std::net::SocketAddr) -> io::Result<Flow> {
        let mut flow = endpoint.connect(to).await?;
        flow.send(self.to_string()).await?;
        Ok(flow)
    }
}

/// Serves `listener` for ever. A message that is not what it should be is said as `violation: …`; flows that fail are not.
pub async fn serve(mut listener: Listener) -> io::Result<()> {
    loop {
        let (flow, _) = listener.accept().await?;
        tokio::spawn(async move {
            // A flow whose peer was killed, for example.
            let _ = handle(flow).await;
        });
    }
}

async fn handle(mut flow: Flow) -> io::Result<()> {
    let Some(first) = flow.recv().await? else { return Ok(()) };
    let Some(request) = Request::parse(first.as_slice()) else {
        say(format_args!("violation: no request: {first:?}"));
        return Ok(());
    };
    drop(first);
    match request {
        Request::Echo => {
            while let Some(message) = flow.recv().await? {
                flow.send(message).await?;
            }
        }
        Request::Sink { key, max, pause } => {
            let mut count = 0_u64;
            while let Some(message) = flow.recv().await? {
                if let Err(wrong) = verify(key, count, max, message.as_slice()) {
                    say(format_args!("violation: {wrong}"));
                }
                count += 1;
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
            }
            say(format_args!("sunk {key} {count}"));
            flow.send(count.to_string()).await?;
        }
        Request::Hold => std::future::pending().await,
        Request::Source { key, max, count } => {
            for index in 0..count {
                flow.send(content(key, index, size(key, index, max))).await?;
            }
        }
    }
    flow.close().await
}

/// The number that a [`Request::Sink`] answers with.
pub async fn count_of(flow: &mut Flow) -> io::Result<u64> {
    let answer = flow.recv().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    String::from_utf8_lossy(answer.as_slice()).parse().map_err(io::Error::other)
}
