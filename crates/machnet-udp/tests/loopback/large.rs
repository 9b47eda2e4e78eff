//! Two engines over real sockets: path MTU discovery finds what loopback carries.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use machnet_channel::{Backlog, FlowState, Intake, Mailbox};
use machnet_core::{Config, Driver as _, Engine, Instant, LocalChannel};
use machnet_udp::{Udp, UdpBuilder};

use crate::node::FAMILIES;

const MESSAGES: usize = 400;
const LEN: usize = 50_000;

struct Host {
    engine: Engine<Udp, LocalChannel>,
    intake: Arc<Intake>,
}

impl Host {
    fn new(builder: UdpBuilder, address: &str, seed: u8) -> Self {
        let intake = Intake::new();
        let channel = LocalChannel::new(Arc::clone(&intake));
        let mut config = Config::default();
        // The socket's buffer is all there is between the two, and is to hold a window.
        config.receive_window = 64 << 10;
        let engine = Engine::new(builder.bind(address).unwrap(), channel, config, [seed; 32]).unwrap();
        Self { engine, intake }
    }
}

/// Sends messages from one engine to another, in virtual time (loopback delivers at once); returns the packets it took
/// and the longest that is possible.
fn transfer(builder: &UdpBuilder, family: &str) -> (u64, u32) {
    let mut hosts = [1, 2].map(|seed| Host::new(builder.clone(), family, seed));
    let mut now = Instant(1_000_000);
    let cx = &mut Context::from_waker(Waker::noop());
    let mut listener = Backlog::listen(&hosts[1].intake, 0, 1);
    let mut to = None;
    let mut accepted = None;
    let mut flow: Option<(machnet_channel::SendEnd, _)> = None;
    let (mut sent, mut received) = (0, 0);
    for _ in 0..1_000_000 {
        now += Duration::from_micros(10);
        for host in &mut hosts {
            let _ = host.engine.poll(now);
        }
        if to.is_none()
            && let Poll::Ready(address) = listener.poll_opened(cx)
        {
            to = Some(address.unwrap());
            flow = to.map(|to| Mailbox::connect(&hosts[0].intake, to));
        }
        if let Poll::Ready(Some(flow)) = listener.poll_accept(cx) {
            accepted = Some(flow);
        }
        let Some((send, _recv)) = &mut flow else { continue };
        while send.mailbox().state().has(FlowState::OPEN) && send.has_room() && sent < MESSAGES {
            send.post(vec![sent as u8; LEN].into()).unwrap();
            sent += 1;
        }
        while let Some(message) = accepted.as_mut().and_then(|flow| flow.recv.take()) {
            assert!(message.len() == LEN && message.as_slice().iter().all(|&byte| byte == received as u8));
            received += 1;
        }
        if received == MESSAGES {
            let longest = hosts[0].engine.driver().capabilities().max_payload;
            return (send.mailbox().stats().packets_sent, longest);
        }
    }
    panic!("{family}: {received} of {MESSAGES} messages, {sent} posted");
}

/// A bulk transfer goes in packets as long as frames and loopback allow, not in those that every path carries.
#[test]
fn a_bulk_transfer_uses_long_packets() {
    let bytes = (MESSAGES * LEN) as u64;
    for family in FAMILIES {
        let (short, longest) = transfer(&Udp::builder().frame_size(1252), family);
        assert_eq!(longest, 1252);
        let (long, longest) = transfer(&Udp::builder(), family);
        assert_eq!(longest, 9216);
        assert!(short > bytes / 1232, "{family}: {short} packets");
        // Of 50 000 bytes in six packets; some were sent before the path was known.
        assert!(long < bytes / 6000, "{family}: {long} packets instead of {short}");
    }
}
