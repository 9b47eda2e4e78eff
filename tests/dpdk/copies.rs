//! Where payloads lie: what arrives is lent to the application where the device wrote it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use machnet::dpdk::{DpdkUrl, Port};
use machnet::{Driver as _, Endpoint};
use machnet_channel::{Doorbell, Frame, FrameRef};
use machnet_core::Drops;
use machnet_core::net::{FrameCapabilities, FrameDriver, Net, RxFrame, TxFrame};

use super::{PORT, Wire, bounded, config};

/// Addresses in memory.
type Places = Arc<Mutex<Vec<Range<usize>>>>;

/// A port that notes where frames lie that it receives.
struct Watched {
    port: Port,
    received: Places,
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

    fn recycle(&mut self, bytes: FrameRef) {
        self.port.recycle(bytes);
    }

    fn is_short_of_frames(&self) -> bool {
        self.port.is_short_of_frames()
    }

    fn rx_burst(&mut self, out: &mut Vec<RxFrame>, max: usize) -> usize {
        let before = out.len();
        let count = self.port.rx_burst(out, max);
        let mut received = self.received.lock().unwrap();
        received.extend(
            out[before..]
                .iter()
                .map(|frame| place(&frame.frame.bytes()[frame.range.start as usize..frame.range.end as usize])),
        );
        count
    }

    fn tx_burst(&mut self, batch: &mut VecDeque<TxFrame>) -> usize {
        self.port.tx_burst(batch)
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

fn watched(url: &str) -> (Endpoint, Places) {
    let url: DpdkUrl = url.parse().unwrap();
    let places = Places::default();
    let device = Watched { port: url.port().open().unwrap(), received: Arc::clone(&places) };
    let driver = Net::new(device, &url.net().unwrap()).unwrap();
    let config = config(driver.capabilities().max_payload);
    (Endpoint::builder().driver(driver).config(config).start().unwrap(), places)
}

/// No payload is copied between device and application: each message that came in one packet and has more than 256 bytes lies inside
/// a frame, at the address at which the device delivered it, and stays there while it is held.
#[test]
fn what_arrives_is_lent_where_the_device_wrote_it() {
    bounded(async {
        let wire = Wire::memif("server", "client");
        let (server, places) = watched(&format!("{}?ip=10.91.0.1/24&huge=no", wire.here));
        // In this process, so with a number of its own.
        let there = wire.there.replacen("net_memif", "net_memif9", 1);
        let (client, _) = watched(&format!("{there}?ip=10.91.0.2/24&huge=no"));
        let mut listener = server.listen(PORT).await.unwrap();
        let mut out = client.connect(listener.local_addr()).await.unwrap();
        let (mut flow, _) = listener.accept().await.unwrap();
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
