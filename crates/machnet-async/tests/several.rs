//! Endpoints with several engines, over kernel sockets whose hash nobody knows.

use std::io::ErrorKind;
use std::net::SocketAddr;

use machnet_async::{Endpoint, Flow, Placement, Udp};

fn endpoint(engines: usize) -> Endpoint {
    Endpoint::builder().driver(Udp::bind("127.0.0.1:0").unwrap()).engines(engines).start().unwrap()
}

/// Sends back whatever comes on `flows` flows.
async fn serve(endpoint: Endpoint, flows: usize) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let mut listener = endpoint.listen(0).await.unwrap();
    let at = listener.local_addr();
    let serving = tokio::spawn(async move {
        let mut echoes = Vec::new();
        for _ in 0..flows {
            let (mut flow, _) = listener.accept().await.unwrap();
            echoes.push(tokio::spawn(async move {
                while let Some(message) = flow.recv().await.unwrap() {
                    flow.send(message).await.unwrap();
                }
            }));
        }
        for echo in echoes {
            echo.await.unwrap();
        }
    });
    (at, serving)
}

async fn talk(mut flow: Flow, name: u32) {
    for n in 0..200_u32 {
        let text = format!("{name} {n}");
        flow.send(text.clone()).await.unwrap();
        assert_eq!(flow.recv().await.unwrap().unwrap().as_slice(), text.as_bytes());
    }
}

/// Every flow works, whatever queue its packets hit; flows of the client are spread; and the end is the end of all.
#[tokio::test]
async fn flows_between_any_numbers_of_engines() {
    for (clients, servers) in [(4, 4), (1, 3), (3, 1), (2, 5)] {
        let (client, server) = (endpoint(clients), endpoint(servers));
        let (at, serving) = serve(server.clone(), 12).await;
        let mut flows = Vec::new();
        for name in 0..12 {
            flows.push((client.connect(at).await.unwrap(), name));
        }
        let talks: Vec<_> = flows.into_iter().map(|(flow, name)| tokio::spawn(talk(flow, name))).collect();
        for talk in talks {
            talk.await.unwrap();
        }
        serving.await.unwrap();
        client.shutdown().await.unwrap();
        server.shutdown().await.unwrap();
        let (each, sum) = (client.engine_stats(), client.stats());
        assert_eq!(each.len(), clients);
        // Three flows each, or more: none without.
        assert!(each.iter().all(|stats| stats.packets_sent > 3 * 200 || clients == 1), "{each:?}");
        for stats in [sum, server.stats()] {
            assert_eq!((stats.handed_over, stats.flows), (stats.taken_over, 0), "{clients} and {servers}: {stats:?}");
        }
    }
}

/// What is left of an endpoint is one flow, at one engine: the others go on handing over for it.
#[tokio::test]
async fn the_last_flow_keeps_all_engines() {
    let (client, server) = (endpoint(4), endpoint(4));
    let (at, serving) = serve(server.clone(), 1).await;
    let flow = client.connect(at).await.unwrap();
    drop((client, server));
    talk(flow, 0).await;
    serving.await.unwrap();
}

#[tokio::test]
async fn a_listener_is_at_all_engines_and_leaves_them_all() {
    let server = endpoint(3);
    let mut first = None;
    for _ in 0..5 {
        let listener = server.listen(0).await.unwrap();
        let at = listener.local_addr();
        first.get_or_insert(at);
        let taken = server.listen(at.port()).await.unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        drop(listener);
        // As soon as each engine has heard of it.
        while server.listen(at.port()).await.is_err() {
            tokio::task::yield_now().await;
        }
    }
    // Each engine has heard that the first one left: it has opened others since. Of the last one it may hear after this packet.
    let refused = endpoint(2).connect(first.unwrap()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn numbers_that_cannot_be_are_named() {
    let start = |engines, placement| {
        let driver = Udp::bind("127.0.0.1:0").unwrap();
        Endpoint::builder().driver(driver).engines(engines).placement(placement).start().unwrap_err()
    };
    for engines in [0, 65] {
        let error = start(engines, Placement::Thread);
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(&format!("{engines} engines: there may be 1 to 64")), "{error}");
    }
    assert_eq!(start(2, Placement::Inline).kind(), ErrorKind::InvalidInput);
    let driver = shared_memory();
    let error = Endpoint::builder().driver(driver).engines(2).start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("cannot be divided among 2"), "{error}");
}

fn shared_memory() -> machnet_async::Shm {
    machnet_async::Shm::bind(&format!("several-{}", std::process::id())).unwrap()
}
