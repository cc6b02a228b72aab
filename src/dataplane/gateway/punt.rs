//! What the gateway does not answer here: services that speak TCP, which need a stack, a clock and
//! memory, and names of others (`dns.rs` finds which those are). Frames of a guest for them go on
//! to `services/`, and what those say comes back into the guest's port.

use super::Question;
use crate::{
    addr::MacAddr,
    dataplane::{
        forward::tables::{NetworkKey, Routed, Vnic},
        frame::classify::Packet,
    },
    wire::{Part, dns_message, ipv6, protocol, tcp, vnet::Offload},
};
use std::{net::IpAddr, sync::Arc};

/// The port of the metadata service (RFC 9110 §4.2.1).
const HTTP: u16 = 80;

/// A frame of a guest for a service.
#[derive(Debug, PartialEq, Eq)]
pub struct Punted {
    /// The network that it is in.
    pub network: NetworkKey,
    /// The guest's MAC.
    pub mac: MacAddr,
    /// Octets of an IP packet on its link.
    pub mtu: u16,
    /// The whole frame, a TCP segment or a DNS query in one packet without extension headers.
    pub frame: Box<[u8]>,
    /// What its sender left to be done.
    pub offload: Offload,
    /// Held while it waits: there are not many of a vNIC's at a time.
    pub place: Arc<()>,
}

/// Whether a frame is for a service, and from an address of the vNIC's own.
// Behind a guest there may be others, whom nobody here knows.
pub fn is_for_service(question: &Question<'_>) -> bool {
    let Some(vnic) = question.asker.vnic() else { return false };
    let (source, destination, segment) = match &question.headers.packet {
        Packet::Ipv4(it) if it.protocol == protocol::TCP && it.part == Part::Whole => {
            let segment = question.packet_from(it.header_len);
            (it.source.into(), it.destination.into(), segment)
        }
        Packet::Ipv6(it) if it.header_len == ipv6::HEADER_LEN => {
            let next = question.packet_from(ipv6::NEXT_HEADER_OFFSET).first();
            if next != Some(&protocol::TCP) {
                return false;
            }
            let segment = question.packet_from(it.header_len);
            (it.source.into(), it.destination.into(), segment)
        }
        _ => return false,
    };
    let Some(port) = tcp::destination(segment) else { return false };
    is_own(vnic, source) && is_served(question.table, destination, port)
}

/// Whether a vNIC has an address, and nobody behind it.
pub(super) fn is_own(vnic: &Vnic, source: IpAddr) -> bool {
    match source {
        IpAddr::V4(source) => vnic.ipv4 == Some(source),
        IpAddr::V6(source) => {
            vnic.ipv6 == Some(source)
                || source.is_unicast_link_local()
                || vnic.slaac.is_some_and(|prefix| prefix.contains(&source))
        }
    }
}

fn is_served(table: &Routed, destination: IpAddr, port: u16) -> bool {
    match port {
        HTTP => table.is_metadata(destination),
        dns_message::PORT => table.services.names.is_some() && table.is_gateway(destination),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dataplane::{
            forward::{
                Asker, FibBuilder, Host, Names, Zone,
                tables::{GATEWAY_IPV4, GATEWAY_MAC, PortId, Services},
            },
            frame::classify::classify,
        },
        wire::checksum,
    };
    use std::{net::Ipv4Addr, time::Instant};

    fn table(services: Services) -> Routed {
        Routed {
            ipv4_subnet: Some("10.0.0.0/24".parse().unwrap()),
            services,
            ..Routed::new(FibBuilder::default().build(7))
        }
    }

    /// The first segment of a connection to a port.
    fn frame(mac: MacAddr, from: [u8; 4], to: [u8; 4], port: u16) -> Vec<u8> {
        let mut frame = [&GATEWAY_MAC.0[..], &mac.0, &[8, 0]].concat();
        frame.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
        frame.extend([from, to].concat());
        let sum = checksum::checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame.extend([200, 0]);
        frame.extend(port.to_be_bytes());
        frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 255, 255, 0, 0, 0, 0]);
        frame
    }

    #[test]
    fn what_a_guest_says_to_a_service_goes_there_and_nothing_else() {
        let mac = MacAddr([0x52, 0x54, 0, 0, 0, 2]);
        let vnic = Vnic {
            ipv4: Some([10, 0, 0, 2].into()),
            routed_ipv4: vec!["10.9.0.0/16".parse().unwrap()],
            ..Vnic::new(PortId { slot: 0, generation: 1 }, mac, 1500)
        };
        let gateway = Ipv4Addr::from([169, 254, 0, 1]);
        let zone = Zone {
            domain: "internal".parse().unwrap(),
            network: "prod".into(),
            ipv4: Some("10.0.0.0/24".parse().unwrap()),
            ipv6: None,
            gateway: GATEWAY_IPV4,
        };
        let names = Some(Arc::new(Names::new(zone, [].iter())));
        let both = table(Services { names, metadata: true, ..Services::default() });
        let goes = |table: &Routed, asker: Asker<'_>, frame: &[u8]| {
            let headers = classify(frame, frame.len(), Offload::None).unwrap();
            let (offload, now) = (Offload::None, Instant::now());
            let question = Question { table, asker, headers: &headers, frame, offload, now };
            is_for_service(&question)
        };
        let guest = Asker::Guest(&vnic);
        let (own, service) = ([10, 0, 0, 2], [169, 254, 169, 254]);
        for (from, to, port, expected) in [
            (own, service, 80, true),
            (own, gateway.octets(), 53, true),
            (own, service, 53, false),
            (own, service, 443, false),
            (own, gateway.octets(), 80, false),
            // Of somebody behind the guest.
            ([10, 9, 0, 1], service, 80, false),
        ] {
            let frame = frame(mac, from, to, port);
            assert_eq!(goes(&both, guest, &frame), expected, "{from:?} {to:?} {port}");
        }
        let first = frame(mac, own, service, 80);
        assert!(!goes(&table(Services::default()), guest, &first), "there is none");
        let host = Asker::Host(Host { mac, mtu: 1500 });
        assert!(!goes(&both, host, &first), "it is no vNIC's guest");
        let mut cut = first[..50].to_vec();
        cut[16..18].copy_from_slice(&36_u16.to_be_bytes());
        cut[24..26].fill(0);
        let sum = checksum::checksum(&cut[14..34]);
        cut[24..26].copy_from_slice(&sum.to_be_bytes());
        assert!(!goes(&both, guest, &cut), "the header is cut");
    }
}
