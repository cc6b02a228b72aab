//! The device side of a split virtqueue (virtio 1.2 §2.7), processed strictly in order.
//!
//! Takes the addresses of a ring inside checked guest memory and returns its chains as checked
//! spans. Everything the driver wrote is read once into private memory and checked there: indices,
//! chain lengths, directions, ranges. A ring that breaks a rule is an error, never a shorter
//! packet.
#![expect(
    unsafe_code,
    reason = "ring indices and descriptors are shared with the guest: volatile and atomic access"
)]

use crate::dataplane::{
    frame::{
        Span,
        copy::{prefetch, prefetch_write},
    },
    port::vhost_user::memory::GuestMemory,
};
use serde::{Deserialize, Serialize};
use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

/// Descriptors of the longest chain that is taken. A driver may make chains as long as its ring
/// (virtio 1.2 §2.7.5.3.1); beyond this, which is what vhost-net takes (UIO_MAXIOV), a chain is too
/// much work for one frame.
pub const MAX_CHAIN: usize = 1024;
/// Entries the largest ring may have (virtio 1.2 §2.7).
pub const MAX_SIZE: u32 = 32768;

// The parts of a ring (virtio 1.2 §2.7.5, §2.7.6, §2.7.8). Both rings begin with flags and an
// index, 2 octets each; entries follow, and the other side's event index after them.
const DESCRIPTOR_LEN: usize = 16;
const INDEX: usize = 2;
const ENTRIES: usize = 4;
const AVAILABLE_ENTRY_LEN: usize = 2;
const USED_ENTRY_LEN: usize = 8;
const EVENT_LEN: usize = 2;
/// Octets that a CPU fetches at once.
const CACHE_LINE: usize = 64;

// Flags of a descriptor (virtio 1.2 §2.7.5).
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
// The same number in two rings: the driver's flags (§2.7.6), the device's (§2.7.8).
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// How the driver broke the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The size is not a power of two from 2 to 32768.
    #[error("ring size {0} is not a power of two from 2 to 32768")]
    Size(u32),
    /// A part of the ring is not where the VMM says.
    #[error("the {0} is misaligned or not within one region of the guest's memory")]
    Address(&'static str),
    /// More chains are available than the ring has entries.
    #[error("available index {available} is more than {size} ahead of {expected}")]
    AvailableIndex {
        /// What the driver wrote.
        available: u16,
        /// Where we are.
        expected: u16,
        /// Entries of the ring.
        size: u16,
    },
    /// A descriptor index is outside the table.
    #[error("descriptor {0} is outside its table")]
    Index(u16),
    /// A chain that the device is to write to loops or is too long.
    #[error("a descriptor chain is longer than its ring or than {MAX_CHAIN}")]
    ChainLength,
    /// An indirect table is nested, not negotiated, of a bad size or outside memory.
    #[error("an indirect descriptor table is not allowed here, of bad size {0} or outside memory")]
    Indirect(u32),
    /// A buffer is not for this direction.
    #[error("a buffer is {0}")]
    Direction(&'static str),
    /// A buffer is outside memory.
    #[error("a buffer of {len} octets at {address:#x} is not within the guest's memory")]
    Buffer {
        /// Guest address.
        address: u64,
        /// Octets.
        len: u32,
    },
}

/// Who reads the buffers of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The device reads: the guest transmits.
    Readable,
    /// The device writes: the guest receives.
    Writable,
}

impl Direction {
    fn check(self, descriptor: &Descriptor) -> Result<(), RingError> {
        match (self, descriptor.flags & WRITE != 0) {
            (Self::Readable, true) => Err(RingError::Direction("writable, but the guest sends it")),
            (Self::Writable, false) => {
                Err(RingError::Direction("not writable, but the guest receives into it"))
            }
            _ => Ok(()),
        }
    }
}

/// One chain of descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chain {
    /// One buffer in one piece of memory.
    Whole(Span),
    /// Any number of pieces.
    Pieces {
        /// Octets in all.
        octets: usize,
        /// Descriptors read and spans found: what it cost to walk.
        work: usize,
    },
    /// It loops, or is longer than its ring or than [`MAX_CHAIN`].
    TooLong,
}

/// Where the parts of a ring are, in the VMM's address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingAddresses {
    /// The descriptor table.
    pub descriptors: u64,
    /// The driver's ring.
    pub available: u64,
    /// The device's ring.
    pub used: u64,
}

/// What a ring is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingConfig {
    /// Entries.
    pub size: u32,
    /// Where it is.
    pub addresses: RingAddresses,
    /// VIRTIO_F_EVENT_IDX is negotiated.
    pub event_idx: bool,
    /// VIRTIO_F_INDIRECT_DESC is negotiated.
    pub indirect: bool,
    /// Where to start.
    pub start: Start,
}

/// Whether a driver is to be interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Nothing was published since it was asked last.
    Nothing,
    /// It wants not to be.
    Suppressed,
    /// It wants to be.
    Wanted,
}

/// Where processing of a ring starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Where a port left it a moment ago.
    Exactly(u16),
    /// Where the VMM says; the used index in memory corrects it, because all was completed in
    /// order.
    FromVmm(u16),
}

#[derive(Debug, Clone, Copy)]
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn parse([address, rest]: [u64; 2]) -> Self {
        Self {
            address: u64::from_le(address),
            len: u64::from_le(rest) as u32,
            flags: (u64::from_le(rest) >> 32) as u16,
            next: (u64::from_le(rest) >> 48) as u16,
        }
    }
}

/// A running ring. Its pointers are valid as long as the memory it was made from; its owner keeps
/// both together.
#[derive(Debug)]
pub struct SplitRing {
    /// Where the three are: mapped for as long as the ring.
    _memory: Arc<GuestMemory>,
    descriptors: usize,
    available: usize,
    used: usize,
    size: u16,
    event_idx: bool,
    indirect: bool,
    /// The next chain to take: free-running.
    next_available: u16,
    /// The driver's index when last read.
    available_seen: u16,
    /// The next used entry to write: free-running.
    next_used: u16,
    /// The used index the driver sees.
    published: u16,
    /// The used index at the last decision about a signal; unknown at the start.
    signalled: Option<u16>,
}

impl SplitRing {
    /// Checks the whole ring against memory and finds where to start.
    pub fn new(memory: &Arc<GuestMemory>, config: &RingConfig) -> Result<Self, RingError> {
        let size = config.size;
        // First of all: the sizes below are products of it, and slots are masked with it.
        if !size.is_power_of_two() || !(2..=MAX_SIZE).contains(&size) {
            return Err(RingError::Size(size));
        }
        let area = |name, address: u64, len: usize, align: u64| {
            let aligned = address.is_multiple_of(align);
            // SAFETY: the ring keeps the memory for as long as it uses the address.
            let span = unsafe { memory.translate_user(address, len as u32) }.filter(|_| aligned);
            span.map(Span::address).ok_or(RingError::Address(name))
        };
        let addresses = &config.addresses;
        let entries = size as usize;
        let table_len = DESCRIPTOR_LEN * entries;
        // The event index is a part of the ring whether or not it is negotiated.
        let available_len = ENTRIES + AVAILABLE_ENTRY_LEN * entries + EVENT_LEN;
        // Alignments are those of virtio 1.2 §2.7.
        let mut ring = Self {
            _memory: Arc::clone(memory),
            descriptors: area("descriptor table", addresses.descriptors, table_len, 16)?,
            available: area("available ring", addresses.available, available_len, 2)?,
            used: area("used ring", addresses.used, used_len(entries), 4)?,
            size: size as u16,
            event_idx: config.event_idx,
            indirect: config.indirect,
            next_available: 0,
            available_seen: 0,
            next_used: 0,
            published: 0,
            signalled: None,
        };
        let position = ring.starting_position(config.start)?;
        ring.next_available = position;
        ring.available_seen = position;
        ring.next_used = position;
        ring.published = position;
        Ok(ring)
    }

    /// Finds where to start. A told position may be stale, if the last daemon was killed. Some VMMs
    /// tell one that skips what is outstanding. Everything is completed in order, so the used index
    /// is the truth wherever it is possible.
    fn starting_position(&self, start: Start) -> Result<u16, RingError> {
        let used = self.used_index().load(Ordering::Acquire);
        let available = self.available_index().load(Ordering::Acquire);
        // Indices run freely modulo 2^16: only their distance means anything.
        let possible = |position: u16| available.wrapping_sub(position) <= self.size;
        let told = match start {
            // Not compared here: an index that cannot follow it is found by the first look.
            Start::Exactly(position) => return Ok(position),
            Start::FromVmm(position) => position,
        };
        if possible(used) {
            Ok(used)
        } else if possible(told) {
            Ok(told)
        } else {
            Err(RingError::AvailableIndex { available, expected: used, size: self.size })
        }
    }

    /// The position to go on from with [`Start::Exactly`], and to tell the VMM.
    pub fn position(&self) -> u16 {
        self.next_available
    }

    /// The address and octets of all that the device writes of the ring.
    pub(in crate::dataplane::port::vhost_user) fn used_area(&self) -> (usize, u32) {
        (self.used, used_len(self.size()) as u32)
    }

    /// Entries.
    pub fn size(&self) -> usize {
        self.size.into()
    }

    /// Returns the 2 octets at `address`, which is that of a field of this ring.
    #[inline]
    fn field(&self, address: usize) -> &AtomicU16 {
        // SAFETY: the fields below are all that is asked for: each is 2-aligned and inside an area
        // that `new` checked; the ring keeps the memory, and both sides access fields atomically.
        unsafe { AtomicU16::from_ptr(address as *mut u16) }
    }

    /// What the driver says of interrupts.
    #[inline]
    fn available_flags(&self) -> &AtomicU16 {
        self.field(self.available)
    }

    /// How many chains the driver has made available.
    #[inline]
    fn available_index(&self) -> &AtomicU16 {
        self.field(self.available + INDEX)
    }

    /// The head of the chain in a slot of the driver's ring.
    #[inline]
    fn available_entry(&self, slot: usize) -> &AtomicU16 {
        self.field(self.available + ENTRIES + AVAILABLE_ENTRY_LEN * slot)
    }

    /// The used entry at which the driver wants an interrupt.
    #[inline]
    fn used_event(&self) -> &AtomicU16 {
        self.available_entry(self.size())
    }

    /// What the device says of kicks.
    #[inline]
    fn used_flags(&self) -> &AtomicU16 {
        self.field(self.used)
    }

    /// How many chains the device has used.
    #[inline]
    fn used_index(&self) -> &AtomicU16 {
        self.field(self.used + INDEX)
    }

    /// The address of a slot of the device's ring.
    #[inline]
    fn used_entry(&self, slot: usize) -> usize {
        self.used + ENTRIES + USED_ENTRY_LEN * slot
    }

    /// The available entry at which the device wants a kick.
    #[inline]
    fn available_event(&self) -> &AtomicU16 {
        self.field(self.used_entry(self.size()))
    }

    fn slot(&self, position: u16) -> usize {
        // The size is a power of two: no division on the packet path.
        usize::from(position & (self.size - 1))
    }

    /// How many chains wait; reads the driver's index only when those seen before are used up.
    pub fn waiting(&mut self) -> Result<u16, RingError> {
        let seen = self.available_seen.wrapping_sub(self.next_available);
        // Each look takes the line of the index away from the CPU of a guest that writes there.
        if seen > 0 {
            return Ok(seen);
        }
        self.look()
    }

    /// As [`SplitRing::waiting`], reading the driver's index.
    fn look(&mut self) -> Result<u16, RingError> {
        // Acquire: heads and descriptors that are read after this are those that the index stands
        // for (the driver's barrier: virtio 1.2 §2.7.13).
        let available = self.available_index().load(Ordering::Acquire);
        let waiting = available.wrapping_sub(self.next_available);
        if waiting > self.size {
            let (expected, size) = (self.next_available, self.size);
            return Err(RingError::AvailableIndex { available, expected, size });
        }
        self.available_seen = available;
        Ok(waiting)
    }

    /// Takes the heads of chains that wait, from number `skip` of them on, into `heads`; returns
    /// how many. Each is read once, and what they lead to is fetched ahead. They wait until
    /// [`SplitRing::advance`].
    #[inline]
    pub fn heads(&mut self, skip: usize, heads: &mut [u16]) -> Result<usize, RingError> {
        let seen = usize::from(self.available_seen.wrapping_sub(self.next_available));
        let waiting = if seen < skip + heads.len() { usize::from(self.look()?) } else { seen };
        let count = waiting.saturating_sub(skip).min(heads.len());
        for (at, head) in heads[..count].iter_mut().enumerate() {
            let slot = self.slot(self.next_available.wrapping_add((skip + at) as u16));
            // Relaxed: the look at the index has ordered it.
            *head = self.available_entry(slot).load(Ordering::Relaxed);
            // The head is not checked yet: the mask keeps the prefetch inside the table.
            prefetch(self.descriptors + DESCRIPTOR_LEN * self.slot(*head));
        }
        Ok(count)
    }

    /// Fetches ahead, for writing, the next `entries` of the used ring.
    pub fn prefetch_used(&self, entries: usize) {
        for at in (0..entries).step_by(CACHE_LINE / USED_ENTRY_LEN) {
            let slot = self.slot(self.next_used.wrapping_add(at as u16));
            prefetch_write(self.used_entry(slot));
        }
    }

    /// The chain at `head`, as far as the first `enough` octets of it go. Its buffers, if they are
    /// not one piece, are appended to `spans`.
    ///
    /// # Safety
    /// `memory` is not dropped before the last use of a span.
    #[inline(always)]
    pub unsafe fn chain(
        &self,
        head: u16,
        memory: &GuestMemory,
        (direction, enough): (Direction, usize),
        spans: &mut Vec<Span>,
    ) -> Result<Chain, RingError> {
        if head >= self.size {
            return Err(RingError::Index(head));
        }
        let at = (self.descriptors + DESCRIPTOR_LEN * usize::from(head)) as *const [u64; 2];
        // SAFETY: inside the table that `new` checked, and aligned as that is; what the guest
        // writes meanwhile can only change the value read, which is checked afterwards.
        let first = Descriptor::parse(unsafe { at.read_volatile() });
        // Nearly every buffer is one descriptor in one region: it needs no place among the spans.
        if first.flags & (NEXT | INDIRECT) == 0
            // SAFETY: the caller's promise.
            && let Some(span) = unsafe { memory.translate_whole(first.address, first.len) }
        {
            direction.check(&first)?;
            return Ok(Chain::Whole(span));
        }
        // SAFETY: the caller's promise.
        unsafe { self.walk(first, memory, (direction, enough), spans) }
    }

    /// As [`SplitRing::chain`], of a chain that begins with `first`. Where the chain is too long,
    /// the caller takes away what was appended to `spans`.
    ///
    /// # Safety
    /// As there.
    #[cold]
    unsafe fn walk(
        &self,
        first: Descriptor,
        memory: &GuestMemory,
        (direction, enough): (Direction, usize),
        spans: &mut Vec<Span>,
    ) -> Result<Chain, RingError> {
        // Steps are counted, so a loop needs no list of the descriptors that were seen.
        let limit = usize::from(self.size).min(MAX_CHAIN);
        let (mut table, mut table_len, mut nested) = (self.descriptors, self.size, false);
        let (mut descriptor, mut octets) = (first, 0);
        let first_span = spans.len();
        // One step more than descriptors with buffers: the one that leads to an indirect table has
        // none.
        for step in 1..=limit + 1 {
            // The direction is of no matter here: a device ignores WRITE of the descriptor that
            // leads to an indirect table (virtio 1.2 §2.7.5.3.2).
            let next = if descriptor.flags & INDIRECT != 0 {
                table_len = self.check_indirect(&descriptor, nested)?;
                // SAFETY: used in this call, whose memory is borrowed.
                table = unsafe { memory.translate_whole(descriptor.address, descriptor.len) }
                    .ok_or(RingError::Indirect(descriptor.len))?
                    .address();
                nested = true;
                0
            } else {
                direction.check(&descriptor)?;
                let (address, len) = (descriptor.address, descriptor.len);
                // SAFETY: the caller's promise.
                let mapped = unsafe { memory.translate(address, len, spans) };
                mapped.ok_or(RingError::Buffer { address, len })?;
                octets += descriptor.len as usize;
                // What a frame does not need is not walked: a guest must not make few octets much
                // work.
                if descriptor.flags & NEXT == 0 || octets >= enough {
                    return Ok(Chain::Pieces { octets, work: step + spans.len() - first_span });
                }
                descriptor.next
            };
            descriptor = self.descriptor(table, table_len, next)?;
        }
        Ok(Chain::TooLong)
    }

    fn check_indirect(&self, descriptor: &Descriptor, nested: bool) -> Result<u16, RingError> {
        // What a driver must keep to (virtio 1.2 §2.7.5.3.1): no table inside a table, nothing
        // after a table, no more entries than the ring has.
        let entries = descriptor.len / DESCRIPTOR_LEN as u32;
        let allowed = self.indirect
            && !nested
            && descriptor.flags & NEXT == 0
            && descriptor.len.is_multiple_of(DESCRIPTOR_LEN as u32)
            && (1..=u32::from(self.size)).contains(&entries);
        if allowed { Ok(entries as u16) } else { Err(RingError::Indirect(descriptor.len)) }
    }

    /// Reads a descriptor once. An indirect table need not be aligned, so it is copied octet-wise.
    fn descriptor(&self, table: usize, len: u16, index: u16) -> Result<Descriptor, RingError> {
        if index >= len {
            return Err(RingError::Index(index));
        }
        let at = (table + DESCRIPTOR_LEN * usize::from(index)) as *const [u64; 2];
        // SAFETY: `index` is inside a table that was translated as a whole; what the guest writes
        // meanwhile can only change the value read, which is checked afterwards.
        Ok(Descriptor::parse(unsafe { read_unaligned_volatile(at) }))
    }

    /// Takes `chains` of those peeked at off the available ring.
    pub fn advance(&mut self, chains: u16) {
        self.next_available = self.next_available.wrapping_add(chains);
    }

    /// Writes a used entry, invisible until [`SplitRing::publish`].
    #[inline]
    pub fn push_used(&mut self, head: u16, len: u32) {
        let entry = self.used_entry(self.slot(self.next_used));
        // SAFETY: the slot is inside the used ring that `new` checked, and aligned to 4 as that is.
        unsafe { (entry as *mut u32).write_volatile(u32::from(head).to_le()) };
        // SAFETY: as above, four octets on.
        unsafe { ((entry + 4) as *mut u32).write_volatile(len.to_le()) };
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Shows the driver all used entries.
    pub fn publish(&mut self) {
        // An index that has not changed is not stored: that would take its line from the guest.
        if self.published != self.next_used {
            // Release: octets and entries are there before the index. After kill -9 a successor
            // relies on that, too (docs/decisions/0001).
            self.used_index().store(self.next_used, Ordering::Release);
            self.published = self.next_used;
        }
    }

    /// Whether the driver wants to be interrupted for what was published since the last call
    /// (virtio 1.2 §2.7.7). The caller has issued a full fence after [`SplitRing::publish`].
    pub fn signal(&mut self) -> Signal {
        let old = self.signalled.replace(self.published);
        if old == Some(self.published) {
            return Signal::Nothing;
        }
        // The loads are relaxed: the caller's fence stands between publishing and looking.
        let wanted = if self.event_idx {
            let event = self.used_event().load(Ordering::Relaxed);
            old.is_none_or(|old| {
                // Whether the event is among the entries old..published, modulo 2^16
                // (`vring_need_event` of Linux).
                let new = self.published.wrapping_sub(old);
                self.published.wrapping_sub(event).wrapping_sub(1) < new
            })
        } else {
            self.available_flags().load(Ordering::Relaxed) & NO_INTERRUPT == 0
        };
        if wanted { Signal::Wanted } else { Signal::Suppressed }
    }

    /// Asks for a kick when a chain comes. Returns whether one is there already (virtio 1.2
    /// §2.7.10). The fence between asking and looking pairs with the driver's between adding and
    /// deciding to kick.
    pub fn arm(&mut self) -> Result<bool, RingError> {
        if self.event_idx {
            self.available_event().store(self.next_available, Ordering::Relaxed);
        } else {
            self.used_flags().store(0, Ordering::Relaxed);
        }
        // A full fence: nothing less keeps a load behind an earlier store to another place.
        std::sync::atomic::fence(Ordering::SeqCst);
        Ok(self.look()? > 0)
    }

    /// Wants no kicks. With event_idx the old event stays behind, which says the same.
    pub fn disarm(&mut self) {
        if !self.event_idx {
            self.used_flags().store(NO_NOTIFY, Ordering::Relaxed);
        }
    }
}

/// Octets of a used ring with so many entries.
fn used_len(entries: usize) -> usize {
    ENTRIES + USED_ENTRY_LEN * entries + EVENT_LEN
}

/// Reads two words that another process may be writing.
///
/// # Safety
/// 16 octets are readable at `at`, aligned or not.
unsafe fn read_unaligned_volatile(at: *const [u64; 2]) -> [u64; 2] {
    if at.is_aligned() {
        // SAFETY: the caller's promise, and aligned.
        return unsafe { at.read_volatile() };
    }
    let mut octets = [0; 16];
    for (offset, octet) in octets.iter_mut().enumerate() {
        // SAFETY: within the 16 octets of the caller's promise.
        *octet = unsafe { at.cast::<u8>().add(offset).read_volatile() };
    }
    let (low, high) = octets.split_at(8);
    // Reversed: of little-endian octets the last is the highest.
    [low, high].map(|half| half.iter().rev().fold(0, |word, octet| word << 8 | u64::from(*octet)))
}
