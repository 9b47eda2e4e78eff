//! TLS by tokio-rustls over Machnet: encryption, and a server that proves who it is, with the stream as it is.
//!
//! ```sh
//! cargo run --release -p machnet-examples --example tls_echo -- demo
//! ```
//!
//! The certificate is made when the program starts and known to that process alone, so that this is both in one; `serve`
//! and `call` of two processes do not trust each other, and say so.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, ensure};
use machnet_async::{FlowListener, FlowStream};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const NAME: &str = "localhost";

#[tokio::main]
async fn main() -> ExitCode {
    let identity = match rcgen::generate_simple_self_signed([NAME.to_owned()]) {
        Ok(identity) => identity,
        Err(error) => {
            eprintln!("error: no certificate: {error}");
            return ExitCode::FAILURE;
        }
    };
    let certificate = identity.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(identity.signing_key.serialize_der());
    let trusted = certificate.clone();
    machnet_examples::run(|listener| serve(listener, certificate, key.into()), |at| call(at, trusted)).await
}

async fn serve(
    listener: FlowListener,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<()> {
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    loop {
        let (stream, peer) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let echoed = async {
                let mut tls = acceptor.accept(stream).await?;
                let (mut read, mut write) = tokio::io::split(&mut tls);
                tokio::io::copy(&mut read, &mut write).await?;
                tls.shutdown().await
            };
            if let Err(error) = echoed.await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

async fn call(at: SocketAddr, trusted: CertificateDer<'static>) -> Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted)?;
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let tls = connector.connect(ServerName::try_from(NAME)?, FlowStream::connect(at).await?).await?;
    let (mut read, mut write) = tokio::io::split(tls);
    let sent: Vec<u8> = (0..2_000_000_u32).map(|number| (number >> 4) as u8).collect();
    let mut got = Vec::new();
    let send = async {
        write.write_all(&sent).await?;
        write.shutdown().await
    };
    tokio::try_join!(send, read.read_to_end(&mut got))?;
    ensure!(got == sent, "what came back differs");
    println!("{} bytes there and back, encrypted", got.len());
    Ok(())
}
