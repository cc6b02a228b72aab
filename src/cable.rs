//! Two ports joined within one program: what `mvirt plug` is about.
//!
//! ```text
//! locator ── port ──┐ a data plane of one reactor, one network: what comes in by
//! locator ── port ──┘ one goes out by the other, as it is and in order
//! ```
//! Nothing is learned, unless one of them is a switch: its clients are told apart by their MACs.

use crate::{
    control::{listens, port_spec},
    dataplane::{
        self, Access, Arrival, Attached, Dataplane, Hugepages, NewPort, Placement, PortChange,
        PortEvent, PortSpec, PortState, Reports,
        forward::{
            Domain, Network,
            switched::Switched,
            tables::{BridgePort, Member, NetworkKey, PortId, Role},
        },
    },
    descriptor_store::Slot,
    locator::Locator,
    model::{
        L2Policy,
        l2::{HasGateway, Members, PortRole},
    },
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const NETWORK: NetworkKey = NetworkKey(1);
/// Octets of an IP packet: no frame is too long for a cable.
const MTU: u16 = u16::MAX;

/// What is at an end.
#[derive(Debug)]
pub enum End {
    /// What a locator says.
    Locator {
        /// The locator.
        locator: Locator,
        /// How the end describes itself to others.
        description: String,
    },
    /// A port that was made otherwise, by its name.
    Made(String, PortSpec),
}

/// Why there is no cable, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum CableError {
    /// The data plane could not start.
    #[error("cannot start the data plane: {0}")]
    Dataplane(#[from] dataplane::StartError),
    /// An end could not be opened.
    #[error("{end}: {reason}")]
    Open {
        /// Which.
        end: String,
        /// Why.
        reason: String,
    },
}

/// An end that is open.
#[derive(Debug)]
struct OpenEnd {
    name: String,
    place: Placement,
    attached: Attached,
    /// Others connect to it, and it carries nothing itself.
    listens: bool,
    /// Frames have gone by it, or could have.
    was_up: bool,
    /// Whoever is at its other end comes and goes.
    waits: bool,
    /// What comes in by it goes to all, and all that comes in goes out by it.
    is_hub: bool,
}

/// Two ports joined, until dropped.
#[derive(Debug)]
pub struct Cable {
    dataplane: Dataplane,
    reports: Reports,
    ends: Vec<OpenEnd>,
    /// Who is connected to ends that listen: the end's number, the place, and the connection.
    clients: BTreeMap<PortId, (usize, Placement, Attached)>,
    /// An end is no more that was up.
    is_over: bool,
}

impl Cable {
    /// Opens both ends, on the current runtime of tokio, and returns when frames can go by both.
    pub async fn open(ends: [End; 2]) -> Result<Self, CableError> {
        let (dataplane, reports) = Dataplane::start(&dataplane::Settings {
            reactors: 1,
            cpus: Vec::new(),
            busy_poll: Duration::ZERO,
            hugepages: Hugepages::Off,
            guest_memory: 0,
            capture_ring: None,
            socket_access: Access::default(),
        })?;
        let (open, clients) = (Vec::new(), BTreeMap::new());
        let mut cable = Self { dataplane, reports, ends: open, clients, is_over: false };
        match cable.open_ends(ends).await {
            Ok(()) => Ok(cable),
            Err(error) => {
                // What is open already is not to leave its socket.
                cable.close().await;
                Err(error)
            }
        }
    }

    async fn open_ends(&mut self, ends: [End; 2]) -> Result<(), CableError> {
        let is = |end: &End, wanted: fn(&Locator) -> bool| match end {
            End::Locator { locator, .. } => wanted(locator),
            End::Made(..) => false,
        };
        let learns = ends.iter().any(|end| is(end, |end| matches!(end, Locator::Switch(_))));
        let is_hub = |end: &End| !learns || is(end, |end| matches!(end, Locator::Hub(_)));
        let ends = ends.map(|end| (is_hub(&end), end));
        // What is made already comes last: what waits there is not to find the other end missing.
        let (made, others): (Vec<_>, Vec<_>) =
            ends.into_iter().partition(|(_, end)| matches!(end, End::Made(..)));
        for ends in [others, made] {
            for (is_hub, end) in ends {
                self.open_end(end, is_hub)?;
            }
            self.publish().await;
            while !self.is_over && self.ends.iter().any(|end| !end.was_up) {
                self.turn().await?;
            }
        }
        Ok(())
    }

    fn open_end(&mut self, end: End, is_hub: bool) -> Result<(), CableError> {
        let is_listening = matches!(&end, End::Locator { locator, .. } if listens(locator));
        let waits = matches!(&end, End::Locator { locator: Locator::Ptp(_), .. });
        let (name, spec) = match end {
            End::Locator { locator, description } => {
                let name = locator.to_string();
                (name, port_spec(&locator, &description))
            }
            End::Made(name, spec) => (name, Ok(spec)),
        };
        let place = self.dataplane.place(NETWORK);
        let attach = |spec| {
            let new = NewPort {
                place,
                network: NETWORK,
                name: name.clone(),
                spec,
                slot: Slot::default(),
            };
            self.dataplane.attach(new, None)
        };
        match spec.and_then(attach) {
            Ok(attached) => {
                let (listens, was_up) = (is_listening, is_listening || waits);
                self.ends.push(OpenEnd { name, place, attached, listens, was_up, waits, is_hub });
                Ok(())
            }
            Err(error) => Err(CableError::Open { end: name, reason: error.to_string() }),
        }
    }

    /// Puts who is there now in force.
    async fn publish(&mut self) {
        let member = |place: &Placement, hub: bool| {
            let role = PortRole::Uplink;
            let port =
                BridgePort { mac_limit: u32::MAX, hub, ..BridgePort::new(place.port, role, MTU) };
            Member { reactor: place.reactor, role: Role::Bridge(Arc::new(port)) }
        };
        let ends = self.ends.iter().filter(|end| !end.listens);
        let ends = ends.map(|end| member(&end.place, end.is_hub));
        let clients = self.clients.values();
        let clients = clients.map(|(end, place, _)| member(place, self.ends[*end].is_hub));
        let members: Vec<_> = ends.chain(clients).collect();
        let rules = L2Policy::plain().in_force(HasGateway::No, Members::Any);
        let domain = Domain::Switched(Switched::new(&members, rules));
        let network = Network { key: NETWORK, members, domain };
        // False where the reactor has ended, which then is seen by its ports.
        self.dataplane.publish([network]).passed().await;
    }

    /// Carries frames until either end is no more.
    pub async fn carry(&mut self) -> Result<(), CableError> {
        while !self.is_over {
            self.turn().await?;
        }
        Ok(())
    }

    /// Waits for what happens next, and takes it into account.
    async fn turn(&mut self) -> Result<(), CableError> {
        // The reporters of open ports keep it open.
        let Some(PortEvent { port, change, .. }) = self.reports.recv().await else {
            self.is_over = true;
            return Ok(());
        };
        let Some(end) = self.ends.iter().position(|end| end.place.port == port) else {
            if let PortChange::State(PortState::Left, _) = change {
                self.release(port).await;
            }
            return Ok(());
        };
        match change {
            PortChange::Arrived(arrival) => self.admit(end, arrival).await,
            PortChange::State(PortState::Active, _) => self.ends[end].was_up = true,
            PortChange::State(PortState::Idle, _) if self.ends[end].waits => {}
            PortChange::State(PortState::Idle | PortState::Failed | PortState::Left, why) => {
                let OpenEnd { name, was_up, .. } = &self.ends[end];
                if !was_up {
                    let (end, reason) = (name.clone(), why.to_string());
                    return Err(CableError::Open { end, reason });
                }
                self.is_over = true;
            }
            // Between two ends no loop is looked for.
            PortChange::State(PortState::Listening | PortState::Blocked(_), _)
            | PortChange::Gateway(_) => {}
        }
        Ok(())
    }

    /// Completes when what had come in by then has gone out, as far as others take it.
    pub async fn settle(&self) {
        // A turn each to take it in, to carry it, and to send what was left.
        for _ in 0..3 {
            self.dataplane.pulse().barrier().passed().await;
        }
    }

    async fn admit(&mut self, end: usize, arrival: Arrival) {
        let place = self.dataplane.place(NETWORK);
        let (name, spec) = (arrival.remote().to_owned(), PortSpec::Member(arrival));
        let new = NewPort { place, network: NETWORK, name, spec, slot: Slot::default() };
        match self.dataplane.attach(new, None) {
            Ok(attached) => {
                self.clients.insert(place.port, (end, place, attached));
                self.publish().await;
            }
            Err(error) => {
                self.dataplane.release(NETWORK, place);
                tracing::warn!(%error, "a client is not served");
            }
        }
    }

    async fn release(&mut self, port: PortId) {
        let Some((_, place, attached)) = self.clients.remove(&port) else { return };
        self.publish().await;
        attached.close().await;
        self.dataplane.release(NETWORK, place);
    }

    /// Closes both ends: what they have made is gone when this returns.
    pub async fn close(self) {
        let clients = self.clients.into_values().map(|(_, _, attached)| attached);
        let ends = self.ends.into_iter().map(|end| end.attached);
        let closing: Vec<_> = clients.chain(ends).map(Attached::stop).collect();
        for closing in closing {
            closing.over().await;
        }
    }
}
