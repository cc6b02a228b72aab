//! A frame on its way: a private copy of its head, a handle to its tail, and the burst they come
//! in.
//!
//! The head is copied out of guest memory once and owned; everything is decided and rewritten
//! there. The tail stays where it is: spans whose only operation is to be copied somewhere else.

pub mod classify;
pub mod copy;
pub mod fragment;
pub mod join;
pub mod offload;
pub mod scatter;
pub mod segment;
mod set;
pub mod slab;
mod span;
pub mod tag;
pub mod verdict;

pub use set::FrameSet;
pub use span::Span;

use crate::wire::vnet::Offload;
use std::ops::Range;
use verdict::DropReason;

/// Octets of a frame that are copied into its head.
// All headers of a frame to be cut must be among them. The longest of IPv4 are 134 octets, with all
// options of IP and TCP; those of IPv6 leave room for some 80 octets of extension headers.
pub const HEAD_LEN: usize = 192;
/// Frames in a burst.
// As many as a `u64` has bits: see `FrameSet`.
pub const BURST: usize = 64;
/// A burst ends with the frame that brings it to so many octets.
// Eight frames of 64 KiB instead of 64, which are 4 MiB: others wait no longer than that for a
// sender of large frames.
pub const BURST_OCTETS: usize = 512 << 10;
/// Octets of the longest frame: a 64 KiB packet and its Ethernet header.
pub const MAX_FRAME_LEN: usize = 65535 + 14;

/// A frame that a guest has sent.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub struct Frame {
    /// The first octets of the frame.
    pub head: [u8; HEAD_LEN],
    /// How many octets of `head` there are.
    pub head_len: usize,
    /// Octets of the whole frame.
    pub len: usize,
    /// What its sender left to be done.
    pub offload: Offload,
    /// Set where the port found the frame invalid before it could be classified.
    pub invalid: Option<DropReason>,
    // Apart from `pieces`: nearly all frames are in one piece, and need no list.
    /// What follows the head, where that is in one piece.
    pub tail: Span,
    /// The spans of the burst that hold what follows the head, where there are several.
    pub pieces: Range<usize>,
}

impl Default for Frame {
    fn default() -> Self {
        Self {
            head: [0; HEAD_LEN],
            head_len: 0,
            len: 0,
            offload: Offload::None,
            invalid: None,
            tail: Span::default(),
            pieces: 0..0,
        }
    }
}

impl Frame {
    /// The octets of the head.
    #[inline]
    pub fn head(&self) -> &[u8] {
        &self.head[..self.head_len]
    }

    /// The octets of the head, to be rewritten.
    #[inline]
    pub fn head_mut(&mut self) -> &mut [u8] {
        &mut self.head[..self.head_len]
    }

    /// Leaves out what follows the first `len` octets: padding.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        // `tail` stays as it is: who copies it goes by `len`.
        if len < self.len {
            self.len = len;
            self.head_len = self.head_len.min(len);
        }
    }
}

/// What a port has to send, one burst at a time. Its buffers are made once and used again.
#[derive(Debug)]
pub struct Burst {
    frames: Box<[Frame]>,
    len: usize,
    /// The pieces of all frames.
    pub spans: Vec<Span>,
    /// The queue of the port that the burst came from.
    pub queue: usize,
    /// Frames that an earlier poll returned already and that are dealt with.
    pub done: FrameSet,
    /// The port has something to publish, though it has no frame.
    // Whoever looks at it takes it back: of a burst with frames nobody does.
    pub touched: bool,
}

impl Default for Burst {
    fn default() -> Self {
        Self {
            frames: vec![Frame::default(); BURST].into(),
            len: 0,
            spans: Vec::with_capacity(BURST * 64),
            queue: 0,
            done: FrameSet::EMPTY,
            touched: false,
        }
    }
}

impl Burst {
    /// Empties the burst for frames of `queue`.
    pub fn clear(&mut self, queue: usize) {
        self.len = 0;
        self.spans.clear();
        self.queue = queue;
        self.done = FrameSet::EMPTY;
    }

    /// Appends a frame to be filled in, and returns the spans of all frames, too. The caller adds
    /// no more than [`BURST`].
    #[inline]
    pub fn push(&mut self) -> (&mut Frame, &mut Vec<Span>) {
        let frame = &mut self.frames[self.len];
        self.len += 1;
        // Nothing else: a port sets `len`, `tail` and `pieces` of each frame, and octets of `head`
        // beyond `head_len` decide nothing. To clear them would cost 192 octets a frame.
        frame.head_len = 0;
        frame.offload = Offload::None;
        frame.invalid = None;
        (frame, &mut self.spans)
    }

    /// How many frames there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Frame number `at`.
    #[inline]
    pub fn frame(&self, at: usize) -> &Frame {
        &self.frames[at]
    }

    /// All frames, and their spans.
    #[inline]
    pub fn frames_mut(&mut self) -> (&mut [Frame], &mut [Span]) {
        (&mut self.frames[..self.len], &mut self.spans)
    }

    /// Frame number `at` as it leaves.
    #[inline]
    pub fn outgoing(&self, at: usize) -> Outgoing<'_> {
        let frame = &self.frames[at];
        let tail = if frame.pieces.is_empty() {
            std::slice::from_ref(&frame.tail)
        } else {
            &self.spans[frame.pieces.clone()]
        };
        Outgoing { offload: frame.offload, head: frame.head(), tail, len: frame.len }
    }

    /// Copies frame number `at` into `buffer` as a whole; returns its octets.
    pub fn linearise<'b>(&self, at: usize, buffer: &'b mut [u8]) -> &'b mut [u8] {
        let frame = self.outgoing(at);
        let (head, rest) = buffer[..frame.len].split_at_mut(frame.head.len());
        head.copy_from_slice(frame.head);
        Span::gather(frame.tail, rest);
        &mut buffer[..frame.len]
    }
}

/// A frame on its way into a port.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// What its sender left to be done.
    pub offload: Offload,
    /// Its first octets.
    pub head: &'a [u8],
    /// The spans of the rest. They may be longer than the frame: `len` counts.
    pub tail: &'a [Span],
    /// Octets of the whole frame.
    pub len: usize,
}

impl<'a> Outgoing<'a> {
    /// A frame that is all in private memory.
    pub fn private(frame: &'a [u8], offload: Offload) -> Self {
        Self { offload, head: frame, tail: &[], len: frame.len() }
    }

    /// Returns its first octets, and how many all of it has.
    pub fn beginning(&self) -> (&'a [u8], usize) {
        (self.head, self.len)
    }
}
