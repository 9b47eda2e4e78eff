//! Where payloads lie: what arrives is lent to the application where the device wrote it, and what an application builds is read by
//! the device where it was built.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BufMut as _;
use machnet::dpdk::{DpdkUrl, Port};
use machnet::{Driver as _, Endpoint, Flow};
use machnet_channel::{Doorbell, Frame, FrameRef};
use machnet_core::Drops;
use machnet_core::net::{FrameCapabilities, FrameDriver, Net, RxFrame, TxFrame};

use super::{PORT, Side, Wire, bounded, config, memory};

/// Addresses in memory.
type Places = Arc<Mutex<Vec<Range<usize>>>>;

/// A port that notes where frames lie that it receives, and that it gave to the device.
struct Watched {
    port: Port,
    notes: Notes,
}

/// Where frames lay.
#[derive(Clone, Default)]
struct Notes {
    received: Places,
    sent: Places,
    /// The ends of those that were sent in two pieces.
    tails: Places,
}

fn place(bytes: &[u8]) -> Range<usize> {
    let start = bytes.as_ptr().addr();
    start..start + bytes.len()
}

impl FrameDriver for Watched {
    fn capabilities(&self) -> &FrameCapabilities {
        self.port.capabilities()
    }

    fn is_up(&self) -> bool {
        self.port.is_up()
    }

    fn frame(&mut self) -> Option<Frame> {
        self.port.frame()
    }

    fn owns(&self, bytes: &FrameRef) -> bool {
        self.port.owns(bytes)
    }

    fn long_frame(&mut self) -> Option<Frame> {
        self.port.long_frame()
    }

    fn gathers(&self, tail: &FrameRef) -> bool {
        self.port.gathers(tail)
    }

    fn recycle(&mut self, bytes: FrameRef) {
        self.port.recycle(bytes);
    }

    fn is_short_of_frames(&self) -> bool {
        self.port.is_short_of_frames()
    }

    fn rx_burst(&mut self, out: &mut Vec<RxFrame>, max: usize) -> usize {
        let before = out.len();
        let count = self.port.rx_burst(out, max);
        let mut received = self.notes.received.lock().unwrap();
        received.extend(
            out[before..]
                .iter()
                .map(|frame| place(&frame.frame.bytes()[frame.range.start as usize..frame.range.end as usize])),
        );
        count
    }

    fn tx_burst(&mut self, batch: &mut VecDeque<TxFrame>) -> usize {
        let offered: Vec<_> = batch
            .iter()
            .map(|frame| (place(frame.bytes.as_ref()), frame.tail.as_ref().map(|tail| place(tail.as_ref()))))
            .collect();
        // Locked before the device has them: else a message may be received, and the notes read, before it is in them.
        let (mut sent, mut tails) = (self.notes.sent.lock().unwrap(), self.notes.tails.lock().unwrap());
        let taken = self.port.tx_burst(batch);
        for (frame, tail) in offered.into_iter().take(taken) {
            sent.push(frame);
            tails.extend(tail);
        }
        taken
    }

    fn reap(&mut self) {
        self.port.reap();
    }

    fn set_bell(&mut self, bell: Arc<Doorbell>) {
        self.port.set_bell(bell);
    }

    fn starve(&mut self) -> bool {
        self.port.starve()
    }

    fn drops(&self) -> Drops {
        self.port.drops()
    }
}

fn watched(url: &str) -> (Endpoint, Notes) {
    let url: DpdkUrl = url.parse().unwrap();
    let places = Notes::default();
    let device = Watched { port: url.port().open().unwrap(), notes: places.clone() };
    let driver = Net::new(device, &url.net().unwrap()).unwrap();
    let config = config(driver.capabilities().max_payload);
    (Endpoint::builder().driver(driver).config(config).start().unwrap(), places)
}

/// Two hosts of the network `10.NET.0.0/24` on a wire, both in this process, and a flow from the second to the first.
struct Ends {
    server: Endpoint,
    client: Endpoint,
    out: Flow,
    flow: Flow,
    /// What the two devices moved: the server's, and the client's.
    here: Notes,
    there: Notes,
}

async fn ends(wire: &Wire, net: u8) -> Ends {
    let (server, here) = watched(&format!("{}?ip=10.{net}.0.1/24&{}", wire.here, memory()));
    // In this process, so with a number of its own.
    let far = wire.there.replacen("net_memif", "net_memif9", 1);
    let (client, there) = watched(&format!("{far}?ip=10.{net}.0.2/24&{}", memory()));
    let mut listener = server.listen(PORT).await.unwrap();
    let out = loop {
        match client.connect(listener.local_addr()).await {
            Ok(flow) => break flow,
            // The link is only coming up.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}"),
        }
    };
    let (flow, _) = listener.accept().await.unwrap();
    Ends { server, client, out, flow, here, there }
}

/// No payload is copied between device and application: each message that came in one packet and has more than 256 bytes lies inside
/// a frame, at the address at which the device delivered it, and stays there while it is held.
#[test]
fn what_arrives_is_lent_where_the_device_wrote_it() {
    bounded(async {
        let wire = Wire::memif("server", "client");
        let Ends { mut out, mut flow, here: Notes { received: places, .. }, server: _server, client: _client, .. } =
            ends(&wire, 91).await;
        let mut held = Vec::new();
        for n in 0..200_u32 {
            // From just more than what is copied to what still fits a first packet.
            let len = [257, 512, 1024, 1100][n as usize % 4];
            out.send(vec![n as u8; len]).await.unwrap();
            held.push((n as u8, len, flow.recv().await.unwrap().unwrap()));
        }
        let places = places.lock().unwrap().clone();
        for (n, len, message) in &held {
            let bytes = message.as_slice();
            assert!(bytes.len() == *len && bytes.iter().all(|byte| byte == n), "message {n} changed while it was held");
            let lies = place(bytes);
            let frames = places.iter().filter(|frame| frame.start < lies.start && lies.end <= frame.end).count();
            assert!(frames >= 1, "message {n} of {len} bytes lies in no frame that arrived");
        }
        // And small ones are copied: they would hold a whole frame each.
        out.send(vec![7; 256]).await.unwrap();
        let small = flow.recv().await.unwrap().unwrap();
        let lies = place(small.as_slice());
        assert!(!places.iter().any(|frame| frame.start < lies.start && lies.end <= frame.end));
    });
}

/// No payload is copied between application and device: each message of 1 KiB or more that was built in what `reserve` gave and fits a
/// packet is read by the device at the address at which the application wrote it, and its frame is given to the device once, although virtio
/// keeps what it was given. It arrives as it was written, where the other device wrote it.
fn what_is_built_is_read_where_it_was_written(wire: &Wire) {
    bounded(async {
        let Ends { server, client, mut out, mut flow, here: Notes { received, .. }, there: Notes { sent, .. } } =
            ends(wire, 92).await;
        let (mut in_place, mut built) = (0, 0);
        for n in 0..400_u32 {
            let len = [1024, 1025, 1100, 1148][n as usize % 4];
            let mut message = out.reserve(len).await.unwrap();
            message.put_bytes(n as u8, len);
            let lies = place(&message);
            message.send();
            let got = flow.recv().await.unwrap().unwrap();
            assert!(got == vec![n as u8; len], "message {n} of {len} bytes arrives different");
            let inside = |frame: &&Range<usize>| frame.start < lies.start && lies.end == frame.end;
            let arrived = place(got.as_slice());
            let is_lent = received.lock().unwrap().iter().any(|f| f.start < arrived.start && arrived.end <= f.end);
            assert!(is_lent, "message {n} of {len} bytes lies in no frame that arrived");
            let times = sent.lock().unwrap().iter().filter(inside).count();
            sent.lock().unwrap().clear();
            assert!(times <= 1, "message {n}: its frame was given to the device {times} times");
            (in_place, built) = (in_place + times, built + 1);
        }
        // The first asks for frames. The second may be built before the round is over that gives them.
        assert!(in_place >= built - 2, "{in_place} of {built}: {:?}", client.stats());
        // And those given as bytes are copied, once.
        let bytes = bytes::Bytes::from(vec![9; 1024]);
        let lies = place(&bytes);
        out.send(bytes).await.unwrap();
        assert!(flow.recv().await.unwrap().unwrap() == vec![9; 1024]);
        assert!(!sent.lock().unwrap().iter().any(|frame| frame.start < lies.end && lies.start < frame.end));
        client.shutdown().await.unwrap();
        server.shutdown().await.unwrap();
    });
}

#[test]
fn over_memif_what_is_built_is_read_where_it_was_written() {
    what_is_built_is_read_where_it_was_written(&Wire::memif("server", "client"));
}

#[test]
fn over_virtio_what_is_built_is_read_where_it_was_written() {
    what_is_built_is_read_where_it_was_written(&Wire::virtio(Side::Host, Side::Host));
}

/// Messages of several packets that were built in what `reserve` gave are not copied either: every byte is read by the device at the address
/// at which the application wrote it, and what goes in front of it is short. No long frame is lost, although virtio keeps what it was given.
fn what_is_built_long_is_read_where_it_was_written(wire: &Wire) {
    /// Lower headers, the packet's own, an acknowledgement with all of its bitmap, and the part's.
    const HEADS: usize = 62 + 16 + 24 + 128 + 12 + 16;
    bounded(async {
        let Ends { server, client, mut out, mut flow, there: Notes { sent, tails, .. }, .. } = ends(wire, 93).await;
        let (mut whole, mut built, mut long) = (0, 0, 0);
        for n in 0..600_usize {
            // At first of all lengths, then those of which a device with many descriptors keeps most.
            let len = if n < 200 { [2000, 4096, 10_000, 30_001, 65_536][n % 5] } else { 2000 };
            let content: Vec<u8> = (0..len).map(|at| (n * 31 + at * 7 + (at >> 8)) as u8).collect();
            let mut message = out.reserve(len).await.unwrap();
            message.put_slice(&content);
            let lies = place(&message);
            message.send();
            assert!(flow.recv().await.unwrap().unwrap() == content, "message {n} of {len} bytes arrives different");
            let mut parts: Vec<_> = std::mem::take(&mut *tails.lock().unwrap());
            parts.retain(|part| part.start < lies.end && lies.start < part.end);
            parts.sort_unstable_by_key(|part| part.start);
            // A part may have been sent twice: its length, too, is another when the path has grown.
            let end =
                parts.iter().fold(lies.start, |end, part| if part.start <= end { end.max(part.end) } else { end });
            // The end is copied if it has fewer than 64 bytes.
            let is_whole = end <= lies.end && lies.end - end < 64;
            long += sent.lock().unwrap().drain(..).filter(|frame| frame.len() > HEADS + 64).count();
            (whole, built) = (whole + usize::from(is_whole), built + 1);
        }
        let stats = client.stats();
        // The first asks for frames. The second may be built before the round is over that gives them.
        assert!(whole >= built - 2, "{whole} of {built}: {stats:?}");
        // Those two, and what looks for the path's longest packets: of 4 000.
        assert!(long <= 40, "{long} packets carried copies: {stats:?}");
        assert!(stats.long_frames_away <= 192 && stats.parts_copied == 0 && stats.long_frames_missed <= 2, "{stats:?}");
        client.shutdown().await.unwrap();
        server.shutdown().await.unwrap();
    });
}

#[test]
fn over_memif_what_is_built_long_is_read_where_it_was_written() {
    what_is_built_long_is_read_where_it_was_written(&Wire::memif("server", "client"));
}

#[test]
fn over_virtio_what_is_built_long_is_read_where_it_was_written() {
    what_is_built_long_is_read_where_it_was_written(&Wire::virtio(Side::Host, Side::Host));
}

/// No payload of a long message is copied between device and application that takes it in pieces: each of 64 KiB and more lies in the
/// packets that it came in, at the addresses at which the device delivered them, and stays there while it is held; and so do those that a
/// stream reads.
fn a_long_message_is_read_where_the_device_wrote_it(wire: &Wire) {
    bounded(async {
        let Ends { server, client, mut out, mut flow, here: Notes { received, .. }, .. } = ends(wire, 93).await;
        let lies_in_a_packet = |piece: &[u8]| {
            let lies = place(piece);
            received.lock().unwrap().iter().any(|frame| frame.start < lies.start && lies.end <= frame.end)
        };
        let content = |n: u32, len: usize| (0..len).map(|at| (n as usize * 31 + at / 7) as u8).collect::<Vec<_>>();
        assert_eq!(flow.try_recv_chunks().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        let mut held = Vec::new();
        for n in 0..40_u32 {
            received.lock().unwrap().clear();
            let message = content(n, [64 << 10, (64 << 10) + 1, 5000, 150_000][n as usize % 4]);
            out.send(message.clone()).await.unwrap();
            let got = flow.recv_chunks().await.unwrap().unwrap();
            assert!(got.slices().collect::<Vec<_>>().concat() == message, "message {n} arrives different");
            // The first may have begun to arrive before the engine knew.
            assert!(n == 0 || (got.count() > 1 && got.slices().all(lies_in_a_packet)), "message {n}: {got:?}");
            held.push((message, got));
            if held.len() > 8 {
                held.remove(0);
            }
        }
        for (message, got) in held {
            assert!(got.into_iter().collect::<Vec<_>>().concat() == message, "it changed while it was held");
        }
        let mut stream = flow.into_stream();
        for n in 0..40 {
            received.lock().unwrap().clear();
            let message = content(n, 64 << 10);
            out.send(message.clone()).await.unwrap();
            let mut got = Vec::new();
            while got.len() < message.len() {
                let piece = stream.read_chunk().await.unwrap().unwrap();
                assert!(lies_in_a_packet(&piece));
                got.extend_from_slice(&piece);
            }
            assert!(got == message);
        }
        // Which are told from time to time. The first message may be neither, or copied.
        let mut stats = server.stats();
        while stats.chained < 79 {
            assert!(stats.unchained <= 1, "{stats:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
            stats = server.stats();
        }
        assert!(stats.chained + stats.unchained <= 80, "{stats:?}");
        drop((stream, out));
        client.shutdown().await.unwrap();
        server.shutdown().await.unwrap();
    });
}

#[test]
fn over_memif_a_long_message_is_read_where_the_device_wrote_it() {
    a_long_message_is_read_where_the_device_wrote_it(&Wire::memif("server", "client"));
}

#[test]
fn over_virtio_a_long_message_is_read_where_the_device_wrote_it() {
    a_long_message_is_read_where_the_device_wrote_it(&Wire::virtio(Side::Host, Side::Host));
}
