//! Who may touch what of a link: the producer what is free, the consumer what was published.
//!
//! ```text
//! producer: free, write there, publish        consumer: published, read there, release
//! ```
//! `link_model.rs` compiles this file again on loom's atomics and goes through every interleaving.

use super::atomic::{AtomicUsize, Ordering};

/// On a cache line of its own, and the next one, which is fetched with it.
#[derive(Debug)]
// Both ends write all the time: on one line they would take it from each other at each record.
#[repr(align(128))]
struct Cursor(AtomicUsize);

/// How far one producer and one consumer have come, in octets that count on for ever.
#[derive(Debug)]
pub(super) struct Cursors {
    head: Cursor,
    tail: Cursor,
}

impl Cursors {
    /// Of an empty link.
    pub(super) fn new() -> Self {
        Self { head: Cursor(AtomicUsize::new(0)), tail: Cursor(AtomicUsize::new(0)) }
    }

    /// The producer's: what is not between head and tail is its own to write. Returns both.
    pub(super) fn free(&self) -> (usize, usize) {
        // Acquire, of the other's: its reads are over before this side overwrites what they read.
        // Relaxed, of the own: nobody else writes it.
        (self.head.0.load(Ordering::Acquire), self.tail.0.load(Ordering::Relaxed))
    }

    /// The producer's: returns what it wrote up to `tail` to the consumer.
    pub(super) fn publish(&self, tail: usize) {
        // Behind all octets: who sees this tail sees them.
        self.tail.0.store(tail, Ordering::Release);
    }

    /// The consumer's: what is between head and tail is its own to read. Returns both.
    pub(super) fn published(&self) -> (usize, usize) {
        (self.head.0.load(Ordering::Relaxed), self.tail.0.load(Ordering::Acquire))
    }

    /// The consumer's: returns what it read up to `head` back to the producer.
    pub(super) fn release(&self, head: usize) {
        // Behind all reads: after this the octets may be overwritten.
        self.head.0.store(head, Ordering::Release);
    }
}
