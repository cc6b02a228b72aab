//! What vNICs and ports have counted, as the API tells it: at once, or what has come to it at
//! intervals.
//!
//! Control says where counters are; they are read elsewhere, since they may be many, and nobody is
//! to wait for that.

use super::{Control, Gone, Handle, refusal::Refusal};
use crate::{
    dataplane::{LastError, Monitor, counters::PortCounters},
    model::Name,
    proto,
};
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};
use tokio::{sync::OwnedSemaphorePermit, sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use uuid::Uuid;

/// Milliseconds between two updates: at least, where none are given, and at most.
const INTERVALS: (u32, u32, u32) = (100, 1000, 3_600_000);
/// How many times as long as it took to count it is paused at least.
// Whoever watches takes a twentieth of a CPU at most.
const REST: u32 = 20;
/// vNICs and ports of one update.
// Some 300 KiB, where stock clients take messages of 4 MiB.
const MOST: usize = 1000;

/// Where the counters of a vNIC or port are.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    pub(super) id: Uuid,
    pub(super) name: Name,
    /// Of a listening port: its own, and those of who is connected to it.
    pub(super) monitors: Vec<Monitor>,
    outside: Option<proto::EgressFlows>,
}

impl Counted {
    /// Returns what was counted so far.
    fn stats(&self) -> proto::NicStats {
        let mut stats = stats(self.id, self.monitors.iter().map(Monitor::counters));
        stats.name = self.name.to_string();
        stats.outside.clone_from(&self.outside);
        let negotiated = self.monitors.first().map(Monitor::negotiated).unwrap_or_default();
        stats.features = features(negotiated.features);
        stats.ring_sizes = negotiated.rings;
        let errors = self.monitors.iter().filter_map(Monitor::last_error);
        if let Some(LastError { at, reason }) = errors.max_by_key(|error| error.at) {
            stats.last_error = reason;
            stats.last_error_at = Timestamp::try_from(at).unwrap_or_default().to_string();
        }
        stats
    }
}

impl Control {
    /// Returns where the counters are of all vNICs and ports, or of those that are named.
    pub(super) fn counted(&self, keys: &[String]) -> Result<Vec<Counted>, Refusal> {
        if keys.is_empty() {
            let ports = self.port_names.values().map(|id| self.counted_port(*id));
            let nics = self.nic_names.values().filter_map(|id| self.counted_nic(*id));
            return Ok(nics.chain(ports).collect());
        }
        let find = |key: &String| match self.find_port(key) {
            Ok(id) => Ok(self.counted_port(id)),
            Err(_) => {
                let id = self.find_nic(key)?;
                self.counted_nic(id).ok_or_else(|| Refusal::not_found("vNIC", key))
            }
        };
        keys.iter().map(find).collect()
    }

    fn counted_nic(&self, id: Uuid) -> Option<Counted> {
        // Orphans carry nothing.
        let nic = self.nics.get(&id)?;
        let monitors = nic.attached.iter().map(|attached| attached.monitor().clone()).collect();
        let outside = self.flows_outside(nic.place.port);
        Some(Counted { id, name: nic.model.name.clone(), monitors, outside })
    }

    fn counted_port(&self, id: Uuid) -> Counted {
        let entry = &self.ports[&id];
        let (name, monitors) = (entry.model.name.clone(), entry.monitors());
        Counted { id, name, monitors, outside: None }
    }

    /// What a vNIC or port has carried.
    pub fn nic_stats(&self, key: &str) -> Result<proto::NicStats, Refusal> {
        let counted = self.counted(std::slice::from_ref(&key.to_owned()))?;
        Ok(counted.first().map(Counted::stats).unwrap_or_default())
    }
}

/// Returns what all these have counted.
pub(super) fn stats<'a>(
    id: Uuid,
    all: impl IntoIterator<Item = &'a PortCounters>,
) -> proto::NicStats {
    let sum = PortCounters::sum(all);
    let mut stats = proto::NicStats { nic_id: id.to_string(), ..Default::default() };
    for (number, count) in numbers(&mut stats).into_iter().zip(counts(&sum)) {
        *number = count;
    }
    stats.longest_stall_ns = sum.longest_stall_ns.get();
    put(&mut stats.drops, sum.drops().map(|(reason, frames)| (reason.name(), frames)).collect());
    put(&mut stats.answers, sum.answers().map(|(kind, frames)| (kind.name(), frames)).collect());
    stats
}

macro_rules! pairs {
    ($($field:ident: $counter:ident),+ $(,)?) => {
        /// Returns all that only grows, in the order of [`counts`].
        fn numbers(stats: &mut proto::NicStats) -> impl IntoIterator<Item = &mut u64> {
            [$(&mut stats.$field),+]
        }

        fn counts(counters: &PortCounters) -> impl IntoIterator<Item = u64> {
            [$(counters.$counter.get()),+]
        }
    };
}

pairs! {
    ingress_frames: ingress_frames,
    ingress_octets: ingress_octets,
    ingress_forwarded: ingress_forwarded,
    ingress_answered: ingress_answered,
    egress_frames: egress_frames,
    egress_octets: egress_octets,
    kicks: kicks,
    calls: calls,
    calls_suppressed: calls_suppressed,
    queue_empty: queue_empty,
    queue_full: queue_full,
    receive_stalls: receive_stalls,
    checksums_completed: checksums_completed,
    frames_cut: frames_cut,
    segments_made: segments_made,
    ingress_flooded: ingress_flooded,
    ingress_broadcast: ingress_broadcast,
    ingress_multicast: ingress_multicast,
    flooded_copies: flooded_copies,
    macs_learned: macs_learned,
    macs_moved: macs_moved,
    macs_not_learned: macs_not_learned,
    groups_not_learned: snoop_full,
    io_calls: io_calls,
    io_again: io_again,
    io_partial: io_partial,
    connections: connections,
}

/// Something counted by name.
trait ByName: Sized {
    fn new(name: String, frames: u64) -> Self;
    fn get(&self) -> (&str, u64);
}

macro_rules! by_name {
    ($($message:ident { $name:ident })*) => {$(
        impl ByName for proto::$message {
            fn new($name: String, frames: u64) -> Self {
                Self { $name, frames }
            }

            fn get(&self) -> (&str, u64) {
                (&self.$name, self.frames)
            }
        }
    )*};
}

by_name! {
    DropCount { reason }
    AnswerCount { kind }
}

fn put<T: ByName>(list: &mut Vec<T>, counts: BTreeMap<&str, u64>) {
    *list = counts.into_iter().map(|(name, frames)| T::new(name.into(), frames)).collect();
}

/// Leaves what has come to `now` since `before`.
fn come<T: ByName>(now: &mut Vec<T>, before: &[T]) {
    let before: HashMap<_, _> = before.iter().map(ByName::get).collect();
    let come = now.iter().filter_map(|count| {
        let (name, frames) = count.get();
        let more = frames.saturating_sub(before.get(name).copied().unwrap_or(0));
        (more > 0).then(|| T::new(name.into(), more))
    });
    *now = come.collect();
}

/// Returns what has come to `now` since `before`; nothing where that is nothing.
fn since(now: &proto::NicStats, mut before: proto::NicStats) -> Option<proto::NicStats> {
    if *now == before {
        return None;
    }
    let mut more = now.clone();
    for (now, before) in numbers(&mut more).into_iter().zip(numbers(&mut before)) {
        // It began anew, where its socket was opened again.
        *now = now.saturating_sub(*before);
    }
    come(&mut more.drops, &before.drops);
    come(&mut more.answers, &before.answers);
    Some(more)
}

/// Returns the names of features of virtio.
fn features(bits: u64) -> Vec<String> {
    let named = |bit: u32| match NAMES.iter().find(|(known, _)| *known == bit) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("bit{bit}"),
    };
    (0..u64::BITS).filter(|bit| bits & (1 << bit) != 0).map(named).collect()
}

/// Of virtio 1.3 §5.1.3 and §6, and of vhost-user; by their bits.
const NAMES: &[(u32, &str)] = &[
    (0, "csum"),
    (1, "guest_csum"),
    (2, "ctrl_guest_offloads"),
    (3, "mtu"),
    (5, "mac"),
    (7, "guest_tso4"),
    (8, "guest_tso6"),
    (9, "guest_ecn"),
    (10, "guest_ufo"),
    (11, "host_tso4"),
    (12, "host_tso6"),
    (13, "host_ecn"),
    (14, "host_ufo"),
    (15, "mrg_rxbuf"),
    (16, "status"),
    (17, "ctrl_vq"),
    (18, "ctrl_rx"),
    (19, "ctrl_vlan"),
    (21, "guest_announce"),
    (22, "mq"),
    (23, "ctrl_mac_addr"),
    (24, "notify_on_empty"),
    (26, "log_all"),
    (27, "any_layout"),
    (28, "ring_indirect_desc"),
    (29, "ring_event_idx"),
    (30, "protocol_features"),
    (32, "version_1"),
    (33, "access_platform"),
    (34, "ring_packed"),
    (35, "in_order"),
    (36, "order_platform"),
    (54, "guest_uso4"),
    (55, "guest_uso6"),
    (56, "host_uso"),
    (57, "hash_report"),
    (59, "guest_hdrlen"),
    (60, "rss"),
    (61, "rsc_ext"),
    (62, "standby"),
    (63, "speed_duplex"),
];

/// Returns how long it is from one update to the next.
pub(super) fn interval(request: &proto::WatchStatsRequest) -> Result<Duration, Refusal> {
    let (least, usual, most) = INTERVALS;
    match request.interval_ms {
        0 => Ok(Duration::from_millis(usual.into())),
        ms if (least..=most).contains(&ms) => Ok(Duration::from_millis(ms.into())),
        ms => {
            let expected = format!("expected {least} to {most} milliseconds, or 0 for {usual}");
            Err(Refusal::invalid("interval_ms", ms.to_string(), expected))
        }
    }
}

/// Counts at intervals, for who reads what this returns.
pub(super) fn watch(
    control: Handle,
    targets: Vec<String>,
    interval: Duration,
    stream: OwnedSemaphorePermit,
) -> ReceiverStream<Result<proto::StatsUpdate, Status>> {
    // One waits: a reader that is slow finds longer intervals, and no more of them.
    let (updates, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let _held = stream;
        let mut watch = StatsWatch { control, targets, before: HashMap::new(), last: None };
        loop {
            let began = Instant::now();
            let counted = watch.count().await;
            let took = began.elapsed();
            let is_over = counted.is_err();
            for update in counted.unwrap_or_else(|status| vec![Err(status)]) {
                if updates.send(update).await.is_err() {
                    return;
                }
            }
            if is_over {
                return;
            }
            tokio::select! {
                () = sleep(interval.saturating_sub(began.elapsed()).max(took * REST)) => {}
                () = updates.closed() => return,
            }
        }
    });
    ReceiverStream::new(receiver)
}

struct StatsWatch {
    control: Handle,
    targets: Vec<String>,
    before: HashMap<Uuid, proto::NicStats>,
    last: Option<Instant>,
}

type Update = Result<proto::StatsUpdate, Status>;

impl StatsWatch {
    /// Returns the next update, in parts.
    async fn count(&mut self) -> Result<Vec<Update>, Status> {
        let targets = self.targets.clone();
        let counted = self.control.call(move |control| control.counted(&targets)).await;
        let counted = counted.map_err(|gone: Gone| Status::from(gone))??;
        let (now, time) = (Instant::now(), Timestamp::now().to_string());
        let is_first = self.last.is_none();
        let elapsed = self.last.replace(now).map_or(Duration::ZERO, |last| now - last);
        let mut before = std::mem::take(&mut self.before);
        let mut changed = Vec::new();
        for counted in &counted {
            let stats = counted.stats();
            let nothing = || proto::NicStats { nic_id: stats.nic_id.clone(), ..Default::default() };
            let earlier = before.remove(&counted.id).unwrap_or_else(nothing);
            if is_first {
                changed.push(stats.clone());
            } else {
                changed.extend(since(&stats, earlier));
            }
            self.before.insert(counted.id, stats);
        }
        let mut parts = changed.chunks(MOST).map(<[_]>::to_vec).collect::<Vec<_>>();
        if parts.is_empty() {
            // That nothing has come is told, too.
            parts.push(Vec::new());
        }
        let count = parts.len();
        let update = |(at, stats)| proto::StatsUpdate {
            time: time.clone(),
            elapsed_ns: u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),
            stats,
            continues: at + 1 < count,
        };
        Ok(parts.into_iter().enumerate().map(update).map(Ok).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::{counters::AnswerKind, frame::verdict::DropReason};

    #[test]
    fn what_has_come_since_is_the_difference_and_nothing_is_nothing() {
        let [one, other] = [PortCounters::default(), PortCounters::default()];
        let both = || stats(Uuid::nil(), [&one, &other]);
        one.ingress_frames.add(3);
        one.drop_frame(DropReason::NoRoute);
        other.longest_stall_ns.raise(5);
        let before = both();
        assert_eq!((before.ingress_frames, before.longest_stall_ns), (3, 5));
        assert_eq!(since(&before, before.clone()), None);
        other.ingress_frames.add(2);
        other.drop_frame(DropReason::NoRoute);
        one.drop_frame(DropReason::HopLimit);
        one.answer(AnswerKind::Arp);
        let more = since(&both(), before.clone()).unwrap();
        assert_eq!((more.ingress_frames, more.longest_stall_ns), (2, 5));
        let drop = |reason: &str| proto::DropCount { reason: reason.into(), frames: 1 };
        assert_eq!(more.drops, [drop("hop_limit_exceeded"), drop("no_route")]);
        assert_eq!(more.answers, [proto::AnswerCount { kind: "arp".into(), frames: 1 }]);
        let anew = since(&stats(Uuid::nil(), []), before).unwrap();
        assert_eq!((anew.ingress_frames, anew.drops.len()), (0, 0));
    }

    #[test]
    fn features_are_named_as_the_specification_does() {
        let bits = 1 << 15 | 1 << 32 | 1 << 41;
        assert_eq!(features(bits), ["mrg_rxbuf", "version_1", "bit41"]);
        assert!(features(0).is_empty());
        assert!(NAMES.windows(2).all(|two| two[0].0 < two[1].0));
    }

    #[test]
    fn an_interval_that_is_none_is_refused() {
        let of = |interval_ms| interval(&proto::WatchStatsRequest { interval_ms, targets: vec![] });
        assert_eq!(of(0).ok(), Some(Duration::from_secs(1)));
        assert_eq!(of(100).ok(), Some(Duration::from_millis(100)));
        for ms in [1, 99, 3_600_001] {
            let refused = of(ms).unwrap_err().to_string();
            assert!(refused.contains(&format!("\"{ms}\": expected 100")), "{refused}");
        }
    }
}
