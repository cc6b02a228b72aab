//! The guest's transmit queue: chains become frames. Ingress, seen from the switch.
//!
//! A poll goes over its chains three times, so that what one step fetches ahead is there for the next: heads, then
//! descriptors, then the octets themselves.

use super::{
    memory::{GuestMemory, Span},
    ring::{Direction, RingError, SplitRing},
};
use crate::{
    dataplane::{
        frame::{BURST, Burst, HEAD_LEN, MAX_FRAME_LEN},
        verdict::DropReason,
    },
    wire::{ethernet, vnet},
};
use zerocopy::FromBytes as _;

/// Cache lines of a frame that are looked at: its header and head.
const LINES: usize = 3;

/// One transmit queue.
#[derive(Debug)]
pub(super) struct TxQueue {
    pub(super) ring: SplitRing,
    /// A disabled queue is emptied, and what was in it dropped (vhost-user: "Ring states").
    pub(super) enabled: bool,
    /// The chains of the last poll.
    heads: [u16; BURST],
    /// Which of the chains that wait are dealt with already: those behind one that is not.
    done: u64,
}

impl TxQueue {
    pub(super) fn new(ring: SplitRing, enabled: bool) -> Self {
        Self { ring, enabled, heads: [0; BURST], done: 0 }
    }

    /// Appends waiting frames to the burst and leaves them in the ring.
    pub(super) fn poll(
        &mut self,
        memory: &GuestMemory,
        burst: &mut Burst,
    ) -> Result<(), RingError> {
        let waiting = usize::from(self.ring.waiting()?).min(BURST);
        let count = self.ring.heads(0, &mut self.heads[..waiting])?;
        self.ring.prefetch_used(count);
        for head in &self.heads[..count] {
            let first = burst.spans.len();
            let len = self.ring.chain(*head, memory, Direction::Readable, &mut burst.spans)?;
            if let Some(span) = burst.spans.get(first) {
                span.prefetch(LINES);
            }
            let tail = first..burst.spans.len();
            burst.push(len.saturating_sub(vnet::HEADER_LEN), tail);
        }
        for at in 0..count {
            self.fill(burst, at);
        }
        burst.done = self.done;
        Ok(())
    }

    /// Copies the frame's head out of its tail.
    #[inline]
    fn fill(&self, burst: &mut Burst, at: usize) {
        let (frame, spans) = burst.frame_mut(at);
        if !self.enabled {
            frame.unfit = Some(DropReason::QueueDisabled);
        } else if frame.len < ethernet::HEADER_LEN {
            frame.unfit = Some(DropReason::FrameTooShort);
        } else if frame.len > MAX_FRAME_LEN {
            frame.unfit = Some(DropReason::FrameTooLong);
        }
        if frame.unfit.is_some() {
            frame.len = frame.len.min(MAX_FRAME_LEN);
            return;
        }
        let mut header = [0; vnet::HEADER_LEN];
        frame.head_len = frame.len.min(HEAD_LEN);
        let chain = &mut spans[frame.tail.clone()];
        let mut taken = take(chain, &mut header);
        taken += take(&mut chain[taken..], &mut frame.head[..frame.head_len]);
        frame.tail.start += taken;
        match vnet::Header::read_from_bytes(&header).map(|header| header.checksum()) {
            Ok(Ok(checksum)) => frame.checksum = checksum,
            _ => frame.unfit = Some(DropReason::UnexpectedSegmentation),
        }
    }

    /// Returns frames of the last poll to the guest, in order: those of `done`, a bit each from the lowest, up to the
    /// first that is not.
    pub(super) fn complete(&mut self, done: u64) {
        let count = done.trailing_ones();
        for head in &self.heads[..count as usize] {
            self.ring.push_used(*head, 0);
        }
        self.ring.advance(count as u16);
        self.done = done.checked_shr(count).unwrap_or(0);
    }
}

/// Moves octets from the start of `spans` into `to`; gives how many spans that used up.
#[inline]
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
