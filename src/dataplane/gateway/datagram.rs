//! Datagrams to the gateway: their checksum is looked at here, in one place (RFC 768, RFC 8200
//! §8.1).

use super::Question;
use crate::{
    dataplane::frame::{
        classify::{Ipv4, Ipv6},
        verdict::DropReason,
    },
    wire::{checksum::Checksum, protocol, udp, vnet::Offload},
};

/// Returns the header and the payload of a datagram over IPv4.
pub(super) fn datagram_ipv4<'a>(
    question: &Question<'a>,
    packet: &Ipv4,
) -> Result<(&'a udp::Header, &'a [u8]), DropReason> {
    let segment = question.packet_from(packet.header_len);
    let (header, payload) = udp::Header::parse(segment).ok_or(DropReason::MalformedMessage)?;
    // One that is left open nobody has computed, and 0 means "none" (RFC 768).
    if question.offload == Offload::None && header.checksum.get() != 0 {
        let len = header.len.get();
        let (source, destination) = (packet.source, packet.destination);
        let sum = Checksum::pseudo_ipv4(source, destination, protocol::UDP, len.into());
        check(sum, segment, len)?;
    }
    Ok((header, payload))
}

/// Returns the header and the payload of a datagram over IPv6.
pub(super) fn datagram_ipv6<'a>(
    question: &Question<'a>,
    packet: &Ipv6,
) -> Result<(&'a udp::Header, &'a [u8]), DropReason> {
    let segment = question.packet_from(packet.header_len);
    let (header, payload) = udp::Header::parse(segment).ok_or(DropReason::MalformedMessage)?;
    // No exception for 0, as there is in IPv4: UDP must have a checksum (RFC 8200 §8.1).
    if question.offload == Offload::None {
        let len = header.len.get();
        let (source, destination) = (packet.source, packet.destination);
        let sum = Checksum::pseudo_ipv6(source, destination, protocol::UDP, len.into());
        check(sum, segment, len)?;
    }
    Ok((header, payload))
}

/// Refuses a segment whose first `len` octets do not fit its checksum, of which `sum` is the part
/// of the pseudo-header.
fn check(mut sum: Checksum, segment: &[u8], len: u16) -> Result<(), DropReason> {
    sum.add(segment.get(..usize::from(len)).unwrap_or(segment));
    if sum.folded() == 0xffff { Ok(()) } else { Err(DropReason::BadChecksum) }
}
