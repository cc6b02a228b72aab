//! The guest's receive queue: frames go into its chains. Egress, seen from the switch.
//!
//! A delivery goes over its frames twice: first chains are found for all of them and fetched ahead,
//! then octets are copied. What the sender left to be done and this guest does not take is done on
//! the way (`frame/offload.rs`).

#![expect(unsafe_code, reason = "buffers are spans of guest memory, which the port keeps")]

use super::ring::{Chain, Direction, RingError, SplitRing};
use crate::{
    dataplane::{
        counters::PortCounters,
        frame::{
            BURST, Outgoing, Span,
            offload::{self, Octets, Offloads},
            scatter::Scatter,
            segment::Cut,
        },
        port::{
            Delivered, Undelivered,
            vhost_user::memory::{GuestMemory, dirty_log::DirtyLog},
        },
    },
    wire::vnet::{self, Offload},
};
use std::{ops::Range, sync::Arc};
use zerocopy::IntoBytes as _;

/// Chains a frame may be merged from: 64 KiB in buffers of 1 KiB.
// One more than 64: the Ethernet and virtio headers come on top of a packet of 64 KiB.
const MAX_CHAINS: usize = 65;
/// Frames between fetching a place ahead and writing there.
const AHEAD: usize = 8;
/// Segments, and descriptors and spans of chains in pieces, that a queue is given in one turn of
/// its reactor: as many as a ring of the largest size that VMMs use (1024) can need, each in two
/// pieces. What guests make of their rings and frames must not hold up others.
const WORK: usize = 2048;

/// One receive queue.
#[derive(Debug)]
pub(in crate::dataplane::port::vhost_user) struct RxQueue {
    pub(in crate::dataplane::port::vhost_user) ring: SplitRing,
    /// VIRTIO_NET_F_MRG_RXBUF is negotiated.
    mergeable: bool,
    /// What the guest takes unfinished.
    accepts: Offloads,
    /// Octets of the header in front of each frame.
    header_len: usize,
    /// Heads of the chains that wait, read as they are needed.
    heads: Vec<u16>,
    /// One for each frame, or segment of a frame that is cut.
    destinations: Vec<Destination>,
    /// Octets of each chain of those places that have several, and their spans.
    lens: Vec<usize>,
    spans: Vec<Span>,
    /// What was spent of [`WORK`] in this turn.
    work: usize,
    /// The guest has posted buffers here since the port began, or before.
    used: bool,
    /// Where it is counted what was finished for this guest.
    pub(in crate::dataplane::port::vhost_user) counters: Arc<PortCounters>,
}

/// Where a frame goes.
#[derive(Debug)]
struct Destination {
    /// The first of its chains.
    chain: usize,
    /// Octets, with the header.
    octets: usize,
    buffers: Buffers,
}

#[derive(Debug)]
enum Buffers {
    /// In the one chain, in one piece.
    Whole(Span),
    /// In several chains or pieces.
    Pieces { lens: Range<usize>, spans: Range<usize> },
}

impl RxQueue {
    pub(in crate::dataplane::port::vhost_user) fn new(
        ring: SplitRing,
        mergeable: bool,
        accepts: Offloads,
        header_len: usize,
    ) -> Self {
        Self {
            ring,
            mergeable,
            accepts,
            header_len,
            heads: Vec::with_capacity(BURST + MAX_CHAINS),
            destinations: Vec::with_capacity(BURST),
            lens: Vec::with_capacity(MAX_CHAINS),
            spans: Vec::with_capacity(MAX_CHAINS * 2),
            work: 0,
            used: false,
            counters: Arc::default(),
        }
    }

    /// Whether the guest receives here: VMMs enable queues that guests with fewer CPUs, or
    /// firmware, leave without buffers for ever.
    pub(in crate::dataplane::port::vhost_user) fn is_used(&mut self) -> bool {
        self.used = self.used || self.ring.position() != 0 || self.ring.waiting() != Ok(0);
        self.used
    }

    /// Shows the guest what was delivered: the turn is over.
    pub(in crate::dataplane::port::vhost_user) fn publish(&mut self) {
        self.ring.publish();
        self.work = 0;
    }

    /// Spends some of this turn's work. A frame that needs more than a whole turn fits no buffers
    /// of this guest. Any other waits for the next turn.
    fn spend(&mut self, work: usize, before: usize) -> Result<(), Undelivered> {
        self.work += work;
        match (self.work <= WORK, before) {
            (true, _) => Ok(()),
            (false, 0) => Err(Undelivered::TooLarge),
            (false, _) => Err(Undelivered::Full),
        }
    }

    /// Writes frames into as many chains as each takes, in order, each whole or not at all.
    pub(in crate::dataplane::port::vhost_user) fn deliver(
        &mut self,
        memory: &GuestMemory,
        frames: &[Outgoing<'_>],
    ) -> Delivered {
        self.heads.clear();
        self.destinations.clear();
        self.lens.clear();
        self.spans.clear();
        self.ring.prefetch_used(frames.len());
        let mut chain = 0;
        let mut taken = 0;
        let mut refused = None;
        for frame in frames {
            match self.place(memory, frame, chain, frames.len()) {
                Ok(chains) => (chain, taken) = (chain + chains, taken + 1),
                // In order: what is behind a frame that is not taken is not taken either.
                Err(why) => {
                    refused = Some(why);
                    break;
                }
            }
        }
        // The loop fetches what is AHEAD of it, which leaves out the first ones.
        (0..AHEAD).for_each(|at| self.prefetch(at));
        let mut at = 0;
        for frame in &frames[..taken] {
            self.prefetch(at + AHEAD);
            at += self.write(frame, at);
        }
        // Apart from the octets: the guest may be fetching the same lines, and takes each away but
        // once.
        for at in 0..self.destinations.len() {
            self.push_used(at);
        }
        self.ring.advance(chain as u16);
        Delivered { taken, refused }
    }

    /// Marks in `log` what the last delivery wrote to `memory`.
    #[cold]
    pub(in crate::dataplane::port::vhost_user) fn mark(
        &self,
        memory: &GuestMemory,
        log: &DirtyLog,
    ) {
        for destination in &self.destinations {
            let spans = match &destination.buffers {
                Buffers::Whole(span) => std::slice::from_ref(span),
                Buffers::Pieces { spans, .. } => &self.spans[spans.clone()],
            };
            let mut left = destination.octets;
            for span in spans {
                let written = span.first(left);
                log.mark(memory, written.address(), written.len() as u64);
                left -= written.len();
            }
        }
    }

    /// Finds chains for a frame, from waiting chain number `chain` on. It is one of `burst` frames,
    /// for which heads are read together. Returns the number of chains.
    #[inline]
    fn place(
        &mut self,
        memory: &GuestMemory,
        frame: &Outgoing<'_>,
        chain: usize,
        burst: usize,
    ) -> Result<usize, Undelivered> {
        if let Offload::Segmentation { .. } = frame.offload
            && let Some(cut) = self.cut(frame)
        {
            return self.place_segments(memory, &cut, chain);
        }
        self.place_octets(memory, frame.len, (chain, self.work), burst)
    }

    /// How a frame is to be cut, if this guest does not take it as it is.
    #[inline]
    fn cut<'f>(&self, frame: &Outgoing<'f>) -> Option<Cut<'f>> {
        match frame.offload {
            // Without merged buffers none need be large enough for it.
            Offload::Segmentation { start, segments, .. }
                if !(self.mergeable && self.accepts.covers(frame.offload)) =>
            {
                Cut::new(frame.head, frame.len, start, segments)
            }
            _ => None,
        }
    }

    /// Finds chains for all segments of a frame, or for none.
    #[cold]
    fn place_segments(
        &mut self,
        memory: &GuestMemory,
        cut: &Cut<'_>,
        chain: usize,
    ) -> Result<usize, Undelivered> {
        // A segment takes a chain at least: no waiting brings more than the ring has.
        if cut.count() > self.ring.size() {
            return Err(Undelivered::TooLarge);
        }
        let first = self.destinations.len();
        let before = self.work;
        // Charged before the chains are looked for: each segment has headers made and summed.
        self.spend(cut.count(), before)?;
        let mut taken = 0;
        for at in 0..cut.count() {
            match self.place_octets(memory, cut.len(at), (chain + taken, before), cut.count()) {
                Ok(chains) => taken += chains,
                Err(why) => {
                    // `lens` and `spans` keep what was noted: only places lead there, and the next
                    // delivery clears both.
                    self.destinations.truncate(first);
                    return Err(why);
                }
            }
        }
        Ok(taken)
    }

    /// Finds chains for a frame of `octets`, from waiting chain number `chain` on. `before` is the
    /// work of this turn before the frame. Returns the number of chains.
    #[inline(always)]
    fn place_octets(
        &mut self,
        memory: &GuestMemory,
        octets: usize,
        (chain, before): (usize, usize),
        burst: usize,
    ) -> Result<usize, Undelivered> {
        let octets = self.header_len + octets;
        let head = self.head(chain, burst)?;
        let first_span = self.spans.len();
        let wanted = (Direction::Writable, octets);
        // SAFETY: nothing is written to a destination after the delivery it was found for, in which
        // the memory is borrowed.
        let first = unsafe { self.ring.chain(head, memory, wanted, &mut self.spans) }?;
        // What is written behind a short header is put together like a frame in pieces.
        if let Chain::Whole(span) = first
            && span.len() >= octets
            && self.header_len == vnet::HEADER_LEN
        {
            self.destinations.push(Destination { chain, octets, buffers: Buffers::Whole(span) });
            return Ok(1);
        }
        self.place_pieces(memory, octets, (chain, first, first_span, before), burst)
    }

    /// As [`RxQueue::place_octets`], where the first chain is not enough, or in pieces.
    fn place_pieces(
        &mut self,
        memory: &GuestMemory,
        octets: usize,
        (chain, first, first_span, before): (usize, Chain, usize, usize),
        burst: usize,
    ) -> Result<usize, Undelivered> {
        let first_len = self.lens.len();
        let mut room = self.note(first, before)?;
        while room < octets {
            let taken = self.lens.len() - first_len;
            // Without merged buffers a frame has one chain (virtio 1.2 §5.1.6.3).
            if !self.mergeable || taken == MAX_CHAINS {
                return Err(Undelivered::TooLarge);
            }
            let head = self.head(chain + taken, burst)?;
            let enough = (Direction::Writable, octets - room);
            // SAFETY: as of the first chain.
            let next = unsafe { self.ring.chain(head, memory, enough, &mut self.spans) }?;
            room += self.note(next, before)?;
        }
        let (lens, spans) = (first_len..self.lens.len(), first_span..self.spans.len());
        let taken = lens.len();
        self.destinations.push(Destination {
            chain,
            octets,
            buffers: Buffers::Pieces { lens, spans },
        });
        Ok(taken)
    }

    /// Notes a chain of a place that has several. Returns its octets.
    fn note(&mut self, chain: Chain, before: usize) -> Result<usize, Undelivered> {
        let (len, work) = match chain {
            Chain::Whole(span) => {
                self.spans.push(span);
                (span.len(), 1)
            }
            Chain::Pieces { octets, work } => (octets, work),
            Chain::TooLong => return Err(RingError::ChainLength.into()),
        };
        self.lens.push(len);
        self.spend(work, before)?;
        Ok(len)
    }

    /// Returns the head of waiting chain number `at`. Reads `batch` more where it is not known yet.
    #[inline]
    fn head(&mut self, at: usize, batch: usize) -> Result<u16, Undelivered> {
        match self.heads.get(at) {
            Some(head) => Ok(*head),
            None => self.more_heads(at, batch),
        }
    }

    #[cold]
    fn more_heads(&mut self, at: usize, batch: usize) -> Result<u16, Undelivered> {
        // Many at once, so that the descriptors they lead to are fetched together.
        self.heads.resize(at + batch, 0);
        let read = self.ring.heads(at, &mut self.heads[at..])?;
        self.heads.truncate(at + read);
        self.heads.get(at).copied().ok_or(Undelivered::Full)
    }

    /// Fetches ahead where frame number `at` goes.
    #[inline]
    fn prefetch(&self, at: usize) {
        if let Some(Destination { buffers: Buffers::Whole(span), .. }) = self.destinations.get(at) {
            span.prefetch_write();
        }
    }

    /// Writes a frame into the place with number `at`, or its segments into those from there on;
    /// returns how many.
    #[inline(always)]
    fn write(&self, frame: &Outgoing<'_>, at: usize) -> usize {
        if let (Offload::None, [tail], Buffers::Whole(span)) =
            (frame.offload, frame.tail, &self.destinations[at].buffers)
            && let Some(span) = span.write(&vnet::Header::PLAIN)
        {
            let rest = span.skip(span.copy_from_slice(frame.head));
            // The tail may be longer than the frame: padding was left out.
            rest.copy_from_span(tail.first(frame.len - frame.head.len()));
            return 1;
        }
        self.write_other(frame, at)
    }

    /// As [`RxQueue::write`], whatever the frame and its place are.
    fn write_other(&self, frame: &Outgoing<'_>, at: usize) -> usize {
        if let Some(cut) = self.cut(frame) {
            return self.write_segments(frame, &cut, at);
        }
        self.scatter(at, frame.offload, offload::headers_len(frame), Octets::of(frame));
        1
    }

    /// As [`RxQueue::write`], of a frame that is cut.
    #[cold]
    fn write_segments(&self, frame: &Outgoing<'_>, cut: &Cut<'_>, at: usize) -> usize {
        offload::segments(frame, cut, |number, octets, offload| {
            self.scatter(at + number, offload, 0, octets);
        });
        // Checksums of segments are counted as they are completed.
        self.counters.frames_cut.add(1);
        self.counters.segments_made.add(cut.count() as u64);
        cut.count()
    }

    /// Writes the used entries of the place with number `at`.
    #[inline]
    fn push_used(&mut self, at: usize) {
        let destination = &self.destinations[at];
        let mut left = destination.octets;
        match &destination.buffers {
            Buffers::Whole(_) => self.ring.push_used(self.heads[destination.chain], left as u32),
            Buffers::Pieces { lens, .. } => {
                for (head, len) in
                    self.heads[destination.chain..].iter().zip(&self.lens[lens.clone()])
                {
                    let written = left.min(*len);
                    self.ring.push_used(*head, written as u32);
                    left -= written;
                }
            }
        }
    }

    /// Writes a frame into place number `at`. Completes the offloads that the guest did not
    /// negotiate.
    fn scatter(&self, at: usize, offload: Offload, headers_len: u16, octets: Octets<'_>) {
        let (spans, buffers) = match &self.destinations[at].buffers {
            Buffers::Whole(span) => (std::slice::from_ref(span), 1),
            Buffers::Pieces { lens, spans } => (&self.spans[spans.clone()], lens.len() as u16),
        };
        let mut out = Scatter::new(spans);
        match offload {
            // A frame to be segmented comes here only where the guest takes open checksums, too.
            Offload::Checksum { start, offset } if !self.accepts.checksum => {
                let header = vnet::Header::to_guest(Offload::None, 0, buffers);
                let header = &header.as_bytes()[..self.header_len];
                octets.write_summed(out, header, (start.into(), offset.into()));
                self.counters.checksums_completed.add(1);
            }
            _ => {
                let header = vnet::Header::to_guest(offload, headers_len, buffers);
                out.put(&header.as_bytes()[..self.header_len]);
                octets.write(out);
            }
        }
    }
}

impl From<RingError> for Undelivered {
    fn from(error: RingError) -> Self {
        Self::Failed(crate::dataplane::port::vhost_user::failure("receive", error))
    }
}
