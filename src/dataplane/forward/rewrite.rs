//! What changes in a frame's head as it leaves towards its next hop: MACs, hop limit, the IPv4
//! header checksum.

use super::tables::{GATEWAY_MAC, NextHop};
use crate::wire::{ethernet, ipv4, ipv6};
use zerocopy::FromBytes as _;

/// Rewrites the head of a frame that was classified and routed.
pub fn rewrite(head: &mut [u8], next_hop: &NextHop) {
    let Some((header, packet)) = readdress(head, next_hop) else { return };
    match header.ether_type.get() {
        ethernet::IPV4 => ipv4::decrement_ttl(packet),
        _ => ipv6::decrement_hop_limit(packet),
    }
}

/// As [`rewrite`], of a frame that is known to be IPv4.
#[inline(always)]
pub fn rewrite_ipv4(head: &mut [u8], next_hop: &NextHop) {
    if let Some((_, packet)) = readdress(head, next_hop) {
        ipv4::decrement_ttl(packet);
    }
}

#[inline(always)]
fn readdress<'h>(
    head: &'h mut [u8],
    next_hop: &NextHop,
) -> Option<(&'h mut ethernet::Header, &'h mut [u8])> {
    let (header, packet) = ethernet::Header::mut_from_prefix(head).ok()?;
    // To its receiver, too, the gateway is the only neighbour: no guest learns another's MAC.
    header.destination = next_hop.mac;
    header.source = GATEWAY_MAC;
    Some((header, packet))
}
