//! Any octets as a DNS message to a gateway: what is answered is a response to it, which another
//! codec reads, within the 512 octets that every client takes.
#![no_main]

use hickory_proto::op::{Message, MessageType};
use libfuzzer_sys::fuzz_target;
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
    wire::{Writer, dns_message::PORT, udp, vnet::Offload},
};
use std::{sync::Arc, time::Instant};

/// Octets of the headers before a message.
const HEADERS: usize = 14 + 20 + 8;

fuzz_target!(|message: &[u8]| {
    let message = &message[..message.len().min(1400)];
    let (subnet, prefix) = ("10.0.0.0/23".parse().ok(), "fd00::/63".parse().ok());
    let port = PortId { slot: 0, generation: 1 };
    let vnic = Arc::new(Vnic {
        ipv4: Some([10, 0, 0, 2].into()),
        ipv6: Some([0xfd00, 0, 0, 0, 0, 0, 0, 2].into()),
        hostname: Some("a".into()),
        ..Vnic::new(port, MacAddr([2, 0, 0, 0, 0, 2]), 1500)
    });
    let zone = Zone {
        domain: "c".parse().expect("it is a label"),
        network: "b".into(),
        ipv4: subnet,
        ipv6: prefix,
        gateway: GATEWAY_IPV4,
    };
    let names = Names::new(zone, [Arc::clone(&vnic)].iter());
    let table = Routed {
        ipv4_subnet: subnet,
        ipv6_prefix: prefix,
        services: Services { names: Some(Arc::new(names)), ..Services::default() },
        ..Routed::new(FibBuilder::default().build(7))
    };
    let mut asked = [0; 1500];
    let mut writer = Writer::new(&mut asked);
    let macs = [GATEWAY_MAC.0, vnic.mac.0].concat();
    writer.push_slice(&[&macs[..], &[8, 0]].concat()).expect("it is short");
    let (from, to) = (([10, 0, 0, 2].into(), 5353), (GATEWAY_IPV4, PORT));
    udp::write_ipv4(&mut writer, from, to, message).expect("it is short");
    let frame = writer.since(0);
    let headers = classify(frame, frame.len(), Offload::None).expect("it is a frame");
    let (asker, offload, now) = (Asker::Guest(&vnic), Offload::None, Instant::now());
    let question = Question { table: &table, asker, headers: &headers, frame, offload, now };
    let mut answer = [0; 1500];
    let mut writer = Writer::new(&mut answer);
    if gateway::respond(&question, &mut writer).is_ok() {
        let answer = &writer.since(0)[HEADERS..];
        assert!(answer.len() <= 512);
        let read = Message::from_vec(answer).expect("it is a message");
        assert_eq!(read.metadata.message_type, MessageType::Response);
        assert_eq!(answer[..2], message[..2]);
    }
});
