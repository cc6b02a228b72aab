//! Any octets as a frame from a guest: classified, guarded, routed, answered, rejected. Nothing may panic, and every
//! answer must be a frame that classifies.
#![no_main]

mod network;

use libfuzzer_sys::fuzz_target;
use mvirt_net::{
    dataplane::{
        classify::{Packet, classify},
        forward,
        guard,
        responders::{self, Question},
        verdict::Rejection,
    },
    wire::{Writer, vnet::Offload},
};

fuzz_target!(|frame: &[u8]| {
    let table = network::table();
    let vnic = &table.vnics[0];
    let Ok(headers) = classify(&frame[..frame.len().min(128)], frame.len(), Offload::None) else { return };
    let frame = &frame[..headers.frame_len()];
    let mut answer = vec![0; 65549];
    for checksum in [Offload::None, Offload::Checksum { start: 34, offset: 6 }] {
        let mut writer = Writer::new(&mut answer);
        let question = Question { table: &table, vnic, headers: &headers, frame, offload: checksum };
        if responders::respond(&question, &mut writer).is_ok() {
            let answer = writer.since(0);
            classify(answer, answer.len(), Offload::None).expect("answers are frames");
        }
    }
    if guard::check(vnic, &headers).is_ok() {
        match &headers.packet {
            Packet::Ipv4(packet) => {
                forward::route_ipv4(&table, packet).ok();
            },
            Packet::Ipv6(packet) => {
                forward::route_ipv6(&table, packet).ok();
            },
            Packet::Arp(_) => {}
        }
        let mut writer = Writer::new(&mut answer);
        if responders::reject((&table, vnic), &headers, frame, Rejection::TooBig(1280), &mut writer).is_ok() {
            let answer = writer.since(0);
            classify(answer, answer.len(), Offload::None).expect("errors are frames");
        }
    }
});
