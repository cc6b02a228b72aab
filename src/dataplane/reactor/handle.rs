//! The way to reactors: how they are started, told things, and ended.

use super::{
    Reactor, Settings, StartError,
    dropped::NewDrops,
    hugepage::{HugePage, Hugepages},
    link::{Links, Waker},
    pipeline::{Asked, Fate, Supposed},
    ports::{Attachment, Detached},
    tap::{Chunk, Flight, Recorder, Tap},
};
use crate::dataplane::{
    counters::ReactorCounters,
    forward::{
        MacTable, Network, Prober,
        tables::{NetworkKey, PortId},
    },
    port::{PortFailure, Undelivered},
};
use std::{
    fmt, io,
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

/// How many MACs were learned of networks.
pub(in crate::dataplane) type MacCounts = Vec<(NetworkKey, usize)>;

/// What a reactor is told.
pub(super) enum Command {
    Attach(Box<Attachment>),
    Detach(PortId, Box<dyn FnOnce(Option<Detached>) + Send>),
    Publish(Arc<Network>),
    Macs(NetworkKey, Box<dyn FnOnce(MacTable) + Send>),
    Explain(Supposed, Box<dyn FnOnce(Result<Fate, PortFailure>) + Send>),
    WouldRefuse(PortId, Box<dyn FnOnce(Option<Undelivered>) + Send>),
    CountMacs(Box<dyn FnOnce(MacCounts) + Send>),
    Question(PortId, Asked),
    Say(PortId, Box<[u8]>),
    Answer(Box<dyn FnOnce() + Send>),
    Tap(Arc<Tap>, Recorder),
    EndTap(u64),
    Keep(Flight),
    Kept(Box<dyn FnOnce(Vec<Arc<Chunk>>) + Send>),
    DroppedSince(u64, Box<dyn FnOnce(NewDrops) + Send>),
    Hold,
    GoOn,
    Stop,
}

/// The way to a reactor, for any thread; also of one that has ended.
#[derive(Clone)]
pub struct Caller {
    commands: mpsc::Sender<Command>,
    waker: Arc<Waker>,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").finish_non_exhaustive()
    }
}

impl Caller {
    /// Calls `answer` between two turns. All commands sent before are in force by then.
    pub fn ask(&self, answer: impl FnOnce() + Send + 'static) {
        self.send(Command::Answer(Box::new(answer)));
    }

    /// Has the reactor poll no port of a switched network, of those that it has and that come,
    /// until [`Caller::go_on`].
    pub fn hold(&self) {
        self.send(Command::Hold);
    }

    /// Has the reactor go on with everything.
    pub fn go_on(&self) {
        self.send(Command::GoOn);
    }

    fn send(&self, command: Command) {
        // First the command, then the call: a reactor that sees the call finds the command
        // (`sleep.rs`). Nobody misses what one that has ended does not do.
        if self.commands.send(command).is_ok() {
            self.waker.call();
        }
    }
}

/// A reactor, which ends when this is dropped.
pub struct Handle {
    caller: Caller,
    counters: Arc<ReactorCounters>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    /// Attaches a port.
    pub fn attach(&self, attachment: Attachment) {
        self.send(Command::Attach(Box::new(attachment)));
    }

    /// Takes a port away. Calls `done` when the reactor touches none of its memory any more, with
    /// the port if it was there.
    pub fn detach(&self, port: PortId, done: impl FnOnce(Option<Detached>) + Send + 'static) {
        self.send(Command::Detach(port, Box::new(done)));
    }

    /// Publishes a network's new table to the reactor.
    pub fn publish(&self, table: Arc<Network>) {
        self.send(Command::Publish(table));
    }

    /// Calls `answer` with what the reactor has learned of a network.
    pub fn macs(&self, network: NetworkKey, answer: impl FnOnce(MacTable) + Send + 'static) {
        self.send(Command::Macs(network, Box::new(answer)));
    }

    /// Calls `answer` with what would become of a frame that nobody has sent.
    pub fn explain(
        &self,
        supposed: Supposed,
        answer: impl FnOnce(Result<Fate, PortFailure>) + Send + 'static,
    ) {
        self.send(Command::Explain(supposed, Box::new(answer)));
    }

    /// Calls `answer` with why a port would not take a frame now.
    pub fn would_refuse(
        &self,
        port: PortId,
        answer: impl FnOnce(Option<Undelivered>) + Send + 'static,
    ) {
        self.send(Command::WouldRefuse(port, Box::new(answer)));
    }

    /// Calls `answer` with how many MACs the reactor has learned, of each network that it has.
    pub fn count_macs(&self, answer: impl FnOnce(MacCounts) + Send + 'static) {
        self.send(Command::CountMacs(Box::new(answer)));
    }

    /// Has a question answered that came by a port, and that control has seen to.
    pub fn answer(&self, port: PortId, asked: Asked) {
        self.send(Command::Question(port, asked));
    }

    /// Has a frame of a service's put into a port.
    pub fn say(&self, port: PortId, frame: Box<[u8]>) {
        self.send(Command::Say(port, frame));
    }

    /// Has frames captured, as far as they are this reactor's.
    pub fn tap(&self, tap: Arc<Tap>, recorder: Recorder) {
        self.send(Command::Tap(tap, recorder));
    }

    /// Ends a capture.
    pub fn end_tap(&self, id: u64) {
        self.send(Command::EndTap(id));
    }

    /// Has the last frames of all its ports kept.
    pub fn keep(&self, flight: Flight) {
        self.send(Command::Keep(flight));
    }

    /// Calls `answer` with the last frames of its ports, if they are kept.
    pub fn kept(&self, answer: impl FnOnce(Vec<Arc<Chunk>>) + Send + 'static) {
        self.send(Command::Kept(Box::new(answer)));
    }

    /// Calls `answer` with the frames that were dropped and kept since there were `from`.
    pub fn dropped_since(&self, from: u64, answer: impl FnOnce(NewDrops) + Send + 'static) {
        self.send(Command::DroppedSince(from, Box::new(answer)));
    }

    /// Calls `answer` between two turns. All commands sent before are in force by then.
    pub fn ask(&self, answer: impl FnOnce() + Send + 'static) {
        self.caller.ask(answer);
    }

    /// Returns another way to it.
    pub fn caller(&self) -> Caller {
        self.caller.clone()
    }

    /// What the reactor has done.
    pub fn counters(&self) -> &ReactorCounters {
        &self.counters
    }

    fn send(&self, command: Command) {
        self.caller.send(command);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.send(Command::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a reactor ended by a panic");
        }
    }
}

/// Starts `count` reactors, pinned to `cpus` in turn if there are any.
pub fn start(count: usize, cpus: &[usize], settings: Settings) -> Result<Vec<Handle>, StartError> {
    // Links are made when they are first used. A flag that cannot be met is refused now.
    if settings.hugepages == Hugepages::On {
        drop(HugePage::new(Hugepages::On).map_err(StartError::Hugepages)?);
    }
    let wakers = (0..count).map(|_| Waker::new().map(Arc::new)).collect::<io::Result<Vec<_>>>()?;
    let links = Links::all(&wakers, settings.hugepages);
    // One for all: what one has sent may come back to another.
    let prober = Prober::default();
    let spawn = |(at, (waker, links)): (usize, (Arc<Waker>, Links))| {
        let (commands, receiver) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let cpu = (!cpus.is_empty()).then(|| cpus[at % cpus.len()]);
        let own = Arc::clone(&waker);
        let counters = Arc::new(ReactorCounters::default());
        let counted = Arc::clone(&counters);
        let prober = prober.clone();
        let thread =
            std::thread::Builder::new().name(format!("reactor-{at}")).spawn(move || {
                match Reactor::new(receiver, own, links, counted, settings, (cpu, prober)) {
                    Ok(mut reactor) => {
                        drop(ready.send(Ok(())));
                        reactor.run();
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            })?;
        let caller = Caller { commands, waker };
        let handle = Handle { caller, counters, thread: Some(thread) };
        // A thread that panicked before it said anything has dropped `ready`.
        let ended = |_| Err(io::Error::other("the thread ended").into());
        let outcome = started.recv().unwrap_or_else(ended);
        outcome.map(|()| handle)
    };
    wakers.into_iter().zip(links).enumerate().map(spawn).collect()
}
