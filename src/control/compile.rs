//! From the desired state of a network to the table that the data plane runs on.

use crate::{
    dataplane::{
        Place,
        forward::FibBuilder,
        snapshot::{self, NetworkKey, NetworkTable, NextHop, Vnic},
    },
    model::{Addressing, Network, Nic},
    wire::dns,
};
use std::net::IpAddr;

/// The whole truth of a network. `seed` is secret and random.
pub fn compile<'a>(
    key: NetworkKey,
    network: &Network,
    nics: impl Iterator<Item = (&'a Nic, Place)>,
    seed: u64,
) -> NetworkTable {
    let mut fib = FibBuilder::default();
    let mut vnics = Vec::new();
    for (nic, place) in nics {
        let next_hop = fib.next_hop(NextHop {
            port: place.port,
            reactor: place.reactor,
            mtu: network.mtu,
            mac: nic.mac,
        });
        nic.ipv4.into_iter().for_each(|address| fib.host_ipv4(address, next_hop));
        nic.ipv6.into_iter().for_each(|address| fib.host_ipv6(address, next_hop));
        nic.routed_ipv4.iter().for_each(|prefix| fib.prefix_ipv4(*prefix, next_hop));
        nic.routed_ipv6.iter().for_each(|prefix| fib.prefix_ipv6(*prefix, next_hop));
        vnics.push(vnic(nic, place));
    }
    vnics.sort_by_key(|vnic| vnic.port.slot);
    let (dns_ipv4, dns_ipv6) = by_family(&network.dns_servers);
    let (ntp_ipv4, ntp_ipv6) = by_family(&network.ntp_servers);
    NetworkTable {
        key,
        ipv4_subnet: network.ipv4_subnet,
        ipv4_broadcast: network.ipv4_subnet.map(|subnet| subnet.broadcast()),
        ipv6_prefix: network.ipv6_prefix,
        dns_ipv4,
        dns_ipv6,
        ntp_ipv4,
        ntp_ipv6,
        mtu: network.mtu,
        domain: network.domain,
        vnics,
        fib: fib.build(seed),
    }
}

fn vnic(nic: &Nic, place: Place) -> Vnic {
    let name = nic.name.to_string();
    Vnic {
        port: place.port,
        mac: nic.mac,
        ipv4: nic.ipv4,
        ipv6: nic.ipv6,
        routed_ipv4: nic.routed_ipv4.clone(),
        routed_ipv6: nic.routed_ipv6.clone(),
        addressing: match nic.addressing {
            Addressing::Host => snapshot::Addressing::Host,
            Addressing::Subnet => snapshot::Addressing::Subnet,
        },
        hostname: dns::is_label(&name).then_some(name),
    }
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
