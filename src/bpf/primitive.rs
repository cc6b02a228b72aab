//! What primitives ask, as pcap-filter(7) says it of files of Ethernet frames: which octets are
//! compared, and what must be so before they are.
//!
//! `packet` is where the packet of a frame begins. The EtherType is in front of it.

use super::{
    tree::{Base, Node, Number, Relation, Size},
    words::number,
};
use crate::{
    addr::MacAddr,
    wire::{ethernet, protocol},
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where packets begin without a tag.
pub(super) const UNTAGGED: u32 = ethernet::HEADER_LEN as u32;
pub(super) const TAG_LEN: u32 = 4;
/// EtherTypes of tags: IEEE 802.1Q, 802.1ad, and an older one of the latter.
const TAGS: [u32; 3] = [0x8100, 0x88a8, 0x9100];
/// Reverse ARP (RFC 903).
const RARP: u16 = 0x8035;
/// Octets of an IPv6 header.
const IPV6_LEN: u32 = 40;
/// A fragment header of IPv6 (RFC 8200 §4.5).
const FRAGMENT: u32 = 44;
const SCTP: u8 = 132;
/// What is below this is no EtherType but a length (IEEE 802.3 §3.2.6).
const FIRST_ETHER_TYPE: u32 = 0x600;

/// What goes before `host`, `port` and the like, or stands alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Ether,
    Ip,
    Ip6,
    Arp,
    Rarp,
    /// Of IPv4 and IPv6.
    Upper(u8),
    Icmp,
    Igmp,
    Icmp6,
}

impl Protocol {
    pub(super) fn of(word: &str) -> Option<Self> {
        Some(match word {
            "ether" | "link" => Self::Ether,
            "ip" => Self::Ip,
            "ip6" => Self::Ip6,
            "arp" => Self::Arp,
            "rarp" => Self::Rarp,
            "tcp" => Self::Upper(protocol::TCP),
            "udp" => Self::Upper(protocol::UDP),
            "sctp" => Self::Upper(SCTP),
            "esp" => Self::Upper(50),
            "ah" => Self::Upper(51),
            "pim" => Self::Upper(103),
            "icmp" => Self::Icmp,
            "igmp" => Self::Igmp,
            "icmp6" => Self::Icmp6,
            _ => return None,
        })
    }

    /// Whether a frame is of it; none for what every frame is.
    pub(super) fn node(self, packet: u32) -> Option<Node> {
        Some(match self {
            Self::Ether => return None,
            Self::Ip => ether_type(packet, ethernet::IPV4),
            Self::Ip6 => ether_type(packet, ethernet::IPV6),
            Self::Arp => ether_type(packet, ethernet::ARP),
            Self::Rarp => ether_type(packet, RARP),
            Self::Upper(number) => ipv4(packet, number).or(ipv6(packet, number)),
            Self::Icmp => ipv4(packet, protocol::ICMP),
            Self::Igmp => ipv4(packet, 2),
            Self::Icmp6 => ipv6(packet, protocol::ICMPV6),
        })
    }

    /// What must be so for its octets to be found, and where they begin. None: it cannot be said.
    pub(super) fn octets(self, packet: u32) -> Option<(Option<Node>, Base)> {
        let at = Base::At(packet);
        Some(match self {
            Self::Ether => (None, Base::At(0)),
            Self::Ip | Self::Ip6 | Self::Arp | Self::Rarp => (self.node(packet), at),
            // Of IPv4 alone: behind an IPv6 header there may be others.
            Self::Upper(_) | Self::Icmp | Self::Igmp => {
                let own = self.node(packet)?;
                let guard = ether_type(packet, ethernet::IPV4).and(own.and(has_start(packet)));
                (Some(guard), Base::BehindIpv4(packet))
            }
            Self::Icmp6 => {
                let next = Number::at(at, 6, Size::One).equals(protocol::ICMPV6.into());
                let guard = ether_type(packet, ethernet::IPV6).and(next);
                (Some(guard), Base::At(packet + IPV6_LEN))
            }
        })
    }
}

/// Which end of a frame's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Direction {
    Source,
    Destination,
    #[default]
    Either,
    Both,
}

impl Direction {
    fn of(self, [source, destination]: [Node; 2]) -> Node {
        match self {
            Self::Source => source,
            Self::Destination => destination,
            Self::Either => source.or(destination),
            Self::Both => source.and(destination),
        }
    }
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Host,
    Net,
    Port,
    PortRange,
    Protocol,
    Broadcast,
    Multicast,
}

impl Kind {
    pub(super) fn of(word: &str) -> Option<Self> {
        Some(match word {
            "host" => Self::Host,
            "net" => Self::Net,
            "port" => Self::Port,
            "portrange" => Self::PortRange,
            "proto" => Self::Protocol,
            "broadcast" => Self::Broadcast,
            "multicast" => Self::Multicast,
            _ => return None,
        })
    }
}

/// A value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Id<'a> {
    Word(&'a str),
    V4(u32, u32),
    V6(u128, u128),
}

impl<'a> Id<'a> {
    /// None where the prefix is longer than the address, or has bits of a host.
    pub(super) fn prefix(word: &str, len: u32) -> Option<Id<'a>> {
        if let Ok(address) = word.parse::<Ipv6Addr>() {
            let mask = mask(len, 128)?;
            let address = u128::from(address);
            return (address & !mask == 0).then_some(Id::V6(address, mask));
        }
        let (address, _) = dotted(word)?;
        let mask = mask(len, 32)? as u32;
        (address & !mask == 0).then_some(Id::V4(address, mask))
    }

    pub(super) fn masked(word: &str, mask: Ipv4Addr) -> Option<Id<'a>> {
        let ((address, _), mask) = (dotted(word)?, u32::from(mask));
        (address & !mask == 0).then_some(Id::V4(address, mask))
    }
}

/// Returns so many ones in front of zeros; none if there are not so many bits.
fn mask(len: u32, bits: u32) -> Option<u128> {
    let all = if bits == 128 { u128::MAX } else { (1 << bits) - 1 };
    let zeros = bits.checked_sub(len)?;
    Some(all & all.checked_shl(zeros).unwrap_or(0))
}

/// An IPv4 address, or its first octets; with how many bits those are.
fn dotted(word: &str) -> Option<(u32, u32)> {
    let octets = word.split('.').map(|octet| {
        let digits = octet.bytes().all(|digit| digit.is_ascii_digit());
        octet.parse::<u8>().ok().filter(|_| digits)
    });
    let octets = octets.collect::<Option<Vec<_>>>()?;
    let bits = 8 * octets.len() as u32;
    let value = octets.iter().fold(0_u64, |value, octet| value << 8 | u64::from(*octet));
    (bits <= 32).then(|| ((value << (32 - bits)) as u32, bits))
}

/// What is said of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Qualifiers {
    pub(super) protocol: Option<Protocol>,
    pub(super) direction: Direction,
    pub(super) kind: Option<Kind>,
}

impl Qualifiers {
    /// What a value would be with these.
    pub(super) fn wanted(self) -> &'static str {
        match (self.protocol, self.kind) {
            (Some(Protocol::Ether), Some(Kind::Protocol)) => "an EtherType like 0x0800",
            (_, Some(Kind::Protocol)) => "a protocol's number, like 17",
            (Some(Protocol::Ether), _) => "a MAC like 02:53:59:00:00:01",
            (_, Some(Kind::Port)) => "a port, of tcp, udp, sctp or all three",
            (_, Some(Kind::PortRange)) => "ports like 6000-6008, of tcp, udp, sctp or all three",
            (_, Some(Kind::Net)) => "a network like 10.0.0.0/8, of ip, ip6, arp or all three",
            _ => "an address, of ip, ip6, arp or all three",
        }
    }

    /// Returns what is asked of a frame; none where the value is not what it is to be.
    pub(super) fn node(self, id: &Id<'_>, packet: u32) -> Option<Node> {
        match (self.protocol, self.kind) {
            (Some(Protocol::Ether), None | Some(Kind::Host)) => {
                let Id::Word(word) = id else { return None };
                Some(self.mac(word.parse().ok()?))
            }
            (protocol, Some(Kind::Protocol)) => carried(protocol, id, packet),
            (_, Some(Kind::Port | Kind::PortRange)) => self.ports(id, packet),
            (_, None | Some(Kind::Host | Kind::Net)) => self.address(id, packet),
            (_, Some(Kind::Broadcast | Kind::Multicast)) => None,
        }
    }

    /// `broadcast` and `multicast`.
    pub(super) fn group(self, packet: u32) -> Option<Node> {
        let is_plain = self.direction == Direction::Either;
        let at = Base::At(packet);
        match (self.protocol, self.kind) {
            (None | Some(Protocol::Ether), Some(Kind::Broadcast)) if is_plain => {
                let direction = Direction::Destination;
                Some(Self { direction, ..self }.mac(MacAddr::BROADCAST))
            }
            (None | Some(Protocol::Ether), Some(Kind::Multicast)) if is_plain => {
                Some(Number::at(Base::At(0), 0, Size::One).is(Relation::AnyBit, 1))
            }
            (Some(Protocol::Ip), Some(Kind::Multicast)) if is_plain => {
                let group = Number::at(at, 16, Size::One).is(Relation::GreaterOrEqual, 224);
                Some(ether_type(packet, ethernet::IPV4).and(group))
            }
            (Some(Protocol::Ip6), Some(Kind::Multicast)) if is_plain => {
                let group = Number::at(at, 24, Size::One).equals(255);
                Some(ether_type(packet, ethernet::IPV6).and(group))
            }
            _ => None,
        }
    }

    fn mac(self, MacAddr([a, b, rest @ ..]): MacAddr) -> Node {
        let is = |at| {
            let front =
                Number::at(Base::At(0), at, Size::Two).equals(u16::from_be_bytes([a, b]).into());
            let back = Number::at(Base::At(0), at + 2, Size::Four);
            back.equals(u32::from_be_bytes(rest)).and(front)
        };
        // The destination is first.
        self.direction.of([is(6), is(0)])
    }

    fn address(self, id: &Id<'_>, packet: u32) -> Option<Node> {
        let id = match *id {
            Id::Word(word) => match word.parse().ok() {
                Some(IpAddr::V4(host)) => Id::V4(host.into(), u32::MAX),
                Some(IpAddr::V6(host)) => Id::V6(host.into(), u128::MAX),
                // `net 10.1` is all that begins so.
                None if self.kind == Some(Kind::Net) => {
                    let (address, bits) = dotted(word)?;
                    Id::V4(address, mask(bits, 32)? as u32)
                }
                None => return None,
            },
            id => id,
        };
        if self.kind == Some(Kind::Host)
            && !matches!(id, Id::V4(_, u32::MAX) | Id::V6(_, u128::MAX))
        {
            return None;
        }
        match (id, self.protocol) {
            (Id::V4(address, mask), protocol) => {
                let of = |ether_type_: u16, places| {
                    ether_type(packet, ether_type_).and(self.v4((address, mask), packet, places))
                };
                let ip = || of(ethernet::IPV4, [12, 16]);
                let arp = || of(ethernet::ARP, [14, 24]);
                let rarp = || of(RARP, [14, 24]);
                match protocol {
                    None => Some(ip().or(arp()).or(rarp())),
                    Some(Protocol::Ip) => Some(ip()),
                    Some(Protocol::Arp) => Some(arp()),
                    Some(Protocol::Rarp) => Some(rarp()),
                    _ => None,
                }
            }
            (Id::V6(address, mask), None | Some(Protocol::Ip6)) => {
                let ends = [8, 24].map(|place| v6((address, mask), packet + place));
                Some(ether_type(packet, ethernet::IPV6).and(self.direction.of(ends)))
            }
            _ => None,
        }
    }

    fn v4(self, (address, mask): (u32, u32), packet: u32, places: [u32; 2]) -> Node {
        let is =
            |place| Number::at(Base::At(packet), place, Size::Four).masked(mask).equals(address);
        self.direction.of(places.map(is))
    }

    fn ports(self, id: &Id<'_>, packet: u32) -> Option<Node> {
        let Id::Word(word) = id else { return None };
        let range = match (self.kind, word.split_once('-')) {
            (Some(Kind::Port), _) => {
                let port = port(word)?;
                (port, port)
            }
            (_, Some((first, last))) => {
                let (first, last) = (port(first)?, port(last)?);
                (first.min(last), first.max(last))
            }
            (_, None) => {
                let port = port(word)?;
                (port, port)
            }
        };
        let protocols = match self.protocol {
            None => vec![SCTP, protocol::TCP, protocol::UDP],
            Some(Protocol::Upper(number @ (SCTP | protocol::TCP | protocol::UDP))) => vec![number],
            _ => return None,
        };
        let of = |is: &dyn Fn(u8) -> Node| {
            let mut nodes = protocols.iter().map(|number| is(*number));
            let first = nodes.next()?;
            Some(nodes.fold(first, Node::or))
        };
        let at = Base::At(packet);
        let carries = |place, number: u8| Number::at(at, place, Size::One).equals(number.into());
        let v6 = of(&|number| {
            let ends = self.ends(Base::At(packet + IPV6_LEN), range);
            carries(6, number).and(ends)
        })?;
        let v4 = of(&|number| {
            let ends = self.ends(Base::BehindIpv4(packet), range);
            carries(9, number).and(has_start(packet)).and(ends)
        })?;
        let v4 = ether_type(packet, ethernet::IPV4).and(v4);
        Some(ether_type(packet, ethernet::IPV6).and(v6).or(v4))
    }

    fn ends(self, base: Base, (first, last): (u32, u32)) -> Node {
        let is = |place| {
            let port = || Number::at(base, place, Size::Two);
            if first == last {
                return port().equals(first);
            }
            let from = port().is(Relation::GreaterOrEqual, first);
            from.and(port().is(Relation::Greater, last).not())
        };
        self.direction.of([is(0), is(2)])
    }
}

fn v6((address, mask): (u128, u128), at: u32) -> Node {
    let word = |place: u32| {
        let shift = 96 - 8 * place;
        let (address, mask) = ((address >> shift) as u32, (mask >> shift) as u32);
        Number::at(Base::At(at), place, Size::Four).masked(mask).equals(address)
    };
    word(0).and(word(4)).and(word(8)).and(word(12))
}

/// `proto`.
fn carried(of: Option<Protocol>, id: &Id<'_>, packet: u32) -> Option<Node> {
    let Id::Word(word) = id else { return None };
    if of == Some(Protocol::Ether) {
        let named = match *word {
            "ip" => Some(ethernet::IPV4.into()),
            "ip6" => Some(ethernet::IPV6.into()),
            "arp" => Some(ethernet::ARP.into()),
            "rarp" => Some(RARP.into()),
            other => number(other).filter(|number| *number >= FIRST_ETHER_TYPE),
        };
        return Some(ether_type(packet, u16::try_from(named?).ok()?));
    }
    let named = match Protocol::of(word) {
        Some(Protocol::Upper(number)) => Some(number),
        Some(Protocol::Icmp) => Some(protocol::ICMP),
        Some(Protocol::Igmp) => Some(2),
        Some(Protocol::Icmp6) => Some(protocol::ICMPV6),
        Some(_) => None,
        None => number(word).and_then(|number| u8::try_from(number).ok()),
    };
    let number = named?;
    match of {
        None => Some(ipv4(packet, number).or(ipv6(packet, number))),
        Some(Protocol::Ip) => Some(ipv4(packet, number)),
        Some(Protocol::Ip6) => Some(ipv6(packet, number)),
        _ => None,
    }
}

/// `vlan`: whether there is a tag, and of which VLAN.
pub(super) fn vlan(packet: u32, id: Option<u32>) -> Node {
    let ether_type = || Number::at(Base::At(packet - 2), 0, Size::Two);
    let [a, b, c] = TAGS.map(|tag| ether_type().equals(tag));
    let is_tagged = a.or(b).or(c);
    match id {
        None => is_tagged,
        Some(id) => {
            is_tagged.and(Number::at(Base::At(packet), 0, Size::Two).masked(0x0fff).equals(id))
        }
    }
}

fn ether_type(packet: u32, wanted: u16) -> Node {
    Number::at(Base::At(packet - 2), 0, Size::Two).equals(wanted.into())
}

fn ipv4(packet: u32, number: u8) -> Node {
    let carries = Number::at(Base::At(packet), 9, Size::One).equals(number.into());
    ether_type(packet, ethernet::IPV4).and(carries)
}

/// Also behind a fragment header, and behind no other.
fn ipv6(packet: u32, number: u8) -> Node {
    let next = |place, number: u32| Number::at(Base::At(packet), place, Size::One).equals(number);
    let fragmented = next(6, FRAGMENT).and(next(IPV6_LEN, number.into()));
    ether_type(packet, ethernet::IPV6).and(next(6, number.into()).or(fragmented))
}

/// Whether an IPv4 packet is no later fragment: those have no header of an upper layer.
fn has_start(packet: u32) -> Node {
    Number::at(Base::At(packet), 6, Size::Two).is(Relation::AnyBit, 0x1fff).not()
}

/// A port, by its number or, of the usual ones, its name (IANA's registry of services).
fn port(word: &str) -> Option<u32> {
    Some(match word {
        "ftp" => 21,
        "ssh" => 22,
        "telnet" => 23,
        "smtp" => 25,
        "domain" => 53,
        "bootps" => 67,
        "bootpc" => 68,
        "tftp" => 69,
        "http" => 80,
        "ntp" => 123,
        "imap2" => 143,
        "snmp" => 161,
        "https" => 443,
        "syslog" => 514,
        other => number(other).filter(|port| *port <= 0xffff)?,
    })
}

/// Names of offsets and values, which stand where numbers do.
pub(super) fn constant(word: &str) -> Option<u32> {
    Some(match word {
        "icmptype" | "icmp6type" => 0,
        "icmpcode" | "icmp6code" => 1,
        "tcpflags" => 13,
        "tcp-fin" => 0x01,
        "tcp-syn" => 0x02,
        "tcp-rst" => 0x04,
        "tcp-push" => 0x08,
        "tcp-ack" => 0x10,
        "tcp-urg" => 0x20,
        "tcp-ece" => 0x40,
        "tcp-cwr" => 0x80,
        "icmp-echoreply" => 0,
        "icmp-unreach" => 3,
        "icmp-sourcequench" => 4,
        "icmp-redirect" => 5,
        "icmp-echo" => 8,
        "icmp-routeradvert" => 9,
        "icmp-routersolicit" => 10,
        "icmp-timxceed" => 11,
        "icmp-paramprob" => 12,
        "icmp6-destinationunreach" => 1,
        "icmp6-packettoobig" => 2,
        "icmp6-timeexceeded" => 3,
        "icmp6-parameterproblem" => 4,
        "icmp6-echo" => 128,
        "icmp6-echoreply" => 129,
        "icmp6-routersolicit" => 133,
        "icmp6-routeradvert" => 134,
        "icmp6-neighborsolicit" => 135,
        "icmp6-neighboradvert" => 136,
        "icmp6-redirect" => 137,
        _ => return None,
    })
}
