//! Any octets as the memory of a guest, its rings included, and an honest guest beside it: nothing panics, and nothing of
//! the honest guest's memory changes but the buffers that it gave and its used ring.
//!
//! The first octet says what the rings negotiated; the rest is the memory from address 0 on: descriptors, available and
//! used ring of the transmit queue (0, 0x80, 0xa0), of the receive queue (0x100, 0x180, 0x1a0), buffers.
#![no_main]

mod network;

use libfuzzer_sys::fuzz_target;
use mvirt_net::dataplane::{
    counters::PortCounters,
    forward::{Network, tables::PortId},
    frame::{
        Outgoing,
        offload::{Offloads, Segmentation},
    },
    port::vhost_user::{
        Plan, RingPlan, VhostUserPort,
        memory::{GuestMemory, RegionRequest},
        queue::ring::{RingAddresses, RingConfig, Start},
    },
    reactor::{
        pipeline::Pipeline,
        ports::{Attachment, Ports},
        ways::{Envelope, Ways},
    },
};
use std::{
    cell::RefCell,
    fs::File,
    os::unix::fs::FileExt as _,
    sync::Arc,
    time::{Duration, Instant},
};

const MEMORY: u64 = 0x10000;
const SIZE: u32 = 8;
const TX: RingAddresses = RingAddresses { descriptors: 0, available: 0x80, used: 0xa0 };
const RX: RingAddresses = RingAddresses { descriptors: 0x100, available: 0x180, used: 0x1a0 };
/// The honest guest's buffers: so many octets, so far apart, from here on.
const BUFFERS: u64 = 0x1000;
const BUFFER: u64 = 600;
const APART: u64 = 0x400;
const CANARY: u8 = 0xa5;

struct NoLinks;

impl Ways for NoLinks {
    fn here(&self) -> u16 {
        0
    }

    fn send(&mut self, _: u16, _: &Envelope, _: &[Outgoing<'_>]) -> usize {
        0
    }
}

fn memory() -> File {
    let file =
        File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    file.set_len(MEMORY).unwrap();
    file
}

/// Rings of a guest whose rings negotiated `choices`; `None` where they are refused.
fn port(file: &File, choices: u8) -> Option<VhostUserPort> {
    let bit = |n: u8| choices >> n & 1 != 0;
    let region = RegionRequest {
        guest_address: 0,
        len: MEMORY,
        user_address: 0,
        offset: 0,
        fd: std::os::fd::OwnedFd::from(file.try_clone().unwrap()).into(),
    };
    let memory = Arc::new(GuestMemory::map(vec![region], u64::MAX).unwrap());
    let ring = |addresses| RingPlan {
        config: RingConfig {
            size: SIZE,
            addresses,
            event_idx: bit(0),
            indirect: bit(1),
            start: Start::FromVmm(0),
        },
        kick: None,
        call: None,
        enabled: true,
        position: Default::default(),
    };
    let all = |on| Segmentation { tcp4: on, tcp6: on, ecn: on, udp: on };
    let plan = Plan {
        pairs: vec![(Some(ring(RX)), Some(ring(TX)))],
        mergeable: bit(2),
        header_len: if bit(6) && !bit(2) { 10 } else { 12 },
        logs: false,
        sends: all(bit(3)),
        accepts: Offloads { checksum: bit(4), segmentation: all(bit(5)) },
    };
    VhostUserPort::new(memory, None, plan).ok()
}

/// The memory of a guest that posts all its receive buffers and sends nothing.
fn honest() -> Vec<u8> {
    let mut octets = vec![CANARY; MEMORY as usize];
    octets[..0x400].fill(0);
    for slot in 0..u64::from(SIZE) {
        let at = (RX.descriptors + 16 * slot) as usize;
        octets[at..at + 8].copy_from_slice(&(BUFFERS + slot * APART).to_le_bytes());
        octets[at + 8..at + 12].copy_from_slice(&(BUFFER as u32).to_le_bytes());
        octets[at + 12] = 2;
        octets[(RX.available + 4 + 2 * slot) as usize] = slot as u8;
    }
    octets[RX.available as usize + 2] = SIZE as u8;
    octets
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
    let files = [memory(), memory()];
    files[0].write_all_at(&octets[..octets.len().min(MEMORY as usize)], 0).unwrap();
    files[1].write_all_at(before, 0).unwrap();
    let (mut ports, now) = (Ports::default(), Instant::now());
    let counters = [(); 2].map(|()| Arc::new(PortCounters::default()));
    for (slot, file) in files.iter().enumerate() {
        let Some(port) = port(file, choices.rotate_left(slot as u32 * 2)) else { return };
        let attachment = Attachment {
            id: network::port(slot as u32),
            network: network.key,
            port: Box::new(port),
            allowance: mvirt_net::dataplane::reactor::allowance::Allowance::default(),
            counters: Arc::clone(&counters[slot]),
            on_failure: Box::new(drop),
            on_told: Box::new(drop),
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
    let mut after = vec![0; MEMORY as usize];
    files[1].read_exact_at(&mut after, 0).unwrap();
    // What it gave away, and what is told there.
    let buffers = (0..u64::from(SIZE)).map(|slot| (BUFFERS + slot * APART, BUFFER));
    let used = [RX.used, TX.used].map(|used| (used, 6 + 8 * u64::from(SIZE)));
    for (at, len) in buffers.chain(used) {
        let given = at as usize..(at + len) as usize;
        after[given.clone()].copy_from_slice(&before[given]);
    }
    assert!(before == after, "other octets of the honest guest have changed");
}
