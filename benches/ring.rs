//! A burst of 64 chains taken from a ring and given back, by our ring and by rust-vmm's
//! virtio-queue.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]
#![expect(unsafe_code, reason = "whoever asks for a chain keeps the memory")]

#[path = "../tests/support/backend.rs"]
mod backend;
#[path = "../tests/support/driver.rs"]
mod driver;

use backend::{config, map};
use criterion::{Criterion, Throughput};
use driver::{Memory, Ring};
use mvirt_net::dataplane::{
    frame::BURST,
    port::vhost_user::queue::ring::{Direction, SplitRing},
};
use std::hint::black_box;
use virtio_queue::{Queue, QueueT as _};

const SIZE: u16 = 256;
const MEMORY: u64 = 1 << 20;
const RING: Ring = Ring::at(0, SIZE, 0x1_0000);

/// Memory with a ring of chains of one buffer each.
fn memory() -> Memory {
    let memory = Memory::new(MEMORY);
    memory.fill(RING, 76, 0);
    memory
}

fn post(memory: &Memory, available: &mut u16) {
    *available = available.wrapping_add(BURST as u16);
    memory.show(RING, *available);
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("ring");
    group.throughput(Throughput::Elements(BURST as u64));
    group.bench_function("ours", |bencher| {
        let driver = memory();
        let memory = map(&driver);
        let mut ring = SplitRing::new(&memory, &config(RING)).unwrap();
        let (mut available, mut heads, mut spans) = (0, [0; BURST], Vec::new());
        bencher.iter(|| {
            post(&driver, &mut available);
            assert_eq!(ring.heads(0, &mut heads), Ok(BURST));
            for head in heads {
                let wanted = (Direction::Readable, usize::MAX);
                // SAFETY: the memory is dropped after all spans.
                let chain = unsafe { ring.chain(head, &memory, wanted, &mut spans) };
                black_box(chain.unwrap());
                ring.push_used(head, 0);
            }
            ring.advance(BURST as u16);
            ring.publish();
        });
    });
    group.bench_function("virtio-queue", |bencher| {
        let memory = memory();
        let mut queue = Queue::new(SIZE).unwrap();
        queue.set_desc_table_address(Some(RING.descriptors as u32), Some(0));
        queue.set_avail_ring_address(Some(RING.available as u32), Some(0));
        queue.set_used_ring_address(Some(RING.used as u32), Some(0));
        queue.set_next_avail(0);
        queue.set_ready(true);
        let mut available = 0;
        bencher.iter(|| {
            post(&memory, &mut available);
            for _ in 0..BURST {
                let mut chain = queue.pop_descriptor_chain(&*memory).unwrap();
                let head = chain.head_index();
                black_box(chain.next().unwrap());
                queue.add_used(&*memory, head, 0).unwrap();
            }
        });
    });
    group.finish();
    criterion.final_summary();
}
