//! What makes streams and flows fit the frameworks people use, one module and Cargo feature per framework and version.
//!
//! | to use | feature | with |
//! |---|---|---|
//! | hyper's and hyper-util's clients | `hyper-util01` | `hyper_util01::MachnetConnector` |
//! | axum | `axum08` | `axum::serve(FlowListener, …)`, connect info: `axum08::FlowPeer` |
//! | tonic, server | `tonic014` | `serve_with_incoming(listener.incoming())`; `Request::remote_addr()` works |
//! | tonic, client | `tonic014` | `connect_with_connector(MachnetConnector::new())` |
//! | tarpc | `tarpc` | `tarpc::transport(flow, codec)`: messages, without a length codec |
//! | tokio-rustls, tokio-postgres (`connect_raw`), redis (`MultiplexedConnection`), `h2`, `Framed` | none | [`FlowStream`](crate::FlowStream) as it is |
//!
//! What cannot be moved, because it opens its sockets itself and takes no others: `fred`, `volo`'s servers and the client of
//! `volo-grpc` (closed enums of transports), `redis::Client` and its clusters, `tokio_postgres::connect`, and whatever
//! asks for a file descriptor. For these there is the gateway, `cargo run --release --example tcp_proxy`.

#[cfg(feature = "axum08")]
pub mod axum08;
#[cfg(feature = "hyper-util01")]
pub mod hyper_util01;
#[cfg(feature = "tarpc")]
pub mod tarpc;
#[cfg(feature = "tonic014")]
mod tonic014;
