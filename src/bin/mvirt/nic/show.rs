//! What people see of a vNIC.

use crate::{
    Failure, impair, mask,
    output::{Cell, Output},
    rate,
    units::{ago, counted, local},
};
use mvirt_net::proto::{Addressing, Nic, PortSecurity, Transport};

/// Prints a vNIC.
pub(super) fn nic(nic: &Nic, out: &Output) -> Result<(), Failure> {
    let routes = [&nic.routed_ipv4_prefixes[..], &nic.routed_ipv6_prefixes[..]].concat();
    let addressing = match nic.addressing() {
        Addressing::Subnet => "subnet",
        Addressing::Host | Addressing::Unspecified => "host",
    };
    // In routed networks it is as always.
    let security = match nic.port_security() {
        PortSecurity::Unspecified | PortSecurity::Strict => String::new(),
        PortSecurity::MacOnly => "mac-only".into(),
        PortSecurity::Off => format!("off, {}", counted(nic.mac_limit.into(), "MAC")),
    };
    let guest = nic.guest.clone().unwrap_or_default();
    let access =
        [("owner", &nic.socket_owner), ("group", &nic.socket_group), ("mode", &nic.socket_mode)];
    let access = access.iter().filter(|(_, given)| !given.is_empty());
    let access = access.map(|(what, given)| format!("{what} {given}")).collect::<Vec<_>>();
    let [line_from, line_to] = impair::shown(nic.impairments.as_ref());
    let rows = [
        ("name", nic.name.as_str().into()),
        ("id", nic.id.as_str().into()),
        ("network", nic.network_name.as_str().into()),
        ("state", Cell::state(nic.state())),
        ("error", nic.error.as_str().into()),
        ("mac", nic.mac_address.as_str().into()),
        ("ipv4", nic.ipv4_address.as_str().into()),
        ("ipv6", nic.ipv6_address.as_str().into()),
        ("ipv6 prefix", nic.slaac_prefix.as_str().into()),
        ("routes", routes.join(" ").into()),
        ("addressing", addressing.into()),
        ("mtu", nic.mtu.into()),
        // With the bursts that the server has chosen, which nobody asked for.
        ("from guest", rate::shown(nic.limit_from_guest_in_force).into()),
        ("to guest", rate::shown(nic.limit_to_guest_in_force).into()),
        ("line from", line_from.into()),
        ("line to", line_to.into()),
        ("queues", nic.queue_pairs.into()),
        ("transport", transport(nic.transport()).into()),
        ("tap", nic.tap_interface.as_str().into()),
        ("datagrams", nic.datagrams.as_str().into()),
        ("socket", nic.socket_path.as_str().into()),
        ("socket has", access.join(", ").into()),
        ("security", security.into()),
        ("boot", mask::boot(nic.boot.as_ref()).into()),
        ("ipv4 lease", ago(&guest.ipv4_lease_at).into()),
        ("ipv6 lease", ago(&guest.ipv6_lease_at).into()),
        ("arp", ago(&guest.ipv4_neighbour_at).into()),
        ("ndp", ago(&guest.ipv6_neighbour_at).into()),
        ("router sought", ago(&guest.router_at).into()),
        ("hostname", guest.hostname.into()),
        ("dhcp client", guest.vendor_class.into()),
        ("labels", mask::labels(&nic.labels).into()),
        ("description", nic.description.as_str().into()),
        ("created", local(&nic.created_at).into()),
        ("updated", local(&nic.updated_at).into()),
    ];
    out.object(nic, &nic.name, &rows)
}

/// How a guest is reached; empty where that is as usual.
fn transport(transport: Transport) -> &'static str {
    match transport {
        Transport::Unspecified | Transport::VhostUser => "",
        Transport::Stream => "stream",
        Transport::Dgram => "dgram",
        Transport::Seqpacket => "seqpacket",
        Transport::Vde => "vde",
        Transport::Tap => "tap",
        Transport::Packet => "packet",
    }
}
