//! What happens at ports, on its way to control, which may be waiting for a disk: of each port at
//! most its latest state and one message of each kind are under way, however often its VMM and
//! guest change their minds; of a listening port, also those who have connected, whose number its
//! endpoint limits, and hosts that ask for an address, whose number its reactor limits.

use super::{
    Arrival, GatewayEvent, PortChange, PortEvent, PortState, Punted, forward::tables::PortId,
    reactor,
};
use crate::mutex::lock;
use std::sync::{
    Arc, Mutex, Weak,
    atomic::{AtomicU8, AtomicU64, Ordering},
};
use tokio::sync::mpsc;

/// A state is under way; below it, a bit for each kind of [`GatewayEvent`].
const STATE: u8 = 1 << 7;
const _: () = assert!(GatewayEvent::KINDS <= 7, "each has a bit of its own");

/// One port's way to control.
#[derive(Debug, Clone)]
pub(super) struct Reporter(Arc<Port>);

#[derive(Debug)]
struct Port {
    id: PortId,
    /// The latest, and why.
    // Endpoints write it and control reads it: no reactor ever waits for it.
    state: Mutex<(PortState, Arc<str>)>,
    under_way: AtomicU8,
    /// How many VMMs have connected.
    connections: AtomicU64,
    /// The reactor that has it, or had it last.
    // Weak: who only says something keeps no reactor from ending.
    home: Mutex<Weak<reactor::Handle>>,
    // Unbounded, but never long: a port has one report for each bit under way at most.
    told: Senders,
}

/// The ways of all ports.
#[derive(Debug, Clone)]
pub(super) struct Senders {
    reports: mpsc::UnboundedSender<Report>,
    punts: mpsc::UnboundedSender<(Way, Punted)>,
}

/// The way of services back to a guest.
#[derive(Debug, Clone)]
pub struct Way(Arc<Port>);

impl Way {
    /// Returns the guest's port.
    pub fn port(&self) -> PortId {
        self.0.id
    }

    /// Has a frame put into the port, where that is.
    pub fn say(&self, frame: Box<[u8]>) {
        if let Some(home) = lock(&self.0.home).upgrade() {
            home.say(self.0.id, frame);
        }
    }
}

/// Frames of guests for services, with the way back.
#[derive(Debug)]
pub struct Punts(mpsc::UnboundedReceiver<(Way, Punted)>);

impl Punts {
    /// Returns the next; none once there are no ports and will be none.
    pub async fn recv(&mut self) -> Option<(Way, Punted)> {
        self.0.recv().await
    }
}

/// Something is to be told of a port.
#[derive(Debug)]
pub(super) struct Report {
    port: Arc<Port>,
    told: Told,
}

#[derive(Debug)]
enum Told {
    /// It has another state, or VMM.
    State,
    /// The gateway has told the guest of this connection something.
    Gateway(u64, GatewayEvent),
    Arrived(Arrival),
}

/// What control hears of all ports.
#[derive(Debug)]
pub struct Reports {
    reports: mpsc::UnboundedReceiver<Report>,
    punts: Option<Punts>,
}

/// For ports that are to report, and for who hears of them.
pub(super) fn channel() -> (Senders, Reports) {
    // Reactors send into them, which wait for nobody, and count what waits of each port.
    let (reports, receiver) = mpsc::unbounded_channel();
    let (punts, punted) = mpsc::unbounded_channel();
    let punted = Some(Punts(punted));
    (Senders { reports, punts }, Reports { reports: receiver, punts: punted })
}

/// Returns the bit for a kind of [`GatewayEvent`]; none for the kind that says nothing.
fn mark(told: &GatewayEvent) -> Option<u8> {
    (told.kind() < GatewayEvent::KINDS).then(|| 1 << told.kind())
}

impl Reporter {
    pub(super) fn new(id: PortId, told: Senders) -> Self {
        let (state, home) = (Mutex::new((PortState::Idle, "".into())), Mutex::default());
        let (under_way, connections) = (0.into(), 0.into());
        Self(Arc::new(Port { id, state, under_way, connections, home, told }))
    }

    /// A reactor is to have the port.
    pub(super) fn lives_at(&self, reactor: &Arc<reactor::Handle>) {
        *lock(&self.0.home) = Arc::downgrade(reactor);
    }

    /// Another VMM is connected.
    pub(super) fn connected(&self) {
        // Before the mark, as with states.
        self.0.connections.fetch_add(1, Ordering::Release);
        self.report(STATE, Told::State);
    }

    /// The port has another state, for a reason that may be empty.
    pub(super) fn state(&self, state: PortState, why: &str) {
        // Before the mark: who takes that away reads this, or a later one.
        *lock(&self.0.state) = (state, why.into());
        self.report(STATE, Told::State);
    }

    /// Somebody has connected to the port, which listens.
    pub(super) fn arrived(&self, arrival: Arrival) {
        self.send(Told::Arrived(arrival));
    }

    /// The gateway has told the guest something, or a service is to. While a message of a kind is
    /// under way, others of it are left out.
    pub(super) fn told(&self, told: GatewayEvent) {
        if let GatewayEvent::Punted(punted) = told {
            // Nobody listens where there are no services.
            self.0.told.punts.send((Way(Arc::clone(&self.0)), punted)).ok();
        } else if let Some(mark) = mark(&told) {
            // Taken now: when control reads this, another VMM may be connected, with another guest.
            let connection = self.0.connections.load(Ordering::Acquire);
            self.report(mark, Told::Gateway(connection, told));
        } else if let GatewayEvent::Asked(_) = told {
            // Reactors count those that wait.
            self.send(Told::Gateway(0, told));
        }
    }

    fn report(&self, mark: u8, told: Told) {
        // Who finds the mark set may leave: the state it stored is read after that mark is taken.
        if self.0.under_way.fetch_or(mark, Ordering::AcqRel) & mark == 0 {
            self.send(told);
        }
    }

    fn send(&self, told: Told) {
        // Nobody listens once the daemon is going down.
        self.0.told.reports.send(Report { port: Arc::clone(&self.0), told }).ok();
    }
}

impl Report {
    fn open(self) -> PortEvent {
        let Self { port, told } = self;
        let mark = match &told {
            Told::State => STATE,
            Told::Gateway(_, told) => mark(told).unwrap_or(0),
            Told::Arrived(_) => 0,
        };
        // Before the state is read: a change from here on sends a report of its own.
        port.under_way.fetch_and(!mark, Ordering::AcqRel);
        let mut connection = port.connections.load(Ordering::Acquire);
        let change = match told {
            Told::State => {
                let (state, why) = lock(&port.state).clone();
                PortChange::State(state, why)
            }
            Told::Gateway(then, told) => {
                connection = then;
                PortChange::Gateway(told)
            }
            Told::Arrived(arrival) => PortChange::Arrived(arrival),
        };
        PortEvent { port: port.id, connection, change }
    }
}

impl Reports {
    /// Takes what is for services; none once that was taken.
    pub fn take_punts(&mut self) -> Option<Punts> {
        self.punts.take()
    }

    /// The next; none once there are no ports and will be none.
    pub async fn recv(&mut self) -> Option<PortEvent> {
        self.reports.recv().await.map(Report::open)
    }

    /// The next, if there is one now.
    pub fn try_recv(&mut self) -> Option<PortEvent> {
        self.reports.try_recv().ok().map(Report::open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::Client;

    #[test]
    fn however_much_happens_little_is_under_way() {
        let (sender, mut reports) = channel();
        let ports = [0, 1].map(|slot| {
            let id = PortId { slot, generation: 1 };
            (id, Reporter::new(id, sender.clone()))
        });
        for _ in 0..10_000 {
            for (_, port) in &ports {
                port.state(PortState::Failed, "it broke");
                port.told(GatewayEvent::Neighbour4);
                port.told(GatewayEvent::Lease4(Client::default()));
                port.state(PortState::Active, "");
            }
        }
        let mut next = || reports.try_recv().map(|event| format!("{event:?}"));
        let heard: Vec<_> = std::iter::from_fn(&mut next).collect();
        assert_eq!(heard.len(), 6);
        for (id, port) in ports {
            let of = |connection, state| {
                let change = PortChange::State(state, "".into());
                format!("{:?}", PortEvent { port: id, connection, change })
            };
            let latest = of(0, PortState::Active);
            assert!(heard.contains(&latest));
            port.state(PortState::Idle, "");
            assert_eq!(next(), Some(of(0, PortState::Idle)), "what comes later is heard");
            port.connected();
            assert_eq!(next(), Some(of(1, PortState::Idle)), "as is another VMM");
        }
        assert_eq!(next(), None);
    }
}
