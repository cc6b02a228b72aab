//! A packet as a person describes it, as the frame that its sender would send.

use crate::{
    addr::MacAddr,
    control::{
        fields::{address, optional, parse},
        refusal::Refusal,
    },
    proto::PacketSpec,
    wire::{
        Full, Writer,
        checksum::Checksum,
        ethernet, icmpv4, icmpv6, ipv4, ipv6, protocol,
        tcp::{self, Segment},
        udp,
    },
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zerocopy::big_endian::U16;

/// Octets of the longest IP packet.
pub(super) const LONGEST: usize = 65_535;
/// The port of a sender who does not say: the first of those that are nobody's (RFC 6335 §6).
const SOURCE_PORT: u16 = 49_152;

/// A packet, as it was described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// IANA's number.
    pub(super) protocol: u8,
    /// Of TCP and UDP: source and destination.
    pub(super) ports: [u16; 2],
    /// Of ICMP.
    icmp_type: u8,
    /// Octets; 0: as few as can be.
    len: usize,
}

impl Packet {
    /// Reads a description. Who sends it has `own` as address of each family.
    pub(super) fn read(
        spec: &PacketSpec,
        own: (Option<Ipv4Addr>, Option<Ipv6Addr>),
    ) -> Result<Self, Refusal> {
        let destination = address("packet.destination", &spec.destination)?;
        let own = match destination {
            IpAddr::V4(_) => own.0.map(IpAddr::V4),
            IpAddr::V6(_) => own.1.map(IpAddr::V6),
        };
        let source =
            optional("packet.source", &spec.source, address)?.or(own).ok_or_else(|| {
                let expected =
                    "expected an address: the sender has none of the destination's family";
                Refusal::invalid("packet.source", &spec.source, expected)
            })?;
        if source.is_ipv4() != destination.is_ipv4() {
            let expected = format!("expected an address of the family of {destination}");
            return Err(Refusal::invalid("packet.source", source, expected));
        }
        let protocol = match (&*spec.protocol, spec.destination_port) {
            ("", 0) => "icmp",
            ("", _) => "tcp",
            (named, _) => named,
        };
        let protocol = number_of(protocol, destination)?;
        let port = |field, given: u32, default| match u16::try_from(given) {
            Ok(0) => Ok(default),
            Ok(port) => Ok(port),
            Err(_) => Err(Refusal::invalid(field, given, "expected 1-65535")),
        };
        let ports = [
            port("packet.source_port", spec.source_port, SOURCE_PORT)?,
            port("packet.destination_port", spec.destination_port, 0)?,
        ];
        let has_ports = matches!(protocol, protocol::TCP | protocol::UDP);
        if has_ports && ports[1] == 0 {
            let expected = "required for TCP and UDP";
            return Err(Refusal::invalid("packet.destination_port", "", expected));
        }
        let echo = if destination.is_ipv4() { icmpv4::ECHO_REQUEST } else { icmpv6::ECHO_REQUEST };
        let icmp_type = match u8::try_from(spec.icmp_type) {
            Ok(0) => echo,
            Ok(kind) => kind,
            Err(_) => {
                return Err(Refusal::invalid("packet.icmp_type", spec.icmp_type, "expected 1-255"));
            }
        };
        let packet = Self { source, destination, protocol, ports, icmp_type, len: 0 };
        let (shortest, len) = (packet.shortest(), spec.length as usize);
        if len != 0 && !(shortest..=LONGEST).contains(&len) {
            let expected = format!("expected {shortest}-{LONGEST} octets of the IP packet");
            return Err(Refusal::invalid("packet.length", len, expected));
        }
        Ok(Self { len: len.max(shortest), ..packet })
    }

    /// Octets of its IP header.
    fn ip_header_len(&self) -> usize {
        if self.destination.is_ipv4() { ipv4::HEADER_LEN } else { ipv6::HEADER_LEN }
    }

    /// Octets of the shortest packet of its kind.
    fn shortest(&self) -> usize {
        self.ip_header_len()
            + match self.protocol {
                protocol::TCP => tcp::HEADER_LEN,
                protocol::UDP | protocol::ICMP | protocol::ICMPV6 => 8,
                _ => 0,
            }
    }

    /// Writes the frame that carries it from one MAC to another: behind headers there are zeros.
    pub(super) fn frame(&self, [from, to]: [MacAddr; 2]) -> Result<Vec<u8>, Full> {
        let mut frame = vec![0; ethernet::HEADER_LEN + self.len];
        let mut writer = Writer::new(&mut frame);
        let ether_type = match self.destination {
            IpAddr::V4(_) => ethernet::IPV4,
            IpAddr::V6(_) => ethernet::IPV6,
        };
        let ether_type = U16::new(ether_type);
        writer.push(&ethernet::Header { destination: to, source: from, ether_type })?;
        let body = vec![0; self.len - self.shortest()];
        let [source_port, destination_port] = self.ports;
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let len = self.len - ipv4::HEADER_LEN;
                match self.protocol {
                    protocol::UDP => {
                        let (from, to) = ((source, source_port), (destination, destination_port));
                        udp::write_ipv4(&mut writer, from, to, &body)?;
                    }
                    protocol::ICMP => {
                        let head = (self.icmp_type, 0, 0);
                        icmpv4::write(&mut writer, source, destination, head, &body)?;
                    }
                    number => {
                        ipv4::Header::write(&mut writer, source, destination, number, len)?;
                        let sum = Checksum::pseudo_ipv4(source, destination, number, len as u32);
                        self.write_tcp(&mut writer, sum)?;
                    }
                }
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let len = self.len - ipv6::HEADER_LEN;
                match self.protocol {
                    protocol::UDP => {
                        let (from, to) = ((source, source_port), (destination, destination_port));
                        udp::write_ipv6(&mut writer, from, to, &body)?;
                    }
                    protocol::ICMPV6 => {
                        // Neighbour discovery is believed with this alone (RFC 4861 §6.1).
                        let ends = (source, destination, 255);
                        icmpv6::write(&mut writer, ends, (self.icmp_type, 0, 0), &body)?;
                    }
                    number => {
                        let to = &mut writer;
                        ipv6::Header::write(to, source, destination, number, 64, len)?;
                        let sum = Checksum::pseudo_ipv6(source, destination, number, len as u32);
                        self.write_tcp(&mut writer, sum)?;
                    }
                }
            }
            _ => return Err(Full),
        }
        Ok(frame)
    }

    /// Writes the first segment of a connection, where it is of TCP.
    fn write_tcp(&self, writer: &mut Writer<'_>, mut sum: Checksum) -> Result<(), Full> {
        if self.protocol != protocol::TCP {
            return Ok(());
        }
        let [source, destination] = self.ports;
        let segment =
            Segment { source, destination, flags: tcp::SYN, window: 65_535, ..Segment::default() };
        let start = writer.len();
        segment.write(writer, 0)?;
        sum.add(writer.since(start));
        writer.patch_u16(start + tcp::CHECKSUM_OFFSET as usize, sum.finish());
        Ok(())
    }
}

/// Returns the number of a protocol, by its name or number; TCP where none is given.
fn number_of(text: &str, destination: IpAddr) -> Result<u8, Refusal> {
    match (text.to_ascii_lowercase().as_str(), destination) {
        ("tcp", _) => Ok(protocol::TCP),
        ("udp", _) => Ok(protocol::UDP),
        // What people call the other family's, too.
        ("icmp" | "ping", IpAddr::V4(_)) => Ok(protocol::ICMP),
        ("icmp" | "icmpv6" | "icmp6" | "ping", IpAddr::V6(_)) => Ok(protocol::ICMPV6),
        _ => text.parse().map_err(|_| {
            let expected = "expected tcp, udp, icmp or a number, 0-255";
            Refusal::invalid("packet.protocol", text, expected)
        }),
    }
}

/// Returns a MAC that was given.
pub(super) fn mac(field: &'static str, text: &str) -> Result<Option<MacAddr>, Refusal> {
    optional(field, text, parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(destination: &str, protocol: &str, length: u32) -> PacketSpec {
        PacketSpec {
            destination: destination.into(),
            protocol: protocol.into(),
            destination_port: 443,
            length,
            ..PacketSpec::default()
        }
    }

    const OWN: (Option<Ipv4Addr>, Option<Ipv6Addr>) = (Some(Ipv4Addr::new(10, 0, 0, 1)), None);
    const MACS: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 0, 9]), MacAddr([2, 0, 0, 0, 0, 1])];

    #[test]
    fn a_first_segment_is_written_octet_by_octet() {
        let packet = Packet::read(&spec("10.0.0.7", "", 0), OWN).unwrap();
        let frame = packet.frame(MACS).unwrap();
        assert_eq!(frame.len(), 14 + 40);
        assert_eq!(frame[..14], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0]);
        assert_eq!(frame[26..34], [10, 0, 0, 1, 10, 0, 0, 7]);
        assert_eq!(frame[34..38], [0xc0, 0, 1, 187]);
        assert_eq!(frame[47], tcp::SYN);
        let mut sum = Checksum::pseudo_ipv4([10, 0, 0, 1].into(), [10, 0, 0, 7].into(), 6, 20);
        sum.add(&frame[34..]);
        assert_eq!(sum.finish(), 0);
    }

    #[test]
    fn packets_are_as_long_as_was_asked_for() {
        for (to, protocol) in [("10.0.0.7", "udp"), ("10.0.0.7", "icmp"), ("10.0.0.7", "47")] {
            let packet = Packet::read(&spec(to, protocol, 1500), OWN).unwrap();
            let frame = packet.frame(MACS).unwrap();
            assert_eq!((frame.len(), frame[16..18].to_vec()), (1514, vec![5, 220]), "{protocol}");
        }
        let own = (None, Some("fd00::1".parse().unwrap()));
        for protocol in ["tcp", "udp", "icmp", "0"] {
            let packet = Packet::read(&spec("fd00::7", protocol, 1280), own).unwrap();
            assert_eq!(packet.frame(MACS).unwrap().len(), 1294, "{protocol}");
        }
    }

    #[test]
    fn what_is_no_packet_is_refused_by_its_field() {
        for (spec, field) in [
            (spec("vm2", "", 0), "packet.destination"),
            (spec("fd00::7", "", 0), "packet.source"),
            (spec("10.0.0.7", "tpc", 0), "packet.protocol"),
            (spec("10.0.0.7", "", 39), "packet.length"),
            (spec("10.0.0.7", "", 65_536), "packet.length"),
            (PacketSpec { destination_port: 0, ..spec("10.0.0.7", "udp", 0) }, "destination_port"),
            (PacketSpec { source_port: 65_536, ..spec("10.0.0.7", "", 0) }, "source_port"),
            (PacketSpec { icmp_type: 256, ..spec("10.0.0.7", "icmp", 0) }, "icmp_type"),
        ] {
            let refusal = Packet::read(&spec, OWN).unwrap_err().to_string();
            assert!(refusal.contains(field), "{refusal}");
        }
    }
}
