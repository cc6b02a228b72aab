//! Where a routed packet goes: a function of the network's table and the packet's headers.
//!
//! ```text
//! headers ── broadcast/multicast? ── FIB: exact address, then longest prefix ── MTU ── hop limit ── next hop
//! ```

mod fib;

pub use fib::{Fib, FibBuilder, NextHopId};

use super::{
    classify::{Ipv4, Ipv6},
    snapshot::NetworkTable,
    verdict::{DropReason, Rejection, Verdict},
};

/// Routes a unicast IPv4 packet.
#[inline(always)]
pub fn route_ipv4(table: &NetworkTable, packet: &Ipv4) -> Result<NextHopId, Verdict> {
    let destination = packet.destination;
    if destination.is_multicast() {
        return Err(Verdict::Drop(DropReason::Multicast));
    }
    if table.ipv4_broadcast == Some(destination) {
        return Err(Verdict::Drop(DropReason::Broadcast));
    }
    let next_hop = table.fib.lookup_ipv4(destination);
    check(&table.fib, next_hop, packet.largest, packet.ttl)
}

/// Routes a unicast IPv6 packet.
#[inline]
pub fn route_ipv6(table: &NetworkTable, packet: &Ipv6) -> Result<NextHopId, Verdict> {
    if packet.destination.is_multicast() {
        return Err(Verdict::Drop(DropReason::Multicast));
    }
    if packet.source.is_unicast_link_local() || packet.destination.is_unicast_link_local() {
        // Link-local traffic ends at the link, which has the guest and the gateway on it (RFC 4291 §2.5.6).
        return Err(Verdict::Drop(DropReason::NoRoute));
    }
    let next_hop = table.fib.lookup_ipv6(packet.destination);
    check(&table.fib, next_hop, packet.largest, packet.hop_limit)
}

/// Whether a packet may go to its next hop.
#[inline(always)]
fn check(
    fib: &Fib,
    next_hop: Option<NextHopId>,
    len: usize,
    hop_limit: u8,
) -> Result<NextHopId, Verdict> {
    let Some(next_hop) = next_hop else {
        return Err(Verdict::Reject(DropReason::NoRoute, Rejection::NoRoute));
    };
    if hop_limit <= 1 {
        return Err(Verdict::Reject(DropReason::HopLimit, Rejection::TimeExceeded));
    }
    let mtu = fib.next_hop(next_hop).mtu;
    if len > usize::from(mtu) {
        return Err(Verdict::Reject(DropReason::ExceedsMtu, Rejection::TooBig(mtu)));
    }
    Ok(next_hop)
}
