//! What goes wrong under a framework: its usual error, no hang, and a connection anew.
#![allow(clippy::print_stdout, reason = "a process says to another where it is")]

mod support;

use std::convert::Infallible;
use std::error::Error;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use machnet_async::adapters::hyper_util01::MachnetConnector;
use machnet_async::{FlowListener, FlowStream};
use machnet_examples::greeter::generated::greeter_client::GreeterClient;
use machnet_examples::greeter::generated::greeter_server::GreeterServer;
use machnet_examples::greeter::{Greeter, HelloRequest};
use support::{Server, endpoint, is_other, is_server, within_a_minute};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tower_service::Service;

type HttpClient = Client<MachnetConnector, Body>;

fn client(http2: bool) -> HttpClient {
    Client::builder(TokioExecutor::new()).http2_only(http2).build(MachnetConnector::on(endpoint("127.0.0.1")))
}

async fn text(client: &HttpClient, uri: &str) -> Result<String, Box<dyn Error>> {
    let body = client.get(uri.parse()?).await?.into_body().collect().await?;
    Ok(String::from_utf8(body.to_bytes().to_vec())?)
}

/// Long enough for h2, which takes some hundred short frames that nobody has read yet for an attack.
fn long(number: u64) -> String {
    format!("{number:0>1000}")
}

/// Answers, one of them without an end.
async fn serve_http(listener: FlowListener) {
    let forever = || async {
        let parts = stream::iter(0_u64..).then(|number| async move {
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(long(number))
        });
        Body::from_stream(parts)
    };
    let app = Router::new().route("/", get(|| async { "here" })).route("/forever", get(forever));
    axum::serve(listener, app).await.unwrap();
}

async fn serve_grpc(listener: FlowListener) {
    let server = tonic::transport::Server::builder().add_service(GreeterServer::new(Greeter));
    server.serve_with_incoming(listener.incoming()).await.unwrap();
}

#[tokio::test]
async fn an_http_server_killed_in_the_middle_of_a_response_and_restarted() {
    if let Some(listener) = is_server().await {
        return serve_http(listener).await;
    }
    const NAME: &str = "an_http_server_killed_in_the_middle_of_a_response_and_restarted";
    for http2 in [false, true] {
        within_a_minute(async {
            let mut server = Server::start(NAME, 0);
            let client = client(http2);
            let uri = format!("http://{}/forever", server.at);
            let mut body = client.get(uri.parse().unwrap()).await.unwrap().into_body();
            for _ in 0..10 {
                body.frame().await.unwrap().unwrap();
            }
            server.kill();
            let error = loop {
                if let Err(error) = body.frame().await.expect("a body that has no end") {
                    break error;
                }
            };
            // hyper wraps the stream's; that of HTTP/2 shows it in words only.
            let mut said = sources(&error).map(ToString::to_string);
            assert!(said.any(|text| text.contains("the peer stopped acknowledging")), "{error:?}");

            // Nothing is there: an error, at once.
            let uri = format!("http://{}/", server.at);
            assert!(text(&client, &uri).await.is_err());
            // There again: the client connects by itself.
            let _server = Server::start(NAME, server.at.port());
            assert_eq!(text(&client, &uri).await.unwrap(), "here");
        })
        .await;
    }
}

#[tokio::test]
async fn an_idle_pooled_connection_whose_server_was_restarted() {
    if let Some(listener) = is_server().await {
        return serve_http(listener).await;
    }
    const NAME: &str = "an_idle_pooled_connection_whose_server_was_restarted";
    for http2 in [false, true] {
        within_a_minute(async {
            let client = client(http2);
            let mut server = Server::start(NAME, 0);
            let uri = format!("http://{}/", server.at);
            assert_eq!(text(&client, &uri).await.unwrap(), "here");
            server.kill();
            let _server = Server::start(NAME, server.at.port());
            // What is sent on the old connection may fail, once; it is not in the pool after that.
            let mut failures = 0;
            while text(&client, &uri).await.is_err() {
                failures += 1;
            }
            assert!(failures <= 1, "{failures} failures");
        })
        .await;
    }
}

#[tokio::test]
async fn an_idle_grpc_channel_whose_server_was_restarted() {
    if let Some(listener) = is_server().await {
        return serve_grpc(listener).await;
    }
    const NAME: &str = "an_idle_grpc_channel_whose_server_was_restarted";
    within_a_minute(async {
        let mut server = Server::start(NAME, 0);
        let target = tonic::transport::Endpoint::try_from(format!("http://{}", server.at)).unwrap();
        let connector = MachnetConnector::on(endpoint("127.0.0.1"));
        let mut client = GreeterClient::new(target.connect_with_connector(connector).await.unwrap());
        let hello = || HelloRequest { name: "there".to_owned() };
        client.say_hello(hello()).await.unwrap();
        server.kill();
        let _server = Server::start(NAME, server.at.port());
        let mut failures = 0;
        while client.say_hello(hello()).await.is_err() {
            failures += 1;
        }
        assert!(failures <= 1, "{failures} failures");
    })
    .await;
}

#[tokio::test]
async fn a_grpc_channel_says_what_it_could_not_connect_to() {
    within_a_minute(async {
        for (uri, said) in [
            ("http://127.0.0.1", "names no port"),
            ("http://does-not-exist.invalid:80", "cannot connect to does-not-exist.invalid:80"),
        ] {
            let target = tonic::transport::Endpoint::from_static(uri);
            let error = target.connect_with_connector(MachnetConnector::new()).await.unwrap_err();
            assert!(sources(&error).any(|error| error.to_string().contains(said)), "{error:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_grpc_server_killed_in_the_middle_of_a_stream_and_restarted() {
    if let Some(listener) = is_server().await {
        return serve_grpc(listener).await;
    }
    const NAME: &str = "a_grpc_server_killed_in_the_middle_of_a_stream_and_restarted";
    within_a_minute(async {
        let mut server = Server::start(NAME, 0);
        let target = tonic::transport::Endpoint::try_from(format!("http://{}", server.at)).unwrap();
        let connector = MachnetConnector::on(endpoint("127.0.0.1"));
        let mut client = GreeterClient::new(target.connect_with_connector(connector).await.unwrap());
        let requests = stream::iter(0..).then(|number: u64| async move {
            tokio::task::yield_now().await;
            HelloRequest { name: long(number) }
        });
        let mut replies = client.chat(requests).await.unwrap().into_inner();
        for _ in 0..10 {
            replies.next().await.unwrap().unwrap();
        }
        server.kill();
        let status = loop {
            if let Err(status) = replies.next().await.expect("a stream that has no end") {
                break status;
            }
        };
        let usual = [tonic::Code::Unavailable, tonic::Code::Unknown, tonic::Code::Internal];
        assert!(usual.contains(&status.code()), "{status:?}");

        let hello = || HelloRequest { name: "again".to_owned() };
        assert_eq!(client.say_hello(hello()).await.unwrap_err().code(), tonic::Code::Unavailable);
        let _server = Server::start(NAME, server.at.port());
        // The channel connects by itself.
        let reply = client.say_hello(hello()).await.unwrap().into_inner();
        assert!(reply.message.starts_with("Hello again at "), "{}", reply.message);
    })
    .await;
}

fn sources<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

#[tokio::test]
async fn connectors_say_what_is_wrong_with_an_address() {
    within_a_minute(async {
        let mut connector = MachnetConnector::new();
        for (uri, kind, said) in [
            ("http://127.0.0.1/", Some(ErrorKind::InvalidInput), "names no port"),
            ("http://127.0.0.1:0/", Some(ErrorKind::InvalidInput), "port 0 is no address"),
            ("http://does-not-exist.invalid:80/", None, "cannot connect to does-not-exist.invalid:80"),
        ] {
            let error = connector.call(uri.parse().unwrap()).await.unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert!(kind.is_none_or(|kind| kind == error.kind()), "{error:?}");
        }
        // The client's own error has it as a source.
        let error = client(false).get("http://127.0.0.1/".parse().unwrap()).await.unwrap_err();
        assert!(error.is_connect());
        assert!(sources(&error).any(|error| error.to_string().contains("names no port")), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn ipv6_literals_and_names() {
    within_a_minute(async {
        let listener = FlowListener::bind("[::1]:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(serve_http(listener));
        let client: HttpClient = Client::builder(TokioExecutor::new()).build(MachnetConnector::new());
        assert_eq!(text(&client, &format!("http://[::1]:{port}/")).await.unwrap(), "here");

        let listener = FlowListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(serve_http(listener));
        // Also if the name leads to an IPv6 address first, where nobody listens.
        assert_eq!(text(&client, &format!("http://localhost:{port}/")).await.unwrap(), "here");
    })
    .await;
}

#[tokio::test]
async fn a_handler_that_never_reads_stops_its_client_and_nobody_else() {
    within_a_minute(async {
        let listener = FlowListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let never = |body: Body| async move {
            std::future::pending::<()>().await;
            drop(body);
        };
        let ignores = || async { "not read" };
        let app = Router::new()
            .route("/never", post(never))
            .route("/ignores", post(ignores))
            .route("/", get(|| async { "here" }));
        tokio::spawn(async move { axum::serve(listener, app).await });

        for http2 in [false, true] {
            let client = client(http2);
            let taken = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&taken);
            // 64 MiB, if anybody takes them.
            let parts = stream::iter(0..1024).map(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Infallible>(Bytes::from(vec![7; 64 << 10]))
            });
            let request = http::Request::post(format!("http://{at}/never")).body(Body::from_stream(parts)).unwrap();
            let waiting = tokio::spawn(client.request(request));
            // It goes on until it stops.
            let mut before = usize::MAX;
            while before != taken.load(Ordering::Relaxed) {
                before = taken.load(Ordering::Relaxed);
                assert_eq!(text(&client, &format!("http://{at}/")).await.unwrap(), "here");
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            }
            assert!(before < 512, "{before} of 1024 parts were taken by nobody");
            waiting.abort();

            let request = http::Request::post(format!("http://{at}/ignores"));
            let request = request.body(Body::from(vec![7; 100_000])).unwrap();
            let answer = client.request(request).await.unwrap().into_body().collect().await.unwrap();
            assert_eq!(answer.to_bytes(), "not read");
        }
    })
    .await;
}

/// Uploads without end, by HTTP/1.1 and HTTP/2.
async fn upload_for_ever(port: u16) {
    println!("at 127.0.0.1:{port}");
    let uploads = [false, true].map(|http2| {
        let parts = stream::iter(0..).then(|number| async move {
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(long(number))
        });
        let request = http::Request::post(format!("http://127.0.0.1:{port}/")).body(Body::from_stream(parts)).unwrap();
        client(http2).request(request)
    });
    let answers = futures::future::join_all(uploads).await;
    unreachable!("an upload ended: {answers:?}");
}

#[tokio::test]
async fn clients_killed_in_the_middle_of_an_upload_are_errors_of_its_handler() {
    if let Some(port) = is_other() {
        return upload_for_ever(port).await;
    }
    const NAME: &str = "clients_killed_in_the_middle_of_an_upload_are_errors_of_its_handler";
    within_a_minute(async {
        let (began, mut beginnings) = mpsc::unbounded_channel();
        let (ended, mut endings) = mpsc::unbounded_channel();
        let handler = move |mut body: Body| {
            let (began, ended) = (began.clone(), ended.clone());
            async move {
                body.frame().await.unwrap().unwrap();
                began.send(()).unwrap();
                let ending = loop {
                    match body.frame().await {
                        Some(Ok(_)) => {}
                        Some(Err(error)) => break Err(error.to_string()),
                        None => break Ok(()),
                    }
                };
                ended.send(ending).unwrap();
            }
        };
        let listener = FlowListener::from(endpoint("127.0.0.1").listen(0).await.unwrap());
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/", post(handler))).await });
        let mut clients = Server::start(NAME, port);
        for _ in 0..2 {
            beginnings.recv().await.unwrap();
        }
        clients.kill();
        for _ in 0..2 {
            // Not the end: what had arrived is not all.
            endings.recv().await.unwrap().unwrap_err();
        }
    })
    .await;
}

#[tokio::test]
async fn a_raw_peer_that_speaks_nonsense_does_not_harm_the_server() {
    within_a_minute(async {
        let listener = FlowListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(serve_grpc(listener));
        let mut nonsense = FlowStream::connect(at).await.unwrap();
        nonsense.write_all(&[0xff; 10_000]).await.unwrap();
        let mut answer = Vec::new();
        // It is answered, or not, and then let go.
        let _ = nonsense.read_to_end(&mut answer).await;
        let target = tonic::transport::Endpoint::try_from(format!("http://{at}")).unwrap();
        let channel = target.connect_with_connector(MachnetConnector::new()).await.unwrap();
        let status = GreeterClient::new(channel).say_hello(HelloRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
    })
    .await;
}
