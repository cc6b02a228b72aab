//! What is known of a daemon while it is watched, and tables of it. No I/O.

use super::sheet::{Row, Sheet, Tone, Value};
use crate::units;
use jiff::Timestamp;
use mvirt_net::proto::{
    DroppedFrame, DropsUpdate, Event, NetworkEvent, Nic, NicEvent, NicState, NicStats, Port,
    PortEvent, PortState, Reactor, Severity, StatsUpdate,
};
use std::collections::{BTreeMap, VecDeque};

/// Seconds that are remembered.
const HISTORY: usize = 60;
/// Flows of dropped frames, and events, that are remembered.
const MOST: usize = 500;

/// Of rates, what documents call them: each of a second.
const FROM: &str = "from_frames";
const FROM_BITS: &str = "from_bits";
const TO: &str = "to_frames";
const TO_BITS: &str = "to_bits";
const DROPS: &str = "dropped_frames";

/// Something that the daemon says.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
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
            Self::Drops => 3,
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

/// Frames of one flow that were dropped for one reason.
#[derive(Debug, Clone, Default)]
struct Flow {
    count: u64,
    last: DroppedFrame,
}

/// All that is known.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    networks: BTreeMap<String, (String, &'static str)>,
    objects: BTreeMap<String, Object>,
    counted: BTreeMap<String, Counted>,
    reactors: Vec<Thread>,
    reactors_at: Option<Timestamp>,
    drops: BTreeMap<(String, String, String), Flow>,
    events: VecDeque<Event>,
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
                let object = event.nic.map(|nic| Object::Nic(Box::new(nic)));
                self.object(event.nic_id, object);
            }
            News::Port(event) => {
                let object = event.port.map(|port| Object::Port(Box::new(port)));
                self.object(event.port_id, object);
            }
            News::Stats(update) => return self.count(update),
            News::Drops(update) => update.frames.into_iter().for_each(|frame| self.note(frame)),
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

    fn note(&mut self, frame: DroppedFrame) {
        let key = (frame.reason.clone(), frame.name.clone(), frame.flow.clone());
        if self.drops.len() >= MOST && !self.drops.contains_key(&key) {
            // Times of the API are in the order of their texts.
            let oldest = self.drops.iter().min_by(|a, b| a.1.last.time.cmp(&b.1.last.time));
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.drops.remove(&oldest);
            }
        }
        let flow = self.drops.entry(key).or_default();
        flow.count += 1;
        flow.last = frame;
    }

    /// Returns a line about all of it.
    pub(super) fn summary(&self) -> String {
        let mut all = Rates::default();
        self.counted.values().for_each(|counted| all.add(counted.rates));
        let active = self.objects.values().filter(|object| object.state().1 == Tone::Good).count();
        let [frames, _, _, _, drops] = all.cells();
        let bits = Value::Rate(all.from_bits);
        let at = self.time.parse::<Timestamp>().unwrap_or_default();
        format!(
            "mvirt top {}  {} networks, {} vNICs and ports, {active} in use  {} frames/s {} bit/s \
             {} dropped/s",
            units::time_of_day(at.as_millisecond()),
            self.networks.len(),
            self.objects.len(),
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
        let row = |(id, (name, kind)): (&String, &(String, &'static str))| {
            let (mut count, mut rates) = (0, Rates::default());
            let mut trend = vec![0.0; HISTORY];
            for (object_id, object) in &self.objects {
                if object.network().0 != id {
                    continue;
                }
                count += 1;
                let Some(counted) = self.counted.get(object_id) else { continue };
                rates.add(counted.rates);
                // The last second of all is the last one.
                for (sum, value) in trend.iter_mut().rev().zip(counted.history.iter().rev()) {
                    *sum += value;
                }
            }
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
        let header = &["LAST", "NIC", "REASON", "FRAMES", "FLOW"];
        let keys = &["last", "nic", "reason", "frames", "flow"];
        let row = |((reason, name, flow), found): (&(String, String, String), &Flow)| Row {
            id: format!("{reason} {name} {flow}"),
            cells: vec![
                Value::Text(time_of_day(&found.last.time)),
                Value::text(name),
                Value::text(reason),
                Value::Count(found.count),
                Value::text(flow),
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
                Value::Text(time_of_day(&event.time)),
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
                let is_it =
                    |key: &(String, String, String)| format!("{} {} {}", key.0, key.1, key.2) == id;
                if let Some((_, flow)) = self.drops.iter().find(|(key, _)| is_it(key)) {
                    say("reason", &flow.last.reason);
                    say("meaning", &flow.last.text);
                    say("flow", &flow.last.flow);
                    let frame =
                        crate::described::described(&flow.last.head, flow.last.length as usize);
                    say("last frame", &frame);
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

fn time_of_day(time: &str) -> String {
    units::time_of_day(time.parse::<Timestamp>().unwrap_or_default().as_millisecond())
}
