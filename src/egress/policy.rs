//! Where vNICs may go: takes a destination, returns the address of a socket, or that there is none.
//! Who is denied goes unanswered, as if nobody were there.

use super::protocol::{Configuration, Denied, Segment};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What nobody may reach unless it is allowed: this host's own, and what means no single host.
const NEVER4: [Ipv4Net; 5] = [
    // "This host": a connection to it would be one to loopback (RFC 1122 §3.2.1.3).
    net4([0, 0, 0, 0], 8),
    net4([127, 0, 0, 0], 8),
    // Link-local, and with it the metadata service of the cloud that this host may be in.
    net4([169, 254, 0, 0], 16),
    // Multicast; and behind it what is reserved, with the broadcast address.
    net4([224, 0, 0, 0], 4),
    net4([240, 0, 0, 0], 4),
];
const NEVER6: [Ipv6Net; 4] = [
    // The unspecified address, loopback, and IPv4 addresses as if they were of IPv6 (RFC 4291
    // §2.5.5), by which any IPv4 address could be named.
    net6(0, 80),
    net6(0xfe80, 10),
    // Site-local, which is no longer used (RFC 3879), but on a link all the same.
    net6(0xfec0, 10),
    net6(0xff00, 8),
];

/// Who calls from an address that the vNIC may not know is called this: addresses that are nobody's
/// (RFC 7600 §4.8, RFC 6666).
const NOBODY4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
const NOBODY6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1);
/// Where DNS is asked.
const DNS_PORT: u16 = 53;

const fn net4([a, b, c, d]: [u8; 4], len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len)
}

const fn net6(first: u16, len: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), len)
}

/// Where vNICs may go.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
    /// Ports that are denied.
    ports: Vec<SocketAddr>,
    host_loopback: Option<IpAddr>,
    segment: Option<Box<Segment>>,
}

/// What becomes of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A socket may go there.
    To(SocketAddr),
    /// It may unless that is an address of this host.
    UnlessHost(SocketAddr),
    /// A socket may go there, to the DNS server that hosts of a segment find at another address.
    Resolver(SocketAddr),
    /// Nobody may.
    Denied,
}

impl Policy {
    /// Returns that of a configuration.
    pub fn new(configuration: &Configuration) -> Self {
        let mut policy = Self {
            allow: configuration.allow.clone(),
            host_loopback: configuration.host_loopback,
            segment: configuration.segment.clone(),
            ..Self::default()
        };
        for denied in &configuration.deny {
            match denied {
                Denied::Network(network) => policy.deny.push(*network),
                // One of IPv4 may be written as one of IPv6 (RFC 4291 §2.5.5.2).
                Denied::Port(port) => {
                    policy.ports.push(SocketAddr::new(port.ip().to_canonical(), port.port()));
                }
            }
        }
        policy
    }

    /// Returns the way to what a vNIC calls `destination`.
    pub fn way(&self, destination: SocketAddr) -> Way {
        let address = destination.ip();
        if let Some(segment) = &self.segment {
            if segment.restricted {
                return Way::Denied;
            }
            if segment.is_dns(destination) {
                return segment.resolver.map_or(Way::Denied, Way::Resolver);
            }
        }
        let is_loopback = self.host_loopback == Some(address);
        let to = if is_loopback { loopback(address) } else { address };
        // Neither by its own address nor by the one that guests have for it.
        let is_denied =
            |network: &IpNet| network.contains(&address) || (is_loopback && network.contains(&to));
        if self.deny.iter().any(is_denied) {
            return Way::Denied;
        }
        // The hosts of a segment are not reached by this host, whatever has their addresses there.
        let is_inside = self.segment.as_ref().is_some_and(|segment| segment.contains(address));
        let may = is_loopback
            || (!is_never(address) && !is_inside)
            || self.allow.iter().any(|network| network.contains(&address));
        let to = SocketAddr::new(to, destination.port());
        let is_port = |port: &&SocketAddr| port.port() == to.port();
        let mut ports = self.ports.iter().filter(is_port);
        if !may || ports.clone().any(|port| port.ip() == to.ip() || port.ip() == address) {
            return Way::Denied;
        }
        // Who listens on all addresses of IPv6 listens on those of IPv4 as well.
        match ports.any(|port| port.ip().is_unspecified()) {
            true if to.ip().is_loopback() => Way::Denied,
            true => Way::UnlessHost(to),
            false => Way::To(to),
        }
    }

    /// Denies these as well.
    pub fn deny(&mut self, networks: Vec<IpNet>) {
        self.deny.extend(networks);
    }

    /// Denies these no longer.
    pub fn deny_no_longer(&mut self, networks: &[IpNet]) {
        self.deny.retain(|network| !networks.contains(network));
    }

    /// Has hosts of a segment reach another DNS server.
    pub fn set_resolver(&mut self, resolver: SocketAddr) {
        if let Some(segment) = &mut self.segment {
            segment.resolver = Some(resolver);
        }
    }

    /// Returns what a vNIC is to call who calls it from `from`, of the family of `like`: as
    /// [`Policy::origin`] says, or else the gateway of its segment, or nobody.
    pub fn caller(&self, from: SocketAddr, like: IpAddr) -> SocketAddr {
        let gateway = self.segment.as_ref().and_then(|segment| segment.gateway(like));
        // In a restricted segment hosts have no way to answer others than the gateway.
        let is_restricted = self.segment.as_ref().is_some_and(|segment| segment.restricted);
        let origin = self.origin(from).filter(|origin| origin.is_ipv4() == like.is_ipv4());
        origin.filter(|_| !is_restricted).unwrap_or_else(|| {
            let nobody = match like {
                IpAddr::V4(_) => NOBODY4.into(),
                IpAddr::V6(_) => NOBODY6.into(),
            };
            SocketAddr::new(gateway.unwrap_or(nobody), from.port())
        })
    }

    /// Returns what a vNIC is to call the host that this host calls `from`; nothing where it may
    /// not even know of it.
    pub fn origin(&self, from: SocketAddr) -> Option<SocketAddr> {
        let address = from.ip().to_canonical();
        if address.is_loopback() {
            let named = self.host_loopback.filter(|named| named.is_ipv4() == address.is_ipv4())?;
            return Some(SocketAddr::new(named, from.port()));
        }
        let may = !is_never(address) || self.allow.iter().any(|network| network.contains(&address));
        may.then_some(SocketAddr::new(address, from.port()))
    }
}

impl Segment {
    fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ipv4.is_some_and(|it| it.gateway.contains(&address)),
            IpAddr::V6(address) => self.ipv6.is_some_and(|it| it.gateway.contains(&address)),
        }
    }

    fn gateway(&self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => self.ipv4.map(|it| it.gateway.addr().into()),
            IpAddr::V6(_) => self.ipv6.map(|it| it.gateway.addr().into()),
        }
    }

    fn is_dns(&self, destination: SocketAddr) -> bool {
        let is_address = match destination.ip() {
            IpAddr::V4(address) => self.ipv4.is_some_and(|it| it.dns == Some(address)),
            IpAddr::V6(address) => self.ipv6.is_some_and(|it| it.dns == Some(address)),
        };
        is_address && destination.port() == DNS_PORT
    }
}

fn is_never(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => NEVER4.iter().any(|network| network.contains(&address)),
        IpAddr::V6(address) => NEVER6.iter().any(|network| network.contains(&address)),
    }
}

fn loopback(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        Policy::new(&serde_json::from_str(text).unwrap())
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_host_and_what_is_no_single_host_are_never_reached() {
        let policy = policy(r#"{"version":1}"#);
        for denied in [
            "127.0.0.1:22",
            "127.255.0.9:1",
            "0.0.0.0:22",
            "0.1.2.3:22",
            "169.254.169.254:80",
            "224.0.0.251:5353",
            "239.255.255.250:1900",
            "255.255.255.255:67",
            "240.0.0.1:1",
            "[::]:22",
            "[::1]:22",
            "[::ffff:127.0.0.1]:22",
            "[::127.0.0.1]:22",
            "[::ffff:192.0.2.1]:22",
            "[fe80::1]:22",
            "[febf::1]:22",
            "[ff02::1]:5353",
        ] {
            assert_eq!(policy.way(at(denied)), Way::Denied, "{denied}");
        }
        for open in ["192.0.2.1:22", "10.0.0.1:1", "1.0.0.1:53", "223.255.255.255:1", "[fd00::1]:1"]
        {
            assert_eq!(policy.way(at(open)), Way::To(at(open)));
        }
    }

    #[test]
    fn what_is_denied_wins_over_what_is_allowed() {
        let policy = policy(
            r#"{"version":1,"allow":["169.254.0.0/16","10.0.0.0/8"],
                "deny":["169.254.169.254/32","10.1.0.0/16"]}"#,
        );
        assert_eq!(policy.way(at("169.254.1.1:1")), Way::To(at("169.254.1.1:1")));
        assert_eq!(policy.way(at("169.254.169.254:80")), Way::Denied);
        assert_eq!(policy.way(at("10.1.2.3:80")), Way::Denied);
        assert_eq!(policy.way(at("10.2.2.3:80")), Way::To(at("10.2.2.3:80")));
    }

    #[test]
    fn ports_of_the_daemon_are_denied_at_every_address_of_the_host() {
        let policy = policy(
            r#"{"version":1,"deny":["0.0.0.0:50051","192.0.2.1:80"],"host_loopback":"10.0.2.2"}"#,
        );
        assert_eq!(policy.way(at("192.0.2.1:80")), Way::Denied);
        assert_eq!(policy.way(at("192.0.2.2:80")), Way::To(at("192.0.2.2:80")));
        assert_eq!(policy.way(at("192.0.2.2:50051")), Way::UnlessHost(at("192.0.2.2:50051")));
        assert_eq!(
            policy.way(at("[2001:db8::1]:50051")),
            Way::UnlessHost(at("[2001:db8::1]:50051"))
        );
        assert_eq!(policy.way(at("10.0.2.2:50051")), Way::Denied);
        assert_eq!(policy.way(at("10.0.2.2:22")), Way::To(at("127.0.0.1:22")));
    }

    #[test]
    fn an_address_is_denied_by_whatever_name() {
        for deny in ["127.0.0.0/8", "10.0.2.2/32"] {
            let text = r#"{"version":1,"deny":["DENY"],"host_loopback":"10.0.2.2"}"#;
            let policy = policy(&text.replace("DENY", deny));
            assert_eq!(policy.way(at("10.0.2.2:22")), Way::Denied, "{deny}");
        }
        let policy = policy(r#"{"version":1,"deny":["[::ffff:192.0.2.1]:50051"]}"#);
        assert_eq!(policy.way(at("192.0.2.1:50051")), Way::Denied);
    }

    #[test]
    fn what_is_denied_meanwhile_is_so_until_it_is_no_longer() {
        let mut policy = policy(r#"{"version":1,"deny":["10.9.0.0/16"]}"#);
        let [one, two] = ["10.1.0.0/24", "fd00:1::/64"].map(|net| net.parse().unwrap());
        policy.deny(vec![one, two]);
        assert_eq!(policy.way(at("10.1.0.1:22")), Way::Denied);
        assert_eq!(policy.way(at("[fd00:1::1]:22")), Way::Denied);
        policy.deny_no_longer(&[one]);
        assert_eq!(policy.way(at("10.1.0.1:22")), Way::To(at("10.1.0.1:22")));
        assert_eq!(policy.way(at("[fd00:1::1]:22")), Way::Denied);
        assert_eq!(policy.way(at("10.9.0.1:22")), Way::Denied);
    }

    #[test]
    fn who_speaks_from_loopback_has_the_name_that_it_is_given() {
        let named = policy(r#"{"version":1,"host_loopback":"10.0.2.2"}"#);
        assert_eq!(named.origin(at("127.0.0.1:9")), Some(at("10.0.2.2:9")));
        assert_eq!(named.origin(at("[::1]:9")), None);
        assert_eq!(named.origin(at("[::ffff:192.0.2.1]:9")), Some(at("192.0.2.1:9")));
        assert_eq!(policy(r#"{"version":1}"#).origin(at("127.0.0.1:9")), None);
        assert_eq!(named.origin(at("169.254.169.254:80")), None);
    }

    #[test]
    fn hosts_of_a_segment_reach_the_world_and_one_resolver() {
        let segment = r#"{"version":1,"segment":{"ipv4":{"gateway":"10.0.2.2/24",
            "dhcp":"10.0.2.15","dns":"10.0.2.3"},"resolver":"127.0.0.53:53" MORE}}"#;
        let mut open = policy(&segment.replace("MORE", ""));
        assert_eq!(open.way(at("10.0.2.3:53")), Way::Resolver(at("127.0.0.53:53")));
        for inside in ["10.0.2.3:80", "10.0.2.2:22", "10.0.2.15:1", "127.0.0.53:53"] {
            assert_eq!(open.way(at(inside)), Way::Denied, "{inside}");
        }
        assert_eq!(open.way(at("192.0.2.1:53")), Way::To(at("192.0.2.1:53")));
        open.set_resolver(at("192.0.2.1:53"));
        assert_eq!(open.way(at("10.0.2.3:53")), Way::Resolver(at("192.0.2.1:53")));
        let like = IpAddr::from([10, 0, 2, 15]);
        assert_eq!(open.caller(at("127.0.0.1:9"), like), at("10.0.2.2:9"));
        assert_eq!(open.caller(at("192.0.2.7:9"), like), at("192.0.2.7:9"));
        let restricted = policy(&segment.replace("MORE", r#","restricted":true"#));
        assert_eq!(restricted.way(at("10.0.2.3:53")), Way::Denied);
        assert_eq!(restricted.way(at("192.0.2.1:53")), Way::Denied);
        assert_eq!(restricted.caller(at("192.0.2.7:9"), like), at("10.0.2.2:9"));
    }

    #[test]
    fn callers_without_a_name_are_nobody() {
        let policy = policy(r#"{"version":1}"#);
        let like = |address: &str| address.parse().unwrap();
        assert_eq!(policy.caller(at("127.0.0.1:9"), like("10.0.0.1")), at("192.0.0.8:9"));
        assert_eq!(policy.caller(at("[::1]:9"), like("fd00::1")), at("[100::1]:9"));
        assert_eq!(policy.caller(at("192.0.2.7:9"), like("10.0.0.1")), at("192.0.2.7:9"));
    }
}
