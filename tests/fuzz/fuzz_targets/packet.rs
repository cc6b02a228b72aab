//! Any octets as a frame from a guest: classified, guarded, routed, answered, rejected. Nothing may panic, and every
//! answer must be a frame that classifies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mvirt_net::{
    addr::MacAddr,
    dataplane::{
        classify::{Packet, classify},
        forward::{self, FibBuilder},
        guard,
        limit::Limit,
        responders::{self, Question},
        snapshot::{Addressing, NetworkKey, NetworkTable, NextHop, PortId, Vnic},
        verdict::Rejection,
    },
    wire::{Writer, vnet::Offload},
};
use std::sync::Arc;

fn table() -> NetworkTable {
    let port = PortId { slot: 0, generation: 1 };
    let mac = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
    let mut fib = FibBuilder::default();
    let next_hop = fib.next_hop(NextHop { port, reactor: 0, mtu: 1500, mac });
    fib.host_ipv4([10, 0, 0, 2].into(), next_hop);
    NetworkTable {
        key: NetworkKey(1),
        ipv4_subnet: Some("10.0.0.0/24".parse().unwrap()),
        ipv4_broadcast: Some([10, 0, 0, 255].into()),
        ipv6_prefix: Some("fd00::/64".parse().unwrap()),
        dns_ipv4: vec![[1, 1, 1, 1].into()],
        dns_ipv6: vec!["fd00::53".parse().unwrap()],
        ntp_ipv4: vec![[10, 0, 0, 9].into()],
        ntp_ipv6: vec!["fd00::9".parse().unwrap()],
        domain: Some("prod.internal".parse().unwrap()),
        vnics: vec![Arc::new(Vnic {
            port,
            mac,
            ipv4: Some([10, 0, 0, 1].into()),
            ipv6: Some("fd00::1".parse().unwrap()),
            routed_ipv4: vec![],
            routed_ipv6: vec!["fd00:0:0:7::/64".parse().unwrap()],
            slaac: Some("fd00:0:0:8::/64".parse().unwrap()),
            from_guest: Limit::default(),
            to_guest: Limit::default(),
            mtu: 1500,
            addressing: Addressing::Subnet,
            hostname: Some("vm1".into()),
        })],
        fib: fib.build(7),
    }
}

fuzz_target!(|frame: &[u8]| {
    let table = table();
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
