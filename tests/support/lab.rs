//! The segment "lab" of a daemon, without addresses, and its ports.

use super::daemon::Daemon;
use mvirt_net::proto::{
    CreateNetworkRequest, CreatePortRequest, GetPortRequest, NetworkKind, Port,
    get_port_request::Identifier,
};

/// For [`Daemon::network_with`]: a segment without addresses.
pub(crate) fn segment(request: &mut CreateNetworkRequest) {
    request.kind = NetworkKind::Switched.into();
    request.ipv4_subnet.clear();
    request.ipv6_prefix.clear();
}

/// Makes a port of "lab".
pub(crate) fn create(
    daemon: &mut Daemon,
    name: &str,
    locator: &str,
) -> Result<Port, tonic::Status> {
    let request = CreatePortRequest {
        network_id: "lab".into(),
        name: name.into(),
        locator: locator.into(),
        ..Default::default()
    };
    daemon.call(async |client| client.create_port(request).await)
}

/// Returns a port as it is now.
pub(crate) fn get(daemon: &mut Daemon, name: &str) -> Port {
    let request = GetPortRequest { identifier: Some(Identifier::Name(name.into())) };
    daemon.call(async |client| client.get_port(request).await).unwrap()
}
