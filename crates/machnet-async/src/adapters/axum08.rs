//! axum 0.8: [`FlowListener`] is a `Listener` for `axum::serve`, and [`FlowPeer`] the connect info.
//!
//! ```no_run
//! use axum::{Router, extract::ConnectInfo, routing::get};
//! use machnet_async::{FlowListener, adapters::axum08::FlowPeer};
//!
//! # async fn example() -> std::io::Result<()> {
//! let app = Router::new().route("/", get(|ConnectInfo(peer): ConnectInfo<FlowPeer>| async move { format!("hello, {}", peer.0) }));
//! let listener = FlowListener::bind("10.0.0.2:8080").await?;
//! axum::serve(listener, app.into_make_service_with_connect_info::<FlowPeer>()).await
//! # }
//! ```

use std::io;
use std::net::SocketAddr;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};

use crate::{FlowListener, FlowStream};

/// The peer's address, as `ConnectInfo`. A type of this crate: only that one can be made of a stream of this crate's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowPeer(pub SocketAddr);

impl Listener for FlowListener {
    type Io = FlowStream;
    type Addr = SocketAddr;

    /// Never returns once the endpoint was shut down: axum has no word for a listener that ended. Use
    /// `with_graceful_shutdown` to end the server.
    async fn accept(&mut self) -> (FlowStream, SocketAddr) {
        match Self::accept(self).await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "no longer listening");
                std::future::pending().await
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }
}

impl Connected<IncomingStream<'_, FlowListener>> for FlowPeer {
    fn connect_info(stream: IncomingStream<'_, FlowListener>) -> Self {
        Self(*stream.remote_addr())
    }
}
