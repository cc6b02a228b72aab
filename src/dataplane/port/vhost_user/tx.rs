//! The guest's transmit queue: chains become frames. Ingress, seen from the switch.

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

/// One transmit queue.
#[derive(Debug)]
pub(super) struct TxQueue {
    pub(super) ring: SplitRing,
    /// A disabled queue is emptied, and what was in it dropped (vhost-user: "Ring states").
    pub(super) enabled: bool,
    /// The chains of the last poll.
    heads: [u16; BURST],
}

impl TxQueue {
    pub(super) fn new(ring: SplitRing, enabled: bool) -> Self {
        Self { ring, enabled, heads: [0; BURST] }
    }

    /// Appends waiting frames to the burst and leaves them in the ring.
    pub(super) fn poll(
        &mut self,
        memory: &GuestMemory,
        burst: &mut Burst,
    ) -> Result<(), RingError> {
        let waiting = usize::from(self.ring.waiting()?).min(BURST);
        for at in 0..waiting {
            let frame = burst.push();
            let first = frame.tail.start;
            let chain = self.ring.peek(at as u16, memory, Direction::Readable, &mut burst.spans)?;
            let Some(chain) = chain else { break };
            self.heads[at] = chain.head;
            self.fill(burst, at, first, chain.len);
        }
        Ok(())
    }

    /// Copies the frame's head out of the spans from `first` on, and cuts them to its tail.
    fn fill(&self, burst: &mut Burst, at: usize, first: usize, chain_len: usize) {
        let (frame, spans) = burst.frame_mut(at);
        frame.len = chain_len.saturating_sub(vnet::HEADER_LEN);
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
        let mut start = first;
        let mut header = [0; vnet::HEADER_LEN];
        take(spans, &mut start, &mut header);
        frame.head_len = frame.len.min(HEAD_LEN);
        take(spans, &mut start, &mut frame.head[..frame.head_len]);
        frame.tail = start..spans.len();
        match vnet::Header::read_from_bytes(&header).map(|header| header.checksum()) {
            Ok(Ok(checksum)) => frame.checksum = checksum,
            _ => frame.unfit = Some(DropReason::UnexpectedSegmentation),
        }
    }

    /// Returns the oldest `frames` of the last poll to the guest.
    pub(super) fn complete(&mut self, frames: usize) {
        for head in &self.heads[..frames] {
            self.ring.push_used(*head, 0);
        }
        self.ring.advance(frames as u16);
    }
}

/// Moves octets from the spans at `start` on into `to`; `start` ends at what is left.
fn take(spans: &mut [Span], start: &mut usize, mut to: &mut [u8]) {
    while !to.is_empty()
        && let Some(span) = spans.get_mut(*start)
    {
        let copied = span.copy_to_slice(to);
        *span = span.skip(copied);
        to = &mut to[copied..];
        if span.is_empty() {
            *start += 1;
        }
    }
}
