//! The flight ring: the heads of the last frames of all ports, always, so that what led to a
//! failure can be looked at afterwards.

use super::{Chunk, Record};
use crate::dataplane::frame::Span;
use std::{collections::VecDeque, sync::Arc};

/// Octets of each frame: all headers of nearly all.
pub(super) const HEAD: usize = 128;
/// A ring of less would hold too little to be of use, and too few chunks to go round.
const FEWEST: usize = 4;

/// A reactor's part of it.
#[derive(Debug)]
pub struct Flight {
    current: Chunk,
    /// The oldest first. Others may still read them.
    filled: VecDeque<Arc<Chunk>>,
    /// Those that were never filled.
    fresh: Vec<Chunk>,
}

impl Flight {
    /// One of so many octets; its memory is used as frames come.
    pub fn new(octets: usize) -> Self {
        let chunks = (octets / Chunk::octets_of_heads(HEAD)).max(FEWEST);
        let fresh = (1..chunks).map(|_| Chunk::default()).collect();
        Self { current: Chunk::default(), filled: VecDeque::with_capacity(chunks), fresh }
    }

    /// Takes a frame. The oldest leave for it.
    pub(super) fn push(&mut self, record: Record, head: [&[u8]; 2], tail: &[Span]) {
        if !self.current.has_room(record.kept) {
            self.next();
        }
        self.current.push(record, head, tail);
    }

    /// Returns all that there is, the oldest first.
    pub fn snapshot(&mut self) -> Vec<Arc<Chunk>> {
        if !self.current.is_empty() {
            self.next();
        }
        self.filled.iter().cloned().collect()
    }

    /// Goes on with another chunk.
    fn next(&mut self) {
        let next = self.fresh.pop().unwrap_or_else(|| {
            let oldest = self.filled.pop_front().and_then(Arc::into_inner);
            // One that is being read is its reader's: a new one takes its place.
            let mut next = oldest.unwrap_or_default();
            next.clear();
            next
        });
        let full = std::mem::replace(&mut self.current, next);
        self.filled.push_back(Arc::new(full));
    }
}
