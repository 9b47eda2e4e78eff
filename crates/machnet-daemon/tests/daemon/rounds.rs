//! Applications that come and go, ten thousand times.

use machnet_channel::Intent;

use crate::client::{Client, echo, pair};
use crate::stage::{Stage, descriptors, until};

/// They leave at any point, without a word. What they had is free again, and an honest pair goes on meanwhile.
#[test]
fn ten_thousand_come_and_go_and_leave_nothing() {
    come_and_go(1, 10_000);
}

/// By one engine or the other, as it comes.
#[test]
fn they_leave_nothing_at_any_of_two_engines() {
    come_and_go(2, 2_000);
}

fn come_and_go(engines: usize, rounds: u32) {
    let stage = Stage::alone_with(engines);
    let (mut server, mut client, accepted, flow) = pair(&stage.socket());
    let address = *server.listeners.values().next().unwrap().as_ref().unwrap();
    let taken = stage.stat()["memory"]["taken"].clone();
    let before = descriptors();
    for round in 0..rounds {
        let mut visitor = Client::attached(&stage.socket());
        if round % 4 > 0 {
            let visit = visitor.connect(address);
            if round % 4 > 1 {
                until(|| {
                    server.look();
                    visitor.look();
                    visitor.is_open(visit)
                });
                visitor.send(visit, &[1; 500]);
            }
            if round % 8 > 5 {
                visitor.intend(visit, Intent::FIN);
            }
        } else if round % 8 > 0 {
            visitor.side.listen(0, 8, machnet_channel::FlowOptions::new()).unwrap();
            visitor.show();
        }
        drop(visitor);
        server.look();
        if round % 500 == 0 {
            echo(&mut server, &mut client, accepted, flow, 3);
        }
    }
    let stat = stage.until(|stat| {
        let visitors = stat["applications"].as_array().unwrap().len();
        visitors == 2 && stat["engine"]["flows"].as_u64() <= Some(2) && stat["ended"]["gone"] == rounds
    });
    assert_eq!(stat["memory"]["taken"], taken);
    until(|| descriptors() <= before + 1);
    echo(&mut server, &mut client, accepted, flow, 100);
    // Those of the visitors it had accepted were reset, each.
    until(|| {
        server.look();
        server.accepted().iter().all(|slot| *slot == accepted || server.flows[slot].ended.is_some())
    });
}
