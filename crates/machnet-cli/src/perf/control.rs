//! What client and server tell each other, in JSON, each in one message.
//!
//! ```text
//! client ── control flow ──▶  Hello { measure: settings }      server
//!        ◀──────────────────  Answer { session } or { error }
//!        ── each data flow ─▶ Hello { session, flow }
//!        ◀──────────────────  (empty message)
//!        ── control flow ──▶  (empty message): before and after what is measured
//!        ◀──────────────────  Sample
//! ```
//!
//! The version is looked at before anything else: the rest may be different in another.

use std::io;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::ValueEnum;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::usage::Usage;
use crate::wire::{Rx, Tx, Wire};

/// The version of what is said here, and of what data flows do.
pub(crate) const VERSION: u64 = 1;

/// Where the version is in each message.
const KEY: &str = "machnet_perf";

/// What is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    #[default]
    /// Requests and replies of the same size
    Rr,
    /// One way, client to server
    Stream,
    /// Connecting and closing
    Connect,
    /// Flows that do nothing: their memory and CPU time
    Idle,
}

/// What both sides must agree on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) mode: Mode,
    /// Bytes of each message.
    pub(crate) size: usize,
    /// Whether every byte is checked.
    pub(crate) verify: bool,
}

/// A client's first message on a flow.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Hello {
    /// This is the control flow of a measurement.
    Measure(Settings),
    /// This flow, the `flow`th, belongs to a measurement.
    Join { session: u64, flow: usize },
}

/// The server's answer on the control flow.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// What to begin data flows with; and how the server runs.
    Session { id: u64, server: Value },
    /// Why not.
    Error(String),
}

/// What the server has used and seen so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) usage: Usage,
    /// Messages that were not what they should be.
    pub(crate) bad: u64,
    /// What its transport counts.
    pub(crate) facts: serde_json::Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    machnet_perf: u64,
    machnet: String,
    #[serde(flatten)]
    body: T,
}

/// `body` as a message.
pub(crate) fn encode<T: Serialize>(body: &T) -> anyhow::Result<Bytes> {
    let versioned = Versioned { machnet_perf: VERSION, machnet: env!("CARGO_PKG_VERSION").to_owned(), body };
    Ok(serde_json::to_vec(&versioned)?.into())
}

/// The body of a message of `peer`'s.
pub(crate) fn decode<T: DeserializeOwned>(message: &[u8], peer: &str) -> anyhow::Result<T> {
    let value: Value = serde_json::from_slice(message).unwrap_or_default();
    let Some(version) = value[KEY].as_u64() else {
        let shown = String::from_utf8_lossy(&message[..message.len().min(80)]).into_owned();
        bail!("the {peer} does not speak the perf protocol: it sent {shown:?}");
    };
    if version != VERSION {
        bail!(
            "the {peer} speaks version {version} of the perf protocol (machnet {}), this side version {VERSION} \
             (machnet {}): use the same machnet on both sides",
            value["machnet"].as_str().unwrap_or("?"),
            env!("CARGO_PKG_VERSION"),
        );
    }
    let message: Versioned<T> =
        serde_json::from_value(value).with_context(|| format!("the {peer} sent what this version does not know"))?;
    Ok(message.body)
}

/// The control flow, on the client's side.
pub(crate) struct Control<W: Wire> {
    tx: W::Tx,
    rx: W::Rx,
}

impl<W: Wire> Control<W> {
    /// Asks for a session; returns its id and how the server runs.
    pub(crate) async fn open(wire: &W, settings: &Settings) -> anyhow::Result<(Self, u64, Value)> {
        let (mut tx, mut rx) = wire.connect().await?;
        tx.send(encode(&Hello::Measure(settings.clone()))?.into()).await?;
        tx.flush().await?;
        let answer = rx.recv().await?.context("the server ended the connection: is it measuring connects already?")?;
        match decode(answer.as_ref(), "server")? {
            Answer::Session { id, server } => Ok((Self { tx, rx }, id, server)),
            Answer::Error(error) => bail!("the server refuses: {error}"),
        }
    }

    /// What the server has used so far.
    pub(crate) async fn sample(&mut self) -> anyhow::Result<Sample> {
        self.tx.send(Bytes::new().into()).await?;
        self.tx.flush().await?;
        let sample = self.rx.recv().await?.context("the server ended the control flow")?;
        decode(sample.as_ref(), "server")
    }

    /// Ends the session.
    pub(crate) async fn close(self) -> io::Result<()> {
        self.tx.close().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let message = encode(&Hello::Join { session: 7, flow: 3 }).unwrap();
        assert!(matches!(decode(&message, "client").unwrap(), Hello::Join { session: 7, flow: 3 }));
        let message = encode(&Answer::Error("no".to_owned())).unwrap();
        assert!(matches!(decode(&message, "server").unwrap(), Answer::Error(text) if text == "no"));
    }

    #[test]
    fn another_version_is_named_beside_ours() {
        let other = br#"{"machnet_perf":99,"machnet":"9.9.9","whatever":[]}"#;
        let error = decode::<Hello>(other, "client").unwrap_err().to_string();
        assert!(error.contains("version 99") && error.contains("machnet 9.9.9"), "{error}");
        assert!(error.contains("version 1") && error.contains(env!("CARGO_PKG_VERSION")), "{error}");
    }

    #[test]
    fn strangers_are_no_panic() {
        for bytes in [&b""[..], b"GET / HTTP/1.0", &[0xff, 0xfe], b"{}", b"[]", br#"{"machnet_perf":1}"#] {
            decode::<Hello>(bytes, "client").unwrap_err();
        }
    }
}
