//! Channels between reactors: for each ordered pair one ring of variable-length records in one huge
//! page, with one producer and one consumer, made when first used.
//!
//! ```text
//! head ──▶ [len│from│to│…│frame…][len│from│to│…│frame…] ◀── tail
//! cursors run freely; a record never wraps
//! ```
//! The producer writes records behind `tail` and publishes it; the consumer reads up to `tail` and
//! publishes `head` (`cursors.rs`). Who makes a link keeps the producer, sends the consumer to the
//! other reactor and calls it. A sleeping consumer is woken by its `Waker` (`sleep.rs`).
#![expect(
    unsafe_code,
    reason = "a single-producer single-consumer ring hands memory from one thread to another"
)]

use super::{
    cursors,
    hugepage::{HugePage, Hugepages, LEN},
    sleep::Sleep,
    ways::Envelope,
};
use crate::{
    dataplane::frame::{BURST, Outgoing, Span},
    log_limit::{LogLimit, Said},
    wire::vnet::Offload,
};
use arrayvec::ArrayVec;
use rustix::event::{EventfdFlags, eventfd};
use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, mpsc},
    time::Instant,
};

/// Records start at multiples of this.
// A cache line: while the consumer reads a record the producer writes the next, on other lines.
const ALIGN: usize = 64;

/// What stands before the octets of a frame.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Record {
    /// Octets of the frame; `u32::MAX`: nothing more before the end of the page.
    len: u32,
    offload: Offload,
    envelope: Envelope,
}

// No length of a frame: those are far below.
const SKIP: u32 = u32::MAX;
const FRAME_AT: usize = size_of::<Record>().next_multiple_of(ALIGN);
// One that says SKIP is written where no more than this is left of the page.
const _: () = assert!(size_of::<Record>() <= ALIGN);

/// How many octets of a port may still be in a link. It leaves room for others beside a port whose
/// frames are not taken fast enough.
#[derive(Debug, Clone, Copy, Default)]
pub struct Share {
    /// All that is counted in `before` is in front of this.
    mark: usize,
    before: usize,
    since: usize,
}

impl Share {
    /// Octets that the port may append. Half of the link is free to all, and beyond that each port
    /// has an eighth: the larger rest counts.
    fn room(&mut self, head: usize, tail: usize) -> usize {
        // All that was in the link at the mark has been read: what is left of the port came since.
        // It is an upper bound that needs neither a list of records nor a word from the consumer.
        if head >= self.mark {
            *self = Self { mark: tail, before: self.since, since: 0 };
        }
        // An eighth holds several of the longest frames, so a port is slowed down, not shut out.
        let common = (LEN / 2).saturating_sub(tail - head);
        common.max((LEN / 8).saturating_sub(self.before + self.since))
    }

    fn take(&mut self, octets: usize) {
        self.since += octets;
    }
}

/// The end of a link that one reactor fills.
#[derive(Debug)]
pub struct Producer(cursors::Producer<HugePage>);

/// The end that another one empties.
#[derive(Debug)]
pub struct Consumer(cursors::Consumer<HugePage>);

/// Returns both ends of an empty link.
pub fn link(hugepages: Hugepages) -> io::Result<(Producer, Consumer)> {
    let (producer, consumer) = cursors::split(HugePage::new(hugepages)?);
    Ok((Producer(producer), Consumer(consumer)))
}

impl Producer {
    /// Appends frames from a port, as many as there is room for and its `share` allows; returns how
    /// many.
    pub fn push(
        &mut self,
        envelope: &Envelope,
        frames: &[Outgoing<'_>],
        share: &mut Share,
    ) -> usize {
        let (head, start) = self.0.free();
        let end = start + share.room(head, start);
        let mut tail = start;
        let pushed = frames.iter().map_while(|frame| {
            // A frame beyond the share is written, and not published: the next one overwrites it.
            tail = self.append(head, tail, envelope, frame).filter(|tail| *tail <= end)?;
            Some(())
        });
        let pushed = pushed.count();
        share.take(tail - start);
        self.0.publish(tail);
        pushed
    }

    /// Writes a frame between `tail` and `head`, invisible yet; returns the new tail, unless there
    /// is no room.
    fn append(
        &mut self,
        head: usize,
        mut tail: usize,
        envelope: &Envelope,
        frame: &Outgoing<'_>,
    ) -> Option<usize> {
        let needed = (FRAME_AT + frame.len).next_multiple_of(ALIGN);
        // A frame in one piece is one slice for its reader: that is worth the rest of the page.
        let to_end = LEN - tail % LEN;
        let skipped = if to_end < needed { to_end } else { 0 };
        if tail - head + skipped + needed > LEN {
            return None;
        }
        if skipped > 0 {
            let nothing = Record { len: SKIP, offload: Offload::None, envelope: *envelope };
            self.write(tail, nothing);
            tail += skipped;
        }
        let (len, offload) = (frame.len as u32, frame.offload);
        self.write(tail, Record { len, offload, envelope: *envelope });
        let at = place(self.0.page(), tail + FRAME_AT);
        // SAFETY: the octets lie in the free part of the page, which is the producer's until `tail`
        // is published. There is one producer, and `&mut self` has it.
        let octets = unsafe { std::slice::from_raw_parts_mut(at, frame.len) };
        // The head is private and may have been rewritten; the tail is read from the guest's
        // memory.
        let (front, rest) = octets.split_at_mut(frame.head.len());
        front.copy_from_slice(frame.head);
        Span::gather(frame.tail, rest);
        Some(tail + needed)
    }

    fn write(&mut self, cursor: usize, record: Record) {
        // SAFETY: cursors are aligned to 64 and a record fits before the page ends; the place is
        // the producer's.
        unsafe { place(self.0.page(), cursor).cast::<Record>().write(record) };
    }
}

impl Consumer {
    /// Hands the oldest run of frames with the same envelope to `take`. Returns their number.
    pub fn pop(&mut self, take: impl FnOnce(&Envelope, &[Outgoing<'_>])) -> usize {
        let (mut head, tail) = self.0.published();
        let mut frames = ArrayVec::<Outgoing<'_>, BURST>::new();
        let mut envelope = None;
        while head != tail && !frames.is_full() {
            let record = self.read(head);
            // Never the last one: it is published together with the record that did not fit before
            // it.
            if record.len == SKIP {
                head += LEN - head % LEN;
                continue;
            }
            // A run goes to one ring: the receiver is looked up once for all of it.
            if *envelope.get_or_insert(record.envelope) != record.envelope {
                break;
            }
            let (at, len) = (place(self.0.page(), head + FRAME_AT), record.len as usize);
            // SAFETY: a published record is the consumer's until `head` is published, and lies in
            // the page. There is one consumer, and `&mut self` has it until `frames` is dropped.
            let octets = unsafe { std::slice::from_raw_parts(at, len) };
            frames.push(Outgoing::private(octets, record.offload));
            head += (FRAME_AT + len).next_multiple_of(ALIGN);
        }
        let popped = frames.len();
        if let Some(envelope) = envelope {
            // Before the release: the frames are the page's own octets. If this panics they are
            // taken again, for a port that has failed by then, and are dropped.
            take(&envelope, &frames);
            drop(frames);
            self.0.release(head);
        }
        popped
    }

    fn is_empty(&self) -> bool {
        let (head, tail) = self.0.published();
        head == tail
    }

    fn read(&self, cursor: usize) -> Record {
        // SAFETY: as `Producer::write`; the place is the consumer's, and the producer wrote a
        // record there.
        unsafe { place(self.0.page(), cursor).cast::<Record>().read() }
    }
}

/// Returns where in the page a cursor is.
fn place(page: &HugePage, cursor: usize) -> *mut u8 {
    page.pointer().wrapping_add(cursor % LEN)
}

/// Wakes a reactor that sleeps.
#[derive(Debug)]
pub(super) struct Waker {
    sleep: Sleep,
    /// Readable when woken. Written at most once a sleep, so it never fills.
    pub(super) eventfd: OwnedFd,
}

impl Waker {
    /// A waker for a reactor that is awake.
    pub(super) fn new() -> io::Result<Self> {
        // It need not be read: a poll of io_uring wakes at each write, whatever the count is.
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { sleep: Sleep::new(), eventfd })
    }

    /// Tells the reactor that commands wait.
    pub(super) fn call(&self) {
        if self.sleep.call() {
            self.wake();
        }
    }

    /// Whether commands wait; says so once.
    pub(super) fn was_called(&self) -> bool {
        self.sleep.was_called()
    }

    fn wake(&self) {
        let written = rustix::io::write(&self.eventfd, &1_u64.to_ne_bytes());
        debug_assert!(written.is_ok(), "it is ours and never full");
    }
}

/// What all reactors know of each other.
#[derive(Debug)]
pub(super) struct Peers {
    wakers: Vec<Arc<Waker>>,
    /// Where each reactor finds its ends of new links.
    arrivals: Vec<mpsc::Sender<Consumer>>,
    hugepages: Hugepages,
}

/// One reactor's ends of the links: it is the producer of those to the others, and the consumer of
/// those from them.
#[derive(Debug)]
pub(super) struct Links {
    here: usize,
    peers: Arc<Peers>,
    arrivals: mpsc::Receiver<Consumer>,
    incoming: Vec<Consumer>,
    /// By reactor. None to most: each link is 2 MiB, and most pairs of reactors never need theirs.
    outgoing: Vec<Option<Producer>>,
    /// Reactors that were sent something since the last flush.
    sent: Vec<usize>,
    /// What each port, by its slot, has in the link to each reactor.
    shares: Vec<Vec<Share>>,
    log: LogLimit,
}

impl Links {
    /// Returns the ends of each of the reactors that `wakers` wake.
    pub(super) fn all(wakers: &[Arc<Waker>], hugepages: Hugepages) -> Vec<Self> {
        let (arrivals, receivers): (Vec<_>, Vec<_>) =
            wakers.iter().map(|_| mpsc::channel()).unzip();
        let peers = Arc::new(Peers { wakers: wakers.to_vec(), arrivals, hugepages });
        let ends = |(here, arrivals)| Self {
            here,
            peers: Arc::clone(&peers),
            arrivals,
            incoming: Vec::new(),
            outgoing: wakers.iter().map(|_| None).collect(),
            sent: Vec::with_capacity(16),
            shares: vec![Vec::new(); wakers.len()],
            log: LogLimit::default(),
        };
        receivers.into_iter().enumerate().map(ends).collect()
    }

    /// Takes over the ends of new links. To be done whenever the waker was called.
    pub(super) fn take_arrivals(&mut self) {
        self.incoming.extend(self.arrivals.try_iter());
    }

    /// Hands frames of each link to `take` until `limit` is reached: a burst beyond it at most.
    pub(super) fn receive(
        &mut self,
        limit: usize,
        mut take: impl FnMut(&Envelope, &[Outgoing<'_>]),
    ) {
        for link in &mut self.incoming {
            // A limit for each link: one that is always full does not keep the others waiting.
            let mut taken = 0;
            while taken < limit {
                match link.pop(&mut take) {
                    0 => break,
                    frames => taken += frames,
                }
            }
        }
    }

    /// Wakes those reactors that were sent something. The caller has fenced since.
    pub(super) fn flush(&mut self) {
        for reactor in self.sent.drain(..) {
            let waker = &self.peers.wakers[reactor];
            // Once a turn, not once a frame: to wake a reactor takes a system call.
            if waker.sleep.must_wake() {
                waker.wake();
            }
        }
    }

    /// Says that this reactor is about to sleep; false if it must not, because there is work.
    pub(super) fn prepare_to_sleep(&self) -> bool {
        let is_filled = |link: &Consumer| !link.is_empty();
        self.peers.wakers[self.here].sleep.prepare(|| self.incoming.iter().any(is_filled))
    }

    /// Says that this reactor is awake.
    pub(super) fn awake(&self) {
        self.peers.wakers[self.here].sleep.awake();
    }

    /// Which reactor this is.
    pub(super) fn here(&self) -> u16 {
        self.here as u16
    }

    /// Copies frames into the link to a reactor: see [`super::ways::Ways::send`].
    pub(super) fn send(
        &mut self,
        reactor: u16,
        envelope: &Envelope,
        frames: &[Outgoing<'_>],
    ) -> usize {
        let to = usize::from(reactor);
        if self.outgoing[to].is_none() {
            self.outgoing[to] = self.connect(to);
        }
        // As if it were full: the frames are dropped by that name, and the next ones try again.
        let Some(link) = &mut self.outgoing[to] else { return 0 };
        // There are 64 reactors at most: a list is searched faster than a set.
        if !self.sent.contains(&to) {
            self.sent.push(to);
        }
        let shares = &mut self.shares[to];
        let slot = envelope.from.slot as usize;
        if shares.len() <= slot {
            shares.resize(slot + 1, Share::default());
        }
        link.push(envelope, frames, &mut shares[slot])
    }

    /// Makes the link to a reactor, and hands that one its end.
    #[cold]
    fn connect(&mut self, to: usize) -> Option<Producer> {
        let (producer, consumer) = match link(self.peers.hugepages) {
            Ok(ends) => ends,
            Err(error) => {
                if let Some(Said { unsaid }) = self.log.line(Instant::now()) {
                    let from = self.here;
                    tracing::error!(
                        %error, from, to, unsaid,
                        "no memory for a channel between reactors"
                    );
                }
                return None;
            }
        };
        // It has none only if it has ended: then nobody takes what is sent to it.
        self.peers.arrivals[to].send(consumer).ok()?;
        // After the end is there: who sees the call finds it.
        self.peers.wakers[to].call();
        Some(producer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::{forward::tables::PortId, reactor::ways::To};

    fn frame(octets: &[u8]) -> Outgoing<'_> {
        Outgoing::private(octets, Offload::Checksum { start: 34, offset: 16 })
    }

    /// From a port that has nothing in the link.
    fn push(link: &mut Producer, port: PortId, frames: &[Outgoing<'_>]) -> usize {
        link.push(&to(port), frames, &mut Share::default())
    }

    /// To a port, from queue 3 of another.
    fn to(port: PortId) -> Envelope {
        let from = PortId { slot: 0, generation: 1 };
        Envelope { from, to: To::Port(port), queue: 3 }
    }

    fn port(slot: u32) -> PortId {
        PortId { slot, generation: slot + 1 }
    }

    #[test]
    fn frames_of_all_sizes_come_out_as_they_went_in() {
        let (mut producer, mut consumer) = link(Hugepages::Off).unwrap();
        let octets: Vec<u8> = (0..65549_u32).map(|n| n as u8).collect();
        for round in 0..400 {
            let len = 14 + (round * 7919) % 65000;
            assert_eq!(push(&mut producer, port(round as u32), &[frame(&octets[..len])]), 1);
            let popped = consumer.pop(|envelope, got| {
                assert_eq!(*envelope, to(port(round as u32)));
                assert_eq!(got[0].offload, frame(&[]).offload);
                assert_eq!(got[0].head, &octets[..len]);
            });
            assert_eq!(popped, 1);
            assert!(consumer.is_empty());
        }
    }

    #[test]
    fn a_full_link_refuses_and_recovers() {
        let (mut producer, mut consumer) = link(Hugepages::Off).unwrap();
        let octets = [7; 1500];
        let fits =
            (0..).take_while(|n| push(&mut producer, port(*n), &[frame(&octets)]) == 1).count();
        assert_eq!(fits, LEN / (FRAME_AT + 1500_usize).next_multiple_of(ALIGN));
        assert_eq!(
            consumer.pop(|got, frames| assert_eq!((*got, frames.len()), (to(port(0)), 1))),
            1
        );
        assert_eq!(consumer.pop(|got, _| assert_eq!(*got, to(port(1)))), 1);
        let again = [frame(&octets), frame(&octets), frame(&octets)];
        assert_eq!(push(&mut producer, port(9), &again), 2);
    }

    #[test]
    fn a_port_that_fills_half_a_link_leaves_the_rest_to_others() {
        let (mut producer, mut consumer) = link(Hugepages::Off).unwrap();
        let (large, small) = ([7; 60_000], [7; 64]);
        let mut greedy = Share::default();
        let mut sent = 0;
        while producer.push(&to(port(1)), &[frame(&large)], &mut greedy) == 1 {
            sent += 1;
        }
        assert!((16..=18).contains(&sent), "half of 2 MiB: {sent}");
        let mut modest = Share::default();
        for _ in 0..100 {
            assert_eq!(producer.push(&to(port(2)), &[frame(&small)], &mut modest), 1);
        }
        assert_eq!(producer.push(&to(port(1)), &[frame(&large)], &mut greedy), 0);
        while consumer.pop(|_, _| ()) > 0 {}
        assert_eq!(producer.push(&to(port(1)), &[frame(&large)], &mut greedy), 1, "all was taken");
    }

    proptest::proptest! {
        #[test]
        fn what_is_in_a_link_is_counted(
            steps in proptest::collection::vec((1_usize..3000, 0_usize..4), 1..200),
        ) {
            let (mut producer, mut consumer) = link(Hugepages::Off).unwrap();
            let octets = [7; 3000];
            let mut share = Share::default();
            for (len, pops) in steps {
                producer.push(&to(port(1)), &[frame(&octets[..len])], &mut share);
                let (head, tail) = producer.0.free();
                proptest::prop_assert!(share.before + share.since >= tail - head);
                for _ in 0..pops {
                    consumer.pop(|_, _| ());
                }
            }
        }
    }

    #[test]
    fn frames_of_one_way_come_out_together() {
        let (mut producer, mut consumer) = link(Hugepages::Off).unwrap();
        let octets = [7; 64];
        assert_eq!(push(&mut producer, port(1), &[frame(&octets); BURST]), BURST);
        assert_eq!(push(&mut producer, port(1), &[frame(&octets); 3]), 3);
        assert_eq!(push(&mut producer, port(2), &[frame(&octets); 2]), 2);
        let mut runs = Vec::new();
        while consumer.pop(|got, frames| runs.push((*got, frames.len()))) > 0 {}
        assert_eq!(runs, [(to(port(1)), BURST), (to(port(1)), 3), (to(port(2)), 2)]);
    }

    #[test]
    fn a_reactor_gets_its_end_of_a_new_link_when_it_is_called() {
        let wakers = [(); 2].map(|()| Arc::new(Waker::new().unwrap()));
        let [mut near, mut far] = Links::all(&wakers, Hugepages::Off).try_into().unwrap();
        assert!(far.prepare_to_sleep(), "there is nothing yet");
        let octets = [7; 64];
        for calls in [true, false] {
            assert_eq!(near.send(1, &to(port(1)), &[frame(&octets)]), 1);
            assert_eq!(wakers[1].was_called(), calls, "once a link");
            far.take_arrivals();
            assert!(!far.prepare_to_sleep(), "a frame waits");
            let mut got = Vec::new();
            far.receive(1, |envelope, frames| got.push((*envelope, frames[0].head.to_vec())));
            assert_eq!(got, [(to(port(1)), octets.to_vec())]);
        }
        assert_eq!((far.incoming.len(), near.incoming.len()), (1, 0));
    }

    #[test]
    fn one_thread_hears_the_other_in_order() {
        let (mut producer, mut consumer) = link(Hugepages::Off).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..100_000_u32 {
                    let octets = n.to_be_bytes().repeat(1 + n as usize % 100);
                    while push(&mut producer, port(n), &[frame(&octets)]) == 0 {
                        std::thread::yield_now();
                    }
                }
            });
            for n in 0..100_000_u32 {
                let take = |envelope: &Envelope, got: &[Outgoing<'_>]| {
                    assert_eq!(*envelope, to(port(n)));
                    assert_eq!(got[0].head, n.to_be_bytes().repeat(1 + n as usize % 100));
                };
                while consumer.pop(take) == 0 {
                    std::thread::yield_now();
                }
            }
        });
    }
}
