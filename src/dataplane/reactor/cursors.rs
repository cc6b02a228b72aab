//! Who may touch what of a link: the producer what is free, the consumer what was published.
//!
//! ```text
//! producer: free, write there, publish        consumer: published, read there, release
//! ```
//! `link_model.rs` compiles this file again on loom's atomics and goes through every interleaving.

use super::atomic::{AtomicUsize, Ordering};

/// On a cache line of its own, and the next one, which is fetched with it.
#[derive(Debug)]
#[repr(align(128))]
struct Position(AtomicUsize);

/// How far one producer and one consumer have come, in octets that count on for ever.
#[derive(Debug)]
pub(super) struct Positions {
    head: Position,
    tail: Position,
}

impl Positions {
    /// Of an empty link.
    pub(super) fn new() -> Self {
        Self { head: Position(AtomicUsize::new(0)), tail: Position(AtomicUsize::new(0)) }
    }

    /// The producer's: what is not between head and tail is its own to write. Gives both.
    pub(super) fn free(&self) -> (usize, usize) {
        (self.head.0.load(Ordering::Acquire), self.tail.0.load(Ordering::Relaxed))
    }

    /// The producer's: gives what it wrote up to `tail` to the consumer.
    pub(super) fn publish(&self, tail: usize) {
        self.tail.0.store(tail, Ordering::Release);
    }

    /// The consumer's: what is between head and tail is its own to read. Gives both.
    pub(super) fn published(&self) -> (usize, usize) {
        (self.head.0.load(Ordering::Relaxed), self.tail.0.load(Ordering::Acquire))
    }

    /// The consumer's: gives what it read up to `head` back to the producer.
    pub(super) fn release(&self, head: usize) {
        self.head.0.store(head, Ordering::Release);
    }
}
