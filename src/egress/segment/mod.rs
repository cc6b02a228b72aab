//! The gateway of a segment of Ethernet: its hosts' frames become packets, and packets frames.
//!
//! ```text
//! frames ─▶ ARP, DHCP, neighbour discovery, ping: answered here
//!        └▶ packets, from addresses of the segment ─▶ as those of one vNIC
//! frames ◀─ neighbours: who is where? ◀─ packets
//! ```
//! Numbers are those of slirp (libslirp, slirp4netns): 10.0.2.0/24, the gateway at .2, DNS at .3,
//! leases from .15 on; fd00::/64, ::2 and ::3; MAC 52:55 and the gateway's IPv4 address. Takes
//! octets and time, returns octets: RFC 826, RFC 2131, RFC 4861.
//!
//! Any host of the segment may claim any of its addresses, as on any LAN. What comes from other
//! addresses, or from the gateway's own, is refused.

mod dhcp;
mod ndp;
mod neighbours;

use super::{
    compose::{self, Ends},
    packet::{Body, Packet, Transport, split},
    protocol::{Dropped, Limits, Nic, SEGMENT_TAG, Segment, SegmentIpv6},
};
use crate::{
    addr::MacAddr,
    wire::{
        Writer, arp,
        checksum::Checksum,
        ethernet, icmpv6, ipv4, ipv6,
        ndp::{ROUTER, solicited_node},
        protocol, udp,
        vnet::Offload,
    },
};
use neighbours::Neighbours;
use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Instant,
};
use zerocopy::IntoBytes as _;

/// Frames that wait to be sent at most: what one frame can draw, many times.
const MOST_WAITING: usize = 64;
/// How much the hosts of a segment may have at once, all together.
// Of UDP, four times what one vNIC may: each question to a DNS server is from another port.
const LIMITS: Limits = Limits { connections: 1024, udp: 1024, echo: 64, memory: 256 << 20 };

impl Segment {
    /// Returns what its hosts are to all who know nothing of segments.
    pub fn nic(&self) -> Nic {
        let ipv4 = self.ipv4.map(|it| it.gateway.trunc().into());
        let ipv6 = self.ipv6.map(|it| it.gateway.trunc().into());
        let prefixes = ipv4.into_iter().chain(ipv6).collect();
        Nic { tag: SEGMENT_TAG, ipv4: None, ipv6: None, prefixes, mtu: self.mtu }
    }

    /// Returns how much they may have at once.
    pub const fn limits() -> Limits {
        LIMITS
    }
}

/// See the head of this file.
#[derive(Debug)]
pub struct Front {
    segment: Segment,
    mac: MacAddr,
    dhcp: Option<dhcp::Server>,
    neighbours: Neighbours,
    advertisements: ndp::Advertisements,
    /// Frames that are to be sent.
    waiting: VecDeque<Vec<u8>>,
    frame: Vec<u8>,
}

/// What a frame was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken<'a> {
    /// A packet for somebody outside, or for a service at one of the gateway's addresses.
    Packet(&'a [u8]),
    /// Nothing that goes on: it is answered, or of no interest here.
    Done,
}

impl Front {
    /// Returns the gateway of a segment.
    pub fn new(segment: Segment, now: Instant) -> Self {
        let names = dhcp::Names {
            hostname: segment.hostname.clone(),
            domain: segment.domain.clone(),
            mtu: segment.mtu,
            restricted: segment.restricted,
        };
        Self {
            mac: mac(&segment),
            dhcp: segment.ipv4.map(|ipv4| dhcp::Server::new(ipv4, names)),
            neighbours: Neighbours::default(),
            advertisements: ndp::Advertisements::new(segment.ipv6.is_some(), now),
            segment,
            waiting: VecDeque::new(),
            frame: Vec::new(),
        }
    }

    /// Takes a frame of the segment.
    pub fn take<'a>(&mut self, frame: &'a [u8], now: Instant) -> Result<Taken<'a>, Dropped> {
        let (header, rest) = ethernet::Header::parse(frame).ok_or(Dropped::Malformed)?;
        if header.source.is_multicast() || header.source == self.mac {
            return Err(Dropped::SpoofedSource);
        }
        let is_mine = header.destination == self.mac;
        // Flooded, for another.
        if !is_mine && !header.destination.is_multicast() {
            return Ok(Taken::Done);
        }
        let from = header.source;
        match header.ether_type.get() {
            ethernet::ARP => self.take_arp(from, rest, now).map(|()| Taken::Done),
            ethernet::IPV4 => self.take_ipv4((from, is_mine), rest, now),
            ethernet::IPV6 => self.take_ipv6((from, is_mine), rest, now),
            _ => Ok(Taken::Done),
        }
    }

    fn take_arp(&mut self, from: MacAddr, octets: &[u8], now: Instant) -> Result<(), Dropped> {
        let Some(ipv4) = self.segment.ipv4 else { return Ok(()) };
        let packet = arp::Packet::parse(octets).ok_or(Dropped::Malformed)?;
        let sender = packet.sender_ip();
        if self.is_own(sender.into()) || packet.sender_mac() != from {
            return Err(Dropped::SpoofedSource);
        }
        // 0.0.0.0 is of one who asks whether an address is free (RFC 5227 §2.1.1).
        if ipv4.gateway.contains(&sender) {
            self.learn(sender.into(), from, now);
        }
        if packet.operation() == arp::REQUEST && self.is_own(packet.target_ip().into()) {
            let reply = packet.reply_from(self.mac);
            self.answer(from, ethernet::ARP, reply.as_bytes());
        }
        Ok(())
    }

    fn take_ipv4<'a>(
        &mut self,
        (from, is_mine): (MacAddr, bool),
        octets: &'a [u8],
        now: Instant,
    ) -> Result<Taken<'a>, Dropped> {
        let Some(ipv4) = self.segment.ipv4 else { return Ok(Taken::Done) };
        let header = ipv4::Header::parse(octets, octets.len()).ok_or(Dropped::Malformed)?;
        let (source, destination) = (header.source(), header.destination());
        let broadcast = ipv4.gateway.broadcast();
        if self.is_own(source.into()) || source == broadcast {
            return Err(Dropped::SpoofedSource);
        }
        let is_to_all = destination.is_broadcast() || destination == broadcast;
        let is_here = self.is_own(destination.into());
        if header.protocol == protocol::UDP
            && (is_to_all || is_here)
            && self.serve_dhcp(from, octets, now)?
        {
            return Ok(Taken::Done);
        }
        if !is_mine || is_to_all || destination.is_multicast() {
            return Ok(Taken::Done);
        }
        if !ipv4.gateway.contains(&source) {
            return Err(Dropped::SpoofedSource);
        }
        self.learn(source.into(), from, now);
        if is_here && header.protocol == protocol::ICMP {
            return self.echo(octets, now);
        }
        Ok(Taken::Packet(octets))
    }

    fn take_ipv6<'a>(
        &mut self,
        (from, is_mine): (MacAddr, bool),
        octets: &'a [u8],
        now: Instant,
    ) -> Result<Taken<'a>, Dropped> {
        let Some(network) = self.segment.ipv6 else { return Ok(Taken::Done) };
        let header = ipv6::Header::parse(octets, octets.len()).ok_or(Dropped::Malformed)?;
        let (source, destination) = (header.source(), header.destination());
        if source.is_multicast() || self.is_own(source.into()) {
            return Err(Dropped::SpoofedSource);
        }
        let octets = octets.get(..header.total_len()).ok_or(Dropped::Malformed)?;
        if let Ok(upper) = header.upper(octets)
            && upper.protocol == protocol::ICMPV6
            && let Some(kind) = octets.get(upper.offset).copied()
            && icmpv6::is_discovery(kind)
        {
            // Behind nothing and in one piece (RFC 6980), as every stack sends it.
            if upper.offset != ipv6::HEADER_LEN || header.hop_limit != 255 {
                return Err(Dropped::Malformed);
            }
            let message = octets.get(upper.offset..).unwrap_or(&[]);
            self.discovery(from, (source, destination), message, now)?;
            return Ok(Taken::Done);
        }
        if !is_mine || destination.is_multicast() {
            return Ok(Taken::Done);
        }
        let is_here = self.is_own(destination.into());
        // From the link alone one speaks to the link alone.
        let is_link = source.is_unicast_link_local() && is_here;
        if !network.gateway.contains(&source) && !is_link {
            return Err(Dropped::SpoofedSource);
        }
        self.learn(source.into(), from, now);
        if is_here && octets.get(ipv6::NEXT_HEADER_OFFSET) == Some(&protocol::ICMPV6) {
            return self.echo(octets, now);
        }
        match source.is_unicast_link_local() {
            true => Ok(Taken::Done),
            false => Ok(Taken::Packet(octets)),
        }
    }

    /// Answers a message for the DHCP server. Returns whether it was one.
    fn serve_dhcp(&mut self, from: MacAddr, octets: &[u8], now: Instant) -> Result<bool, Dropped> {
        let packet = Packet::parse(SEGMENT_TAG, Offload::None, octets)?;
        let Body::Whole(body) = packet.body else { return Ok(false) };
        let Ok(Transport::Udp { destination: udp::DHCPV4_SERVER, payload, .. }) =
            packet.transport(body)
        else {
            return Ok(false);
        };
        let (Some(server), Some(ipv4)) = (&mut self.dhcp, self.segment.ipv4) else {
            return Ok(true);
        };
        let neighbours = &self.neighbours;
        let is_taken = |address: Ipv4Addr| {
            neighbours.heard_lately(address.into(), now).is_some_and(|mac| mac != from)
        };
        let answer = match server.answer(payload, from, is_taken, now) {
            Some(dhcp::Outcome::Answer(answer)) => Some(answer),
            Some(dhcp::Outcome::Released(address)) => {
                self.neighbours.forget(address.into(), from);
                None
            }
            None => None,
        };
        if let Some(answer) = answer {
            let mut buffer = [0; 600];
            let mut writer = Writer::new(&mut buffer);
            // To all, as libslirp has it: who has no address yet hears that, too.
            let own = (ipv4.gateway.addr(), udp::DHCPV4_SERVER);
            let to = (Ipv4Addr::BROADCAST, udp::DHCPV4_CLIENT);
            if udp::write_ipv4(&mut writer, own, to, &answer.payload).is_ok() {
                let mac = if answer.is_broadcast { MacAddr::BROADCAST } else { from };
                let len = writer.len();
                self.answer(mac, ethernet::IPV4, &buffer[..len]);
            }
        }
        Ok(true)
    }

    /// Answers a ping to the gateway.
    fn echo<'a>(&mut self, octets: &'a [u8], now: Instant) -> Result<Taken<'a>, Dropped> {
        let packet = Packet::parse(SEGMENT_TAG, Offload::None, octets)?;
        // A long one comes back once it is whole: that is looked at by who joins fragments.
        let Body::Whole(body) = packet.body else { return Ok(Taken::Packet(octets)) };
        let Transport::Echo { identifier, sequence, payload } = packet.transport(body)? else {
            return Ok(Taken::Done);
        };
        self.pong(&packet, (identifier, sequence, payload), now);
        Ok(Taken::Done)
    }

    /// Answers a ping to the gateway that was taken apart.
    pub fn pong(&mut self, packet: &Packet<'_>, echo: (u16, u16, &[u8]), now: Instant) {
        let (mut messages, mut lens) = (Vec::new(), Vec::new());
        let ends = Ends {
            tag: SEGMENT_TAG,
            from: (packet.destination, 0).into(),
            to: (packet.source, echo.0).into(),
        };
        let size = (self.segment.mtu, echo.1.into());
        if compose::echo_reply(&mut messages, &mut lens, &ends, echo, size).is_ok() {
            let mut rest = &messages[..];
            for len in lens {
                let (message, next) = rest.split_at(len);
                rest = next;
                if let Some(frame) = self.frame(&[message], now).map(<[u8]>::to_vec) {
                    self.queue(frame);
                }
            }
        }
    }

    /// Whether an address is of the gateway's own.
    pub fn is_own(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self
                .segment
                .ipv4
                .is_some_and(|it| address == it.gateway.addr() || Some(address) == it.dns),
            IpAddr::V6(address) => self.segment.ipv6.is_some_and(|it| {
                let own = [it.gateway.addr(), ndp::LINK_LOCAL];
                own.contains(&address) || Some(address) == it.dns
            }),
        }
    }

    fn learn(&mut self, address: IpAddr, mac: MacAddr, now: Instant) {
        if let Some(packet) = self.neighbours.learn(address, mac, now) {
            self.answer(mac, ether_type(address), &packet);
        }
    }

    /// Returns the frame of a message for a host of the segment, whose parts these are; none where
    /// it waits until that has said where it is.
    pub fn frame(&mut self, parts: &[&[u8]], now: Instant) -> Option<&[u8]> {
        self.frame.clear();
        self.frame.resize(ethernet::HEADER_LEN, 0);
        let (head, payload) = parts.split_first()?;
        let (_, offload, packet) = split(head).ok()?;
        self.frame.extend_from_slice(packet);
        payload.iter().for_each(|part| self.frame.extend_from_slice(part));
        let packet = self.frame.get_mut(ethernet::HEADER_LEN..)?;
        finish(packet, offload)?;
        let address = destination(packet)?;
        let Some(mac) = self.neighbours.find(address) else {
            let packet = self.frame.split_off(ethernet::HEADER_LEN);
            if self.neighbours.wait(address, packet, now) {
                self.ask(address);
            }
            return None;
        };
        let header = self.header(mac, ether_type(address));
        self.frame[..ethernet::HEADER_LEN].copy_from_slice(header.as_bytes());
        Some(&self.frame)
    }

    /// Returns a frame that is to be sent, where there is one.
    pub fn next_frame(&mut self) -> Option<Vec<u8>> {
        self.waiting.pop_front()
    }

    /// Returns when it has something to say by itself.
    pub fn deadline(&self) -> Option<Instant> {
        self.advertisements.due()
    }

    /// Says what is due.
    pub fn expire(&mut self, now: Instant) {
        if self.advertisements.expire(now) {
            self.advertise(None);
        }
    }

    /// Asks all where an address is.
    fn ask(&mut self, address: IpAddr) {
        match (address, self.segment.ipv4, self.segment.ipv6) {
            (IpAddr::V4(address), Some(ipv4), _) => {
                let request = arp::Packet::request(self.mac, ipv4.gateway.addr(), address);
                self.answer(MacAddr::BROADCAST, ethernet::ARP, request.as_bytes());
            }
            (IpAddr::V6(address), _, Some(ipv6)) => self.solicit(ipv6, address),
            _ => {}
        }
    }

    fn solicit(&mut self, network: SegmentIpv6, address: Ipv6Addr) {
        let group = solicited_node(address);
        // From where the address is reached, so that the answer goes there.
        let link_local = address.is_unicast_link_local();
        let own = if link_local { ndp::LINK_LOCAL } else { network.gateway.addr() };
        let (mac, mut body) = (self.mac, [0; 24]);
        let mut options = Writer::new(&mut body);
        let written = crate::wire::ndp::write_neighbour_solicitation(&mut options, address, mac);
        if written.is_ok() {
            let words = (icmpv6::NEIGHBOUR_SOLICITATION, 0, 0);
            let to = (group, MacAddr::ipv6_multicast(group));
            self.say_icmpv6(own, to, words, &body);
        }
    }

    /// Sends a message of neighbour discovery.
    fn say_icmpv6(
        &mut self,
        from: Ipv6Addr,
        (to, mac): (Ipv6Addr, MacAddr),
        words: (u8, u8, u32),
        body: &[u8],
    ) {
        let mut buffer = [0; 512];
        let mut writer = Writer::new(&mut buffer);
        if icmpv6::write(&mut writer, (from, to, 255), words, body).is_ok() {
            let len = writer.len();
            self.answer(mac, ethernet::IPV6, &buffer[..len]);
        }
    }

    fn header(&self, to: MacAddr, ether_type: u16) -> ethernet::Header {
        ethernet::Header { destination: to, source: self.mac, ether_type: ether_type.into() }
    }

    fn answer(&mut self, to: MacAddr, ether_type: u16, packet: &[u8]) {
        let header = self.header(to, ether_type);
        self.queue([header.as_bytes(), packet].concat());
    }

    fn queue(&mut self, frame: Vec<u8>) {
        if self.waiting.len() < MOST_WAITING {
            self.waiting.push_back(frame);
        }
    }
}

/// Returns the gateway's MAC: as slirp's, 52:55 and the gateway's address; one for all of its
/// addresses, since a switch learns those that frames come from.
fn mac(segment: &Segment) -> MacAddr {
    let (second, [a, b, c, d]) = match (segment.ipv4, segment.ipv6) {
        (Some(ipv4), _) => (0x55, ipv4.gateway.addr().octets()),
        (None, Some(ipv6)) => {
            let [.., a, b, c, d] = ipv6.gateway.addr().octets();
            (0x56, [a, b, c, d])
        }
        (None, None) => (0x55, [0; 4]),
    };
    MacAddr([0x52, second, a, b, c, d])
}

const fn ether_type(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => ethernet::IPV4,
        IpAddr::V6(_) => ethernet::IPV6,
    }
}

/// Returns where a packet of ours goes.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    Some(match packet.first()? >> 4 {
        4 => ipv4::Header::parse(packet, packet.len())?.destination().into(),
        6 => ipv6::Header::parse(packet, packet.len())?.destination().into(),
        _ => return None,
    })
}

/// Does what was left to be done about a packet of ours. None where it is to be cut: whoever is on
/// a segment takes no segments of several.
fn finish(packet: &mut [u8], offload: Offload) -> Option<()> {
    let (start, offset) = match offload {
        Offload::None => return Some(()),
        Offload::Checksum { start, offset } => (start, offset),
        // Connections were told to send single segments.
        Offload::Segmentation { .. } => return None,
    };
    let segment = packet.get_mut(usize::from(start)..)?;
    let mut sum = Checksum::new();
    sum.add(segment);
    sum.write(segment, offset.into())
}

#[cfg(test)]
mod tests;
