//! What a port has carried, answered and dropped, and what a reactor has done. One writer, the
//! reactor; any reader.

use super::frame::verdict::DropReason;
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

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The counters of one port.
#[derive(Debug)]
pub struct PortCounters {
    /// Frames taken from the guest.
    pub ingress_frames: Count,
    /// Their octets.
    pub ingress_octets: Count,
    /// Of those, delivered to another port.
    pub ingress_forwarded: Count,
    /// Of those, answered by the gateway.
    pub ingress_answered: Count,
    /// Of those forwarded, sent to several ports: for a group, or for somebody unknown.
    pub ingress_flooded: Count,
    /// Of those forwarded, from a MAC that there was no room to learn.
    pub macs_not_learned: Count,
    /// Reports of a group that there was no room for.
    pub snoop_full: Count,
    /// Frames given to the guest.
    pub egress_frames: Count,
    /// Their octets.
    pub egress_octets: Count,
    drops: Box<[Count]>,
}

impl Default for PortCounters {
    fn default() -> Self {
        Self {
            ingress_frames: Count::default(),
            ingress_octets: Count::default(),
            ingress_forwarded: Count::default(),
            ingress_answered: Count::default(),
            ingress_flooded: Count::default(),
            macs_not_learned: Count::default(),
            snoop_full: Count::default(),
            egress_frames: Count::default(),
            egress_octets: Count::default(),
            drops: DropReason::ALL.iter().map(|_| Count::default()).collect(),
        }
    }
}

impl PortCounters {
    // Names, not places: the other process may be of a version with other drop reasons.
    fn named(&self) -> impl Iterator<Item = (&'static str, &Count)> {
        let frames = [
            ("ingress_frames", &self.ingress_frames),
            ("ingress_octets", &self.ingress_octets),
            ("ingress_forwarded", &self.ingress_forwarded),
            ("ingress_answered", &self.ingress_answered),
            ("ingress_flooded", &self.ingress_flooded),
            ("macs_not_learned", &self.macs_not_learned),
            ("snoop_full", &self.snoop_full),
            ("egress_frames", &self.egress_frames),
            ("egress_octets", &self.egress_octets),
        ];
        let drops = DropReason::ALL.iter().map(|reason| reason.name()).zip(&self.drops);
        frames.into_iter().chain(drops)
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
        for ((_, count), (_, more)) in self.named().zip(gone.named()) {
            count.add(more.get());
        }
    }

    /// Counts a dropped frame.
    pub fn drop_frame(&self, reason: DropReason) {
        // `DropReason::ALL` is in the order of discriminants.
        self.drops[reason as usize].add(1);
    }

    /// The reasons that occurred, and how often.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        let counts = DropReason::ALL.iter().zip(&self.drops);
        counts.map(|(reason, count)| (*reason, count.get())).filter(|(_, count)| *count > 0)
    }
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
