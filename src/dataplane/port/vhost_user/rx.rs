//! The guest's receive queue: frames go into its chains. Egress, seen from the switch.
//!
//! A delivery goes over its frames twice: first chains are found for all of them and fetched ahead, then octets are
//! copied. A checksum that the sender left open and this guest does not take is finished on the way.

use super::{
    memory::{GuestMemory, Span},
    ring::{Direction, RingError, SplitRing},
};
use crate::{
    dataplane::{
        frame::{BURST, HEAD_LEN, Outgoing},
        port::Undelivered,
    },
    wire::{
        checksum,
        vnet::{self, Checksum},
    },
};
use std::ops::Range;
use zerocopy::IntoBytes as _;

/// Chains a frame may be merged from: 64 KiB in buffers of 1 KiB.
const MAX_CHAINS: usize = 65;
/// Cache lines of a frame's place that are fetched ahead.
const LINES: usize = 2;
/// Octets that are summed and copied at a time.
const CHUNK: usize = 2048;

/// One receive queue.
#[derive(Debug)]
pub(super) struct RxQueue {
    pub(super) ring: SplitRing,
    /// VIRTIO_NET_F_MRG_RXBUF is negotiated.
    mergeable: bool,
    /// VIRTIO_NET_F_GUEST_CSUM is negotiated.
    takes_partial: bool,
    /// Heads of the chains that wait, read as they are needed.
    heads: Vec<u16>,
    /// Octets of the chains that were looked at.
    lens: Vec<usize>,
    spans: Vec<Span>,
    places: Vec<Place>,
}

/// Where a frame goes.
#[derive(Debug)]
struct Place {
    chains: Range<usize>,
    spans: Range<usize>,
}

impl RxQueue {
    pub(super) fn new(ring: SplitRing, mergeable: bool, takes_partial: bool) -> Self {
        Self {
            ring,
            mergeable,
            takes_partial,
            heads: Vec::with_capacity(BURST + MAX_CHAINS),
            lens: Vec::with_capacity(BURST + MAX_CHAINS),
            spans: Vec::with_capacity(BURST + MAX_CHAINS * 2),
            places: Vec::with_capacity(BURST),
        }
    }

    /// Writes frames into as many chains as each takes, in order, each whole or not at all. Gives how many it wrote,
    /// and why it wrote no more.
    pub(super) fn deliver(
        &mut self,
        memory: &GuestMemory,
        frames: &[Outgoing<'_>],
    ) -> Result<(), (usize, Undelivered)> {
        self.heads.clear();
        self.lens.clear();
        self.spans.clear();
        self.places.clear();
        self.ring.prefetch_used(frames.len());
        let placed = frames.iter().try_for_each(|frame| self.place(memory, frame, frames.len()));
        let mut used = 0;
        for (frame, place) in frames.iter().zip(&self.places) {
            self.write(frame, place);
            used = place.chains.end;
        }
        for (frame, place) in frames.iter().zip(&self.places) {
            let mut left = vnet::HEADER_LEN + frame.len;
            for chain in place.chains.clone() {
                let written = self.lens[chain].min(left);
                self.ring.push_used(self.heads[chain], written as u32);
                left -= written;
            }
        }
        self.ring.advance(used as u16);
        placed.map_err(|why| (self.places.len(), why))
    }

    /// Finds chains for a frame, one of `burst`.
    #[inline]
    fn place(
        &mut self,
        memory: &GuestMemory,
        frame: &Outgoing<'_>,
        burst: usize,
    ) -> Result<(), Undelivered> {
        let (first, first_span) = (self.lens.len(), self.spans.len());
        let limit = if self.mergeable { MAX_CHAINS } else { 1 };
        let needed = vnet::HEADER_LEN + frame.len;
        let mut room = 0;
        while room < needed {
            if self.lens.len() - first == limit {
                return Err(Undelivered::TooLarge);
            }
            let head = self.head(self.lens.len(), burst)?;
            let len = self.ring.chain(head, memory, Direction::Writable, &mut self.spans)?;
            self.lens.push(len);
            room += len;
        }
        if let Some(span) = self.spans.get(first_span) {
            span.first(needed).prefetch_write(LINES);
        }
        self.places
            .push(Place { chains: first..self.lens.len(), spans: first_span..self.spans.len() });
        Ok(())
    }

    /// The head of chain number `at` of those that wait; reads `batch` of them where it is not known yet.
    #[inline]
    fn head(&mut self, at: usize, batch: usize) -> Result<u16, Undelivered> {
        if at == self.heads.len() {
            self.heads.resize(at + batch, 0);
            let read = self.ring.heads(at, &mut self.heads[at..])?;
            self.heads.truncate(at + read);
        }
        self.heads.get(at).copied().ok_or(Undelivered::Full)
    }

    #[inline]
    fn write(&self, frame: &Outgoing<'_>, place: &Place) {
        let buffers = place.chains.len() as u16;
        let spans = &self.spans[place.spans.clone()];
        if let Checksum::Partial { start, offset } = frame.checksum
            && !self.takes_partial
        {
            let header = vnet::Header::to_guest(Checksum::Complete, buffers);
            write_summed(Scatter::new(spans), &header, frame, start.into(), offset.into());
            return;
        }
        let header = vnet::Header::to_guest(frame.checksum, buffers);
        let tail = frame.len - frame.head.len();
        match (spans, frame.tail) {
            ([span], [] | [_]) => {
                span.copy_from_slice(header.as_bytes());
                let span = span.skip(vnet::HEADER_LEN);
                span.copy_from_slice(frame.head);
                if let [rest] = frame.tail {
                    span.skip(frame.head.len()).copy_from_span(rest.first(tail));
                }
            }
            _ => {
                let mut out = Scatter::new(spans);
                out.put(header.as_bytes());
                out.put(frame.head);
                out.put_spans(frame.tail, tail);
            }
        }
    }
}

impl From<RingError> for Undelivered {
    fn from(error: RingError) -> Self {
        Self::Failed(super::failure("receive", error))
    }
}

/// Writes a frame whose checksum, from octet `start` on and at `offset` from there, is to be finished. What is summed
/// is what is written: guest memory is read once.
fn write_summed(
    mut out: Scatter<'_>,
    header: &vnet::Header,
    frame: &Outgoing<'_>,
    start: usize,
    offset: usize,
) {
    let (front, rest) = frame.head.split_at(frame.head.len().min(HEAD_LEN));
    let mut head = [0; HEAD_LEN];
    let head = &mut head[..front.len()];
    head.copy_from_slice(front);
    let mut sum = checksum::Checksum::new();
    sum.add(head.get(start..).unwrap_or(&[]));
    sum.add(rest);
    let mut front = out;
    out.skip(vnet::HEADER_LEN + head.len());
    out.put(rest);
    let mut left = frame.len - frame.head.len();
    let mut chunk = [0; CHUNK];
    for span in frame.tail {
        let mut span = span.first(left);
        left -= span.len();
        while !span.is_empty() {
            let copied = span.copy_to_slice(&mut chunk);
            span = span.skip(copied);
            sum.add(&chunk[..copied]);
            out.put(&chunk[..copied]);
        }
    }
    // A sum of 0 is sent as 0xffff: the same to TCP, and to UDP not "none" (RFC 768).
    if let Some(field) = head.get_mut(start + offset..start + offset + 2) {
        field.copy_from_slice(&sum.finish_udp().to_be_bytes());
    }
    front.put(header.as_bytes());
    front.put(head);
}

/// Writes one thing after the other into spans, which have room for all of it.
#[derive(Clone, Copy)]
struct Scatter<'a> {
    spans: &'a [Span],
    at: usize,
    /// Octets of `spans[at]` already written.
    skipped: usize,
}

impl<'a> Scatter<'a> {
    fn new(spans: &'a [Span]) -> Self {
        Self { spans, at: 0, skipped: 0 }
    }

    fn room(&self) -> Option<Span> {
        self.spans.get(self.at).map(|span| span.skip(self.skipped))
    }

    fn skip(&mut self, octets: usize) {
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
            self.skip(copied);
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
                self.skip(copied);
            }
        }
    }
}
