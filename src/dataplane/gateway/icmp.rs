//! Echo to the gateway, and the errors a router owes the sender of a packet it cannot forward (RFC
//! 792, RFC 1812 §4.3, RFC 4443).

use super::{Question, write_ethernet};
use crate::{
    dataplane::{
        forward::{
            Asker,
            tables::{GATEWAY_IPV6, Routed},
        },
        frame::{
            classify::{Headers, Ipv4, Ipv6, Packet, Upper},
            verdict::{DropReason, Rejection},
        },
    },
    wire::{Part, Writer, checksum, ethernet, icmpv4, icmpv6},
};
use std::net::{Ipv4Addr, Ipv6Addr};
use zerocopy::FromBytes as _;

/// Answers a ping over IPv4.
pub(super) fn echo_ipv4(
    question: &Question<'_>,
    packet: &Ipv4,
    writer: &mut Writer<'_>,
) -> Result<(), DropReason> {
    let message = question.packet_from(packet.header_len);
    // An echo is data to be given back: what was damaged must not look whole again.
    if checksum::checksum(message) != 0 {
        return Err(DropReason::BadChecksum);
    }
    let (header, body) =
        icmpv4::Header::ref_from_prefix(message).map_err(|_| DropReason::MalformedMessage)?;
    write_ethernet(writer, question.asker.mac(), ethernet::IPV4)?;
    let words = (icmpv4::ECHO_REPLY, 0, header.rest.get());
    // From the address that was asked: in a switched network the gateway has two.
    icmpv4::write(writer, packet.destination, packet.source, words, body)?;
    Ok(())
}

/// Groups that the gateway is in (RFC 4291 §2.8): all nodes, all routers, those of its own address'
/// solicitations.
const GROUPS: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2),
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1),
];

/// Answers a ping over IPv6, also one to a group that the gateway is in.
pub(super) fn echo_ipv6(
    question: &Question<'_>,
    packet: &Ipv6,
    writer: &mut Writer<'_>,
) -> Result<(), DropReason> {
    if packet.destination.is_multicast() && !GROUPS.contains(&packet.destination) {
        return Err(DropReason::Multicast);
    }
    let message = question.packet_from(packet.header_len);
    if !icmpv6::checksum_is_right(packet.source, packet.destination, message) {
        return Err(DropReason::BadChecksum);
    }
    let (header, body) =
        icmpv6::Header::ref_from_prefix(message).map_err(|_| DropReason::MalformedMessage)?;
    write_ethernet(writer, question.asker.mac(), ethernet::IPV6)?;
    let words = (icmpv6::ECHO_REPLY, 0, header.rest.get());
    // From the address that was asked, where one was.
    let is_group = packet.destination.is_multicast();
    let source = if is_group { GATEWAY_IPV6 } else { packet.destination };
    icmpv6::write(writer, (source, packet.source, 64), words, body)?;
    Ok(())
}

/// Writes the ICMP error for a packet that was rejected, unless it is one that no error may answer
/// (RFC 1122 §3.2.2, RFC 4443 §2.4 e). `frame` is the frame without padding.
pub fn reject(
    (table, asker): (&Routed, Asker<'_>),
    headers: &Headers,
    frame: &[u8],
    rejection: Rejection,
    writer: &mut Writer<'_>,
) -> Result<(), DropReason> {
    // One frame to a group could otherwise draw an error from everybody who gets it.
    if headers.destination.is_multicast() {
        return Err(DropReason::Absorbed);
    }
    let packet_octets = frame.get(ethernet::HEADER_LEN..).unwrap_or(&[]);
    match &headers.packet {
        Packet::Ipv4(packet) if answerable_ipv4(packet) => {
            write_ethernet(writer, asker.mac(), ethernet::IPV4)?;
            let error = error_ipv4(rejection, packet.upper);
            let source = source_ipv4(table, asker, packet.source);
            icmpv4::write_error(writer, source, packet.source, error, packet_octets)?;
        }
        Packet::Ipv6(packet) if answerable_ipv6(packet) => {
            write_ethernet(writer, asker.mac(), ethernet::IPV6)?;
            let source = source_ipv6(table, asker, packet.source);
            let error = error_ipv6(rejection, packet.upper);
            icmpv6::write_error(writer, source, packet.source, error, packet_octets)?;
        }
        _ => return Err(DropReason::Absorbed),
    }
    Ok(())
}

fn error_ipv4(rejection: Rejection, upper: Upper) -> icmpv4::Error {
    match (rejection, upper) {
        (Rejection::NoRoute | Rejection::BeyondScope, _) => icmpv4::Error::NetworkUnreachable,
        (Rejection::NoHost, _) => icmpv4::Error::HostUnreachable,
        (Rejection::NotServed, Upper::Udp { .. }) => icmpv4::Error::PortUnreachable,
        (Rejection::NotServed, _) => icmpv4::Error::Prohibited,
        (Rejection::TimeExceeded, _) => icmpv4::Error::TimeExceeded,
        (Rejection::TooBig(mtu), _) => icmpv4::Error::FragmentationNeeded { mtu },
    }
}

fn error_ipv6(rejection: Rejection, upper: Upper) -> icmpv6::Error {
    match (rejection, upper) {
        (Rejection::NoRoute, _) => icmpv6::Error::NoRoute,
        (Rejection::BeyondScope, _) => icmpv6::Error::BeyondScope,
        (Rejection::NoHost, _) => icmpv6::Error::AddressUnreachable,
        (Rejection::NotServed, Upper::Udp { .. }) => icmpv6::Error::PortUnreachable,
        (Rejection::NotServed, _) => icmpv6::Error::Prohibited,
        (Rejection::TimeExceeded, _) => icmpv6::Error::TimeExceeded,
        (Rejection::TooBig(mtu), _) => icmpv6::Error::TooBig { mtu: mtu.into() },
    }
}

/// The IPv4 dummy address, for a router that has no address of its own which others may forward
/// (RFC 7600 §4.8).
const DUMMY_IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// Returns the source of an error that is sent to `to`: the gateway's address on the link, the
/// dummy address for hosts behind a guest and for whoever is outside.
// A guest must not forward a packet from a link-local address (RFC 3927 §2.7).
fn source_ipv4(table: &Routed, asker: Asker<'_>, to: Ipv4Addr) -> Ipv4Addr {
    let is_on_link = match asker {
        Asker::Guest(vnic) => vnic.ipv4 == Some(to),
        // A host sends from no other address than one of the link (`guard::check_host`).
        Asker::Host(_) => true,
        Asker::Outside(_) => false,
    };
    if is_on_link { table.gateway_ipv4() } else { DUMMY_IPV4 }
}

/// Returns the source of an error that is sent to `to`: the gateway's link-local address on
/// the link, the subnet-router anycast address of the network (RFC 4291 §2.6.1) for hosts behind a
/// guest and for whoever is outside.
// A guest must not forward a packet from a link-local address (RFC 4291 §2.5.6).
fn source_ipv6(table: &Routed, asker: Asker<'_>, to: Ipv6Addr) -> Ipv6Addr {
    let own = match asker {
        Asker::Guest(vnic) => {
            vnic.ipv6 == Some(to) || vnic.slaac.is_some_and(|prefix| prefix.contains(&to))
        }
        Asker::Host(_) => true,
        Asker::Outside(_) => false,
    };
    let on_link = own || to.is_unicast_link_local();
    let prefix = table.ipv6_prefix.filter(|_| !on_link);
    prefix.map_or(GATEWAY_IPV6, |prefix| prefix.network())
}

fn answerable_ipv4(packet: &Ipv4) -> bool {
    let about_error = matches!(packet.upper, Upper::Icmp(kind) if icmpv4::is_error(kind));
    !about_error && !is_later(packet.part) && !packet.source.is_unspecified()
}

fn answerable_ipv6(packet: &Ipv6) -> bool {
    // Later fragments are no exception, as they are in IPv4: RFC 4443 §2.4 e does not name them.
    let about_error = matches!(packet.upper, Upper::Icmp(kind) if icmpv6::is_error(kind));
    !about_error && !packet.source.is_unspecified()
}

fn is_later(part: Part) -> bool {
    matches!(part, Part::Later(_))
}
