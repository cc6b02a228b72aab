//! Captures of real clients (tests/golden, taken by the test of `clients`), said again word for
//! word: the gateway answers octet for octet as it did.

use super::clients;
use crate::{
    daemon::Daemon,
    driver::HEADER,
    field::{self, ipv4, ipv6},
    frames::{ALL_NODES_MAC, GATEWAY_MAC, is_icmpv6, is_ipv4, is_ipv6},
    guest::{CSUM, Guest, PLAIN},
};
use pcap_file::pcapng::{Block, PcapNgReader};
use smoltcp::wire::{Icmpv6Message, IpProtocol};
use std::{fs::File, path::Path};

/// The frames of a capture, in the order in which they were seen.
fn frames(path: &Path) -> Vec<Vec<u8>> {
    let mut reader = PcapNgReader::new(File::open(path).unwrap()).unwrap();
    let mut frames = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.unwrap() {
            frames.push(packet.data.into_owned());
        }
    }
    frames
}

/// Whether a frame is an advertisement to all, which comes unasked and at times of its own.
fn is_unasked(frame: &[u8]) -> bool {
    frame[field::TO_MAC] == ALL_NODES_MAC && is_icmpv6(frame, Icmpv6Message::RouterAdvert)
}

/// The virtio-net header of a frame as a guest sends it that leaves the checksum of UDP to the
/// device.
fn header(frame: &[u8]) -> [u8; HEADER] {
    let start = if is_ipv4(frame, IpProtocol::Udp) {
        ipv4::PAYLOAD.start
    } else if is_ipv6(frame, IpProtocol::Udp) {
        ipv6::PAYLOAD.start
    } else {
        return [0; HEADER];
    };
    // NEEDS_CSUM, csum_start, csum_offset (virtio 1.2 §5.1.6).
    [1, 0, 0, 0, 0, 0, start as u8, 0, 6, 0, 0, 0]
}

/// Says what the client of a capture said, and hears what it heard. Gives how many answers that
/// were.
fn replay(name: &str) -> usize {
    let mut daemon = Daemon::start();
    clients::network(&mut daemon);
    let nic = clients::nic(&mut daemon, name);
    let mut guest = Guest::connect_with(&nic, PLAIN | CSUM, 2048);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.pcapng"));
    let mut answers = 0;
    for (number, frame) in frames(&path).into_iter().enumerate() {
        if frame[field::FROM_MAC] == guest.mac {
            guest.driver.send_with(header(&frame), &frame);
        } else if frame[field::FROM_MAC] == GATEWAY_MAC && !is_unasked(&frame) {
            guest.expect(&format!("{name}: frame {} comes again", number + 1), |f| f == frame);
            answers += 1;
        }
    }
    answers
}

#[test]
fn real_clients_are_answered_as_ever() {
    for (name, least) in [
        ("udhcpc", 4),
        ("dhclient4", 3),
        ("dhclient6", 4),
        ("dhcpcd", 6),
        ("networkd", 5),
        ("wide", 3),
        ("dibbler", 5),
    ] {
        let answers = replay(name);
        assert!(answers >= least, "{name}: {answers} answers");
    }
}
