//! The guest's receive queue: frames go into its chains. Egress, seen from the switch.

use super::{
    memory::{GuestMemory, Span},
    ring::{Chain, Direction, RingError, SplitRing},
};
use crate::{
    dataplane::{frame::Outgoing, port::Undelivered},
    wire::vnet,
};
use zerocopy::IntoBytes as _;

/// Chains a frame may be merged from: 64 KiB in buffers of 1 KiB.
const MAX_CHAINS: usize = 65;

/// One receive queue.
#[derive(Debug)]
pub(super) struct RxQueue {
    pub(super) ring: SplitRing,
    /// VIRTIO_NET_F_MRG_RXBUF is negotiated.
    mergeable: bool,
    chains: Vec<Chain>,
    spans: Vec<Span>,
}

impl RxQueue {
    pub(super) fn new(ring: SplitRing, mergeable: bool) -> Self {
        Self {
            ring,
            mergeable,
            chains: Vec::with_capacity(MAX_CHAINS),
            spans: Vec::with_capacity(MAX_CHAINS * 2),
        }
    }

    /// Writes a frame into as many chains as it takes, or into none.
    pub(super) fn deliver(
        &mut self,
        memory: &GuestMemory,
        frame: &Outgoing<'_>,
    ) -> Result<(), Undelivered> {
        let needed = vnet::HEADER_LEN + frame.len;
        self.gather(memory, needed)?;
        let buffers = self.chains.len() as u16;
        let header = vnet::Header::to_guest(frame.checksum, buffers);
        let mut out = Scatter { spans: &self.spans, at: 0, skipped: 0 };
        out.put(header.as_bytes());
        out.put(frame.head);
        out.put_spans(frame.tail, frame.len - frame.head.len());
        let mut left = needed;
        for chain in &self.chains {
            let written = chain.len.min(left);
            self.ring.push_used(chain.head, written as u32);
            left -= written;
        }
        self.ring.advance(buffers);
        Ok(())
    }

    /// Looks at enough chains for `needed` octets.
    fn gather(&mut self, memory: &GuestMemory, needed: usize) -> Result<(), Undelivered> {
        self.chains.clear();
        self.spans.clear();
        let limit = if self.mergeable { MAX_CHAINS } else { 1 };
        let mut room = 0;
        while room < needed {
            if self.chains.len() == limit {
                return Err(Undelivered::TooLarge);
            }
            let ahead = self.chains.len() as u16;
            let chain = self.ring.peek(ahead, memory, Direction::Writable, &mut self.spans)?;
            let chain = chain.ok_or(Undelivered::Full)?;
            room += chain.len;
            self.chains.push(chain);
        }
        Ok(())
    }
}

impl From<RingError> for Undelivered {
    fn from(error: RingError) -> Self {
        Self::Failed(super::failure("receive", error))
    }
}

/// Writes one thing after the other into spans, which have room for all of it.
struct Scatter<'a> {
    spans: &'a [Span],
    at: usize,
    /// Octets of `spans[at]` already written.
    skipped: usize,
}

impl Scatter<'_> {
    fn room(&self) -> Option<Span> {
        self.spans.get(self.at).map(|span| span.skip(self.skipped))
    }

    fn wrote(&mut self, octets: usize) {
        self.skipped += octets;
        while let Some(span) = self.spans.get(self.at)
            && self.skipped >= span.len()
        {
            self.skipped -= span.len();
            self.at += 1;
        }
    }

    fn put(&mut self, mut octets: &[u8]) {
        while !octets.is_empty()
            && let Some(room) = self.room()
        {
            let copied = room.copy_from_slice(octets);
            octets = &octets[copied..];
            self.wrote(copied);
        }
    }

    fn put_spans(&mut self, tail: &[Span], mut len: usize) {
        for span in tail {
            let mut from = span.skip(0);
            while len > 0
                && !from.is_empty()
                && let Some(room) = self.room()
            {
                let copied = room.first(len).copy_from_span(from);
                from = from.skip(copied);
                len -= copied;
                self.wrote(copied);
            }
        }
    }
}
