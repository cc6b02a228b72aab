//! Octets of a connection on their way: a ring that grows with what is in it. How much there may be
//! of all rings together is [`Memory`].

use std::io::IoSliceMut;

/// Octets of a ring that has any.
// A page: with a thousand connections that have exchanged a line each, 4 MiB.
const SMALLEST: usize = 4096;
/// Octets of a ring at most.
pub const LARGEST: usize = 4 << 20;
/// A ring that is empty keeps this much.
const KEPT: usize = 16 << 10;

/// How much memory rings may take.
#[derive(Debug)]
pub struct Memory {
    limit: u64,
    used: u64,
}

impl Memory {
    /// Returns one of `limit` octets.
    pub fn new(limit: u64) -> Self {
        Self { limit, used: 0 }
    }

    /// Takes `len` octets for a vNIC that has `of_nic` of them. Returns whether it may.
    // Never more than what is left for others: so one vNIC gets half of all there is, two a third
    // each, and none can take what another one needs to begin.
    fn take(&mut self, of_nic: &mut u64, len: u64) -> bool {
        let may = *of_nic + len <= self.limit.saturating_sub(self.used);
        if may {
            *of_nic += len;
            self.used += len;
        }
        may
    }

    fn release(&mut self, of_nic: &mut u64, len: u64) {
        *of_nic -= len;
        self.used -= len;
    }

    /// Returns octets that are taken.
    pub fn used(&self) -> u64 {
        self.used
    }
}

/// The memory that a vNIC takes from.
#[derive(Debug)]
pub struct Purse<'a> {
    /// Of all.
    pub memory: &'a mut Memory,
    /// What the vNIC has of it.
    pub of_nic: &'a mut u64,
}

/// Octets in the order in which they came.
#[derive(Debug, Default)]
pub struct Ring {
    octets: Box<[u8]>,
    head: usize,
    len: usize,
}

impl Ring {
    /// Returns how many are in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none are.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns how many fit without growing.
    pub fn room(&self) -> usize {
        self.octets.len() - self.len
    }

    /// Grows so that `wanted` more fit, if it may. Returns how many do.
    pub fn reserve(&mut self, wanted: usize, purse: &mut Purse<'_>) -> usize {
        let size = (self.len + wanted).next_power_of_two().clamp(SMALLEST, LARGEST);
        let more = size.saturating_sub(self.octets.len());
        if more > 0 && purse.memory.take(purse.of_nic, more as u64) {
            self.resize(size);
        }
        self.room()
    }

    fn resize(&mut self, size: usize) {
        let mut octets = vec![0; size].into_boxed_slice();
        let (first, second) = self.slices(0, self.len);
        octets[..first.len()].copy_from_slice(first);
        octets[first.len()..self.len].copy_from_slice(second);
        (self.octets, self.head) = (octets, 0);
    }

    /// Whether it is empty, and larger than one that is empty should be for long.
    pub fn is_idle(&self) -> bool {
        self.is_empty() && self.octets.len() > KEPT
    }

    /// Gives its memory back; what was in it is lost.
    pub fn release(&mut self, purse: &mut Purse<'_>) {
        purse.memory.release(purse.of_nic, self.octets.len() as u64);
        *self = Self::default();
    }

    /// Returns where the next octets go.
    pub fn free(&mut self) -> [IoSliceMut<'_>; 2] {
        let (start, size) = (self.head + self.len, self.octets.len());
        if start >= size {
            let (start, end) = (start - size, self.head);
            return [IoSliceMut::new(&mut self.octets[start..end]), IoSliceMut::new(&mut [])];
        }
        let (before, after) = self.octets.split_at_mut(start);
        [IoSliceMut::new(after), IoSliceMut::new(&mut before[..self.head])]
    }

    /// Says that `len` octets were put there.
    pub fn filled(&mut self, len: usize) {
        self.len += len.min(self.room());
    }

    /// Adds octets, so many as fit without growing. Returns how many.
    pub fn push(&mut self, octets: &[u8]) -> usize {
        let octets = &octets[..octets.len().min(self.room())];
        let [mut first, mut second] = self.free();
        let (a, b) = octets.split_at(octets.len().min(first.len()));
        first[..a.len()].copy_from_slice(a);
        second[..b.len()].copy_from_slice(b);
        self.len += octets.len();
        octets.len()
    }

    /// Returns `len` octets from the one at `from` on, or those of them that there are.
    pub fn slices(&self, from: usize, len: usize) -> (&[u8], &[u8]) {
        let from = from.min(self.len);
        let len = len.min(self.len - from);
        let (start, size) = (self.head + from, self.octets.len());
        if start >= size {
            return (self.octets.get(start - size..start - size + len).unwrap_or(&[]), &[]);
        }
        let (after, before) = (&self.octets[start..], &self.octets[..self.head]);
        match len.checked_sub(after.len()) {
            Some(rest) => (after, &before[..rest]),
            None => (&after[..len], &[]),
        }
    }

    /// Takes out the first `len` octets.
    pub fn consume(&mut self, len: usize) {
        let len = len.min(self.len);
        self.len -= len;
        self.head = if self.len == 0 { 0 } else { (self.head + len) % self.octets.len() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn joined((first, second): (&[u8], &[u8])) -> Vec<u8> {
        [first, second].concat()
    }

    proptest! {
        #[test]
        fn a_ring_is_a_queue(
            steps in proptest::collection::vec((0..3000usize, 0..3000usize, any::<bool>()), 1..40),
        ) {
            let (mut memory, mut of_nic) = (Memory::new(1 << 20), 0);
            let (mut ring, mut queue, mut next) = (Ring::default(), VecDeque::new(), 0u8);
            for (push, consume, by_slices) in steps {
                let purse = &mut Purse { memory: &mut memory, of_nic: &mut of_nic };
                prop_assert!(ring.reserve(push, purse) >= push);
                let count = || { next = next.wrapping_add(1); next };
                let octets = std::iter::repeat_with(count).take(push).collect::<Vec<_>>();
                if by_slices {
                    let [mut first, mut second] = ring.free();
                    let (a, b) = octets.split_at(push.min(first.len()));
                    first[..a.len()].copy_from_slice(a);
                    second[..b.len()].copy_from_slice(b);
                    ring.filled(push);
                } else {
                    prop_assert_eq!(ring.push(&octets), push);
                }
                queue.extend(octets);
                let from = consume.min(queue.len());
                let expected = queue.iter().copied().skip(from).take(push).collect::<Vec<_>>();
                prop_assert_eq!(joined(ring.slices(from, push)), expected);
                ring.consume(consume);
                queue.drain(..from);
                prop_assert_eq!(ring.len(), queue.len());
                let whole = queue.iter().copied().collect::<Vec<_>>();
                prop_assert_eq!(joined(ring.slices(0, usize::MAX)), whole);
            }
            ring.release(&mut Purse { memory: &mut memory, of_nic: &mut of_nic });
            prop_assert_eq!((memory.used(), of_nic), (0, 0));
        }
    }

    #[test]
    fn one_vnic_takes_half_and_leaves_half() {
        let (mut memory, mut first, mut second) = (Memory::new(64 << 10), 0, 0);
        let mut grab = |of_nic: &mut u64| {
            let mut rings = Vec::new();
            loop {
                let mut ring = Ring::default();
                if ring.reserve(1, &mut Purse { memory: &mut memory, of_nic }) == 0 {
                    return rings.len();
                }
                rings.push(ring);
            }
        };
        assert_eq!(grab(&mut first), 8);
        assert_eq!(grab(&mut second), 4);
        assert_eq!((first, second), (32 << 10, 16 << 10));
    }
}
