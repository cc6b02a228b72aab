//! Whose an address of the world is that somebody asks for: to answer for some of them would cut
//! off the host's whole link.

use super::{
    HostNetwork, link,
    netlink::{Link, Netlink, Own},
};
use ipnet::IpNet;
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteVia},
};
use std::{fmt, io, net::IpAddr};

/// Who has an address already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// The host itself.
    Host,
    /// A router that the host sends packets to.
    Router,
    /// All who are in a subnet of the host's, or all of its routers.
    All(IpNet),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("this host, which has it itself"),
            Self::Router => f.write_str("a router, which this host sends packets to"),
            Self::All(subnet) => write!(f, "all of {subnet}, where this host is"),
        }
    }
}

impl HostNetwork {
    /// Returns who has an address, as far as the host knows.
    pub fn holder(&self, address: IpAddr) -> io::Result<Option<Holder>> {
        // By its name: before there is a public network, the device is not there.
        let device = link(self.device()).unwrap_or(Link(0));
        let mut netlink = Netlink::open()?;
        let own = netlink.addresses_but_of(device)?;
        Ok(match holder(&own, address) {
            Some(holder) => Some(holder),
            None => next_hops(&mut netlink)?.contains(&address).then_some(Holder::Router),
        })
    }
}

/// Returns the routers that the host sends packets to.
fn next_hops(netlink: &mut Netlink) -> io::Result<Vec<IpAddr>> {
    let all = RouteNetlinkMessage::GetRoute(RouteMessage::default());
    Ok(netlink.ask(all, NLM_F_DUMP)?.into_iter().flat_map(hops_of).collect())
}

fn hops_of(answer: RouteNetlinkMessage) -> Vec<IpAddr> {
    let RouteNetlinkMessage::NewRoute(message) = answer else { return Vec::new() };
    let mut found = Vec::new();
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::MultiPath(hops) => {
                let all = hops.into_iter().flat_map(|hop| hop.attributes);
                found.extend(all.filter_map(hop));
            }
            other => found.extend(hop(other)),
        }
    }
    found
}

fn hop(attribute: RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address))
        | RouteAttribute::Via(RouteVia::Inet(address)) => Some(address.into()),
        // Of IPv4, too (RFC 8950).
        RouteAttribute::Gateway(RouteAddress::Inet6(address))
        | RouteAttribute::Via(RouteVia::Inet6(address)) => Some(address.into()),
        _ => None,
    }
}

fn holder(own: &[Own], address: IpAddr) -> Option<Holder> {
    if own.iter().any(|own| own.address == address) {
        return Some(Holder::Host);
    }
    let subnet = own.iter().map(|own| own.subnet).find(|subnet| is_of_all(*subnet, address))?;
    Some(Holder::All(subnet.trunc()))
}

/// Whether an address means more than one who is in a subnet.
fn is_of_all(subnet: IpNet, address: IpAddr) -> bool {
    // Of two addresses, both are hosts' (RFC 3021, RFC 6164).
    if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
        return false;
    }
    match subnet {
        // The first is a broadcast address of old, which the kernel still answers as one.
        IpNet::V4(_) => address == subnet.network() || address == subnet.broadcast(),
        // The anycast address of routers (RFC 4291 §2.6.1).
        IpNet::V6(_) => address == subnet.network(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_addresses_of_a_subnet_are_more_than_one_hosts() {
        let own = [("192.0.2.1", "192.0.2.1/24"), ("2001:db8::1", "2001:db8::1/64")];
        let own = own.map(|(address, subnet)| Own {
            link: Link(2),
            address: address.parse().unwrap(),
            subnet: subnet.parse().unwrap(),
        });
        let all = |subnet: &str| Some(Holder::All(subnet.parse().unwrap()));
        for (address, expected) in [
            ("192.0.2.1", Some(Holder::Host)),
            ("192.0.2.0", all("192.0.2.0/24")),
            ("192.0.2.255", all("192.0.2.0/24")),
            ("192.0.2.77", None),
            ("198.51.100.255", None),
            ("2001:db8::", all("2001:db8::/64")),
            ("2001:db8::ffff:ffff:ffff:ffff", None),
        ] {
            assert_eq!(holder(&own, address.parse().unwrap()), expected, "{address}");
        }
        let two = Own { subnet: "192.0.2.1/31".parse().unwrap(), ..own[0] };
        assert_eq!(holder(&[two], "192.0.2.0".parse().unwrap()), None);
    }
}
