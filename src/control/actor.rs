//! Control's thread: requests run one after the other, those that wait at the same time are settled
//! together, and each is answered when what it has changed is in force.

use super::{
    Afterwards, Control, balance,
    change::{self, Answer, Batch, Decided},
    health::Degraded,
    hosts,
    refusal::Refusal,
};
use crate::{
    dataplane::{Attached, Closing, PortChange, PortEvent, Reports},
    store::Busy,
};
use std::time::Instant;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::MissedTickBehavior,
};

/// Requests that may wait for their turn.
// Further callers wait in tasks of their own, whose number `api/` limits.
const REQUEST_BACKLOG: usize = 1024;
/// Requests that are settled together at most.
// A network that all of them change is compiled once. Without an end, the first answer would wait
// for those that keep coming.
const SETTLED_TOGETHER: usize = 256;

enum Request {
    /// What is to be stored, or refused.
    Change(Box<dyn change::Request>),
    /// Anything else.
    Call(Box<dyn FnOnce(&mut Control) -> Answer + Send>),
}

/// Sends an answer, when the VMMs of the vNICs that were deleted for it are gone.
fn give((answer, closing): (Answer, Vec<Closing>)) {
    if closing.is_empty() {
        return answer();
    }
    // In a task: a VMM that takes its time to go holds up no other answer.
    tokio::spawn(async move {
        for closing in closing {
            closing.over().await;
        }
        answer();
    });
}

/// Takes a request, and those that wait behind it, and settles them together.
async fn take(
    first: Request,
    waiting: &mut mpsc::Receiver<Request>,
    reports: &mut Reports,
    control: &mut Control,
) {
    // Events of ports first: a client that has its lease already must not read a state without it.
    // Not all, as ports may report without end.
    let happened = std::iter::from_fn(|| reports.try_recv());
    hear(happened, control);
    let waiting = std::iter::from_fn(|| waiting.try_recv().ok());
    let mut batch = Batch::default();
    for request in [first].into_iter().chain(waiting).take(SETTLED_TOGETHER) {
        match request {
            Request::Change(request) => {
                batch.add(request, control);
                control.follow();
            }
            Request::Call(request) => {
                // Nobody sees what is not stored yet.
                batch.commit(control);
                batch.answers.push((request(control), Vec::new()));
            }
        }
        // What another process takes over is to stay as it was told.
        if control.quiesced.is_some() {
            break;
        }
    }
    batch.commit(control);
    // Requests that only read are many, and nothing follows from them.
    let barrier = control.publish();
    // Here, not where the answer is waited for: whoever waits may give up.
    tokio::spawn(async move {
        barrier.passed().await;
        batch.answers.into_iter().for_each(give);
    });
    // After the answers are on their way: that of `quiesce` is one of them. No request runs
    // meanwhile: the other process would miss its change.
    if let Some(ended) = control.quiesced.take() {
        control.is_ending = ended.await == Ok(Afterwards::End);
    }
}

/// Takes notice of what has happened at ports, and publishes what follows from that.
fn heed(first: PortEvent, reports: &mut Reports, control: &mut Control) {
    let more = std::iter::from_fn(|| reports.try_recv());
    // A network that many have connected to at once is compiled once.
    hear([first].into_iter().chain(more), control);
    control.publish();
}

/// Takes over some of what has happened at ports.
fn hear(events: impl Iterator<Item = PortEvent>, control: &mut Control) {
    for event in events.take(SETTLED_TOGETHER) {
        // A guest is told things as often as it asks: nothing follows from that.
        if !matches!(event.change, PortChange::Gateway(_)) {
            control.follow();
        }
        control.port_changed(event);
    }
}

/// Completes with the next event of those that come from somewhere, or never.
async fn next<T>(events: &mut Option<mpsc::Receiver<T>>) -> Option<T> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

/// Completes at a time, or never.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// The way to Control, for any task.
#[derive(Debug, Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    degraded: Degraded,
    store: Busy,
}

/// Control's thread.
#[derive(Debug)]
pub struct ControlThread {
    ended: oneshot::Receiver<()>,
    thread: std::thread::JoinHandle<()>,
}

impl ControlThread {
    /// Completes when the thread ends.
    pub async fn ended(&mut self) {
        // The sender is only ever dropped.
        (&mut self.ended).await.ok();
    }

    /// Waits for the thread; false if it ended by a panic.
    pub async fn join(self) -> bool {
        let joined = tokio::task::spawn_blocking(|| self.thread.join()).await;
        matches!(joined, Ok(Ok(())))
    }
}

/// Control has ended: the daemon is going down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the daemon is shutting down")]
pub struct Gone;

impl Handle {
    /// Starts a thread for `control`, which takes requests, and events of ports from `reports`. The
    /// thread ends, and with it the data plane, after [`Control::shut_down`], or by a panic.
    pub fn spawn(
        mut control: Control,
        mut reports: Reports,
    ) -> std::io::Result<(Self, ControlThread)> {
        let (requests, mut receiver) = mpsc::channel::<Request>(REQUEST_BACKLOG);
        let runtime = tokio::runtime::Handle::current();
        let (running, ended) = oneshot::channel();
        let (degraded, store) = (control.health.degraded(), control.busy.clone());
        // A thread and no task: the store waits in fsync(2), which would take a worker from others.
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
            // Dropped by a panic as well, which must end the daemon.
            let _running: oneshot::Sender<()> = running;
            runtime.block_on(async {
                let mut looks = tokio::time::interval(balance::INTERVAL);
                // Looks never follow at once after a slow disk: each is about the time in between.
                looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                let mut leases = tokio::time::interval(hosts::LOOK_INTERVAL);
                leases.set_missed_tick_behavior(MissedTickBehavior::Delay);
                let mut outside = control.egress.take_events();
                let host_changed = control.egress.host_changed();
                let several = control.dataplane.reactors().count() > 1;
                while !control.is_ending {
                    tokio::select! {
                        Some(request) = receiver.recv() => {
                            take(request, &mut receiver, &mut reports, &mut control).await;
                        }
                        Some(event) = reports.recv() => {
                            heed(event, &mut reports, &mut control);
                        }
                        Some(event) = next(&mut outside) => {
                            control.outside_said(event);
                            control.settle();
                        }
                        () = host_changed.notified() => control.host_has_changed(),
                        () = until(control.health.retry()) => control.probe(),
                        () = until(control.retry_ports) => control.open_ports(),
                        () = until(control.egress.retry()) => control.open_outside(),
                        report = control.balancers.checks.next() => {
                            control.backends_changed(report);
                        }
                        () = until(control.balancers.due) => control.tell_of_backends(),
                        () = until(control.followers.due) => control.tell_followers(),
                        () = until(control.untold.next()) => {
                            control.tell_states(Instant::now());
                        }
                        _ = looks.tick(), if several => control.rebalance(),
                        _ = leases.tick() => control.keep_leases(),
                        else => return,
                    }
                }
            });
        })?;
        Ok((Self { requests, degraded, store }, ControlThread { ended, thread }))
    }

    /// What ails the daemon, also while Control waits for a disk.
    pub fn degraded(&self) -> Degraded {
        self.degraded.clone()
    }

    /// Says whether Control waits for the store.
    pub fn store(&self) -> Busy {
        self.store.clone()
    }

    /// Ends Control, and closes all ports.
    pub async fn shut_down(&self) {
        let ports = self.call(Control::shut_down).await.unwrap_or_default();
        // All at once: each may wait a while for what its VMM gave.
        let closing: JoinSet<()> = ports.into_iter().map(Attached::close).collect();
        closing.join_all().await;
    }

    /// Carries out what `decide` comes to when its turn comes. Returns its answer when the change
    /// is stored and in force. It may be asked several times.
    pub async fn change<T: Send + 'static>(
        &self,
        decide: impl Fn(&Control) -> Result<Decided<T>, Refusal> + Send + 'static,
    ) -> Result<Result<T, Refusal>, Gone> {
        let (answer, answered) = oneshot::channel();
        let request = Request::Change(Box::new(change::Waiting::new(decide, answer)));
        self.requests.send(request).await.map_err(|_| Gone)?;
        answered.await.map_err(|_| Gone)
    }

    /// Runs `request` on Control's thread when its turn comes. It changes nothing that is stored.
    /// Returns its result when what was changed before is in force.
    pub async fn call<T: Send + 'static>(
        &self,
        request: impl FnOnce(&mut Control) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let (answer, answered) = oneshot::channel();
        let request = Request::Call(Box::new(move |control| {
            let result = request(control);
            // A caller that has gone away does not want the answer.
            Box::new(move || drop(answer.send(result)))
        }));
        self.requests.send(request).await.map_err(|_| Gone)?;
        answered.await.map_err(|_| Gone)
    }
}
