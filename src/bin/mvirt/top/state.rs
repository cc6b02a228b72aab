//! What is known of a daemon while it is watched, and tables of it. No I/O.

use super::sheet::{Row, Sheet, Tone, Value};
use crate::{
    drops::{self, Group},
    units::{self, counted},
};
use jiff::Timestamp;
use mvirt_net::proto::{
    DropsUpdate, Event, NetworkEvent, Nic, NicEvent, NicState, NicStats, Port, PortEvent,
    PortState, Reactor, Severity, StatsUpdate,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Seconds that are remembered.
const HISTORY: usize = 60;
/// Flows of dropped frames, and events, that are remembered.
const MOST: usize = 500;
/// Streams of objects that are counted: vNICs and ports.
const COUNTED: u8 = 2;

/// Of rates, what documents call them: each of a second.
const FROM: &str = "from_frames";
const FROM_BITS: &str = "from_bits";
const TO: &str = "to_frames";
const TO_BITS: &str = "to_bits";
const DROPS: &str = "dropped_frames";

/// Something that the daemon says.
#[expect(clippy::large_enum_variant, reason = "most are of the largest, and none is kept")]
#[derive(Debug)]
pub(super) enum News {
    Network(NetworkEvent),
    Nic(NicEvent),
    Port(PortEvent),
    Stats(StatsUpdate),
    Drops(DropsUpdate),
    Event(Event),
}

/// What is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Tab {
    Networks,
    Nics,
    Reactors,
    Drops,
    Events,
}

impl Tab {
    /// All, in the order of their numbers.
    pub(super) const ALL: [Self; 5] =
        [Self::Networks, Self::Nics, Self::Reactors, Self::Drops, Self::Events];

    /// As it is called.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Networks => "networks",
            Self::Nics => "vNICs",
            Self::Reactors => "reactors",
            Self::Drops => "drops",
            Self::Events => "events",
        }
    }

    /// The column that it is sorted by at first.
    pub(super) fn sorted_by(self) -> usize {
        match self {
            // Of drops, how many frames there were.
            Self::Drops => 4,
            _ => 0,
        }
    }
}

/// What comes in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Rates {
    from_frames: f64,
    from_bits: f64,
    to_frames: f64,
    to_bits: f64,
    drops: f64,
}

impl Rates {
    fn of(stats: &NicStats, elapsed_ns: u64) -> Self {
        let rate = |count: u64| count as f64 * 1e9 / elapsed_ns.max(1) as f64;
        Self {
            from_frames: rate(stats.ingress_frames),
            from_bits: rate(stats.ingress_octets) * 8.0,
            to_frames: rate(stats.egress_frames),
            to_bits: rate(stats.egress_octets) * 8.0,
            drops: rate(stats.drops.iter().map(|drop| drop.frames).sum()),
        }
    }

    fn add(&mut self, other: Self) {
        self.from_frames += other.from_frames;
        self.from_bits += other.from_bits;
        self.to_frames += other.to_frames;
        self.to_bits += other.to_bits;
        self.drops += other.drops;
    }

    fn cells(self) -> [Value; 5] {
        [self.from_frames, self.from_bits, self.to_frames, self.to_bits, self.drops]
            .map(Value::Rate)
    }

    fn carried(self) -> f64 {
        self.from_bits + self.to_bits
    }

    fn tone(self) -> Tone {
        if self.drops > 0.0 { Tone::Bad } else { Tone::Plain }
    }
}

/// The last minute, a value a second.
type History = VecDeque<f64>;

fn remember(history: &mut History, value: f64) {
    if history.len() == HISTORY {
        history.pop_front();
    }
    history.push_back(value);
}

/// A vNIC or a port.
#[derive(Debug, Clone)]
enum Object {
    Nic(Box<Nic>),
    Port(Box<Port>),
}

impl Object {
    fn name(&self) -> &str {
        match self {
            Self::Nic(nic) => &nic.name,
            Self::Port(port) => &port.name,
        }
    }

    fn network(&self) -> (&str, &str) {
        match self {
            Self::Nic(nic) => (&nic.network_id, &nic.network_name),
            Self::Port(port) => (&port.network_id, &port.network_name),
        }
    }

    /// The networks that it is in: of a trunk several.
    fn networks(&self) -> BTreeSet<&str> {
        let vlans = match self {
            Self::Nic(_) => &[][..],
            Self::Port(port) => &port.vlans,
        };
        let vlans = vlans.iter().map(|vlan| &*vlan.network_id);
        vlans.chain([self.network().0]).collect()
    }

    fn state(&self) -> (&'static str, Tone) {
        match self {
            Self::Nic(nic) => match nic.state() {
                NicState::Active => (nic.state().word(), Tone::Good),
                NicState::Error | NicState::Blocked => (nic.state().word(), Tone::Bad),
                _ => (nic.state().word(), Tone::Plain),
            },
            Self::Port(port) => match port.state() {
                PortState::Up => (port.state().word(), Tone::Good),
                PortState::Error | PortState::Blocked => (port.state().word(), Tone::Bad),
                _ => (port.state().word(), Tone::Plain),
            },
        }
    }
}

/// What was counted of a vNIC or port.
#[derive(Debug, Clone, Default)]
struct Counted {
    rates: Rates,
    history: History,
    /// All that were dropped, by reason.
    drops: BTreeMap<String, u64>,
    /// What is as it is now: what was negotiated, and what went wrong.
    stats: NicStats,
}

/// A reactor, and what it did in the last second.
#[derive(Debug, Clone, Default)]
struct Thread {
    last: Reactor,
    busy: f64,
    polling: f64,
    frames: f64,
    sleeps: f64,
    ns_per_frame: f64,
    history: History,
}

/// All that is known.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    networks: BTreeMap<String, (String, &'static str)>,
    objects: BTreeMap<String, Object>,
    counted: BTreeMap<String, Counted>,
    reactors: Vec<Thread>,
    reactors_at: Option<Timestamp>,
    drops: BTreeMap<String, Group>,
    events: VecDeque<Event>,
    /// Streams of objects that have told what there is.
    synced: u8,
    /// Of the update before.
    continues: bool,
    time: String,
    /// Whether there are rates: they take two looks.
    pub(super) is_measured: bool,
}

impl State {
    /// Takes something over. Returns whether all is counted now that there is of a moment.
    pub(super) fn take(&mut self, news: News) -> bool {
        match news {
            News::Network(event) => match event.network {
                Some(network) => {
                    let kind = network.kind().as_str_name().trim_start_matches("NETWORK_KIND_");
                    let kind = if kind == "SWITCHED" { "switched" } else { "routed" };
                    self.networks.insert(event.network_id, (network.name, kind));
                }
                None => drop(self.networks.remove(&event.network_id)),
            },
            News::Nic(event) => {
                self.synced += u8::from(event.synced);
                let object = event.nic.map(|nic| Object::Nic(Box::new(nic)));
                self.object(event.nic_id, object);
            }
            News::Port(event) => {
                self.synced += u8::from(event.synced);
                let object = event.port.map(|port| Object::Port(Box::new(port)));
                self.object(event.port_id, object);
            }
            News::Stats(update) => return self.count(update),
            News::Drops(update) => {
                for frame in update.frames {
                    drops::add(&mut self.drops, frame);
                    self.forget_drops();
                }
            }
            News::Event(event) => {
                if self.events.len() == MOST {
                    self.events.pop_front();
                }
                self.events.push_back(event);
            }
        }
        false
    }

    fn object(&mut self, id: String, object: Option<Object>) {
        match object {
            Some(object) => drop(self.objects.insert(id, object)),
            None => {
                self.objects.remove(&id);
                self.counted.remove(&id);
            }
        }
    }

    fn count(&mut self, update: StatsUpdate) -> bool {
        let StatsUpdate { time, elapsed_ns, stats, continues } = update;
        if !std::mem::replace(&mut self.continues, continues) {
            // Those of which nothing is told have counted nothing.
            self.counted.values_mut().for_each(|counted| counted.rates = Rates::default());
        }
        for stats in stats {
            let counted = self.counted.entry(stats.nic_id.clone()).or_default();
            for drop in &stats.drops {
                *counted.drops.entry(drop.reason.clone()).or_default() += drop.frames;
            }
            // The first update has all that was counted before.
            if elapsed_ns > 0 {
                counted.rates = Rates::of(&stats, elapsed_ns);
            }
            counted.stats = stats;
        }
        if continues {
            return false;
        }
        if self.synced == COUNTED {
            // What is counted comes by another stream, also once its object is gone, or before that
            // is told.
            let is_news = |counted: &Counted| counted.rates != Rates::default();
            self.counted.retain(|id, counted| self.objects.contains_key(id) || is_news(counted));
        }
        self.time = time;
        self.is_measured = elapsed_ns > 0;
        if self.is_measured {
            for counted in self.counted.values_mut() {
                remember(&mut counted.history, counted.rates.carried());
            }
        }
        true
    }

    /// Takes over what reactors have done until now.
    pub(super) fn look_at(&mut self, reactors: Vec<Reactor>, now: Timestamp) {
        let before = self.reactors_at.replace(now);
        let elapsed = before.map_or(0.0, |before| now.duration_since(before).as_secs_f64());
        self.reactors.resize_with(reactors.len(), Thread::default);
        for (thread, reactor) in self.reactors.iter_mut().zip(reactors) {
            let last = std::mem::replace(&mut thread.last, reactor);
            if elapsed <= 0.0 {
                continue;
            }
            let come = |now: u64, before: u64| now.saturating_sub(before) as f64;
            let now = &thread.last;
            let (busy_ns, frames) =
                (come(now.busy_ns, last.busy_ns), come(now.frames, last.frames));
            thread.busy = busy_ns / 1e9 / elapsed;
            thread.polling = come(now.polling_ns, last.polling_ns) / 1e9 / elapsed;
            thread.frames = frames / elapsed;
            thread.sleeps = come(now.sleeps, last.sleeps) / elapsed;
            thread.ns_per_frame = if frames > 0.0 { busy_ns / frames } else { 0.0 };
            remember(&mut thread.history, thread.busy);
        }
    }

    fn forget_drops(&mut self) {
        if self.drops.len() > MOST {
            // Times of the API are in the order of their texts.
            let oldest = self.drops.iter().min_by(|a, b| a.1.last.cmp(&b.1.last));
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.drops.remove(&oldest);
            }
        }
    }

    /// Returns a line about all of it.
    pub(super) fn summary(&self) -> String {
        let mut all = Rates::default();
        self.counted.values().for_each(|counted| all.add(counted.rates));
        let active = self.objects.values().filter(|object| object.state().1 == Tone::Good).count();
        let [frames, _, _, _, drops] = all.cells();
        let bits = Value::Rate(all.from_bits);
        format!(
            "{}  {}, {}, {active} in use  {} frames/s {} bit/s {} dropped/s",
            Value::Time(self.time.clone()).shown(),
            counted(self.networks.len() as u64, "network"),
            counted(self.objects.len() as u64, "member"),
            frames.shown(),
            bits.shown(),
            drops.shown(),
        )
    }

    /// Returns a table.
    pub(super) fn sheet(&self, tab: Tab) -> Sheet {
        match tab {
            Tab::Networks => self.network_sheet(),
            Tab::Nics => self.nic_sheet(),
            Tab::Reactors => self.reactor_sheet(),
            Tab::Drops => self.drop_sheet(),
            Tab::Events => self.event_sheet(),
        }
    }

    fn network_sheet(&self) -> Sheet {
        let header = &["NAME", "KIND", "VNICS", "FROM/S", "BIT/S", "TO/S", "BIT/S", "DROP/S"];
        let keys = &["name", "kind", "nics", FROM, FROM_BITS, TO, TO_BITS, DROPS];
        let mut sums = BTreeMap::<&str, (u64, Rates, Vec<f64>)>::new();
        for (id, object) in &self.objects {
            for network in object.networks() {
                let (count, rates, trend) = sums.entry(network).or_default();
                *count += 1;
                let Some(counted) = self.counted.get(id) else { continue };
                rates.add(counted.rates);
                trend.resize(HISTORY, 0.0);
                // The last second of all is the last one.
                for (sum, value) in trend.iter_mut().rev().zip(counted.history.iter().rev()) {
                    *sum += value;
                }
            }
        }
        let row = |(id, (name, kind)): (&String, &(String, &'static str))| {
            let (count, rates, trend) = sums.remove(&**id).unwrap_or_default();
            let cells = [Value::text(name), Value::text(kind), Value::Count(count)];
            let cells = cells.into_iter().chain(rates.cells()).collect();
            Row { id: id.clone(), cells, tone: rates.tone(), trend }
        };
        Sheet { header, keys, rows: self.networks.iter().map(row).collect() }
    }

    fn nic_sheet(&self) -> Sheet {
        let header = &["NAME", "NETWORK", "STATE", "FROM/S", "BIT/S", "TO/S", "BIT/S", "DROP/S"];
        let keys = &["name", "network", "state", FROM, FROM_BITS, TO, TO_BITS, DROPS];
        let nothing = Counted::default();
        let row = |(id, object): (&String, &Object)| {
            let counted = self.counted.get(id).unwrap_or(&nothing);
            let (state, tone) = object.state();
            let cells = [object.name(), object.network().1, state].map(Value::text);
            let cells = cells.into_iter().chain(counted.rates.cells()).collect();
            let tone = if counted.rates.tone() == Tone::Bad { Tone::Bad } else { tone };
            Row { id: id.clone(), cells, tone, trend: counted.history.iter().copied().collect() }
        };
        Sheet { header, keys, rows: self.objects.iter().map(row).collect() }
    }

    fn reactor_sheet(&self) -> Sheet {
        let header = &["ID", "VNICS", "BUSY", "POLLING", "FRAMES/S", "NS/FRAME", "SLEEPS/S"];
        let keys = &["id", "nics", "busy", "polling", "frames", "ns_per_frame", "sleeps"];
        let row = |thread: &Thread| Row {
            id: thread.last.id.to_string(),
            cells: vec![
                Value::Text(thread.last.id.to_string()),
                Value::Count(thread.last.nics.into()),
                Value::Share(thread.busy),
                Value::Share(thread.polling),
                Value::Rate(thread.frames),
                Value::Rate(thread.ns_per_frame),
                Value::Rate(thread.sleeps),
            ],
            // Beyond that, frames wait.
            tone: if thread.busy > 0.9 { Tone::Bad } else { Tone::Plain },
            trend: thread.history.iter().copied().collect(),
        };
        Sheet { header, keys, rows: self.reactors.iter().map(row).collect() }
    }

    fn drop_sheet(&self) -> Sheet {
        let header = &["LAST", "NIC", "WAY", "REASON", "FRAMES", "FLOW"];
        let keys = &["last", "nic", "direction", "reason", "frames", "flow"];
        let row = |(id, group): (&String, &Group)| Row {
            id: id.clone(),
            cells: vec![
                Value::Time(group.last.clone()),
                Value::text(&group.nic),
                Value::text(group.direction),
                Value::text(&group.reason),
                Value::Count(group.count),
                Value::text(&group.flow),
            ],
            tone: Tone::Plain,
            trend: Vec::new(),
        };
        Sheet { header, keys, rows: self.drops.iter().map(row).collect() }
    }

    fn event_sheet(&self) -> Sheet {
        let header = &["TIME", "SEVERITY", "KIND", "WHAT"];
        let keys = &["time", "severity", "kind", "text"];
        // The last one first.
        let row = |event: &Event| Row {
            id: event.time.clone(),
            cells: vec![
                Value::Time(event.time.clone()),
                Value::text(event.severity().word()),
                Value::text(&event.kind),
                Value::text(&event.text),
            ],
            tone: match event.severity() {
                Severity::Warning | Severity::Error => Tone::Bad,
                _ => Tone::Plain,
            },
            trend: Vec::new(),
        };
        Sheet { header, keys, rows: self.events.iter().rev().map(row).collect() }
    }

    /// Returns all that is known of what a row is about: names and values.
    pub(super) fn details(&self, tab: Tab, id: &str) -> Vec<(String, String)> {
        let mut found: Vec<(String, String)> = Vec::new();
        let mut say = |name: &str, value: &str| {
            if !value.is_empty() {
                let shown = Value::text(value).shown();
                found.push((name.to_owned(), shown));
            }
        };
        match (tab, self.objects.get(id)) {
            (Tab::Nics, Some(Object::Nic(nic))) => {
                say("id", id);
                say("mac", &nic.mac_address);
                say("ipv4", &nic.ipv4_address);
                say("ipv6", &nic.ipv6_address);
                say("socket", &nic.socket_path);
                say("state", nic.state().word());
                say("error", &nic.error);
                let guest = nic.guest.clone().unwrap_or_default();
                say("hostname", &guest.hostname);
                say("ipv4 lease", &units::ago(&guest.ipv4_lease_at));
            }
            (Tab::Nics, Some(Object::Port(port))) => {
                say("id", id);
                say("locator", &port.locator);
                say("state", port.state().word());
                say("error", &port.error);
                port.attachments.iter().for_each(|client| say("connected", &client.remote));
            }
            (Tab::Drops, _) => {
                if let Some(group) = self.drops.get(id) {
                    say("reason", &group.reason);
                    say("meaning", &group.text);
                    say("flow", &group.flow);
                    say("example", &group.example);
                }
            }
            (Tab::Events, _) => {
                if let Some(event) = self.events.iter().find(|event| event.time == id) {
                    say("time", &units::local(&event.time));
                    say("kind", &event.kind);
                    say("what", &event.text);
                    event.details.iter().for_each(|(name, value)| say(name, value));
                    event.object_ids.iter().for_each(|object| say("of", object));
                }
            }
            _ => {}
        }
        if let (Tab::Nics, Some(counted)) = (tab, self.counted.get(id)) {
            let drops = counted.drops.iter().filter(|(_, frames)| **frames > 0);
            drops.for_each(|(why, frames)| say("dropped", &format!("{frames} {why}")));
            say("features", &counted.stats.features.join(" "));
            say("last error", &counted.stats.last_error);
        }
        found
    }

    /// Returns the name of the vNIC or port that a row is about.
    pub(super) fn name(&self, tab: Tab, id: &str) -> Option<&str> {
        (tab == Tab::Nics).then(|| self.objects.get(id).map(Object::name)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mvirt_net::proto::{CapturePoint, DroppedFrame, Network, TaggedNetwork};

    fn shown(sheet: &Sheet, row: usize) -> Vec<String> {
        sheet.rows[row].cells.iter().map(Value::shown).collect()
    }

    fn port(state: &mut State, port: Option<Port>) {
        let port_id = "up".to_owned();
        state.take(News::Port(PortEvent { port_id, port, ..Default::default() }));
    }

    fn count(state: &mut State, stats: &[NicStats]) {
        let update =
            StatsUpdate { elapsed_ns: 1_000_000_000, stats: stats.to_vec(), ..Default::default() };
        state.take(News::Stats(update));
    }

    fn carried() -> NicStats {
        NicStats { nic_id: "up".into(), ingress_frames: 9, ..Default::default() }
    }

    #[test]
    fn a_trunk_is_in_each_of_its_networks() {
        let mut state = State::default();
        for id in ["a", "b", "c"] {
            let network = Some(Network { name: id.into(), ..Default::default() });
            let network_id = id.into();
            state.take(News::Network(NetworkEvent { network_id, network, ..Default::default() }));
        }
        let vlan = |id: &str| TaggedNetwork { network_id: id.into(), ..Default::default() };
        let vlans = vec![vlan("a"), vlan("b")];
        let trunk = Port { network_id: "a".into(), vlans, ..Default::default() };
        port(&mut state, Some(trunk));
        count(&mut state, &[carried()]);
        let sheet = state.sheet(Tab::Networks);
        assert_eq!([0, 1, 2].map(|row| shown(&sheet, row)[2..4].join(" ")), ["1 9", "1 9", "0 0"]);
    }

    #[test]
    fn what_is_counted_of_the_gone_is_forgotten() {
        let mut state = State::default();
        port(&mut state, Some(Port::default()));
        port(&mut state, None);
        count(&mut state, &[carried()]);
        count(&mut state, &[]);
        assert_eq!(state.counted.len(), 1, "its object may be told yet");
        state.take(News::Nic(NicEvent { synced: true, ..Default::default() }));
        state.take(News::Port(PortEvent { synced: true, ..Default::default() }));
        count(&mut state, &[carried()]);
        assert_eq!(state.counted.len(), 1, "it was there in that second");
        count(&mut state, &[]);
        assert!(state.counted.is_empty());
    }

    #[test]
    fn drops_from_a_guest_and_to_it_are_apart_and_the_oldest_go() {
        let mut state = State::default();
        let frame = |flow: usize, point: CapturePoint| DroppedFrame {
            time: format!("2026-11-27T18:30:00.{flow:03}Z"),
            flow: flow.to_string(),
            point: point.into(),
            ..Default::default()
        };
        let ways = [CapturePoint::FromGuest, CapturePoint::ToGuest];
        let frames = ways.map(|point| frame(0, point)).into();
        state.take(News::Drops(DropsUpdate { frames, ..Default::default() }));
        let sheet = state.sheet(Tab::Drops);
        assert_eq!([0, 1].map(|row| shown(&sheet, row)[2].clone()), ["from", "to"]);
        let frames = (1..MOST).map(|flow| frame(flow, ways[0])).collect();
        state.take(News::Drops(DropsUpdate { frames, ..Default::default() }));
        assert_eq!(state.drops.len(), MOST);
        assert_eq!(state.drops.values().filter(|group| group.flow == "0").count(), 1);
    }
}
