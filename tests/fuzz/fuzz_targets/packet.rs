//! Any octets as a frame from a guest: classified, guarded, routed, answered, rejected, cut.
//! Nothing may panic, and every answer and fragment must be a frame that classifies and fits the
//! link. The checksum of an IPv4 header is made right: chance would not, and what is behind it is
//! what is to be tried.
#![no_main]

#[path = "../../support/frames/field.rs"]
#[expect(dead_code, reason = "the tests use all of it")]
mod field;
#[path = "../../support/network.rs"]
mod network;

use field::ipv4;
use libfuzzer_sys::fuzz_target;
use mvirt_net::{
    dataplane::{
        forward::{Asker, guard, routed},
        frame::{
            classify::{Packet, classify},
            fragment,
            verdict::Rejection,
        },
        gateway::{self, Question},
    },
    wire::{Writer, checksum, vnet::Offload},
};
use std::time::Instant;

/// Makes the checksum of an IPv4 header right.
fn make_right(frame: &mut [u8]) {
    let least = ipv4::PAYLOAD.start;
    if frame.len() >= least && frame[field::ETHERTYPE] == ipv4::ETHERTYPE {
        let len = usize::from(frame[ipv4::VERSION_IHL] & 15) * 4;
        let end = (field::PACKET.start + len).clamp(least, frame.len());
        frame[ipv4::CHECKSUM].fill(0);
        let sum = checksum::checksum(&frame[field::PACKET.start..end]);
        frame[ipv4::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    }
}

fn try_fragments(frame: &[u8]) {
    let mut buffer = vec![0; fragment::BUFFER_LEN];
    let Some(fragments) = fragment::cut(&mut frame.to_vec(), Offload::None, 1280, &mut buffer)
    else {
        return;
    };
    for fragment in fragments {
        assert!(fragment.len() <= field::PACKET.start + 1280);
        classify(fragment, fragment.len(), Offload::None).expect("fragments are frames");
    }
}

fuzz_target!(|frame: &[u8]| {
    let network = network::network();
    let table = network.domain.routed().expect("it is routed");
    let vnic = network.members[0].vnic().expect("it is one");
    let mut frame = frame.to_vec();
    make_right(&mut frame);
    let Ok(headers) = classify(&frame, frame.len(), Offload::None) else { return };
    let frame = &frame[..headers.frame_len()];
    if matches!(headers.packet, Packet::Ipv4(_)) {
        try_fragments(frame);
    }
    let mut answer = vec![0; 65549];
    for checksum in [Offload::None, Offload::Checksum { start: 34, offset: 6 }] {
        let mut writer = Writer::new(&mut answer);
        let (asker, offload, now) = (Asker::Guest(vnic), checksum, Instant::now());
        let question = Question { table, asker, headers: &headers, frame, offload, now };
        if gateway::respond(&question, &mut writer).is_ok() {
            let answer = writer.since(0);
            classify(answer, answer.len(), Offload::None).expect("answers are frames");
            // Those to an echo are as long as it, which the pipeline has found to fit.
            assert!(answer.len() <= frame.len().max(field::PACKET.start + usize::from(vnic.mtu)));
        }
    }
    if guard::check(vnic, &headers).is_ok() {
        match &headers.packet {
            Packet::Ipv4(packet) => {
                routed::route_ipv4(table, packet).ok();
            }
            Packet::Ipv6(packet) => {
                routed::route_ipv6(table, packet).ok();
            }
            Packet::Arp(_) => {}
        }
        let mut writer = Writer::new(&mut answer);
        let sender = (table, Asker::Guest(vnic));
        if gateway::reject(sender, &headers, frame, Rejection::TooBig(1280), &mut writer).is_ok() {
            let answer = writer.since(0);
            classify(answer, answer.len(), Offload::None).expect("errors are frames");
        }
    }
});
