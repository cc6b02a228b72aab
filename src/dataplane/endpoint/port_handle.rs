//! A port's place in the data plane, as its endpoint sees it: where it is to live, what it has
//! carried and may, and what becomes of it.

use super::{
    export::{ExportRequest, Exported, SavedConnection, SavedLimits},
    facts::{Monitor, Negotiated},
};
use crate::{
    dataplane::{
        PortState, Standstill,
        forward::tables::{NetworkKey, PortId},
        port::{Port, PortFailure},
        reactor::{
            self,
            allowance::Allowance,
            ports::{Attachment, Detached},
        },
        reports::Reporter,
    },
    descriptor_store::Slot,
};
use std::{
    io, mem,
    os::fd::{AsFd, OwnedFd},
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::sync::{mpsc, oneshot, watch};

/// What an endpoint is told of its port.
#[derive(Debug)]
pub(super) enum Signal {
    /// It is to be given to another process of the daemon.
    Export(ExportRequest),
    /// It is to live at another reactor: to be detached, and attached again.
    Moved,
    /// It failed.
    Failed(PortFailure),
}

/// The way to attach a port, and to take it back.
#[derive(Debug)]
pub(in crate::dataplane) struct PortHandle {
    id: PortId,
    network: NetworkKey,
    /// For the log.
    name: String,
    monitor: Monitor,
    reporter: Reporter,
    /// The reactor that is to own the port.
    home: watch::Receiver<Arc<reactor::Handle>>,
    exports: mpsc::UnboundedReceiver<ExportRequest>,
    allowance: Allowance,
    failures: (mpsc::UnboundedSender<PortFailure>, mpsc::UnboundedReceiver<PortFailure>),
    /// The reactor that has the port.
    attached: Option<Arc<reactor::Handle>>,
    /// What the service manager keeps of it.
    slot: Slot,
    /// How many descriptors another process has given.
    given: usize,
    /// Lasts until what that process has given is attached, or is seen to be not there.
    standstill: Option<Arc<Standstill>>,
    /// The port is on its way back.
    detached: Option<oneshot::Receiver<Option<Detached>>>,
}

impl PortHandle {
    /// Returns the handle of a port that is not attached yet, and may what another process let it
    /// that has `exported` it.
    pub(in crate::dataplane) fn new(
        (id, network, name): (PortId, NetworkKey, String),
        monitor: Monitor,
        reporter: Reporter,
        home: watch::Receiver<Arc<reactor::Handle>>,
        exports: mpsc::UnboundedReceiver<ExportRequest>,
        exported: Option<(&Exported, Option<Arc<Standstill>>)>,
        slot: Slot,
    ) -> Self {
        let (exported, standstill) = exported.unzip();
        let may = exported.map(|from| Allowance::restore(&from.kept.allowance));
        let (allowance, given) = (may.unwrap_or_default(), exported.map_or(0, |it| it.fds.len()));
        let failures = mpsc::unbounded_channel();
        let (attached, detached) = (None, None);
        Self {
            id,
            network,
            name,
            monitor,
            reporter,
            home,
            exports,
            allowance,
            failures,
            attached,
            slot,
            given,
            standstill: standstill.flatten(),
            detached,
        }
    }

    /// Has the service manager keep what `fds` returns, until [`PortHandle::forget`]. Nothing where
    /// something is kept already.
    pub(super) fn keep(&mut self, fds: impl FnOnce() -> io::Result<Vec<OwnedFd>>) {
        self.slot.keep(fds);
    }

    /// Says that what another process has given is what the service manager keeps.
    pub(super) fn goes_on(&mut self) {
        self.slot.has(self.given);
    }

    /// Has the service manager keep nothing any more.
    pub(super) fn forget(&mut self) {
        self.slot.forget();
    }

    /// Takes the port back for good: nothing of it is kept.
    pub(super) async fn end(&mut self) {
        self.detach().await;
        self.forget();
    }

    /// Returns its name, for the log.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns what it is told next. Never, once the port is to be no more.
    pub(super) async fn next(&mut self) -> Signal {
        // Who waits without having attached anything has nothing to attach.
        self.standstill = None;
        tokio::select! {
            biased;
            Some(request) = self.exports.recv() => Signal::Export(request),
            Ok(()) = self.home.changed() => Signal::Moved,
            Some(failure) = self.failures.1.recv() => Signal::Failed(failure),
            else => std::future::pending().await,
        }
    }

    /// Begins anew: what failed before is of no interest.
    pub(super) fn begin(&mut self) {
        self.failures = mpsc::unbounded_channel();
    }

    /// Says that another guest is connected.
    pub(super) fn connected(&self) {
        // No reactor writes this one.
        self.monitor.counters.connections.add(1);
        self.reporter.connected();
    }

    /// Notes what the driver at the other end has negotiated.
    pub(super) fn negotiated(&self, negotiated: Negotiated) {
        self.monitor.facts.negotiated(negotiated);
    }

    /// Notes what went wrong.
    pub(super) fn went_wrong(&self, why: &str) {
        self.monitor.facts.went_wrong(why);
    }

    /// Returns its way to control.
    pub(super) fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    /// Says in which state the port is.
    pub(super) fn tell(&self, state: PortState) {
        self.reporter.state(state, "");
    }

    /// Says in which state the port is, and why.
    pub(super) fn tell_why(&self, state: PortState, why: &str) {
        if !why.is_empty() {
            self.went_wrong(why);
        }
        self.reporter.state(state, why);
    }

    /// Attaches `port` to its reactor. It is in `state` then.
    pub(super) fn attach(&mut self, port: Box<dyn Port>, state: PortState) {
        let failures = self.failures.0.clone();
        let reporter = self.reporter.clone();
        let blocked = self.reporter.clone();
        let reactor = Arc::clone(&self.home.borrow_and_update());
        self.reporter.lives_at(&reactor);
        reactor.attach(Attachment {
            id: self.id,
            network: self.network,
            port,
            counters: Arc::clone(&self.monitor.counters),
            allowance: self.allowance.clone(),
            // Who serves it may have begun anew.
            on_failure: Box::new(move |failure| drop(failures.send(failure))),
            on_gateway_event: Box::new(move |told| reporter.told(told)),
            on_blocking: Box::new(move |why| match why {
                Some(why) => blocked.state(PortState::Blocked(why), why.why()),
                None => blocked.state(PortState::Active, ""),
            }),
        });
        self.attached = Some(reactor);
        self.tell(state);
    }

    /// Takes the port back, if there is one: afterwards nothing touches its guest's memory.
    pub(super) async fn detach(&mut self) -> Option<Box<dyn Port>> {
        if let Some(reactor) = self.attached.take() {
            let (done, detached) = oneshot::channel();
            reactor.detach(self.id, move |taken| {
                // Nobody waits once the daemon is going down.
                done.send(taken).ok();
            });
            self.detached = Some(detached);
        }
        // Kept until the answer has come: who waits may be dropped meanwhile, and wait again.
        let detached = self.detached.as_mut()?.await;
        self.detached = None;
        // An error says that the reactor has ended, and its ports with it.
        let Detached { port, allowance } = detached.ok()??;
        self.allowance = allowance;
        Some(port)
    }

    /// Answers a request for what another process is to go on with: these descriptors, or why there
    /// are none. Returns when nobody took over.
    pub(super) async fn export(&mut self, request: ExportRequest, fds: io::Result<Vec<OwnedFd>>) {
        // Dropped with this future, unless it goes on: what is kept is the other process's then.
        let slot = mem::take(&mut self.slot);
        request.answer(fds.map(|fds| self.exported(Duration::ZERO, None, fds))).await;
        self.slot = slot;
    }

    /// As [`PortHandle::export`], with a copy of one descriptor.
    pub(super) async fn export_copy(&mut self, request: ExportRequest, fd: impl AsFd) {
        self.export(request, fd.as_fd().try_clone_to_owned().map(|fd| vec![fd])).await;
    }

    /// Returns when what the port is made of is to be looked for again, after `how_long`. Another
    /// process that takes over meanwhile looks for it by itself.
    pub(super) async fn pause(&mut self, how_long: Duration) {
        let mut over = pin!(tokio::time::sleep(how_long));
        loop {
            tokio::select! {
                () = &mut over => return,
                // Without a port, nothing moves and nothing fails.
                signal = self.next() => if let Signal::Export(request) = signal {
                    self.export(request, Ok(Vec::new())).await;
                }
            }
        }
    }

    /// Returns what is given to another process: a port that is not to be served for as long as
    /// `locked_out`, its connection and its descriptors.
    pub(super) fn exported(
        &self,
        locked_out: Duration,
        connection: Option<SavedConnection>,
        fds: Vec<OwnedFd>,
    ) -> Exported {
        let kept = SavedLimits {
            allowance: self.allowance.save(),
            locked_out_ms: locked_out.as_millis() as u64,
            last_error: self.monitor.last_error(),
        };
        Exported { counters: self.monitor.counters.totals(), kept, connection, fds }
    }
}
