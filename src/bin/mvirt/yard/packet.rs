//! The little that a host on a fabric needs to understand and to say: ARP, UDP over IPv4, and ping.
//!
//! Takes frames and returns what is in them, or frames; refuses what is cut, fragments and other
//! protocols by returning nothing, as services are silent about them.

use mvirt_net::{
    addr::MacAddr,
    wire::{self, Writer, arp, ethernet, icmpv4, ipv4, protocol, udp},
};
use std::net::{Ipv4Addr, SocketAddrV4};
use zerocopy::{FromBytes as _, IntoBytes as _, big_endian::U16};

/// Octets of a frame with the longest IPv4 packet.
const MAX_FRAME: usize = ethernet::HEADER_LEN + 65_535;

/// Who a program is on a fabric.
#[derive(Debug, Clone, Copy)]
pub(super) struct Host {
    pub(super) mac: MacAddr,
    pub(super) address: Ipv4Addr,
}

/// A UDP datagram that came in a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Datagram<'a> {
    pub(super) from_mac: MacAddr,
    pub(super) from: SocketAddrV4,
    pub(super) to: SocketAddrV4,
    pub(super) payload: &'a [u8],
}

/// The ARP packet in a frame, if there is one.
pub(super) fn arp(frame: &[u8]) -> Option<arp::Packet> {
    let (header, packet) = ethernet::Header::parse(frame)?;
    (header.ether_type.get() == ethernet::ARP).then(|| arp::Packet::parse(packet))?
}

fn frame(to: MacAddr, from: MacAddr, ether_type: u16, packet: &[u8]) -> Vec<u8> {
    let ether_type = U16::new(ether_type);
    let header = ethernet::Header { destination: to, source: from, ether_type };
    [header.as_bytes(), packet].concat()
}

/// The answer of `mac` to a request, in a frame from `sender`.
pub(super) fn arp_reply(request: &arp::Packet, mac: MacAddr, sender: MacAddr) -> Vec<u8> {
    let reply = request.reply_from(mac);
    frame(request.sender_mac(), sender, ethernet::ARP, reply.as_bytes())
}

impl Host {
    /// The frame that asks all where an address is.
    pub(super) fn arp_request(self, address: Ipv4Addr) -> Vec<u8> {
        let request = arp::Packet::request(self.mac, self.address, address);
        frame(MacAddr::BROADCAST, self.mac, ethernet::ARP, request.as_bytes())
    }

    /// The answer to a frame that asks for this host's address.
    pub(super) fn answer_arp(self, frame: &[u8]) -> Option<Vec<u8>> {
        let asked = arp(frame).filter(|packet| packet.operation() == arp::REQUEST)?;
        (asked.target_ip() == self.address).then(|| arp_reply(&asked, self.mac, self.mac))
    }

    /// The MAC of an address, if the frame is its answer to this host.
    pub(super) fn resolved(self, frame: &[u8], address: Ipv4Addr) -> Option<MacAddr> {
        let reply = arp(frame).filter(|packet| packet.operation() == arp::REPLY)?;
        let is_it = (reply.sender_ip(), reply.target_ip()) == (address, self.address);
        is_it.then(|| reply.sender_mac())
    }

    /// The answer to a ping of this host's address (RFC 792, "Echo").
    pub(super) fn pong(self, frame: &[u8]) -> Option<Vec<u8>> {
        let (ethernet, packet) = ethernet::Header::parse(frame)?;
        if ethernet.destination != self.mac || ethernet.ether_type.get() != ethernet::IPV4 {
            return None;
        }
        let header = ipv4::Header::parse(packet, packet.len())?;
        let is_here = header.destination() == self.address && header.protocol == protocol::ICMP;
        if !is_here || header.part() != wire::Part::Whole {
            return None;
        }
        let message = packet.get(header.header_len()..header.total_len())?;
        let (icmp, body) = icmpv4::Header::ref_from_prefix(message).ok()?;
        if icmp.kind != icmpv4::ECHO_REQUEST {
            return None;
        }
        let mut octets = vec![0; MAX_FRAME];
        let mut writer = Writer::new(&mut octets);
        let reply = (icmpv4::ECHO_REPLY, 0, icmp.rest.get());
        icmpv4::write(&mut writer, self.address, header.source(), reply, body).ok()?;
        Some(self::frame(ethernet.source, self.mac, ethernet::IPV4, writer.since(0)))
    }

    /// The datagram in a frame, if it is for this host and this port.
    pub(super) fn received(self, frame: &[u8], port: u16) -> Option<Datagram<'_>> {
        let (ethernet, packet) = ethernet::Header::parse(frame)?;
        // A fabric floods what it does not know: not all that comes is for this host.
        let is_here = ethernet.destination == self.mac || ethernet.destination.is_multicast();
        if !is_here || ethernet.ether_type.get() != ethernet::IPV4 {
            return None;
        }
        let header = ipv4::Header::parse(packet, packet.len())?;
        if header.protocol != protocol::UDP || header.part() != wire::Part::Whole {
            return None;
        }
        let (udp, payload) =
            udp::Header::parse(packet.get(header.header_len()..header.total_len())?)?;
        let to = SocketAddrV4::new(header.destination(), udp.destination.get());
        let from = SocketAddrV4::new(header.source(), udp.source.get());
        let datagram = Datagram { from_mac: ethernet.source, from, to, payload };
        (to == SocketAddrV4::new(self.address, port)).then_some(datagram)
    }

    /// A frame with a datagram; nothing if the payload is longer than one can be.
    pub(super) fn datagram(
        self,
        port: u16,
        to_mac: MacAddr,
        to: SocketAddrV4,
        payload: &[u8],
    ) -> Option<Vec<u8>> {
        let mut octets = vec![0; MAX_FRAME];
        let mut writer = Writer::new(&mut octets);
        let from = (self.address, port);
        udp::write_ipv4(&mut writer, from, (*to.ip(), to.port()), payload).ok()?;
        let len = writer.len();
        Some(frame(to_mac, self.mac, ethernet::IPV4, octets.get(..len)?))
    }

    /// The frame that answers a datagram: MACs, addresses and ports swapped.
    pub(super) fn reply(self, to: &Datagram<'_>, payload: &[u8]) -> Option<Vec<u8>> {
        self.datagram(to.to.port(), to.from_mac, to.from, payload)
    }
}

/// Octets as Python prints them: what the seed's programs print, and people compare.
pub(super) fn python_bytes(octets: &[u8]) -> String {
    // As there: the other quote only where it saves an escape.
    let quote = if octets.contains(&b'\'') && !octets.contains(&b'"') { '"' } else { '\'' };
    let mut text = format!("b{quote}");
    for octet in octets {
        match octet {
            b'\t' => text += "\\t",
            b'\n' => text += "\\n",
            b'\r' => text += "\\r",
            b'\\' => text += "\\\\",
            b'\'' if quote == '\'' => text += "\\'",
            0x20..=0x7e => text.push(char::from(*octet)),
            _ => text += &format!("\\x{octet:02x}"),
        }
    }
    text.push(quote);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(last: u8) -> Host {
        let mac = MacAddr([2, 0x53, 0x59, 0, 0, last]);
        Host { mac, address: Ipv4Addr::new(10, 0, 0, last) }
    }

    #[test]
    fn two_hosts_find_each_other_and_talk() {
        let (a, b) = (host(1), host(2));
        let request = a.arp_request(b.address);
        assert_eq!(host(3).answer_arp(&request), None, "another's address");
        let reply = b.answer_arp(&request).unwrap();
        assert_eq!(a.resolved(&reply, b.address), Some(b.mac));
        assert_eq!(a.resolved(&reply, host(3).address), None);
        assert_eq!(b.answer_arp(&reply), None, "a reply is no request");
        let sent = a.datagram(1, b.mac, SocketAddrV4::new(b.address, 7), b"hi").unwrap();
        // The header's checksum and UDP's, as tshark finds them right.
        assert_eq!(sent[24..26], [0x26, 0xcd]);
        assert_eq!(sent[40..42], [0x83, 0x66]);
        assert_eq!(b.received(&sent, 8), None);
        assert_eq!(host(3).received(&sent, 7), None);
        let datagram = b.received(&sent, 7).unwrap();
        assert_eq!((datagram.payload, datagram.from.port()), (&b"hi"[..], 1));
        let answer = b.reply(&datagram, datagram.payload).unwrap();
        let heard = a.received(&answer, 1).unwrap();
        assert_eq!((heard.payload, heard.from), (&b"hi"[..], SocketAddrV4::new(b.address, 7)));
        for cut in 0..sent.len() {
            assert_eq!(b.received(&sent[..cut], 7), None);
        }
        assert!(a.datagram(1, b.mac, heard.from, &[0; 65_507]).is_some());
        assert_eq!(a.datagram(1, b.mac, heard.from, &[0; 65_508]), None);
    }

    #[test]
    fn a_ping_is_answered_by_whom_it_is_for() {
        let (a, b) = (host(1), host(2));
        let mut octets = [0; 64];
        let mut writer = Writer::new(&mut octets);
        let echo = (icmpv4::ECHO_REQUEST, 0, 0x0007_0001);
        icmpv4::write(&mut writer, a.address, b.address, echo, b"marco").unwrap();
        let ping = frame(b.mac, a.mac, ethernet::IPV4, writer.since(0));
        let pong = b.pong(&ping).unwrap();
        assert_eq!((&pong[..6], &pong[6..12]), (&a.mac.0[..], &b.mac.0[..]));
        assert_eq!((&pong[26..30], &pong[30..34]), (&[10, 0, 0, 2][..], &[10, 0, 0, 1][..]));
        // Type, code, the sum of RFC 1071, identifier and sequence number as they came.
        assert_eq!(pong[34..42], [0, 0, 0xb1, 0x32, 0, 7, 0, 1]);
        assert_eq!(pong[42..], *b"marco");
        assert_eq!(a.pong(&pong), None, "a reply is not answered");
        assert_eq!(host(3).pong(&ping), None);
        for cut in 0..ping.len() {
            assert_eq!(b.pong(&ping[..cut]), None);
        }
    }

    #[test]
    fn octets_are_printed_as_by_python() {
        for (octets, text) in [
            (&b"marco polo"[..], "b'marco polo'"),
            (b"", "b''"),
            (b"it's", "b\"it's\""),
            (b"'\"", "b'\\'\"'"),
            ("\u{e9}\t\n\r\\\0\x7f".as_bytes(), "b'\\xc3\\xa9\\t\\n\\r\\\\\\x00\\x7f'"),
        ] {
            assert_eq!(python_bytes(octets), text);
        }
    }
}
