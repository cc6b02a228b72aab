//! Where frames enter and leave the switch.
//!
//! # The life of a port
//! A port is built by whoever owns its connection, complete and running, and given to one reactor
//! (*attach*). From then on that reactor's thread alone calls it:
//!
//! ```text
//! attach → disarm ⇄ arm → poll, complete … deliver … → publish → notify → … → stop → dropped
//!                                                                (detach acknowledged) ┘
//! ```
//! - `poll` fills a burst with frames and leaves them with the sender. `complete` says which of
//!   them are dealt with: delivered, answered or dropped. The oldest go back to the sender, up to
//!   the first that is not dealt with. The rest is polled again, and the burst says which of those
//!   are done.
//! - `deliver` puts frames where the receiver will find them; nothing is visible before `publish`.
//! - `notify` comes after a full memory fence that follows all `publish` calls of a loop.
//! - An idle queue is armed: it is woken when there is work. `arm`
//!   reports whether work came in the meantime.
//! - A port that fails is not called again, but for `stop`.
//! - `detach` returns the port. One of a descriptor may be attached again, to another reactor, and
//!   goes on where it was.
//!
//! To change anything about a port, detach it and attach another.

mod calls;
pub mod datagram;
pub mod descriptor;
pub mod impaired;
pub mod interface;
mod mmsg;
pub mod null;
pub mod own;
pub mod packet;
pub mod pair;
pub mod rest;
pub mod stream;
pub mod tap;
pub mod tun;
pub mod tunnel;
pub mod vhost_user;

use super::{
    counters::PortCounters,
    frame::{Burst, FrameSet, Outgoing, verdict::DropReason},
};
use rest::Rest;
use std::{
    any::Any,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

/// What became of frames that were to be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Delivered {
    /// How many were taken, from the first on.
    pub taken: usize,
    /// Why the next one was not. None: all were.
    pub refused: Option<Undelivered>,
}

impl Delivered {
    /// `taken` frames were taken, and those were all.
    pub fn all(taken: usize) -> Self {
        Self { taken, refused: None }
    }

    /// No frame was taken.
    pub fn none(why: Undelivered) -> Self {
        Self { taken: 0, refused: Some(why) }
    }
}

/// Why a frame was not taken. It is the caller's to hold or to drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undelivered {
    /// No receive buffer is free now.
    Full,
    /// The channel to the port's reactor is full.
    LinkFull,
    /// There is no port.
    NoGuest,
    /// The port is blocked, since it is in a loop.
    Blocked,
    /// The guest may not get as much.
    Limited,
    /// The frame fits no receive buffers of this guest.
    TooLarge,
    /// The frame has a tag of its own that the other end of the trunk would take for a VLAN's.
    VlanNotAllowed,
    /// The port is broken.
    Failed(PortFailure),
}

impl Undelivered {
    /// Whether it is for what the frame is: the next one may be taken.
    pub fn is_of_the_frame(&self) -> bool {
        matches!(self, Self::TooLarge | Self::VlanNotAllowed)
    }

    /// Returns what a frame is counted as that is dropped for it.
    pub fn reason(&self) -> DropReason {
        match self {
            Self::Full => DropReason::RxRingFull,
            Self::LinkFull => DropReason::LinkFull,
            Self::Blocked => DropReason::PortBlocked,
            Self::Limited => DropReason::RateLimited,
            Self::TooLarge => DropReason::RxBufferTooSmall,
            Self::VlanNotAllowed => DropReason::VlanNotAllowed,
            Self::NoGuest | Self::Failed(_) => DropReason::NoGuest,
        }
    }
}

/// The guest or its VMM broke the contract; the port is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortFailure {
    /// It broke the protocol, or its memory went away.
    #[error("{0}")]
    Broken(String),
    /// It held up its reactor, and with it everybody, for so long.
    #[error(
        "the daemon had to wait for its memory or its frames for {0:?}, longer than {MAX_VISIT:?}"
    )]
    HeldUp(Duration),
}

/// How long a reactor may be busy with one port at a time. All work is bounded in octets and
/// pieces, far below this: what takes longer is memory that the VMM makes slow.
// Short enough that the other ports hardly notice one.
pub const MAX_VISIT: Duration = Duration::from_millis(10);

/// That a reactor was held up by memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldUp {
    /// For how long.
    pub took: Duration,
    /// It slept. Otherwise it has touched many pages that nobody had, which takes long where they
    /// are large.
    pub slept: bool,
}

/// A descriptor that says when a queue has work.
#[derive(Debug, Clone, Copy)]
pub enum Wakeup<'a> {
    /// When it becomes readable.
    Read(BorrowedFd<'a>),
    /// Also when it can be written to again: what was refused for want of room may be tried.
    ReadOrWrite(BorrowedFd<'a>),
}

/// Whether what [`Port::wakeup`] returns is to be watched anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// It is what it was.
    Same,
    /// It is another.
    Other,
}

/// One way in and out of the switch. See the module for the order of calls.
// `Any`: a port behind bad lines is known as one by its reactor, which may take those away.
pub trait Port: Send + Any {
    /// How many queues it sends on.
    fn queues(&self) -> usize;
    /// Takes where it is to count what nobody else sees. Called before anything is polled.
    fn count_in(&mut self, _counters: &Arc<PortCounters>) {}
    /// Whether `queue` may be polled at all.
    fn runs(&self, queue: usize) -> bool;
    /// Returns what wakes an armed `queue` when it has work; none where there are no wake-ups, in
    /// which case the queue is polled at intervals.
    fn wakeup(&self, queue: usize) -> Option<Wakeup<'_>>;
    /// Appends frames that wait in `queue` to an empty burst.
    fn poll(&mut self, queue: usize, burst: &mut Burst) -> Result<(), PortFailure>;
    /// Takes which frames of the last poll of `queue` are dealt with.
    // A set and no number, for a frame that waits for its receiver does not hold up those behind
    // it.
    fn complete(&mut self, queue: usize, done: FrameSet);
    /// Asks for a wake-up when work comes to `queue`. Returns whether there is work already.
    fn arm(&mut self, queue: usize) -> Result<bool, PortFailure>;
    /// Wants no wake-ups for `queue` any more.
    fn disarm(&mut self, _queue: usize) {}
    /// Whether what comes to `queue` after an empty poll wakes unasked.
    // To poll it before that is a system call that finds nothing, and takes the socket's lock from
    // who sends to it.
    fn wakes_unasked(&self, _queue: usize) -> bool {
        false
    }
    /// Whether the guest has a buffer for a frame from `queue` of its sender: frames of one flow
    /// keep to one queue.
    // Asked while the oldest frame of a sender waits: cheaper than to poll and decide again.
    fn has_room(&mut self, queue: usize) -> bool;
    /// Puts frames from `queue` of their sender into the guest, in order.
    fn deliver(&mut self, frames: &[Outgoing<'_>], queue: usize) -> Delivered;
    /// Whether its guest has memory of large pages, which take long to be cleared.
    fn has_large_pages(&self) -> bool {
        false
    }
    /// Makes everything visible that was completed and delivered.
    // Nothing by default, as of those below: of most ports a frame is there once it is delivered,
    // and wakes its receiver.
    fn publish(&mut self) {}
    /// Wakes the guest where it asked to be woken. Also reports what failed while frames were
    /// delivered. Returns whether it is to be woken by something else from now on.
    // It reports failures since a guest that is silent may not be polled again for long.
    fn notify(&mut self) -> Result<Watch, PortFailure> {
        Ok(Watch::Same)
    }
    /// Returns what another process of the daemon goes on with: descriptors, and what is not in
    /// them. Called of a port that is detached; of one that is not of descriptors, never.
    fn save(&self) -> io::Result<(Vec<OwnedFd>, Rest)> {
        Ok((Vec::new(), Rest::default()))
    }
    /// Whether its descriptors alone are enough to go on, wherever the process was that had them.
    // Not of streams: how much of a frame was read, only that process knew.
    fn is_of_messages(&self) -> bool {
        false
    }
    /// Ends the port: after this, no memory of the guest is touched.
    fn stop(&mut self) {}
}
