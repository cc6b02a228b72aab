//! The way out by `mvirt-egress`: the process while it is needed, and what it knows of vNICs.

use crate::{
    dataplane::forward::tables::{PortId, Tag, Vnic},
    egress::protocol::{
        Addition, Configuration, Dropped, Failure, Forward, Listening, Nic, NicStats, Order,
        Removal, Report, Stats,
    },
    egress_process::{EgressProcess, Event, Events},
    proto,
};
use ipnet::IpNet;
use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// How long until it is started again where it has ended, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];
/// What has run so long has not failed at its start.
const RAN_WELL: Duration = Duration::from_secs(10);
/// How many vNICs are told of at once.
// With 512 prefixes each, two fit into a message.
const TOGETHER: usize = 2;

/// The way out by `mvirt-egress`.
#[derive(Debug)]
pub struct UserEgress {
    program: PathBuf,
    /// Why it is this way.
    why: String,
    /// What it is told first: no vNICs.
    configuration: Configuration,
    running: Option<EgressProcess>,
    /// How often it was started, and when the last time.
    generation: u64,
    started: Option<Instant>,
    pause: Duration,
    /// What it knows of vNICs.
    known: BTreeMap<u16, Nic>,
    /// Where it listens for them.
    forwards: BTreeMap<Listening, Forward>,
    /// Where it cannot, and why.
    refused: BTreeMap<Listening, String>,
    stats: Stats,
}

impl UserEgress {
    /// Returns the way by `program`, which is told this first, and why it is this.
    pub fn new(program: PathBuf, why: String, configuration: Configuration) -> Self {
        Self {
            program,
            why,
            configuration,
            running: None,
            generation: 0,
            started: None,
            pause: PAUSES[0],
            known: BTreeMap::new(),
            forwards: BTreeMap::new(),
            refused: BTreeMap::new(),
            stats: Stats::default(),
        }
    }

    /// Returns the program's file.
    pub(super) fn program(&self) -> String {
        self.program.display().to_string()
    }

    /// Returns why it is this way.
    pub(super) fn why(&self) -> &str {
        &self.why
    }

    /// Starts it. Returns the socket of its packets. What it says comes to `events`.
    pub(super) fn start(&mut self, to: mpsc::Sender<(u64, Event)>) -> io::Result<OwnedFd> {
        self.generation += 1;
        self.started = Some(Instant::now());
        let events = Events { to, generation: self.generation };
        let (process, packets) = EgressProcess::start(&self.program, &self.configuration, events)?;
        self.running = Some(process);
        Ok(packets)
    }

    /// Ends it, and all connections by it.
    pub(super) fn stop(&mut self) {
        self.running = None;
        self.known.clear();
        self.forwards.clear();
        self.refused.clear();
        self.stats = Stats::default();
    }

    /// Returns how long to wait before it is started again.
    pub(super) fn pause(&mut self) -> Duration {
        let ran_well = self.started.is_none_or(|started| started.elapsed() > RAN_WELL);
        let pause = if ran_well { PAUSES[0] } else { self.pause };
        self.pause = (pause * 2).min(PAUSES[1]);
        pause
    }

    /// Whether an event is of the process that runs now.
    pub(super) fn is_current(&self, generation: u64) -> bool {
        self.running.is_some() && self.generation == generation
    }

    /// Takes notice of what it says.
    pub(super) fn said(&mut self, report: Report) {
        match report {
            Report::Ready { echo: true, .. } => {}
            Report::Ready { .. } => tracing::warn!(
                "guests of public networks cannot ping: net.ipv4.ping_group_range has no group \
                 of this daemon"
            ),
            Report::Stats { stats } => self.stats = stats,
            Report::Failed(Failure::Forward { listen, protocol, error, .. }) => {
                tracing::warn!(%listen, ?protocol, error, "a forward is not in force");
                self.refused.insert(Listening { listen, protocol }, error);
            }
            Report::Failed(failure) => tracing::warn!(?failure, "mvirt-egress"),
        }
    }

    /// Lets it know these vNICs and where it listens for them, and no others.
    pub(super) fn tell<'a>(
        &mut self,
        vnics: impl Iterator<Item = &'a Vnic>,
        forwards: Vec<Forward>,
    ) -> io::Result<()> {
        let Some(running) = &self.running else { return Ok(()) };
        let at = |it: &Forward| Listening { listen: it.listen, protocol: it.protocol };
        let forwards: BTreeMap<_, _> = forwards.into_iter().map(|it| (at(&it), it)).collect();
        let silent = self.forwards.keys().filter(|at| !forwards.contains_key(at));
        let silent: Vec<_> = silent.copied().collect();
        for some in silent.chunks(SOCKETS_TOGETHER) {
            let forwards = some.into();
            running.order(&Order::Remove(Removal { forwards, ..Removal::default() }))?;
        }
        let wanted: BTreeMap<u16, Nic> = vnics.filter_map(nic).map(|nic| (nic.tag, nic)).collect();
        let gone = self.known.keys().filter(|tag| !wanted.contains_key(tag));
        let gone: Vec<_> = gone.copied().collect();
        // A number is a few octets.
        for nics in gone.chunks(MAX_TAGS) {
            running.order(&Order::Remove(Removal { nics: nics.into(), ..Removal::default() }))?;
        }
        let new = wanted.values().filter(|nic| self.known.get(&nic.tag) != Some(nic));
        let new: Vec<_> = new.cloned().collect();
        for nics in new.chunks(TOGETHER) {
            running.order(&Order::Add(Addition { nics: nics.into(), ..Addition::default() }))?;
        }
        // Also those of vNICs that it was told of anew: these may have another address.
        let is_told = |it: &&Forward| new.iter().any(|nic| nic.tag == it.tag);
        let is_new = |it: &&Forward| self.forwards.get(&at(it)) != Some(*it) || is_told(it);
        let new: Vec<_> = forwards.values().filter(is_new).copied().collect();
        self.refused.retain(|at, _| forwards.contains_key(at));
        new.iter().for_each(|it| drop(self.refused.remove(&at(it))));
        for some in new.chunks(SOCKETS_TOGETHER) {
            let forwards = some.into();
            running.order(&Order::Add(Addition { forwards, ..Addition::default() }))?;
        }
        (self.known, self.forwards) = (wanted, forwards);
        Ok(())
    }

    /// Says why it does not listen at one of these, if there is such a one.
    pub(super) fn why_silent(&self, forwards: &[Forward]) -> Option<String> {
        forwards.iter().find_map(|it| {
            let error =
                self.refused.get(&Listening { listen: it.listen, protocol: it.protocol })?;
            Some(format!("the host cannot listen at {}: {error}", it.listen))
        })
    }

    /// Returns what a vNIC has there.
    pub(super) fn flows_of(&self, port: PortId) -> Option<proto::EgressFlows> {
        let Tag(tag) = Tag::of(port)?;
        let stats = || self.stats.nics.iter().find(|nic| nic.tag == tag);
        self.known.contains_key(&tag).then(|| flows(stats(), &BTreeMap::new()))
    }

    /// Returns what all have there.
    pub(super) fn flows(&self) -> proto::EgressFlows {
        flows(&self.stats.nics, &self.stats.dropped)
    }
}

/// How many sockets are asked for at once.
// Each takes 150 octets of a message at most.
const SOCKETS_TOGETHER: usize = 256;
/// How many vNICs are forgotten at once.
const MAX_TAGS: usize = 4096;

/// Returns a vNIC as the process is to know it; none where there are too many.
fn nic(vnic: &Vnic) -> Option<Nic> {
    let Tag(tag) = Tag::of(vnic.port)?;
    let ipv4 = vnic.routed_ipv4.iter().copied().map(IpNet::V4);
    let ipv6 = vnic.routed_ipv6.iter().chain(&vnic.slaac).copied().map(IpNet::V6);
    let prefixes = ipv4.chain(ipv6).collect();
    Some(Nic { tag, ipv4: vnic.ipv4, ipv6: vnic.ipv6, prefixes, mtu: vnic.mtu })
}

/// Returns the sum of all these, and of what was dropped beside.
fn flows<'a>(
    all: impl IntoIterator<Item = &'a NicStats>,
    beside: &BTreeMap<Dropped, u64>,
) -> proto::EgressFlows {
    let mut sum = proto::EgressFlows::default();
    let mut drops = beside.clone();
    for nic in all {
        sum.connections += nic.connections;
        sum.udp_ports += nic.udp;
        sum.pings += nic.echo;
        for (reason, count) in &nic.dropped {
            *drops.entry(*reason).or_default() += count;
        }
    }
    let drop = |(reason, frames): (Dropped, u64)| proto::DropCount {
        reason: reason.name().into(),
        frames,
    };
    sum.drops = drops.into_iter().map(drop).collect();
    sum
}
