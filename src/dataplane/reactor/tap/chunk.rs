//! Captured frames on their way from a reactor: records, and their octets behind one another, in
//! memory that is made once.

use crate::{
    dataplane::{
        forward::tables::PortId,
        frame::{Span, verdict::DropReason},
    },
    wire::vnet::Offload,
};
use std::time::Instant;

/// Chunks of a capture on each reactor: 1 MiB in all.
pub const CHUNKS: usize = 6;
/// Records of a chunk, and octets of their frames.
// The longest frame fits; short ones fill both.
const RECORDS: usize = 512;
const OCTETS: usize = 128 << 10;

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// It came from the port.
    FromGuest,
    /// It was put into the port, or was to be.
    ToGuest,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was put into the port.
    Delivered,
    /// It went on to this port.
    Forwarded(PortId),
    /// It went on to all ports of its network that want it.
    Flooded,
    /// The gateway has answered it.
    Answered,
    /// Control is asked what to answer.
    Asked,
    /// It went nowhere.
    Dropped(DropReason),
}

/// A captured frame, without its octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The port.
    pub port: PortId,
    /// When.
    pub time: Instant,
    /// Which way it went.
    pub point: Point,
    /// What became of it.
    pub outcome: Outcome,
    /// What its sender left to be done.
    pub offload: Offload,
    /// Octets that it had.
    pub len: usize,
    /// Octets of it that there are.
    pub kept: usize,
    /// Frames that were lost to the capture since the one before.
    pub lost: u64,
}

/// Some captured frames.
#[derive(Debug)]
pub struct Chunk {
    records: Vec<Record>,
    octets: Vec<u8>,
}

impl Default for Chunk {
    fn default() -> Self {
        Self { records: Vec::with_capacity(RECORDS), octets: Vec::with_capacity(OCTETS) }
    }
}

impl Chunk {
    /// One without room.
    pub fn none() -> Self {
        Self { records: Vec::new(), octets: Vec::new() }
    }

    /// Octets of one that is full of heads.
    pub(super) const fn octets_of_heads(head: usize) -> usize {
        RECORDS * (size_of::<Record>() + head)
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Takes all frames out.
    pub fn clear(&mut self) {
        self.records.clear();
        self.octets.clear();
    }

    /// Returns the frames, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (&Record, &[u8])> {
        let mut rest = &self.octets[..];
        self.records.iter().map(move |record| {
            let (octets, behind) = rest.split_at(record.kept);
            rest = behind;
            (record, octets)
        })
    }

    /// Whether there is room for a frame of which so many octets are kept.
    pub(super) fn has_room(&self, kept: usize) -> bool {
        self.records.len() < RECORDS && self.octets.len() + kept <= OCTETS
    }

    /// Appends a frame for which there is room: octets of its head, then of its tail, as many as
    /// the record says.
    pub(super) fn push(&mut self, record: Record, head: [&[u8]; 2], tail: &[Span]) {
        let start = self.octets.len();
        for part in head {
            let left = start + record.kept - self.octets.len();
            self.octets.extend_from_slice(&part[..part.len().min(left)]);
        }
        let behind = self.octets.len();
        self.octets.resize(start + record.kept, 0);
        if behind < self.octets.len() {
            Span::gather(tail, &mut self.octets[behind..]);
        }
        self.records.push(record);
    }
}
