//! The way out by `mvirt-egress`: the process while it is needed, and what it knows of vNICs.

use crate::{
    backoff::Backoff,
    dataplane::forward::tables::{PortId, Tag, Vnic},
    egress::protocol::{
        Addition, Configuration, Dropped, Failure, Forward, Listening, Nic, NicStats, Order,
        Removal, Report,
    },
    egress_process::{EgressProcess, Event, Events},
    log_limit::{LogLimit, Said},
    proto,
};
use ipnet::IpNet;
use rustix::io::Errno;
use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// How long until what was refused is asked for again, at first and at most.
// After a hand-over, the process of the daemon that goes has its sockets for some milliseconds.
const PATIENCE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(30)];
/// How long after its start nothing is said of sockets that another process has still.
const TAKING_OVER: Duration = Duration::from_secs(1);
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
    backoff: Backoff,
    /// What it knows of vNICs, by their tags. Their ports tell them from those that had the tag
    /// before.
    known: BTreeMap<u16, (PortId, Nic)>,
    /// Where it listens for them.
    forwards: BTreeMap<Listening, Forward>,
    /// Where it cannot, and why.
    refused: BTreeMap<Listening, String>,
    /// How long until these are asked for again.
    patience: Duration,
    log: LogLimit,
    stats: BTreeMap<u16, NicStats>,
    /// Packets of no vNIC that went nowhere.
    dropped: BTreeMap<Dropped, u64>,
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
            backoff: Backoff::default(),
            known: BTreeMap::new(),
            forwards: BTreeMap::new(),
            refused: BTreeMap::new(),
            patience: PATIENCE[0],
            log: LogLimit::default(),
            stats: BTreeMap::new(),
            dropped: BTreeMap::new(),
        }
    }

    /// Returns the program's file.
    pub(super) fn program(&self) -> String {
        self.program.display().to_string()
    }

    /// Returns what guests may reach although nobody may by default.
    pub(super) fn allowed(&self) -> &[IpNet] {
        &self.configuration.allow
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
        self.patience = PATIENCE[0];
        self.stats.clear();
        self.dropped.clear();
    }

    /// Returns how long to wait before it is started again.
    pub(super) fn pause(&mut self) -> Duration {
        self.backoff.worked(self.started.map_or(Duration::ZERO, |started| started.elapsed()));
        self.backoff.next()
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
            Report::Stats { stats } => {
                // Each tells of those alone that have changed.
                let known = stats.nics.into_iter().filter(|nic| self.known.contains_key(&nic.tag));
                self.stats.extend(known.map(|nic| (nic.tag, nic)));
                self.dropped.extend(stats.dropped);
            }
            Report::Failed(Failure::Forward { listen, protocol, error, errno }) => {
                // The same is said again as often as it is tried again.
                let text = format!("{listen}: {error}");
                let is_early = self.started.is_some_and(|it| it.elapsed() < TAKING_OVER);
                let is_taken = errno == Some(Errno::ADDRINUSE.raw_os_error());
                if !(is_early && is_taken)
                    && let Some(Said { unsaid }) = self.log.failure(&text, Instant::now())
                {
                    tracing::warn!(%listen, ?protocol, error, unsaid, "a forward is not in force");
                }
                self.refused.insert(Listening { listen, protocol }, error);
            }
            Report::Failed(failure) => tracing::warn!(?failure, "mvirt-egress"),
        }
    }

    /// Returns how long to wait before [`UserEgress::ask_again`]; none where nothing was refused.
    pub(super) fn patience(&self) -> Option<Duration> {
        (!self.refused.is_empty()).then_some(self.patience)
    }

    /// Has what was refused asked for anew with the next [`UserEgress::tell`]: whoever had it, as
    /// the process that this one follows, may have gone.
    pub(super) fn ask_again(&mut self) {
        self.forwards.retain(|at, _| !self.refused.contains_key(at));
        self.patience = (self.patience * 2).min(PATIENCE[1]);
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
        let wanted: BTreeMap<_, _> = vnics.filter_map(nic).collect();
        let port = |nics: &BTreeMap<u16, (PortId, Nic)>, tag| nics.get(tag).map(|(port, _)| *port);
        // Also whoever had a tag before that is another's now: what it has open ends.
        let gone = self.known.keys().filter(|tag| port(&wanted, tag) != port(&self.known, tag));
        let gone: Vec<_> = gone.copied().collect();
        // A number is a few octets.
        for nics in gone.chunks(MAX_TAGS) {
            running.order(&Order::Remove(Removal { nics: nics.into(), ..Removal::default() }))?;
        }
        gone.iter().for_each(|tag| drop(self.stats.remove(tag)));
        let new = wanted.iter().filter(|(tag, entry)| self.known.get(tag) != Some(entry));
        let new: Vec<_> = new.map(|(_, (_, nic))| nic.clone()).collect();
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
        self.known.contains_key(&tag).then(|| flows(self.stats.get(&tag), &BTreeMap::new()))
    }

    /// Returns what all have there.
    pub(super) fn flows(&self) -> proto::EgressFlows {
        flows(self.stats.values(), &self.dropped)
    }
}

/// How many sockets are asked for at once.
// Each takes 150 octets of a message at most.
const SOCKETS_TOGETHER: usize = 256;
/// How many vNICs are forgotten at once.
const MAX_TAGS: usize = 4096;

/// Returns a vNIC's tag, and the vNIC as the process is to know it; none where there are too many.
fn nic(vnic: &Vnic) -> Option<(u16, (PortId, Nic))> {
    let Tag(tag) = Tag::of(vnic.port)?;
    let ipv4 = vnic.routed_ipv4.iter().copied().map(IpNet::V4);
    let ipv6 = vnic.routed_ipv6.iter().chain(&vnic.slaac).copied().map(IpNet::V6);
    let prefixes = ipv4.chain(ipv6).collect();
    let nic = Nic { tag, ipv4: vnic.ipv4, ipv6: vnic.ipv6, prefixes, mtu: vnic.mtu };
    Some((tag, (vnic.port, nic)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{addr::MacAddr, egress::protocol::Stats};

    fn port(slot: u32, generation: u32) -> PortId {
        PortId { slot, generation }
    }

    #[test]
    fn what_a_report_does_not_tell_of_is_as_it_was() {
        let configuration = serde_json::from_str(r#"{"version":1}"#).unwrap();
        let mut user = UserEgress::new(PathBuf::new(), String::new(), configuration);
        let vnics = [1, 2].map(|slot| Vnic::new(port(slot, 0), MacAddr([2; 6]), 1500));
        user.known = vnics.iter().filter_map(nic).collect();
        let one = NicStats { tag: 1, connections: 3, ..NicStats::default() };
        let two = NicStats { tag: 2, udp: 5, ..NicStats::default() };
        let later = NicStats { udp: 4, ..two.clone() };
        let stranger = NicStats { tag: 9, udp: 1, ..NicStats::default() };
        let dropped = BTreeMap::from([(Dropped::UnknownTag, 7)]);
        for stats in [
            Stats { nics: vec![one], dropped },
            Stats { nics: vec![two], ..Stats::default() },
            Stats { nics: vec![later, stranger], ..Stats::default() },
        ] {
            user.said(Report::Stats { stats });
        }
        let all = user.flows();
        assert_eq!((all.connections, all.udp_ports), (3, 4));
        assert_eq!((&*all.drops[0].reason, all.drops[0].frames), ("unknown_tag", 7));
        let of = |slot| user.flows_of(port(slot, 0)).map(|flows| flows.connections);
        assert_eq!((of(1), of(2), of(9)), (Some(3), Some(0), None));
    }
}
