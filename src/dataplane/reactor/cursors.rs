//! The two ends of a page that one thread fills and another empties: the producer has what is free,
//! the consumer what was published.
//!
//! ```text
//! producer: free, write there, publish        consumer: published, read there, release
//! ```
//! There is one of each, and neither can be cloned: what moves a cursor takes `&mut self`, so no
//! two threads are the same end. `link_model.rs` compiles this file again on loom's atomics and
//! goes through every interleaving.

use super::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

/// On a cache line of its own, and the next one, which is fetched with it.
#[derive(Debug)]
// Both ends write all the time: on one line they would take it from each other at each record.
#[repr(align(128))]
struct Cursor(AtomicUsize);

/// How far both have come, in octets that count on for ever, and where the octets are.
#[derive(Debug)]
struct Shared<P> {
    head: Cursor,
    tail: Cursor,
    page: P,
}

/// The end that fills the page.
#[derive(Debug)]
pub(super) struct Producer<P>(Arc<Shared<P>>);

/// The end that empties it.
#[derive(Debug)]
pub(super) struct Consumer<P>(Arc<Shared<P>>);

/// Returns both ends of an empty page.
pub(super) fn split<P>(page: P) -> (Producer<P>, Consumer<P>) {
    let [head, tail] = [0, 0].map(|zero| Cursor(AtomicUsize::new(zero)));
    let shared = Arc::new(Shared { head, tail, page });
    (Producer(Arc::clone(&shared)), Consumer(shared))
}

impl<P> Producer<P> {
    /// The page.
    pub(super) fn page(&self) -> &P {
        &self.0.page
    }

    /// Returns head and tail: what is not between them is the producer's to write.
    pub(super) fn free(&self) -> (usize, usize) {
        // Acquire, of the other's: its reads are over before this side overwrites what they read.
        // Relaxed, of the own: nobody else writes it.
        (self.0.head.0.load(Ordering::Acquire), self.0.tail.0.load(Ordering::Relaxed))
    }

    /// Hands what was written up to `tail` to the consumer.
    pub(super) fn publish(&mut self, tail: usize) {
        // Behind all octets: who sees this tail sees them.
        self.0.tail.0.store(tail, Ordering::Release);
    }
}

impl<P> Consumer<P> {
    /// The page.
    pub(super) fn page(&self) -> &P {
        &self.0.page
    }

    /// Returns head and tail: what is between them is the consumer's to read.
    pub(super) fn published(&self) -> (usize, usize) {
        (self.0.head.0.load(Ordering::Relaxed), self.0.tail.0.load(Ordering::Acquire))
    }

    /// Hands what was read up to `head` back to the producer.
    pub(super) fn release(&mut self, head: usize) {
        // Behind all reads: after this the octets may be overwritten.
        self.0.head.0.store(head, Ordering::Release);
    }
}
