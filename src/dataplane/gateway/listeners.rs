//! What the gateway of a switched network asks, that the network may know who listens to which
//! group (RFC 3376 §4.1, RFC 3810 §5.1; RFC 4541 §2.1.1): as long as nobody else asks whose address
//! is lower.

use super::write_ethernet;
use crate::{
    addr::MacAddr,
    dataplane::forward::tables::{GATEWAY_IPV6, Routed},
    wire::{Full, Writer, ethernet, igmp, mld},
};
use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

/// How long after a first question a second one follows, and after that each other (RFC 3376 §8.2,
/// §8.6).
pub const QUERY_INTERVALS: [Duration; 2] = [Duration::from_secs(31), Duration::from_secs(125)];

/// How long after a question to a group that a host has left the second one follows (RFC 3376
/// §8.8).
pub const LAST_MEMBER_INTERVAL: Duration = Duration::from_secs(1);

/// The group that all IPv4 hosts are in, 224.0.0.1 (RFC 1112 §6.4).
const ALL_SYSTEMS: MacAddr = MacAddr([0x01, 0x00, 0x5e, 0, 0, 1]);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Writes the question to all IPv4 hosts.
pub fn query_ipv4(table: &Routed, writer: &mut Writer<'_>) -> Result<(), Full> {
    write_ethernet(writer, ALL_SYSTEMS, ethernet::IPV4)?;
    igmp::write_query(writer, table.gateway_ipv4(), None)
}

/// Writes the question to all IPv6 hosts.
pub fn query_ipv6(writer: &mut Writer<'_>) -> Result<(), Full> {
    write_ethernet(writer, MacAddr::ipv6_multicast(ALL_NODES), ethernet::IPV6)?;
    mld::write_query(writer, GATEWAY_IPV6, None)
}

/// Writes the question who still listens to a group that a host has left (RFC 3376 §6.6.3.1).
pub fn query_group(table: &Routed, group: IpAddr, writer: &mut Writer<'_>) -> Result<(), Full> {
    match group {
        IpAddr::V4(group) => {
            write_ethernet(writer, MacAddr::ipv4_multicast(group), ethernet::IPV4)?;
            igmp::write_query(writer, table.gateway_ipv4(), Some(group))
        }
        IpAddr::V6(group) => {
            write_ethernet(writer, MacAddr::ipv6_multicast(group), ethernet::IPV6)?;
            mld::write_query(writer, GATEWAY_IPV6, Some(group))
        }
    }
}
