//! Where a routed packet goes: a function of the network's table and the packet's headers.
//!
//! ```text
//! headers ── broadcast/multicast? ── FIB: exact address, then longest prefix ── MTU ── hop limit ── next hop
//! ```

mod fib;

pub use fib::{Fib, FibBuilder};

use super::{
    classify::{Ipv4, Ipv6},
    snapshot::{NetworkTable, NextHop},
    verdict::{DropReason, Rejection, Verdict},
};

/// Routes a unicast IPv4 packet.
pub fn route_ipv4(table: &NetworkTable, packet: &Ipv4) -> Verdict {
    let destination = packet.destination;
    if destination.is_multicast() {
        return Verdict::Drop(DropReason::Multicast);
    }
    if table.ipv4_subnet.is_some_and(|subnet| subnet.broadcast() == destination) {
        return Verdict::Drop(DropReason::Broadcast);
    }
    verdict(table.fib.lookup_ipv4(destination), packet.len, packet.ttl)
}

/// Routes a unicast IPv6 packet.
pub fn route_ipv6(table: &NetworkTable, packet: &Ipv6) -> Verdict {
    if packet.destination.is_multicast() {
        return Verdict::Drop(DropReason::Multicast);
    }
    if packet.source.is_unicast_link_local() || packet.destination.is_unicast_link_local() {
        // Link-local traffic ends at the link, which has the guest and the gateway on it (RFC 4291 §2.5.6).
        return Verdict::Drop(DropReason::NoRoute);
    }
    verdict(table.fib.lookup_ipv6(packet.destination), packet.len, packet.hop_limit)
}

fn verdict(next_hop: Option<NextHop>, len: usize, hop_limit: u8) -> Verdict {
    let Some(next_hop) = next_hop else {
        return Verdict::Reject(DropReason::NoRoute, Rejection::NoRoute);
    };
    if hop_limit <= 1 {
        return Verdict::Reject(DropReason::HopLimit, Rejection::TimeExceeded);
    }
    if len > usize::from(next_hop.mtu) {
        return Verdict::Reject(DropReason::ExceedsMtu, Rejection::TooBig(next_hop.mtu));
    }
    Verdict::Forward(next_hop)
}
