//! Answers for neighbours whose addresses the network has given out, so that nobody is flooded with
//! questions for them (RFC 826; RFC 4861 §7.2.4): as they would answer themselves.

use super::{DropReason, ndp, write_ethernet_from};
use crate::{
    addr::MacAddr,
    dataplane::frame::classify::{Headers, Packet},
    wire::{Writer, ethernet},
};

/// Writes the answer to an ARP request or a neighbour solicitation, that who is asked for is at
/// `mac`. `frame` is the whole frame.
pub fn speak_for(
    mac: MacAddr,
    headers: &Headers,
    frame: &[u8],
    writer: &mut Writer<'_>,
) -> Result<(), DropReason> {
    match &headers.packet {
        Packet::Arp(packet) => {
            write_ethernet_from(mac, writer, headers.source, ethernet::ARP)?;
            writer.push(&packet.reply_from(mac))?;
            Ok(())
        }
        Packet::Ipv6(packet) => ndp::speak_for(mac, packet, (frame, headers.source), writer),
        Packet::Ipv4(_) => Err(DropReason::NotServed),
    }
}
