//! What an answer is counted as: by what was asked, which is known already.

use super::{GatewayEvent, Question};
use crate::{
    dataplane::{
        counters::AnswerKind,
        frame::classify::{Packet, Upper},
    },
    wire::udp,
};
use std::net::IpAddr;

/// Returns what an answer is that has told this, or that a service is to give.
pub fn answer_kind(question: &Question<'_>, told: &GatewayEvent) -> AnswerKind {
    let (upper, destination) = match &question.headers.packet {
        Packet::Arp(_) => return AnswerKind::Arp,
        Packet::Ipv4(packet) => (packet.upper, IpAddr::V4(packet.destination)),
        Packet::Ipv6(packet) => (packet.upper, packet.destination.into()),
    };
    match (told, upper) {
        (GatewayEvent::Neighbour6, _) => AnswerKind::Neighbour,
        (GatewayEvent::Router, _) => AnswerKind::Router,
        (_, Upper::Udp { destination: udp::DHCPV4_SERVER, .. }) => AnswerKind::Dhcpv4,
        (_, Upper::Udp { destination: udp::DHCPV6_SERVER, .. }) => AnswerKind::Dhcpv6,
        (_, Upper::Udp { .. }) => AnswerKind::Dns,
        (_, Upper::Icmp(_)) => AnswerKind::Icmp,
        // By TCP there are two services.
        _ if question.table.is_metadata(destination) => AnswerKind::Metadata,
        _ => AnswerKind::Dns,
    }
}
