//! The service of `tonic_greeter`. As a `.proto` file it would be:
//!
//! ```proto
//! package machnet.greeter;
//! service Greeter {
//!     rpc SayHello(HelloRequest) returns (HelloReply);
//!     rpc Chat(stream HelloRequest) returns (stream HelloReply);
//! }
//! message HelloRequest { string name = 1; }
//! message HelloReply { string message = 1; }
//! ```

use std::pin::Pin;

use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// Who is to be greeted.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HelloRequest {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// The greeting.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HelloReply {
    /// Text.
    #[prost(string, tag = "1")]
    pub message: String,
}

/// What `build.rs` made: `greeter_client`, `greeter_server`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod generated {
    include!(concat!(env!("OUT_DIR"), "/machnet.greeter.Greeter.rs"));
}

/// Greets, and says where the caller is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Greeter;

#[tonic::async_trait]
impl generated::greeter_server::Greeter for Greeter {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let from = request.remote_addr().ok_or_else(|| Status::internal("no address of the peer"))?;
        let HelloRequest { name } = request.into_inner();
        if name.is_empty() {
            return Err(Status::invalid_argument("a name is wanted"));
        }
        Ok(Response::new(HelloReply { message: format!("Hello {name} at {from}!") }))
    }

    type ChatStream = Pin<Box<dyn Stream<Item = Result<HelloReply, Status>> + Send>>;

    async fn chat(&self, request: Request<Streaming<HelloRequest>>) -> Result<Response<Self::ChatStream>, Status> {
        let answers = request.into_inner().map(|message| {
            let HelloRequest { name } = message?;
            Ok(HelloReply { message: format!("Hello {name}!") })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
