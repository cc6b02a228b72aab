//! Neighbour discovery and router advertisements (RFC 4861, RFC 8106): the gateway is `fe80::1` and
//! the default router; addresses come by DHCPv6 (M=1, O=1). No prefix is on link but with the
//! addressing `subnet`, and guests choose addresses themselves only in a /64 that is theirs alone.
//! In a routed network the gateway stands for every other address of the prefix (RFC 4861 §7.2.8),
//! whatever the addressing and whomever a solicitation is sent to.

use super::{DropReason, GatewayEvent, Question, bounded, write_ethernet, write_ethernet_from};
use crate::{
    addr::MacAddr,
    dataplane::{
        forward::{
            Asker, guard,
            tables::{GATEWAY_IPV6, GATEWAY_MAC, Routed},
        },
        frame::classify::{Ipv6, Upper},
    },
    model::Addressing,
    wire::{Part, Writer, ethernet, icmpv6, ndp},
};
use arrayvec::ArrayVec;
use std::{
    net::Ipv6Addr,
    time::{Duration, Instant},
};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// How many advertisements a new guest gets in quick succession (RFC 4861 §6.2.4).
pub const FIRST_ADVERTISEMENTS: u8 = 3;
// MAX_INITIAL_RTR_ADVERT_INTERVAL (RFC 4861 §10).
const FIRST_INTERVAL: Duration = Duration::from_secs(16);
// The default MaxRtrAdvInterval, and as MinRtrAdvInterval about a third of it (RFC 4861 §6.2.1).
const MIN_INTERVAL_SECONDS: u64 = 200;
const MAX_INTERVAL_SECONDS: u64 = 600;

/// How soon an advertisement is tried again that found no receive buffer: the guest's driver is
/// just starting.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// When the next unsolicited advertisement is due, after `tried` of them; `random` spreads it (RFC
/// 4861 §6.2.4).
pub fn next_advertisement(now: Instant, tried: u8, heard: bool, random: u64) -> Instant {
    if tried < FIRST_ADVERTISEMENTS {
        return now + if heard { FIRST_INTERVAL } else { RETRY_INTERVAL };
    }
    let spread = random % ((MAX_INTERVAL_SECONDS - MIN_INTERVAL_SECONDS) * 1000);
    now + Duration::from_secs(MIN_INTERVAL_SECONDS) + Duration::from_millis(spread)
}

/// Writes an advertisement to all nodes of a link; there is none on a network without
/// IPv6.
pub fn router_advertisement(
    table: &Routed,
    asker: Asker<'_>,
    writer: &mut Writer<'_>,
) -> Result<(), DropReason> {
    advertise(table, asker, (ALL_NODES, MacAddr::ipv6_multicast(ALL_NODES)), writer)
}

fn advertise(
    table: &Routed,
    asker: Asker<'_>,
    (to, mac): (Ipv6Addr, MacAddr),
    writer: &mut Writer<'_>,
) -> Result<(), DropReason> {
    let vnic = asker.vnic();
    let has_ipv6 = vnic.map_or(table.ipv6_prefix.is_some(), |vnic| vnic.ipv6.is_some());
    if !has_ipv6 {
        return Err(DropReason::NotServed);
    }
    let has_subnet = vnic.is_some_and(|vnic| vnic.settings.addressing == Addressing::Subnet);
    let is_on_link = table.segment.is_some() || has_subnet;
    let on_link = table.ipv6_prefix.filter(|_| is_on_link);
    let on_link = on_link.map(|prefix| (prefix, ndp::PrefixUse::OnLink));
    let autonomous = vnic.and_then(|vnic| vnic.slaac);
    let autonomous = autonomous.map(|prefix| (prefix, ndp::PrefixUse::Autonomous));
    let prefixes: ArrayVec<_, 2> = on_link.into_iter().chain(autonomous).collect();
    // The longest is 616: two prefixes, 16 servers, which is what control admits, and a domain of
    // 255 octets.
    let mut body = [0; 1024];
    let mut options = Writer::new(&mut body);
    ndp::RouterAdvertisement {
        mac: GATEWAY_MAC,
        mtu: asker.mtu().into(),
        prefixes: prefixes.as_slice(),
        dns: &table.dns_ipv6,
        domain: table.domain.as_ref(),
    }
    .write(&mut options)?;
    write_ethernet(writer, mac, ethernet::IPV6)?;
    let words = (icmpv6::ROUTER_ADVERTISEMENT, 0, ndp::RouterAdvertisement::WORD);
    icmpv6::write(writer, (GATEWAY_IPV6, to, 255), words, options.since(0))?;
    Ok(())
}

/// Answers a message of neighbour discovery.
pub(super) fn respond(
    question: &Question<'_>,
    packet: &Ipv6,
    writer: &mut Writer<'_>,
) -> Result<GatewayEvent, DropReason> {
    let message = message(question.frame, packet)?;
    match packet.upper {
        Upper::Icmp(icmpv6::ROUTER_SOLICITATION) => {
            router_solicitation(question, packet, message, writer).map(|()| GatewayEvent::Router)
        }
        Upper::Icmp(icmpv6::NEIGHBOUR_SOLICITATION) => {
            neighbour_solicitation(question, packet, message, writer)
                .map(|()| GatewayEvent::Neighbour6)
        }
        Upper::Icmp(icmpv6::NEIGHBOUR_ADVERTISEMENT) => {
            Err(neighbour_advertisement(question.asker, message))
        }
        _ => Err(DropReason::RogueRouter),
    }
}

/// The message, if it could only come from the link itself, in one piece (RFC 6980): hop limit 255,
/// code 0, a right checksum.
fn message<'a>(frame: &'a [u8], packet: &Ipv6) -> Result<&'a [u8], DropReason> {
    let message = frame.get(ethernet::HEADER_LEN + packet.header_len..).unwrap_or(&[]);
    let message = bounded(message)?;
    // No router lets 255 through undiminished, so it was sent on this link (RFC 4861 §3.1).
    if packet.part != Part::Whole || packet.hop_limit != 255 || message.get(1) != Some(&0) {
        return Err(DropReason::MalformedMessage);
    }
    if !icmpv6::checksum_is_right(packet.source, packet.destination, message) {
        return Err(DropReason::BadChecksum);
    }
    Ok(message)
}

/// Whether a message tells its sender's MAC; one without a source address must not (RFC 4861
/// §6.1.1, §7.1.1).
fn check_options(packet: &Ipv6, options: &[u8]) -> Result<(), DropReason> {
    if ndp::tells_source(options)? && packet.source.is_unspecified() {
        return Err(DropReason::MalformedMessage);
    }
    Ok(())
}

fn router_solicitation(
    question: &Question<'_>,
    packet: &Ipv6,
    message: &[u8],
    writer: &mut Writer<'_>,
) -> Result<(), DropReason> {
    let options = message.get(icmpv6::HEADER_LEN..).ok_or(DropReason::MalformedMessage)?;
    check_options(packet, options)?;
    let to = if packet.source.is_unspecified() {
        (ALL_NODES, MacAddr::ipv6_multicast(ALL_NODES))
    } else {
        (packet.source, question.asker.mac())
    };
    advertise(question.table, question.asker, to, writer)
}

fn neighbour_solicitation(
    question: &Question<'_>,
    packet: &Ipv6,
    message: &[u8],
    writer: &mut Writer<'_>,
) -> Result<(), DropReason> {
    let target = solicited(packet, message)?;
    if !is_ours(question.asker, question.table, target) {
        return Err(DropReason::Absorbed);
    }
    // Those the gateway stands for are no routers, and another answer than a proxy's is better (RFC
    // 4861 §7.2.4).
    let own = if target == GATEWAY_IPV6 { ndp::ROUTER | ndp::OVERRIDE } else { 0 };
    let asker = (packet.source, question.asker.mac());
    write_advertisement(writer, (GATEWAY_IPV6, GATEWAY_MAC), asker, (target, own))
}

/// Returns the address that a solicitation asks for.
fn solicited(packet: &Ipv6, message: &[u8]) -> Result<Ipv6Addr, DropReason> {
    let (target, options) = ndp::target(message).ok_or(DropReason::MalformedMessage)?;
    check_options(packet, options)?;
    if packet.source.is_unspecified() && !ndp::is_solicited_node(packet.destination) {
        return Err(DropReason::MalformedMessage); // RFC 4861 §7.1.1
    }
    Ok(target)
}

/// Writes the advertisement of `target` to who asked for it, from `speaker`, which it is at.
fn write_advertisement(
    writer: &mut Writer<'_>,
    (speaker, at): (Ipv6Addr, MacAddr),
    (asker, asker_mac): (Ipv6Addr, MacAddr),
    (target, flags): (Ipv6Addr, u32),
) -> Result<(), DropReason> {
    // Who probes has no address yet: all nodes are told, and it does not count as solicited (RFC
    // 4861 §7.2.4).
    let (to, mac, flags) = if asker.is_unspecified() {
        (ALL_NODES, MacAddr::ipv6_multicast(ALL_NODES), flags)
    } else {
        (asker, asker_mac, flags | ndp::SOLICITED)
    };
    let mut body = [0; 24];
    let mut options = Writer::new(&mut body);
    ndp::write_neighbour_advertisement(&mut options, target, at)?;
    write_ethernet_from(at, writer, mac, ethernet::IPV6)?;
    let words = (icmpv6::NEIGHBOUR_ADVERTISEMENT, 0, flags);
    icmpv6::write(writer, (speaker, to, 255), words, options.since(0))?;
    Ok(())
}

/// Answers a solicitation for another neighbour, which is at `mac`, as that would do itself.
pub(super) fn speak_for(
    mac: MacAddr,
    packet: &Ipv6,
    (frame, asker): (&[u8], MacAddr),
    writer: &mut Writer<'_>,
) -> Result<(), DropReason> {
    let target = solicited(packet, message(frame, packet)?)?;
    let asker = (packet.source, asker);
    write_advertisement(writer, (target, mac), asker, (target, ndp::OVERRIDE))
}

fn is_ours(asker: Asker<'_>, table: &Routed, target: Ipv6Addr) -> bool {
    let is_own = || asker.vnic().is_some_and(|vnic| vnic.owns_ipv6(target));
    // On a segment its neighbours speak for themselves.
    let in_prefix =
        table.segment.is_none() && table.ipv6_prefix.is_some_and(|prefix| prefix.contains(&target));
    target == GATEWAY_IPV6 || table.is_metadata(target.into()) || (in_prefix && !is_own())
}

/// A guest may say where it is itself; nothing is learnt from it.
fn neighbour_advertisement(asker: Asker<'_>, message: &[u8]) -> DropReason {
    // Of a host behind a port that was looked at where it entered.
    let may = |target| asker.vnic().is_none_or(|vnic| guard::may_advertise(vnic, target));
    match ndp::target(message).map(|(target, options)| (target, ndp::tells_source(options))) {
        None => DropReason::MalformedMessage,
        Some((_, Err(unreadable))) => unreadable.into(),
        Some((target, Ok(_))) if may(target) => DropReason::Absorbed,
        Some(_) => DropReason::SpoofedNeighbour,
    }
}
