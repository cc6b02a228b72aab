//! The data plane's boundary: what control may do to it.
//!
//! ```text
//! control ── place, attach, detach ──▶ endpoint (a task a vNIC) ── attach, detach ──▶ reactors
//!         ◀── events, counters ───────
//!         ── publish ───────────────────────────────────────────────────────────────▶
//!
//! frame/ what travels · forward/ where to · gateway/ what we answer · port/ in and out
//! reactor/ who carries · endpoint/ who keeps ports attached
//! ```
//! [`Dataplane::place`] assigns a vNIC its port for life, and a reactor, which
//! [`Dataplane::relocate`] changes; [`Dataplane::attach`] opens what it is reached by; tables are
//! published whole. Control names no room but `forward/` (`tests/layering.rs`).

mod capture;
pub mod counters;
mod drop_reader;
pub mod endpoint;
pub mod foreign;
pub mod forward;
pub mod frame;
pub mod gateway;
pub mod port;
pub mod reactor;
mod reports;

pub use capture::{Capture, CaptureRequest, Kept, TooManyCaptures};
pub use drop_reader::DropReader;
pub use endpoint::{
    PortSpec,
    arrivals::{Arrival, MAX_CLIENTS},
    dial, dives,
    export::{Exported, SavedConnection, SavedLimits},
    facts::{LastError, Monitor, Negotiated},
    folder::is_temporary,
    given, listen,
    listener::{Access, listeners_of, longest_socket_path, room_for_listeners},
    single, slirp, socket, switchyard, tap, tunnel, vde, vhost_user,
};
pub use frame::verdict::{Blocking, DropReason, Stage};
pub use gateway::{
    Asked, Client, GatewayEvent, MAX_RESPONSE, Punted, Reply as DnsReply, response as dns_response,
};
pub use port::vhost_user::session::{Device, features};
pub use port::{PortFailure, Undelivered};
pub use port::{packet::send_frames, tun::Tun};
pub use reactor::{
    Fate, Hugepages, Receiver, StartError,
    dropped::DroppedFrame,
    tap::{Chunk, Flight, Outcome, Point, Points, Record, Targets},
};
pub use reports::{Punts, Reports, Way};

use crate::{descriptor_store::Slot, wire::vnet::Offload};
use counters::{PortCounters, ReactorCounters};
use endpoint::{
    Socket, arrivals::Clients, export::ExportRequest, facts::Facts, port_handle::PortHandle,
};
use forward::{
    LearnedMac, MacTable, Network,
    tables::{NetworkKey, PortId},
};
use port::{
    descriptor::{DescriptorPort, Transport as _},
    pair::pair,
};
use reactor::Supposed;
use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

/// vNICs of a network that share a reactor before another one gets some: within it, a frame is
/// copied once.
// Over a link it is copied twice (docs/decisions/0003).
pub const VNICS_TOGETHER: usize = 64;

/// How the data plane runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Threads.
    pub reactors: usize,
    /// CPUs to pin them to, in turn; none: wherever the scheduler likes.
    pub cpus: Vec<usize>,
    /// How long a queue is polled after its last frame, at least.
    pub busy_poll: Duration,
    /// Backing of the channels between reactors.
    pub hugepages: Hugepages,
    /// Octets of memory that one VMM may have mapped.
    pub guest_memory: u64,
    /// Who may open sockets, where a vNIC does not say.
    pub socket_access: Access,
    /// Octets of the flight ring, if there is one.
    pub capture_ring: Option<usize>,
}

/// What a port's VMM and guest do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortState {
    /// Nothing runs.
    Idle,
    /// Frames can go both ways.
    Active,
    /// They broke the protocol, or what it is to be reached by is not there.
    Failed,
    /// It is in a loop: nothing comes from it or goes to it for a while.
    Blocked(Blocking),
    /// It waits for others to connect, each of whom is a port of its own.
    Listening,
    /// Who had connected has left: the port is of no more use.
    Left,
}

impl PortState {
    /// Returns why nothing comes from it or goes to it, where it is so.
    pub fn blocked(self) -> Option<Blocking> {
        match self {
            Self::Blocked(why) => Some(why),
            _ => None,
        }
    }
}

/// Something that happened at a port.
#[derive(Debug)]
pub struct PortEvent {
    /// Which.
    pub port: PortId,
    /// How many VMMs have connected to it so far.
    pub connection: u64,
    /// What.
    pub change: PortChange,
}

/// What happened at a port.
#[derive(Debug)]
pub enum PortChange {
    /// It has a new state, and why where that is not as it should be: else empty.
    State(PortState, Arc<str>),
    /// Somebody has connected to it, and may become a member of its network.
    Arrived(Arrival),
    /// The gateway has told its guest something.
    Gateway(GatewayEvent),
}

/// Where a vNIC is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// Its port, for as long as it exists.
    pub port: PortId,
    /// The reactor that owns the port.
    pub reactor: u16,
}

/// A port to be made.
#[derive(Debug)]
pub struct NewPort {
    /// Where the vNIC is.
    pub place: Placement,
    /// The network it is in.
    pub network: NetworkKey,
    /// Its name, for the log.
    pub name: String,
    /// What it is to be reached by.
    pub spec: PortSpec,
    /// Where the service manager keeps its descriptors.
    pub slot: Slot,
}

/// A port, until closed.
#[derive(Debug)]
pub struct Attached {
    name: String,
    /// Where a VMM dials it, if one does.
    socket: Option<Socket>,
    /// Of a listening port.
    clients: Option<Arc<Clients>>,
    monitor: Monitor,
    /// The reactor that is to own the port.
    home: watch::Sender<Arc<reactor::Handle>>,
    exports: mpsc::UnboundedSender<ExportRequest>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// The way to a port, for giving it to another process of the daemon.
#[derive(Debug)]
pub struct Exporter {
    exports: mpsc::UnboundedSender<ExportRequest>,
}

impl Exporter {
    /// Stops the port, between two messages of its VMM. What it served then comes in `answers`,
    /// with `number`.
    pub fn stop(
        &self,
        number: usize,
        answers: mpsc::UnboundedSender<(usize, io::Result<Exported>)>,
    ) -> Paused {
        let (resume, resumed) = oneshot::channel();
        // A task that has ended by a panic gives nothing.
        self.exports.send(ExportRequest { number, answers, resume: resumed }).ok();
        Paused(resume)
    }
}

/// A vNIC that stands still, or soon does.
#[derive(Debug)]
pub struct Paused(oneshot::Sender<()>);

impl Paused {
    /// Nobody took over: it goes on. Without this call it stands still until the process ends.
    pub fn resume(self) {
        self.0.send(()).ok();
    }
}

impl Attached {
    /// Lets others open the socket, from now on.
    pub fn set_access(&self, access: Access) -> io::Result<()> {
        self.socket.as_ref().map_or(Ok(()), |socket| socket.set_access(access))
    }

    /// What the port has carried.
    pub fn counters(&self) -> &PortCounters {
        &self.monitor.counters
    }

    /// Returns where it is seen what the port does.
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// How many connections a listening port has refused.
    pub fn refused_clients(&self) -> u64 {
        self.clients.as_ref().map_or(0, |clients| clients.refused())
    }

    /// Returns the connection of `remote` to a listening port, which another process of the daemon
    /// has `exported`: to be attached with that.
    pub fn returned(
        &self,
        remote: String,
        since: SystemTime,
        exported: &mut Exported,
    ) -> io::Result<Arrival> {
        let clients = self.clients.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        clients.returned(remote, since, exported)
    }

    /// The way to what is served.
    pub fn exporter(&self) -> Exporter {
        Exporter { exports: self.exports.clone() }
    }

    /// Tells VMMs of another device, each at its next connection.
    pub fn set_device(&self, device: Device) {
        if let Some(socket) = &self.socket {
            socket.set_device(device);
        }
    }

    /// Removes the port and disconnects its guest, whose memory is unmapped when this returns.
    pub async fn close(self) {
        self.stop().over().await;
    }

    /// Removes the port, and has its guest disconnected.
    pub fn stop(self) -> Closing {
        // First, so that no VMM connects to a socket that is about to go.
        if let Some(socket) = &self.socket {
            socket.remove();
        }
        // The task has ended only if it panicked, which `over` tells.
        self.stop.send(()).ok();
        Closing { name: self.name, task: self.task }
    }
}

/// A port that is gone, and whose guest soon is. It goes on without being waited for.
#[derive(Debug)]
pub struct Closing {
    name: String,
    task: JoinHandle<()>,
}

impl Closing {
    /// Completes when the VMM's memory is unmapped.
    pub async fn over(self) {
        if let Err(error) = self.task.await {
            tracing::error!(nic = self.name, %error, "what served a vNIC ended by a panic");
        }
    }
}

/// Passed when each of several reactors has come to the end of a turn of its loop.
#[derive(Debug)]
pub struct Barrier {
    answers: mpsc::UnboundedReceiver<()>,
    asked: usize,
}

impl Barrier {
    fn of(reactors: impl IntoIterator<Item = impl AsRef<reactor::Handle>>) -> Self {
        // Each reactor has a sender, and this one is dropped on return: a reactor that has ended
        // takes its own with it, and `passed` sees that no answer comes.
        let (answer, answers) = mpsc::unbounded_channel();
        let ask = |reactor: &reactor::Handle| {
            let answer = answer.clone();
            // Who asked may wait no more.
            reactor.ask(move || {
                answer.send(()).ok();
            });
        };
        let asked = reactors.into_iter().map(|reactor| ask(reactor.as_ref())).count();
        Self { answers, asked }
    }

    /// Completes when what the reactors were told before is in force. Returns false if one of them
    /// has ended.
    pub async fn passed(mut self) -> bool {
        for _ in 0..self.asked {
            if self.answers.recv().await.is_none() {
                return false;
            }
        }
        true
    }
}

/// The MACs of a network, as its reactors have learned them: soon to be there.
#[derive(Debug)]
pub struct Macs(Vec<oneshot::Receiver<MacTable>>);

impl Macs {
    /// Returns them in order, each where it was heard last. A reactor that has ended is left out.
    pub async fn collected(self) -> Vec<LearnedMac> {
        let mut last = BTreeMap::<_, LearnedMac>::new();
        for table in self.0 {
            let Ok(table) = table.await else { continue };
            for learned in table.iter() {
                // Each reactor learns for itself, and one may have heard more of a MAC than
                // another.
                let known = last.entry((learned.mac, learned.vid)).or_insert(learned);
                if learned.age < known.age {
                    *known = learned;
                }
            }
        }
        last.into_values().collect()
    }
}

/// How many MACs reactors have learned: soon to be there.
#[derive(Debug, Default)]
pub struct MacCounts(Vec<oneshot::Receiver<Vec<(NetworkKey, usize)>>>);

impl MacCounts {
    /// Returns them by network: as many as that reactor knows which has heard most.
    // Each learns for itself, mostly the same: a sum would count them several times.
    pub async fn collected(self) -> HashMap<NetworkKey, usize> {
        let mut most = HashMap::new();
        for counts in self.0 {
            for (network, count) in counts.await.unwrap_or_default() {
                let known = most.entry(network).or_insert(count);
                *known = count.max(*known);
            }
        }
        most
    }
}

/// The way to see that all reactors still turn.
#[derive(Debug)]
// Weak: who only watches must not keep reactors alive when the data plane is dropped.
pub struct Pulse(Vec<Weak<reactor::Handle>>);

impl Pulse {
    /// Returns a barrier of all that have not ended.
    pub fn barrier(&self) -> Barrier {
        Barrier::of(self.0.iter().filter_map(Weak::upgrade))
    }

    /// Has no port of a switched network polled, so that what waits in one is not forwarded to
    /// another that is gone already, or not there yet.
    pub fn hold(&self) -> Standstill {
        let reactors = self.0.iter().filter_map(Weak::upgrade);
        let standstill = Standstill(reactors.map(|reactor| reactor.caller()).collect());
        standstill.0.iter().for_each(reactor::Caller::hold);
        standstill
    }
}

/// Ports of switched networks are not polled, until this is ended or dropped.
#[derive(Debug)]
pub struct Standstill(Vec<reactor::Caller>);

impl Standstill {
    /// Has the reactors go on, once what each of them was told before is in force at all.
    pub fn end(&self) {
        let all_are_ready = Arc::new(GoOn(self.0.clone()));
        for reactor in &self.0 {
            let ready = Arc::clone(&all_are_ready);
            reactor.ask(|| drop(ready));
        }
    }
}

impl Drop for Standstill {
    fn drop(&mut self) {
        self.end();
    }
}

/// Has reactors go on when it is dropped.
struct GoOn(Vec<reactor::Caller>);

impl Drop for GoOn {
    fn drop(&mut self) {
        self.0.iter().for_each(reactor::Caller::go_on);
    }
}

/// The running data plane. Dropping it ends the reactors.
#[derive(Debug)]
pub struct Dataplane {
    reactors: Vec<Arc<reactor::Handle>>,
    reports: reports::Senders,
    common: endpoint::Common,
    /// vNICs placed on each reactor.
    load: Vec<usize>,
    /// How many vNICs of a network are placed where.
    homes: HashMap<(NetworkKey, u16), usize>,
    /// The generation of every slot ever used, and those free now.
    generations: Vec<u32>,
    free: Vec<u32>,
    /// Published tables that a reactor may still hold: freed here, never on a reactor.
    published: Vec<Arc<Network>>,
    /// Until what another process has exported is attached.
    standstill: Weak<Standstill>,
    captures: capture::Captures,
    keeps_frames: bool,
}

impl Dataplane {
    /// Starts the reactors. Returns the events of their ports.
    pub fn start(settings: &Settings) -> Result<(Self, Reports), StartError> {
        let reactors = reactor::start(
            settings.reactors,
            &settings.cpus,
            reactor::Settings { busy_poll: settings.busy_poll, hugepages: settings.hugepages },
        )?;
        if let Some(octets) = settings.capture_ring {
            let each = octets / reactors.len().max(1);
            reactors.iter().for_each(|reactor| reactor.keep(Flight::new(each)));
        }
        let (reports, receiver) = reports::channel();
        let dataplane = Self {
            load: vec![0; reactors.len()],
            reactors: reactors.into_iter().map(Arc::new).collect(),
            reports,
            common: endpoint::Common {
                guest_memory: settings.guest_memory,
                access: settings.socket_access,
                roots: endpoint::folder::Roots::default(),
                meshes: dives::Meshes::default(),
            },
            homes: HashMap::new(),
            generations: Vec::new(),
            free: Vec::new(),
            published: Vec::new(),
            standstill: Weak::new(),
            captures: capture::Captures::default(),
            keeps_frames: settings.capture_ring.is_some(),
        };
        Ok((dataplane, receiver))
    }

    /// Has paths of sockets lead nowhere else below these folders: no symbolic link is followed.
    pub fn confine(&mut self, folders: &[std::path::PathBuf]) {
        self.common.roots = endpoint::folder::Roots::new(folders);
    }

    /// A port for a new vNIC: beside others of its network while those are few, else where there is
    /// least.
    pub fn place(&mut self, network: NetworkKey) -> Placement {
        let together = |at: &u16| {
            self.homes
                .get(&(network, *at))
                // At each full 64 the network looks for the reactor with least again.
                .is_some_and(|count| !count.is_multiple_of(VNICS_TOGETHER))
        };
        let all = 0..self.reactors.len() as u16;
        let reactor = all.clone().find(together);
        let least = || all.min_by_key(|at| self.load[usize::from(*at)]).unwrap_or(0);
        let reactor = reactor.unwrap_or_else(least);
        self.load[usize::from(reactor)] += 1;
        *self.homes.entry((network, reactor)).or_default() += 1;
        // Slots are used again, so that reactors find ports by index. The generation keeps what
        // still names the slot's last vNIC, as frames in links do, from reaching the next.
        let slot = self.free.pop().unwrap_or_else(|| {
            self.generations.push(0);
            self.generations.len() as u32 - 1
        });
        let generation = &mut self.generations[slot as usize];
        *generation += 1;
        Placement { port: PortId { slot, generation: *generation }, reactor }
    }

    /// Moves a vNIC of `network` to another reactor. What is sent to it is lost until its port is
    /// there, and its network's next table is published.
    pub fn relocate(
        &mut self,
        network: NetworkKey,
        place: &mut Placement,
        attached: &Attached,
        reactor: u16,
    ) {
        self.leave(network, place.reactor);
        place.reactor = reactor;
        self.load[usize::from(reactor)] += 1;
        *self.homes.entry((network, reactor)).or_default() += 1;
        attached.home.send_replace(Arc::clone(&self.reactors[usize::from(reactor)]));
    }

    /// Releases the port of a vNIC that is no more: its socket is closed and no table names it.
    pub fn release(&mut self, network: NetworkKey, place: Placement) {
        self.leave(network, place.reactor);
        self.free.push(place.port.slot);
    }

    fn leave(&mut self, network: NetworkKey, reactor: u16) {
        self.load[usize::from(reactor)] -= 1;
        if let Some(count) = self.homes.get_mut(&(network, reactor)) {
            *count -= 1;
            // Networks come and go without end, and the map must not grow with them.
            if *count == 0 {
                self.homes.remove(&(network, reactor));
            }
        }
    }

    /// Has no port of a switched network polled until what this returns is dropped, and what was
    /// exported by another process meanwhile is attached, or waits for something.
    pub fn hold(&mut self) -> Arc<Standstill> {
        let standstill = Arc::new(self.pulse().hold());
        self.standstill = Arc::downgrade(&standstill);
        standstill
    }

    /// Makes a vNIC's port, whose socket listens when this returns, and replaces what is at its
    /// path; or goes on with what another process of the daemon `exported`.
    pub fn attach(&self, new: NewPort, exported: Option<Exported>) -> io::Result<Attached> {
        let NewPort { place, network, name, spec, slot } = new;
        let counters = exported.as_ref().map(|from| PortCounters::beginning_at(&from.counters));
        let last_error = exported.as_ref().and_then(|from| from.kept.last_error.clone());
        let monitor = Monitor {
            counters: Arc::new(counters.unwrap_or_default()),
            facts: Arc::new(Facts::restore(last_error)),
        };
        let (stop, stopped) = oneshot::channel();
        let (exports, asked) = mpsc::unbounded_channel();
        let reactor = Arc::clone(&self.reactors[usize::from(place.reactor)]);
        let home = watch::Sender::new(reactor);
        let port = PortHandle::new(
            (place.port, network, name.clone()),
            monitor.clone(),
            reports::Reporter::new(place.port, self.reports.clone()),
            home.subscribe(),
            asked,
            exported.as_ref().map(|exported| (exported, self.standstill.upgrade())),
            slot,
        );
        let endpoint::Served { socket, clients, task } =
            endpoint::serve(spec, port, &self.common, exported, stopped)?;
        Ok(Attached { name, socket, clients, monitor, home, exports, stop, task })
    }

    /// The reactors: how many vNICs are placed on each, and what it has done.
    pub fn reactors(&self) -> impl Iterator<Item = (usize, &ReactorCounters)> {
        self.load.iter().copied().zip(self.reactors.iter().map(|reactor| reactor.counters()))
    }

    /// The switches of meshes that ports lead to.
    pub fn meshes(&self) -> &dives::Meshes {
        &self.common.meshes
    }

    /// Begins a capture, on all reactors.
    pub fn capture(&mut self, request: CaptureRequest) -> Result<Capture, TooManyCaptures> {
        self.captures.begin(&self.reactors, request)
    }

    /// Whether there is a flight ring.
    pub fn keeps_frames(&self) -> bool {
        self.keeps_frames
    }

    /// Asks for what is in the flight ring; none where there is no ring.
    pub fn kept_frames(&self) -> Option<Kept> {
        self.keeps_frames.then(|| Kept::of(&self.reactors))
    }

    /// Reads the last frames that were dropped, and those that will be.
    pub fn dropped(&self) -> DropReader {
        DropReader::of(&self.reactors)
    }

    /// The way to see that all reactors still turn.
    pub fn pulse(&self) -> Pulse {
        Pulse(self.reactors.iter().map(Arc::downgrade).collect())
    }

    /// Asks for the MACs that were learned in a network; those of its vNICs are not among them.
    pub fn macs(&self, network: NetworkKey) -> Macs {
        let ask = |reactor: &Arc<reactor::Handle>| {
            let (answer, answered) = oneshot::channel();
            // Who asked may wait no more.
            reactor.macs(network, |table| drop(answer.send(table)));
            answered
        };
        Macs(self.reactors.iter().map(ask).collect())
    }

    /// Asks what would become of a frame of the port at `place`, if it came now.
    pub fn explain(
        &self,
        place: Placement,
        network: NetworkKey,
        frame: &[u8],
    ) -> io::Result<oneshot::Receiver<Result<Fate, PortFailure>>> {
        let (mut behind, end) = pair()?;
        behind.send(frame, Offload::None).map_err(|why| io::Error::other(why.reason().name()))?;
        let sender = Box::new(DescriptorPort::new(end)?);
        let (answer, answered) = oneshot::channel();
        // Who is behind it stays until that is known.
        let told = move |fate| drop((answer.send(fate), behind));
        let supposed = Supposed { network, from: place.port, sender };
        self.reactors[usize::from(place.reactor)].explain(supposed, told);
        Ok(answered)
    }

    /// Asks why a port would not take a frame, if it came now.
    pub fn would_refuse(&self, at: Receiver) -> oneshot::Receiver<Option<Undelivered>> {
        let (answer, answered) = oneshot::channel();
        let told = |why| drop(answer.send(why));
        self.reactors[usize::from(at.reactor)].would_refuse(at.port, told);
        answered
    }

    /// Asks how many MACs were learned in each network.
    pub fn count_macs(&self) -> MacCounts {
        let ask = |reactor: &Arc<reactor::Handle>| {
            let (answer, answered) = oneshot::channel();
            reactor.count_macs(|counts| drop(answer.send(counts)));
            answered
        };
        MacCounts(self.reactors.iter().map(ask).collect())
    }

    /// Has a question answered that came by a port at `place`, by what was published before.
    pub fn answer(&self, place: Placement, asked: Asked) {
        self.reactors[usize::from(place.reactor)].answer(place.port, asked);
    }

    /// Publishes new tables of networks to all reactors; an empty one says that the network is
    /// gone. They are in force when the barrier is passed.
    pub fn publish(&mut self, tables: impl IntoIterator<Item = Network>) -> Barrier {
        let tables: Vec<_> = tables.into_iter().map(Arc::new).collect();
        // With nothing to publish there is nothing to wait for.
        let told = if tables.is_empty() { &[][..] } else { &self.reactors };
        for reactor in told {
            tables.iter().for_each(|table| reactor.publish(Arc::clone(table)));
        }
        // To free a table takes as long as it is large: the last reference is always dropped here.
        self.published.retain(|table| Arc::strong_count(table) > 1);
        self.published.extend(tables);
        Barrier::of(told)
    }
}
