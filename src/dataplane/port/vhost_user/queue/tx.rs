//! The guest's transmit queue: chains become frames. Ingress, seen from the switch.
//!
//! A poll goes over its chains three times, so that what one step fetches ahead is there for the
//! next: heads, then descriptors, then the octets themselves.

#![expect(unsafe_code, reason = "frames are spans of guest memory, which the port keeps")]

use super::ring::{Chain, Direction, MAX_CHAIN, RingError, SplitRing};
use crate::{
    dataplane::{
        frame::{
            BURST, BURST_OCTETS, Burst, Frame, FrameSet, HEAD_LEN, MAX_FRAME_LEN, Span,
            offload::Segmentation, verdict::DropReason,
        },
        port::vhost_user::memory::GuestMemory,
    },
    wire::{
        ethernet,
        vnet::{self, Offload},
    },
};

/// What a descriptor of a chain, or a span, costs of a burst's octets ([`BURST_OCTETS`]): a burst
/// of frames in many pieces ends with about 1024 of them.
const PIECE_COST: usize = 512;
/// Octets at which a chain need not be followed any further: its frame is too long.
// One octet more than fits, so that too long differs from just long enough.
const ENOUGH: usize = vnet::HEADER_LEN + MAX_FRAME_LEN + 1;

/// One transmit queue.
#[derive(Debug)]
pub(in crate::dataplane::port::vhost_user) struct TxQueue {
    pub(in crate::dataplane::port::vhost_user) ring: SplitRing,
    /// A disabled queue is emptied, and what was in it dropped (vhost-user: "Ring states").
    pub(in crate::dataplane::port::vhost_user) enabled: bool,
    /// What the guest may leave to be cut.
    segmentation: Segmentation,
    /// Octets of the header in front of each frame.
    header_len: usize,
    /// The chains of the last poll.
    heads: [u16; BURST],
    /// Waiting chains that are dealt with: they are behind one that is not.
    done: FrameSet,
}

impl TxQueue {
    pub(in crate::dataplane::port::vhost_user) fn new(
        ring: SplitRing,
        enabled: bool,
        segmentation: Segmentation,
        header_len: usize,
    ) -> Self {
        Self { ring, enabled, segmentation, header_len, heads: [0; BURST], done: FrameSet::EMPTY }
    }

    /// Appends waiting frames to the burst and leaves them in the ring.
    pub(in crate::dataplane::port::vhost_user) fn poll(
        &mut self,
        memory: &GuestMemory,
        burst: &mut Burst,
    ) -> Result<(), RingError> {
        // Frames stay in the ring until they are dealt with: one whose receiver has no buffers is
        // polled again, and costs no memory of ours.
        let waiting = usize::from(self.ring.waiting()?).min(BURST);
        let count = self.ring.heads(0, &mut self.heads[..waiting])?;
        self.ring.prefetch_used(count);
        let mut octets = 0;
        for head in &self.heads[..count] {
            let (frame, spans) = burst.push();
            let first = spans.len();
            let wanted = (Direction::Readable, ENOUGH);
            // SAFETY: the burst is dealt with, or polled anew, before the port gives its memory up.
            let chain = unsafe { self.ring.chain(*head, memory, wanted, spans) }?;
            let len = match chain {
                Chain::Whole(span) if self.header_len == vnet::HEADER_LEN => {
                    span.prefetch();
                    frame.tail = span;
                    span.len()
                }
                // A short header is taken out of a chain like one in pieces: so legacy drivers send
                // theirs anyway.
                Chain::Whole(span) => {
                    spans.push(span);
                    frame.tail = Span::default();
                    span.len()
                }
                Chain::Pieces { octets: len, work } => {
                    frame.tail = Span::default();
                    // Work without octets: some thousand pieces end a burst as 512 KiB do.
                    octets += work * PIECE_COST;
                    len
                }
                Chain::TooLong => {
                    spans.truncate(first);
                    frame.tail = Span::default();
                    frame.invalid = Some(DropReason::ChainTooLong);
                    // What it took to find out.
                    octets += MAX_CHAIN * PIECE_COST;
                    0
                }
            };
            frame.pieces = first..spans.len();
            frame.len = len.saturating_sub(self.header_len);
            octets += len;
            // After the frame, not before: the first of a burst is taken whatever it costs.
            if octets >= BURST_OCTETS {
                break;
            }
        }
        // Octets last: by now those of the first frames have been fetched.
        let (frames, spans) = burst.frames_mut();
        for frame in frames {
            self.fill(frame, spans);
        }
        burst.done = self.done;
        Ok(())
    }

    /// Copies the frame's head out of its tail.
    #[inline]
    fn fill(&self, frame: &mut Frame, spans: &mut [Span]) {
        // First: of a disabled ring nothing is of interest (vhost-user: "Ring states").
        if !self.enabled {
            frame.invalid = Some(DropReason::QueueDisabled);
        } else if frame.len < ethernet::HEADER_LEN {
            // A chain that was too long has no octets either, and keeps its own reason.
            frame.invalid.get_or_insert(DropReason::FrameTooShort);
        } else if frame.len > MAX_FRAME_LEN {
            frame.invalid = Some(DropReason::FrameTooLong);
        }
        if frame.invalid.is_some() {
            frame.len = frame.len.min(MAX_FRAME_LEN);
            return;
        }
        frame.head_len = frame.len.min(HEAD_LEN);
        let head = &mut frame.head[..frame.head_len];
        // A tail in one piece holds the whole header: a shorter one was too short above.
        let header = match frame.tail.read() {
            Some(header) => {
                let rest = frame.tail.skip(vnet::HEADER_LEN);
                frame.tail = rest.skip(rest.copy_to_slice(head));
                header
            }
            None => {
                let mut header = [0; vnet::HEADER_LEN];
                let pieces = &mut spans[frame.pieces.clone()];
                let taken = take(pieces, &mut header[..self.header_len]);
                take(&mut pieces[taken..], head);
                header
            }
        };
        match vnet::Header::from(header).offload() {
            Ok(Offload::None) => {}
            // A driver must not ask for what it did not negotiate (virtio 1.2 §5.1.6.2.1).
            Ok(Offload::Segmentation { segments, .. }) if !self.segmentation.covers(segments) => {
                frame.invalid = Some(DropReason::UnexpectedSegmentation);
            }
            Ok(offload) => frame.offload = offload,
            Err(vnet::UnknownOffload) => frame.invalid = Some(DropReason::UnexpectedSegmentation),
        }
    }

    /// Returns the oldest frames of the last poll to the guest, in order: up to the first that is
    /// not in `done`.
    pub(in crate::dataplane::port::vhost_user) fn complete(&mut self, done: FrameSet) {
        // Used entries are in the order of available ones, always: that lets a restart go on by the
        // used index alone (docs/decisions/0001).
        let count = done.leading();
        for head in &self.heads[..count] {
            // 0: nothing was written to a chain that the device reads.
            self.ring.push_used(*head, 0);
        }
        self.ring.advance(count as u16);
        self.done = done.without_leading(count);
    }
}

/// Moves octets from the start of `spans` into `to`; returns how many spans that used up.
fn take(spans: &mut [Span], mut to: &mut [u8]) -> usize {
    let mut used_up = 0;
    for span in spans {
        let copied = span.copy_to_slice(to);
        *span = span.skip(copied);
        to = &mut to[copied..];
        if !span.is_empty() {
            break;
        }
        used_up += 1;
    }
    used_up
}
