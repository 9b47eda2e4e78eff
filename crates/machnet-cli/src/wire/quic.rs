//! `quic://`: quinn. Flows are streams of a connection, up to a hundred of each; whoever connects and closes makes a connection each time.
//!
//! The server's certificate is its own, and clients take any: what is measured includes encryption, which QUIC cannot do
//! without, but trust is not the subject. Windows and socket buffers are as large as Machnet's, so that they are not what
//! limits it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, EndpointConfig, RecvStream, SendStream, TransportConfig, VarInt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::sync::{Mutex, mpsc};

use super::framed::{Calm, FramedRx, FramedTx, framed};
use super::{Link, Listener, Setup, Side, Wire};

/// The name that clients ask for.
const NAME: &str = "machnet-perf";
/// What a connection, and each of its streams, may have underway, bytes.
const WINDOW: u32 = 8 << 20;
const SOCKET_BUFFER: usize = 4 << 20;
/// Streams of one connection: quinn's default. It keeps a record for each from the start, so that many make connecting
/// slow; who needs more flows opens another connection.
const STREAMS: u32 = 100;
/// What Ethernet carries: quinn would find it out, later.
const MTU: u16 = 1452;
/// Streams that may wait to be accepted.
const BACKLOG: usize = 1024;

pub(crate) struct Quic {
    endpoint: quinn::Endpoint,
    at: SocketAddr,
    /// The newest connection, and how many streams it has.
    newest: Mutex<Option<(Connection, u32)>>,
}

impl Quic {
    pub(crate) fn open(at: SocketAddr, setup: &Setup, side: Side) -> anyhow::Result<Self> {
        let transport = Arc::new(transport(setup.timeout)?);
        let any: IpAddr = if at.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let (local, server) = match side {
            Side::Server => (at, Some(server(transport.clone())?)),
            Side::Client => ((setup.bind.unwrap_or(any), 0).into(), None),
        };
        let socket = UdpSocket::bind(local).with_context(|| format!("cannot bind to {local}"))?;
        let buffers = socket2::SockRef::from(&socket);
        buffers.set_recv_buffer_size(SOCKET_BUFFER)?;
        buffers.set_send_buffer_size(SOCKET_BUFFER)?;
        let runtime = Arc::new(quinn::TokioRuntime);
        let mut endpoint = quinn::Endpoint::new(EndpointConfig::default(), server, socket, runtime)?;
        endpoint.set_default_client_config(client(transport)?);
        Ok(Self { endpoint, at, newest: Mutex::default() })
    }

    async fn new_connection(&self) -> io::Result<Connection> {
        self.endpoint.connect(self.at, NAME).map_err(io::Error::other)?.await.map_err(io::Error::from)
    }
}

fn transport(timeout: Duration) -> anyhow::Result<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(timeout.try_into().context("the timeout is too long for QUIC")?))
        .keep_alive_interval(Some(timeout / 4))
        .initial_mtu(MTU)
        .max_concurrent_bidi_streams(STREAMS.into())
        .stream_receive_window(WINDOW.into())
        .receive_window(VarInt::from_u32(4 * WINDOW))
        .send_window(u64::from(4 * WINDOW));
    Ok(transport)
}

fn server(transport: Arc<TransportConfig>) -> anyhow::Result<quinn::ServerConfig> {
    let certified = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let mut config = quinn::ServerConfig::with_single_cert(vec![certified.cert.into()], key.into())?;
    config.transport_config(transport);
    Ok(config)
}

fn client(transport: Arc<TransportConfig>) -> anyhow::Result<quinn::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let crypto = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        .with_no_client_auth();
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(crypto)?));
    config.transport_config(transport);
    Ok(config)
}

/// Takes any certificate, whoever it names; signatures are checked.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl Calm for RecvStream {}

impl Wire for Quic {
    type Message = Bytes;
    type Tx = FramedTx<SendStream>;
    type Rx = FramedRx<RecvStream>;
    type Listener = QuicListening;

    async fn listen(&self) -> io::Result<QuicListening> {
        let (tell, links) = mpsc::channel(BACKLOG);
        tokio::spawn(accept_all(self.endpoint.clone(), tell));
        Ok(QuicListening { at: self.endpoint.local_addr()?, links })
    }

    async fn connect(&self) -> io::Result<Link<Self>> {
        let mut newest = self.newest.lock().await;
        let (connection, streams) = match newest.take() {
            Some((connection, streams)) if streams < STREAMS => (connection, streams),
            // Its streams keep the one before alive.
            _ => (self.new_connection().await?, 0),
        };
        let (tx, rx) = connection.open_bi().await?;
        *newest = Some((connection, streams + 1));
        Ok(framed(rx, tx))
    }

    /// The server need not end it: a QUIC connection is closed by one side.
    async fn come_and_go(&self) -> io::Result<()> {
        self.new_connection().await?.close(VarInt::from_u32(0), b"");
        Ok(())
    }

    async fn shut_down(&self) -> io::Result<()> {
        self.endpoint.close(VarInt::from_u32(0), b"");
        self.endpoint.wait_idle().await;
        Ok(())
    }
}

/// Hands on the streams of all connections, until nobody takes them any more.
async fn accept_all(endpoint: quinn::Endpoint, tell: mpsc::Sender<Link<Quic>>) {
    while let Some(incoming) = endpoint.accept().await {
        let tell = tell.clone();
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            while let Ok((tx, rx)) = connection.accept_bi().await {
                if tell.send(framed(rx, tx)).await.is_err() {
                    break;
                }
            }
        });
    }
}

pub(crate) struct QuicListening {
    links: mpsc::Receiver<Link<Quic>>,
    at: SocketAddr,
}

impl Listener<Quic> for QuicListening {
    fn url(&self) -> String {
        format!("quic://{}", self.at)
    }

    async fn accept(&mut self) -> io::Result<Link<Quic>> {
        self.links.recv().await.ok_or_else(|| io::Error::other("the QUIC endpoint is closed"))
    }
}
