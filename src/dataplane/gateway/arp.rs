//! ARP: the gateway is at its MAC, and so is, in a routed network, every other address of the
//! subnet (RFC 826, RFC 1027).
//!
//! Also for guests that are told a single address: firmware asks for its neighbours all the same
//! (iPXE before June 2024 knows no /32).

use super::{DropReason, write_ethernet};
use crate::{
    dataplane::forward::{
        Asker,
        tables::{GATEWAY_MAC, Routed},
    },
    wire::{Writer, arp, ethernet},
};
use std::net::Ipv4Addr;

/// Answers a request; a probe (RFC 5227) for the guest's own address gets none, so that it may take
/// it.
pub(super) fn respond(
    asker: Asker<'_>,
    table: &Routed,
    packet: &arp::Packet,
    writer: &mut Writer<'_>,
) -> Result<(), DropReason> {
    if packet.operation() != arp::REQUEST || !is_ours(asker, table, packet.target_ip()) {
        return Err(DropReason::Absorbed);
    }
    write_ethernet(writer, asker.mac(), ethernet::ARP)?;
    writer.push(&packet.reply_from(GATEWAY_MAC))?;
    Ok(())
}

fn is_ours(asker: Asker<'_>, table: &Routed, target: Ipv4Addr) -> bool {
    // Whether anybody has the address is not asked here: a packet to one that nobody has gets "host
    // unreachable", which says more than silence.
    let in_subnet =
        table.segment.is_none() && table.ipv4_subnet.is_some_and(|subnet| subnet.contains(&target));
    table.is_gateway(target.into())
        || table.is_metadata(target.into())
        || (in_subnet && !asker.vnic().is_some_and(|vnic| vnic.owns_ipv4(target)))
}
