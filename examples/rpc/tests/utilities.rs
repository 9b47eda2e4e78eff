//! tokio's own tools on streams of either transport, behind one code path.

mod support;

use std::sync::Arc;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use machnet_async::transport::{Acceptor, Address, ByteStream, Connector, FlowConnector, Kind};
use support::{endpoint, within_a_minute};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, BufStream};
use tokio_util::codec::{Framed, LengthDelimitedCodec, LinesCodec};

const SCHEMES: [&str; 2] = ["tcp", "machnet"];

async fn pair(scheme: &str) -> (Box<dyn ByteStream>, Box<dyn ByteStream>, Arc<dyn Acceptor>) {
    let address: Address = format!("{scheme}://127.0.0.1:0").parse().unwrap();
    let acceptor = address.listen().await.unwrap();
    let to: Address = format!("{scheme}://{}", acceptor.local_addr().unwrap()).parse().unwrap();
    let (near, far) = tokio::join!(to.connect(), acceptor.accept());
    let (near, (far, peer)) = (near.unwrap(), far.unwrap());
    assert_eq!(peer, near.local_addr().unwrap());
    assert_eq!((far.peer_addr().unwrap(), far.local_addr().unwrap()), (peer, near.peer_addr().unwrap()));
    (near, far, acceptor)
}

#[tokio::test]
async fn lines() {
    for scheme in SCHEMES {
        within_a_minute(async {
            let (near, far, _acceptor) = pair(scheme).await;
            let mut near = BufStream::new(near);
            let server = tokio::spawn(async move {
                let (read, mut write) = tokio::io::split(far);
                let mut lines = BufReader::new(read).lines();
                while let Some(line) = lines.next_line().await.unwrap() {
                    write.write_all(line.to_uppercase().as_bytes()).await.unwrap();
                    write.write_all(b"\n").await.unwrap();
                }
            });
            for number in 0..200 {
                near.write_all(format!("line {number}\n").as_bytes()).await.unwrap();
                near.flush().await.unwrap();
                let mut answer = String::new();
                near.read_line(&mut answer).await.unwrap();
                assert_eq!(answer, format!("LINE {number}\n"));
            }
            near.shutdown().await.unwrap();
            assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
            server.await.unwrap();
        })
        .await;
    }
}

#[tokio::test]
async fn framed_codecs() {
    for scheme in SCHEMES {
        within_a_minute(async {
            let (near, far, _acceptor) = pair(scheme).await;
            let (mut near, mut far) = (Framed::new(near, LinesCodec::new()), Framed::new(far, LinesCodec::new()));
            near.send("a line").await.unwrap();
            assert_eq!(far.next().await.unwrap().unwrap(), "a line");
            let codec = || LengthDelimitedCodec::builder().max_frame_length(1 << 24).new_codec();
            let mut near = near.map_codec(|_| codec());
            let mut far = far.map_codec(|_| codec());
            let frames: Vec<Bytes> = (0..40).map(|number| vec![number as u8; number * number * 100].into()).collect();
            let send = async {
                for frame in &frames {
                    near.feed(frame.clone()).await.unwrap();
                }
                SinkExt::<Bytes>::close(&mut near).await.unwrap();
            };
            let (got, ()) = tokio::join!(far.by_ref().map(|frame| frame.unwrap().freeze()).collect::<Vec<_>>(), send);
            assert!(got == frames);
        })
        .await;
    }
}

#[tokio::test]
async fn errors_name_the_address_on_either_transport() {
    within_a_minute(async {
        // Ports that nobody else can have meanwhile: the end of a connection listens to nobody, and a UDP socket that is connected is
        // there for its peer only.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let [udp, peer] = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        udp.connect(peer.local_addr().unwrap()).unwrap();
        for (kind, closed) in [(Kind::Tcp, stream.local_addr()), (Kind::Machnet, udp.local_addr())] {
            let closed = closed.unwrap().to_string();
            let error = kind.connector().connect(&closed).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
            assert!(error.to_string().starts_with(&format!("cannot connect to {closed}: ")), "{error}");
        }
        for scheme in SCHEMES {
            let (_near, _far, acceptor) = pair(scheme).await;
            let taken: Address = format!("{scheme}://{}", acceptor.local_addr().unwrap()).parse().unwrap();
            let error = taken.listen().await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{error}");
            assert!(error.to_string().contains(taken.at()), "{error}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_connector_of_an_endpoint_connects_from_it() {
    within_a_minute(async {
        let address: Address = "machnet://127.0.0.1:0".parse().unwrap();
        let acceptor = address.listen().await.unwrap();
        let from = endpoint("127.0.0.1");
        let connector: Arc<dyn Connector> = Arc::new(FlowConnector::on(from.clone()));
        let stream = connector.connect(&acceptor.local_addr().unwrap().to_string()).await.unwrap();
        assert_eq!(stream.local_addr().unwrap(), from.local_addr());
    })
    .await;
}
