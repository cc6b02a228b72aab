//! Says on a link that an address is here now: gratuitous ARP (RFC 5227 §3) and unsolicited
//! neighbour advertisements (RFC 4861 §7.2.6).

use crate::{
    addr::MacAddr,
    wire::{Full, Writer, arp, ethernet, icmpv6, ndp},
};
use std::net::{IpAddr, Ipv6Addr};
use zerocopy::{IntoBytes as _, big_endian::U16};

/// All nodes of a link (RFC 4291 §2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const BROADCAST: MacAddr = MacAddr([0xff; 6]);
/// The shortest frame without its checksum (IEEE 802.3 §3.2.8).
const SHORTEST: usize = 60;

/// Returns the frames that say that `address` is at `mac`.
pub(super) fn frames(address: IpAddr, mac: MacAddr) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(address) => {
            // Some take a request for an update, others a reply alone.
            let request = arp::Packet::request(mac, address, address);
            let reply = request.reply_from(mac);
            [request, reply]
                .map(|packet| frame(BROADCAST, mac, ethernet::ARP, packet.as_bytes()))
                .into()
        }
        IpAddr::V6(address) => {
            let mut packet = [0; 128];
            let mut writer = Writer::new(&mut packet);
            // It has room for a header, the message and one option.
            match advertisement(&mut writer, address, mac) {
                Ok(()) => {
                    let group = MacAddr::ipv6_multicast(ALL_NODES);
                    vec![frame(group, mac, ethernet::IPV6, writer.since(0))]
                }
                Err(Full) => Vec::new(),
            }
        }
    }
}

fn advertisement(writer: &mut Writer<'_>, address: Ipv6Addr, mac: MacAddr) -> Result<(), Full> {
    let mut body = [0; 24];
    let mut options = Writer::new(&mut body);
    ndp::write_neighbour_advertisement(&mut options, address, mac)?;
    let words = (icmpv6::NEIGHBOUR_ADVERTISEMENT, 0, ndp::OVERRIDE);
    // The hop limit that tells a neighbour (RFC 4861 §7.1.2).
    icmpv6::write(writer, (address, ALL_NODES, 255), words, options.since(0))
}

fn frame(to: MacAddr, from: MacAddr, ether_type: u16, packet: &[u8]) -> Vec<u8> {
    let ether_type = U16::new(ether_type);
    let header = ethernet::Header { destination: to, source: from, ether_type };
    let mut frame = [header.as_bytes(), packet].concat();
    frame.resize(frame.len().max(SHORTEST), 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);

    #[test]
    fn ipv4_is_said_by_a_request_and_a_reply() {
        let frames = frames("203.0.113.7".parse().unwrap(), MAC);
        let arp = |operation: u8, target: &[u8; 6]| {
            let head = [
                &[0xff; 6][..],
                &[2, 0, 0, 0, 0, 7],
                &[8, 6],
                &[0, 1, 8, 0, 6, 4, 0, operation],
                &[2, 0, 0, 0, 0, 7, 203, 0, 113, 7],
                target,
                &[203, 0, 113, 7],
            ];
            let mut frame = head.concat();
            frame.resize(60, 0);
            frame
        };
        assert_eq!(frames, [arp(1, &[0; 6]), arp(2, &[2, 0, 0, 0, 0, 7])]);
    }

    #[test]
    fn ipv6_is_said_to_all_nodes() {
        let frames = frames("2001:db8::7".parse().unwrap(), MAC);
        let [frame] = &frames[..] else { panic!("{frames:?}") };
        assert_eq!(frame[..14], [0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 7, 0x86, 0xdd]);
        let address = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        // 32 octets of ICMPv6, hop limit 255.
        assert_eq!(frame[14..22], [0x60, 0, 0, 0, 0, 32, 58, 255]);
        assert_eq!(frame[22..38], address);
        assert_eq!(frame[38..54], [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!((frame[54..56].to_vec(), frame[58]), (vec![136, 0], 0x20), "override");
        assert_eq!(frame[62..78], address);
        assert_eq!(frame[78..], [2, 1, 2, 0, 0, 0, 0, 7]);
        let [from, to] = [&frame[22..38], &frame[38..54]]
            .map(|octets| Ipv6Addr::from(<[u8; 16]>::try_from(octets).unwrap()));
        assert!(icmpv6::checksum_is_right(from, to, &frame[54..]));
    }
}
