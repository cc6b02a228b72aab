//! Questions for names of a network: from a guest's frame to that of the answer.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]

use criterion::{Criterion, Throughput};
use mvirt_net::{
    addr::MacAddr,
    dataplane::{
        forward::{
            Asker, FibBuilder, Names, Zone,
            tables::{GATEWAY_IPV4, GATEWAY_MAC, PortId, Routed, Services, Vnic},
        },
        frame::classify::classify,
        gateway::{self, Question},
    },
    wire::{
        Writer,
        dns_message::{PORT, kind},
        udp,
        vnet::Offload,
    },
};
use std::{hint::black_box, sync::Arc, time::Instant};

/// vNICs of the network.
const VNICS: u16 = 4096;

fn vnic(number: u16) -> Arc<Vnic> {
    let [high, low] = number.to_be_bytes();
    let port = PortId { slot: number.into(), generation: 1 };
    Arc::new(Vnic {
        ipv4: Some([10, 0, high, low].into()),
        ipv6: Some([0xfd00, 0, 0, 0, 0, 0, 0, number].into()),
        hostname: Some(format!("vm{number}")),
        ..Vnic::new(port, MacAddr([2, 0, 0, 0, high, low]), 1500)
    })
}

/// A guest's frame that asks for records of a name.
fn question(guest: &Vnic, name: &str, kind: u16) -> Vec<u8> {
    let labels = name.split('.').flat_map(|it| [&[it.len() as u8], it.as_bytes()].concat());
    let header = *b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\x01";
    let rest = [&[0][..], &kind.to_be_bytes(), b"\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0"].concat();
    let message: Vec<_> = header.into_iter().chain(labels).chain(rest).collect();
    let mut frame = [0; 1514];
    let mut writer = Writer::new(&mut frame);
    writer.push_slice(&[&GATEWAY_MAC.0[..], &guest.mac.0, &[8, 0]].concat()).unwrap();
    let from = (guest.ipv4.unwrap(), 5353);
    udp::write_ipv4(&mut writer, from, (GATEWAY_IPV4, PORT), &message).unwrap();
    writer.since(0).to_vec()
}

fn main() {
    let vnics: Vec<_> = (1..=VNICS).map(vnic).collect();
    let zone = Zone {
        domain: "internal".parse().unwrap(),
        network: "prod".into(),
        ipv4: "10.0.0.0/16".parse().ok(),
        ipv6: "fd00::/64".parse().ok(),
        gateway: GATEWAY_IPV4,
    };
    let names = Some(Arc::new(Names::new(zone, vnics.iter())));
    let table = Routed {
        services: Services { names, ..Services::default() },
        ..Routed::new(FibBuilder::default().build(7))
    };
    let (guest, now) = (&vnics[0], Instant::now());
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("names");
    group.throughput(Throughput::Elements(1));
    for (what, name, kind) in [
        ("A", "vm1234.prod.internal", kind::A),
        ("AAAA", "vm1234.internal", kind::AAAA),
        ("PTR", "210.4.0.10.in-addr.arpa", kind::PTR),
        ("no such name", "vm9999.prod.internal", kind::A),
        ("refused", "www.example.com", kind::A),
    ] {
        let frame = question(guest, name, kind);
        let mut answer = [0; 1514];
        group.bench_function(what, |bencher| {
            bencher.iter(|| {
                let frame = black_box(&*frame);
                let headers = classify(frame, frame.len(), Offload::None).unwrap();
                let (asker, offload) = (Asker::Guest(guest), Offload::None);
                let table = &table;
                let question = Question { table, asker, headers: &headers, frame, offload, now };
                let mut writer = Writer::new(&mut answer);
                gateway::respond(&question, &mut writer).unwrap();
                black_box(writer.len())
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
