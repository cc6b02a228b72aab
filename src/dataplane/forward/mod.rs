//! Where a routed packet goes: a function of the network's table and the packet's headers.
//!
//! ```text
//! headers ── broadcast/multicast? ── FIB: exact address, then longest prefix
//!         ── hop limit ── MTU ── next hop
//! ```

pub mod fast;
mod fib;
pub mod guard;
pub mod limit;
pub mod rewrite;
pub mod routed;
pub mod tables;
pub mod withheld;

pub use fib::{Fib, FibBuilder};

use super::frame::{
    classify::{Ipv4, Ipv6},
    verdict::{DropReason, NextHopId, Rejection, Verdict},
};
use tables::NetworkTable;

/// Routes a unicast IPv4 packet.
#[inline(always)]
pub fn route_ipv4(table: &NetworkTable, packet: &Ipv4) -> Result<NextHopId, Verdict> {
    let destination = packet.destination;
    // Before the lookup: a routed prefix may cover groups and the broadcast address.
    if destination.is_multicast() {
        return Err(Verdict::Drop(DropReason::Multicast));
    }
    if table.ipv4_broadcast == Some(destination) {
        return Err(Verdict::Drop(DropReason::Broadcast));
    }
    let next_hop = table.fib.lookup_ipv4(destination).ok_or_else(|| {
        unreachable(table.ipv4_subnet.is_some_and(|subnet| subnet.contains(&destination)))
    })?;
    // The largest packet that it becomes: a frame to be segmented may well be longer than the MTU.
    let checked = check(&table.fib, next_hop, packet.largest, packet.ttl);
    if packet.may_be_cut && matches!(checked, Err(Verdict::Reject(DropReason::ExceedsMtu, _))) {
        // RFC 1812 §5.2.6.
        return Err(Verdict::Fragment(next_hop));
    }
    checked
}

/// Routes a unicast IPv6 packet.
#[inline]
pub fn route_ipv6(table: &NetworkTable, packet: &Ipv6) -> Result<NextHopId, Verdict> {
    if packet.destination.is_multicast() {
        return Err(Verdict::Drop(DropReason::Multicast));
    }
    if packet.source.is_unicast_link_local() || packet.destination.is_unicast_link_local() {
        // Link-local traffic ends at the link, which has the guest and the gateway on it (RFC 4291
        // §2.5.6).
        return Err(Verdict::Reject(DropReason::NoRoute, Rejection::BeyondScope));
    }
    let next_hop = table.fib.lookup_ipv6(packet.destination).ok_or_else(|| {
        unreachable(table.ipv6_prefix.is_some_and(|prefix| prefix.contains(&packet.destination)))
    })?;
    check(&table.fib, next_hop, packet.largest, packet.hop_limit)
}

/// What becomes of a packet to an address that nobody has (RFC 1812 §5.2.7.1, RFC 4443 §3.1).
#[cold]
fn unreachable(in_subnet: bool) -> Verdict {
    let rejection = if in_subnet { Rejection::NoHost } else { Rejection::NoRoute };
    Verdict::Reject(DropReason::NoRoute, rejection)
}

/// Whether a packet may go to its next hop.
#[inline(always)]
fn check(fib: &Fib, next_hop: NextHopId, len: usize, hop_limit: u8) -> Result<NextHopId, Verdict> {
    // Before the MTU, so that a packet which ends here is not cut. At 1 it would leave with 0 (RFC
    // 1812 §5.3.1, RFC 8200 §3).
    if hop_limit <= 1 {
        return Err(Verdict::Reject(DropReason::HopLimit, Rejection::TimeExceeded));
    }
    let mtu = fib.next_hop(next_hop).mtu;
    if len > usize::from(mtu) {
        return Err(Verdict::Reject(DropReason::ExceedsMtu, Rejection::TooBig(mtu)));
    }
    Ok(next_hop)
}
