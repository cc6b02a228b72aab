//! The nouns as the API shows them.

use super::{
    choices::{ADDRESSINGS, DNS_MODES, ROLES, SECURITIES},
    guest_data, l2, locators,
};
use crate::{
    impair::Spec,
    locator::Locator,
    model::{
        self, DnsMode, Impairments, NetworkKind, PortSecurity, RateLimit, Transport, l2::Members,
    },
    proto,
};
use jiff::Timestamp;
use std::{path::Path, time::Duration};

/// Values as text.
pub(super) fn strings<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

/// A value as text; empty where there is none.
pub(super) fn string<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// Opaque to clients. Times of change only grow: see [`later`].
pub(super) fn etag(updated_at: Timestamp) -> String {
    format!("{:x}", updated_at.as_nanosecond())
}

/// Now, or just after a change before that: no two changes of an object have the same time.
pub(super) fn later(before: Timestamp) -> Timestamp {
    Timestamp::now().max(before + Duration::from_nanos(1))
}

fn boot(boot: &model::Boot) -> proto::Boot {
    proto::Boot {
        server: string(boot.server),
        file: boot.file.clone().unwrap_or_default(),
        url: boot.url.clone().unwrap_or_default(),
    }
}

fn account(account: &Option<model::Account>) -> String {
    account.as_ref().map(|account| account.asked.clone()).unwrap_or_default()
}

/// The API's view of a network.
pub(super) fn network(
    network: &model::Network,
    (nics, ports): (usize, usize),
    members: Members,
) -> proto::Network {
    let (kind, l2_in_force) = match network.kind {
        NetworkKind::Routed => (proto::NetworkKind::Routed, None),
        NetworkKind::Switched => {
            let rules = network.l2.in_force(network.has_gateway(), members);
            let leased = network.leased_ipv4().or_else(|| network.leased_ipv6());
            let leased = leased.map(|range| format!("{}-{}", range.start(), range.end()));
            let dhcp_pool = leased.unwrap_or_default();
            let in_force = proto::L2Policy { dhcp_pool, ..l2::in_force(&rules) };
            (proto::NetworkKind::Switched, Some(in_force))
        }
    };
    proto::Network {
        id: network.id.to_string(),
        name: network.name.to_string(),
        ipv4_enabled: network.ipv4_subnet.is_some(),
        ipv4_subnet: string(network.ipv4_subnet),
        ipv6_enabled: network.ipv6_prefix.is_some(),
        ipv6_prefix: string(network.ipv6_prefix),
        dns_servers: strings(&network.dns_servers),
        ntp_servers: strings(&network.ntp_servers),
        nic_count: u32::try_from(nics).unwrap_or(u32::MAX),
        port_count: u32::try_from(ports).unwrap_or(u32::MAX),
        created_at: network.created_at.to_string(),
        updated_at: network.updated_at.to_string(),
        is_public: network.is_public,
        mtu: network.mtu.into(),
        domain: string(network.domain),
        dns_mode: DNS_MODES.number(Some(network.dns_mode)),
        metadata: l2::toggled(Some(network.metadata)),
        labels: network.labels.clone(),
        description: network.description.clone(),
        etag: etag(network.updated_at),
        boot: network.boot.as_ref().map(boot),
        kind: kind.into(),
        gateway: l2::toggled(network.gateway),
        gateway_ipv4: string(network.gateway_in_subnet()),
        l2: l2::asked(&network.l2),
        l2_in_force,
        dhcp_pool_empty_at: String::new(),
        error: String::new(),
    }
}

pub(super) fn rate_limit(limit: RateLimit) -> Option<proto::RateLimit> {
    (limit != RateLimit::default()).then_some(proto::RateLimit {
        packets_per_second: limit.packets,
        bits_per_second: limit.bits,
        burst_packets: limit.burst_packets,
        burst_bits: limit.burst_bits,
    })
}

fn lines([from, to]: [Option<Spec>; 2]) -> Option<proto::Impairments> {
    let lines = proto::Impairments { from: string(from), to: string(to) };
    (from.is_some() || to.is_some()).then_some(lines)
}

/// Returns lines as a request has them.
pub(super) fn asked_lines(asked: &Impairments) -> Option<proto::Impairments> {
    lines([asked.from, asked.to])
}

/// Returns lines whose time is not over.
fn impairments(asked: &Impairments) -> Option<proto::Impairments> {
    let left = asked.left(Timestamp::now());
    let [from, to] = [left[0].and(asked.from), left[1].and(asked.to)];
    lines([from, to])
}

/// Returns it as a request has it; the default as 0, as if it were not named.
pub(super) fn asked_dns_mode(mode: DnsMode) -> i32 {
    DNS_MODES.number((mode != DnsMode::Tell).then_some(mode))
}

/// Returns it as a request has it; the default as 0, as if it were not named.
pub(super) fn asked_security(security: PortSecurity) -> i32 {
    SECURITIES.number((security != PortSecurity::Strict).then_some(security))
}

/// The API's view of a vNIC.
pub(super) fn nic(
    network: Option<&model::Network>,
    nic: &model::Nic,
    socket_path: &Path,
    state: proto::NicState,
) -> proto::Nic {
    let ipv6_mode = match (nic.ipv6, nic.slaac) {
        (None, _) => proto::Ipv6Mode::Unspecified,
        (_, None) => proto::Ipv6Mode::Dhcpv6,
        (_, Some(_)) => proto::Ipv6Mode::Slaac,
    };
    let (transport, tap_interface) = match &nic.transport {
        Transport::VhostUser => (proto::Transport::VhostUser, ""),
        Transport::Stream => (proto::Transport::Stream, ""),
        Transport::Dgram(_) => (proto::Transport::Dgram, ""),
        Transport::Seqpacket => (proto::Transport::Seqpacket, ""),
        Transport::Vde => (proto::Transport::Vde, ""),
        Transport::Tap(interface) => (proto::Transport::Tap, &**interface),
        Transport::Packet(interface) => (proto::Transport::Packet, &**interface),
    };
    let datagrams = match &nic.transport {
        Transport::Dgram(Some(at)) => at.to_string(),
        Transport::Dgram(None) => Locator::Dgram(locators::own_datagrams(socket_path)).to_string(),
        _ => String::new(),
    };
    let has_socket =
        tap_interface.is_empty() && !matches!(nic.transport, Transport::Dgram(Some(_)));
    proto::Nic {
        id: nic.id.to_string(),
        name: nic.name.to_string(),
        network_id: nic.network_id.to_string(),
        mac_address: nic.mac.to_string(),
        ipv4_address: string(nic.ipv4),
        ipv6_address: string(nic.ipv6),
        routed_ipv4_prefixes: strings(&nic.routed_ipv4),
        routed_ipv6_prefixes: strings(&nic.routed_ipv6),
        socket_path: match has_socket {
            true => socket_path.to_string_lossy().into_owned(),
            false => String::new(),
        },
        datagrams,
        state: state.into(),
        created_at: nic.created_at.to_string(),
        updated_at: nic.updated_at.to_string(),
        addressing: ADDRESSINGS.number(Some(nic.settings.addressing)),
        queue_pairs: nic.queue_pairs.into(),
        // An orphan has no network to take an MTU from.
        mtu: network.map_or(nic.mtu.unwrap_or(0), |network| nic.mtu_in(network)).into(),
        ipv6_mode: ipv6_mode.into(),
        slaac_prefix: string(nic.slaac),
        limit_from_guest: rate_limit(nic.settings.from_guest),
        limit_to_guest: rate_limit(nic.settings.to_guest),
        transport: transport.into(),
        tap_interface: tap_interface.into(),
        port_security: SECURITIES.number(Some(nic.settings.port_security)),
        mac_limit: nic.settings.macs(),
        requested_mac_limit: nic.settings.mac_limit.unwrap_or(0),
        guest: None,
        labels: nic.labels.clone(),
        description: nic.description.clone(),
        etag: etag(nic.updated_at),
        boot: nic.boot.as_ref().map(boot),
        socket_owner: account(&nic.socket.owner),
        socket_group: account(&nic.socket.group),
        socket_mode: nic.socket.mode.map(|mode| format!("{mode:04o}")).unwrap_or_default(),
        network_name: string(network.map(|network| &network.name)),
        error: String::new(),
        requested_mtu: nic.mtu.unwrap_or(0).into(),
        limit_from_guest_in_force: rate_limit(nic.settings.from_guest.in_force()),
        limit_to_guest_in_force: rate_limit(nic.settings.to_guest.in_force()),
        metadata: guest_data::view(network, nic),
        impairments: impairments(&nic.settings.impairments),
    }
}

/// The API's view of a VLAN of a port; without its network's name.
pub(super) fn tagged(tagged: &model::TaggedNetwork) -> proto::TaggedNetwork {
    proto::TaggedNetwork {
        vid: tagged.vid.get().into(),
        network_id: tagged.network_id.to_string(),
        network_name: String::new(),
    }
}

/// The API's view of a port, as one that is just made; without its VLANs.
pub(super) fn port(network: &model::Network, port: &model::Port) -> proto::Port {
    proto::Port {
        id: port.id.to_string(),
        name: port.name.to_string(),
        network_id: port.network_id.to_string(),
        locator: port.locator.to_string(),
        state: proto::PortState::Down.into(),
        role: ROLES.number(Some(port.role())),
        mac_limit: port.mac_limit(),
        attachments: Vec::new(),
        error: String::new(),
        created_at: port.created_at.to_string(),
        updated_at: port.updated_at.to_string(),
        limit_from: rate_limit(port.settings.limit_from),
        limit_to: rate_limit(port.settings.limit_to),
        protected: port.settings.protected,
        labels: port.labels.clone(),
        description: port.description.clone(),
        etag: etag(port.updated_at),
        network_name: network.name.to_string(),
        requested_role: ROLES.number(port.settings.role),
        requested_mac_limit: port.settings.mac_limit.unwrap_or(0),
        refused_clients: 0,
        vlans: Vec::new(),
        impairments: impairments(&port.settings.impairments),
    }
}
