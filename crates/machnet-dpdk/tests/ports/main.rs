//! Ports of virtual devices in one process, frame by frame: no network layer, no engine.
#![cfg(feature = "dpdk")]

mod errors;
mod frames;
mod gone;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use machnet_core::net::{FrameDriver, RxFrame, TxFrame, UdpChecksum};
use machnet_dpdk::{Device, Eal, HugePages, Port, PortBuilder};

/// What all tests of this process share: there is one environment.
fn eal() -> Eal {
    Eal::new().huge_pages(HugePages::Never)
}

fn vdev(name: &str, arguments: &str) -> PortBuilder {
    let device: Device = format!("vdev:{name},{arguments}").parse().unwrap();
    Port::builder(device).eal(eal()).frames(1024)
}

/// A number for this test's devices.
fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Two ports that are each other's wire, with their links up.
fn memif(change: impl Fn(PortBuilder) -> PortBuilder, arguments: &str) -> (Port, Port) {
    let (a, b) = (number(), number());
    let socket = format!("socket=/machnet-ports-{}-{a}{arguments}", std::process::id());
    let server = change(vdev(&format!("net_memif{a}"), &format!("role=server,{socket}"))).open().unwrap();
    let client = change(vdev(&format!("net_memif{b}"), &format!("role=client,{socket}"))).open().unwrap();
    linked(server, client)
}

/// Likewise, a virtual machine's port and its host's.
fn vhost(change: impl Fn(PortBuilder) -> PortBuilder) -> (Port, Port) {
    let (a, b) = (number(), number());
    let socket = std::env::temp_dir().join(format!("machnet-ports-{}-{a}", std::process::id()));
    let socket = socket.display();
    let host = change(vdev(&format!("net_vhost{a}"), &format!("iface={socket}"))).open().unwrap();
    let machine = change(vdev(&format!("net_virtio_user{b}"), &format!("path={socket},queues=1"))).open().unwrap();
    linked(host, machine)
}

fn linked(a: Port, b: Port) -> (Port, Port) {
    let mut ports = (a, b);
    wait_for(|| {
        ports.0.rx_burst(&mut Vec::new(), 8);
        ports.1.rx_burst(&mut Vec::new(), 8);
        ports.0.is_up() && ports.1.is_up()
    });
    ports
}

fn wait_for(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "nothing comes of it");
        std::thread::yield_now();
    }
}

/// A frame of `length` bytes with content of its own, to be sent.
fn frame(port: &mut Port, number: usize, length: usize) -> Option<TxFrame> {
    let mut frame = port.frame()?;
    let start = port.capabilities().headroom as usize;
    for (i, byte) in frame.bytes_mut().unwrap()[start..start + length].iter_mut().enumerate() {
        *byte = content(number, i);
    }
    let bytes = frame.share(start as u32..(start + length) as u32);
    Some(TxFrame { bytes, checksum: UdpChecksum::Done, tail: None, queue: 0 })
}

fn content(number: usize, at: usize) -> u8 {
    (number.wrapping_mul(131) + at.wrapping_mul(7) + (at >> 8)) as u8
}

fn bytes(frame: &RxFrame) -> &[u8] {
    &frame.frame.bytes()[frame.range.start as usize..frame.range.end as usize]
}

/// Sends all of `batch`.
fn send(port: &mut Port, batch: &mut VecDeque<TxFrame>) {
    wait_for(|| {
        port.reap();
        port.tx_burst(batch);
        batch.is_empty()
    });
}

/// Receives until `count` frames are there.
fn receive(port: &mut Port, count: usize) -> Vec<RxFrame> {
    let mut frames = Vec::new();
    wait_for(|| {
        port.reap();
        port.rx_burst(&mut frames, count);
        frames.len() >= count
    });
    frames
}
