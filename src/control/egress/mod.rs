//! The way out of public networks: one port for all of them, and what the host's kernel is to know.
//!
//! ```text
//! decide: is there a way out? does another have these addresses?
//!   ─ prepare: device, routes, rules ─ commit ─ apply ─ settle: tables of all that are public
//! ```
//! By `mvirt-egress` it is that which is to know vNICs, once their networks are settled ([`user`]).
//! The kernel knows of a network before that is stored, and a change that is not stored is taken
//! back from it when the network is settled. So is what is no longer wanted.

mod kernel;
mod segments;
mod shadowed;
mod user;

pub use user::UserEgress;

use super::{
    Control, NetworkState, Owner,
    compile::{self, Receiving},
    refusal::Refusal,
    stats,
};
use crate::{
    dataplane::{
        Attached, Exported, NewPort, Placement, PortSpec,
        forward::{
            self,
            outside::{self, is_reached_from_outside, is_routable},
            tables::{NetworkKey, NextHop, PortId, Receivers},
        },
        given,
    },
    descriptor_store::Slot,
    egress::protocol,
    egress_process::Event,
    host_network::{Holder, HostNetwork, Obstacle, ObstacleKind, Wanted},
    log_limit::LogLimit,
    model::{HasGateway, Name, Network, Nic},
    proto,
    store::Change,
};
use ipnet::IpNet;
use kernel::Ailing;
use shadowed::Shadowed;
use std::{
    collections::{BTreeSet, HashSet},
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Notify, mpsc, watch};
use uuid::Uuid;

/// What the process of the way out may have said and nobody has heard yet.
const EVENTS: usize = 16;
/// How long until the way out is looked for again where there is none.
const RETRY: Duration = Duration::from_secs(1);

/// How guests of public networks reach the world.
#[derive(Debug)]
pub enum WayOut {
    /// Not at all, and why.
    Off(String),
    /// Through the kernel, by a TUN device.
    Tun(Box<HostNetwork>),
    /// By sockets of the host, which a process of its own has.
    User(Box<UserEgress>),
}

impl WayOut {
    /// Returns the name of its port.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Off(_) => None,
            Self::Tun(host) => Some(host.device()),
            Self::User(_) => Some("mvirt-egress"),
        }
    }

    /// Returns how it is found whom what comes from there is for.
    fn receiving(&self) -> Receiving {
        match self {
            Self::Off(_) | Self::Tun(_) => Receiving::ByAddress,
            Self::User(_) => Receiving::ByTag,
        }
    }

    /// Returns what guests may reach although no packet is routed to such addresses.
    fn allowed(&self) -> &[IpNet] {
        match self {
            Self::Off(_) | Self::Tun(_) => &[],
            Self::User(user) => user.allowed(),
        }
    }
}

/// The way out, as it is.
#[derive(Debug)]
pub(super) struct Egress {
    way: WayOut,
    /// The network that is nothing but its port.
    key: NetworkKey,
    /// Where the port is, while there are public networks.
    place: Option<Placement>,
    attached: Option<Attached>,
    /// What the kernel knows.
    known: Wanted,
    /// Networks that were made public where they could have the addresses of others, as they cannot
    /// now: they have no way out.
    shadowed: Shadowed,
    /// Networks that are reached from outside.
    published: HashSet<NetworkKey>,
    /// What the kernel knows may not be what it is to know.
    is_unsettled: bool,
    /// When to look for the way out again.
    retry: Option<Instant>,
    log: LogLimit,
    ailing: Ailing,
    /// Others may have changed what the kernel was told.
    host_changed: Arc<Notify>,
    /// Where a process of its own says what it has to say, until somebody listens.
    events: mpsc::Sender<(u64, Event)>,
    unheard: Option<mpsc::Receiver<(u64, Event)>>,
    /// What guests have, for ports of the world.
    guests: watch::Sender<BTreeSet<IpNet>>,
}

impl Default for Egress {
    fn default() -> Self {
        let (events, unheard) = mpsc::channel(EVENTS);
        Self {
            way: WayOut::Off("this program has none".into()),
            // Networks have theirs from 1 on.
            key: NetworkKey(0),
            place: None,
            attached: None,
            known: Wanted::default(),
            shadowed: Shadowed::new(),
            published: HashSet::new(),
            is_unsettled: false,
            retry: None,
            log: LogLimit::default(),
            ailing: Ailing::default(),
            host_changed: Arc::default(),
            events,
            unheard: Some(unheard),
            guests: watch::Sender::default(),
        }
    }
}

impl Egress {
    /// Returns the next hop of packets that leave a public network.
    fn next_hop(&self) -> Option<NextHop> {
        let nobody = Receivers::ByAddress;
        Some(compile::outside(self.place?, self.known.mtu, nobody).next_hop())
    }

    /// Returns its port.
    pub(super) fn attached(&self) -> Option<&Attached> {
        self.attached.as_ref()
    }

    /// Returns its port, which is to be closed.
    pub(super) fn take_attached(&mut self) -> Option<Attached> {
        self.attached.take()
    }

    /// Returns what it says of itself, once.
    pub(super) fn take_events(&mut self) -> Option<mpsc::Receiver<(u64, Event)>> {
        self.unheard.take()
    }

    /// Returns its port, where another process can go on with it: connections of `mvirt-egress` end
    /// with it.
    pub(super) fn exportable(&self) -> Option<&Attached> {
        self.attached.as_ref().filter(|_| matches!(self.way, WayOut::Tun(_)))
    }

    /// Returns what is notified when others may have changed what the kernel was told.
    pub(super) fn host_changed(&self) -> Arc<Notify> {
        Arc::clone(&self.host_changed)
    }

    /// Has it looked for again.
    fn look_again(&mut self) {
        let pause = match &mut self.way {
            WayOut::User(user) => user.pause(),
            WayOut::Off(_) | WayOut::Tun(_) => RETRY,
        };
        self.retry = Some(Instant::now() + pause);
    }

    /// Returns when to look for it again.
    pub(super) fn retry(&self) -> Option<Instant> {
        self.retry
    }
}

impl Control {
    /// Leads public networks out by `way`, once [`Control::open_sockets`] is called, or another
    /// process has handed over its port. What an earlier one has left of a `device` goes then,
    /// where that is not the way.
    pub fn lead_out(&mut self, way: WayOut, device: &str) {
        let public = self.public_networks().count();
        if let (WayOut::Off(why), true) = (&way, public > 0) {
            tracing::warn!(why, networks = public, "public networks have no way out");
        }
        self.egress.way = way;
        self.egress.ailing = Ailing::after_another(device);
        self.egress.shadowed = self.all_shadowed();
        self.egress.is_unsettled = true;
        if public > 0 {
            self.place_outside();
        }
        self.settle();
    }

    fn public_networks(&self) -> impl Iterator<Item = &NetworkState> {
        self.networks.values().filter(|network| self.is_led_out(&network.model))
    }

    /// Refuses a network that is to be public and cannot be.
    pub(super) fn check_public(&self, network: &Network) -> Result<(), Refusal> {
        if !network.is_public {
            return Ok(());
        }
        if let WayOut::Off(why) = &self.egress.way {
            let text = format!("egress is off: start with --egress tun or user ({why})");
            return Err(Refusal::Unready(text));
        }
        if network.has_gateway() == HasGateway::No {
            let expected = "a network without a gateway has no way out";
            return Err(Refusal::invalid("is_public", true, expected));
        }
        for (field, prefix) in own_prefixes(network) {
            self.check_claim((network.id, field), prefix)?;
        }
        let routed = self.networks.get(&network.id).into_iter().flat_map(routed_prefixes);
        for prefix in routed {
            self.check_claim((network.id, "is_public"), prefix)?;
        }
        Ok(())
    }

    /// Refuses prefixes behind a vNIC of a public network that another public network has.
    pub(super) fn check_public_routes(&self, nic: &Nic) -> Result<(), Refusal> {
        let network = &self.networks[&nic.network_id].model;
        if !network.is_public {
            return Ok(());
        }
        nic_prefixes(nic).try_for_each(|prefix| {
            let field = match prefix {
                IpNet::V4(_) => "routed_ipv4_prefixes",
                IpNet::V6(_) => "routed_ipv6_prefixes",
            };
            self.check_claim((network.id, field), prefix)
        })
    }

    /// Refuses a prefix of a public network that cannot be reached from outside, or that another
    /// has.
    fn check_claim(&self, (id, field): (Uuid, &'static str), prefix: IpNet) -> Result<(), Refusal> {
        if !is_routable(prefix) {
            let expected = "no packet is routed to that, into a public network or out of it";
            return Err(Refusal::invalid(field, prefix, expected));
        }
        // Outside, vNICs are told apart by more than their addresses.
        if self.egress.way.receiving() == Receiving::ByTag {
            return Ok(());
        }
        let others = self.public_networks().filter(|other| other.model.id != id);
        if let Some(other) = others.into_iter().find(|other| has_some_of(other, prefix)) {
            let owner = format!("network {}, which is public, too", other.model.name);
            return Err(Refusal::taken(field, prefix, owner));
        }
        let owner = self.nat.owner_within(prefix);
        match owner.or_else(|| self.balancers.owner_within(prefix)) {
            Some(owner) => Err(Refusal::taken(field, prefix, owner)),
            None => Ok(()),
        }
    }

    /// Returns the public network that has some of a prefix.
    pub(super) fn public_owner(&self, prefix: IpNet) -> Option<&Name> {
        // Also one that has no way out: it may have one later.
        let mut public = self.networks.values().filter(|network| network.model.is_public);
        public.find(|network| has_some_of(network, prefix)).map(|network| &network.model.name)
    }

    /// Returns the prefixes that the host routes to guests.
    pub(super) fn routed_prefixes(&self) -> &BTreeSet<IpNet> {
        &self.egress.known.prefixes
    }

    /// Returns who has an address of the world already, where the host is to answer for it.
    pub(super) fn holder(&self, address: IpAddr) -> Result<Option<Holder>, Refusal> {
        let WayOut::Tun(host) = &self.egress.way else { return Ok(None) };
        host.holder(address).map_err(|error| Refusal::Unready(format!("egress: {error}")))
    }

    /// Says why a forward that is one of these sockets is not in force, where that is known.
    pub(super) fn why_silent(&self, sockets: &[protocol::Forward]) -> Option<String> {
        match &self.egress.way {
            WayOut::User(user) => user.why_silent(sockets),
            WayOut::Off(_) | WayOut::Tun(_) => None,
        }
    }

    /// Returns how public networks reach the world.
    pub(super) fn egress_way(&self) -> &WayOut {
        &self.egress.way
    }

    /// Has what the kernel knows compared with what it is to know.
    pub(super) fn egress_changed(&mut self) {
        self.egress.is_unsettled = true;
    }

    /// Returns what the kernel is to know, with `change` as if it were in force.
    fn wanted(&self, change: Option<&Change>) -> Wanted {
        let mut wanted = Wanted::default();
        let changed = match change {
            Some(Change::PutNetwork(network)) => Some(&network.new),
            _ => None,
        };
        let mut add = |network: &Network, state: Option<&NetworkState>| {
            if !self.is_led_out(network) {
                return;
            }
            let own = own_prefixes(network).map(|(_, prefix)| prefix);
            let all = own.chain(state.into_iter().flat_map(routed_prefixes));
            wanted.owners.extend(all.map(|prefix| (prefix, network.id)));
            let mtus = state.into_iter().flat_map(|state| state.members.values());
            let mtus = mtus.filter_map(|member| member.entry.vnic()).map(|vnic| vnic.mtu);
            wanted.mtu = mtus.chain([network.mtu, wanted.mtu]).max().unwrap_or_default();
        };
        for state in self.networks.values() {
            let changed = changed.filter(|changed| changed.id == state.model.id);
            add(changed.unwrap_or(&state.model), Some(state));
        }
        if let Some(new) = changed.filter(|new| !self.networks.contains_key(&new.id)) {
            add(new, None);
        }
        if let Some(Change::PutNic(nic)) = change
            && self.networks.get(&nic.new.network_id).is_some_and(|of| self.is_led_out(&of.model))
        {
            let its = nic_prefixes(&nic.new).map(|prefix| (prefix, nic.new.network_id));
            wanted.owners.extend(its);
            wanted.mtu = wanted.mtu.max(nic.new.mtu.unwrap_or(0));
        }
        wanted.prefixes = wanted.owners.keys().copied().collect();
        // Without a way out there is no way in.
        if !wanted.prefixes.is_empty() {
            wanted.nat = self.wanted_nat(change, &wanted.prefixes);
        }
        let before = &self.egress.known.balancers;
        wanted.balancers = self.wanted_balancers(change, before, &wanted.prefixes);
        let balanced = wanted.balancers.values().map(|balanced| balanced.spec().address);
        wanted.nat.balanced = balanced.collect();
        wanted
    }

    /// Lets the kernel know what a change would bring about. A refusal: it knows what it knew.
    pub(super) fn prepare_egress(&mut self, change: &Change) -> Result<(), Refusal> {
        let is_new = match change {
            // Its way in is to be published, though nothing else may change.
            Change::PutNetwork(network) => network.new.is_public,
            Change::PutLoadBalancer(_) => true,
            // As nearly every vNIC, it has nothing but addresses of its network.
            Change::PutNic(nic) => nic_prefixes(&nic.new).next().is_some(),
            Change::PutForward(_) | Change::PutFloatingIp(_) => true,
            _ => false,
        };
        if !is_new {
            return Ok(());
        }
        self.egress.is_unsettled = true;
        let wanted = self.wanted(Some(change));
        // What is no longer wanted is so once the change is in force.
        let known = &self.egress.known;
        let is_known = wanted.prefixes.is_subset(&known.prefixes)
            && wanted.nat == known.nat
            && wanted.balancers == known.balancers;
        if is_known {
            return Ok(());
        }
        let made = self.let_know_of(change, &wanted);
        if made.is_err() && self.public_networks().next().is_none() {
            self.release_outside();
        }
        made.map_err(|error| Refusal::Unready(format!("egress: {error}")))
    }

    /// Opens the port of the way out where it is not, for networks that are there already.
    pub(super) fn open_outside(&mut self) {
        self.egress.retry = None;
        self.clear_remains();
        if let WayOut::User(user) = &mut self.egress.way
            && user.patience().is_some()
        {
            user.ask_again();
            self.egress.is_unsettled = true;
        }
        if self.public_networks().next().is_none() || matches!(self.egress.way, WayOut::Off(_)) {
            return;
        }
        let wanted = self.wanted(None);
        if let Err(error) = self.let_know(&wanted) {
            self.say_failure(&error);
        }
        self.settle();
    }

    /// Gives the port of the way out its place.
    fn place_outside(&mut self) -> Placement {
        if let Some(place) = self.egress.place {
            return place;
        }
        let place = self.dataplane.place(self.egress.key);
        self.by_port.insert(place.port, Owner::Outside);
        self.egress.place = Some(place);
        self.publish_public();
        place
    }

    /// Has the tables of all public networks published anew, and the way in.
    fn publish_public(&mut self) {
        let public = self.networks.iter().filter(|(_, network)| network.model.is_public);
        self.unpublished.extend(public.map(|(id, _)| *id));
        self.egress.is_unsettled = true;
    }

    /// Makes the port of the way out, or goes on with that of another process.
    fn attach_outside(&mut self, exported: Option<Exported>) -> io::Result<()> {
        let Some(name) = self.egress.way.name().map(str::to_owned) else { return Ok(()) };
        let spec = match &mut self.egress.way {
            WayOut::User(user) => given::Spec::Egress(user.start(self.egress.events.clone())?),
            _ => given::Spec::Tun(name.clone()),
        };
        let place = self.place_outside();
        let port = NewPort {
            place,
            network: self.egress.key,
            name: name.clone(),
            spec: PortSpec::Given(spec),
            // It outlives a crash by itself, or does not at all.
            slot: Slot::default(),
        };
        let attached = self.dataplane.attach(port, exported).map_err(|error| {
            if let WayOut::User(user) = &mut self.egress.way {
                user.stop();
            }
            let why = match error.kind() {
                io::ErrorKind::PermissionDenied => format!("{error}; it needs CAP_NET_ADMIN"),
                // Another interface has its name.
                io::ErrorKind::InvalidInput => "it is no TUN device".into(),
                _ => error.to_string(),
            };
            io::Error::new(error.kind(), format!("the way out by {name}: {why}"))
        })?;
        self.egress.attached = Some(attached);
        // A process of its own knows nothing yet.
        self.egress.is_unsettled = true;
        Ok(())
    }

    /// Goes on with the port of another process.
    pub(super) fn take_outside_over(&mut self, exported: Exported) -> io::Result<()> {
        // By its flags, this process may have no way out, or another.
        let is_ours = matches!(self.egress.way, WayOut::Tun(_)) && self.egress.place.is_some();
        if is_ours { self.attach_outside(Some(exported)) } else { Ok(()) }
    }

    /// Returns the port of the way out, and where it is.
    pub(super) fn outside(&self) -> Option<(Owner, Placement, &Attached)> {
        Some((Owner::Outside, self.egress.place?, self.egress.attached.as_ref()?))
    }

    /// Moves the port of the way out to another reactor. Returns its name.
    pub(super) fn relocate_outside(&mut self, reactor: u16) -> Option<String> {
        let Egress { place, attached, key, way, .. } = &mut self.egress;
        let name = way.name()?.to_owned();
        self.dataplane.relocate(*key, place.as_mut()?, attached.as_ref()?, reactor);
        self.publish_public();
        Some(name)
    }

    /// The device or the process is gone: it is made anew, and all that was known with it.
    pub(super) fn outside_is_lost(&mut self, why: &str) {
        // Of a process that has ended both its port and its socket tell.
        let Some(attached) = self.egress.attached.take() else { return };
        let text = "the way out of public networks is lost";
        tracing::warn!(why, "{text}");
        self.note_egress(text, why);
        self.closing.push(attached.stop());
        self.egress.known.prefixes.clear();
        if let WayOut::User(user) = &mut self.egress.way {
            user.stop();
        }
        self.egress.look_again();
    }

    /// Takes notice of what the process says that is the way out.
    pub(super) fn outside_said(&mut self, (generation, event): (u64, Event)) {
        let WayOut::User(user) = &mut self.egress.way else { return };
        if !user.is_current(generation) {
            return;
        }
        match event {
            Event::Said(report) => {
                user.said(report);
                if let (Some(patience), None) = (user.patience(), self.egress.retry) {
                    self.egress.retry = Some(Instant::now() + patience);
                }
            }
            Event::Ended(error) => self.outside_is_lost(&error.to_string()),
        }
    }

    /// Lets the kernel know no more than is in force, and returns the table of the way in where
    /// that has changed with these networks.
    pub(super) fn settle_egress(&mut self, changed: &[Uuid]) -> Option<forward::Network> {
        let is_public = |id: &Uuid| {
            let state = self.networks.get(id);
            state.is_some_and(|network| {
                network.model.is_public || self.egress.published.contains(&network.key)
            })
        };
        let was_public = |network: &NetworkState| self.egress.published.contains(&network.key);
        let has_changed = changed.iter().any(is_public) || self.deleted.iter().any(was_public);
        if !has_changed && !std::mem::take(&mut self.egress.is_unsettled) {
            return None;
        }
        self.leave_shadows();
        self.egress.is_unsettled = false;
        let wanted = self.wanted(None);
        self.tell_segments(&wanted);
        if wanted.prefixes.is_empty() {
            self.end_egress();
        } else if self.egress.attached.is_some() && wanted != self.egress.known {
            if let Err(error) = self.let_know(&wanted) {
                self.say_failure(&error);
            }
            self.egress.is_unsettled = false;
        }
        self.settle_checks();
        let Egress { known, way, .. } = &self.egress;
        let outside = self.egress.place.map(|at| (at, known.mtu, way.receiving()));
        self.egress.published = self.public_networks().map(|network| network.key).collect();
        let public = self.public_networks();
        let networks = public.map(|network| (&network.model, network.members.values()));
        let outside = (outside, self.egress.way.allowed());
        let table = compile::way_in(self.egress.key, outside, networks, self.seed);
        let forwards = self.sockets();
        if let WayOut::User(user) = &mut self.egress.way {
            let public = self.networks.values().filter(|network| network.model.is_public);
            let members = public.flat_map(|network| network.members.values());
            if let Err(error) =
                user.tell(members.filter_map(|member| member.entry.vnic()), forwards)
            {
                tracing::warn!(%error, "guests of public networks have no way out");
            }
        }
        Some(table)
    }

    /// Returns the way out for a network, where it is public.
    pub(super) fn way_out(&self, network: &Network) -> Option<outside::WayOut<'_>> {
        let is_led_out = self.is_led_out(network) && self.why_left_out(network.id).is_none();
        let next_hop = is_led_out.then(|| self.egress.next_hop()).flatten()?;
        Some(outside::WayOut { next_hop, allowed: self.egress.way.allowed() })
    }

    /// Ends the way out, which nobody needs any more.
    fn end_egress(&mut self) {
        if self.egress.place.is_some() && !self.release_outside() {
            self.expect_remains();
        }
    }

    /// Likewise, and returns whether there was one: of what was never made, nothing is there.
    fn release_outside(&mut self) -> bool {
        let Some(place) = self.egress.place.take() else { return false };
        let attached = self.egress.attached.take();
        let was_there = attached.is_some();
        self.closing.extend(attached.map(Attached::stop));
        self.by_port.remove(&place.port);
        self.dataplane.release(self.egress.key, place);
        let known = std::mem::take(&mut self.egress.known);
        self.egress.published.clear();
        match &mut self.egress.way {
            WayOut::Tun(host) if !was_there => host.give_up(),
            WayOut::Tun(_) => self.end_kernel(&known),
            WayOut::User(user) => user.stop(),
            WayOut::Off(_) => {}
        }
        self.tell_ailing();
        was_there
    }

    /// Returns how public networks reach the world, and what has been carried.
    pub fn get_egress(&mut self) -> proto::Egress {
        let counters = self.egress.attached().map(Attached::counters);
        let stats = stats::stats(Uuid::nil(), counters);
        let stats = Some(proto::NicStats { nic_id: String::new(), ..stats });
        let error = self.ailments().join("; ");
        match &mut self.egress.way {
            WayOut::Off(why) => proto::Egress {
                mode: proto::EgressMode::Off.into(),
                reason: why.clone(),
                ..Default::default()
            },
            WayOut::Tun(host) => proto::Egress {
                mode: proto::EgressMode::Tun.into(),
                device: host.device().into(),
                stats,
                error,
                obstacles: host.obstacles().into_iter().map(obstacle).collect(),
                ..Default::default()
            },
            WayOut::User(user) => proto::Egress {
                mode: proto::EgressMode::User.into(),
                reason: user.why().into(),
                program: user.program(),
                flows: Some(user.flows()),
                stats,
                error,
                ..Default::default()
            },
        }
    }

    /// Returns what a vNIC has open outside, where that is known.
    pub(super) fn flows_outside(&self, port: PortId) -> Option<proto::EgressFlows> {
        match &self.egress.way {
            WayOut::User(user) => user.flows_of(port),
            WayOut::Off(_) | WayOut::Tun(_) => None,
        }
    }
}

fn obstacle(Obstacle { kind, text, remedy }: Obstacle) -> proto::Obstacle {
    let kind = match kind {
        ObstacleKind::Forwarding => proto::ObstacleKind::Forwarding,
        ObstacleKind::Firewall => proto::ObstacleKind::Firewall,
    };
    proto::Obstacle { kind: kind.into(), text, remedy }
}

/// Returns the prefixes of a network's own, each with its field.
fn own_prefixes(network: &Network) -> impl Iterator<Item = (&'static str, IpNet)> {
    let ipv4 = network.ipv4_subnet.map(|subnet| ("ipv4_subnet", IpNet::V4(subnet)));
    let ipv6 = network.ipv6_prefix.map(|prefix| ("ipv6_prefix", IpNet::V6(prefix)));
    ipv4.into_iter().chain(ipv6)
}

/// Whether a prefix and what a public network has overlap.
fn has_some_of(network: &NetworkState, prefix: IpNet) -> bool {
    let own = own_prefixes(&network.model).map(|(_, own)| own);
    let mut all = own.chain(routed_prefixes(network));
    all.any(|taken| taken.contains(&prefix) || prefix.contains(&taken))
}

/// Returns the prefixes behind a network's vNICs that are reached from outside.
fn routed_prefixes(network: &NetworkState) -> impl Iterator<Item = IpNet> {
    let vnics = network.members.values().filter_map(|member| member.entry.vnic());
    vnics.flat_map(|vnic| {
        let ipv4 = vnic.routed_ipv4.iter().copied().map(IpNet::V4);
        let all = ipv4.chain(vnic.routed_ipv6.iter().copied().map(IpNet::V6));
        all.filter(|prefix| is_reached_from_outside(*prefix))
    })
}

/// As [`routed_prefixes`], of one vNIC.
fn nic_prefixes(nic: &Nic) -> impl Iterator<Item = IpNet> {
    let ipv4 = nic.routed_ipv4.iter().copied().map(IpNet::V4);
    let all = ipv4.chain(nic.routed_ipv6.iter().copied().map(IpNet::V6));
    all.filter(|prefix| is_reached_from_outside(*prefix))
}
