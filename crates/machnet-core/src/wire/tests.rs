//! Golden bytes, round trips and totality of every format.

use proptest::prelude::*;

use super::*;

#[test]
fn golden_header() {
    let header = Header {
        packet_type: PacketType::Data,
        blocks: 2,
        ack_now: true,
        flow: 0x0102_0304_0506_0708,
        number: 0xa0b0_c0d0,
    };
    let mut out = [0xff; HEADER_LEN];
    header.emit(&mut out);
    assert_eq!(out, [0x14, 0x06, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0xa0, 0xb0, 0xc0, 0xd0]);
    assert_eq!(Header::parse(&out), Ok((header, &[][..])));
}

#[test]
fn golden_data() {
    let mut out = [0; Data::FIXED_LEN];
    Data::emit_fixed(0x1234, 0xdead_beef, &mut out);
    assert_eq!(out, [0x12, 0x34, 0, 0, 0xde, 0xad, 0xbe, 0xef]);
}

#[test]
fn golden_ack() {
    let mut bitmap = [0; MAX_BITMAP_WORDS];
    bitmap[0] = 0x8000_0000_0000_0001;
    let block = AckBlock { largest: 0x0102_0304, run: 5, delay_us: 300, words: 1, bitmap };
    let mut out = [0xff; 20];
    assert_eq!(block.emit(&mut out), 20);
    assert_eq!(out, [1, 2, 3, 4, 0, 5, 0, 1, 0x01, 0x2c, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(AckBlock::parse(&out), Ok((block, &[][..])));
}

#[test]
fn golden_chunks() {
    let cases: [(Chunk<'_>, &[u8]); 8] = [
        (Chunk::Whole { id: 7, payload: b"hi" }, &[0x10, 1, 0, 6, 0, 0, 0, 7, b'h', b'i']),
        (
            Chunk::Part { id: 1, offset: 64, total: 66, payload: b"ok" },
            &[0x10, 0, 0, 14, 0, 0, 0, 1, 0, 0, 0, 64, 0, 0, 0, 66, b'o', b'k'],
        ),
        (Chunk::Fin { next: 9 }, &[0x20, 0, 0, 4, 0, 0, 0, 9]),
        (Chunk::Stop(Reason::None), &[0x30, 0, 0, 2, 0, 0]),
        (Chunk::Abort(Reason::TooLarge), &[0x40, 0, 0, 2, 0, 5]),
        (Chunk::Blocked { wanted: 258 }, &[0x50, 0, 0, 4, 0, 0, 1, 2]),
        (Chunk::Ping, &[0x60, 0, 0, 0]),
        (Chunk::Refused { first: 0x0102_0304, last: 5 }, &[0x90, 0, 0, 8, 1, 2, 3, 4, 0, 0, 0, 5]),
    ];
    let mut all = Vec::new();
    for (chunk, bytes) in cases {
        let mut out = vec![0xff; chunk.len()];
        assert_eq!(chunk.emit(&mut out), bytes.len());
        assert_eq!(out, bytes);
        all.extend_from_slice(bytes);
    }
    // An unknown type, a reserved one and a PAD in between are skipped.
    all.splice(10..10, [0xf0, 0, 0, 1, 0xaa, 0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0]);
    let chunks = Chunks::parse(&all).unwrap();
    assert!(chunks.elicits());
    assert_eq!(chunks.collect::<Vec<_>>(), cases.map(|(chunk, _)| chunk));
    let mut pad = [0xff; 9];
    Chunk::emit_pad(&mut pad);
    assert_eq!(pad, [0, 0, 0, 5, 0, 0, 0, 0, 0]);
    assert!(!Chunks::parse(&pad).unwrap().elicits());
    let refused = Chunks::parse(&[0x90, 0, 0, 8, 1, 2, 3, 4, 0, 0, 0, 5]).unwrap();
    assert!(!refused.elicits() && refused.refused() == Some((0x0102_0304, 5)) && chunks.refused() == refused.refused());
}

#[test]
fn what_stands_before_a_payload_is_the_chunk_without_it() {
    let (mut whole, mut part) = ([0xff; Chunk::WHOLE_OVERHEAD], [0xff; Chunk::PART_OVERHEAD]);
    assert_eq!(Chunk::emit_before_whole(7, 2, &mut whole), whole.len());
    assert_eq!(whole, [0x10, 1, 0, 6, 0, 0, 0, 7]);
    assert_eq!(Chunk::emit_before_part(1, 64, 66, 2, &mut part), part.len());
    assert_eq!(part, [0x10, 0, 0, 14, 0, 0, 0, 1, 0, 0, 0, 64, 0, 0, 0, 66]);
}

#[test]
fn golden_handshake() {
    let handshake = Handshake {
        source: 0x1111_2222_3333_4444,
        instance: 0x5555_6666_7777_8888,
        max_message: 1 << 20,
        credit: 32768,
        max_ack_delay_us: 250,
        versions: VERSIONS,
        engines: 1,
        ports: (7000, 7001),
        token: b"tok",
    };
    let mut out = vec![0xff; Handshake::PACKET_LEN - HEADER_LEN];
    handshake.emit(&mut out);
    #[rustfmt::skip]
    let expected = [
        0x11, 0x11, 0x22, 0x22, 0x33, 0x33, 0x44, 0x44, 0x55, 0x55, 0x66, 0x66, 0x77, 0x77, 0x88, 0x88,
        0, 0x10, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 250, 0, 2, 1, 0,
        0x1b, 0x58, 0x1b, 0x59, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, b't', b'o', b'k', 0,
    ];
    assert_eq!(&out[..52], expected);
    assert!(out[52..].iter().all(|&b| b == 0));
    assert_eq!(Handshake::parse(&out), Ok(handshake));
}

#[test]
fn golden_probe() {
    let mut out = [0xff; HEADER_LEN];
    Header { packet_type: PacketType::ProbeReply, blocks: 0, ack_now: false, flow: 1, number: 2 }.emit(&mut out);
    assert_eq!(out, [0x17, 0, 255, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2]);
    let seen = SeenAt { ports: (0x1b58, 0x1b59), engine: 4 };
    let probe = Probe {
        nonce: 0x0102_0304_0506_0708,
        answers: Some((0x1112_1314_1516_1718, 3)),
        seen: Some(seen),
        settled: true,
        home: false,
        last: true,
        more: true,
    };
    let mut out = [0xff; PROBE_LEN - HEADER_LEN];
    probe.emit(&mut out);
    #[rustfmt::skip]
    assert_eq!(out, [
        1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 3, 4, 0x1b, 0x58, 0x1b, 0x59, 13, 0,
    ]);
    assert_eq!(Probe::parse(&out), Ok(probe));
    let none = Probe { answers: None, seen: None, settled: false, last: false, home: true, ..probe };
    none.emit(&mut out);
    assert_eq!(Probe::parse(&out), Ok(none));
    for at in [22, 23] {
        let mut bad = out;
        bad[at] = 0x80;
        assert!(matches!(Probe::parse(&bad), Err(WireError::Value { value: 0x80, .. })));
    }
    assert!(Probe::parse(&out[..23]).is_err() && Probe::parse(&[0; 24]).is_err(), "short, and without a nonce");
}

#[test]
fn golden_retry_and_reset() {
    let mut out = [0xff; 6];
    assert_eq!(Retry { token: &[9, 8] }.emit(&mut out), 6);
    assert_eq!(out, [0, 2, 0, 0, 9, 8]);
    assert_eq!(Retry::parse(&out), Ok(Retry { token: &[9, 8] }));

    let mut packet = [0; HEADER_LEN];
    Header { packet_type: PacketType::Data, blocks: 0, ack_now: false, flow: 77, number: 5 }.emit(&mut packet);
    let mut out = [0xff; RESET_LEN - HEADER_LEN];
    Reset::emit(Reason::UnknownFlow, &packet, &mut out);
    assert_eq!(out[..4], [0, 3, 0, 2]);
    assert_eq!(out[4..], packet);
    assert_eq!(Reset::parse(&out), Ok(Reset { reason: Reason::UnknownFlow, versions: 2, flow: 77, number: 5 }));
}

#[test]
fn each_forbidden_value_is_named() {
    let header = Header { packet_type: PacketType::Data, blocks: 0, ack_now: false, flow: 1, number: 0 };
    let mut good = [0; HEADER_LEN];
    header.emit(&mut good);
    let with = |at: usize, value: u8| {
        let mut bytes = good;
        bytes[at] = value;
        Header::parse(&bytes).map(|_| ())
    };
    assert_eq!(with(0, 0x24), Err(WireError::Version(2)));
    assert_eq!(with(0, 0x18), Err(WireError::PacketType(8)));
    assert_eq!(with(0, 0x16), Err(WireError::Value { what: "path", value: 0 }), "a probe");
    assert_eq!(with(1, 0x08), Err(WireError::Value { what: "flags", value: 8 }));
    assert_eq!(with(2, 1), Err(WireError::Value { what: "path", value: 1 }));
    assert_eq!(with(3, 1), Err(WireError::Value { what: "key", value: 1 }));
    assert_eq!(with(11, 0), Err(WireError::Value { what: "flow id", value: 0 }));
    assert_eq!(with(0, 0x11), Err(WireError::Value { what: "flow id of INIT", value: 1 }));
    let part = |offset: u32, total: u32, len: usize| {
        let mut out = vec![0; Chunk::PART_OVERHEAD + len];
        Chunk::Part { id: 0, offset, total, payload: &vec![0; len] }.emit(&mut out);
        Chunks::parse(&out).map(|_| ())
    };
    assert_eq!(part(64, 128, 64), Ok(()));
    assert_eq!(part(0, 128, 0), Err(WireError::Value { what: "length of a part", value: 0 }));
    assert_eq!(part(1, 128, 64), Err(WireError::Value { what: "offset of a part", value: 1 }));
    assert_eq!(part(64, 128, 65), Err(WireError::Value { what: "end of a part", value: 129 }));
    assert_eq!(part(0, 128, 65), Err(WireError::Value { what: "end of a part", value: 65 }));
    assert_eq!(part(u32::MAX - 63, u32::MAX, 64), Err(WireError::Value { what: "end of a part", value: 1 << 32 }));
}

fn blocks() -> impl Strategy<Value = AckBlock> {
    (any::<u32>(), 1..=u16::MAX, any::<u16>(), 0..=MAX_BITMAP_WORDS, any::<[u64; MAX_BITMAP_WORDS]>()).prop_map(
        |(largest, run, delay_us, words, mut bitmap)| {
            bitmap[words..].fill(0);
            AckBlock { largest, run, delay_us, words: words as u8, bitmap }
        },
    )
}

proptest! {
    #[test]
    fn header_round_trip(kind in 1..=5u8, blocks in 0..=3u8, ack_now: bool, flow in 1..=u64::MAX, number: u32) {
        let packet_type = [PacketType::Init, PacketType::Accept, PacketType::Retry, PacketType::Data, PacketType::Reset]
            [kind as usize - 1];
        let data = packet_type == PacketType::Data;
        let header = Header {
            packet_type,
            blocks: if data { blocks } else { 0 },
            ack_now: data && ack_now,
            flow: if packet_type == PacketType::Init { 0 } else { flow },
            number,
        };
        let mut out = [0; HEADER_LEN + 1];
        header.emit(&mut out);
        prop_assert_eq!(Header::parse(&out), Ok((header, &[0u8][..])));
    }

    #[test]
    fn data_round_trip(blocks in prop::collection::vec(blocks(), 0..=3), floor: u16, credit: u32,
                       sizes in prop::collection::vec(0..200usize, 0..5)) {
        let header = Header { packet_type: PacketType::Data, blocks: blocks.len() as u8, ack_now: false, flow: 1, number: 1 };
        let payload = [7; 200];
        let chunks: Vec<_> =
            sizes.iter().enumerate().map(|(i, &n)| Chunk::Whole { id: i as u32, payload: &payload[..n] }).collect();
        let mut out = vec![0; 4096];
        Data::emit_fixed(floor, credit, &mut out);
        let mut at = Data::FIXED_LEN;
        for block in &blocks {
            at += block.emit(&mut out[at..]);
        }
        for chunk in &chunks {
            at += chunk.emit(&mut out[at..]);
        }
        let data = Data::parse(&header, &out[..at]).unwrap();
        prop_assert_eq!((data.floor, data.credit), (floor, credit));
        prop_assert_eq!(data.blocks().collect::<Vec<_>>(), blocks);
        prop_assert_eq!(data.chunks().collect::<Vec<_>>(), chunks.clone());
        // Cut anywhere, it is an error or a shorter list of the same chunks; never a panic, never an invented chunk.
        for cut in 0..at {
            if let Ok(data) = Data::parse(&header, &out[..cut]) {
                let got: Vec<_> = data.chunks().collect();
                prop_assert!(chunks.starts_with(&got));
            }
        }
    }

    #[test]
    fn anything_parses_or_names_its_fault(bytes in prop::collection::vec(any::<u8>(), 0..1400), head: [u8; 2]) {
        let mut bytes = bytes;
        for (byte, with) in bytes.iter_mut().zip([0x10 | (head[0] % 8), head[1] & 7]) {
            *byte = with;
        }
        if let Ok((header, rest)) = Header::parse(&bytes) {
            if let Ok(data) = Data::parse(&header, rest) {
                let total: usize = data.chunks().map(|chunk| chunk.len()).sum();
                prop_assert!(total <= rest.len());
            }
            let _ = (Handshake::parse(rest), Retry::parse(rest), Reset::parse(rest));
        }
    }
}
