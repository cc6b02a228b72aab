//! Frames from one reactor to another, in bursts on two threads: through a link, and through a
//! channel of boxed frames.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]

use criterion::{Criterion, Throughput};
use mvirt_net::{
    dataplane::{
        forward::tables::PortId,
        frame::{BURST, Outgoing},
        reactor::{
            Hugepages,
            link::{Share, link},
            ways::{Envelope, To},
        },
    },
    wire::vnet::Offload,
};
use std::{
    hint::{black_box, spin_loop},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::sync_channel,
    },
    thread,
};

const PORT: PortId = PortId { slot: 1, generation: 1 };
const ENVELOPE: Envelope = Envelope { from: PORT, to: To::Port(PORT), queue: 0 };

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("link");
    group.throughput(Throughput::Elements(BURST as u64));
    for len in [64, 1500] {
        let octets = vec![7; len];
        let (mut producer, mut consumer) = link(Hugepages::Off).unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let taken = consumer.pop(|_, frames| {
                        black_box(frames);
                    });
                    if taken == 0 {
                        spin_loop();
                    }
                }
            });
            group.bench_function(format!("{len} octets"), |bencher| {
                let burst = [Outgoing::private(&octets, Offload::None); BURST];
                bencher.iter(|| {
                    let mut sent = 0;
                    while sent < BURST {
                        sent += producer.push(&ENVELOPE, &burst[sent..], &mut Share::default());
                    }
                });
            });
            stop.store(true, Ordering::Relaxed);
        });
        let (sender, receiver) = sync_channel::<Box<[u8]>>(1024);
        thread::scope(|scope| {
            scope.spawn(move || receiver.iter().for_each(|frame| drop(black_box(frame))));
            group.bench_function(format!("{len} octets, channel"), |bencher| {
                let sender = &sender;
                bencher.iter(|| (0..BURST).for_each(|_| sender.send(octets[..].into()).unwrap()));
            });
            drop(sender);
        });
    }
    group.finish();
    criterion.final_summary();
}
