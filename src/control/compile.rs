//! From the desired state of a network to the table that the data plane runs on.

use crate::{
    dataplane::{
        Placement,
        forward::{
            self, Domain, FibBuilder,
            switched::Switched,
            tables::{self, NetworkKey, Role, Routed, Vnic},
        },
    },
    model::{
        Network, NetworkKind, Nic,
        l2::{HasGateway, Members},
    },
    wire::dns,
};
use std::{net::IpAddr, sync::Arc};
use uuid::Uuid;

/// A vNIC of a network, as tables name it.
#[derive(Debug)]
pub struct Member {
    /// Its id.
    pub id: Uuid,
    /// The reactor that owns its port.
    pub reactor: u16,
    /// Shared by the network's tables: a new one costs little for those that did not change.
    pub vnic: Arc<Vnic>,
}

/// Returns the whole truth of a network. `members` are its vNICs, in the order of their ports.
/// `seed` must be secret and random.
pub fn compile<'a>(
    key: NetworkKey,
    network: &Network,
    members: impl Iterator<Item = &'a Member>,
    seed: u64,
) -> forward::Network {
    let members: Vec<_> = members.map(Member::of_network).collect();
    let domain = match network.kind {
        NetworkKind::Routed => Domain::Routed(routed(network, &members, seed)),
        NetworkKind::Switched => {
            let is_strict = |member: &tables::Member| {
                member.vnic().is_some_and(|vnic| vnic.settings.port_security.is_strict())
            };
            let all = if members.iter().all(is_strict) { Members::AllStrict } else { Members::Any };
            let rules = network.l2.in_force(HasGateway::No, all);
            Domain::Switched(Switched::new(&members, rules))
        }
    };
    forward::Network { key, members, domain }
}

impl Member {
    fn of_network(&self) -> tables::Member {
        tables::Member { reactor: self.reactor, role: Role::Guest(Arc::clone(&self.vnic)) }
    }
}

fn routed(network: &Network, members: &[tables::Member], seed: u64) -> Routed {
    let mut fib = FibBuilder::default();
    for member in members {
        let Role::Guest(vnic) = &member.role else { continue };
        let next_hop = fib.next_hop(member.next_hop());
        vnic.ipv4.into_iter().for_each(|address| fib.host_ipv4(address, next_hop));
        vnic.ipv6.into_iter().for_each(|address| fib.host_ipv6(address, next_hop));
        vnic.routed_ipv4.iter().for_each(|prefix| fib.prefix_ipv4(*prefix, next_hop));
        // A guest that chooses its addresses may use any of its /64.
        vnic.routed_ipv6
            .iter()
            .chain(&vnic.slaac)
            .for_each(|prefix| fib.prefix_ipv6(*prefix, next_hop));
    }
    let (dns_ipv4, dns_ipv6) = by_family(&network.dns_servers);
    let (ntp_ipv4, ntp_ipv6) = by_family(&network.ntp_servers);
    Routed {
        ipv4_subnet: network.ipv4_subnet,
        ipv4_broadcast: network.ipv4_subnet.map(|subnet| subnet.broadcast()),
        ipv6_prefix: network.ipv6_prefix,
        dns_ipv4,
        dns_ipv6,
        ntp_ipv4,
        ntp_ipv6,
        domain: network.domain,
        fib: fib.build(seed),
    }
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
    Member { id: nic.id, reactor: place.reactor, vnic: Arc::new(vnic) }
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
