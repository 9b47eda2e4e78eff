//! Lengths, addresses, ports.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use machnet_channel::Region;
use machnet_core::{DropReason, Meta, TxPacket};

use crate::bench::{Bench, Outcome, Stop, must, payload};
use crate::{PATIENCE, Subject};

pub(super) fn lengths(subject: &dyn Subject) -> Outcome {
    let mut bench = Bench::of(subject)?;
    let longest = bench.driver(0).capabilities().max_payload as usize;
    must!(longest >= 1232, "a path that carries {longest} bytes opens no flow");
    let edges = [0, 1, 2, 3, 4, 16, 17, 18, 19, 20, 63, 64, 65, 255, 256, 1231, 1232, longest - 1, longest];
    for side in [0, 1] {
        let payloads: Vec<_> = edges.iter().map(|&len| payload(9, len)).collect();
        bench.exchange(side, &payloads)?;
        // Zeros and ones: sums that are special.
        bench.exchange(side, &[vec![0; 100], vec![0xff; 100], vec![0; 101], vec![0xff; longest]])?;
    }
    bench.all_home()
}

pub(super) fn too_long(subject: &dyn Subject) -> Outcome {
    let mut bench = Bench::of(subject)?;
    let longest = bench.driver(0).capabilities().max_payload as usize;
    // In memory of the sender's: a driver's own frames need not be so long.
    let Ok((_region, mut pool)) = Region::anonymous(70_000, 4) else {
        return Err(Stop::Wrong("no memory".to_owned()));
    };
    // Who receives counts it if it was too long for him only.
    let lost = |bench: &mut Bench| bench.drops(0).total() + bench.drops(1).total();
    let before = lost(&mut bench);
    let mut count = 0;
    for len in [longest + 1, 65_507] {
        if len <= longest {
            continue;
        }
        let Some(frame) = pool.take() else { break };
        let (local, remote) = (bench.home(0), bench.home(1));
        let long = TxPacket {
            meta: Meta { local, remote, queue: 0 },
            payload: frame.share(100..100 + len as u32),
            tail: None,
        };
        let mut batch = VecDeque::from([bench.built(0, &payload(1, 50))?, long, bench.built(0, &payload(2, 50))?]);
        bench.push(0, &mut batch)?;
        count += 1;
        let got = bench.await_some(1, 2)?;
        must!(
            got.len() == 2 && got[0].bytes() == payload(1, 50) && got[1].bytes() == payload(2, 50),
            "its neighbours suffered"
        );
    }
    bench.silent(1)?;
    let counted = lost(&mut bench) - before;
    must!(counted == count, "{count} were lost, and {counted} counted: {:?}", [bench.drops(0), bench.drops(1)]);
    for _ in 0..PATIENCE {
        if pool.free() == 4 {
            return bench.all_home();
        }
        bench.rig.give_back();
        bench.rig.step();
    }
    Err(Stop::Wrong(format!("{} of the sender's 4 frames came home", pool.free())))
}

pub(super) fn long_arrival(subject: &dyn Subject) -> Outcome {
    let mut bench = Bench::of(subject)?;
    let longest = bench.driver(1).capabilities().max_payload as usize;
    for len in [longest + 1, longest + 1000] {
        let before = bench.drops(1);
        if len > 65_507 || !bench.rig.bring(len) {
            return Err(Stop::NotApplicable("nothing longer can be brought"));
        }
        bench.silent(1)?;
        let drops = bench.drops(1);
        let oversized = drops.get(DropReason::Oversized) - before.get(DropReason::Oversized);
        must!(oversized == 1, "of {len} bytes: {drops:?} counted");
        bench.exchange(0, &[payload(1, longest)])?;
    }
    bench.all_home()
}

pub(super) fn addresses(subject: &dyn Subject) -> Outcome {
    let mut bench = Bench::of(subject)?;
    let homes = [bench.home(0), bench.home(1)];
    must!(homes.iter().all(|home| home.port() != 0), "homes without ports: {homes:?}");
    let nowhere: IpAddr = if homes[0].is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    for local in [homes[0], SocketAddr::new(nowhere, homes[0].port())] {
        let packet = bench.packet_to(0, Meta { local, remote: homes[1], queue: 0 }, &payload(1, 100));
        must!(packet.is_some(), "no frame");
        let mut batch: VecDeque<_> = packet.into_iter().collect();
        bench.push(0, &mut batch)?;
        let got = bench.await_some(1, 1)?;
        let Meta { local, remote, .. } = got[0].meta;
        must!(local == homes[1] && remote == homes[0], "from {remote} to {local}, and the homes are {homes:?}");
    }
    bench.all_home()
}

pub(super) fn ports(subject: &dyn Subject) -> Outcome {
    let mut bench = Bench::of(subject)?;
    let open = |bench: &mut Bench, port| {
        bench.driver(1).open(port).map_err(|error| Stop::Wrong(format!("port {port} does not open: {error}")))
    };
    let (one, two) = (open(&mut bench, 0)?, open(&mut bench, 0)?);
    must!(one.port() != 0 && one.port() != two.port() && one != bench.home(1), "{one} and {two} were opened");
    must!(open(&mut bench, one.port())? == one, "opened again, it is another");
    let send = |bench: &mut Bench, remote: SocketAddr| -> Outcome {
        let local = bench.home(0);
        let packet = bench.packet_to(0, Meta { local, remote, queue: 0 }, &payload(1, 100));
        let mut batch: VecDeque<_> = packet.into_iter().collect();
        bench.push(0, &mut batch)
    };
    for closed in 0..2 {
        for remote in [one, two] {
            send(&mut bench, remote)?;
            let got = bench.await_some(1, 1)?;
            must!(got[0].meta.local == remote, "to {remote}, and it says {}", got[0].meta.local);
        }
        if closed == 0 {
            bench.driver(1).close(one.port());
        }
    }
    bench.driver(1).close(one.port());
    bench.driver(1).close(two.port());
    let home = bench.home(1);
    send(&mut bench, home)?;
    bench.await_some(1, 1)?;
    bench.all_home()
}

pub(super) fn unreachable(subject: &dyn Subject) -> Outcome {
    if !subject.says_unreachable() {
        return Err(Stop::NotApplicable("nobody answers for closed ports"));
    }
    let mut bench = Bench::of(subject)?;
    let opened = bench.driver(1).open(0);
    let Ok(remote) = opened else { return Err(Stop::Wrong(format!("no free port: {opened:?}"))) };
    bench.driver(1).close(remote.port());
    let local = bench.home(0);
    let packet = bench.packet_to(0, Meta { local, remote, queue: 0 }, &payload(77, 1232));
    let mut batch: VecDeque<_> = packet.into_iter().collect();
    bench.push(0, &mut batch)?;
    for _ in 0..PATIENCE {
        bench.rig.step();
        must!(bench.receive(1, 32).is_empty() && bench.receive(0, 32).is_empty(), "it came as a datagram");
        if let Some(said) = bench.driver(0).unreachable() {
            must!(said.remote == remote, "{} is said to be unreachable, not {remote}", said.remote);
            must!(
                said.quoted[..]
                    == payload(77, 16)[..4]
                        .iter()
                        .copied()
                        .chain(payload(77, 1232)[4..16].iter().copied())
                        .collect::<Vec<_>>()[..],
                "it quotes {:?}",
                said.quoted
            );
            return bench.all_home();
        }
    }
    Err(Stop::Wrong("nothing is said".to_owned()))
}
