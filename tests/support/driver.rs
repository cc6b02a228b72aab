//! The driver's side of a virtio-net device: a guest's memory, and split virtqueues in it
//! (virtio 1.2 §2.7). None of the switch's code is in it: it judges the switch.
#![allow(dead_code, reason = "each program that includes it uses its own part")]

use std::{
    fs::File,
    ops::{Deref, Range},
    sync::atomic::Ordering,
};
use vm_memory::{Bytes as _, FileOffset, GuestAddress, GuestMemoryMmap};

/// Flags of a descriptor (§2.7.5).
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;
/// In the flags of an available ring: no calls (§2.7.7); of a used one: no kicks (§2.7.10).
pub(crate) const QUIET: u16 = 1;

/// Octets of the header in front of each frame (§5.1.6).
pub(crate) const HEADER: usize = 12;
/// Where it says how many buffers a frame has.
pub(crate) const NUM_BUFFERS: Range<usize> = 10..12;
/// Buffers of a ring are so far apart.
pub(crate) const BUFFER: u32 = 2048;
/// Octets of a descriptor.
pub(crate) const DESCRIPTOR: u64 = 16;
const PAGE: u64 = 4096;

/// Where a ring and its buffers are in a guest's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ring {
    /// How many entries it has.
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    pub(crate) buffers: u64,
}

impl Ring {
    /// A ring from `base` on, each part of which begins a page.
    pub(crate) const fn at(base: u64, size: u16, buffers: u64) -> Self {
        let entries = size as u64;
        let available = base + (DESCRIPTOR * entries).next_multiple_of(PAGE);
        let used = available + (6 + 2 * entries).next_multiple_of(PAGE);
        Self { size, descriptors: base, available, used, buffers }
    }

    /// The buffer for a descriptor.
    pub(crate) fn buffer(&self, slot: u16) -> u64 {
        self.buffers + u64::from(slot) * u64::from(BUFFER)
    }

    fn entry(&self, position: u16) -> u64 {
        u64::from(position % self.size)
    }
}

/// A descriptor: a buffer, its address and octets, and what follows it.
pub(crate) fn descriptor((address, len): (u64, u32), flags: u16, next: u16) -> Vec<u8> {
    let rest = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
    [address, rest].map(u64::to_le_bytes).concat()
}

/// The memory of a guest, from address 0 on, in a file that a VMM can share.
pub(crate) struct Memory {
    mapped: GuestMemoryMmap,
    pub(crate) file: File,
}

impl Deref for Memory {
    type Target = GuestMemoryMmap;

    fn deref(&self) -> &GuestMemoryMmap {
        &self.mapped
    }
}

impl Memory {
    pub(crate) fn new(len: u64) -> Self {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        Self::of(rustix::fs::memfd_create("guest", flags).unwrap().into(), len)
    }

    /// Of a file, which is made so long.
    pub(crate) fn of(file: File, len: u64) -> Self {
        file.set_len(len).unwrap();
        let offset = FileOffset::new(file.try_clone().unwrap(), 0);
        let ranges = [(GuestAddress(0), len as usize, Some(offset))];
        Self { mapped: GuestMemoryMmap::from_ranges_with_files(ranges).unwrap(), file }
    }

    pub(crate) fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        self.read_slice(&mut octets, GuestAddress(address)).unwrap();
        octets
    }

    pub(crate) fn write(&self, address: u64, octets: &[u8]) {
        self.write_slice(octets, GuestAddress(address)).unwrap();
    }

    /// What is read after it was written before this (§2.7.13).
    pub(crate) fn read_u16(&self, address: u64) -> u16 {
        self.load(GuestAddress(address), Ordering::Acquire).unwrap()
    }

    /// What was written before it is seen with this.
    pub(crate) fn write_u16(&self, address: u64, value: u16) {
        self.store(value, GuestAddress(address), Ordering::Release).unwrap();
    }

    /// Writes a descriptor into a ring.
    pub(crate) fn describe(
        &self,
        ring: Ring,
        slot: u16,
        buffer: (u64, u32),
        flags: u16,
        next: u16,
    ) {
        let octets = descriptor(buffer, flags, next);
        self.write(ring.descriptors + DESCRIPTOR * u64::from(slot), &octets);
    }

    /// Writes an entry of the available ring, without showing it.
    pub(crate) fn list(&self, ring: Ring, position: u16, head: u16) {
        self.write_u16(ring.available + 4 + 2 * ring.entry(position), head);
    }

    /// Shows the device all entries before `position`.
    pub(crate) fn show(&self, ring: Ring, position: u16) {
        self.write_u16(ring.available + 2, position);
    }

    /// Puts `head` on the available ring, as its newest entry.
    pub(crate) fn offer(&self, ring: Ring, position: u16, head: u16) {
        self.list(ring, position, head);
        self.show(ring, position.wrapping_add(1));
    }

    /// Lists a chain of one buffer in every entry, and shows none.
    pub(crate) fn fill(&self, ring: Ring, len: u32, flags: u16) {
        for slot in 0..ring.size {
            self.describe(ring, slot, (ring.buffer(slot), len), flags, 0);
            self.list(ring, slot, slot);
        }
    }

    /// How far the device has used what it was shown.
    pub(crate) fn used(&self, ring: Ring) -> u16 {
        self.read_u16(ring.used + 2)
    }

    /// What the device has used: the head of a chain, and how many octets it wrote.
    pub(crate) fn used_entry(&self, ring: Ring, position: u16) -> (u16, u32) {
        let at = ring.used + 4 + 8 * ring.entry(position);
        let head: u32 = self.read_obj(GuestAddress(at)).unwrap();
        (head.try_into().unwrap(), self.read_obj(GuestAddress(at + 4)).unwrap())
    }

    /// The position from which on the device wants kicks, where EVENT_IDX was negotiated (§2.7.10).
    pub(crate) fn avail_event(&self, ring: Ring) -> u16 {
        self.read_u16(ring.used + 4 + 8 * u64::from(ring.size))
    }

    /// Whether the device wants kicks, where EVENT_IDX was not negotiated.
    pub(crate) fn wants_kicks(&self, ring: Ring) -> bool {
        self.read_u16(ring.used) & QUIET == 0
    }
}
