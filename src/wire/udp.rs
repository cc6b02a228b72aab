//! UDP headers (RFC 768).

use super::{Full, Writer, checksum::Checksum, ipv4, ipv6, protocol};
use std::net::{Ipv4Addr, Ipv6Addr};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, big_endian::U16};

/// Octets of the header.
pub const HEADER_LEN: usize = 8;
/// Where in the header its checksum stands.
pub const CHECKSUM_OFFSET: u16 = 6;
const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// A DHCPv4 server (RFC 2131 §4.1).
pub const DHCPV4_SERVER: u16 = 67;
/// A DHCPv4 client (RFC 2131 §4.1).
pub const DHCPV4_CLIENT: u16 = 68;
/// A DHCPv6 client (RFC 8415 §7.2).
pub const DHCPV6_CLIENT: u16 = 546;
/// A DHCPv6 server (RFC 8415 §7.2).
pub const DHCPV6_SERVER: u16 = 547;

/// A UDP header.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// Port of the sender.
    pub source: U16,
    /// Port of the receiver.
    pub destination: U16,
    /// Octets of header and payload.
    pub len: U16,
    /// 0: none (IPv4 only).
    pub checksum: U16,
}

/// Octets of the header that `segment` starts with; `None` where it is cut.
pub fn header_len(segment: &[u8]) -> Option<usize> {
    (segment.len() >= HEADER_LEN).then_some(HEADER_LEN)
}

impl Header {
    /// Splits a segment into its header and its payload, cut to the length the header tells.
    pub fn parse(segment: &[u8]) -> Option<(&Self, &[u8])> {
        let (header, rest) = Self::ref_from_prefix(segment).ok()?;
        let len = usize::from(header.len.get()).checked_sub(HEADER_LEN)?;
        Some((header, rest.get(..len)?))
    }

    fn segment(source: u16, destination: u16, payload_len: usize) -> Result<Self, Full> {
        let len = u16::try_from(HEADER_LEN + payload_len).map_err(|_| Full)?;
        Ok(Self {
            source: U16::new(source),
            destination: U16::new(destination),
            len: U16::new(len),
            checksum: U16::ZERO,
        })
    }
}

/// Appends an IPv4 packet with a UDP datagram.
pub fn write_ipv4(
    writer: &mut Writer<'_>,
    (source, source_port): (Ipv4Addr, u16),
    (destination, destination_port): (Ipv4Addr, u16),
    payload: &[u8],
) -> Result<(), Full> {
    let mut header = Header::segment(source_port, destination_port, payload.len())?;
    let mut sum =
        Checksum::pseudo_ipv4(source, destination, protocol::UDP, header.len.get().into());
    sum.add(header.as_bytes());
    sum.add(payload);
    header.checksum = U16::new(sum.finish_udp());
    ipv4::Header::write(writer, source, destination, protocol::UDP, HEADER_LEN + payload.len())?;
    writer.push(&header)?;
    writer.push_slice(payload)
}

/// Appends an IPv6 packet with a UDP datagram.
pub fn write_ipv6(
    writer: &mut Writer<'_>,
    (source, source_port): (Ipv6Addr, u16),
    (destination, destination_port): (Ipv6Addr, u16),
    payload: &[u8],
) -> Result<(), Full> {
    let mut header = Header::segment(source_port, destination_port, payload.len())?;
    let mut sum =
        Checksum::pseudo_ipv6(source, destination, protocol::UDP, header.len.get().into());
    sum.add(header.as_bytes());
    sum.add(payload);
    header.checksum = U16::new(sum.finish_udp());
    let len = HEADER_LEN + payload.len();
    ipv6::Header::write(writer, source, destination, protocol::UDP, 64, len)?;
    writer.push(&header)?;
    writer.push_slice(payload)
}
