//! TCP frames that are left to be cut into segments, and what has become of them.

use super::frames::{GATEWAY_MAC, field, open_checksum4};
use smoltcp::wire::{IpAddress, Ipv4Packet, TcpPacket};
use std::net::Ipv4Addr;

/// Asks for segments of 500 octets.
pub(crate) const TSO: [u8; 12] = [1, 1, 54, 0, 0xf4, 0x01, 34, 0, 16, 0, 0, 0];

/// A TCP frame to be cut; its checksum field holds the pseudo-header's sum.
pub(crate) fn stream(mac: [u8; 6], from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    let [from, to] = [from, to].map(|address| address.parse::<Ipv4Addr>().unwrap().octets());
    let len = 20 + payload.len() as u16;
    let mut frame = [&GATEWAY_MAC[..], &mac, &[8, 0, 0x45, 0]].concat();
    frame.extend((20 + len).to_be_bytes());
    frame.extend([0x12, 0x34, 0x40, 0, 64, 6, 0, 0]);
    frame.extend([from, to].concat());
    Ipv4Packet::new_unchecked(&mut frame[field::PACKET]).fill_checksum();
    frame.extend([0, 1, 0, 2, 0, 0, 1, 0, 0, 0, 0, 9, 0x50, 0x18, 1, 0]);
    frame.extend(open_checksum4(&frame, 6, len.into()));
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

/// The payload of a frame, whose IPv4 checksum is right; and whether its TCP checksum is.
pub(crate) fn parse(frame: &[u8]) -> (Vec<u8>, bool) {
    let packet = Ipv4Packet::new_checked(&frame[field::PACKET]).unwrap();
    assert!(packet.verify_checksum());
    let (from, to) = (packet.src_addr(), packet.dst_addr());
    let segment = TcpPacket::new_checked(packet.payload()).unwrap();
    let right = segment.verify_checksum(&IpAddress::Ipv4(from), &IpAddress::Ipv4(to));
    (segment.payload().to_vec(), right)
}
