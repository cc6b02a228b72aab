//! What is told as an event, of what happens to whom, and in which words.

use super::{Control, refusal::Refusal, view};
use crate::{
    dataplane::{Blocking, GatewayEvent},
    log_limit::Said,
    printable::printable,
    proto,
    store::{Change, Put, StoreError},
};
use std::{collections::BTreeMap, time::Instant};
use uuid::Uuid;

/// Of what a capture is of, so many are named: an event is kept for long.
const NAMED: usize = 8;

/// How much it matters.
pub(super) use proto::Severity;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal),+ $(,)?) => {
        /// What has happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Kind {
            $($(#[doc = $doc])+ $variant),+
        }

        impl Kind {
            /// Every kind.
            const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in the API, the CLI and the documentation.
            pub(super) const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }
    };
}

kinds! {
    /// The daemon has started.
    Started = "started",
    /// Another process has handed over all that it served.
    HandOver = "hand_over",
    /// A vNIC has another state.
    NicState = "nic_state",
    /// A port has another state.
    PortState = "port_state",
    /// A port or vNIC is blocked, since what another has sent came back by it.
    LoopDetected = "loop_detected",
    /// A port or vNIC is blocked, since a MAC is behind it and behind others in turn.
    MacFlap = "mac_flap",
    /// Somebody has connected to a port that listens.
    PeerUp = "peer_up",
    /// Somebody has left a port that listens.
    PeerDown = "peer_down",
    /// A guest has taken the address of its vNIC, for the first time since its VMM connected.
    Lease = "lease",
    /// There is as much of something as may be.
    LimitReached = "limit_reached",
    /// A network, vNIC, port or what else is stored was created, changed or deleted.
    ChangeApplied = "change_applied",
    /// Somebody has begun to capture frames.
    CaptureStarted = "capture_started",
    /// The way out of public networks is lost, or cannot be had.
    Egress = "egress",
    /// Changes cannot be stored, or can be again.
    Store = "store",
}

/// Returns the names of all kinds.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    Kind::ALL.iter().map(|kind| kind.name())
}

impl Kind {
    /// Returns the name of the kind that is called so.
    pub(super) fn of(name: &str) -> Result<&'static str, Refusal> {
        kinds().find(|known| *known == name).ok_or_else(|| {
            let known = kinds().collect::<Vec<_>>().join(", ");
            Refusal::invalid("kinds", name, format!("expected some of {known}"))
        })
    }
}

impl From<Blocking> for Kind {
    fn from(why: Blocking) -> Self {
        match why {
            Blocking::Loop => Self::LoopDetected,
            Blocking::Flap => Self::MacFlap,
        }
    }
}

/// Something to be told.
#[derive(Debug)]
pub(super) struct Happened {
    pub(super) kind: Kind,
    pub(super) severity: Severity,
    /// Ids of what it happened to, the nearest first.
    pub(super) objects: Vec<Uuid>,
    pub(super) text: String,
    pub(super) details: BTreeMap<String, String>,
}

impl Happened {
    pub(super) fn new(kind: Kind, severity: Severity, text: impl Into<String>) -> Self {
        let (objects, details) = (Vec::new(), BTreeMap::new());
        Self { kind, severity, objects, text: text.into(), details }
    }

    /// To these.
    pub(super) fn to(mut self, objects: impl IntoIterator<Item = Uuid>) -> Self {
        self.objects = objects.into_iter().collect();
        self
    }

    /// With what a program reads; nothing where that is empty.
    pub(super) fn with(mut self, name: &str, value: impl ToString) -> Self {
        let value = value.to_string();
        if !value.is_empty() {
            self.details.insert(name.into(), value);
        }
        self
    }

    /// With how many alike before it were left out.
    pub(super) fn after(self, said: Said) -> Self {
        match said.unsaid {
            Some(unsaid) => self.with("unsaid", unsaid),
            None => self,
        }
    }
}

impl Control {
    /// Tells that it serves, by itself or what another process has handed over.
    pub fn begun(&mut self, is_taken_over: bool) {
        let (kind, text) = match is_taken_over {
            true => (Kind::HandOver, "this process has taken over from another"),
            false => (Kind::Started, "the daemon has started"),
        };
        let happened = Happened::new(kind, Severity::Info, text);
        let happened = happened.with("version", env!("CARGO_PKG_VERSION"));
        self.events.note(happened.with("pid", std::process::id()));
    }

    /// Tells that a request was refused, since there is as much of something as may be.
    pub(super) fn limit_reached(&mut self, text: String) {
        self.events.limit_reached(text, []);
    }

    /// Takes over whether changes could be stored.
    pub(super) fn note_stored(&mut self, result: &Result<(), StoreError>) {
        let was_well = self.health.retry().is_none();
        self.health.stored(result);
        let happened = match (was_well, result) {
            (true, Err(error)) => {
                let text = format!("changes cannot be stored: {error}");
                Happened::new(Kind::Store, Severity::Error, text)
            }
            (false, Ok(())) => {
                Happened::new(Kind::Store, Severity::Info, "changes can be stored again")
            }
            _ => return,
        };
        self.events.note(happened);
    }

    /// Tells that somebody captures frames of a network, or of vNICs and ports.
    pub(super) fn note_capture(&mut self, who: &str, request: &proto::CaptureRequest) {
        let Some(said) = self.events.captures.line(Instant::now()) else { return };
        let named: Vec<_> = request.targets.iter().take(NAMED).map(|it| printable(it)).collect();
        let whose = match (&*request.network_id, &named[..]) {
            ("", []) => "everybody".into(),
            ("", names) => names.join(" "),
            (network, _) => printable(network),
        };
        let text = format!("{who} captures frames of {whose}");
        let happened = Happened::new(Kind::CaptureStarted, Severity::Info, text);
        let happened = happened.with("who", who).with("network", printable(&request.network_id));
        let more = request.targets.len().checked_sub(NAMED + 1).map(|more| more + 1);
        let happened = happened.with("targets", named.join(" "));
        self.events.note(happened.with("more_targets", view::string(more)).after(said));
    }

    /// Tells that something has become of the way out of public networks.
    pub(super) fn note_egress(&mut self, text: &str, why: &str) {
        let text = reason(text.into(), why);
        self.events.note(Happened::new(Kind::Egress, Severity::Error, text).with("why", why));
    }

    /// Tells of the state of a vNIC, which the log is told, too.
    pub(super) fn note_nic_state(&mut self, id: Uuid, said: Said) {
        let Some(nic) = self.nics.get(&id) else { return };
        let (name, state) = (&nic.model.name, nic.state.word());
        let (kind, severity) = match nic.state {
            proto::NicState::Blocked => {
                (nic.blocked.map_or(Kind::NicState, Kind::from), Severity::Warning)
            }
            proto::NicState::Error => (Kind::NicState, Severity::Error),
            _ => (Kind::NicState, Severity::Info),
        };
        let last = nic.attached.as_ref().and_then(|attached| attached.monitor().last_error());
        let last = last.filter(|_| nic.state == proto::NicState::Error);
        let why = last.map_or_else(|| nic.why().into(), |error| error.reason);
        let text = reason(format!("vNIC {name} is {state}"), &why);
        let happened = Happened::new(kind, severity, text);
        let happened = happened.to([nic.model.id, nic.model.network_id]).with("nic", name);
        self.events.note(happened.with("state", state).with("why", why).after(said));
    }

    /// Tells of the state of a port, which the log is told, too.
    pub(super) fn note_port_state(&mut self, id: Uuid, said: Said) {
        let Some(entry) = self.ports.get(&id) else { return };
        let (port, state) = (&entry.model, entry.state.word());
        let (kind, severity) = match entry.state {
            proto::PortState::Blocked => {
                (entry.blocked.map_or(Kind::PortState, Kind::from), Severity::Warning)
            }
            proto::PortState::Error => (Kind::PortState, Severity::Error),
            proto::PortState::Down => (Kind::PortState, Severity::Warning),
            _ => (Kind::PortState, Severity::Info),
        };
        let text = reason(format!("port {} is {state}", port.name), &entry.error);
        let happened = Happened::new(kind, severity, text);
        let happened = happened.to([port.id, port.network_id]).with("port", &port.name);
        self.events.note(happened.with("state", state).with("why", &entry.error).after(said));
    }

    /// Tells that somebody has connected to a port, has left, or is blocked.
    pub(super) fn note_peer(&mut self, id: Uuid, remote: &str, change: PeerChange) {
        let Some(entry) = self.ports.get_mut(&id) else { return };
        // Peers come and go as often as they like.
        let Some(said) = entry.peers.line(Instant::now()) else { return };
        let port = &entry.model;
        let (kind, severity, what) = match change {
            PeerChange::Up => (Kind::PeerUp, Severity::Info, "has connected".into()),
            PeerChange::Down => (Kind::PeerDown, Severity::Info, "has left".into()),
            PeerChange::Blocked(why) => {
                (why.into(), Severity::Warning, reason("is blocked".into(), why.why()))
            }
        };
        let text = format!("port {}: {remote} {what}", port.name);
        let happened = Happened::new(kind, severity, text);
        let happened = happened.to([port.id, port.network_id]).with("port", &port.name);
        self.events.note(happened.with("remote", remote).after(said));
    }

    /// Takes over what the gateway has told a vNIC's guest.
    pub(super) fn guest_told(&mut self, id: Uuid, connection: u64, told: GatewayEvent) {
        let Some(nic) = self.nics.get_mut(&id) else { return };
        let is_ipv4 = matches!(told, GatewayEvent::Lease4(_));
        if !nic.guest.note(connection, told) {
            return;
        }
        // VMMs may connect anew as often as they like.
        let Some(said) = nic.leases.line(Instant::now()) else { return };
        let (model, hostname) = (&nic.model, &nic.guest.seen().hostname);
        let address = if is_ipv4 { view::string(model.ipv4) } else { view::string(model.ipv6) };
        let text = format!("the guest of vNIC {} has leased {address}", model.name);
        let happened = Happened::new(Kind::Lease, Severity::Info, text);
        let happened = happened.to([model.id, model.network_id]).with("nic", &model.name);
        let happened = happened.with("address", address).with("hostname", printable(hostname));
        self.events.note(happened.after(said));
    }

    /// Returns what is to be told of a change once it is in force: as long as what goes is there.
    /// Nothing of what hosts lease, which no request has asked for.
    pub(super) fn will_have_changed(&self, change: &Change) -> Option<Happened> {
        let deleted = |what: &str, id: Uuid, name: Option<String>| {
            Some(applied("deleted", what, &name.unwrap_or_else(|| id.to_string()), &[id]))
        };
        match change {
            Change::PutNetwork(put) => {
                Some(applied(done(put), "network", put.new.name.as_str(), &[put.new.id]))
            }
            Change::PutNic(put) => {
                let ids = [put.new.id, put.new.network_id];
                Some(applied(done(put), "vNIC", put.new.name.as_str(), &ids))
            }
            Change::PutPort(put) => {
                let ids = [put.new.id, put.new.network_id];
                Some(applied(done(put), "port", put.new.name.as_str(), &ids))
            }
            Change::PutForward(put) => {
                let ids = [put.new.id, put.new.network_id];
                Some(applied(done(put), "forward", put.new.name.as_str(), &ids))
            }
            Change::PutFloatingIp(put) => {
                let ids = [put.new.id, put.new.nic_id, put.new.network_id];
                Some(applied(done(put), "floating IP", &put.new.address.to_string(), &ids))
            }
            Change::PutLoadBalancer(put) => {
                let ids = [put.new.id, put.new.network_id];
                Some(applied(done(put), "load balancer", put.new.name.as_str(), &ids))
            }
            Change::PutLeases(_) => None,
            Change::DeleteNetwork { id, .. } => {
                let name = self.networks.get(id).map(|network| network.model.name.to_string());
                deleted("network", *id, name)
            }
            Change::DeleteNic { id, .. } => {
                let served = self.nics.get(id).map(|nic| &nic.model);
                let nic = served.or_else(|| self.orphans.get(id));
                deleted("vNIC", *id, nic.map(|nic| nic.name.to_string()))
            }
            Change::DeletePort(id) => {
                let name = self.ports.get(id).map(|entry| entry.model.name.to_string());
                deleted("port", *id, name)
            }
            Change::DeleteForward(id) => {
                let name = self.nat.forward(*id).map(|forward| forward.name.to_string());
                deleted("forward", *id, name)
            }
            Change::DeleteFloatingIp(id) => {
                let address = self.nat.floating_ip(*id).map(|it| it.address.to_string());
                deleted("floating IP", *id, address)
            }
            Change::DeleteLoadBalancer(id) => {
                let name = self.balancers.get(*id).map(|balancer| balancer.name.to_string());
                deleted("load balancer", *id, name)
            }
        }
    }
}

/// What has become of somebody who is connected to a port that listens.
#[derive(Debug, Clone, Copy)]
pub(super) enum PeerChange {
    /// Somebody has connected.
    Up,
    /// Somebody has left.
    Down,
    /// Nothing of it is carried any more.
    Blocked(Blocking),
}

fn done<T>(put: &Put<T>) -> &'static str {
    if put.old.is_none() { "created" } else { "changed" }
}

fn applied(done: &str, what: &str, name: &str, objects: &[Uuid]) -> Happened {
    let text = format!("{what} {name} was {done}");
    let happened = Happened::new(Kind::ChangeApplied, Severity::Info, text);
    let happened = happened.to(objects.iter().copied());
    happened.with("what", what).with("name", name).with("change", done)
}

fn reason(text: String, why: &str) -> String {
    if why.is_empty() { text } else { format!("{text}: {why}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::rig::Rig,
        dataplane::{Client, PortChange, PortEvent, PortState},
    };

    #[test]
    fn leases_take_no_lines_of_the_log() {
        let rig = Rig::new();
        rig.say(|_| true);
        let said = rig.call(|control| {
            let id = *control.nics.keys().next().unwrap();
            let port = control.nics[&id].place.port;
            for connection in 1..=150 {
                let change = PortChange::Gateway(GatewayEvent::Lease4(Client::default()));
                control.port_changed(PortEvent { port, connection, change });
            }
            control.nics.get_mut(&id).unwrap().log.line(Instant::now())
        });
        assert_eq!(said, Some(Said { unsaid: None }));
        rig.end();
    }
    #[test]
    fn what_blocks_a_port_is_not_read_from_its_text() {
        let rig = Rig::new();
        rig.say(|_| true);
        let (kinds, why) = rig.call(|control| {
            let id = *control.nics.keys().next().unwrap();
            let port = control.nics[&id].place.port;
            let kinds = [Blocking::Loop, Blocking::Flap].map(|why| {
                let change = PortChange::State(PortState::Blocked(why), "in other words".into());
                control.port_changed(PortEvent { port, connection: 0, change });
                control.note_nic_state(id, Said { unsaid: None });
                control.events.last_kind()
            });
            (kinds, control.nics[&id].why().to_owned())
        });
        assert_eq!(kinds, ["loop_detected", "mac_flap"]);
        assert_eq!(why, Blocking::Flap.why());
        rig.end();
    }
}
