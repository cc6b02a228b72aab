//! ICMP for IPv6 (RFC 4443).

use super::{Full, Writer, checksum::Checksum, ipv6, protocol};
use std::net::Ipv6Addr;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    big_endian::{U16, U32},
};

/// Destination unreachable.
pub const UNREACHABLE: u8 = 1;
/// Packet too big.
pub const TOO_BIG: u8 = 2;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 3;
/// Echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Echo reply.
pub const ECHO_REPLY: u8 = 129;
/// Multicast listener query (RFC 2710), report, done; the report of version 2 is 143 (RFC 3810).
pub const MLD_QUERY: u8 = 130;
/// Router solicitation (RFC 4861 §4.1).
pub const ROUTER_SOLICITATION: u8 = 133;
/// Router advertisement (RFC 4861 §4.2).
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// Neighbour solicitation (RFC 4861 §4.3).
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
/// Neighbour advertisement (RFC 4861 §4.4).
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Redirect (RFC 4861 §4.5).
pub const REDIRECT: u8 = 137;
/// Multicast listener report, version 2 (RFC 3810).
pub const MLD_REPORT_V2: u8 = 143;

/// Octets of the header.
pub const HEADER_LEN: usize = 8;
const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// The header all ICMPv6 messages share, with the four octets that follow it in those used here.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// What the message is.
    pub kind: u8,
    /// Its variant.
    pub code: u8,
    /// Over a pseudo-header and the whole message.
    pub checksum: U16,
    /// Identifier and sequence number, or an MTU, or flags, or unused.
    pub rest: U32,
}

/// An error about a packet that cannot be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// No route to destination (1/0).
    NoRoute,
    /// Communication administratively prohibited (1/1).
    Prohibited,
    /// Beyond scope of source address (1/2).
    BeyondScope,
    /// Address unreachable (1/3).
    AddressUnreachable,
    /// Port unreachable (1/4).
    PortUnreachable,
    /// Packet too big, with the MTU of the next hop (2/0).
    TooBig {
        /// Octets of an IP packet.
        mtu: u32,
    },
    /// Hop limit exceeded in transit (3/0).
    TimeExceeded,
}

impl Error {
    const fn encode(self) -> (u8, u8, u32) {
        match self {
            Self::NoRoute => (UNREACHABLE, 0, 0),
            Self::Prohibited => (UNREACHABLE, 1, 0),
            Self::BeyondScope => (UNREACHABLE, 2, 0),
            Self::AddressUnreachable => (UNREACHABLE, 3, 0),
            Self::PortUnreachable => (UNREACHABLE, 4, 0),
            Self::TooBig { mtu } => (TOO_BIG, 0, mtu),
            Self::TimeExceeded => (TIME_EXCEEDED, 0, 0),
        }
    }
}

/// Whether the message is an error, which must not be answered with an error (RFC 4443 §2.4 e).
pub const fn is_error(kind: u8) -> bool {
    // Errors have the high bit clear (RFC 4443 §2.1). A redirect is none, but draws none.
    kind < 128 || kind == REDIRECT
}

/// Whether the message is of neighbour discovery.
pub const fn is_discovery(kind: u8) -> bool {
    matches!(kind, ROUTER_SOLICITATION..=REDIRECT)
}

/// Appends an IPv6 packet with an ICMPv6 message whose body is what `body` writes.
pub fn write(
    writer: &mut Writer<'_>,
    (source, destination, hop_limit): (Ipv6Addr, Ipv6Addr, u8),
    (kind, code, rest): (u8, u8, u32),
    body: &[u8],
) -> Result<(), Full> {
    let len = HEADER_LEN + body.len();
    ipv6::Header::write(writer, source, destination, protocol::ICMPV6, hop_limit, len)?;
    let start = writer.len();
    writer.push(&Header { kind, code, checksum: U16::ZERO, rest: U32::new(rest) })?;
    writer.push_slice(body)?;
    let mut sum = Checksum::pseudo_ipv6(source, destination, protocol::ICMPV6, len as u32);
    sum.add(writer.since(start));
    writer.patch_u16(start + 2, sum.finish());
    Ok(())
}

/// Appends an error about `packet`, quoting as much of it as 1280 octets allow (RFC 4443 §2.4 c).
pub fn write_error(
    writer: &mut Writer<'_>,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    error: Error,
    packet: &[u8],
) -> Result<(), Full> {
    // The minimum MTU of IPv6: an error is never too long for a link on its way.
    let room = 1280 - ipv6::HEADER_LEN - HEADER_LEN;
    let quote = packet.get(..room).unwrap_or(packet);
    write(writer, (source, destination, 64), error.encode(), quote)
}

/// Whether the checksum of `message` is right.
pub fn checksum_is_right(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> bool {
    // Cannot saturate: no frame is that long.
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut sum = Checksum::pseudo_ipv6(source, destination, protocol::ICMPV6, len);
    sum.add(message);
    sum.folded() == 0xffff
}
