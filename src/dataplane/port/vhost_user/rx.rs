//! The guest's receive queue: frames go into its chains. Egress, seen from the switch.
//!
//! A delivery goes over its frames twice: first chains are found for all of them and fetched ahead, then octets are
//! copied. A checksum that the sender left open and this guest does not take is finished on the way.

use super::{
    memory::{GuestMemory, Span},
    ring::{Chain, Direction, RingError, SplitRing},
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
/// Frames between fetching a place ahead and writing there.
const AHEAD: usize = 8;
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
    places: Vec<Place>,
    /// Octets of each chain of those places that have several, and their spans.
    lens: Vec<usize>,
    spans: Vec<Span>,
}

/// Where a frame goes.
#[derive(Debug)]
struct Place {
    /// The first of its chains.
    chain: usize,
    room: Room,
}

#[derive(Debug)]
enum Room {
    /// In the one chain, in one piece.
    Whole(Span),
    /// In several chains or pieces.
    Pieces { lens: Range<usize>, spans: Range<usize> },
}

impl RxQueue {
    pub(super) fn new(ring: SplitRing, mergeable: bool, takes_partial: bool) -> Self {
        Self {
            ring,
            mergeable,
            takes_partial,
            heads: Vec::with_capacity(BURST + MAX_CHAINS),
            places: Vec::with_capacity(BURST),
            lens: Vec::with_capacity(MAX_CHAINS),
            spans: Vec::with_capacity(MAX_CHAINS * 2),
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
        self.places.clear();
        self.lens.clear();
        self.spans.clear();
        self.ring.prefetch_used(frames.len());
        let mut chain = 0;
        let mut placed = Ok(());
        for frame in frames {
            match self.place(memory, frame, chain, frames.len()) {
                Ok(taken) => chain += taken,
                Err(why) => {
                    placed = Err(why);
                    break;
                }
            }
        }
        (0..AHEAD).for_each(|at| self.prefetch(at));
        for (at, frame) in frames[..self.places.len()].iter().enumerate() {
            self.prefetch(at + AHEAD);
            self.write(frame, at);
        }
        // Apart from the octets: the guest may be fetching the same lines, and takes each away but once.
        for (at, frame) in frames[..self.places.len()].iter().enumerate() {
            self.push_used(frame, at);
        }
        self.ring.advance(chain as u16);
        placed.map_err(|why| (self.places.len(), why))
    }

    /// Finds chains for a frame, one of `burst`, from number `chain` of those that wait on. Gives how many.
    #[inline]
    fn place(
        &mut self,
        memory: &GuestMemory,
        frame: &Outgoing<'_>,
        chain: usize,
        burst: usize,
    ) -> Result<usize, Undelivered> {
        let needed = vnet::HEADER_LEN + frame.len;
        let head = self.head(chain, burst)?;
        let first_span = self.spans.len();
        let first = self.ring.chain(head, memory, Direction::Writable, &mut self.spans)?;
        if let Chain::Whole(span) = first
            && span.len() >= needed
        {
            self.places.push(Place { chain, room: Room::Whole(span) });
            return Ok(1);
        }
        let first_len = self.lens.len();
        let mut room = self.note(first);
        while room < needed {
            let taken = self.lens.len() - first_len;
            if !self.mergeable || taken == MAX_CHAINS {
                return Err(Undelivered::TooLarge);
            }
            let head = self.head(chain + taken, burst)?;
            let next = self.ring.chain(head, memory, Direction::Writable, &mut self.spans)?;
            room += self.note(next);
        }
        let (lens, spans) = (first_len..self.lens.len(), first_span..self.spans.len());
        let taken = lens.len();
        self.places.push(Place { chain, room: Room::Pieces { lens, spans } });
        Ok(taken)
    }

    /// Notes a chain of a place that has several. Gives its octets.
    fn note(&mut self, chain: Chain) -> usize {
        let len = match chain {
            Chain::Whole(span) => {
                self.spans.push(span);
                span.len()
            }
            Chain::Pieces(len) => len,
        };
        self.lens.push(len);
        len
    }

    /// The head of chain number `at` of those that wait; reads `batch` of them where it is not known yet.
    #[inline]
    fn head(&mut self, at: usize, batch: usize) -> Result<u16, Undelivered> {
        match self.heads.get(at) {
            Some(head) => Ok(*head),
            None => self.more_heads(at, batch),
        }
    }

    #[cold]
    fn more_heads(&mut self, at: usize, batch: usize) -> Result<u16, Undelivered> {
        self.heads.resize(at + batch, 0);
        let read = self.ring.heads(at, &mut self.heads[at..])?;
        self.heads.truncate(at + read);
        self.heads.get(at).copied().ok_or(Undelivered::Full)
    }

    /// Fetches ahead where frame number `at` goes.
    #[inline]
    fn prefetch(&self, at: usize) {
        if let Some(Place { room: Room::Whole(span), .. }) = self.places.get(at) {
            span.prefetch_write();
        }
    }

    /// Writes frame number `at`.
    #[inline]
    fn write(&self, frame: &Outgoing<'_>, at: usize) {
        match &self.places[at].room {
            Room::Whole(span) => {
                if let (Checksum::Complete, [tail]) = (frame.checksum, frame.tail)
                    && let Some(span) = span.write(&vnet::Header::PLAIN)
                {
                    let rest = span.skip(span.copy_from_slice(frame.head));
                    rest.copy_from_span(tail.first(frame.len - frame.head.len()));
                } else {
                    self.scatter(frame, Scatter::new(std::slice::from_ref(span)), 1);
                }
            }
            Room::Pieces { lens, spans } => {
                self.scatter(frame, Scatter::new(&self.spans[spans.clone()]), lens.len() as u16);
            }
        }
    }

    /// Writes the used entries of frame number `at`.
    #[inline]
    fn push_used(&mut self, frame: &Outgoing<'_>, at: usize) {
        let mut left = vnet::HEADER_LEN + frame.len;
        let place = &self.places[at];
        match &place.room {
            Room::Whole(_) => self.ring.push_used(self.heads[place.chain], left as u32),
            Room::Pieces { lens, .. } => {
                for (head, len) in self.heads[place.chain..].iter().zip(&self.lens[lens.clone()]) {
                    let written = left.min(*len);
                    self.ring.push_used(*head, written as u32);
                    left -= written;
                }
            }
        }
    }

    /// Writes a frame, whatever it is, to where there is room for it in `buffers` chains.
    fn scatter(&self, frame: &Outgoing<'_>, mut out: Scatter<'_>, buffers: u16) {
        if let Checksum::Partial { start, offset } = frame.checksum
            && !self.takes_partial
        {
            let header = vnet::Header::to_guest(Checksum::Complete, buffers);
            write_summed(out, &header, frame, start.into(), offset.into());
        } else {
            out.put(vnet::Header::to_guest(frame.checksum, buffers).as_bytes());
            out.put(frame.head);
            out.put_spans(frame.tail, frame.len - frame.head.len());
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
