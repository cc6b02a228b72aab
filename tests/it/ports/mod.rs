//! Ports of the daemon, with the peers that they are for.

mod connections;
mod gateway;
mod machines;

use crate::daemon::Daemon;
use mvirt_net::proto::{
    CreateNetworkRequest, CreatePortRequest, GetPortRequest, NetworkKind, Port,
    get_port_request::Identifier,
};

/// Makes the segment "lab", which has no gateway.
fn lab(daemon: &mut Daemon) {
    daemon.network_with("lab", |request: &mut CreateNetworkRequest| {
        request.kind = NetworkKind::Switched.into();
        request.ipv4_subnet.clear();
        request.ipv6_prefix.clear();
    });
}

fn create(daemon: &mut Daemon, name: &str, locator: &str) -> Port {
    let request = CreatePortRequest {
        network_id: "lab".into(),
        name: name.into(),
        locator: locator.into(),
        ..Default::default()
    };
    daemon.call(async |client| client.create_port(request).await).unwrap()
}

fn get(daemon: &mut Daemon, name: &str) -> Port {
    let request = GetPortRequest { identifier: Some(Identifier::Name(name.into())) };
    daemon.call(async |client| client.get_port(request).await).unwrap()
}
