//! A guest without an operating system: finds its gateway as a guest does (ARP, NDP), asks for an
//! echo with a limit of hops, and hears what comes of it.

use super::device::Device;
use crate::Failure;
use mvirt_net::{
    addr::MacAddr,
    dataplane::forward::tables::{GATEWAY_IPV4, GATEWAY_IPV6},
    proto::{Nic, Transport},
    wire::{Full, Writer, arp, checksum, ethernet, icmpv4, icmpv6, ipv4, ipv6, protocol},
};
use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};
use zerocopy::{FromBytes as _, IntoBytes as _, big_endian::U16};

// Receivers drop NDP with any other, which has passed a router (RFC 4861 §7.1).
const NDP_HOPS: u8 = 255;
/// What nobody answered.
pub(super) const NONE: &str = "none";
/// What the router reports at which the last hop was used up.
pub(super) const HOP_LIMIT: &str = "hop limit exceeded";
/// Between tries of a question.
const RETRY: Duration = Duration::from_millis(500);
// A frame may be lost, as on any wire.
const TRIES: u32 = 4;

/// What an echo request came to.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub(crate) struct Answer {
    /// Who answered; empty: nobody.
    pub(crate) from: String,
    /// `reply`, what stopped the request, or `none`.
    pub(crate) what: Cow<'static, str>,
    /// Time from the request to the answer, in milliseconds.
    pub(crate) ms: f64,
}

impl Answer {
    /// Whether the destination itself answered.
    pub(crate) fn is_reply(&self) -> bool {
        self.what == "reply"
    }
}

/// An echo to ask for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Echo {
    pub(crate) to: IpAddr,
    pub(crate) hops: u8,
    /// Octets after the ICMP header.
    pub(crate) size: usize,
    pub(crate) sequence: u16,
}

pub(crate) struct Guest {
    pub(crate) device: Device,
    pub(crate) mac: MacAddr,
    pub(crate) ipv4: Option<Ipv4Addr>,
    pub(crate) ipv6: Option<Ipv6Addr>,
    identifier: u16,
    /// Where the gateway is, as NDP and ARP say.
    gateways: [Option<MacAddr>; 2],
}

impl Guest {
    pub(crate) fn connect(nic: &Nic) -> Result<Self, Failure> {
        if !matches!(nic.transport(), Transport::Unspecified | Transport::VhostUser) {
            return Err(Failure::Probe(format!(
                "vNIC {}: only those with the transport vhost-user are probed: a probe takes the \
                 place of a VMM",
                nic.name
            )));
        }
        let malformed = |_| Failure::Probe(format!("vNIC {}: the daemon told no MAC", nic.name));
        Ok(Self {
            device: Device::connect(nic)?,
            mac: nic.mac_address.parse().map_err(malformed)?,
            ipv4: nic.ipv4_address.parse().ok(),
            ipv6: nic.ipv6_address.parse().ok(),
            identifier: std::process::id() as u16,
            gateways: [None; 2],
        })
    }

    /// The address that goes with the MAC (RFC 4291 appendix A).
    pub(crate) fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac.0;
        let word = |high, low| u16::from_be_bytes([high, low]);
        // The bit for universal addresses is turned round.
        Ipv6Addr::new(0xfe80, 0, 0, 0, word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f))
    }

    /// A frame from this guest, around what `write` writes.
    pub(crate) fn frame(
        &self,
        (to, ether_type): (MacAddr, u16),
        write: impl FnOnce(&mut Writer<'_>) -> Result<(), Full>,
    ) -> Vec<u8> {
        // The longest packet of IPv4; what does not fit is found by the writer.
        let mut buffer = vec![0; usize::from(u16::MAX) + ethernet::HEADER_LEN];
        let mut writer = Writer::new(&mut buffer);
        let header = ethernet::Header {
            destination: to,
            source: self.mac,
            ether_type: U16::new(ether_type),
        };
        let written = writer.push(&header).and_then(|()| write(&mut writer));
        let len = written.map_or(0, |()| writer.len());
        buffer.truncate(len);
        buffer
    }

    /// The first frame that `wanted` takes something from, and that, before `deadline`.
    pub(crate) async fn hear<T>(
        &mut self,
        deadline: Instant,
        mut wanted: impl FnMut(&[u8]) -> Option<T>,
    ) -> Option<T> {
        loop {
            while let Some(frame) = self.device.receive() {
                if let Some(found) = wanted(&frame) {
                    return Some(found);
                }
            }
            if self.device.is_gone() {
                return None;
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            self.device.wait(left).await;
        }
    }

    /// Sends a frame until what it asks for is heard.
    pub(crate) async fn ask<T>(
        &mut self,
        frame: &[u8],
        mut wanted: impl FnMut(&[u8]) -> Option<T>,
    ) -> Option<T> {
        for _ in 0..TRIES {
            self.device.send(frame);
            let found = self.hear(Instant::now() + RETRY, &mut wanted).await;
            if found.is_some() || self.device.is_gone() {
                return found;
            }
        }
        None
    }

    /// Where the gateway of a family is.
    pub(crate) async fn gateway(&mut self, ipv4: bool) -> Result<MacAddr, Failure> {
        if let Some(known) = self.gateways[usize::from(ipv4)] {
            return Ok(known);
        }
        let found = if ipv4 {
            let own = self.ipv4.unwrap_or(Ipv4Addr::UNSPECIFIED);
            let question = arp::Packet::request(self.mac, own, GATEWAY_IPV4);
            let to = (MacAddr::BROADCAST, ethernet::ARP);
            let frame = self.frame(to, |writer| writer.push(&question));
            self.ask(&frame, neighbour_ipv4).await
        } else {
            // The gateway's solicited-node address: the last 24 bits are its own (RFC 4291 §2.7.1).
            let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
            let from = self.link_local();
            // Option 1, one unit of 8 octets: the source link-layer address (RFC 4861 §4.6.1).
            let body = [&GATEWAY_IPV6.octets()[..], &[1, 1], &self.mac.0].concat();
            let to = (MacAddr::ipv6_multicast(group), ethernet::IPV6);
            let words = (icmpv6::NEIGHBOUR_SOLICITATION, 0, 0);
            let frame = self
                .frame(to, |writer| icmpv6::write(writer, (from, group, NDP_HOPS), words, &body));
            self.ask(&frame, neighbour_ipv6).await
        };
        // Kept: each question would begin with another one.
        self.gateways[usize::from(ipv4)] = found;
        self.device.check()?;
        let (family, address) = if ipv4 {
            ("ARP", IpAddr::from(GATEWAY_IPV4))
        } else {
            ("NDP", IpAddr::from(GATEWAY_IPV6))
        };
        found.ok_or_else(|| {
            Failure::Probe(format!("nobody answered {family} for the gateway {address}"))
        })
    }

    /// Asks for an echo, and waits for what comes of it.
    pub(crate) async fn echo(&mut self, echo: Echo, patience: Duration) -> Result<Answer, Failure> {
        let lacks =
            |family| Failure::Probe(format!("{}: the vNIC has no {family} address", echo.to));
        let gateway = self.gateway(echo.to.is_ipv4()).await?;
        let data: Vec<u8> = (0..echo.size).map(|n| n as u8).collect();
        // Identifier and sequence number as in the header: answers are compared in one step.
        let rest = u32::from(self.identifier) << 16 | u32::from(echo.sequence);
        let frame = match echo.to {
            IpAddr::V4(to) => {
                let from = self.ipv4.ok_or_else(|| lacks("IPv4"))?;
                let words = (icmpv4::ECHO_REQUEST, 0, rest);
                let mut frame = self.frame((gateway, ethernet::IPV4), |writer| {
                    icmpv4::write(writer, from, to, words, &data)
                });
                // The writer has a TTL of its own.
                limit_hops(&mut frame, echo.hops);
                frame
            }
            IpAddr::V6(to) => {
                // A source of the same scope (RFC 6724 §5, rule 2).
                let global =
                    if to.is_unicast_link_local() { Some(self.link_local()) } else { self.ipv6 };
                let from = global.ok_or_else(|| lacks("IPv6"))?;
                let words = (icmpv6::ECHO_REQUEST, 0, rest);
                self.frame((gateway, ethernet::IPV6), |writer| {
                    icmpv6::write(writer, (from, to, echo.hops), words, &data)
                })
            }
        };
        if frame.is_empty() {
            return Err(Failure::Probe(format!("{} octets are too many for a packet", echo.size)));
        }
        let asked = Instant::now();
        if !self.device.send(&frame) {
            return Err(Failure::Probe(format!(
                "a packet of {} octets of data is longer than the vNIC's MTU",
                echo.size
            )));
        }
        let heard = self.hear(asked + patience, |frame| outcome(frame, rest)).await;
        let ms = asked.elapsed().as_secs_f64() * 1000.0;
        // Only then: an answer counts though the daemon has ended since.
        if heard.is_none() {
            self.device.check()?;
        }
        Ok(match heard {
            Some((from, what)) => Answer { from: from.to_string(), what: what.into(), ms },
            None => Answer { from: String::new(), what: NONE.into(), ms },
        })
    }
}

/// Sets the TTL of an IPv4 frame.
fn limit_hops(frame: &mut [u8], hops: u8) {
    let packet = frame.get_mut(ethernet::HEADER_LEN..).unwrap_or(&mut []);
    if let Ok((header, _)) = ipv4::Header::mut_from_prefix(packet) {
        header.ttl = hops;
        // It is part of what it sums up (RFC 791 §3.1).
        header.checksum = U16::ZERO;
        header.checksum = U16::new(checksum::checksum(header.as_bytes()));
    }
}

fn neighbour_ipv4(frame: &[u8]) -> Option<MacAddr> {
    let (header, packet) = ethernet::Header::parse(frame)?;
    let packet = arp::Packet::parse(packet).filter(|_| header.ether_type.get() == ethernet::ARP)?;
    let answers = packet.operation() == arp::REPLY && packet.sender_ip() == GATEWAY_IPV4;
    answers.then(|| packet.sender_mac())
}

fn neighbour_ipv6(frame: &[u8]) -> Option<MacAddr> {
    let (_, message) = icmp(frame)?;
    let (target, options) = mvirt_net::wire::ndp::target(message)?;
    let answers =
        message.first() == Some(&icmpv6::NEIGHBOUR_ADVERTISEMENT) && target == GATEWAY_IPV6;
    let mac = options.get(2..8).filter(|_| answers)?;
    Some(MacAddr(mac.try_into().ok()?))
}

/// The ICMP message in a frame, and who sent it.
pub(super) fn icmp(frame: &[u8]) -> Option<(IpAddr, &[u8])> {
    let (header, packet) = ethernet::Header::parse(frame)?;
    match header.ether_type.get() {
        ethernet::IPV4 => {
            let header = ipv4::Header::parse(packet, packet.len())?;
            let message = packet.get(header.header_len()..header.total_len())?;
            // The sum over a message with its checksum is zero where it is right (RFC 1071).
            let sound = header.protocol == protocol::ICMP && checksum::checksum(message) == 0;
            sound.then(|| (header.source().into(), message))
        }
        ethernet::IPV6 => {
            let header = ipv6::Header::parse(packet, packet.len())?;
            let upper = header.upper(packet).ok()?;
            let message = packet.get(upper.offset..header.total_len())?;
            let sound = upper.protocol == protocol::ICMPV6
                && icmpv6::checksum_is_right(header.source(), header.destination(), message);
            sound.then(|| (header.source().into(), message))
        }
        _ => None,
    }
}

/// What a frame says of the echo request whose identifier and sequence number are `rest`: who, and
/// what.
fn outcome(frame: &[u8], rest: u32) -> Option<(IpAddr, &'static str)> {
    let (from, message) = icmp(frame)?;
    let rest = rest.to_be_bytes();
    let (kind, code) = (*message.first()?, *message.get(1)?);
    let echo = if from.is_ipv4() { icmpv4::ECHO_REPLY } else { icmpv6::ECHO_REPLY };
    if kind == echo {
        return (message.get(4..8) == Some(&rest)).then_some((from, "reply"));
    }
    // An error quotes the packet that it is about: headers without options, then the echo request.
    let quoted = message.get(icmpv4::HEADER_LEN..)?;
    let header_len = if from.is_ipv4() { ipv4::HEADER_LEN } else { ipv6::HEADER_LEN };
    if quoted.get(header_len + 4..header_len + 8) != Some(&rest) {
        return None;
    }
    // Codes of RFC 792 and RFC 1812 §5.2.7.1, and of RFC 4443 §3.
    let what = match (from.is_ipv4(), kind, code) {
        (true, icmpv4::TIME_EXCEEDED, _) | (false, icmpv6::TIME_EXCEEDED, _) => HOP_LIMIT,
        (true, icmpv4::UNREACHABLE, 0) | (false, icmpv6::UNREACHABLE, 0) => "no route",
        (true, icmpv4::UNREACHABLE, 1) | (false, icmpv6::UNREACHABLE, 3) => "host unreachable",
        (true, icmpv4::UNREACHABLE, 4) | (false, icmpv6::TOO_BIG, _) => "packet too big",
        (true, icmpv4::UNREACHABLE, 13) | (false, icmpv6::UNREACHABLE, 1) => "prohibited",
        (true, icmpv4::UNREACHABLE, _) | (false, icmpv6::UNREACHABLE, _) => "unreachable",
        _ => return None,
    };
    Some((from, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_from_another_ones() {
        let mut buffer = [0; 256];
        let mut writer = Writer::new(&mut buffer);
        let (own, to) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        icmpv4::write(&mut writer, own, to, (8, 0, 0x0102_0003), b"data").unwrap();
        let asked = writer.since(0).to_vec();
        let mut frame = vec![0x52, 0x54, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 8, 0];
        let mut writer = Writer::new(&mut buffer);
        let error = icmpv4::Error::HostUnreachable;
        icmpv4::write_error(&mut writer, GATEWAY_IPV4, own, error, &asked).unwrap();
        frame.extend(writer.since(0));
        assert_eq!(outcome(&frame, 0x0102_0003), Some((GATEWAY_IPV4.into(), "host unreachable")));
        assert_eq!(outcome(&frame, 0x0102_0004), None);
        frame[40] ^= 1;
        assert_eq!(outcome(&frame, 0x0102_0003), None, "a wrong checksum");
    }
}
