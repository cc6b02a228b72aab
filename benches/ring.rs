//! A burst of 64 chains taken from a ring and given back, by our ring and by rust-vmm's
//! virtio-queue.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]
#![expect(unsafe_code, reason = "whoever asks for a chain keeps the memory")]

use criterion::{Criterion, Throughput};
use mvirt_net::dataplane::{
    frame::BURST,
    port::vhost_user::{
        memory::{GuestMemory, RegionRequest},
        queue::ring::{Direction, RingAddresses, RingConfig, SplitRing, Start},
    },
};
use std::{fs::File, hint::black_box, os::fd::OwnedFd, sync::Arc};
use virtio_queue::{Queue, QueueT as _};
use vm_memory::{Bytes as _, FileOffset, GuestAddress, GuestMemoryMmap};

const SIZE: u16 = 256;
const MEMORY: u64 = 1 << 20;
const ADDRESSES: RingAddresses = RingAddresses { descriptors: 0, available: 0x1000, used: 0x2000 };

/// Memory with a ring of chains of one buffer each.
fn driver() -> (GuestMemoryMmap, File) {
    let file =
        File::from(rustix::fs::memfd_create("ring", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    file.set_len(MEMORY).unwrap();
    let offset = FileOffset::new(file.try_clone().unwrap(), 0);
    let ranges = [(GuestAddress(0), MEMORY as usize, Some(offset))];
    let memory = GuestMemoryMmap::from_ranges_with_files(ranges).unwrap();
    for slot in 0..u64::from(SIZE) {
        let at = ADDRESSES.descriptors + 16 * slot;
        memory.write_obj(0x1_0000 + slot * 2048, GuestAddress(at)).unwrap();
        memory.write_obj(76_u32, GuestAddress(at + 8)).unwrap();
        let entry = ADDRESSES.available + 4 + 2 * slot;
        memory.write_obj(slot as u16, GuestAddress(entry)).unwrap();
    }
    (memory, file)
}

fn post(memory: &GuestMemoryMmap, available: &mut u16) {
    *available = available.wrapping_add(BURST as u16);
    memory.write_obj(*available, GuestAddress(ADDRESSES.available + 2)).unwrap();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("ring");
    group.throughput(Throughput::Elements(BURST as u64));
    group.bench_function("ours", |bencher| {
        let (driver, file) = driver();
        let (guest_address, user_address, offset, len) = (0, 0, 0, MEMORY);
        let fd = OwnedFd::from(file).into();
        let region = RegionRequest { guest_address, len, user_address, offset, fd };
        let memory = Arc::new(GuestMemory::map(vec![region], u64::MAX).unwrap());
        let config = RingConfig {
            size: SIZE.into(),
            addresses: ADDRESSES,
            event_idx: false,
            indirect: true,
            start: Start::FromVmm(0),
        };
        let mut ring = SplitRing::new(&memory, &config).unwrap();
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
        let (memory, _) = driver();
        let mut queue = Queue::new(SIZE).unwrap();
        queue.set_desc_table_address(Some(ADDRESSES.descriptors as u32), Some(0));
        queue.set_avail_ring_address(Some(ADDRESSES.available as u32), Some(0));
        queue.set_used_ring_address(Some(ADDRESSES.used as u32), Some(0));
        queue.set_next_avail(0);
        queue.set_ready(true);
        let mut available = 0;
        bencher.iter(|| {
            post(&memory, &mut available);
            for _ in 0..BURST {
                let mut chain = queue.pop_descriptor_chain(&memory).unwrap();
                let head = chain.head_index();
                black_box(chain.next().unwrap());
                queue.add_used(&memory, head, 0).unwrap();
            }
        });
    });
    group.finish();
    criterion.final_summary();
}
