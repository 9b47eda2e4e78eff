//! Datagrams between two hosts.

use proptest::prelude::*;

use super::*;

#[test]
fn a_datagram_is_not_copied_on_its_way_out() {
    let (mut a, mut b) = pair("10.0.0.1/24", "10.0.0.2/24");
    let payload = vec![7; 1472];
    let mut batch = VecDeque::from([a.packet("10.0.0.2:9000", &payload)]);
    let place = batch[0].payload.as_ref().as_ptr().addr();
    assert_eq!(a.net.tx_burst(&mut batch), 1);
    assert_eq!(a.net.device.places, [place - 42]);
    let frames = a.sent();
    assert_eq!(frames[0].len(), 1514);
    let got = b.receive(frames);
    let meta = Meta { local: "10.0.0.2:9000".parse().unwrap(), remote: "10.0.0.1:9000".parse().unwrap(), queue: 0 };
    assert_eq!(got, [(meta, payload)]);
}

/// RFC 791's header with the numbers that everybody's example has, checked by a checksum known from elsewhere.
#[test]
fn a_header_is_what_others_write() {
    let mut a = Bench::new(1, &config("192.168.0.1/24"));
    a.send("192.168.0.199:9000", &[0; 87]);
    let answer = &mut [0; 60];
    let macs = Macs { to: mac(1), from: mac(9) };
    write_neighbour(
        answer,
        macs,
        false,
        "192.168.0.199".parse().unwrap(),
        "192.168.0.1".parse().unwrap(),
        "192.168.0.1".parse().unwrap(),
    );
    a.receive([answer.to_vec()]);
    let frame = a.sent().pop().unwrap();
    assert_eq!(
        frame[14..34],
        [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 192, 168, 0, 1, 192, 168, 0, 199]
    );
}

#[test]
fn shared_and_foreign_payloads_are_copied_once() {
    let (mut a, mut b) = pair("10.0.0.1/24", "10.0.0.2/24");
    let packet = a.packet("10.0.0.2:9000", b"shared");
    let again = TxPacket { meta: packet.meta, payload: packet.payload.clone(), tail: None };
    let (_region, mut pool) = machnet_channel::Region::anonymous(2048, 1).unwrap();
    let mut foreign = pool.take().unwrap();
    foreign.bytes_mut().unwrap()[100..107].copy_from_slice(b"foreign");
    let foreign = TxPacket { meta: packet.meta, payload: foreign.share(100..107), tail: None };
    let mut tight = a.net.frame().unwrap();
    tight.bytes_mut().unwrap()[..5].copy_from_slice(b"tight");
    let tight = TxPacket { meta: packet.meta, payload: tight.share(0..5), tail: None };
    let mut batch = VecDeque::from([packet, again, foreign, tight]);
    assert_eq!(a.net.tx_burst(&mut batch), 4);
    let frames = a.sent();
    let got: Vec<_> = b.receive(frames).into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(got, [&b"shared"[..], b"shared", b"foreign", b"tight"]);
    assert_eq!((a.held(), pool.free()), (0, 1));
}

#[test]
fn a_full_device_leaves_the_rest_in_the_batch() {
    let (mut a, mut b) = pair("10.0.0.1/24", "10.0.0.2/24");
    let mut batch: VecDeque<_> = (0..40u8).map(|n| a.packet("10.0.0.2:9000", &[n; 20])).collect();
    let mut got = Vec::new();
    for room in [0, 3, 1, 20, 40] {
        a.net.device.room = room;
        let before = batch.len();
        assert_eq!(a.net.tx_burst(&mut batch), room.min(before));
        assert_eq!(batch.len(), before - room.min(before));
        let frames = a.sent();
        got.extend(b.receive(frames).into_iter().map(|(_, payload)| payload));
    }
    assert_eq!(got, (0..40u8).map(|n| vec![n; 20]).collect::<Vec<_>>(), "in order, none twice");
    assert_eq!(a.held(), 0);
}

/// The peer is to have work while there is more to be made for it.
#[test]
fn a_burst_begins_with_little_for_the_device() {
    let (mut a, _b) = pair("10.0.0.1/24", "10.0.0.2/24");
    for (count, offers) in [(57, &[8, 16, 32, 1][..]), (9, &[8, 1]), (8, &[8]), (1, &[1])] {
        let mut batch: VecDeque<_> = (0..count).map(|n| a.packet("10.0.0.2:9000", &[n; 20])).collect();
        a.net.device.offers.clear();
        assert_eq!(a.net.tx_burst(&mut batch), count.into());
        assert_eq!(a.net.device.offers, offers);
        a.sent();
    }
}

#[test]
fn without_a_frame_to_copy_into_a_datagram_waits() {
    let (mut a, _b) = pair("10.0.0.1/24", "10.0.0.2/24");
    let packet = a.packet("10.0.0.2:9000", b"shared");
    let held = packet.payload.clone();
    let rest: Vec<_> = std::iter::from_fn(|| a.net.frame()).collect();
    let mut batch = VecDeque::from([packet]);
    assert_eq!((a.net.tx_burst(&mut batch), batch.len()), (0, 1));
    drop(rest);
    assert_eq!((a.net.tx_burst(&mut batch), batch.len()), (1, 0));
    assert_eq!(held.as_ref(), b"shared");
}

#[test]
fn the_mtu_is_kept_on_both_sides() {
    for (address, peer, to, max) in [
        ("10.0.0.1/24", "10.0.0.2/24", "10.0.0.2:9000", 1472),
        ("2001:db8::1/64", "2001:db8::2/64", "[2001:db8::2]:9000", 1452),
    ] {
        let (mut a, mut b) = pair(address, peer);
        assert_eq!(a.net.capabilities().max_payload, max as u32);
        let frames = a.send(to, &vec![1; max]);
        assert_eq!((frames.len(), frames[0].len()), (1, 1514));
        assert_eq!(b.receive(frames.clone()).len(), 1);
        assert_eq!(a.send(to, &vec![1; max + 1]).len(), 0);
        assert_eq!(a.dropped(DropReason::Oversized), 1);
        let long = [&frames[0][..], &[0]].concat();
        assert_eq!(b.receive([long]).len(), 0);
        assert_eq!(b.dropped(DropReason::Oversized), 1);
    }
}

/// Short frames are padded to 60 bytes; who receives from a device that pads otherwise, or not at all, gets the same.
#[test]
fn padding_is_added_and_cut_off() {
    for (address, peer, to) in
        [("10.0.0.1/24", "10.0.0.2/24", "10.0.0.2:9000"), ("2001:db8::1/64", "2001:db8::2/64", "[2001:db8::2]:9000")]
    {
        let (mut a, mut b) = pair(address, peer);
        for len in [0, 1, 17, 18, 19] {
            let payload = vec![0xff; len];
            let frame = a.send(to, &payload).pop().unwrap();
            let bare = frame.len().min(if to.starts_with('1') { 42 } else { 62 } + len);
            assert!(frame.len() >= 60 && frame[bare..].iter().all(|&byte| byte == 0), "{len}");
            let padded = [&frame[..bare], &[0x55; 30]].concat();
            for frame in [frame.clone(), frame[..bare].to_vec(), padded] {
                assert_eq!(b.receive([frame]).pop().expect("a datagram").1, payload);
            }
            assert_eq!(b.receive([frame[..bare - 1].to_vec()]), [], "cut short");
        }
        assert_eq!(b.dropped(DropReason::Truncated), 5);
    }
}

#[test]
fn checksums_are_verified_unless_the_device_did() {
    let (mut a, mut b) = pair("10.0.0.1/24", "10.0.0.2/24");
    let frame = a.send("10.0.0.2:9000", b"right").pop().unwrap();
    let wrong = altered(&frame, |frame| frame[42] ^= 1);
    let none = altered(&frame, |frame| frame[40..42].fill(0));
    for bad in [&wrong, &none] {
        assert_eq!(b.receive([bad.clone()]), []);
    }
    assert_eq!(b.dropped(DropReason::Checksum), 2);
    b.net.device.vouches = true;
    assert_eq!(b.receive([wrong, none]).len(), 2);
    let mut header = frame;
    header[22] ^= 1;
    assert_eq!(b.receive([header]), [], "the IPv4 header's is verified always");
    assert_eq!(b.dropped(DropReason::Checksum), 3);
}

#[test]
fn a_host_speaks_with_itself() {
    let mut a = Bench::new(1, &config("10.0.0.1/24"));
    assert_eq!(a.send("10.0.0.1:9000", b"it is me").len(), 0);
    let got = a.drain();
    let home = a.net.home();
    assert_eq!(got, [(Meta { local: home, remote: home, queue: 0 }, b"it is me".to_vec())]);
    a.send("10.0.0.1:1", b"0123456789abcdef");
    let refused = a.net.unreachable().unwrap();
    assert_eq!((refused.remote, &refused.quoted), ("10.0.0.1:1".parse().unwrap(), b"0123456789abcdef"));
    for _ in 0..MAX_LOOPED + 1 {
        let (_region, mut pool) = machnet_channel::Region::anonymous(64, 1).unwrap();
        let payload = pool.take().unwrap().share(0..1);
        let mut batch =
            VecDeque::from([TxPacket { meta: Meta { local: home, remote: home, queue: 0 }, payload, tail: None }]);
        a.net.tx_burst(&mut batch);
    }
    assert!(a.held() == FRAMES && a.dropped(DropReason::Congested) == 0, "frames run out first here");
    assert_eq!(a.drain().len(), FRAMES as usize);
    assert_eq!(a.held(), 0);
}

#[test]
fn what_cannot_be_sent_is_counted() {
    let mut a = Bench::new(1, &config("10.0.0.1/24"));
    for to in
        ["10.1.0.1:9000", "10.0.0.255:9000", "224.0.0.1:9000", "127.0.0.1:9000", "[2001:db8::2]:9000", "10.0.0.2:0"]
    {
        assert_eq!(a.send(to, b"lost").len(), 0, "{to}");
    }
    assert_eq!(a.dropped(DropReason::Unsendable), 6);
    let mut packet = a.packet("10.0.0.2:9000", b"not mine");
    packet.meta.local.set_ip([10, 0, 0, 7].into());
    a.net.tx_burst(&mut VecDeque::from([packet]));
    assert_eq!((a.dropped(DropReason::Unsendable), a.held()), (7, 0));
}

#[test]
fn while_the_link_is_down_datagrams_are_lost_and_counted() {
    let (mut a, mut b) = pair("10.0.0.1/24", "10.0.0.2/24");
    a.net.device.up = false;
    assert_eq!(a.send("10.0.0.2:9000", b"lost").len(), 0);
    assert_eq!((a.dropped(DropReason::Unsendable), a.held()), (1, 0));
    a.net.device.up = true;
    let frames = a.send("10.0.0.2:9000", b"not lost");
    assert_eq!(b.receive(frames).len(), 1);
}

/// `payload` in two pieces, of which the second is in another frame of the device, or of nobody's.
fn in_two_pieces(
    a: &mut Bench,
    to: &str,
    payload: &[u8],
    at: usize,
    pool: Option<&mut machnet_channel::FramePool>,
) -> TxPacket {
    let (head, tail) = payload.split_at(at);
    let packet = a.packet(to, head);
    let mut elsewhere = pool.map_or_else(|| a.net.frame(), machnet_channel::FramePool::take).unwrap();
    elsewhere.bytes_mut().unwrap()[5..5 + tail.len()].copy_from_slice(tail);
    TxPacket { tail: Some(elsewhere.share(5..5 + tail.len() as u32)), ..packet }
}

#[test]
fn what_lies_in_two_pieces_stays_where_it_lies() {
    let (mut a, mut b) = pair("10.0.0.1/24", "10.0.0.2/24");
    let (_region, mut pool) = machnet_channel::Region::anonymous(2048, 1).unwrap();
    let payload: Vec<u8> = (0..1472_u32).map(|at| at as u8).collect();
    let packet = in_two_pieces(&mut a, "10.0.0.2:9000", &payload, 50, None);
    let place = |bytes: &FrameRef| bytes.as_ref().as_ptr().addr();
    let places = (place(&packet.payload), place(packet.tail.as_ref().unwrap()));
    let other = in_two_pieces(&mut a, "10.0.0.2:9000", &payload, 50, Some(&mut pool));
    let long = in_two_pieces(&mut a, "10.0.0.2:9000", &[0; 1473], 50, None);
    let mut batch = VecDeque::from([packet, other, long]);
    // What the device refuses comes back as it was.
    a.net.device.room = 0;
    assert_eq!((a.net.tx_burst(&mut batch), batch.len(), batch[0].len()), (1, 2, 1472));
    assert_eq!((place(&batch[0].payload), place(batch[0].tail.as_ref().unwrap())), places);
    a.net.device.room = 9;
    assert_eq!(a.net.tx_burst(&mut batch), 2);
    assert_eq!(
        (a.net.device.places[0], &a.net.device.tails),
        (places.0 - 42, &vec![places.1]),
        "the other one is copied"
    );
    let frames = a.sent();
    let got: Vec<_> = b.receive(frames).into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(got, [payload.clone(), payload.clone()]);
    assert_eq!((a.held(), pool.free(), a.dropped(DropReason::Oversized)), (0, 1, 1));
    // To this very host, and to one that has yet to say where it is.
    let mut batch = VecDeque::from([in_two_pieces(&mut a, "10.0.0.1:9000", &payload, 50, None)]);
    assert_eq!((a.net.tx_burst(&mut batch), a.sent().len()), (1, 0));
    assert_eq!(a.drain().pop().unwrap().1, payload);
    let mut c = Bench::new(3, &config("10.0.0.3/24"));
    let mut batch = VecDeque::from([in_two_pieces(&mut a, "10.0.0.3:9000", &payload, 50, None)]);
    assert_eq!(a.net.tx_burst(&mut batch), 1);
    let question = a.sent();
    c.receive(question);
    let answer = c.sent();
    a.receive(answer);
    a.begin(std::time::Duration::ZERO);
    let frames = a.sent();
    assert_eq!(c.receive(frames).pop().unwrap().1, payload);
    assert_eq!(a.held(), 0);
}

proptest! {
    /// Wherever it is cut, whoever computes checksums.
    #[test]
    fn two_pieces_arrive_as_one(
        payload in prop::collection::vec(any::<u8>(), 60..1452),
        cut in any::<prop::sample::Index>(),
        v6 in any::<bool>(),
        offload in any::<bool>(),
    ) {
        let (address, peer, to) = if v6 { ("2001:db8::1/64", "2001:db8::2/64", "[2001:db8::2]:9000") } else { ("10.0.0.1/24", "10.0.0.2/24", "10.0.0.2:9000") };
        let mut port = Port::new(mac(1), 1500);
        port.capabilities.tx_checksum = offload;
        let (mut a, mut b) = (Bench::on(port, &config(address)), Bench::new(2, &config(peer)));
        meet(&mut a, &mut b);
        // Headers are no shorter than what Ethernet sends at least.
        let at = 18 + cut.index(payload.len() - 18);
        let mut batch = VecDeque::from([in_two_pieces(&mut a, to, &payload, at, None)]);
        prop_assert_eq!(a.net.tx_burst(&mut batch), 1);
        let frames = a.sent();
        let got = b.receive(frames);
        prop_assert_eq!(got.len(), 1);
        prop_assert_eq!(&got[0].1, &payload);
        prop_assert_eq!((a.held(), b.held()), (0, 0));
    }

    /// Whatever is sent arrives as it was, in either family, whoever computes checksums; and with one bit flipped it does
    /// not arrive as something else.
    #[test]
    fn arrives_as_it_was(
        payload in prop::collection::vec(any::<u8>(), 0..1452),
        v6 in any::<bool>(),
        offload in any::<bool>(),
        flip in any::<prop::sample::Index>(),
    ) {
        let (address, peer, to) = if v6 { ("2001:db8::1/64", "2001:db8::2/64", "[2001:db8::2]:9000") } else { ("10.0.0.1/24", "10.0.0.2/24", "10.0.0.2:9000") };
        let mut port = Port::new(mac(1), 1500);
        port.capabilities.tx_checksum = offload;
        let (mut a, mut b) = (Bench::on(port, &config(address)), Bench::new(2, &config(peer)));
        meet(&mut a, &mut b);
        let frame = a.send(to, &payload).pop().unwrap();
        let expected = (Meta { local: b.net.home(), remote: a.net.home(), queue: 0 }, payload);
        prop_assert_eq!(&b.receive([frame.clone()]), std::slice::from_ref(&expected));
        let mut flipped = frame;
        let bit = flip.index(flipped.len() * 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
        for got in b.receive([flipped]) {
            prop_assert_eq!(&got, &expected, "only Ethernet's source, padding, and IPv6's class may change unnoticed");
        }
        prop_assert_eq!((a.held(), b.held()), (0, 0));
    }
}
