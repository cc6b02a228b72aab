//! From the desired state of a network to the table that the data plane runs on.

use super::guest_data;
use crate::{
    config,
    dataplane::{
        Placement,
        forward::{
            self, Domain, FibBuilder, Leases, Names, Zone,
            outside::WayOut,
            switched::Switched,
            tables::{
                self, BridgePort, Foreign, GATEWAY_IPV4, GATEWAY_IPV6, METADATA, Membership,
                NetworkKey, NextHop, OutsidePort, Receivers, Role, Routed, Services, Vnic,
            },
        },
    },
    locator::Locator,
    model::{
        DnsMode, Network, NetworkKind, Nic, Port,
        l2::{HasGateway, Members},
    },
    services::{Card, Guests, Upstream},
    wire::dns,
};
use ipnet::IpNet;
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};
use uuid::Uuid;

/// A vNIC, a port, or who is connected to one, as the tables of its network name it.
#[derive(Debug)]
pub struct Member {
    /// The id of the vNIC or port.
    pub id: Uuid,
    /// What the tables have of it.
    // Shared by the network's tables: a new one costs little for those that did not change.
    pub entry: tables::Member,
    /// What services tell a vNIC's guest, where its network has that.
    pub card: Option<Arc<Card>>,
}

/// Whether a switched network knows the MACs of all its members.
pub fn who<'a>(members: impl IntoIterator<Item = &'a tables::Member>) -> Members {
    let is_strict = |member: &tables::Member| {
        member.vnic().is_some_and(|vnic| vnic.settings.port_security.is_strict())
    };
    if members.into_iter().all(is_strict) { Members::AllStrict } else { Members::Any }
}

/// Returns the whole truth of a network of these members, whose hosts have leased this, and of
/// which a way leads `outside` where it is public. `seed` must be secret and random.
pub fn compile<'a>(
    key: NetworkKey,
    network: &Network,
    (members, leases): (impl Iterator<Item = &'a Member>, Option<Arc<Leases>>),
    outside: Option<WayOut<'_>>,
    seed: u64,
) -> forward::Network {
    let mut members: Vec<_> = members.map(|member| member.entry.clone()).collect();
    // A port finds its own by binary search.
    members.sort_unstable_by_key(|member| member.port().slot);
    let domain = match network.kind {
        NetworkKind::Routed => Domain::Routed(routed(network, (&members, None), outside, seed)),
        NetworkKind::Switched => {
            let rules = network.l2.in_force(network.has_gateway(), who(&members));
            let switched = Switched::new(&members, rules);
            Domain::Switched(match network.has_gateway() {
                HasGateway::No => switched,
                HasGateway::Yes => {
                    let gateway = routed(network, (&members, leases), outside, seed);
                    let switched = switched.with_gateway(gateway);
                    match outside {
                        None => switched,
                        Some(outside) => switched.with_outside(outside.next_hop),
                    }
                }
            })
        }
    };
    forward::Network { key, members, domain }
}

/// Publishes what the gateway of a network serves, and to whom of these members.
pub fn serve<'a>(
    guests: &Guests,
    (network, table): (&Network, &forward::Network),
    members: impl Iterator<Item = &'a Member>,
    public: impl Fn(Uuid) -> Option<Ipv4Addr>,
) {
    let services = table.domain.routed().map(|gateway| &gateway.services);
    let asks = services.is_some_and(|services| services.foreign == Foreign::Forwarded);
    let upstream = asks.then(|| Upstream::of(&network.dns_servers));
    let names = services.and_then(|services| services.names.clone());
    let names = names.map(|names| (names, upstream));
    let cards = members.filter_map(|it| {
        let card = it.card.as_ref()?;
        let card = match public(it.id) {
            None => Arc::clone(card),
            public_ipv4 => Arc::new(Card { public_ipv4, ..Card::clone(card) }),
        };
        Some((it.entry.port(), card))
    });
    guests.publish(table.key, names, cards);
}

fn routed(
    network: &Network,
    (members, leases): (&[tables::Member], Option<Arc<Leases>>),
    outside: Option<WayOut<'_>>,
    seed: u64,
) -> Routed {
    let mut fib = FibBuilder::default();
    if let Some(outside) = outside {
        let own = (network.ipv4_subnet, network.ipv6_prefix);
        forward::outside::lead_out(&mut fib, own, outside);
    }
    for member in members {
        let Role::Guest(vnic) = &member.role else { continue };
        let next_hop = fib.next_hop(member.next_hop());
        // Whoever has an address of the metadata service does not hear what others ask of it.
        let is_own = |address: IpAddr| !(network.metadata && METADATA.contains(&address));
        let ipv4 = vnic.ipv4.into_iter().filter(|address| is_own((*address).into()));
        ipv4.for_each(|address| fib.host_ipv4(address, next_hop));
        let ipv6 = vnic.ipv6.into_iter().filter(|address| is_own((*address).into()));
        ipv6.for_each(|address| fib.host_ipv6(address, next_hop));
        vnic.routed_ipv4.iter().for_each(|prefix| fib.prefix_ipv4(*prefix, next_hop));
        // A guest that chooses its addresses may use any of its /64.
        vnic.routed_ipv6
            .iter()
            .chain(&vnic.slaac)
            .for_each(|prefix| fib.prefix_ipv6(*prefix, next_hop));
    }
    let metadata = network.metadata;
    if metadata {
        let next_hop = fib.next_hop(NextHop::GATEWAY);
        METADATA.iter().for_each(|address| match address {
            IpAddr::V4(address) => fib.host_ipv4(*address, next_hop),
            IpAddr::V6(address) => fib.host_ipv6(*address, next_hop),
        });
    }
    let gateway = network.gateway_in_subnet().unwrap_or(GATEWAY_IPV4);
    let names = match network.dns_mode {
        DnsMode::Tell => None,
        DnsMode::Names => Some(Arc::new(names(network, gateway, members))),
    };
    // Others hear of what is asked there: who reaches nobody outside reaches nobody this way.
    let foreign = if outside.is_some() { Foreign::Forwarded } else { Foreign::Refused };
    let (dns_ipv4, dns_ipv6) = match names {
        None => by_family(&network.dns_servers),
        Some(_) => (vec![gateway], vec![GATEWAY_IPV6]),
    };
    // With the search list that it is, guests find each other by a single label.
    let domain = names.as_ref().map_or(network.domain, |names| Some(names.zone().domain));
    let (ntp_ipv4, ntp_ipv6) = by_family(&network.ntp_servers);
    Routed {
        ipv4_subnet: network.ipv4_subnet,
        ipv4_broadcast: network.ipv4_subnet.map(|subnet| subnet.broadcast()),
        ipv6_prefix: network.ipv6_prefix,
        dns_ipv4,
        dns_ipv6,
        ntp_ipv4,
        ntp_ipv6,
        domain,
        segment: (network.kind == NetworkKind::Switched).then(|| tables::Segment {
            gateway_ipv4: network.gateway_in_subnet(),
            leases,
            boot: network.boot.clone().unwrap_or_default(),
        }),
        services: Services { names, foreign, metadata },
        fib: fib.build(seed),
    }
}

/// Returns the names that the gateway of a network knows, which has this address.
fn names(network: &Network, gateway: Ipv4Addr, members: &[tables::Member]) -> Names {
    let vnics = members.iter().filter_map(|member| match &member.role {
        Role::Guest(vnic) => Some(vnic),
        Role::Bridge(_) | Role::Outside(_) => None,
    });
    let zone = Zone {
        domain: network.domain.unwrap_or_else(config::default_domain),
        network: network.name.to_string(),
        ipv4: network.ipv4_subnet,
        ipv6: network.ipv6_prefix,
        gateway,
    };
    Names::new(zone, vnics)
}

/// Returns the member that a network has which is nothing but the way outside, for packets of so
/// many octets.
pub fn outside(place: Placement, mtu: u16, receivers: Receivers) -> tables::Member {
    let outside = OutsidePort { port: place.port, mtu, receivers };
    tables::Member { reactor: place.reactor, role: Role::Outside(Arc::new(outside)) }
}

/// Returns the whole truth of the network that is nothing but the way outside, for packets of so
/// many octets, from where these public ones are reached, each with its members; an empty one where
/// there is no way. From outside is what is `allowed`, too, where no packet should come from.
/// `seed` must be secret and random.
pub fn way_in<'a, M: Iterator<Item = &'a Member>>(
    key: NetworkKey,
    (outside, allowed): (Option<(Placement, u16, Receiving)>, &[IpNet]),
    networks: impl Iterator<Item = (&'a Network, M)>,
    seed: u64,
) -> forward::Network {
    let mut ipv6_prefix = None;
    let networks = networks.map(|(network, members)| {
        // Errors come from there: of a router's addresses any will do (RFC 4443 §2.2).
        ipv6_prefix = ipv6_prefix.or(network.ipv6_prefix);
        let own = (network.ipv4_subnet, network.ipv6_prefix);
        (own, members.map(|member| &member.entry))
    });
    let (fib, receivers) = match outside {
        Some((.., Receiving::ByTag)) => {
            let members = networks.flat_map(|(_, members)| members);
            forward::outside::way_in_by_tag(members, allowed, seed)
        }
        _ => (forward::outside::way_in(networks, seed), Receivers::ByAddress),
    };
    let member = outside.map(|(place, mtu, _)| self::outside(place, mtu, receivers));
    let domain = Domain::Routed(Routed { ipv6_prefix, ..Routed::new(fib) });
    forward::Network { key, members: Vec::from_iter(member), domain }
}

/// How it is found whom what comes from outside is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receiving {
    /// By its destination: no two networks have the same.
    ByAddress,
    /// By the vNIC's tag.
    ByTag,
}

/// A vNIC of `network` at its place.
pub fn member(network: &Network, nic: &Nic, place: Placement) -> Member {
    let name = nic.name.to_string();
    let vnic = Vnic {
        port: place.port,
        mac: nic.mac,
        ipv4: nic.ipv4,
        ipv6: nic.ipv6,
        routed_ipv4: nic.routed_ipv4.clone(),
        routed_ipv6: nic.routed_ipv6.clone(),
        slaac: nic.slaac,
        // The store keeps what was asked for. Bursts that were not are filled in here.
        settings: nic.settings.in_force(),
        mtu: nic.mtu_in(network),
        // DHCP tells a DNS label (RFC 2132 §3.14), which not every name of a vNIC is.
        hostname: dns::is_label(&name).then_some(name),
        // As a whole: a file of the network's is not on the vNIC's server.
        boot: nic.boot.as_ref().or(network.boot.as_ref()).cloned().unwrap_or_default(),
    };
    let entry = tables::Member { reactor: place.reactor, role: Role::Guest(Arc::new(vnic)) };
    Member { id: nic.id, entry, card: guest_data::card(network, nic) }
}

/// A port of `network` at its place, or who is connected to it there.
pub fn bridge(network: &Network, port: &Port, place: Placement) -> Member {
    let membership = match port.vlan_in(network.id) {
        Some(vlan) => Membership::Tagged(vlan),
        None if port.vlans.is_empty() => Membership::Access,
        None => Membership::Native,
    };
    let bridge = BridgePort {
        membership,
        mac_limit: port.mac_limit(),
        protected: port.settings.protected,
        hub: matches!(port.locator, Locator::Hub(_)),
        from_port: port.settings.limit_from.in_force(),
        to_port: port.settings.limit_to.in_force(),
        impairments: port.settings.impairments,
        ..BridgePort::new(place.port, port.role(), network.mtu)
    };
    let entry = tables::Member { reactor: place.reactor, role: Role::Bridge(Arc::new(bridge)) };
    Member { id: port.id, entry, card: None }
}

fn by_family(addresses: &[IpAddr]) -> (Vec<std::net::Ipv4Addr>, Vec<std::net::Ipv6Addr>) {
    let ipv4 = addresses.iter().filter_map(|a| match a {
        IpAddr::V4(a) => Some(*a),
        IpAddr::V6(_) => None,
    });
    let ipv6 = addresses.iter().filter_map(|a| match a {
        IpAddr::V6(a) => Some(*a),
        IpAddr::V4(_) => None,
    });
    (ipv4.collect(), ipv6.collect())
}
