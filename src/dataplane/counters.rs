//! What a port has carried, answered and dropped, and what a reactor has done. One writer, the
//! reactor; any reader.

use super::frame::{offload::Offloads, verdict::DropReason};
use crate::wire::vnet::Offload;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// A count that one thread writes: a plain load and store, no locked operation.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`. Only the owning reactor calls this.
    pub fn add(&self, n: u64) {
        // Relaxed: counts order nothing. Not fetch_add: a locked operation costs some 20 cycles,
        // for each of several counts a frame.
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes over `n`, where that is more than it was. Only the owning reactor calls this.
    pub fn raise(&self, n: u64) {
        self.set(self.get().max(n));
    }

    fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! answer_kinds {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal),+ $(,)?) => {
        /// What the gateway, or a service behind it, has answered with.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum AnswerKind {
            $($(#[doc = $doc])+ $variant),+
        }

        impl AnswerKind {
            /// Every kind, in the order of its discriminant.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in the API, the CLI and the documentation.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }

            /// The name among the counters of a port, which reasons of drops are in, too.
            const fn counter(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!("answered_", $name)),+
                }
            }
        }
    };
}

answer_kinds! {
    /// ARP: where an IPv4 neighbour is.
    Arp = "arp",
    /// Neighbour discovery: where an IPv6 neighbour is.
    Neighbour = "nd",
    /// Router advertisements, asked for or not.
    Router = "ra",
    /// DHCPv4.
    Dhcpv4 = "dhcp4",
    /// DHCPv6.
    Dhcpv6 = "dhcp6",
    /// Echo replies, and errors.
    Icmp = "icmp",
    /// DNS, by UDP; and what of it, or by TCP, a service is to answer.
    Dns = "dns",
    /// What the metadata service is to answer.
    Metadata = "metadata",
}

macro_rules! port_counters {
    ($($(#[doc = $doc:literal])+ $name:ident),+ $(,)?) => {
        /// The counters of one port.
        // Those of every burst are first: they share cache lines.
        #[derive(Debug)]
        pub struct PortCounters {
            $($(#[doc = $doc])+ pub $name: Count,)+
            /// For how long it had no receive buffers at a time, at most, in nanoseconds.
            pub longest_stall_ns: Count,
            answers: Box<[Count]>,
            drops: Box<[Count]>,
        }

        impl Default for PortCounters {
            fn default() -> Self {
                Self {
                    $($name: Count::default(),)+
                    longest_stall_ns: Count::default(),
                    answers: AnswerKind::ALL.iter().map(|_| Count::default()).collect(),
                    drops: DropReason::ALL.iter().map(|_| Count::default()).collect(),
                }
            }
        }

        impl PortCounters {
            /// What is counted, but for answers and drops.
            fn plain(&self) -> impl Iterator<Item = (&'static str, &Count)> {
                [$((stringify!($name), &self.$name)),+].into_iter()
            }
        }
    };
}

port_counters! {
    /// Frames taken from the guest.
    ingress_frames,
    /// Their octets.
    ingress_octets,
    /// Of those, delivered to another port.
    ingress_forwarded,
    /// Frames given to the guest.
    egress_frames,
    /// Their octets.
    egress_octets,
    /// How often the guest was woken for what was done.
    calls,
    /// How often something was done, and the guest wanted not to be woken for it.
    calls_suppressed,
    /// How often the guest, or what carries its frames, has woken its reactor.
    kicks,
    /// How often nothing more was found to be sent, so that the next frame is to wake the reactor.
    queue_empty,
    /// How often frames found no receive buffer.
    queue_full,
    /// How often that lasted so long that frames were dropped.
    receive_stalls,
    /// Of the frames taken, answered by the gateway.
    ingress_answered,
    /// Of those forwarded, sent to several ports: for a group, or for somebody unknown.
    ingress_flooded,
    /// Of those, for everybody.
    ingress_broadcast,
    /// Of those flooded, for a group.
    ingress_multicast,
    /// Of those flooded, how many copies that made.
    flooded_copies,
    /// MACs that were learned behind it.
    macs_learned,
    /// Of those, MACs that were known behind another one.
    macs_moved,
    /// Of those forwarded, from a MAC that there was no room to learn.
    macs_not_learned,
    /// Reports of a group that there was no room for.
    snoop_full,
    /// Checksums that were completed, since the guest does not take them open.
    checksums_completed,
    /// Frames that were cut, since the guest does not take them whole.
    frames_cut,
    /// Frames that those became.
    segments_made,
    /// System calls that read or wrote frames.
    io_calls,
    /// Of those, how many found nothing to read, or no room.
    io_again,
    /// Of those, how many wrote a part of what there was.
    io_partial,
    /// How often its other end has connected.
    connections,
}

impl PortCounters {
    // Names, not places: the other process may be of a version with other drop reasons.
    fn named(&self) -> impl Iterator<Item = (&'static str, &Count)> {
        let answers = AnswerKind::ALL.iter().map(|kind| kind.counter()).zip(&self.answers);
        let drops = DropReason::ALL.iter().map(|reason| reason.name()).zip(&self.drops);
        self.plain()
            .chain([("longest_stall_ns", &self.longest_stall_ns)])
            .chain(answers)
            .chain(drops)
    }

    /// All that is not zero, by name: for another process of the daemon.
    pub fn totals(&self) -> BTreeMap<String, u64> {
        let totals = self.named().map(|(name, count)| (name.to_owned(), count.get()));
        // A vNIC has few kinds of drops, and all that is handed over of it must fit one message.
        totals.filter(|(_, total)| *total > 0).collect()
    }

    /// Counts that begin at [`PortCounters::totals`] of another process; what this one does not
    /// count is left out.
    pub fn beginning_at(totals: &BTreeMap<String, u64>) -> Self {
        let counters = Self::default();
        for (name, count) in counters.named() {
            count.add(totals.get(name).copied().unwrap_or(0));
        }
        counters
    }

    /// Adds what a port has counted that is gone. Only for counters that no reactor writes.
    pub fn add_all(&self, gone: &Self) {
        let longest = self.longest_stall_ns.get();
        for ((_, count), (_, more)) in self.named().zip(gone.named()) {
            count.add(more.get());
        }
        // The one that is no sum.
        self.longest_stall_ns.set(longest.max(gone.longest_stall_ns.get()));
    }

    /// Returns what all these come to.
    pub fn sum<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let sum = Self::default();
        all.into_iter().for_each(|counters| sum.add_all(counters));
        sum
    }

    /// Counts a dropped frame.
    pub fn drop_frame(&self, reason: DropReason) {
        // `DropReason::ALL` is in the order of discriminants.
        self.drops[reason as usize].add(1);
    }

    /// The reasons that occurred, and how often.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        occurred(DropReason::ALL, &self.drops)
    }

    /// Counts an answer.
    pub fn answer(&self, kind: AnswerKind) {
        // As above.
        self.answers[kind as usize].add(1);
    }

    /// The kinds of answers that occurred, and how often.
    pub fn answers(&self) -> impl Iterator<Item = (AnswerKind, u64)> {
        occurred(AnswerKind::ALL, &self.answers)
    }

    /// Counts what has become of a frame of which `offload` was left to be done, at a receiver that
    /// `accepts` so much: `pieces` frames.
    #[cold]
    pub fn finished(&self, offload: Offload, accepts: Offloads, pieces: u64) {
        if accepts.covers(offload) {
            return;
        }
        if let Offload::Segmentation { .. } = offload {
            self.frames_cut.add(1);
            self.segments_made.add(pieces);
        }
        if !accepts.checksum {
            self.checksums_completed.add(pieces);
        }
    }
}

/// Returns what was counted at least once.
fn occurred<'a, T: Copy>(
    all: &'a [T],
    counts: &'a [Count],
) -> impl Iterator<Item = (T, u64)> + use<'a, T> {
    let counts = all.iter().zip(counts);
    counts.map(|(what, count)| (*what, count.get())).filter(|(_, count)| *count > 0)
}

/// The counters of one reactor.
#[derive(Debug, Default)]
pub struct ReactorCounters {
    /// Frames taken from guests and from other reactors.
    pub frames: Count,
    /// Turns of its loop that carried frames.
    pub busy_turns: Count,
    /// Nanoseconds of those.
    pub busy_ns: Count,
    /// Nanoseconds of turns that found nothing to carry.
    pub polling_ns: Count,
    /// How often it slept.
    pub sleeps: Count,
}

impl ReactorCounters {
    /// Counts one turn of the loop.
    pub fn count_turn(&self, frames: u64, took: Duration) {
        let took = took.as_nanos() as u64;
        // Apart: how busy a reactor is must not depend on how long it polls empty queues.
        if frames == 0 {
            self.polling_ns.add(took);
        } else {
            self.frames.add(frames);
            self.busy_turns.add(1);
            self.busy_ns.add(took);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::vnet::{SegmentKind, Segments};

    #[test]
    fn what_was_counted_goes_on_in_another_process() {
        let counters = PortCounters::default();
        counters.ingress_frames.add(7);
        counters.answer(AnswerKind::Dhcpv4);
        counters.drop_frame(DropReason::NoRoute);
        counters.longest_stall_ns.raise(9);
        counters.longest_stall_ns.raise(8);
        let mut totals = counters.totals();
        assert_eq!(totals.get("answered_dhcp4"), Some(&1));
        assert_eq!(totals.len(), 4, "what is zero is not told: {totals:?}");
        totals.insert("of_a_later_version".into(), 1);
        let next = PortCounters::beginning_at(&totals);
        assert_eq!(next.answers().collect::<Vec<_>>(), [(AnswerKind::Dhcpv4, 1)]);
        assert_eq!(next.drops().collect::<Vec<_>>(), [(DropReason::NoRoute, 1)]);
        next.add_all(&counters);
        assert_eq!((next.ingress_frames.get(), next.longest_stall_ns.get()), (14, 9));
    }

    #[test]
    fn no_two_counters_have_one_name() {
        let counters = PortCounters::default();
        let mut names: Vec<_> = counters.named().map(|(name, _)| name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|two| two[0] != two[1]), "{names:?}");
    }

    #[test]
    fn what_is_finished_for_a_receiver_is_counted_once() {
        let counters = PortCounters::default();
        let segments = Segments { kind: SegmentKind::Tcp4, ecn: false, size: 1448 };
        let cut = Offload::Segmentation { start: 34, offset: 16, segments };
        counters.finished(Offload::None, Offloads::NONE, 1);
        counters.finished(cut, Offloads::ALL, 1);
        counters.finished(Offload::Checksum { start: 34, offset: 16 }, Offloads::NONE, 1);
        counters.finished(cut, Offloads::NONE, 3);
        counters.finished(cut, Offloads { checksum: true, ..Offloads::NONE }, 3);
        let counted =
            [&counters.checksums_completed, &counters.frames_cut, &counters.segments_made];
        assert_eq!(counted.map(Count::get), [4, 2, 6]);
    }
}
