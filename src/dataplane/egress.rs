//! What changes in a frame's head as it leaves towards its next hop: MACs, hop limit, the IPv4 header checksum.

use super::snapshot::{GATEWAY_MAC, NextHop};
use crate::wire::{ethernet, ipv4, ipv6};
use zerocopy::FromBytes as _;

/// Rewrites the head of a frame that was classified and routed.
#[inline]
pub fn rewrite(head: &mut [u8], next_hop: &NextHop) {
    let Ok((header, packet)) = ethernet::Header::mut_from_prefix(head) else { return };
    header.destination = next_hop.mac;
    header.source = GATEWAY_MAC;
    match header.ether_type.get() {
        ethernet::IPV4 => ipv4::decrement_ttl(packet),
        _ => ipv6::decrement_hop_limit(packet),
    }
}
