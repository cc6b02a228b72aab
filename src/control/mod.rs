//! The one owner of the desired state. A change is decided, stored durably, applied and told to
//! watchers, published to the data plane, and then answered.
//!
//! ```text
//! gRPC ── service ──▶ Control (its own thread): decide → store → apply, watchers
//!                     → settle: compile, publish → answer
//! ```
//! Requests are closures that run one after the other on Control's thread: no locks, no half-made
//! change. What they change goes one way (`change.rs`). Those that wait at the same time are
//! settled together, so that a network that many of them change is compiled once, and the disk
//! synced once.

mod accounts;
mod actor;
mod addresses;
pub mod balance;
mod balanced;
mod balancer_fields;
mod balancers;
mod caller;
mod capture;
mod change;
mod choices;
mod clients;
pub mod compile;
mod drops;
mod egress;
pub mod events;
mod explain;
mod fields;
mod flight;
mod floating_ips;
mod followed;
mod forwards;
mod guest;
mod guest_data;
mod handover;
pub mod happened;
pub mod health;
mod hosts;
pub mod ipam;
mod kept;
mod l2;
mod leases;
mod locators;
mod long_lists;
mod macs;
mod mask;
mod nat;
mod networks;
mod nics;
mod observed;
mod orphans;
mod pages;
mod ports;
mod rebalance;
pub mod refusal;
mod requests;
#[cfg(test)]
mod rig;
pub mod service;
mod slirp;
mod stats;
mod trunks;
mod view;
mod watch;
mod whom;

pub use accounts::Accounts;
pub use actor::{ControlThread, Gone, Handle};
pub use capture::Caller;
pub use change::Decided;
pub use egress::{UserEgress, WayOut};
pub use handover::{Afterwards, Quiesced, QuiescedPort, Whose};
pub use locators::{Reachable, listens, spec as port_spec};
pub use long_lists::{LongList, LongLists};
pub use observed::{Member as ObservedMember, Observed, ReactorTotals, What};

use crate::{
    addr::MacAddr,
    dataplane::{
        Attached, Barrier, Blocking, Closing, Dataplane, Exported, GatewayEvent, Placement,
        PortChange, PortEvent, PortState,
        counters::{PortCounters, ReactorCounters},
        dives::Meshes,
        forward::{
            self,
            tables::{NetworkKey, PortId},
        },
    },
    descriptor_store::DescriptorStore,
    log_limit::LogLimit,
    model::{Name, Network, NetworkKind, Nic, Transport, l2::Members},
    proto,
    services::Guests,
    store::{Busy, Store, StoreError},
    telemetry::Telemetry,
    token_bucket::TokenBucket,
};
use balance::Balance;
use balanced::Balancers;
use compile::Member;
use egress::Egress;
use events::Events;
use followed::Followers;
use guest::Guest;
use health::Health;
use hosts::Hosts;
use ipam::Pool;
use nat::Nat;
use ports::PortEntry;
use refusal::{Refusal, counted};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::BuildHasher as _,
    path::PathBuf,
    sync::Arc,
    time::Instant,
};
use tokio::sync::{broadcast, oneshot};
use uuid::Uuid;
use watch::Untold;

/// How much there may be. What is stored already is served all the same.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Networks.
    pub networks: usize,
    /// vNICs.
    pub nics: usize,
    /// Prefixes routed to one vNIC.
    pub routes: usize,
    /// Ports.
    pub ports: usize,
}

impl Limits {
    /// Whether one more fits beside those that there are.
    fn check(noun: &str, there: usize, limit: usize, flag: &str) -> Result<(), Refusal> {
        if there < limit {
            return Ok(());
        }
        let (are, there) = (if there == 1 { "is" } else { "are" }, counted(there, noun));
        Err(Refusal::Exhausted(format!("there {are} {there}, and --{flag} allows {limit}")))
    }
}

#[derive(Debug)]
struct NetworkState {
    model: Network,
    key: NetworkKey,
    ipv4: Option<Pool>,
    ipv6: Option<Pool>,
    macs: HashSet<MacAddr>,
    /// By the slot of their port.
    // Tables are in the order of ports.
    members: BTreeMap<u32, Member>,
    /// Ports that are no vNICs, and who is connected to them, likewise.
    bridges: BTreeMap<u32, Member>,
    ports: BTreeSet<Uuid>,
    /// What those behind its ports have leased.
    hosts: Hosts,
    /// What its vNICs and ports have carried that are gone.
    gone: Arc<PortCounters>,
    /// What watchers are told of it. They share it until it changes.
    view: Option<Arc<proto::Network>>,
}

#[derive(Debug)]
struct NicState {
    model: Nic,
    place: Placement,
    state: proto::NicState,
    /// The state that was told of last, as one that lasts.
    told: proto::NicState,
    /// Among [`Control::untold`].
    is_untold: bool,
    /// What watchers are told of it. They share it until it changes.
    view: Option<Arc<proto::Nic>>,
    guest: Guest,
    log: LogLimit,
    /// Of events of leases: they are to leave lines of the log to its states.
    leases: LogLimit,
    /// Absent while it is being made, and where it cannot be.
    attached: Option<Attached>,
    /// Why it cannot be served; empty where it is.
    error: String,
    /// Why nothing of it is carried, where it is so.
    blocked: Option<Blocking>,
}

impl NicState {
    /// Returns why it is not as it should be; empty where it is.
    fn why(&self) -> &str {
        self.blocked.map_or(&self.error, |why| why.why())
    }
}

/// Whose a port of the data plane is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Owner {
    Nic(Uuid),
    Port(Uuid),
    /// Of somebody who has connected to a port.
    Client {
        port: Uuid,
        slot: u32,
    },
    /// Of the way out of public networks.
    Outside,
}

/// The desired state and everything that follows it.
pub struct Control {
    networks: HashMap<Uuid, NetworkState>,
    /// Networks that are not yet published as they are.
    unpublished: HashSet<Uuid>,
    /// Networks of which hosts have leased more than is stored.
    unstored: HashSet<Uuid>,
    /// Of hosts: answered with what is published next.
    questions: Vec<hosts::Question>,
    /// Networks that are no more, which the data plane does not know yet.
    deleted: Vec<NetworkState>,
    network_names: BTreeMap<Name, Uuid>,
    nics: HashMap<Uuid, NicState>,
    /// With those of orphans.
    nic_names: BTreeMap<Name, Uuid>,
    /// vNICs whose network is not there.
    orphans: HashMap<Uuid, Nic>,
    ports: HashMap<Uuid, PortEntry>,
    port_names: BTreeMap<Name, Uuid>,
    /// What of the world is a vNIC's.
    nat: Nat,
    /// Addresses of the world whose flows are spread.
    balancers: Balancers,
    /// How public networks reach the world.
    egress: Egress,
    health: Health,
    by_port: HashMap<PortId, Owner>,
    next_key: u64,
    seed: u64,
    socket_dir: PathBuf,
    limits: Limits,
    /// What ports may be made of.
    reachable: Reachable,
    store: Box<dyn Store>,
    /// While the store is waited for.
    busy: Busy,
    telemetry: Telemetry,
    events: Events,
    dataplane: Dataplane,
    /// Who is served what.
    guests: Guests,
    /// Where descriptors are kept while no process has them.
    kept_in: DescriptorStore,
    /// Where the flight ring is put.
    captures: flight::Files,
    balance: Balance<Owner>,
    /// vNICs that a request has deleted, and that still let their VMMs go.
    closing: Vec<Closing>,
    /// How many frames may be explained.
    explained: TokenBucket,
    /// When to open ports again that could not be opened.
    retry_ports: Option<Instant>,
    untold: Untold,
    nic_events: broadcast::Sender<watch::Change<proto::Nic>>,
    network_events: broadcast::Sender<watch::Change<proto::Network>>,
    port_events: broadcast::Sender<watch::Change<proto::Port>>,
    followers: Followers,
    is_ending: bool,
    /// Set while another process takes over: see [`Control::quiesce`].
    quiesced: Option<oneshot::Receiver<Afterwards>>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("networks", &self.networks.len()).finish_non_exhaustive()
    }
}

/// Why the state could not be brought back at the start.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A port that another process has exported could not be gone on with.
    #[error("cannot go on with port {name}: {source}")]
    Port {
        /// Which.
        name: Name,
        /// Why.
        source: std::io::Error,
    },
    /// The way out of public networks, which another process has exported, could not be gone on
    /// with.
    #[error("cannot go on with the way out of public networks: {0}")]
    Outside(#[source] std::io::Error),
    /// A vNIC's socket could not be made.
    #[error("cannot make the socket of vNIC {name} at {}: {source}", path.display())]
    Socket {
        /// Whose.
        name: Name,
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Control {
    /// Brings back what is stored: addresses and tables. Sockets are opened afterwards. A reactor
    /// that is busy for more than the share `rebalance_above` of the time hands vNICs to others.
    pub fn restore(
        mut store: Box<dyn Store>,
        mut dataplane: Dataplane,
        socket_dir: PathBuf,
        (limits, reachable): (Limits, Reachable),
        rebalance_above: f64,
    ) -> Result<Self, RestoreError> {
        let contents = store.load()?;
        if let Reachable::Flags { directories, .. } = &reachable {
            dataplane.confine(directories);
        }
        let mut control = Self {
            networks: HashMap::new(),
            unpublished: HashSet::new(),
            unstored: HashSet::new(),
            questions: Vec::new(),
            deleted: Vec::new(),
            network_names: BTreeMap::new(),
            nics: HashMap::new(),
            nic_names: BTreeMap::new(),
            orphans: HashMap::new(),
            ports: HashMap::new(),
            port_names: BTreeMap::new(),
            nat: Nat::default(),
            balancers: Balancers::default(),
            egress: Egress::default(),
            health: Health::new(contents.damaged),
            by_port: HashMap::new(),
            next_key: 0,
            // Keyed with the kernel's random numbers: a tenant who chooses addresses must not be
            // able to choose those that collide in the FIB's hash.
            seed: std::hash::RandomState::new().hash_one(0),
            socket_dir,
            limits,
            reachable,
            store,
            busy: Busy::default(),
            telemetry: Telemetry::default(),
            events: Events::default(),
            dataplane,
            guests: Guests::default(),
            kept_in: DescriptorStore::default(),
            captures: flight::Files::default(),
            balance: Balance::new(rebalance_above),
            closing: Vec::new(),
            explained: TokenBucket::new(explain::PER_SECOND, explain::PER_SECOND),
            retry_ports: None,
            untold: Untold::default(),
            nic_events: broadcast::Sender::new(watch::BACKLOG),
            network_events: broadcast::Sender::new(watch::BACKLOG),
            port_events: broadcast::Sender::new(watch::BACKLOG),
            followers: Followers::default(),
            is_ending: false,
            quiesced: None,
        };
        // Networks first: a vNIC takes its addresses in one that is there.
        for network in contents.networks {
            control.adopt_network(network);
        }
        for nic in contents.nics {
            control.adopt_nic(nic);
        }
        for port in contents.ports {
            control.adopt_port(port);
        }
        for leases in contents.leases {
            control.adopt_leases(leases);
        }
        for forward in contents.forwards {
            control.nat.put_forward(None, forward);
        }
        for floating_ip in contents.floating_ips {
            control.nat.put_floating_ip(floating_ip);
        }
        for balancer in contents.load_balancers {
            control.balancers.put(None, balancer);
        }
        for nic in contents.orphans {
            control.keep_orphan(nic);
        }
        // A disk that takes no files is told now, and not by the first change that fails.
        control.probe();
        control.unpublished.extend(control.networks.keys());
        control.settle();
        Ok(control)
    }

    /// Opens the sockets of all vNICs that have none yet.
    pub fn open_sockets(&mut self) {
        // Those that another process of the daemon exported have theirs.
        let closed = self.nics.iter().filter(|(_, nic)| nic.attached.is_none());
        let closed: Vec<Uuid> = closed.map(|(id, _)| *id).collect();
        let deadline = Instant::now() + orphans::LATE_END;
        for id in closed {
            self.open_socket_by(deadline, id);
        }
        self.open_ports();
        self.open_outside();
        // Last: nothing is being made now, so what is called .tmp is what a dead daemon left.
        self.remove_stale_sockets();
        tracing::info!(networks = self.networks.len(), nics = self.nics.len(), "state restored");
    }

    fn open_socket(&mut self, id: Uuid, exported: Option<Exported>) -> Result<(), RestoreError> {
        self.listen(id, exported).map_err(|source| RestoreError::Socket {
            name: self.nics[&id].model.name.clone(),
            path: self.socket_path(&self.nics[&id].model),
            source,
        })
    }

    /// Looks whether a change could be made durable.
    fn probe(&mut self) {
        let result = self.busy.during(|| self.store.probe());
        self.note_stored(&result);
    }

    fn socket_path(&self, nic: &Nic) -> PathBuf {
        // A directory is called otherwise: a socket of its name could not take its place.
        let kind = if nic.transport == Transport::Vde { "vde" } else { "sock" };
        self.socket_dir.join(format!("{}.{kind}", nic.id))
    }

    /// Publishes what has changed, and has watchers told of what follows from it.
    fn settle(&mut self) -> Barrier {
        self.follow();
        self.publish()
    }

    /// Publishes to the data plane the whole truth of each network that has changed.
    fn publish(&mut self) -> Barrier {
        self.store_leases();
        let changed: Vec<_> = self.unpublished.iter().copied().collect();
        let way_in = self.settle_egress(&changed);
        let changed = std::mem::take(&mut self.unpublished);
        let changed = changed.iter().filter_map(|id| self.networks.get(id));
        // An empty table tells reactors that a network is gone.
        let all = self.deleted.iter().chain(changed);
        let tables: Vec<_> = all.map(|network| self.serve(network)).chain(way_in).collect();
        let turn = self.dataplane.publish(tables);
        self.deleted.clear();
        self.return_questions();
        turn
    }

    /// Compiles a network, and publishes what services are to know of it.
    fn serve(&self, network: &NetworkState) -> forward::Network {
        let table = self.compile(network);
        // Where nobody is told, nobody is looked for.
        let public = network.model.metadata.then(|| self.nat.public_ipv4());
        let public = |nic| public.as_ref()?.get(&nic).copied();
        compile::serve(&self.guests, (&network.model, &table), network.members.values(), public);
        table
    }

    fn compile(&self, network: &NetworkState) -> forward::Network {
        let members = network.members.values().chain(network.bridges.values());
        let (leases, outside) = (network.hosts.leases(), self.way_out(&network.model));
        compile::compile(network.key, &network.model, (members, leases), outside, self.seed)
    }

    /// Takes over what a VMM and its guest do.
    pub fn port_changed(&mut self, event: PortEvent) {
        // Late news of a deleted vNIC finds nobody: the slot's next owner has another generation.
        let Some(owner) = self.by_port.get(&event.port).copied() else { return };
        if let PortChange::State(PortState::Failed, _) = event.change {
            self.dump_failed(event.port);
        }
        match (owner, event.change) {
            (_, PortChange::Gateway(GatewayEvent::Asked(asked))) => {
                self.host_asked(event.port, asked);
            }
            (Owner::Nic(id), change) => self.nic_changed(id, event.connection, change),
            (Owner::Port(id), PortChange::State(state, why)) => self.port_reported(id, state, why),
            (Owner::Port(id), PortChange::Arrived(arrival)) => self.admit(id, arrival),
            (Owner::Client { port, slot }, PortChange::State(PortState::Left, _)) => {
                self.client_left(port, slot);
            }
            (Owner::Client { port, slot }, PortChange::State(state, _)) => {
                self.client_reported(port, slot, state);
            }
            (Owner::Outside, PortChange::State(PortState::Left, why)) => self.outside_is_lost(&why),
            (Owner::Outside, _) => {}
            // Nobody tells a port anything.
            (Owner::Client { .. }, _) | (Owner::Port(_), PortChange::Gateway(_)) => {}
        }
    }

    fn nic_changed(&mut self, id: Uuid, connection: u64, change: PortChange) {
        let Some(nic) = self.nics.get_mut(&id) else { return };
        nic.view = None;
        // First: a new connection is of a new guest, of whom nothing is known.
        nic.guest.of(connection);
        let state = match change {
            // Watchers are not woken: a guest can be told things as often as it asks.
            // Dropped, and so refused: a vNIC has no members.
            PortChange::Arrived(_) => return,
            PortChange::Gateway(told) => return self.guest_told(id, connection, told),
            PortChange::State(state, _) => state,
        };
        nic.blocked = state.blocked();
        nic.state = match state {
            PortState::Idle | PortState::Listening | PortState::Left => proto::NicState::Created,
            PortState::Active => proto::NicState::Active,
            PortState::Blocked(_) => proto::NicState::Blocked,
            PortState::Failed => proto::NicState::Error,
        };
        // In the queue once, however often its VMM comes and goes.
        if nic.state != nic.told && !std::mem::replace(&mut nic.is_untold, true) {
            self.untold.push(Instant::now(), Owner::Nic(id));
        }
    }

    fn nic_view(&self, nic: &NicState) -> proto::Nic {
        self.changed_view(nic, &nic.model)
    }

    /// A vNIC as it would be if `model` took the place of its own.
    fn changed_view(&self, nic: &NicState, model: &Nic) -> proto::Nic {
        let view = self.new_view(model);
        let (guest, error) = (Some(nic.guest.seen().clone()), nic.why().into());
        proto::Nic { state: nic.state.into(), guest, error, ..view }
    }

    /// A vNIC of a network that is there, as one that is just made.
    fn new_view(&self, nic: &Nic) -> proto::Nic {
        let network = &self.networks[&nic.network_id].model;
        view::nic(Some(network), nic, &self.socket_path(nic), proto::NicState::Created)
    }

    /// As watchers are told of it: all share it until it changes.
    fn shared_nic_view(&mut self, id: Uuid) -> Option<Arc<proto::Nic>> {
        if let Some(orphan) = self.orphans.get(&id) {
            return Some(Arc::new(self.orphan_view(orphan)));
        }
        let nic = self.nics.get(&id)?;
        let view = nic.view.clone().unwrap_or_else(|| Arc::new(self.nic_view(nic)));
        self.nics.get_mut(&id)?.view = Some(Arc::clone(&view));
        Some(view)
    }

    fn shared_network_view(&mut self, id: Uuid) -> Option<Arc<proto::Network>> {
        let network = self.networks.get(&id)?;
        let view = network.view.clone().unwrap_or_else(|| Arc::new(self.network_view(network)));
        self.networks.get_mut(&id)?.view = Some(Arc::clone(&view));
        Some(view)
    }

    fn network_view(&self, network: &NetworkState) -> proto::Network {
        self.changed_network_view(network, &network.model)
    }

    /// A network as it would be if `model` took the place of its own.
    fn changed_network_view(&self, network: &NetworkState, model: &Network) -> proto::Network {
        let members = network.members.values().chain(network.bridges.values());
        let who = match model.kind {
            // Of no interest there, and its vNICs may be many.
            NetworkKind::Routed => Members::AllStrict,
            NetworkKind::Switched => compile::who(members.map(|member| &member.entry)),
        };
        let view = view::network(model, (network.members.len(), network.ports.len()), who);
        let dhcp_pool_empty_at = view::string(network.hosts.empty_at);
        let error = self.why_not_led_out(model).unwrap_or_default();
        proto::Network { dhcp_pool_empty_at, error, ..view }
    }

    /// A vNIC, served or not.
    fn stored_nic(&self, id: Uuid) -> Option<&Nic> {
        self.nics.get(&id).map(|nic| &nic.model).or_else(|| self.orphans.get(&id))
    }

    /// The data plane's threads.
    pub fn list_reactors(&self) -> Vec<proto::Reactor> {
        let reactors = self.dataplane.reactors().enumerate();
        let view = |(id, (nics, counters)): (usize, (usize, &ReactorCounters))| proto::Reactor {
            id: id as u32,
            nics: nics as u32,
            frames: counters.frames.get(),
            busy_turns: counters.busy_turns.get(),
            busy_ns: counters.busy_ns.get(),
            polling_ns: counters.polling_ns.get(),
            sleeps: counters.sleeps.get(),
        };
        reactors.map(view).collect()
    }

    /// Has it measured how long the store takes.
    pub fn measure(&mut self, telemetry: Telemetry) {
        self.telemetry = telemetry;
    }

    /// Returns who is served what, as it will be, too.
    pub fn guests(&self) -> Guests {
        self.guests.clone()
    }

    /// The switches of meshes that ports lead to.
    pub fn meshes(&self) -> &Meshes {
        self.dataplane.meshes()
    }

    /// Closes all sockets and takes no more requests, for the end of the daemon.
    pub fn shut_down(&mut self) -> Vec<Attached> {
        self.is_ending = true;
        let nics = self.nics.values_mut().filter_map(|nic| nic.attached.take());
        let ports = self.ports.drain().flat_map(|(_, port)| {
            let clients = port.clients.into_values().map(|client| client.attached);
            clients.chain(port.attached)
        });
        nics.chain(ports).chain(self.egress.take_attached()).collect()
    }
}
