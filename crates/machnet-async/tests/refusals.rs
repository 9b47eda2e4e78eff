//! Bad input of every kind: clear errors, and nothing else is harmed.

mod support;

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use machnet_async::{CloseReason, Config, Endpoint, FlowError, SendErrorReason, Udp};
use support::{Pair, V4, content, echo, endpoint, endpoint_at, engine_stats, free_port, open, pair, pair_with, run};

fn reason(error: &std::io::Error) -> CloseReason {
    error.get_ref().and_then(|source| source.downcast_ref::<FlowError>()).expect("a FlowError as source").reason()
}

#[test]
fn connect_is_refused_where_nobody_has_the_port() {
    run(|| async {
        // Of another host, where there are two.
        let there = endpoint();
        let nobody = SocketAddr::new(there.local_addr().ip(), free_port().port());
        let error = endpoint().connect(nobody).await.unwrap_err();
        assert_eq!((error.kind(), reason(&error)), (ErrorKind::ConnectionRefused, CloseReason::Refused));
    });
}

#[test]
fn connect_is_refused_where_an_endpoint_does_not_listen() {
    run(|| async {
        let silent = endpoint();
        let error = endpoint().connect(silent.local_addr()).await.unwrap_err();
        assert_eq!((error.kind(), reason(&error)), (ErrorKind::ConnectionRefused, CloseReason::Refused));
    });
}

#[test]
fn connect_times_out_where_nothing_answers() {
    run(|| async {
        let silent = UdpSocket::bind((V4, 0)).unwrap();
        let mut config = Config::default();
        config.connect_timeout = Duration::from_millis(200);
        let endpoint = endpoint_at(V4, config);
        let error = endpoint.connect(silent.local_addr().unwrap()).await.unwrap_err();
        assert_eq!((error.kind(), reason(&error)), (ErrorKind::TimedOut, CloseReason::ConnectTimeout));
        // Something did arrive there.
        silent.set_nonblocking(true).unwrap();
        assert!(silent.recv(&mut [0; 2000]).unwrap() > 0);
    });
}

#[test]
fn connect_to_the_other_family_is_unreachable() {
    run(|| async {
        let error = endpoint().connect("[::1]:9".parse().unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HostUnreachable);
    });
}

/// The kernel's sockets know it at once, and so does who waits.
#[test]
fn connect_where_no_route_leads_is_unreachable() {
    run(|| async {
        let mut config = Config::default();
        config.connect_timeout = Duration::from_hours(1);
        let endpoint = Endpoint::builder().driver(Udp::bind((V4, 0)).unwrap()).config(config).start().unwrap();
        // From a loopback address nothing leaves the host.
        let error = endpoint.connect("203.0.113.1:9".parse().unwrap()).await.unwrap_err();
        assert_eq!((error.kind(), reason(&error)), (ErrorKind::HostUnreachable, CloseReason::Unreachable));
    });
}

#[test]
fn a_message_over_the_maximum_comes_back_and_the_limit_is_named() {
    run(|| async {
        let Pair { mut near, far, .. } = pair().await;
        let limit = near.max_message_size();
        assert_eq!(limit, 64 << 20);
        let server = tokio::spawn(echo(far));
        let error = near.send(vec![1; limit + 1]).await.unwrap_err();
        assert_eq!(error.reason(), SendErrorReason::TooLarge { len: limit + 1, limit });
        assert!(error.to_string().contains("67108864"), "{error}");
        assert_eq!(error.into_message().len(), limit + 1);
        // The flow is as good as before.
        near.send(vec![1; limit]).await.unwrap();
        assert_eq!(near.recv().await.unwrap().unwrap().len(), limit);
        near.close().await.unwrap();
        server.await.unwrap();
    });
}

#[test]
fn a_port_in_use_is_named() {
    run(|| async {
        let a = endpoint();
        let listener = a.listen(0).await.unwrap();
        let port = listener.local_addr().port();
        let foreign = UdpSocket::bind((V4, 0)).unwrap();
        let taken = foreign.local_addr().unwrap().port();
        for (endpoint, port) in [(&a, port), (&endpoint(), port), (&a, taken)] {
            let error = endpoint.listen(port).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
            assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
        }
        // Given up, it is free again.
        drop(listener);
        loop {
            match a.listen(port).await {
                Ok(listener) => break drop(listener),
                Err(error) => assert_eq!(error.kind(), ErrorKind::AddrInUse),
            }
        }
    });
}

#[test]
fn an_address_that_cannot_be_is_refused() {
    for (address, kind) in [
        ("nonsense", ErrorKind::InvalidInput),
        ("127.0.0.1:99999", ErrorKind::InvalidInput),
        ("192.0.2.1:0", ErrorKind::AddrNotAvailable),
    ] {
        let error = Udp::bind(address).unwrap_err();
        assert_eq!(error.kind(), kind, "{address}: {error}");
        assert!(error.to_string().contains(address), "{error}");
    }
}

#[test]
fn a_configuration_that_contradicts_itself_is_refused() {
    let mut config = Config::default();
    config.max_message = 65 << 20;
    let error = Endpoint::builder().driver(Udp::bind((V4, 0)).unwrap()).config(config).start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("max_message"), "{error}");
}

#[test]
fn random_bytes_are_counted_and_nothing_else() {
    run(|| async {
        const DATAGRAMS: u64 = 300;
        let Pair { mut near, far, server, mut listener, client } = pair().await;
        let (ports, serving) = ([listener.local_addr(), server.local_addr()], tokio::spawn(echo(far)));
        let stranger = UdpSocket::bind((V4, 0)).unwrap();
        let mut echoed = 0;
        let mut rounds = async |near: &mut machnet_async::Flow| {
            echoed += 1;
            let message = content(echoed, 100);
            near.send(message.clone()).await.unwrap();
            assert_eq!(near.recv().await.unwrap().unwrap(), message);
        };
        for number in 0..DATAGRAMS {
            let bytes = content(1000 + number, (number * 37 % 1400) as usize);
            stranger.send_to(&bytes, ports[number as usize % 2]).unwrap();
            rounds(&mut near).await;
        }
        // Counted, once the engine has published its counters.
        while engine_stats(&server).drops.total() < DATAGRAMS {
            rounds(&mut near).await;
        }
        // And nothing else: the flow goes on, another one opens, no flow came of it.
        let (another, other_end) = open(&client, &mut listener).await;
        drop((another, other_end));
        near.close().await.unwrap();
        serving.await.unwrap();
    });
}

#[test]
fn the_smaller_maximum_of_both_sides_counts() {
    run(|| async {
        let mut small = Config::default();
        small.max_message = 1000;
        let server = endpoint_at(V4, small);
        let mut listener = server.listen(0).await.unwrap();
        let (mut near, mut far) = open(&endpoint(), &mut listener).await;
        assert_eq!((near.max_message_size(), far.max_message_size()), (1000, 1000));
        near.send(vec![0; 1000]).await.unwrap();
        assert_eq!(far.recv().await.unwrap().unwrap().len(), 1000);
        let error = near.send(vec![0; 1001]).await.unwrap_err();
        assert_eq!(error.reason(), SendErrorReason::TooLarge { len: 1001, limit: 1000 });
    });
}

#[test]
fn limits_of_one_message_still_work() {
    run(|| async {
        let mut config = Config::default();
        // A message costs units for itself, too: a window of just its bytes is refused.
        config.receive_window = config.max_message + 128;
        config.send_buffer = config.max_message + 128;
        let Pair { mut near, far, .. } = pair_with(V4, config).await;
        let server = tokio::spawn(echo(far));
        for _ in 0..3 {
            near.send(vec![9; 1 << 20]).await.unwrap();
            assert_eq!(near.recv().await.unwrap().unwrap().len(), 1 << 20);
        }
        near.close().await.unwrap();
        server.await.unwrap();
    });
}

#[test]
fn all_of_it_over_two_daemons() {
    support::sidecar::again_over_two_daemons(&[]);
}

#[test]
fn all_of_it_over_joined_daemons() {
    support::sidecar::again_over_joined_daemons(&[
        "a_port_in_use_is_named",
        "connect_times_out_where_nothing_answers",
        "limits_of_one_message_still_work",
        "random_bytes_are_counted_and_nothing_else",
        "the_smaller_maximum_of_both_sides_counts",
    ]);
}
