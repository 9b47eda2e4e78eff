//! Frames in and out, held and let go, lost and not.

use machnet_channel::FrameRef;

use super::*;

#[test]
fn frames_arrive_as_they_were_sent_and_in_order() {
    let (a, b) = memif(|port| port, "");
    assert_eq!((a.facts().driver.as_str(), a.facts().mtu), ("net_memif", 1500));
    let (a, b) = in_order(a, b);
    assert_eq!((a.free_frames(), b.free_frames()), (1024, 1024));
    assert_eq!((a.stats().in_use, b.stats().in_use), (0, 0));
}

#[test]
fn from_a_machine_to_its_host_and_back() {
    let (host, machine) = vhost(|port| port);
    assert_eq!((host.facts().driver.as_str(), machine.facts().driver.as_str()), ("net_vhost", "net_virtio_user"));
    let (host, machine) = in_order(host, machine);
    let (machine, host) = in_order(machine, host);
    // Whatever the device still holds.
    assert_eq!((machine.free_frames(), host.free_frames()), (1024, 1024));
}

/// virtio gives back what it sent when it needs room, not before: nobody must wait for it.
#[test]
fn a_device_that_keeps_what_it_sent_costs_no_frames() {
    let (mut host, mut machine) = vhost(|port| port.frames(128));
    for round in 0..50 {
        let mut batch: VecDeque<_> = (0..100).map(|i| frame(&mut machine, round + i, 100).unwrap()).collect();
        send(&mut machine, &mut batch);
        drop(receive(&mut host, 100));
        machine.reap();
        assert_eq!(machine.free_frames(), 128, "round {round}, {} held", machine.stats().held);
    }
    let held = machine.stats().held;
    assert!((1..=256).contains(&held), "{held} are held, as many as the ring has at most");
    // Held by the device for ever, and still all there are can be had.
    let all: Vec<_> = std::iter::from_fn(|| machine.frame()).collect();
    assert_eq!(all.len(), 128);
    assert!(machine.frame().is_none());
}

/// Ends with all of `b`'s frames dropped and reaped.
fn in_order(mut a: Port, mut b: Port) -> (Port, Port) {
    let lengths = [60, 61, 64, 127, 128, 1000, 1513, 1514];
    for round in 0..100 {
        let mut batch: VecDeque<_> =
            lengths.iter().enumerate().map(|(i, &length)| frame(&mut a, round + i, length).unwrap()).collect();
        send(&mut a, &mut batch);
        for (i, got) in receive(&mut b, lengths.len()).iter().enumerate() {
            assert!(bytes(got).len() == lengths[i] && !got.checksum_good);
            assert!(bytes(got).iter().enumerate().all(|(at, &byte)| byte == content(round + i, at)), "round {round}");
        }
    }
    a.reap();
    b.reap();
    (a, b)
}

#[test]
fn a_payload_is_where_the_device_reads_and_writes() {
    let (mut a, mut b) = memif(|port| port, "");
    let sent = frame(&mut a, 1, 1200).unwrap();
    let lent = sent.bytes.clone();
    send(&mut a, &mut [sent].into());
    let got = receive(&mut b, 1).pop().unwrap();
    let start = got.range.start;
    let at = bytes(&got).as_ptr();
    let message = got.frame.share(start..start + 1200);
    assert_eq!(message.as_ref().as_ptr(), at, "lent, not copied");
    assert_eq!(message.as_ref(), lent.as_ref());
    assert_ne!(lent.as_ref().as_ptr(), at, "memif has memory of its own between the two");
    // What is sent on lies where it arrived.
    assert!(b.owns(&message));
    send(
        &mut b,
        &mut [TxFrame { bytes: message.slice(0..60), checksum: UdpChecksum::Done, tail: None, queue: 0 }].into(),
    );
    assert_eq!(bytes(&receive(&mut a, 1)[0]), &lent.as_ref()[..60]);
}

#[test]
fn messages_outlive_their_port_and_come_home_on_any_thread() {
    let (mut a, mut b) = memif(|port| port, "");
    let mut batch: VecDeque<_> = (0..20).map(|i| frame(&mut a, i, 500).unwrap()).collect();
    send(&mut a, &mut batch);
    let mut got = receive(&mut b, 20);
    assert_eq!(b.free_frames(), 1024 - 20);
    let half = got.split_off(10);
    std::thread::spawn(move || drop(half)).join().unwrap();
    b.reap();
    assert_eq!(b.free_frames(), 1024 - 10);
    drop((a, b));
    // Memory of other ports is not given to them while a message lies in it.
    let _others = memif(|port| port, "");
    for (i, frame) in got.iter().enumerate() {
        assert!(bytes(frame).iter().enumerate().all(|(at, &byte)| byte == content(i, at)));
    }
}

#[test]
fn what_finds_no_frame_waits_and_is_received_when_one_comes_home() {
    let (mut a, mut b) = memif(|port| port.frames(64), "");
    let mut held = Vec::new();
    let mut sent = 0;
    while sent < 100 {
        let mut batch: VecDeque<_> = frame(&mut a, sent, 100).into_iter().collect();
        sent += batch.len();
        send(&mut a, &mut batch);
        b.reap();
        b.rx_burst(&mut held, 8);
    }
    assert_eq!((held.len(), b.free_frames()), (64, 0), "all there are");
    assert!(b.is_short_of_frames() && b.frame().is_none());
    assert_eq!(b.rx_burst(&mut held, 8), 0);
    assert!(!b.starve(), "none is there: a bell is wanted");
    held.clear();
    b.reap();
    assert_eq!(b.free_frames(), 64);
    let rest = receive(&mut b, 36);
    assert!(bytes(&rest[35]).iter().enumerate().all(|(at, &byte)| byte == content(99, at)), "none was lost");
}

#[test]
fn a_full_ring_takes_a_prefix_and_loses_nothing() {
    let (mut a, mut b) = memif(|port| port.frames(2048), "");
    let mut batch: VecDeque<_> = (0..2000).map(|i| frame(&mut a, i, 64).unwrap()).collect();
    // None while memif's thread is with its peer: it may be late with what brought the link up (gate.rs).
    let mut taken = 0;
    wait_for(|| {
        taken = a.tx_burst(&mut batch);
        taken > 0
    });
    assert!((1..=1024).contains(&taken), "{taken} into memif's ring of 1024 slots");
    assert_eq!(batch.len(), 2000 - taken);
    let mut got = receive(&mut b, taken);
    while !batch.is_empty() {
        a.reap();
        let more = a.tx_burst(&mut batch);
        got.extend(receive(&mut b, more));
    }
    assert_eq!(got.len(), 2000);
    for (i, frame) in got.iter().enumerate() {
        assert_eq!(bytes(frame)[5], content(i, 5));
    }
}

#[test]
fn what_cannot_be_sent_is_counted_and_does_not_stop_the_rest() {
    let (mut a, mut b) = memif(|port| port, "");
    let (_region, mut stranger) = machnet_channel::Region::anonymous(2048, 1).unwrap();
    let foreign = stranger.take().unwrap().share(0..100);
    assert!(!a.owns(&foreign));
    let mut batch = VecDeque::from([
        TxFrame { bytes: foreign, checksum: UdpChecksum::Done, tail: None, queue: 0 },
        frame(&mut a, 1, 1515).unwrap(),
        frame(&mut a, 2, 1514).unwrap(),
    ]);
    send(&mut a, &mut batch);
    assert_eq!(a.drops().get(machnet_core::DropReason::Unsendable), 2);
    assert_eq!(bytes(&receive(&mut b, 1)[0]).len(), 1514);
}

#[test]
fn long_frames_go_where_buffers_are_long() {
    let (mut a, mut b) = memif(|port| port.mtu(9000), ",bsize=9216");
    let long = frame(&mut a, 3, 9014).unwrap();
    send(&mut a, &mut [long].into());
    let got = receive(&mut b, 1);
    assert!(bytes(&got[0]).len() == 9014 && bytes(&got[0])[9013] == content(3, 9013));
}

#[test]
fn frames_longer_than_the_mtu_arrive_or_are_counted() {
    let (a, b) = (number(), number());
    let socket = format!("socket=/machnet-long-{}-{a},bsize=9216", std::process::id());
    let mut a = vdev(&format!("net_memif{a}"), &format!("role=server,{socket}")).mtu(9000).open().unwrap();
    let mut b = vdev(&format!("net_memif{b}"), &format!("role=client,{socket}")).open().unwrap();
    wait_for(|| {
        a.rx_burst(&mut Vec::new(), 8);
        b.rx_burst(&mut Vec::new(), 8);
        a.is_up() && b.is_up()
    });
    let mut batch = VecDeque::from([
        frame(&mut a, 0, 9014).unwrap(),
        frame(&mut a, 1, 1600).unwrap(),
        frame(&mut a, 2, 60).unwrap(),
    ]);
    send(&mut a, &mut batch);
    let got = receive(&mut b, 2);
    assert_eq!(got.iter().map(|frame| bytes(frame).len()).collect::<Vec<_>>(), [1600, 60]);
    assert_eq!(b.drops().get(machnet_core::DropReason::Oversized), 1, "in several segments");
    drop(got);
    b.reap();
    assert_eq!(b.free_frames(), 1024);
}

#[test]
fn nothing_leaks_in_many_rounds() {
    let (mut a, mut b) = memif(|port| port.frames(128), "");
    for round in 0..2000 {
        let count = 1 + round % 40;
        let mut batch: VecDeque<_> = (0..count).map(|i| frame(&mut a, i, 60 + i).unwrap()).collect();
        send(&mut a, &mut batch);
        let got = receive(&mut b, count);
        // Back the same way, in the same memory.
        let mut back: VecDeque<_> = got
            .into_iter()
            .map(|got| TxFrame { bytes: got.frame.share(got.range), checksum: UdpChecksum::Done, tail: None, queue: 0 })
            .collect();
        send(&mut b, &mut back);
        drop(receive(&mut a, count));
    }
    a.reap();
    b.reap();
    assert_eq!((a.stats().in_use, b.stats().in_use), (0, 0));
    assert_eq!((a.stats().missed, a.stats().no_frame, b.stats().missed, b.stats().no_frame), (0, 0, 0, 0));
}

/// Two engines here, one with both queues there. Each has frames of its own, and whoever goes first leaves the device to the other.
#[test]
fn queues_lead_to_the_peers_of_the_same_number() {
    let (a, b) = (number(), number());
    let socket = format!("socket=/machnet-queues-{}-{a}", std::process::id());
    let name = format!("net_memif{a}");
    let server = || vdev(&name, &format!("role=server,{socket}")).engines(2).open().unwrap().split(2).unwrap();
    let client = || vdev(&format!("net_memif{b}"), &format!("role=client,{socket},rsize=7")).queues(2).open().unwrap();
    let (mut parts, mut peer) = (server(), client());
    assert_eq!((parts[0].facts().queues, peer.facts().queues), (2, 2));
    wait_for(|| {
        parts.iter_mut().for_each(|part| _ = part.rx_burst(&mut Vec::new(), 8));
        peer.rx_burst(&mut Vec::new(), 8);
        peer.is_up() && parts.iter().all(FrameDriver::is_up)
    });
    for round in 0..20 {
        for (n, part) in parts.iter_mut().enumerate() {
            let mut batch: VecDeque<_> = (0..30).map(|i| frame(part, 100 * n + i + round, 64 + n).unwrap()).collect();
            send(part, &mut batch);
        }
        let got = receive(&mut peer, 60);
        for n in 0..2 {
            let of = got.iter().filter(|frame| bytes(frame).len() == 64 + n);
            assert!(of.enumerate().all(|(i, frame)| bytes(frame)[5] == content(100 * n + i + round, 5)), "in order");
        }
        let mut batch: VecDeque<_> = (0..30).map(|i| frame(&mut peer, i, 100).unwrap()).collect();
        send(&mut peer, &mut batch);
        assert_eq!(receive(&mut parts[0], 30).len(), 30);
        assert_eq!(parts[1].rx_burst(&mut Vec::new(), 32), 0);
    }
    parts.iter_mut().for_each(FrameDriver::reap);
    assert!(parts.iter().all(|part| part.free_frames() == 1024 && part.stats().received == 600));

    // Who has several queues sends on the one that leads to the engine it is told, or on any if none does.
    let mut to = |queue: u16, count: usize| {
        let to = |frame| TxFrame { queue, ..frame };
        let mut batch: VecDeque<_> = (0..count).map(|i| to(frame(&mut peer, i, 100).unwrap())).collect();
        send(&mut peer, &mut batch);
        peer.reap();
        let mut got = [0; 2];
        wait_for(|| {
            for (got, part) in got.iter_mut().zip(&mut parts) {
                *got += part.rx_burst(&mut Vec::new(), 512);
            }
            got.iter().sum::<usize>() >= count
        });
        got
    };
    assert_eq!([to(1, 40), to(0, 30), to(7, 20)], [[0, 40], [30, 0], [0, 20]]);
    // And what has no room there for long is handed over, over there: nobody else waits for an engine that stands still.
    let [other, own] = to(1, 200);
    assert!(own + other == 200 && (100..=128).contains(&own), "{own}, and {other} by the other queue");

    // Its frames stay where the device can write them.
    drop(parts.remove(0));
    let mut last = parts.remove(0);
    let mut batch: VecDeque<_> = (0..300).map(|i| frame(&mut peer, i, 1000).unwrap()).collect();
    peer.tx_burst(&mut batch);
    let mut batch: VecDeque<_> = (0..30).map(|i| frame(&mut last, i, 1000).unwrap()).collect();
    send(&mut last, &mut batch);
    assert_eq!(receive(&mut peer, 30).len(), 30);
    drop(last);
    // And the device is gone.
    wait_for(|| {
        peer.rx_burst(&mut Vec::new(), 8);
        !peer.is_up()
    });
}

/// `count` frames, of which each has its last bytes in a long frame; and the long frames.
fn frames_of_two_pieces(
    port: &mut Port,
    count: usize,
    length: usize,
    head: usize,
) -> (VecDeque<TxFrame>, Vec<FrameRef>) {
    let mut long = || {
        let mut long = port.long_frame().unwrap();
        for (at, byte) in long.bytes_mut().unwrap().iter_mut().enumerate() {
            *byte = content(at / 2000, at % 2000);
        }
        long.share(0..16_000)
    };
    let longs: Vec<_> = (0..count.div_ceil(8)).map(|_| long()).collect();
    let piece = |number: usize| {
        let front = frame(port, number % 8, head).unwrap();
        let start = (number % 8 * 2000) as u32;
        let tail = longs[number / 8].slice(start + head as u32..start + length as u32);
        assert!(port.gathers(&tail));
        TxFrame { tail: Some(tail), ..front }
    };
    ((0..count).map(piece).collect(), longs)
}

/// Takes all long frames, and gives them back.
fn free_long_frames(port: &mut Port) -> usize {
    std::iter::from_fn(|| port.long_frame()).collect::<Vec<_>>().len()
}

fn two_pieces_are_one_frame((mut a, mut b): (Port, Port)) {
    let all = free_long_frames(&mut a);
    assert_eq!((a.facts().gathers, all), (true, a.capabilities().long_frames as usize));
    let is = |got: &RxFrame, number: usize, length: usize| {
        bytes(got).len() == length && bytes(got).iter().enumerate().all(|(i, &byte)| byte == content(number % 8, i))
    };
    for round in 0..40 {
        let (mut batch, longs) = frames_of_two_pieces(&mut a, 32, 1000 + round, 64);
        drop(longs);
        send(&mut a, &mut batch);
        for (number, got) in receive(&mut b, 32).iter().enumerate() {
            assert!(is(got, number, 1000 + round), "frame {number} of round {round} arrives different");
        }
        // And ones of one piece, in the same mbufs.
        let mut batch: VecDeque<_> = (0..16).map(|number| frame(&mut a, number % 8, 700).unwrap()).collect();
        send(&mut a, &mut batch);
        for (number, got) in receive(&mut b, 16).iter().enumerate() {
            assert!(is(got, number, 700), "frame {number} behind round {round} arrives different");
        }
    }
    // What the device keeps is what its ring holds: others push it out.
    for number in 0..600 {
        let short = frame(&mut a, number, 60).unwrap();
        send(&mut a, &mut [short].into());
        receive(&mut b, 1);
    }
    wait_for(|| {
        a.reap();
        free_long_frames(&mut a) == all
    });
    assert_eq!(a.stats().in_use, 0);
    // The memory stays as long as somebody reads there.
    let (batch, longs) = frames_of_two_pieces(&mut a, 8, 1000, 64);
    drop((a, batch));
    assert_eq!(longs[0].as_ref()[2001], content(1, 1));
}

#[test]
fn two_pieces_are_one_frame_over_memif() {
    two_pieces_are_one_frame(memif(|port| port, ""));
}

#[test]
fn two_pieces_are_one_frame_for_a_machine_and_its_host() {
    let (host, machine) = vhost(|port| port);
    two_pieces_are_one_frame((machine, host));
    two_pieces_are_one_frame(vhost(|port| port));
}

/// What the device does not read is put into one piece; a port that is told so has no long frames.
#[test]
fn second_pieces_elsewhere_are_copied() {
    let (mut a, mut b) = memif(|port| port.long_frames(1), "");
    let (_region, mut pool) = machnet_channel::Region::anonymous(2048, 1).unwrap();
    let mut elsewhere = pool.take().unwrap();
    for i in 0..100 {
        elsewhere.bytes_mut().unwrap()[i] = content(1, 64 + i);
    }
    let tail = elsewhere.share(0..100);
    assert!(!a.gathers(&tail));
    let front = frame(&mut a, 1, 64).unwrap();
    send(&mut a, &mut [TxFrame { tail: Some(tail), ..front }].into());
    let got = receive(&mut b, 1);
    assert!(bytes(&got[0]).len() == 164 && bytes(&got[0])[163] == content(1, 163));
    assert_eq!(pool.free(), 1);
    let one = a.long_frame().unwrap();
    assert!(a.long_frame().is_none());
    drop(one);
    assert!(a.long_frame().is_some());
    let (mut none, _other) = memif(|port| port.long_frames(0), "");
    assert!(none.long_frame().is_none() && none.capabilities().long_frames == 0 && none.facts().gathers);
}
