//! Our ring against rust-vmm's virtio-queue, on rings that a driver filled at random: whatever we
//! take, the oracle sees the same; whatever is well formed, we take.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(unsafe_code, reason = "whoever asks for a chain keeps the memory")]

use mvirt_net::dataplane::frame::Span;
use mvirt_net::dataplane::port::vhost_user::{
    memory::{GuestMemory, RegionRequest},
    queue::ring::{Chain, Direction, RingAddresses, RingConfig, SplitRing, Start},
};
use proptest::prelude::*;
use std::{fs::File, num::Wrapping, sync::Arc};
use virtio_queue::{Queue, QueueT as _};
use vm_memory::{Bytes as _, FileOffset, GuestAddress, GuestMemoryMmap};

const SIZE: u16 = 8;
const MEMORY: u64 = 0x10000;
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

#[derive(Debug, Clone)]
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let flags = prop_oneof![6 => Just(0), 6 => Just(NEXT), 1 => Just(WRITE), 1 => Just(INDIRECT)];
    (0x4000..MEMORY + 0x400, 0_u32..3000, flags, 0..SIZE + 1)
        .prop_map(|(address, len, flags, next)| Descriptor { address, len, flags, next })
}

fn driver() -> (GuestMemoryMmap, File) {
    let file =
        File::from(rustix::fs::memfd_create("ring", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    file.set_len(MEMORY).unwrap();
    let offset = FileOffset::new(file.try_clone().unwrap(), 0);
    let memory =
        GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), MEMORY as usize, Some(offset))])
            .unwrap();
    let pattern: Vec<u8> = (0..MEMORY).map(|at| (at ^ (at >> 8)) as u8).collect();
    memory.write_slice(&pattern, GuestAddress(0)).unwrap();
    memory.write_slice(&[0; 0x3000], GuestAddress(DESCRIPTORS)).unwrap();
    (memory, file)
}

fn ours(file: &File) -> (Arc<GuestMemory>, SplitRing) {
    let region = RegionRequest {
        guest_address: 0,
        len: MEMORY,
        user_address: 0,
        offset: 0,
        fd: std::os::fd::OwnedFd::from(file.try_clone().unwrap()).into(),
    };
    let memory = Arc::new(GuestMemory::map(vec![region], u64::MAX).unwrap());
    let config = RingConfig {
        size: SIZE.into(),
        addresses: RingAddresses { descriptors: DESCRIPTORS, available: AVAILABLE, used: USED },
        event_idx: false,
        indirect: true,
        start: Start::FromVmm(0),
    };
    let ring = SplitRing::new(&memory, &config).unwrap();
    (memory, ring)
}

/// What the oracle sees of one chain: the octets of its buffers, and whether it is well formed.
fn judge(
    memory: &GuestMemoryMmap,
    chain: virtio_queue::DescriptorChain<&GuestMemoryMmap>,
    table: &[Descriptor],
    head: u16,
) -> (Vec<u8>, bool) {
    let mut octets = Vec::new();
    let mut well_formed = head < SIZE;
    let mut count = 0;
    let mut ended = false;
    for descriptor in chain {
        count += 1;
        ended = descriptor.flags() & NEXT == 0;
        let mut buffer = vec![0; descriptor.len() as usize];
        let inside = descriptor.addr().0 < MEMORY
            && memory.read_slice(&mut buffer, descriptor.addr()).is_ok();
        well_formed &= inside && descriptor.flags() & WRITE == 0;
        octets.extend(buffer);
    }
    let no_indirect = table.iter().all(|descriptor| descriptor.flags & INDIRECT == 0);
    (octets, well_formed && ended && count <= SIZE && no_indirect)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn what_we_take_is_what_the_oracle_sees(
        table in proptest::collection::vec(descriptor(), usize::from(SIZE)),
        heads in proptest::collection::vec(0..SIZE + 1, 1..usize::from(SIZE)),
    ) {
        let (memory, file) = driver();
        for (slot, d) in table.iter().enumerate() {
            let at = GuestAddress(DESCRIPTORS + 16 * slot as u64);
            memory.write_obj(d.address, at).unwrap();
            memory.write_obj(d.len, GuestAddress(at.0 + 8)).unwrap();
            memory.write_obj([d.flags, d.next], GuestAddress(at.0 + 12)).unwrap();
        }
        for (slot, head) in heads.iter().enumerate() {
            memory.write_obj(*head, GuestAddress(AVAILABLE + 4 + 2 * slot as u64)).unwrap();
        }
        memory.write_obj(heads.len() as u16, GuestAddress(AVAILABLE + 2)).unwrap();

        let mut oracle = Queue::new(SIZE).unwrap();
        oracle.set_desc_table_address(Some(DESCRIPTORS as u32), Some(0));
        oracle.set_avail_ring_address(Some(AVAILABLE as u32), Some(0));
        oracle.set_used_ring_address(Some(USED as u32), Some(0));
        oracle.set_ready(true);
        let (guest, mut ring) = ours(&file);
        prop_assert_eq!(usize::from(ring.waiting().unwrap()), heads.len());
        let mut given = [0; SIZE as usize];
        prop_assert_eq!(ring.heads(0, &mut given), Ok(heads.len()));
        prop_assert_eq!(&given[..heads.len()], &heads[..]);
        prop_assert_eq!(ring.heads(1, &mut given), Ok(heads.len() - 1));
        for (ahead, head) in heads.iter().enumerate() {
            let mut spans = Vec::new();
            let wanted = (Direction::Readable, usize::MAX);
            // SAFETY: the memory is dropped after all spans.
            let taken = unsafe { ring.chain(*head, &guest, wanted, &mut spans) };
            // A head outside the table is the oracle's own error: it gives no chain.
            let chain = if *head < SIZE { oracle.pop_descriptor_chain(&memory) } else { None };
            let Some(chain) = chain else {
                prop_assert!(taken.is_err());
                oracle.set_next_avail(ahead as u16 + 1);
                continue;
            };
            let (octets, well_formed) = judge(&memory, chain, &table, *head);
            match taken {
                Ok(Chain::TooLong) => prop_assert!(!well_formed),
                Ok(taken) => {
                    let taken = match taken {
                        Chain::Whole(span) => {
                            spans = vec![span];
                            span.len()
                        }
                        Chain::Pieces { octets, .. } => octets,
                        Chain::TooLong => unreachable!("taken above"),
                    };
                    prop_assert_eq!(taken, octets.len());
                    let mut got = vec![0; taken];
                    Span::gather(&spans, &mut got);
                    prop_assert_eq!(got, octets);
                }
                Err(error) => prop_assert!(!well_formed, "{}", error),
            }
        }
    }

    #[test]
    fn used_entries_are_what_the_oracle_writes(start in any::<u16>(), batches in proptest::collection::vec((1_u16..5, any::<u32>()), 1..20)) {
        let ((a, file), (b, _)) = (driver(), driver());
        for memory in [&a, &b] {
            memory.write_obj(start, GuestAddress(AVAILABLE + 2)).unwrap();
            memory.write_obj(start, GuestAddress(USED + 2)).unwrap();
        }
        let (_guest, mut ring) = ours(&file);
        let mut oracle = Queue::new(SIZE).unwrap();
        oracle.set_desc_table_address(Some(DESCRIPTORS as u32), Some(0));
        oracle.set_avail_ring_address(Some(AVAILABLE as u32), Some(0));
        oracle.set_used_ring_address(Some(USED as u32), Some(0));
        oracle.set_ready(true);
        oracle.set_next_used(start);
        let mut next = Wrapping(start);
        for (count, len) in batches {
            for n in 0..count {
                ring.push_used(n % SIZE, len);
                oracle.add_used(&b, n % SIZE, len).unwrap();
                next += 1;
            }
            ring.publish();
            let used = |memory: &GuestMemoryMmap| {
                let mut octets = [0; 4 + 8 * SIZE as usize];
                memory.read_slice(&mut octets, GuestAddress(USED)).unwrap();
                octets
            };
            prop_assert_eq!(used(&a), used(&b));
            prop_assert_eq!(a.read_obj::<u16>(GuestAddress(USED + 2)).unwrap(), next.0);
        }
    }
}
