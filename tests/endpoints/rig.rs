//! A data plane with one switched network, and its control.

use crate::peer::{TIMEOUT, mac};
use mvirt_net::{
    addr::MacAddr,
    dataplane::{
        Access, Arrival, Attached, Dataplane, Exported, Hugepages, NewPort, Paused, Placement,
        PortChange, PortEvent, PortSpec, PortState, Reports, Settings,
        forward::{
            Domain, Network,
            switched::Switched,
            tables::{Member, NetworkKey, PortId, Role, Vnic},
        },
    },
    descriptor_store::Slot,
    model::{
        L2Policy,
        l2::{HasGateway, Members},
    },
};
use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

pub(crate) const NETWORK: NetworkKey = NetworkKey(1);

pub(crate) struct Rig {
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) dataplane: Dataplane,
    reports: Reports,
    /// The latest state of each port, and why.
    states: HashMap<PortId, (PortState, String)>,
    directory: tempfile::TempDir,
    paused: Vec<Paused>,
    /// Who is a member, and the number in its MAC.
    pub(crate) members: Vec<(Placement, u8)>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let settings = Settings {
            reactors: 1,
            cpus: vec![],
            busy_poll: Duration::ZERO,
            hugepages: Hugepages::Off,
            guest_memory: 0,
            capture_ring: None,
            socket_access: Access::default(),
        };
        let (dataplane, reports) = Dataplane::start(&settings).unwrap();
        Self {
            runtime: tokio::runtime::Runtime::new().unwrap(),
            dataplane,
            reports,
            states: HashMap::new(),
            directory: tempfile::tempdir().unwrap(),
            paused: Vec::new(),
            members: Vec::new(),
        }
    }

    /// A path that is nobody else's.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Attaches a port that is no member.
    pub(crate) fn listen(&mut self, spec: PortSpec) -> io::Result<Attached> {
        let place = self.dataplane.place(NETWORK);
        let attached = self.attach(spec, place, "in")?;
        self.wait_for(place, PortState::Listening);
        Ok(attached)
    }

    fn attach(&self, spec: PortSpec, place: Placement, name: &str) -> io::Result<Attached> {
        self.attach_with(spec, place, name, None)
    }

    fn attach_with(
        &self,
        spec: PortSpec,
        place: Placement,
        name: &str,
        exported: Option<Exported>,
    ) -> io::Result<Attached> {
        let _entered = self.runtime.enter();
        let new =
            NewPort { place, network: NETWORK, name: name.into(), spec, slot: Slot::default() };
        self.dataplane.attach(new, exported)
    }

    /// Goes on with a listener, and with who is connected to it, of another data plane.
    pub(crate) fn take_over(
        &mut self,
        spec: PortSpec,
        listener: Exported,
        clients: impl IntoIterator<Item = (u8, Exported)>,
    ) -> (Attached, Vec<Attached>) {
        // As the daemon does: what waits in one goes to all of them.
        let standstill = self.dataplane.hold();
        let place = self.dataplane.place(NETWORK);
        let listener = self.attach_with(spec, place, "in", Some(listener)).unwrap();
        let mut attached = Vec::new();
        for (number, mut exported) in clients {
            let (remote, since) = (format!("client {number}"), SystemTime::UNIX_EPOCH);
            let returned = {
                let _entered = self.runtime.enter();
                listener.returned(remote, since, &mut exported).unwrap()
            };
            assert_eq!(returned.remote(), format!("client {number}"));
            assert_eq!(returned.since(), since);
            let place = self.dataplane.place(NETWORK);
            self.members.push((place, number));
            let spec = PortSpec::Member(returned);
            let name = format!("port {number}");
            attached.push(self.attach_with(spec, place, &name, Some(exported)).unwrap());
        }
        self.publish();
        for (place, _) in self.members.clone() {
            self.wait_for(place, PortState::Active);
        }
        drop(standstill);
        (listener, attached)
    }

    /// Goes on with a member of another data plane.
    pub(crate) fn rejoin(&mut self, spec: PortSpec, number: u8, exported: Exported) -> Attached {
        let place = self.dataplane.place(NETWORK);
        let attached = self.attach_with(spec, place, "again", Some(exported)).unwrap();
        self.members.push((place, number));
        self.publish();
        attached
    }

    /// What a port gives to another process; it stands still from then on.
    pub(crate) fn export(&mut self, port: &Attached) -> Exported {
        let (answers, mut answered) = tokio::sync::mpsc::unbounded_channel();
        // Resumed by nobody: kept until the rig ends.
        self.paused.push(port.exporter().stop(0, answers));
        let (_, exported) = self.runtime.block_on(answered.recv()).unwrap();
        exported.unwrap()
    }

    /// Attaches a member with this number in its MAC.
    pub(crate) fn join(&mut self, spec: PortSpec, number: u8) -> io::Result<Attached> {
        let place = self.dataplane.place(NETWORK);
        let attached = self.attach(spec, place, &format!("port {number}"))?;
        self.members.push((place, number));
        self.publish();
        Ok(attached)
    }

    /// Makes a member of who arrives next.
    pub(crate) fn admit(&mut self, number: u8) -> Attached {
        let arrival = self.arrival();
        assert!(arrival.since().elapsed().unwrap() < TIMEOUT);
        self.make_member(arrival, number)
    }

    /// Makes a member of who has arrived. It hears frames when this returns.
    pub(crate) fn make_member(&mut self, arrival: Arrival, number: u8) -> Attached {
        let attached = self.join(PortSpec::Member(arrival), number).unwrap();
        self.wait_until(number, PortState::Active);
        attached
    }

    fn event(&mut self) -> PortEvent {
        let Self { runtime, reports, .. } = self;
        let next = runtime.block_on(async { tokio::time::timeout(TIMEOUT, reports.recv()).await });
        let event = next.unwrap().unwrap();
        self.note(&event);
        event
    }

    fn note(&mut self, event: &PortEvent) {
        if let PortChange::State(state, why) = &event.change {
            self.states.insert(event.port, (*state, why.to_string()));
        }
    }

    /// The next who arrives; what else happens is of no interest.
    pub(crate) fn arrival(&mut self) -> Arrival {
        loop {
            if let PortChange::Arrived(arrival) = self.event().change {
                return arrival;
            }
        }
    }

    /// Waits until a member is in `state`. Returns why it is, where it was told.
    pub(crate) fn wait_for(&mut self, place: Placement, state: PortState) -> String {
        let deadline = Instant::now() + TIMEOUT;
        while let Some(event) = self.reports.try_recv() {
            self.note(&event);
        }
        loop {
            match self.states.get(&place.port) {
                Some((is, why)) if *is == state => return why.clone(),
                _ => {}
            }
            assert!(Instant::now() < deadline, "it is not {state:?}");
            self.event();
        }
    }

    /// As [`Rig::wait_for`], for the member of this number.
    pub(crate) fn wait_until(&mut self, number: u8, state: PortState) -> String {
        let (place, _) = *self.members.iter().find(|(_, is)| *is == number).unwrap();
        self.wait_for(place, state)
    }

    /// Waits until the member of this number is in `state`, and returns why. Before it, it may be
    /// in that state without a reason, as every port is at first.
    pub(crate) fn why_it_is(&mut self, number: u8, state: PortState) -> String {
        loop {
            let why = self.wait_until(number, state);
            if !why.is_empty() {
                return why;
            }
            self.event();
        }
    }

    pub(crate) fn publish(&mut self) {
        let network = network(&self.members);
        assert!(self.runtime.block_on(self.dataplane.publish([network]).passed()));
    }

    pub(crate) fn close(&self, port: Attached) {
        self.runtime.block_on(port.close());
    }
}

/// Waits until a port has counted this, and no more.
pub(crate) fn has_counted(port: &Attached, counts: &[(&str, u64)]) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let totals = port.counters().totals();
        let is = |name: &str| totals.get(name).copied().unwrap_or(0);
        if counts.iter().all(|(name, count)| is(name) == *count) {
            return;
        }
        let more = counts.iter().any(|(name, count)| is(name) > *count);
        assert!(!more && Instant::now() < deadline, "{totals:?}, not {counts:?}");
        std::thread::yield_now();
    }
}

/// A switched network of vNICs with these numbers in their MACs.
fn network(members: &[(Placement, u8)]) -> Network {
    let member = |(place, number): &(Placement, u8)| {
        let vnic = Vnic::new(place.port, MacAddr(mac(*number)), 1500);
        Member { reactor: place.reactor, role: Role::Guest(Arc::new(vnic)) }
    };
    let members: Vec<_> = members.iter().map(member).collect();
    let rules = L2Policy::plain().in_force(HasGateway::No, Members::Any);
    let domain = Domain::Switched(Switched::new(&members, rules));
    Network { key: NETWORK, members, domain }
}
