//! What became of a frame, in words that programs can take apart: `verdict=dropped
//! reason=spoofed_source_ipv4`.

use crate::{
    dataplane::{Outcome, Record},
    wire::{
        ethernet, ipv4, ipv6, protocol,
        vnet::{Offload, SegmentKind},
    },
};

/// Returns the comment of a frame that went on to `to`, if it did.
pub(super) fn comment(record: &Record, octets: &[u8], to: &str, is_open: bool) -> String {
    let mut comment = match record.outcome {
        Outcome::Delivered => "verdict=delivered".to_owned(),
        Outcome::Forwarded(_) => format!("verdict=forwarded to={to}"),
        Outcome::Flooded => "verdict=flooded".to_owned(),
        Outcome::Answered => format!("verdict=answered by={}", responder(octets)),
        Outcome::Asked => format!("verdict=asked by={}", responder(octets)),
        Outcome::Dropped(reason) => format!("verdict=dropped reason={}", reason.name()),
    };
    if let Offload::Segmentation { segments, .. } = record.offload {
        let (kind, size) = match segments.kind {
            SegmentKind::Tcp4 => ("tso4", "mss"),
            SegmentKind::Tcp6 => ("tso6", "mss"),
            SegmentKind::Udp => ("uso", "size"),
        };
        comment += &format!(" offload={kind} {size}={}", segments.size);
    }
    if is_open {
        comment += " checksum=open";
    }
    comment
}

/// Returns what of the gateway answers a frame.
fn responder(frame: &[u8]) -> &'static str {
    let at = ethernet::packet_at(frame);
    let ether_type = at.checked_sub(2).and_then(|at| frame.get(at..)?.first_chunk());
    let packet = frame.get(at..).unwrap_or_default();
    match ether_type.map(|octets| u16::from_be_bytes(*octets)) {
        Some(ethernet::ARP) => "arp",
        Some(ethernet::IPV4) => {
            let Some(header) = ipv4::Header::parse(packet, packet.len()) else { return "gateway" };
            by_upper(header.protocol, packet.get(header.header_len()..).unwrap_or_default())
        }
        Some(ethernet::IPV6) => {
            let header = ipv6::Header::parse(packet, packet.len());
            let Some(Ok(upper)) = header.map(|header| header.upper(packet)) else {
                return "gateway";
            };
            by_upper(upper.protocol, packet.get(upper.offset..).unwrap_or_default())
        }
        _ => "gateway",
    }
}

fn by_upper(number: u8, segment: &[u8]) -> &'static str {
    let to = segment.get(2..).and_then(|octets| octets.first_chunk());
    match (number, to.map(|octets| u16::from_be_bytes(*octets)), segment.first()) {
        (protocol::ICMP, ..) => "icmp",
        // Router and neighbour solicitations (RFC 4861 §4).
        (protocol::ICMPV6, _, Some(133 | 135)) => "ndp",
        (protocol::ICMPV6, ..) => "icmpv6",
        (protocol::UDP, Some(67), _) => "dhcpv4",
        (protocol::UDP, Some(547), _) => "dhcpv6",
        (protocol::UDP | protocol::TCP, Some(53), _) => "dns",
        (protocol::UDP, Some(123), _) => "ntp",
        (protocol::TCP, Some(80), _) => "metadata",
        _ => "gateway",
    }
}
