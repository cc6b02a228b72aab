//! A guest's datagram to its gateway, taken out of the frame that it came in; and the answer in
//! one.

use crate::{
    addr::MacAddr,
    dataplane::{
        Punted,
        forward::tables::GATEWAY_MAC,
        frame::classify::{Packet, Upper, classify},
    },
    wire::{Full, Writer, ethernet, ipv4, ipv6, udp},
};
use std::net::{Ipv4Addr, Ipv6Addr};
use zerocopy::big_endian::U16;

/// Who asks whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

/// A datagram, and whom to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Datagram<'a> {
    /// What it says.
    pub(super) payload: &'a [u8],
    /// Whom to answer.
    pub(super) back: Back,
}

/// Where answers go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Back {
    mac: MacAddr,
    /// Octets of an IP packet on its link.
    mtu: u16,
    ends: Ends,
    /// The guest's port, and the gateway's.
    ports: (u16, u16),
}

impl<'a> Datagram<'a> {
    /// Reads what is in a frame; `None` where that is no datagram.
    // Its checksum was looked at by the gateway.
    pub(super) fn read(punted: &'a Punted) -> Option<Self> {
        let frame = &punted.frame;
        let headers = classify(frame, frame.len(), punted.offload).ok()?;
        let (ends, header_len, upper) = match headers.packet {
            Packet::Ipv4(it) => (Ends::V4(it.source, it.destination), it.header_len, it.upper),
            Packet::Ipv6(it) => (Ends::V6(it.source, it.destination), it.header_len, it.upper),
            Packet::Arp(_) => return None,
        };
        let Upper::Udp { source, destination } = upper else { return None };
        let segment = frame.get(ethernet::HEADER_LEN + header_len..)?;
        let (_, payload) = udp::Header::parse(segment)?;
        let (mac, mtu) = (punted.mac, punted.mtu);
        Some(Self { payload, back: Back { mac, mtu, ends, ports: (source, destination) } })
    }
}

impl Back {
    /// Returns how many octets an answer may have.
    pub(super) fn room(&self) -> usize {
        let header = match self.ends {
            Ends::V4(..) => ipv4::HEADER_LEN,
            Ends::V6(..) => ipv6::HEADER_LEN,
        };
        usize::from(self.mtu).saturating_sub(header + udp::HEADER_LEN)
    }

    /// Returns the frame of an answer.
    pub(super) fn frame(&self, payload: &[u8]) -> Option<Box<[u8]>> {
        let headers = ethernet::HEADER_LEN + ipv6::HEADER_LEN + udp::HEADER_LEN;
        let mut frame = vec![0; headers + payload.len()];
        let mut writer = Writer::new(&mut frame);
        self.write(payload, &mut writer).ok()?;
        let len = writer.len();
        frame.truncate(len);
        Some(frame.into())
    }

    fn write(&self, payload: &[u8], writer: &mut Writer<'_>) -> Result<(), Full> {
        let ether_type = match self.ends {
            Ends::V4(..) => ethernet::IPV4,
            Ends::V6(..) => ethernet::IPV6,
        };
        let (destination, source) = (self.mac, GATEWAY_MAC);
        let ether_type = U16::new(ether_type);
        writer.push(&ethernet::Header { destination, source, ether_type })?;
        let (guest, gateway) = self.ports;
        match self.ends {
            Ends::V4(from, to) => udp::write_ipv4(writer, (to, gateway), (from, guest), payload),
            Ends::V6(from, to) => udp::write_ipv6(writer, (to, gateway), (from, guest), payload),
        }
    }
}
