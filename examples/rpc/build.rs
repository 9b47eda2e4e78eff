//! Makes the gRPC service of `tonic_greeter` from a description in Rust: no `protoc` is needed.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let method = |name: &str, route: &str| {
        let method = Method::builder().name(name).route_name(route).codec_path("tonic_prost::ProstCodec");
        method.input_type("crate::greeter::HelloRequest").output_type("crate::greeter::HelloReply")
    };
    let greeter = Service::builder()
        .package("machnet.greeter")
        .name("Greeter")
        .method(method("say_hello", "SayHello").build())
        .method(method("chat", "Chat").client_streaming().server_streaming().build())
        .build();
    Builder::new().compile(&[greeter]);
    println!("cargo::rerun-if-changed=build.rs");
}
