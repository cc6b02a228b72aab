//! Any octets as frames of hosts of a segment: each is answered, ignored, refused, or a packet from
//! an address of the segment; what is sent is always from the gateway, and never too long; and what
//! is remembered stays bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mvirt_net::{
    egress::{
        packet::Packet,
        protocol::{Segment, SegmentIpv4, SegmentIpv6},
        segment::{Front, Taken},
    },
    wire::vnet::Offload,
};
use std::time::{Duration, Instant};

const OWN: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];
const HOST: [u8; 6] = [0x52, 0x54, 0, 0, 0, 9];

/// Frames: how many milliseconds after the one before, what it is to look like, octets.
type Frames<'a> = Vec<(u16, u8, &'a [u8])>;

fn segment() -> Segment {
    Segment {
        ipv4: Some(SegmentIpv4 {
            gateway: "10.0.2.2/24".parse().expect("a network"),
            dhcp: [10, 0, 2, 15].into(),
            dns: Some([10, 0, 2, 3].into()),
        }),
        ipv6: Some(SegmentIpv6 {
            gateway: "fd00::2/64".parse().expect("a network"),
            dns: Some("fd00::3".parse().expect("an address")),
        }),
        hostname: Some("slirp".into()),
        domain: None,
        mtu: 1500,
        restricted: false,
        resolver: None,
    }
}

/// A frame of these octets, which is like a real one as far as `kind` says.
fn frame(kind: u8, octets: &[u8]) -> Vec<u8> {
    let head = |to: [u8; 6], ether_type: [u8; 2]| [&to[..], &HOST, &ether_type].concat();
    let mut frame = match kind % 5 {
        0 => [&head([0xff; 6], [8, 6]), &[0, 1, 8, 0, 6, 4, 0][..], octets].concat(),
        1 => [&head(OWN, [8, 0]), &[0x45][..], octets].concat(),
        2 => [&head([0xff; 6], [8, 0]), &[0x45][..], octets].concat(),
        3 => [&head(OWN, [0x86, 0xdd]), &[0x60][..], octets].concat(),
        _ => octets.to_vec(),
    };
    if matches!(kind % 5, 1 | 2) && frame.len() >= 34 {
        // Of a header whose sum is wrong nothing more is seen.
        frame[24..26].fill(0);
        let sum = mvirt_net::wire::checksum::checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

fuzz_target!(|frames: Frames<'_>| {
    let mut now = Instant::now();
    let mut front = Front::new(segment(), now);
    let prefixes = segment().nic().prefixes;
    for (time, kind, octets) in frames {
        now += Duration::from_millis(time.into());
        front.expire(now);
        let frame = frame(kind, octets);
        if let Ok(Taken::Packet(octets)) = front.take(&frame, now)
            && let Ok(packet) = Packet::parse(0, Offload::None, octets)
        {
            assert!(prefixes.iter().any(|prefix| prefix.contains(&packet.source)));
            assert!(!front.is_own(packet.source));
            // An answer to it finds its host, or waits.
            let message = [&[0; 12][..], packet.octets].concat();
            if let Some(sent) = front.frame(&[&message], now) {
                assert_eq!(sent[6..12], OWN);
            }
        }
        let mut count = 0;
        while let Some(sent) = front.next_frame() {
            assert!(sent[6..12] == OWN && sent.len() <= 1514, "{}", sent.len());
            count += 1;
        }
        assert!(count <= 64, "one frame draws {count}");
    }
});
