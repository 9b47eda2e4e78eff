//! tonic 0.14: streams tell their addresses, so that `Request::remote_addr` and `local_addr` work. What accepts them is
//! [`FlowListener::incoming`](crate::FlowListener::incoming), for `serve_with_incoming`; what connects them
//! [`MachnetConnector`](super::hyper_util01::MachnetConnector), for `connect_with_connector`.

use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::FlowStream;

impl Connected for FlowStream {
    /// TCP's: `remote_addr` looks for no other.
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: self.local_addr().ok(), remote_addr: self.peer_addr().ok() }
    }
}
