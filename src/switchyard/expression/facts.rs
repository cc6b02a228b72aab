//! What expressions ask of a frame, looked up once.

use crate::{
    addr::MacAddr,
    wire::{Part, arp, ethernet, ipv4, ipv6, protocol},
};
use std::net::IpAddr;

/// What IP carries, as far as expressions name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
    Icmp,
    Icmp6,
}

/// What is known of a frame. Pairs are of source and destination.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) len: usize,
    pub(super) macs: (MacAddr, MacAddr),
    /// Behind any tags.
    pub(super) ether_type: u16,
    pub(super) vlan: Option<u16>,
    /// Of IP, or the sender's and the target's of ARP.
    pub(super) hosts: Option<(IpAddr, IpAddr)>,
    pub(super) transport: Option<Transport>,
    /// Only the first fragment of a packet has them.
    pub(super) ports: Option<(u16, u16)>,
}

fn u16_at(octets: &[u8], at: usize) -> Option<u16> {
    let octets = octets.get(at..at + 2)?;
    Some(u16::from_be_bytes(octets.try_into().ok()?))
}

impl Facts {
    /// Looks at a frame; `None` if it is too short for Ethernet.
    pub(super) fn of(frame: &[u8]) -> Option<Self> {
        let (header, _) = ethernet::Header::parse(frame)?;
        let at = ethernet::packet_at(frame);
        let mut facts = Self {
            len: frame.len(),
            macs: (header.source, header.destination),
            ether_type: u16_at(frame, at - 2).unwrap_or_default(),
            vlan: None,
            hosts: None,
            transport: None,
            ports: None,
        };
        if at > ethernet::HEADER_LEN {
            // 12 bits of the tag control information (IEEE 802.1Q §9.6).
            facts.vlan = u16_at(frame, ethernet::HEADER_LEN).map(|tag| tag & 0x0fff);
        }
        let packet = frame.get(at..).unwrap_or_default();
        match facts.ether_type {
            ethernet::ARP => {
                let arp = arp::Packet::parse(packet);
                facts.hosts = arp.map(|arp| (arp.sender_ip().into(), arp.target_ip().into()));
            }
            ethernet::IPV4 => facts.look_at_ipv4(packet),
            ethernet::IPV6 => facts.look_at_ipv6(packet),
            _ => {}
        }
        Some(facts)
    }

    fn look_at_ipv4(&mut self, packet: &[u8]) {
        let Some(header) = ipv4::Header::parse(packet, packet.len()) else { return };
        self.hosts = Some((header.source().into(), header.destination().into()));
        let upper = packet.get(header.header_len()..header.total_len());
        self.look_at_upper(header.protocol, header.part(), upper.unwrap_or_default());
    }

    fn look_at_ipv6(&mut self, packet: &[u8]) {
        let Some(header) = ipv6::Header::parse(packet, packet.len()) else { return };
        self.hosts = Some((header.source().into(), header.destination().into()));
        if let Ok(upper) = header.upper(packet) {
            let octets = packet.get(upper.offset..).unwrap_or_default();
            self.look_at_upper(upper.protocol, upper.part, octets);
        }
    }

    fn look_at_upper(&mut self, protocol: u8, part: Part, upper: &[u8]) {
        self.transport = match protocol {
            protocol::UDP => Some(Transport::Udp),
            protocol::TCP => Some(Transport::Tcp),
            protocol::ICMP => Some(Transport::Icmp),
            protocol::ICMPV6 => Some(Transport::Icmp6),
            _ => None,
        };
        let has_ports = matches!(self.transport, Some(Transport::Udp | Transport::Tcp));
        if has_ports && !matches!(part, Part::Later(_)) {
            self.ports = u16_at(upper, 0).zip(u16_at(upper, 2));
        }
    }
}
