//! Drivers older than virtio 1.0 (OVMF's, old firmware, virtio-mmio of old defaults): their header
//! is two octets shorter where they merge no buffers, and has its own descriptor; all else is as
//! for others.

use crate::{
    daemon::{Daemon, wait_until},
    driver::{BUFFER, NEXT, WRITE},
    field::{self, udp},
    frames::{Udp4, is_udp4, open_checksum4},
    guest::{CSUM, Driver, GUEST_CSUM, Guest, MRG_RXBUF, PLAIN, PROTOCOL_FEATURES, QUEUE, RX, TX},
    segments,
};
use std::path::Path;

const LEGACY: u64 = PROTOCOL_FEATURES;
const HOST_TSO4: u64 = 1 << 11;
/// Octets of a header without `num_buffers`.
const HEADER: u32 = 10;
/// Where in its buffer the frame is, in a descriptor of its own.
const FRAME: u64 = 0x100;

#[test]
fn legacy_guests_find_their_network_and_reach_others() {
    for features in [LEGACY, LEGACY | CSUM | GUEST_CSUM, LEGACY | MRG_RXBUF] {
        let mut daemon = Daemon::start();
        daemon.network("prod");
        let nics = [daemon.nic("prod", "old"), daemon.nic("prod", "new")];
        let mut old = Guest::connect_with(&nics[0], features, BUFFER);
        let mut new = Guest::connect(&nics[1]);
        assert_eq!(old.lease(), ("10.0.0.1/32".into(), "169.254.0.1".into()), "{features:#x}");
        assert!(old.ping("169.254.0.1") && old.ping("fe80::1"), "{features:#x}");
        for hand_over in [true, false] {
            for len in [0, 1, 4, 18, 100, 600, 1472] {
                let payload: Vec<u8> = (0..len).map(|at| at as u8 ^ 0x5a).collect();
                old.send(&Udp4::new(old.mac, "10.0.0.1", "10.0.0.2", &payload).frame());
                new.expect("a frame of the old driver", |frame| is_udp4(frame, &payload));
                new.send(&Udp4::new(new.mac, "10.0.0.2", "10.0.0.1", &payload).frame());
                old.expect("a frame to the old driver", |frame| is_udp4(frame, &payload));
            }
            assert!(!hand_over || daemon.hand_over(), "{}", daemon.log());
        }
        assert!(!daemon.log().contains("broke the protocol"), "{}", daemon.log());
    }
}

#[test]
fn a_legacy_header_is_ten_octets_in_a_descriptor_of_its_own() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nics = [daemon.nic("prod", "old"), daemon.nic("prod", "new")];
    let mut old = Driver::memory_only(Path::new(&nics[0].socket_path), LEGACY | CSUM, BUFFER);
    old.negotiate();
    let memory = &old.memory;
    for chain in 0..QUEUE / 2 {
        let at = RX.buffer(chain);
        memory.describe(RX, 2 * chain, (at, HEADER), NEXT | WRITE, 2 * chain + 1);
        memory.describe(RX, 2 * chain + 1, (at + FRAME, 1514), WRITE, 0);
        memory.offer(RX, chain, 2 * chain);
    }
    old.start_rings(0);
    let mut new = Guest::connect_with(&nics[1], PLAIN | CSUM | HOST_TSO4, BUFFER);

    let mac = crate::guest::parse_mac(&nics[0].mac_address);
    let sent = Udp4::new(mac, "10.0.0.1", "10.0.0.2", b"from the past").frame();
    let memory = &old.memory;
    memory.write(TX.buffers, &[0; HEADER as usize]);
    memory.write(TX.buffers + FRAME, &sent);
    memory.describe(TX, 0, (TX.buffers, HEADER), NEXT, 1);
    memory.describe(TX, 1, (TX.buffers + FRAME, sent.len() as u32), 0, 0);
    memory.offer(TX, 0, 0);
    old.kick(1);
    new.expect("the frame arrives", |frame| is_udp4(frame, b"from the past"));

    // Whole; with its checksum open, which this guest has not said it takes; and to be cut into
    // three.
    let mut told = Udp4::new(new.mac, "10.0.0.2", "10.0.0.1", b"to the past").frame();
    new.send(&told);
    let right = told[udp::CHECKSUM4].to_vec();
    let open = open_checksum4(&told, 17, 8 + 11);
    told[udp::CHECKSUM4].copy_from_slice(&open);
    new.driver.send_with([1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0], &told);
    told[udp::CHECKSUM4].copy_from_slice(&right);
    new.driver
        .send_with(segments::TSO, &segments::stream(new.mac, "10.0.0.2", "10.0.0.1", &[7; 1400]));
    let lens = [told.len(), told.len(), 54 + 500, 54 + 500, 54 + 400];
    // What the gateway says by itself comes between them: frames to this guest's link.
    let mut seen = 0;
    let mut frames = Vec::new();
    wait_until("all frames arrive", || {
        while seen < memory.used(RX) {
            let (head, len) = memory.used_entry(RX, seen);
            assert_eq!(head, 2 * seen);
            let header = memory.read(RX.buffer(seen), HEADER as usize);
            assert_eq!(header, [0; HEADER as usize], "nothing is left to be done");
            let frame = memory.read(RX.buffer(seen) + FRAME, (len - HEADER) as usize);
            if frame[field::ETHERTYPE] == field::ipv4::ETHERTYPE {
                frames.push(frame);
            }
            seen += 1;
        }
        frames.len() == lens.len()
    });
    assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), lens);
    assert!(is_udp4(&frames[0], b"to the past") && is_udp4(&frames[1], b"to the past"));
    for frame in &frames[2..] {
        let (payload, is_right) = segments::parse(frame);
        assert!(is_right && payload.iter().all(|octet| *octet == 7));
    }
}

#[test]
fn a_chain_shorter_than_a_legacy_header_is_a_frame_too_short() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "old");
    let mut old = Guest::connect_with(&nic, LEGACY, BUFFER);
    let driver = &mut old.driver;
    for (slot, len) in [(0, 1), (1, 9), (2, 10), (3, 23)] {
        driver.memory.describe(TX, slot, (TX.buffers, len), 0, 0);
        driver.memory.offer(TX, slot, slot);
    }
    driver.kick(1);
    wait_until("all are dropped", || daemon.drops("old", "frame_too_short") == 4);
}
