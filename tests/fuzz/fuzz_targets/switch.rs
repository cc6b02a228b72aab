//! Any octets as the memory of a guest, its rings included, and an honest guest beside it: nothing
//! panics, and nothing of the honest guest's memory changes but the buffers that it gave and its
//! used ring.
//!
//! The first octet says what the rings negotiated; the rest is the memory from address 0 on:
//! descriptors, available and used ring of the transmit queue (0, 0x80, 0xa0), of the receive queue
//! (0x100, 0x180, 0x1a0), buffers.
#![no_main]

#[path = "../../support/backend.rs"]
mod backend;
#[path = "../../support/driver.rs"]
mod driver;
#[path = "../../support/network.rs"]
mod network;

use backend::{NoLinks, attachment, config, map, plan};
use driver::{HEADER, Memory, Ring, WRITE};
use libfuzzer_sys::fuzz_target;
use mvirt_net::dataplane::{
    counters::PortCounters,
    forward::Network,
    frame::offload::{Offloads, Segmentation},
    port::vhost_user::{Plan, VhostUserPort, queue::ring::RingConfig},
    reactor::{
        pipeline::Pipeline,
        ports::{Attachment, Ports},
    },
};
use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, Instant},
};

const MEMORY: u64 = 0x10000;
const SIZE: u16 = 8;
/// Dense, so that short inputs reach all of them.
const TX: Ring = Ring { size: SIZE, descriptors: 0, available: 0x80, used: 0xa0, buffers: BUFFERS };
const RX: Ring =
    Ring { size: SIZE, descriptors: 0x100, available: 0x180, used: 0x1a0, buffers: BUFFERS };
/// The honest guest's buffers: from here on, so many octets each.
const BUFFERS: u64 = 0x1000;
const BUFFER: u32 = 600;
const CANARY: u8 = 0xa5;

/// Rings of a guest whose rings negotiated `choices`; `None` where they are refused.
fn port(memory: &Memory, choices: u8) -> Option<VhostUserPort> {
    let bit = |n: u8| choices >> n & 1 != 0;
    let ring = |ring| RingConfig { event_idx: bit(0), indirect: bit(1), ..config(ring) };
    let all = |on| Segmentation { tcp4: on, tcp6: on, ecn: on, udp: on };
    let plan = Plan {
        mergeable: bit(2),
        header_len: if bit(6) && !bit(2) { HEADER - 2 } else { HEADER },
        sends: all(bit(3)),
        accepts: Offloads { checksum: bit(4), segmentation: all(bit(5)) },
        ..plan([ring(RX), ring(TX)])
    };
    VhostUserPort::new(map(memory), None, plan).ok()
}

/// The memory of a guest that posts all its receive buffers and sends nothing.
fn honest() -> Vec<u8> {
    let memory = Memory::new(MEMORY);
    memory.write(0x400, &[CANARY; MEMORY as usize - 0x400]);
    memory.fill(RX, BUFFER, WRITE);
    memory.show(RX, SIZE);
    memory.read(0, MEMORY as usize)
}

thread_local! {
    /// As a reactor's: made once.
    static PIPELINE: RefCell<Pipeline> = RefCell::default();
    static NETWORK: Arc<Network> = Arc::new(network::network());
    static HONEST: Vec<u8> = honest();
}

fuzz_target!(|input: &[u8]| {
    PIPELINE.with_borrow_mut(|pipeline| {
        NETWORK.with(|network| HONEST.with(|honest| run(input, pipeline, network, honest)))
    });
});

fn run(input: &[u8], pipeline: &mut Pipeline, network: &Arc<Network>, before: &[u8]) {
    let Some((choices, octets)) = input.split_first() else { return };
    let guests = [Memory::new(MEMORY), Memory::new(MEMORY)];
    guests[0].write(0, &octets[..octets.len().min(MEMORY as usize)]);
    guests[1].write(0, before);
    let (mut ports, now) = (Ports::default(), Instant::now());
    let counters = [(); 2].map(|()| Arc::new(PortCounters::default()));
    for (slot, guest) in guests.iter().enumerate() {
        let Some(port) = port(guest, choices.rotate_left(slot as u32 * 2)) else { return };
        let attachment = Attachment {
            counters: Arc::clone(&counters[slot]),
            // What is broken here is the guest, and may be.
            on_failure: Box::new(drop),
            ..attachment(network::port(slot as u32), network.key, port)
        };
        ports.attach(attachment, Duration::ZERO);
    }
    ports.publish(network);
    for turn in 0..3 {
        let now = now + Duration::from_millis(turn);
        if let Err(failure) = pipeline.run(&mut ports, &mut NoLinks, (network::port(0), 0), now) {
            ports.fail(network::port(0), failure);
        }
        ports.publish_touched(now, &mut || None);
    }
    let counted = &counters[0];
    let dropped: u64 = counted.drops().map(|(_, frames)| frames).sum();
    let told = counted.ingress_forwarded.get() + counted.ingress_answered.get() + dropped;
    assert_eq!(
        counted.ingress_frames.get(),
        told,
        "each frame is forwarded, answered, or dropped for one reason"
    );
    let mut after = guests[1].read(0, MEMORY as usize);
    // What it gave away, and what is told there.
    let buffers = (0..SIZE).map(|slot| (RX.buffer(slot), u64::from(BUFFER)));
    let used = [RX.used, TX.used].map(|used| (used, 6 + 8 * u64::from(SIZE)));
    for (at, len) in buffers.chain(used) {
        let given = at as usize..(at + len) as usize;
        after[given.clone()].copy_from_slice(&before[given]);
    }
    assert!(before == after, "other octets of the honest guest have changed");
}
