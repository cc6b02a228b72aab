//! A port behind bad lines: what comes from it and what goes to it is late, lost, changed or
//! doubled, as was asked for.
//!
//! ```text
//! port ─ poll ─▶ line ─ due ─▶ inbox ─ poll, by the timer's queue ─▶ reactor
//! port ◀─ deliver ─ ready ◀─ due ─ line ◀──────────── deliver ─ reactor
//! ```
//! It is a port itself, with one queue more than the port in it, whose wake-up is a timer: that
//! queue brings all that was due. Frames leave the port in it at once, and are copied: at most
//! 4 MiB in each direction, and 16 MiB for all such ports of a reactor. What finds no room is
//! dropped, and what is dropped here is counted here.
//!
//! A port without bad lines has nothing of this around it.

mod arena;
mod line;

pub use arena::Budget;

use super::{
    Delivered, Port, PortFailure, Undelivered, Wakeup, Watch,
    descriptor::{Inbox, Received},
    rest::Rest,
};
use crate::{
    dataplane::{
        counters::PortCounters,
        forward::switched::check_offload,
        frame::{BURST, Burst, FrameSet, Outgoing, verdict::DropReason},
    },
    impair::{Spec, mixed},
};
use arrayvec::ArrayVec;
use line::{Held, Line};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

/// What the rings of a reactor may have together, in octets.
pub const BUDGET: usize = 16 << 20;
/// How soon after one another the timer goes off at most, but for what is due already.
// Frames of a fast stream are due one by one, and a wake-up for each would cost more than it has to
// carry.
const GRAIN: Duration = Duration::from_micros(100);
/// How long a frame that is due waits for a port that is full.
const PATIENCE: Duration = Duration::from_millis(10);
/// Bursts that one visit delivers.
// Others wait meanwhile.
const BURSTS: usize = 8;

/// What comes from the port.
#[derive(Debug)]
struct Ingress {
    line: Line,
    /// What the port has just sent.
    burst: Burst,
    /// What was due, and waits for its receivers.
    inbox: Inbox,
}

/// What goes to the port.
#[derive(Debug)]
struct Egress {
    line: Line,
    /// What was due, since when, and waits for the port to have room. All of one queue.
    ready: ArrayVec<(Duration, Held), BURST>,
    /// The first of another queue.
    next: Option<(Duration, Held)>,
}

/// The port.
pub struct Impaired {
    port: Box<dyn Port>,
    counters: Arc<PortCounters>,
    from: Option<Ingress>,
    to: Option<Egress>,
    began: Instant,
    timer: OwnedFd,
    /// When the timer goes off, if it is not known to have done so.
    set_for: Option<Duration>,
    /// When it did last.
    woken: Duration,
    /// What failed since the last [`Port::notify`].
    failed: Option<PortFailure>,
}

impl std::fmt::Debug for Impaired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { from, to, .. } = self;
        f.debug_struct("Impaired").field("from", from).field("to", to).finish_non_exhaustive()
    }
}

impl Impaired {
    /// Puts lines before a port: of what comes from it, and of what goes to it. Where a line has no
    /// seed, chance comes from `seed`.
    pub fn new(
        port: Box<dyn Port>,
        [from, to]: [Option<Spec>; 2],
        seed: u64,
        counters: Arc<PortCounters>,
        budget: &Budget,
    ) -> Result<Self, (Box<dyn Port>, io::Error)> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags);
        let (timer, inbox) = match timer.map_err(io::Error::from).and_then(|timer| {
            let inbox = from.map(|_| Inbox::new()).transpose()?;
            Ok((timer, inbox))
        }) {
            Ok(made) => made,
            Err(error) => return Err((port, error)),
        };
        let line = |spec, way| Line::new(spec, mixed(seed, way), budget.clone(), Duration::ZERO);
        let mut port = port;
        port.count_in(&counters);
        let from = from.zip(inbox).map(|(spec, inbox)| Ingress {
            line: line(spec, 1),
            burst: Burst::default(),
            inbox,
        });
        let to = to.map(|spec| Egress { line: line(spec, 2), ready: ArrayVec::new(), next: None });
        Ok(Self {
            port,
            counters,
            from,
            to,
            began: Instant::now(),
            timer,
            set_for: None,
            woken: Duration::ZERO,
            failed: None,
        })
    }

    /// Ends both lines: all that they hold is due, and goes on when the last queue is polled as
    /// often as this returns.
    pub fn end(&mut self) -> usize {
        let from = self.from.as_mut().map_or(0, |from| from.line.end());
        let to = self.to.as_mut().map_or(0, |to| to.line.end());
        // A turn more for what waits already, and one that finds nothing.
        from.max(to).div_ceil(BURST) + 2
    }

    /// Returns the port in it. What is held still is dropped.
    pub fn into_inner(mut self) -> Box<dyn Port> {
        if let Some(from) = &mut self.from {
            while let Some((_, held)) = from.line.due(Duration::MAX) {
                let octets = from.line.octets(&held).len();
                count_ingress(&self.counters, octets, DropReason::ImpairedQueue);
            }
        }
        if let Some(to) = &mut self.to {
            let waiting = to.ready.drain(..).chain(to.next.take());
            let held = std::iter::from_fn(|| to.line.due(Duration::MAX));
            for _ in waiting.chain(held) {
                self.counters.drop_frame(DropReason::ImpairedQueue);
            }
        }
        self.port
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// The queue of what was due.
    fn timer_queue(&self) -> usize {
        self.port.queues()
    }

    /// Takes what the port has sent. Returns whether that was anything.
    fn take_burst(&mut self, queue: usize) -> Result<bool, PortFailure> {
        let now = self.now();
        let Some(Ingress { line, burst, .. }) = &mut self.from else { return Ok(false) };
        burst.clear(queue);
        self.port.poll(queue, burst)?;
        let count = burst.len();
        for at in 0..count {
            let frame = burst.frame(at);
            // What is cut here was looked at by nobody yet.
            let fit = match frame.invalid {
                Some(reason) => Err(reason),
                None if line.is_literal() => check_offload(frame),
                None => Ok(()),
            };
            let taken = fit.and_then(|()| line.take(&burst.outgoing(at), queue, now));
            if let Err(reason) = taken {
                count_ingress(&self.counters, frame.len, reason);
            }
        }
        self.port.complete(queue, FrameSet::oldest(count));
        Ok(count > 0)
    }

    /// Gives the port what is due. Returns whether it took anything.
    fn send_due(&mut self, now: Duration) -> Result<bool, PortFailure> {
        let Some(to) = &mut self.to else { return Ok(false) };
        let mut has_sent = false;
        for _ in 0..BURSTS {
            to.make_ready(now);
            let Some((since, first)) = to.ready.first().copied() else { break };
            let frames: ArrayVec<_, BURST> = to.outgoing().collect();
            let Delivered { taken, refused } = self.port.deliver(&frames, first.queue);
            drop(frames);
            has_sent |= taken > 0;
            to.remove(taken);
            match refused {
                None => {}
                Some(Undelivered::Failed(failure)) => return Err(failure),
                Some(Undelivered::Full) if taken > 0 || now < since + PATIENCE => break,
                Some(why) => {
                    to.remove(1);
                    self.counters.drop_frame(why.reason());
                }
            }
        }
        Ok(has_sent)
    }

    /// Has the timer go off when something is due next.
    fn set_timer(&mut self, now: Duration) {
        let from = self.from.as_ref().and_then(|from| from.line.next_due());
        let to = self.to.as_ref().and_then(|to| match to.ready.is_empty() {
            true => to.line.next_due(),
            // The port is full: nothing says when it has room.
            false => Some(now + GRAIN),
        });
        let Some(due) = [from, to].into_iter().flatten().min() else { return };
        let due = if due <= now { now } else { due.max(self.woken + GRAIN) };
        if self.set_for.is_some_and(|set_for| set_for <= due) {
            return;
        }
        // Zero would be never.
        let wait = (due - now).max(Duration::from_nanos(1));
        let it_value =
            Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        let it_interval = Timespec::default();
        let once = Itimerspec { it_interval, it_value };
        let set = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once);
        match set {
            Ok(_) => self.set_for = Some(due),
            Err(errno) => {
                self.failed = Some(PortFailure::Broken(format!("cannot set its timer: {errno}")));
            }
        }
    }
}

/// Counts a frame from the port that goes no further.
fn count_ingress(counters: &PortCounters, octets: usize, reason: DropReason) {
    counters.ingress_frames.add(1);
    counters.ingress_octets.add(octets as u64);
    counters.drop_frame(reason);
}

impl Ingress {
    /// Takes what is due into the inbox, as far as there is room, and appends that to a burst.
    fn poll(&mut self, burst: &mut Burst, now: Duration) {
        while !self.inbox.is_full()
            && let Some((_, held)) = self.line.due(now)
        {
            let octets = self.line.octets(&held);
            self.inbox.buffer()[..octets.len()].copy_from_slice(octets);
            let offload = Ok(held.offload);
            self.inbox.push(Received { octets: 0..octets.len(), offload });
            self.line.free(held);
        }
        self.inbox.poll(burst);
    }
}

impl Egress {
    /// Takes what is due, as far as it is of one queue.
    // Frames of a flow keep to one queue.
    fn make_ready(&mut self, now: Duration) {
        while !self.ready.is_full() {
            let Some(next) = self.next.take().or_else(|| self.line.due(now)) else { return };
            if self.ready.first().is_some_and(|(_, first)| first.queue != next.1.queue) {
                self.next = Some(next);
                return;
            }
            self.ready.push(next);
        }
    }

    fn outgoing(&self) -> impl Iterator<Item = Outgoing<'_>> {
        let Self { line, ready, .. } = self;
        ready.iter().map(|(_, held)| Outgoing::private(line.octets(held), held.offload))
    }

    fn remove(&mut self, count: usize) {
        let Self { line, ready, .. } = self;
        ready.drain(..count).for_each(|(_, held)| line.free(held));
    }
}

impl Port for Impaired {
    fn queues(&self) -> usize {
        self.timer_queue() + 1
    }

    fn runs(&self, queue: usize) -> bool {
        queue == self.timer_queue() || self.port.runs(queue)
    }

    fn wakeup(&self, queue: usize) -> Option<Wakeup<'_>> {
        if queue == self.timer_queue() {
            return Some(Wakeup::Read(self.timer.as_fd()));
        }
        self.port.wakeup(queue)
    }

    fn poll(&mut self, queue: usize, burst: &mut Burst) -> Result<(), PortFailure> {
        if queue != self.timer_queue() && self.from.is_none() {
            return self.port.poll(queue, burst);
        }
        let has_moved = if queue == self.timer_queue() {
            // It is never read: to set it anew takes back that it went off.
            let now = self.now();
            (self.set_for, self.woken) = (None, now);
            if let Some(from) = &mut self.from {
                from.poll(burst, now);
            }
            self.send_due(now)?
        } else {
            self.take_burst(queue)?
        };
        burst.touched = has_moved && burst.is_empty();
        self.set_timer(self.now());
        Ok(())
    }

    fn complete(&mut self, queue: usize, done: FrameSet) {
        match &mut self.from {
            Some(from) => from.inbox.complete(done),
            None => self.port.complete(queue, done),
        }
    }

    fn arm(&mut self, queue: usize) -> Result<bool, PortFailure> {
        if queue != self.timer_queue() {
            return self.port.arm(queue);
        }
        self.set_timer(self.now());
        Ok(self.from.as_ref().is_some_and(|from| !from.inbox.is_empty()))
    }

    fn disarm(&mut self, queue: usize) {
        if queue != self.timer_queue() {
            self.port.disarm(queue);
        }
    }

    fn has_room(&mut self, queue: usize) -> bool {
        self.to.is_some() || self.port.has_room(queue)
    }

    fn deliver(&mut self, frames: &[Outgoing<'_>], queue: usize) -> Delivered {
        let now = self.now();
        let Some(to) = &mut self.to else { return self.port.deliver(frames, queue) };
        for frame in frames {
            if let Err(reason) = to.line.take(frame, queue, now) {
                self.counters.drop_frame(reason);
            }
        }
        if let Err(failure) = self.send_due(now) {
            self.failed = Some(failure);
        }
        self.set_timer(now);
        Delivered::all(frames.len())
    }

    fn has_large_pages(&self) -> bool {
        self.port.has_large_pages()
    }

    fn publish(&mut self) {
        self.port.publish();
    }

    fn notify(&mut self) -> Result<Watch, PortFailure> {
        match self.failed.take() {
            Some(failure) => Err(failure),
            None => self.port.notify(),
        }
    }

    fn save(&self) -> io::Result<(Vec<OwnedFd>, Rest)> {
        self.port.save()
    }

    fn stop(&mut self) {
        self.port.stop();
    }
}
