//! Ports that are no guest's rings: what they carry, by a real reactor.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use mvirt_net::{
    dataplane::{
        counters::PortCounters,
        forward::tables::{GATEWAY_MAC, NetworkKey},
        port::{
            Port, Undelivered,
            descriptor::{DescriptorPort, Transport as _},
            null::Null,
            pair,
        },
        reactor::{self, Hugepages, allowance::Allowance, ports::Attachment},
    },
    wire::{checksum::checksum, vnet::Offload},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

#[path = "support/network.rs"]
mod network;

const PATIENCE: Duration = Duration::from_secs(20);

/// A reactor whose ports, with these behind them, are the vNICs of a network in turn: 10.0.0.1,
/// 10.0.0.2.
fn network_of(ports: [Box<dyn Port>; 2]) -> (reactor::Handle, [Arc<PortCounters>; 2]) {
    let settings = reactor::Settings { busy_poll: Duration::ZERO, hugepages: Hugepages::Off };
    let reactor = reactor::start(1, &[], settings).unwrap().remove(0);
    reactor.publish(Arc::new(network::network()));
    let counters = [(); 2].map(|()| Arc::new(PortCounters::default()));
    for (slot, port) in (0..).zip(ports) {
        reactor.attach(Attachment {
            id: network::port(slot),
            network: NetworkKey(1),
            port,
            counters: Arc::clone(&counters[slot as usize]),
            allowance: Allowance::default(),
            on_failure: Box::new(|failure| panic!("{failure}")),
            on_gateway_event: Box::new(drop),
            on_blocking: Box::new(drop),
        });
    }
    (reactor, counters)
}

/// A UDP packet from 10.0.0.1 to 10.0.0.2, padded to `len` octets.
fn frame(len: usize) -> Vec<u8> {
    let mut frame = [
        &GATEWAY_MAC.0[..],
        &[0x52, 0x54, 0, 0, 0, 1, 8, 0],
        &[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2],
        &[0, 9, 0, 9, 0, 0, 0, 0],
    ]
    .concat();
    frame.resize(len, 7);
    frame[16..18].copy_from_slice(&(len as u16 - 14).to_be_bytes());
    let sum = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame[38..40].copy_from_slice(&(len as u16 - 34).to_be_bytes());
    frame
}

/// The next frame that comes to an end of a pair and is not the gateway's, which advertises itself.
fn next(end: &mut pair::End) -> (Vec<u8>, Offload) {
    let mut buffer = vec![0; 70_000];
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(received) = end.read(&mut buffer).unwrap() {
            let octets = &buffer[received.octets];
            if octets[0] & 1 == 0 {
                return (octets.to_vec(), received.offload.unwrap());
            }
        }
        assert!(Instant::now() < deadline, "no frame comes");
        std::thread::yield_now();
    }
}

/// Sends `count` frames from one end, each with its number in front of its payload, as fast as they
/// are taken; receives them at another, all of them and in order.
fn carry(count: u16, a: &mut pair::End, b: &mut pair::End) {
    let (mut sent, mut heard) = (0, 0);
    while heard < count {
        while sent < count {
            let mut octets = frame(60 + usize::from(sent) * 4);
            octets[42..44].copy_from_slice(&sent.to_be_bytes());
            match a.send(&octets, Offload::None) {
                Ok(()) => sent += 1,
                Err(why) => {
                    assert_eq!(why, Undelivered::Full);
                    break;
                }
            }
        }
        while heard < sent {
            let (octets, offload) = next(b);
            assert_eq!(offload, Offload::None);
            assert_eq!(octets[..6], [0x52, 0x54, 0, 0, 0, 2], "to its MAC");
            assert_eq!(octets[22], 63, "a hop less");
            assert_eq!(octets[42..44], heard.to_be_bytes(), "in order");
            assert_eq!(octets.len(), 60 + usize::from(heard) * 4);
            heard += 1;
        }
    }
}

#[test]
fn frames_pass_between_ports_that_are_no_guests_rings() {
    let (mut a, port_a) = pair::pair().unwrap();
    let (mut b, port_b) = pair::pair().unwrap();
    let boxed = |end| Box::new(DescriptorPort::new(end).unwrap()) as Box<dyn Port>;
    let (_reactor, _) = network_of([boxed(port_a), boxed(port_b)]);
    // More than a burst, and no more than a socket holds: what its reader leaves there for longer
    // than a frame is held is lost.
    for _ in 0..10 {
        carry(100, &mut a, &mut b);
    }
    // What a sender leaves to be done goes on to a port that takes it.
    let open = Offload::Checksum { start: 34, offset: 6 };
    a.send(&frame(1000), open).unwrap();
    assert_eq!(next(&mut b).1, open);
}

#[test]
fn a_port_that_takes_everything_is_never_full() {
    let (mut a, port_a) = pair::pair().unwrap();
    let (_reactor, [counters, null]) =
        network_of([Box::new(DescriptorPort::new(port_a).unwrap()), Box::new(Null)]);
    let deadline = Instant::now() + PATIENCE;
    for _ in 0..1000 {
        while a.send(&frame(1400), Offload::None).is_err() {
            assert!(Instant::now() < deadline, "frames are held");
            std::thread::yield_now();
        }
    }
    while counters.totals()["ingress_frames"] < 1000 {
        assert!(Instant::now() < deadline, "frames are held");
        std::thread::yield_now();
    }
    assert_eq!(counters.totals()["ingress_forwarded"], 1000);
    // The router's advertisements are the others.
    assert!(null.totals()["egress_frames"] >= 1000);
}
