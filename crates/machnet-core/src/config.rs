//! Limits and times of an engine: runtime configuration, checked as a whole.

use std::time::Duration;

use machnet_channel::Congestion;

/// The largest `max_message` that can be configured: what [`Config::default`] has.
pub const MAX_MESSAGE: u32 = 64 << 20;

/// Limits and times of an engine. `Config::default()` suits a service with some thousand flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The largest message this side sends or receives, bytes; the smaller of both sides' counts. Default and maximum:
    /// 64 MiB.
    pub max_message: u32,
    /// What a peer may have sent on one flow that the application has not consumed, bytes (rounded to units of 64 B, of
    /// which each message costs at least one). The flow's next message may be larger: room for it is reserved when it
    /// begins to arrive. Default 2 MiB, at least 2 KiB. Peers send no packet beyond
    /// 1 232 bytes that is longer than half of it.
    pub receive_window: u32,
    /// What the application may have posted on one flow that the peer has not acknowledged, bytes, counted alike; exceeded
    /// by at most one message. Default 2 MiB, at least 2 KiB.
    pub send_buffer: u32,
    /// Flows of the engine, half-open and closing ones included. Default 65 536.
    pub max_flows: u32,
    /// Flows whose handshake has begun here and is not finished. Beyond, INIT is answered by RETRY and nothing is kept;
    /// so many again may be opened by who comes back with its token. Default 1 024.
    pub max_half_open: u32,
    /// Flows that are over and only answer late packets; beyond, the oldest is forgotten, and a peer that missed our last
    /// acknowledgement is answered by RESET. Default 16 384.
    pub max_tombstones: u32,
    /// How long `connect` tries. Default 3 s.
    pub connect_timeout: Duration,
    /// How long a peer may be silent: acknowledge nothing while something is outstanding, or answer no keepalive (sent
    /// after a quarter of this time without a sign of life). Default 5 s.
    pub dead_peer_timeout: Duration,
    /// How long an engine goes on for a flow whose application is gone. Default 10 s.
    pub linger: Duration,
    /// How long an acknowledgement may wait for the application's reply to carry it: this at most, if replies take up to
    /// two thirds of it, else 200 µs. Peers are told, and wait so much longer before they probe. Default 500 µs.
    pub max_ack_delay: Duration,
    /// Congestion control of flows that choose none. Default `None`: CUBIC on drivers that can sleep (sockets, whose paths are
    /// the world's), Swift on polled ones.
    pub congestion: Option<Congestion>,
    /// The longest UDP payload sent, bytes; never more than the driver's. A flow begins with 1 232, which every path carries, and
    /// looks for more up to this. Default 65 507, the longest there is.
    pub max_payload: u32,
    /// Bytes that a device which says how much it holds is given ahead: what waits there cannot be overtaken. Default
    /// 24 KiB: what 100 Gbit/s send in 2 µs, the time of a round.
    pub device_queue: u32,
    /// Bytes of reassembly buffers. Half in equal shares of frame sizes from 256 B to `max_message`, each four times the one
    /// before, at least two of each; half in reserve, for flows whose application has read all it was given. Default 256 MiB:
    /// address space, which costs memory only once used.
    pub reassembly_bytes: u64,
    /// Frames of the driver that applications may hold to build messages in (`reserve`): those that wait for them, that are
    /// being written, that are posted or not acknowledged yet, and that the device has not given back. Never more than a quarter of the
    /// driver's, so that receiving goes on whatever applications hold; beyond, messages are built in ordinary memory, and copied. 0:
    /// all are. Default 1 024.
    pub build_frames: u32,
    /// Likewise, long frames, of 64 KiB each, on drivers whose device sends packets of two pieces: for messages that fit no packet. Never more
    /// than the driver has (192 for rings of 256 descriptors: 12 MiB, which are taken when first wanted). Default 256.
    pub long_frames: u32,
    /// What of that one peer's unfinished messages may take: those next in their flows, of which one is always
    /// allowed; and half as much others. Default 64 MiB.
    pub peer_reassembly_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_message: MAX_MESSAGE,
            receive_window: 2 << 20,
            send_buffer: 2 << 20,
            max_flows: 1 << 16,
            max_half_open: 1024,
            max_tombstones: 1 << 14,
            connect_timeout: Duration::from_secs(3),
            dead_peer_timeout: Duration::from_secs(5),
            linger: Duration::from_secs(10),
            max_ack_delay: Duration::from_micros(500),
            congestion: None,
            max_payload: 65_507,
            device_queue: 24 << 10,
            reassembly_bytes: 256 << 20,
            build_frames: 1024,
            long_frames: 256,
            peer_reassembly_bytes: 64 << 20,
        }
    }
}

/// A configuration that contradicts itself or the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("{field} is {value}; it must be from {min} to {max}")]
pub struct ConfigError {
    /// The field's name.
    pub field: &'static str,
    /// Its value.
    pub value: u64,
    /// The least it may be.
    pub min: u64,
    /// The most it may be.
    pub max: u64,
}
