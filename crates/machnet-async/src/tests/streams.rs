//! Byte streams: what is copied, and who sleeps until when.

use bytes::Bytes;
use futures::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[test]
fn chunks_are_not_copied() {
    let (endpoint, mut rig) = Rig::new();
    let (flow, slot) = rig.flow(&endpoint);
    let mut stream = flow.into_stream();
    // Read: the bytes are those of the frame that the engine delivered, and keep it until they are dropped.
    let (_region, mut pool) = machnet_channel::Region::anonymous(512, 1).unwrap();
    let mut frame = pool.take().unwrap();
    frame.bytes_mut().unwrap()[10..15].copy_from_slice(b"hello");
    let at = frame.bytes_mut().unwrap()[10..].as_ptr();
    rig.channel.deliver(slot, frame.share(10..15).into());
    let chunk = block_on(stream.read_chunk()).unwrap().unwrap();
    assert_eq!((&chunk[..], chunk.as_ptr(), pool.free()), (&b"hello"[..], at, 0));
    drop(chunk);
    assert_eq!(pool.free(), 1);

    // What a read leaves of a message stays where it is.
    let message = Bytes::from(vec![7; 5000]);
    rig.channel.deliver(slot, Message::from(message.clone()).into());
    block_on(stream.read_exact(&mut [0; 10])).unwrap();
    let (mut read, write) = stream.into_split();
    let chunk = block_on(read.read_chunk()).unwrap().unwrap();
    assert_eq!((chunk.len(), chunk.as_ptr()), (4990, message[10..].as_ptr()));

    // Also when a stream becomes a flow again.
    rig.channel.deliver(slot, Message::from(message.clone()).into());
    block_on(read.read_exact(&mut [0; 20])).unwrap();
    let mut stream = read.reunite(write).unwrap();
    // Written: what the engine takes is the chunk, in pieces if it is longer than a message.
    let chunk = Bytes::from(vec![8; 2 * LIMIT + 1]);
    block_on(stream.write_chunk(chunk.clone())).unwrap();
    for (at, len) in [(0, LIMIT), (LIMIT, LIMIT), (2 * LIMIT, 1)] {
        let piece = rig.channel.take(slot).unwrap().into_bytes();
        assert_eq!((piece.len(), piece.as_ptr()), (len, chunk[at..].as_ptr()));
    }
    let (_flow, rest) = stream.into_flow();
    assert_eq!((rest.len(), rest.as_ptr()), (4980, message[20..].as_ptr()));
}

#[test]
fn shutdown_sleeps_until_the_fin_is_acknowledged_or_late() {
    let open = FlowState::OPEN;
    for (state, kind) in [
        (open.with(FlowState::FIN_ACKED), None),
        // Late, and acknowledged by now.
        (open.with(FlowState::FIN_LATE).with(FlowState::FIN_ACKED), None),
        (open.with(FlowState::FIN_LATE), Some(ErrorKind::TimedOut)),
        (open.with(FlowState::FIN_LATE).closed(CloseReason::Reset), Some(ErrorKind::ConnectionReset)),
    ] {
        let (endpoint, mut rig) = Rig::new();
        let (flow, slot) = rig.flow(&endpoint);
        let mut stream = flow.into_stream();
        let mut shutdown = Task::new(stream.shutdown());
        assert!(shutdown.poll().is_pending());
        assert_eq!(rig.channel.intent(slot), Intent::FIN.with(Intent::CHUNKS));
        rig.set_state(slot, state);
        assert_eq!(shutdown.woken(), 1, "{state:?}");
        assert_eq!(ready(shutdown.poll()).err().map(|error| error.kind()), kind, "{state:?}");
        drop(shutdown);
        // Once more: the same, at once.
        let again = stream.shutdown().now_or_never().expect("nothing to wait for");
        assert_eq!(again.err().map(|error| error.kind()), kind, "{state:?}");
    }
}

#[test]
fn a_stream_without_room_sleeps_until_there_is_some() {
    let (endpoint, mut rig) = Rig::new();
    let (flow, slot) = rig.flow(&endpoint);
    rig.room(slot, 0);
    let mut stream = flow.into_stream();
    // It gathers, and then sleeps; each poll is for something.
    while stream.try_write(&[1; 1000]).is_ok() {}
    let mut write = Task::new(stream.write_all(&[2; 10]));
    assert!(write.poll().is_pending());
    rig.room(slot, 1);
    assert_eq!(write.woken(), 1);
    ready(write.poll()).unwrap();
    drop(write);
    let mut flush = Task::new(stream.flush());
    assert!(flush.poll().is_pending());
    assert_eq!(flush.woken(), 0);
    rig.room(slot, u64::MAX);
    assert_eq!(flush.woken(), 1);
    ready(flush.poll()).unwrap();
    let sent: Vec<u8> = std::iter::from_fn(|| rig.channel.take(slot)).flat_map(|m| m.as_slice().to_vec()).collect();
    assert_eq!((sent.len(), &sent[sent.len() - 10..]), ((64 << 10) + 10, &[2; 10][..]));
}
