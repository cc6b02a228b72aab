//! Where frames enter and leave the switch.
//!
//! # The life of a port
//! A port is built by whoever owns its connection, complete and running, and given to one reactor (*attach*). From
//! then on that reactor's thread alone calls it:
//!
//! ```text
//! attach → disarm ⇄ arm → poll, complete … deliver … → publish → notify → … → stop → dropped (detach acknowledged)
//! ```
//! - `poll` fills a burst with frames and leaves them with the sender; `complete` returns the oldest of them once
//!   they are delivered, answered or dropped. What is not completed is polled again.
//! - `deliver` puts a frame where the receiver will find it; nothing is visible before `publish`.
//! - `notify` comes after a full memory fence that follows all `publish` calls of a loop.
//! - An idle queue is armed: its wake-up descriptor becomes readable when there is work. `arm` says whether work came
//!   in the meantime.
//! - A port that fails is not called again, but for `stop`.
//!
//! To change anything about a port, detach it and attach another.

pub mod vhost_user;

use super::frame::{Burst, Outgoing};
use std::os::fd::BorrowedFd;

/// Why a frame was not taken. It is the caller's to hold or to drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undelivered {
    /// No receive buffer is free now.
    Full,
    /// The frame fits no receive buffers of this guest.
    TooLarge,
    /// The port is broken.
    Failed(PortFailure),
}

/// The guest or its VMM broke the contract; the port is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PortFailure(pub String);

/// One way in and out of the switch. See the module for the order of calls.
pub trait Port: Send {
    /// How many queues it sends on.
    fn queues(&self) -> usize;
    /// Whether `queue` may be polled at all.
    fn runs(&self, queue: usize) -> bool;
    /// The descriptor that becomes readable when an armed `queue` has work; none where there are no wake-ups, in
    /// which case the queue is polled at intervals.
    fn doorbell(&self, queue: usize) -> Option<BorrowedFd<'_>>;
    /// Appends frames that wait in `queue` to an empty burst.
    fn poll(&mut self, queue: usize, burst: &mut Burst) -> Result<(), PortFailure>;
    /// Returns the oldest `frames` of the last poll of `queue` to their sender.
    fn complete(&mut self, queue: usize, frames: usize);
    /// Asks for a wake-up when work comes to `queue`; says whether there is work already.
    fn arm(&mut self, queue: usize) -> Result<bool, PortFailure>;
    /// Wants no wake-ups for `queue` any more.
    fn disarm(&mut self, queue: usize);
    /// Whether the guest finishes partial checksums itself.
    fn takes_partial_checksums(&self) -> bool;
    /// Puts a frame into the guest.
    fn deliver(&mut self, frame: &Outgoing<'_>) -> Result<(), Undelivered>;
    /// Makes everything visible that was completed and delivered.
    fn publish(&mut self);
    /// Wakes the guest where it asked to be woken.
    fn notify(&mut self);
    /// Ends the port: after this, no memory of the guest is touched.
    fn stop(&mut self);
}
