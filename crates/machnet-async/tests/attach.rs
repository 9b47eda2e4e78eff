//! Endpoints attached to a daemon.

mod support;

use machnet_async::{Config, Endpoint};
use support::sidecar::daemon;
use support::{content, echo, run};

#[test]
fn messages_there_and_back_between_two_daemons() {
    run(|| async {
        let (here, there) = (daemon(Config::default()), daemon(Config::default()));
        let (client, server) = (Endpoint::attach(here.socket()).unwrap(), Endpoint::attach(there.socket()).unwrap());
        assert_eq!((client.local_addr(), server.local_addr()), (here.home(), there.home()));
        let mut listener = server.listen(0).await.unwrap();
        let to = listener.local_addr();
        let serving = tokio::spawn(async move {
            let (flow, _) = listener.accept().await.unwrap();
            echo(flow).await;
        });
        let mut flow = client.connect(to).await.unwrap();
        for (number, len) in [0, 1, 64, 1200, 16_640, 16_641, 70_000, 1 << 20].into_iter().enumerate() {
            let message = content(number as u64, len);
            flow.send(message.clone()).await.unwrap();
            assert_eq!(flow.recv().await.unwrap().unwrap(), message, "{len} bytes");
        }
        flow.finish();
        assert!(flow.recv().await.unwrap().is_none());
        flow.close().await.unwrap();
        serving.await.unwrap();
        client.shutdown().await.unwrap();
        server.shutdown().await.unwrap();
    });
}
