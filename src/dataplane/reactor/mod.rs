//! A reactor: one thread, one io_uring, the ports it owns, private tables, no locks.
//!
//! ```text
//! commands → wake-ups → bursts of active queues → links → timers
//!          → publish, fence, notify → sleep if all is armed
//! ```
//! A queue is ACTIVE (polled, the guest's kicks suppressed) or ARMED (not polled, its wake-up
//! descriptor watched). It becomes armed when it was empty for as long as polling pays
//! (`poll_window.rs`), and active by a wake-up. A reactor whose queues are all armed sleeps.
//! Nothing changes a reactor but attach, detach and publish; what control hands back is answered.

pub mod allowance;
mod cursors;
pub mod dropped;
pub mod flood_limit;
mod handle;
mod hugepage;
mod lines;
pub mod link;
#[cfg(test)]
mod link_model;
pub mod pipeline;
pub mod poll_window;
pub mod ports;
mod sleep;
#[cfg(test)]
mod sleep_model;
mod stalls;
mod stopwatch;
pub mod tap;
mod timers;
mod trunk;
mod uring;
pub mod ways;

pub use handle::{Caller, Handle, start};
pub use hugepage::Hugepages;
pub use pipeline::{Fate, Receiver, Supposed};

use super::{
    counters::ReactorCounters,
    forward::{Prober, tables::PortId},
    frame::Outgoing,
    port::{
        HeldUp, PortFailure, Wakeup,
        impaired::{self, Budget},
        vhost_user::queue::call,
    },
};
use handle::Command;
use link::{Links, Waker};
use pipeline::Pipeline;
use ports::{Attachment, Detached, Ports};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::{
    io,
    os::fd::AsFd as _,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, atomic, mpsc},
    time::{Duration, Instant},
};
use stopwatch::Stopwatch;
use uring::{Uring, Wake};
use ways::{Envelope, Ways};

/// How long a reactor sleeps at most while a queue has no wake-up descriptor.
// A VMM may give no kick descriptor (bit 8 of SET_VRING_KICK): "polling should be used instead". A
// look a millisecond costs an idle CPU little, and delays a frame by no more than that.
const POLL_INTERVAL: Duration = Duration::from_millis(1);
/// Frames taken from a link before something else has its turn.
// A link may be filled as fast as it is emptied: without a limit, the reactor at its other end
// would keep this one from its own ports.
const LINK_BURST: usize = 256;
/// An empty turn after one with so many frames is followed by a pause: under load, rings are looked
/// at again only when there is likely to be more than a few frames. Each look takes cache lines
/// away from the guests, and fuller bursts cost both sides less a frame.
// Measured between two vectorised virtio-user ports: 13.3 instead of 12.4 Mpps; at 100 kpps the
// latency is the same, since turns with few frames are followed by no pause.
const LOADED: u64 = 16;
const PAUSE: Duration = Duration::from_micros(3);
// Never a port's: that one's slot would be `u32::MAX - 1`, and slots are counted from 0.
const WAKER_TOKEN: u64 = u64::MAX - 1;

/// How reactors run.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a queue is polled after its last frame, at least.
    pub busy_poll: Duration,
    /// Backing of links.
    pub hugepages: Hugepages,
}

/// Why reactors cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A CPU that threads of this process cannot run on.
    #[error("cannot run on CPU {0}: {1}")]
    Cpu(usize, #[source] io::Error),
    /// Huge pages were demanded and there are none.
    #[error("no 2 MiB page can be had: {0} (reserve some in /proc/sys/vm/nr_hugepages)")]
    Hugepages(#[source] io::Error),
    /// io_uring cannot be used.
    #[error(
        "cannot set up io_uring: {0} (the sysctl kernel.io_uring_disabled must be 0, a seccomp \
         profile, as containers have one, must allow it, and Linux be 5.13 or later)"
    )]
    Uring(#[source] io::Error),
    /// Kernel AIO cannot be used.
    #[error(
        "cannot set up kernel AIO: {0} (a seccomp profile must allow io_setup, and the sysctl \
         fs.aio-max-nr leave room)"
    )]
    Aio(#[source] io::Error),
    /// A thread or descriptor cannot be had.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// A queue that is polled.
#[derive(Debug, Clone, Copy)]
struct Active {
    port: PortId,
    queue: usize,
    /// When it last had frames, and how long it is polled after that.
    busy: Instant,
    window: Duration,
}

/// What a burst needs of its reactor.
struct TimedLinks<'a> {
    links: &'a mut Links,
    stopwatch: &'a mut Stopwatch,
}

impl Ways for TimedLinks<'_> {
    fn here(&self) -> u16 {
        self.links.here()
    }

    fn send(&mut self, reactor: u16, envelope: &Envelope, frames: &[Outgoing<'_>]) -> usize {
        self.links.send(reactor, envelope, frames)
    }

    fn watches(&self) -> bool {
        self.stopwatch.watches()
    }

    fn start(&mut self) {
        self.stopwatch.start();
    }

    fn held_up(&mut self) -> Option<HeldUp> {
        self.stopwatch.held_up()
    }
}

struct Reactor {
    commands: mpsc::Receiver<Command>,
    waker: Arc<Waker>,
    links: Links,
    stopwatch: Stopwatch,
    counters: Arc<ReactorCounters>,
    busy_poll: Duration,
    /// Frames of the last turn.
    carried: u64,
    uring: Uring,
    wakes: Vec<Wake>,
    ports: Ports,
    pipeline: Pipeline,
    active: Vec<Active>,
    /// Those that are to be polled later, while ports of switched networks are held.
    held: Option<Vec<Active>>,
    /// Queues without a wake-up descriptor, which are polled at intervals.
    without_wakeup: Vec<(PortId, usize)>,
    /// What bad lines may hold.
    line_budget: Budget,
}

/// Spins for [`PAUSE`]. Returns the time then.
fn pause(since: Instant) -> Instant {
    // Not a sleep: the timer of one that short may be 50 µs late (timer slack, prctl(2)).
    let mut now = since;
    while now < since + PAUSE {
        std::hint::spin_loop();
        now = Instant::now();
    }
    now
}

fn token(port: PortId, queue: usize) -> u64 {
    // Generations tell a late completion of a detached port from one of the slot's next port. 24
    // bits are enough: completions are taken each turn, long before a slot is used 2^24 times.
    u64::from(port.generation & 0xff_ffff) << 40
        | (queue as u64 & 0xff) << 32
        | u64::from(port.slot)
}

fn unwatched(error: &io::Error) -> PortFailure {
    PortFailure::Broken(format!("cannot watch its wake-up descriptor: {error}"))
}

impl Reactor {
    fn new(
        commands: mpsc::Receiver<Command>,
        waker: Arc<Waker>,
        links: Links,
        counters: Arc<ReactorCounters>,
        settings: Settings,
        (cpu, prober): (Option<usize>, Prober),
    ) -> Result<Self, StartError> {
        if let Some(cpu) = cpu {
            let mut set = CpuSet::new();
            set.set(cpu);
            sched_setaffinity(None, &set).map_err(|error| StartError::Cpu(cpu, error.into()))?;
        }
        // Before the first guest needs it: a kernel that refuses is a reason not to start.
        call::prepare().map_err(StartError::Aio)?;
        let mut uring = Uring::new().map_err(StartError::Uring)?;
        uring.watch(Wakeup::Read(waker.eventfd.as_fd()), WAKER_TOKEN)?;
        Ok(Self {
            commands,
            waker,
            links,
            stopwatch: Stopwatch::new(Instant::now()),
            counters,
            busy_poll: settings.busy_poll,
            carried: 0,
            uring,
            // The completion queue has twice the entries of the submission queue
            // (io_uring_setup(2)).
            wakes: Vec::with_capacity(512),
            ports: Ports::default(),
            pipeline: Pipeline::new(prober),
            active: Vec::with_capacity(64),
            held: None,
            without_wakeup: Vec::new(),
            line_budget: Budget::new(impaired::BUDGET),
        })
    }

    fn run(&mut self) {
        let mut now = Instant::now();
        loop {
            if self.waker.was_called() && !self.run_commands(now) {
                return;
            }
            self.take_wakes(now);
            self.poll_active(now);
            self.guarded(|reactor| reactor.take_links(now));
            self.guarded(|reactor| reactor.handle_timeouts(now));
            self.guarded(|reactor| reactor.publish(now));
            self.rewatch();
            self.ports.end_turn_of_taps(now, self.active.is_empty());
            // After `publish`: its fence stands between what links were given and the look for
            // sleepers.
            self.links.flush();
            let carried = self.pipeline.take_carried();
            let mut end = Instant::now();
            call::time(self.stopwatch.turn(now, end));
            if carried == 0 && self.carried >= LOADED {
                end = pause(end);
            }
            self.carried = carried;
            self.counters.count_turn(carried, end - now);
            now = if self.active.is_empty() { self.sleep(end) } else { end };
        }
    }

    /// Does a part of the turn. If it panics on behalf of a port, that port fails and the part is
    /// done again for the others. Any other panic is a defect that ends the reactor, and the daemon
    /// is started again.
    fn guarded(&mut self, mut part: impl FnMut(&mut Self)) {
        loop {
            // What the part before was done for is not to blame for this one.
            self.ports.in_hand = None;
            match catch_unwind(AssertUnwindSafe(|| part(self))) {
                Ok(()) => return,
                Err(_) if self.ports.fail_in_hand() => {}
                Err(panic) => resume_unwind(panic),
            }
        }
    }

    fn publish(&mut self, now: Instant) {
        let Self { ports, stopwatch, .. } = self;
        ports.publish_touched(now, &mut || stopwatch.lap());
    }

    /// Watches what ports are to be woken by, where that has changed.
    fn rewatch(&mut self) {
        while let Some(id) = self.ports.take_rewatched() {
            let Some(slot) = self.ports.healthy_mut(id) else { continue };
            let mut watched = Ok(());
            for queue in 0..slot.port.queues() {
                if let Some(wakeup) = slot.port.wakeup(queue) {
                    let token = token(id, queue);
                    // In this order: what is ended is the watch before, which has the same token.
                    watched = watched
                        .and_then(|()| self.uring.unwatch(token))
                        .and_then(|()| self.uring.watch(wakeup, token));
                }
            }
            if let Err(error) = watched {
                self.ports.fail(id, unwatched(&error));
            }
        }
    }

    /// Takes over new links and carries out commands; false if there will be none.
    fn run_commands(&mut self, now: Instant) -> bool {
        self.links.take_arrivals();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Attach(attachment) => self.attach(*attachment, now),
                Command::Detach(port, done) => {
                    self.end_lines(port, now);
                    done(self.detach(port, now));
                }
                Command::Publish(table) => {
                    self.pipeline.published(&table, now);
                    self.ports.publish(&table);
                    self.change_lines(now);
                }
                Command::Macs(network, answer) => answer(self.pipeline.macs(network, now)),
                Command::Explain(supposed, answer) => {
                    answer(self.pipeline.explain(&mut self.ports, supposed, now));
                }
                Command::WouldRefuse(port, answer) => answer(self.ports.would_refuse(port, now)),
                Command::CountMacs(answer) => answer(self.pipeline.count_macs()),
                Command::Question(port, asked) => self.pipeline.return_question(port, asked),
                Command::Say(port, frame) => self.pipeline.service_says(port, frame),
                Command::Answer(answer) => answer(),
                Command::Tap(tap, recorder) => self.ports.begin_tap(tap, recorder),
                Command::EndTap(id) => self.ports.end_tap(id),
                Command::Keep(flight) => self.ports.keep_frames(flight),
                Command::Kept(answer) => answer(self.ports.kept_frames()),
                Command::DroppedSince(from, answer) => answer(self.ports.dropped_since(from)),
                Command::Hold => self.hold(now),
                Command::GoOn => self.active.extend(self.held.take().into_iter().flatten()),
                Command::Stop => return false,
            }
        }
        true
    }

    /// Polls ports of switched networks no more, until they are released.
    fn hold(&mut self, now: Instant) {
        for id in self.ports.switched() {
            let queues = self.ports.get_mut(id).map_or(0, |slot| slot.port.queues());
            // Those that are polled already are woken by nothing.
            (0..queues).for_each(|queue| self.activate(id, queue, now));
        }
        let ports = &self.ports;
        let is_held = |active: &mut Active| ports.may_be_switched(active.port);
        self.held.get_or_insert_default().extend(self.active.extract_if(.., is_held));
    }

    fn attach(&mut self, attachment: Attachment, now: Instant) {
        let id = attachment.id;
        self.pipeline.attached(&attachment, now);
        // First of all: what was begun for it ends with it, if it fails here.
        self.ports.attach(attachment, self.busy_poll);
        let may_be_switched = self.ports.may_be_switched(id);
        let Some(slot) = self.ports.get_mut(id) else { return };
        for queue in (0..slot.port.queues()).filter(|queue| slot.port.runs(*queue)) {
            match slot.port.wakeup(queue) {
                Some(wakeup) => {
                    if let Err(error) = self.uring.watch(wakeup, token(id, queue)) {
                        self.ports.fail(id, unwatched(&error));
                        return;
                    }
                }
                None => self.without_wakeup.push((id, queue)),
            }
            let window = self.busy_poll;
            // Polled at first: what came before the watch began may have been announced already.
            let active = match &mut self.held {
                Some(held) if may_be_switched => held,
                _ => &mut self.active,
            };
            active.push(Active { port: id, queue, busy: now, window });
        }
        self.change_lines(now);
    }

    fn detach(&mut self, id: PortId, now: Instant) -> Option<Detached> {
        self.active.retain(|active| active.port != id);
        self.held.iter_mut().for_each(|held| held.retain(|active| active.port != id));
        self.without_wakeup.retain(|(port, _)| *port != id);
        // Before the port is stopped: which descriptors are watched is asked of it.
        let slot = self.ports.get_mut(id)?;
        self.pipeline.detached(id);
        for queue in (0..slot.port.queues()).filter(|queue| slot.port.wakeup(*queue).is_some()) {
            if let Err(error) = self.uring.unwatch(token(id, queue)) {
                tracing::warn!(
                    %error, port = id.slot,
                    "cannot end the watch of a wake-up descriptor"
                );
            }
        }
        let mut slot = self.ports.detach(id)?;
        // Reports come every two minutes: until then it would hear nothing at its next reactor.
        slot.allowance.joined = self.pipeline.joined(id, now);
        Some(Detached { port: slot.port, allowance: slot.allowance })
    }

    /// Makes queues active that were woken.
    fn take_wakes(&mut self, now: Instant) {
        if !self.uring.has_wakes() {
            return;
        }
        // Taken out and put back: `self` is needed meanwhile, and the buffer is not allocated
        // again.
        let mut wakes = std::mem::take(&mut self.wakes);
        self.uring.wakes(&mut wakes);
        for wake in &wakes {
            self.take_wake(wake, now);
        }
        self.wakes = wakes;
    }

    fn take_wake(&mut self, wake: &Wake, now: Instant) {
        if wake.token == WAKER_TOKEN {
            // The kernel ends a multishot poll that cannot post, as when the completion queue is
            // full.
            if wake.ended {
                self.uring
                    .watch(Wakeup::Read(self.waker.eventfd.as_fd()), WAKER_TOKEN)
                    .expect("the eventfd could be watched before");
            }
            return;
        }
        let (slot, queue) = (wake.token as u32, (wake.token >> 32 & 0xff) as usize);
        // The port may have been detached since, and its slot taken by another.
        let found = self.ports.at(slot).filter(|found| token(found.id, queue) == wake.token);
        let Some(found) = found else { return };
        let id = found.id;
        found.counters.kicks.add(1);
        if wake.ended
            && let Some(wakeup) = found.port.wakeup(queue)
            && let Err(error) = self.uring.watch(wakeup, wake.token)
        {
            self.ports.fail(id, unwatched(&error));
            return;
        }
        self.activate(id, queue, now);
    }

    fn activate(&mut self, port: PortId, queue: usize, now: Instant) {
        let Some(slot) = self.ports.healthy_mut(port) else { return };
        // Also of one that is polled all along.
        slot.is_quiet = false;
        if let Some(poll_window) = slot.poll_windows.get_mut(queue)
            && poll_window.wake(now)
        {
            let window = poll_window.window();
            slot.port.disarm(queue);
            self.active.push(Active { port, queue, busy: now, window });
        }
    }

    /// A burst of every active queue; those that stay empty are armed and leave.
    fn poll_active(&mut self, now: Instant) {
        // `poll` catches panics itself: one that went through here would lose the list of all
        // queues.
        let mut active = std::mem::take(&mut self.active);
        active.retain_mut(|queue| self.poll(queue, now));
        self.active = active;
    }

    /// One burst; false if the queue is active no longer. A panic is the failure of the port that
    /// something was done for, nobody else's.
    fn poll(&mut self, active: &mut Active, now: Instant) -> bool {
        let from = (active.port, active.queue);
        let ports = &mut self.ports;
        let mut links = TimedLinks { links: &mut self.links, stopwatch: &mut self.stopwatch };
        let burst = AssertUnwindSafe(|| self.pipeline.run(ports, &mut links, from, now));
        let failure = match catch_unwind(burst) {
            Ok(Ok(0)) if now.duration_since(active.busy) < active.window => return true,
            Ok(Ok(0)) => match self.arm(active.port, active.queue, now) {
                Ok(more) => return more,
                Err(failure) => failure,
            },
            Ok(Ok(_)) => {
                active.busy = now;
                return true;
            }
            Ok(Err(failure)) => failure,
            Err(_) => {
                self.ports.fail_in_hand();
                // Where the receiver was in hand, the sender goes on.
                return self.ports.healthy_mut(active.port).is_some();
            }
        };
        self.ports.fail(active.port, failure);
        false
    }

    /// Asks the guest to ring; says whether the queue is to stay active, because frames came
    /// meanwhile.
    fn arm(&mut self, port: PortId, queue: usize, now: Instant) -> Result<bool, PortFailure> {
        let Some(slot) = self.ports.healthy_mut(port) else { return Ok(false) };
        // To arm a queue touches its guest's memory, which its VMM may have made slow.
        self.stopwatch.start();
        let more = slot.port.arm(queue)?;
        slot.strike(self.stopwatch.held_up(), now)?;
        // Frames came between the last poll and the guest's being asked to kick: nothing will
        // announce them (virtio 1.2 §2.7.10).
        if more {
            slot.is_quiet = false;
            slot.port.disarm(queue);
        } else {
            slot.counters.queue_empty.add(1);
            slot.poll_windows[queue].arm(now);
        }
        Ok(more)
    }

    fn take_links(&mut self, now: Instant) {
        let Self { ports, pipeline, stopwatch, .. } = self;
        let here = self.links.here();
        self.links.receive(LINK_BURST, |envelope, frames| {
            let timed = &mut || stopwatch.lap();
            pipeline.deliver_from_link((ports, here), envelope, frames, now, timed);
        });
    }

    /// Does what is due, and what no frame brings about.
    fn handle_timeouts(&mut self, now: Instant) {
        self.pipeline.answer_questions(&mut self.ports, now);
        // Only what is due wakes the reactor: what soon is, is done with it.
        if self.pipeline.next_timeout().is_some_and(|due| due <= now) {
            self.pipeline.handle_timeouts(&mut self.ports, now);
        }
    }

    /// Sleeps until there is work. Returns the time then.
    fn sleep(&mut self, since: Instant) -> Instant {
        if !self.links.prepare_to_sleep() {
            return since;
        }
        let due = self.pipeline.next_timeout().map(|when| when.saturating_duration_since(since));
        let interval = (!self.without_wakeup.is_empty()).then_some(POLL_INTERVAL);
        let timeout = [due, interval].into_iter().flatten().min();
        // This sleep is nobody's fault. Completions that are there already end it at once.
        self.stopwatch.let_sleep();
        self.uring.sleep(timeout).expect("a ring that was set up can be waited for");
        self.links.awake();
        let now = Instant::now();
        self.counters.sleeps.add(1);
        for at in 0..self.without_wakeup.len() {
            let (port, queue) = self.without_wakeup[at];
            self.activate(port, queue, now);
        }
        now
    }
}
