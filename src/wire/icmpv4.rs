//! ICMP for IPv4 (RFC 792; next-hop MTU: RFC 1191 §4).

use super::{Full, Writer, checksum, ipv4, protocol};
use std::net::Ipv4Addr;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    big_endian::{U16, U32},
};

/// Echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Redirect.
pub const REDIRECT: u8 = 5;
/// Echo.
pub const ECHO_REQUEST: u8 = 8;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;

/// Octets of the header.
pub const HEADER_LEN: usize = 8;
const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// The header all ICMP messages share.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// What the message is.
    pub kind: u8,
    /// Its variant.
    pub code: u8,
    /// Over the whole message.
    pub checksum: U16,
    /// Identifier and sequence number, or the next-hop MTU, or unused.
    pub rest: U32,
}

/// An error about a packet that cannot be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// Network unreachable (3/0).
    NetworkUnreachable,
    /// Host unreachable (3/1).
    HostUnreachable,
    /// Port unreachable (3/3).
    PortUnreachable,
    /// Communication administratively prohibited (3/13, RFC 1812 §5.2.7.1).
    Prohibited,
    /// Fragmentation needed, with the MTU of the next hop (3/4).
    FragmentationNeeded {
        /// Octets of an IP packet.
        mtu: u16,
    },
    /// TTL exceeded in transit (11/0).
    TimeExceeded,
}

impl Error {
    const fn encode(self) -> (u8, u8, u32) {
        match self {
            Self::NetworkUnreachable => (UNREACHABLE, 0, 0),
            Self::HostUnreachable => (UNREACHABLE, 1, 0),
            Self::PortUnreachable => (UNREACHABLE, 3, 0),
            Self::Prohibited => (UNREACHABLE, 13, 0),
            Self::FragmentationNeeded { mtu } => (UNREACHABLE, 4, mtu as u32),
            Self::TimeExceeded => (TIME_EXCEEDED, 0, 0),
        }
    }
}

/// Whether the message is an error, which must not be answered with an error (RFC 1122 §3.2.2).
pub const fn is_error(kind: u8) -> bool {
    // 4 is source quench: deprecated (RFC 6633), but an error still.
    matches!(kind, UNREACHABLE | 4 | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
}

/// Appends an IPv4 packet with an ICMP message whose body is `body`.
pub fn write(
    writer: &mut Writer<'_>,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    (kind, code, rest): (u8, u8, u32),
    body: &[u8],
) -> Result<(), Full> {
    let len = HEADER_LEN + body.len();
    ipv4::Header::write(writer, source, destination, protocol::ICMP, len)?;
    let start = writer.len();
    writer.push(&Header { kind, code, checksum: U16::ZERO, rest: U32::new(rest) })?;
    writer.push_slice(body)?;
    let sum = checksum::checksum(writer.since(start));
    writer.patch_u16(start + 2, sum);
    Ok(())
}

/// Appends an error about `packet`, quoting as much of it as 576 octets allow (RFC 1812 §4.3.2.3).
pub fn write_error(
    writer: &mut Writer<'_>,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    error: Error,
    packet: &[u8],
) -> Result<(), Full> {
    let room = 576 - ipv4::HEADER_LEN - HEADER_LEN;
    let quote = packet.get(..room).unwrap_or(packet);
    write(writer, source, destination, error.encode(), quote)
}
