//! A guest behind a vhost-user socket.
//!
//! ```text
//! VMM ── messages ── session: a pure state machine ── plan ── VhostUserPort: rings over memory
//!                       │                                        tx: chains → frames
//!                       └─ memory: mmap, checks, copies          rx: frames → chains
//! ```
//! The session runs with the connection (`endpoint/vhost_user.rs`) and owns what it was told; the
//! port is built from it, complete, whenever something changed while it was detached, and goes on
//! where the last port stopped.

pub mod memory;
pub mod queue;
pub mod session;

use super::{Delivered, Port, PortFailure, Undelivered, Wakeup, Watch};
use crate::dataplane::{
    counters::PortCounters,
    frame::{
        Burst, FrameSet, Outgoing,
        offload::{Offloads, Segmentation},
    },
};
use memory::{GuestMemory, dirty_log::DirtyLog};
use queue::{
    call::CallFd,
    ring::{RingConfig, RingError, Signal, SplitRing},
    rx::RxQueue,
    tx::TxQueue,
};
use std::{
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

fn failure(queue: &str, error: RingError) -> PortFailure {
    PortFailure::Broken(format!("{queue} queue: {error}"))
}

/// Where processing of a ring has come to: written by the port when it stops, read by the session.
#[derive(Debug, Clone)]
pub struct LastAvail(Arc<AtomicU32>);

impl Default for LastAvail {
    fn default() -> Self {
        Self(Arc::new(AtomicU32::new(Self::UNKNOWN)))
    }
}

impl LastAvail {
    // No index of a ring: these have 16 bits.
    const UNKNOWN: u32 = u32::MAX;

    /// The index of the next available entry, if a port has left one.
    pub fn get(&self) -> Option<u16> {
        u16::try_from(self.0.load(Ordering::Acquire)).ok()
    }

    fn set(&self, position: u16) {
        self.0.store(position.into(), Ordering::Release);
    }
}

/// One ring of a plan.
#[derive(Debug, Clone)]
pub struct RingPlan {
    /// The ring.
    pub config: RingConfig,
    /// Readable when the guest kicks.
    pub kick: Option<Arc<OwnedFd>>,
    /// Signalled when the guest is to look at its used ring.
    pub call: Option<CallFd>,
    /// Whether the VMM has enabled it.
    pub enabled: bool,
    /// Where the ring's position is left when the port stops.
    pub position: LastAvail,
}

/// What a port is to be built from: what the session knows that runs.
#[derive(Debug, Clone)]
pub struct Plan {
    /// By queue pair: receive, transmit. A ring that does not run is absent.
    pub pairs: Vec<(Option<RingPlan>, Option<RingPlan>)>,
    /// VIRTIO_NET_F_MRG_RXBUF is negotiated.
    pub mergeable: bool,
    /// Octets of the header in front of each frame.
    pub header_len: usize,
    /// What the guest may leave to be cut.
    pub sends: Segmentation,
    /// What the guest takes unfinished.
    pub accepts: Offloads,
    /// Whether the guest migrates: what is written to its memory is to be marked (VHOST_F_LOG_ALL).
    pub logs: bool,
}

impl Plan {
    /// Whether frames can go both ways: the vNIC is active.
    pub fn is_complete(&self) -> bool {
        // The first pair alone: guests with fewer CPUs, and firmware, leave the others unused.
        matches!(self.pairs.first(), Some((Some(rx), Some(tx))) if rx.enabled && tx.enabled)
    }
}

#[derive(Debug)]
struct Pair {
    rx: Option<(RxQueue, RingPlan)>,
    tx: Option<(TxQueue, RingPlan)>,
}

/// A running guest.
#[derive(Debug)]
pub struct VhostUserPort {
    memory: Arc<GuestMemory>,
    /// Where what is written is marked, while the guest migrates.
    log: Option<Arc<DirtyLog>>,
    pairs: Vec<Pair>,
    /// The pairs whose receive queue is enabled.
    receiving: Vec<usize>,
    /// Nobody was called yet: whatever the last device said of interrupts is unknown, so all guests
    /// are called once.
    fresh: bool,
    counters: Arc<PortCounters>,
}

impl VhostUserPort {
    /// Checks every ring of the plan against memory and starts at the right place. A guest that
    /// migrates needs a `log`.
    pub fn new(
        memory: Arc<GuestMemory>,
        log: Option<Arc<DirtyLog>>,
        plan: Plan,
    ) -> Result<Self, PortFailure> {
        // A VMM that gives a migration up clears LOG_ALL, and leaves the log's place set.
        let log = log.filter(|_| plan.logs);
        if plan.logs && log.is_none() {
            return Err(PortFailure::Broken(
                "the VMM wants written pages marked, and has not said where".into(),
            ));
        }
        let ring = |name, plan: &RingPlan| {
            SplitRing::new(&memory, &plan.config).map_err(|error| failure(name, error))
        };
        let mut pairs = Vec::with_capacity(plan.pairs.len());
        for (rx, tx) in plan.pairs {
            // A disabled ring is processed "without causing any side effects" (vhost-user: "Ring
            // states"): nothing is received, and what is sent is taken and dropped.
            let rx = match rx.filter(|rx| rx.enabled) {
                Some(rx) => {
                    let ring = ring("receive", &rx)?;
                    let queue = RxQueue::new(ring, plan.mergeable, plan.accepts, plan.header_len);
                    Some((queue, rx))
                }
                None => None,
            };
            let tx = match tx {
                Some(tx) => {
                    let ring = ring("transmit", &tx)?;
                    Some((TxQueue::new(ring, tx.enabled, plan.sends, plan.header_len), tx))
                }
                None => None,
            };
            pairs.push(Pair { rx, tx });
        }
        let receiving = (0..pairs.len()).filter(|at| pairs[*at].rx.is_some()).collect();
        let mut port =
            Self { memory, log, pairs, receiving, fresh: true, counters: Arc::default() };
        port.start();
        Ok(port)
    }

    /// Kicks of receive queues are never wanted.
    fn start(&mut self) {
        for (queue, _) in self.pairs.iter_mut().filter_map(|pair| pair.rx.as_mut()) {
            // Buffers are looked for when a frame comes. A kick for each would wake the reactor for
            // nothing.
            queue.ring.disarm();
        }
        self.mark_used();
    }

    /// Marks the used rings, where the guest migrates.
    fn mark_used(&self) {
        // The whole ring, not its entries: that is a page or a few, and a mark too many costs its
        // VMM no more than the page once again.
        let Some(log) = &self.log else { return };
        for pair in &self.pairs {
            let rings = [
                pair.rx.as_ref().map(|(rx, _)| &rx.ring),
                pair.tx.as_ref().map(|(tx, _)| &tx.ring),
            ];
            for (address, len) in rings.into_iter().flatten().map(SplitRing::used_area) {
                log.mark(&self.memory, address, len.into());
            }
        }
    }

    fn tx(&mut self, queue: usize) -> Option<&mut (TxQueue, RingPlan)> {
        self.pairs.get_mut(queue)?.tx.as_mut()
    }

    /// Where frames go that come from `queue` of their sender, and the memory that is in: the queue
    /// of that number, or the next in which the guest receives (virtio 1.2 §5.1.6.5.5).
    fn rx(&mut self, queue: usize) -> Option<(&mut RxQueue, &GuestMemory)> {
        let Self { pairs, receiving, .. } = self;
        // At least 1: a port may receive nowhere, and nothing is divided by 0.
        let first = queue % receiving.len().max(1);
        let mut all = receiving[first..].iter().chain(&receiving[..first]);
        let mut is_used = |at: &&usize| pairs[**at].rx.as_mut().is_some_and(|(rx, _)| rx.is_used());
        // Where none is used yet, the sender's own: its guest may post buffers any moment.
        let at = all.find(&mut is_used).or(receiving.get(first))?;
        pairs[*at].rx.as_mut().map(|(rx, _)| (rx, &*self.memory))
    }

    fn check(&self) -> Result<(), PortFailure> {
        if self.memory.is_dead() || self.log.as_ref().is_some_and(|log| log.is_dead()) {
            return Err(PortFailure::Broken("the VMM truncated memory that it shares".into()));
        }
        Ok(())
    }
}

impl Port for VhostUserPort {
    fn queues(&self) -> usize {
        self.pairs.len()
    }

    fn count_in(&mut self, counters: &Arc<PortCounters>) {
        self.counters = Arc::clone(counters);
        for (queue, _) in self.pairs.iter_mut().filter_map(|pair| pair.rx.as_mut()) {
            queue.counters = Arc::clone(counters);
        }
    }

    fn runs(&self, queue: usize) -> bool {
        self.pairs.get(queue).is_some_and(|pair| pair.tx.is_some())
    }

    fn wakeup(&self, queue: usize) -> Option<Wakeup<'_>> {
        let (_, plan) = self.pairs.get(queue)?.tx.as_ref()?;
        plan.kick.as_ref().map(|fd| Wakeup::Read(fd.as_fd()))
    }

    fn poll(&mut self, queue: usize, burst: &mut Burst) -> Result<(), PortFailure> {
        // Before the ring is read: the zeros in place of memory that was taken away read as a ring.
        self.check()?;
        let Self { memory, pairs, .. } = self;
        let Some(Pair { tx: Some((tx, _)), .. }) = pairs.get_mut(queue) else { return Ok(()) };
        tx.poll(memory, burst).map_err(|error| failure("transmit", error))
    }

    fn complete(&mut self, queue: usize, done: FrameSet) {
        if let Some((tx, _)) = self.tx(queue) {
            tx.complete(done);
        }
    }

    fn arm(&mut self, queue: usize) -> Result<bool, PortFailure> {
        let Some((tx, _)) = self.tx(queue) else { return Ok(false) };
        let more = tx.ring.arm().map_err(|error| failure("transmit", error))?;
        self.mark_used();
        // Looked at last: memory that was taken away reads as an empty ring.
        self.check()?;
        Ok(more)
    }

    fn disarm(&mut self, queue: usize) {
        if let Some((tx, _)) = self.tx(queue) {
            tx.ring.disarm();
            self.mark_used();
        }
    }

    fn has_room(&mut self, queue: usize) -> bool {
        // A ring that turns out to be broken has room for a delivery, which will tell.
        self.rx(queue).is_some_and(|(rx, _)| rx.ring.waiting() != Ok(0))
    }

    fn deliver(&mut self, frames: &[Outgoing<'_>], queue: usize) -> Delivered {
        // Nearly always absent; a clone, since the queue borrows the port.
        let log = self.log.clone();
        let Some((rx, memory)) = self.rx(queue) else { return Delivered::none(Undelivered::Full) };
        let delivered = rx.deliver(memory, frames);
        if let Some(log) = log {
            rx.mark(memory, &log);
        }
        delivered
    }

    fn has_large_pages(&self) -> bool {
        self.memory.has_large_pages()
    }

    fn publish(&mut self) {
        for pair in &mut self.pairs {
            if let Some((queue, _)) = &mut pair.rx {
                queue.publish();
            }
            if let Some((queue, _)) = &mut pair.tx {
                queue.ring.publish();
            }
        }
        // After the stores: a VMM takes a mark away before it copies the page.
        self.mark_used();
    }

    fn notify(&mut self) -> Result<Watch, PortFailure> {
        let fresh = std::mem::take(&mut self.fresh);
        for Pair { rx, tx } in &mut self.pairs {
            let rx = rx.as_mut().map(|(queue, plan)| (&mut queue.ring, &plan.call));
            let tx = tx.as_mut().map(|(queue, plan)| (&mut queue.ring, &plan.call));
            for (ring, call) in [rx, tx].into_iter().flatten() {
                let Some(call) = call else { continue };
                // Asked first, also when fresh: it notes up to where the guest was called.
                match ring.signal() {
                    Signal::Nothing if !fresh => {}
                    Signal::Suppressed if !fresh => self.counters.calls_suppressed.add(1),
                    _ => {
                        call.signal();
                        self.counters.calls.add(1);
                    }
                }
            }
        }
        // At the end: an idle guest may not be polled for long, and frames met its memory just now.
        self.check().map(|()| Watch::Same)
    }

    fn stop(&mut self) {
        // First: who goes on with the rings is told a position that the used index agrees with.
        self.publish();
        for Pair { rx, tx } in self.pairs.drain(..) {
            if let Some((queue, plan)) = rx {
                plan.position.set(queue.ring.position());
            }
            if let Some((queue, plan)) = tx {
                plan.position.set(queue.ring.position());
            }
        }
        self.receiving.clear();
    }
}
