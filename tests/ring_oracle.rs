//! Our ring against rust-vmm's virtio-queue, on rings that a driver filled at random: whatever we
//! take, the oracle sees the same; whatever is well formed, we take.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(unsafe_code, reason = "whoever asks for a chain keeps the memory")]

#[path = "support/backend.rs"]
mod backend;
#[path = "support/driver.rs"]
mod driver;

use backend::{config, map};
use driver::{INDIRECT, Memory, NEXT, Ring, WRITE};
use mvirt_net::dataplane::{
    frame::Span,
    port::vhost_user::queue::ring::{Chain, Direction, SplitRing},
};
use proptest::prelude::*;
use std::num::Wrapping;
use virtio_queue::{Queue, QueueT as _};
use vm_memory::{Bytes as _, GuestMemoryMmap};

const SIZE: u16 = 8;
const MEMORY: u64 = 0x10000;
const RING: Ring = Ring::at(0x1000, SIZE, 0x4000);

#[derive(Debug, Clone)]
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let flags = prop_oneof![6 => Just(0), 6 => Just(NEXT), 1 => Just(WRITE), 1 => Just(INDIRECT)];
    (RING.buffers..MEMORY + 0x400, 0_u32..3000, flags, 0..SIZE + 1)
        .prop_map(|(address, len, flags, next)| Descriptor { address, len, flags, next })
}

/// Memory of which every octet tells where it is, but for its ring, which is empty.
fn memory() -> Memory {
    let memory = Memory::new(MEMORY);
    memory.write(0, &(0..MEMORY).map(|at| (at ^ (at >> 8)) as u8).collect::<Vec<_>>());
    memory.write(RING.descriptors, &[0; (RING.buffers - RING.descriptors) as usize]);
    memory
}

fn oracle() -> Queue {
    let mut oracle = Queue::new(SIZE).unwrap();
    oracle.set_desc_table_address(Some(RING.descriptors as u32), Some(0));
    oracle.set_avail_ring_address(Some(RING.available as u32), Some(0));
    oracle.set_used_ring_address(Some(RING.used as u32), Some(0));
    oracle.set_ready(true);
    oracle
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
        let memory = memory();
        for (slot, d) in table.iter().enumerate() {
            memory.describe(RING, slot as u16, (d.address, d.len), d.flags, d.next);
        }
        for (position, head) in heads.iter().enumerate() {
            memory.offer(RING, position as u16, *head);
        }

        let mut oracle = oracle();
        let guest = map(&memory);
        let mut ring = SplitRing::new(&guest, &config(RING)).unwrap();
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
            let chain = if *head < SIZE { oracle.pop_descriptor_chain(&*memory) } else { None };
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
    fn used_entries_are_what_the_oracle_writes(
        start in any::<u16>(),
        batches in proptest::collection::vec((1_u16..5, any::<u32>()), 1..20),
    ) {
        let (a, b) = (memory(), memory());
        for memory in [&a, &b] {
            memory.show(RING, start);
            memory.write_u16(RING.used + 2, start);
        }
        let mut ring = SplitRing::new(&map(&a), &config(RING)).unwrap();
        let mut oracle = oracle();
        oracle.set_next_used(start);
        let mut next = Wrapping(start);
        for (count, len) in batches {
            for n in 0..count {
                ring.push_used(n % SIZE, len);
                oracle.add_used(&*b, n % SIZE, len).unwrap();
                next += 1;
            }
            ring.publish();
            let used = |memory: &Memory| memory.read(RING.used, 4 + 8 * usize::from(SIZE));
            prop_assert_eq!(used(&a), used(&b));
            prop_assert_eq!(a.used(RING), next.0);
        }
    }
}
