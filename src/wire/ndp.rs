//! Neighbour discovery (RFC 4861) and the router advertisement options of RFC 8106.
//!
//! Readers take an ICMPv6 message from its header on; the writer of an advertisement returns the
//! message's body, which starts after the eight octets of [`super::icmpv6::Header`].

use super::{
    Full, Writer, dns,
    options::{Budget, Layout, Options, Unreadable},
};
use crate::addr::MacAddr;
use ipnet::Ipv6Net;
use std::net::Ipv6Addr;

const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
/// Prefix information (RFC 4861 §4.6.2).
pub const PREFIX_INFORMATION: u8 = 3;
/// MTU (RFC 4861 §4.6.4).
pub const MTU: u8 = 5;
/// Recursive DNS servers (RFC 8106 §5.1).
pub const RDNSS: u8 = 25;
/// DNS search list (RFC 8106 §5.2).
pub const DNSSL: u8 = 31;

/// Flag of a neighbour advertisement (RFC 4861 §4.4): the target is a router.
pub const ROUTER: u32 = 0x8000_0000;
/// Flag of a neighbour advertisement: it answers a solicitation.
pub const SOLICITED: u32 = 0x4000_0000;
/// Flag of a neighbour advertisement: it replaces what is known.
pub const OVERRIDE: u32 = 0x2000_0000;

/// At most so many DNS servers are advertised.
// Their option counts its length in one octet, in units of eight: one and two a server, so that
// more than 127 could not be told.
const MAX_SERVERS: usize = 64;

/// How long an advertisement holds for the router itself, its DNS servers and its search list.
// The longest that RFC 4861 §6.2.1 allows: fifteen of the longest intervals, so that a guest keeps
// its router though many advertisements are lost. RFC 8106 §5.1 asks for three at least.
pub const ROUTER_LIFETIME_SECONDS: u16 = 9000;

/// Whether the message with these options tells its sender's MAC. An error where they are not to be
/// read, and the message is to be discarded (RFC 4861 §6.1, §7.1).
pub fn tells_source(octets: &[u8]) -> Result<bool, Unreadable> {
    let budget = Budget::new();
    let mut options = Options::new(Layout::Neighbour, octets, &budget);
    options
        .try_fold(false, |found, option| Ok(option?.code == u16::from(SOURCE_LINK_LAYER) || found))
}

/// Whether `address` is that of the group of an address' solicitations (RFC 4291 §2.7.1).
pub fn is_solicited_node(address: Ipv6Addr) -> bool {
    address.octets().starts_with(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff])
}

/// The target of a neighbour solicitation or advertisement, and its options. `None` if it is cut or
/// a group.
pub fn target(message: &[u8]) -> Option<(Ipv6Addr, &[u8])> {
    let target: [u8; 16] = message.get(8..24)?.try_into().ok()?;
    let target = Ipv6Addr::from(target);
    // RFC 4861 §7.1.1, §7.1.2: such a message is discarded.
    (!target.is_multicast()).then_some((target, message.get(24..)?))
}

/// The body of a neighbour advertisement for `target` at `mac`.
pub fn write_neighbour_advertisement(
    writer: &mut Writer<'_>,
    target: Ipv6Addr,
    mac: MacAddr,
) -> Result<(), Full> {
    writer.push_slice(&target.octets())?;
    write_link_layer(writer, TARGET_LINK_LAYER, mac)
}

/// The body of a neighbour solicitation of who is at `mac`.
pub fn write_neighbour_solicitation(
    writer: &mut Writer<'_>,
    target: Ipv6Addr,
    mac: MacAddr,
) -> Result<(), Full> {
    writer.push_slice(&target.octets())?;
    write_link_layer(writer, SOURCE_LINK_LAYER, mac)
}

/// Returns the group of an address' solicitations (RFC 4291 §2.7.1).
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | a as u16, (b as u16) << 8 | c as u16)
}

fn write_link_layer(writer: &mut Writer<'_>, kind: u8, mac: MacAddr) -> Result<(), Full> {
    // A length of one unit: eight octets, these two included (RFC 4861 §4.6).
    writer.push_slice(&[kind, 1])?;
    writer.push(&mac)
}

/// What hosts may do with a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrefixUse {
    /// Find its addresses on the link (L).
    OnLink,
    /// Choose addresses in it (A).
    Autonomous,
    /// Both.
    OnLinkAutonomous,
}

/// Lifetimes of advertised prefixes: AdvValidLifetime and AdvPreferredLifetime of RFC 4861 §6.2.1.
const PREFIX_VALID_SECONDS: u32 = 2_592_000;
const PREFIX_PREFERRED_SECONDS: u32 = 604_800;

/// What a router advertisement tells.
#[derive(Debug, Clone, Copy)]
pub struct RouterAdvertisement<'a> {
    /// The router's MAC.
    pub mac: MacAddr,
    /// Octets of an IP packet.
    pub mtu: u32,
    /// Prefixes of the link.
    pub prefixes: &'a [(Ipv6Net, PrefixUse)],
    /// Recursive DNS servers.
    pub dns: &'a [Ipv6Addr],
    /// DNS search domain.
    pub domain: Option<&'a dns::Name>,
}

impl RouterAdvertisement<'_> {
    /// The word after the checksum: hop limit 64, managed addresses and other configuration by
    /// DHCPv6 (M, O), and the router's lifetime.
    pub const WORD: u32 = 64 << 24 | 0xc0 << 16 | ROUTER_LIFETIME_SECONDS as u32;

    /// The body of the advertisement: timers left to the host, then options.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), Full> {
        // Reachable time and retransmission timer: 0 is "unspecified by this router" (RFC 4861
        // §4.2).
        writer.push_zeros(8)?;
        write_link_layer(writer, SOURCE_LINK_LAYER, self.mac)?;
        writer.push_slice(&[MTU, 1, 0, 0])?;
        writer.push_slice(&self.mtu.to_be_bytes())?;
        for (prefix, usage) in self.prefixes {
            let flags = match usage {
                // Of vNICs never both: addresses of the shared prefix are leased, and in a /64 of
                // its own a guest has no neighbours.
                PrefixUse::OnLink => 0x80,
                PrefixUse::Autonomous => 0x40,
                PrefixUse::OnLinkAutonomous => 0xc0,
            };
            writer.push_slice(&[PREFIX_INFORMATION, 4, prefix.prefix_len(), flags])?;
            writer.push_slice(&PREFIX_VALID_SECONDS.to_be_bytes())?;
            writer.push_slice(&PREFIX_PREFERRED_SECONDS.to_be_bytes())?;
            writer.push_zeros(4)?;
            writer.push_slice(&prefix.network().octets())?;
        }
        let lifetime = u32::from(ROUTER_LIFETIME_SECONDS).to_be_bytes();
        let dns = self.dns.get(..MAX_SERVERS).unwrap_or(self.dns);
        if !dns.is_empty() {
            writer.push_slice(&[RDNSS, 1 + 2 * dns.len() as u8, 0, 0])?;
            writer.push_slice(&lifetime)?;
            for server in dns {
                writer.push_slice(&server.octets())?;
            }
        }
        if let Some(domain) = self.domain {
            let name = domain.octets();
            let units = name.len().div_ceil(8);
            writer.push_slice(&[DNSSL, 1 + units as u8, 0, 0])?;
            writer.push_slice(&lifetime)?;
            writer.push_slice(name)?;
            writer.push_zeros(units * 8 - name.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertisement_is_these_octets() {
        let mut buffer = [0; 256];
        let mut writer = Writer::new(&mut buffer);
        let domain = "prod.internal".parse().unwrap();
        RouterAdvertisement {
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            prefixes: &[("fd00:0:0:7::/64".parse().unwrap(), PrefixUse::Autonomous)],
            dns: &["fd00::53".parse().unwrap()],
            domain: Some(&domain),
        }
        .write(&mut writer)
        .unwrap();
        #[rustfmt::skip]
        let expected = [
            0, 0, 0, 0, 0, 0, 0, 0,
            1, 1, 2, 0, 0, 0, 0, 1,
            5, 1, 0, 0, 0, 0, 0x05, 0xdc,
            3, 4, 64, 0x40, 0, 0x27, 0x8d, 0, 0, 0x09, 0x3a, 0x80, 0, 0, 0, 0,
            0xfd, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0,
            25, 3, 0, 0, 0, 0, 0x23, 0x28, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53,
            31, 3, 0, 0, 0, 0, 0x23, 0x28,
            4, b'p', b'r', b'o', b'd', 8, b'i', b'n', b't', b'e', b'r', b'n', b'a', b'l', 0, 0,
        ];
        assert_eq!(writer.since(0), expected);
        assert_eq!(tells_source(&expected[8..]), Ok(true));
    }

    #[test]
    fn malformed_options_are_seen() {
        assert_eq!(tells_source(&[]), Ok(false));
        assert_eq!(tells_source(&[2, 1, 0, 0, 0, 0, 0, 0]), Ok(false));
        for cut in [&[1, 0, 0, 0, 0, 0, 0, 0][..], &[1, 2, 0, 0, 0, 0, 0, 0], &[1]] {
            assert_eq!(tells_source(cut), Err(Unreadable::Malformed), "{cut:?}");
        }
    }
}
