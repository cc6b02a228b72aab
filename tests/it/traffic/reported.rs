//! Frames that were answered wrongly once, and ones like them (tests/frames/reported.txt): each is
//! sent, and what comes of it is judged by its octets.

use crate::{
    daemon::Daemon,
    driver::BUFFER,
    field::{self, advertisement, arp, ipv4, ipv6, udp},
    frames::{ALL_NODES_MAC, Echo, IcmpError, Udp4, checksum, is_icmpv6, is_ipv4},
    guest::{CSUM, Guest, PLAIN},
};
use smoltcp::wire::{
    Icmpv6Message, IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const HOST_TSO4: u64 = 1 << 11;
const HOST_USO: u64 = 1 << 56;
/// Where the options of DHCPv4 begin, behind its cookie (RFC 2131 §2).
const DHCPV4_OPTIONS: usize = 240;
const TABLE: &str = include_str!("../../frames/reported.txt");

struct Case<'a> {
    name: &'a str,
    sender: &'a str,
    header: [u8; 12],
    frame: Vec<u8>,
    right: Vec<&'a str>,
}

/// Octets in hexadecimal; `0a0b*3` is `0a0b` three times.
fn octets(text: &str) -> Vec<u8> {
    let group = |token: &str| {
        let (hex, times) = token.split_once('*').unwrap_or((token, "1"));
        let pair = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
        hex.as_bytes().chunks(2).map(pair).collect::<Vec<_>>().repeat(times.parse().unwrap())
    };
    text.split_whitespace().flat_map(group).collect()
}

fn cases() -> impl Iterator<Item = Case<'static>> {
    let lines = TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| {
        let fields: Vec<_> = line.split('|').map(str::trim).collect();
        let [name, sender, header, frame, right] = fields[..] else { panic!("{line}") };
        Case {
            name,
            sender,
            header: octets(header).try_into().unwrap(),
            frame: octets(frame),
            right: right.split(' ').collect(),
        }
    })
}

/// The vNICs of the table, each with its guest.
struct Stage {
    guests: Vec<(&'static str, &'static str, Guest)>,
}

impl Stage {
    fn new(daemon: &mut Daemon) -> Self {
        daemon.network("n");
        daemon.network_with("big", |r| {
            (r.ipv4_subnet, r.ipv6_prefix) = ("10.1.0.0/24".into(), "fd01::/48".into());
            r.dns_servers = (1..=16).map(|n| format!("10.5.0.{n}")).collect();
            r.ntp_servers = (1..=16).map(|n| format!("10.6.0.{n}")).collect();
            r.domain = [63, 63, 63, 51].map(|len| "d".repeat(len)).join(".");
        });
        let nics = [
            ("a", 0x0a, 10, 1500),
            ("b", 0x0b, 11, 1500),
            ("s", 0x0c, 12, 1500),
            ("c", 0x0e, 13, 1280),
            ("j", 0x0f, 15, 9000),
            ("p", 0x0d, 2, 1500),
        ];
        let guests = nics.map(|(name, mac, host, mtu)| {
            let (network, net) = if name == "p" { ("big", 1) } else { ("n", 0) };
            let nic = daemon.nic_with(network, name, |r| {
                r.mac_address = format!("52:54:00:00:00:{mac:02x}");
                r.ipv4_address = format!("10.{net}.0.{host}");
                r.ipv6_address = format!("fd0{net}::{mac:x}");
                r.mtu = mtu;
                r.addressing = if name == "s" { 2 } else { 1 };
                if name == "a" {
                    r.routed_ipv4_prefixes = vec!["10.9.0.0/16".into()];
                    r.routed_ipv6_prefixes = vec!["fd09::/64".into()];
                }
                if name == "p" {
                    let prefixes = (0..60).map(|n| format!("fd77:0:{n:x}::/48"));
                    r.routed_ipv6_prefixes = prefixes.collect();
                }
            });
            let features = match name {
                "a" => PLAIN | CSUM | HOST_TSO4 | HOST_USO,
                _ => PLAIN,
            };
            (name, network, Guest::connect_with(&nic, features, BUFFER))
        });
        Self { guests: guests.into() }
    }

    /// Sends a frame; gives what each guest of its network got because of it: what came before the
    /// frame that it was sent next.
    fn play(&mut self, case: &Case<'_>) -> Vec<(&'static str, Vec<Vec<u8>>)> {
        let at = self.guests.iter().position(|(name, ..)| *name == case.sender).unwrap();
        self.guests[at].2.driver.send_with(case.header, &case.frame);
        let mut heard = Vec::new();
        for other in 0..self.guests.len() {
            if self.guests[other].1 != self.guests[at].1 {
                continue;
            }
            let (sender, receiver) = (&self.guests[at].2, &self.guests[other].2);
            let (from, to) = (sender.address(), receiver.address());
            let last = Udp4::new(sender.mac, from, to, b"the last of this case").frame();
            self.guests[at].2.send(&last);
            heard.push((self.guests[other].0, until_last(&mut self.guests[other].2)));
        }
        heard
    }
}

/// What a guest was given before the frame that ends a case.
fn until_last(guest: &mut Guest) -> Vec<Vec<u8>> {
    let mut before = Vec::new();
    loop {
        let frame = guest.expect("the last frame of a case comes", |_| true);
        if frame.ends_with(b"the last of this case") {
            return before;
        }
        // What the router advertises unasked.
        let unasked =
            frame[field::TO_MAC] == ALL_NODES_MAC && is_icmpv6(&frame, Icmpv6Message::RouterAdvert);
        if !unasked {
            before.push(frame);
        }
    }
}

fn judge(case: &Case<'_>, heard: &[(&str, Vec<Vec<u8>>)]) -> Result<(), String> {
    let (to, rest) = case.right.split_first().unwrap();
    let receiver = if *to == "reply" { case.sender } else { to };
    for (name, frames) in heard.iter().filter(|(name, _)| *name != receiver) {
        if !frames.is_empty() {
            return Err(format!("{name} was given {:02x?}", frames[0]));
        }
    }
    if *to == "none" {
        return Ok(());
    }
    let (_, frames) = heard.iter().find(|(name, _)| *name == receiver).unwrap();
    let told = frames.first().ok_or("nothing came")?;
    let single = frames.len() == 1;
    let right = match rest {
        [] => single && told[field::PACKET] == forwarded(&case.frame)[field::PACKET],
        ["whole"] => single && is_completed(told, &forwarded(&case.frame)),
        ["in", number, "segments"] => {
            number.parse() == Ok(frames.len()) && are_segments(frames, &case.frame)
        }
        ["in", number, "fragments"] => {
            number.parse() == Ok(frames.len()) && are_fragments(frames, case)
        }
        ["of", "at", "most", most] => {
            single
                && told.len() <= field::PACKET.start + most.parse::<usize>().unwrap()
                && told.len() > 300
        }
        ["dhcpv4", kind] => {
            let option = [53, 1, kind.parse().unwrap()];
            let options = udp::PAYLOAD4.start + DHCPV4_OPTIONS;
            single && told.len() > options && told[options..].windows(3).any(|o| o == option)
        }
        ["dhcpv6", kind] => single && Ok(told[udp::PAYLOAD6][0]) == kind.parse(),
        ["echo"] => single && Echo::parse(told).is_some_and(|echo| !echo.is_request),
        ["arp", address] => {
            let sender = address.parse::<Ipv4Addr>().unwrap().octets();
            single && told[arp::OPERATION] == [0, 2] && told[arp::SENDER] == sender
        }
        ["neighbour", address] => single && is_advertised(told, address, case, 0),
        ["router", address] => single && is_advertised(told, address, case, 0xa0),
        ["status", status] => {
            let option = [0, 13, 0, 2, 0, status.parse().unwrap()];
            single && told.windows(6).any(|window| window == option)
        }
        ["error", kind, code, "from", from] => IcmpError::parse(told).is_some_and(|error| {
            single
                && (Ok(error.kind), Ok(error.code)) == (kind.parse(), code.parse())
                && error.from == from.parse::<IpAddr>().unwrap()
        }),
        other => panic!("{other:?}"),
    };
    if right { Ok(()) } else { Err(format!("{} frames, first {told:02x?}", frames.len())) }
}

/// Whether `address` is advertised with these flags, and S where it was not asked by nobody (RFC
/// 4861 §7.2.4).
fn is_advertised(told: &[u8], address: &str, case: &Case<'_>, flags: u8) -> bool {
    let asked_by_nobody = case.frame[ipv6::FROM] == [0; 16];
    let flags = if asked_by_nobody { flags } else { flags | 0x40 };
    let target = address.parse::<Ipv6Addr>().unwrap().octets();
    told[ipv6::HOP_LIMIT] == 255
        && told[advertisement::TYPE_CODE] == [136, 0]
        && told[advertisement::FLAGS] == flags
        && told[advertisement::TARGET] == target
}

/// The frame as a router sends it on, but for its MACs.
fn forwarded(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[field::ETHERTYPE] == ipv4::ETHERTYPE {
        frame[ipv4::TTL] -= 1;
        frame[ipv4::CHECKSUM].fill(0);
        let sum = checksum(&frame[field::PACKET.start..header_end(&frame)]);
        frame[ipv4::CHECKSUM].copy_from_slice(&sum);
    } else {
        frame[ipv6::HOP_LIMIT] -= 1;
    }
    frame
}

/// Where the IPv4 header of a frame ends.
fn header_end(frame: &[u8]) -> usize {
    field::PACKET.start + usize::from(frame[ipv4::VERSION_IHL] & 15) * 4
}

/// The transport protocol of a frame that is whole, and its octets, if the checksum is right.
fn transport(packet: &[u8]) -> Option<(u8, Vec<u8>)> {
    let (protocol, from, to, segment): (u8, IpAddress, IpAddress, _) = if packet[0] >> 4 == 4 {
        let packet = Ipv4Packet::new_checked(packet).ok()?;
        let (from, to) = (packet.src_addr().into(), packet.dst_addr().into());
        packet.verify_checksum().then_some(())?;
        (packet.next_header().into(), from, to, packet.payload().to_vec())
    } else {
        let header = Ipv6Packet::new_checked(packet).ok()?;
        let (from, to) = (header.src_addr().into(), header.dst_addr().into());
        let payload = header.payload();
        // Behind one header of destination options at most.
        match header.next_header() {
            IpProtocol::Ipv6Opts => {
                let end = 8 + 8 * usize::from(payload[1]);
                (payload[0], from, to, payload[end..].to_vec())
            }
            protocol => (protocol.into(), from, to, payload.to_vec()),
        }
    };
    let right = match protocol {
        6 => TcpPacket::new_checked(&segment[..]).ok()?.verify_checksum(&from, &to),
        _ => UdpPacket::new_checked(&segment[..]).ok()?.verify_checksum(&from, &to),
    };
    right.then_some((protocol, segment))
}

/// Whether a TCP frame is `sent` but for its checksum, which is right.
fn is_completed(told: &[u8], sent: &[u8]) -> bool {
    let Some((6, segment)) = transport(&told[field::PACKET]) else { return false };
    let at = told.len() - segment.len() + 16;
    told[field::PACKET.start..at] == sent[field::PACKET.start..at]
        && told[at + 2..] == sent[at + 2..]
}

/// Whether TCP frames carry what `sent` does, with as many octets of headers, one segment after the
/// other.
fn are_segments(frames: &[Vec<u8>], sent: &[u8]) -> bool {
    let ip = header_end(sent);
    let tcp = |frame: &[u8]| TcpPacket::new_unchecked(frame[ip..].to_vec());
    let headers = ip + usize::from(tcp(sent).header_len());
    let mut stream = Vec::new();
    for frame in frames {
        let in_order = tcp(sent).seq_number() + stream.len() == tcp(frame).seq_number();
        if transport(&frame[field::PACKET]).is_none() || !in_order {
            return false;
        }
        stream.extend_from_slice(&frame[headers..]);
    }
    stream == sent[headers..]
}

/// Whether frames of at most 1280 octets are the fragments of one packet, which carries what was
/// sent.
fn are_fragments(frames: &[Vec<u8>], case: &Case<'_>) -> bool {
    let mut body = Vec::new();
    for (at, frame) in frames.iter().enumerate() {
        let packet = Ipv4Packet::new_checked(&frame[field::PACKET]).unwrap();
        let right = packet.verify_checksum()
            && frame.len() <= field::PACKET.start + 1280
            && packet.ident().to_be_bytes() == case.frame[ipv4::IDENT]
            && usize::from(packet.frag_offset()) == body.len()
            && packet.more_frags() == (at + 1 < frames.len());
        if !right {
            return false;
        }
        body.extend_from_slice(packet.payload());
    }
    let mut whole = forwarded(&case.frame)[..ipv4::PAYLOAD.start].to_vec();
    whole.extend(&body);
    // The checksum of TCP or UDP.
    let at = ipv4::PAYLOAD.start + if is_ipv4(&case.frame, IpProtocol::Tcp) { 16 } else { 6 };
    transport(&whole[field::PACKET]).is_some() && whole[at + 2..] == case.frame[at + 2..]
}

#[test]
fn every_reported_frame_has_the_right_answer() {
    let mut daemon = Daemon::start();
    let mut stage = Stage::new(&mut daemon);
    let mut wrong = Vec::new();
    let mut played = 0;
    for case in cases() {
        let heard = stage.play(&case);
        if let Err(what) = judge(&case, &heard) {
            wrong.push(format!("{}: not {:?}: {what}", case.name, case.right.join(" ")));
        }
        played += 1;
    }
    assert!(wrong.is_empty(), "{} of {played} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
