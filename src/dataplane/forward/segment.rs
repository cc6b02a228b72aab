//! What one reactor has learned of one switched network.

use super::{
    Lessons,
    fdb::{Fdb, Key},
    snoop::Snoop,
    tables::PortId,
    withheld::Withheld,
};
use crate::addr::MacAddr;
use std::time::Instant;

/// What was learned of one network.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    /// Times are kept as seconds since then: they take less room than moments, and less work.
    since: Instant,
    /// The time of the burst in hand, as others count it.
    pub(super) now: Instant,
    pub(super) fdb: Fdb,
    pub(super) snoop: Snoop,
    /// First fragments that the gateway has refused.
    pub(super) withheld: Withheld,
    /// What was learned, and could not be, since that was counted last.
    pub(super) lessons: Lessons,
}

impl Segment {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            now,
            fdb: Fdb::default(),
            snoop: Snoop::default(),
            withheld: Withheld::default(),
            lessons: Lessons::default(),
        }
    }

    /// Whether nothing is known that would ever be forgotten.
    pub(super) fn is_empty(&self) -> bool {
        self.fdb.is_empty() && self.snoop.is_empty()
    }

    /// Returns the port that an untagged MAC was learned behind, if it is known now.
    pub(super) fn port_of(&self, mac: MacAddr) -> Option<PortId> {
        self.fdb.lookup(Key::new(mac, 0), self.seconds(self.now))
    }

    /// Returns the time as this network counts it.
    pub(super) fn seconds(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.since).as_secs() as u32
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One that has learned nothing yet.
    pub(in crate::dataplane::forward) fn segment() -> Segment {
        Segment::new(Instant::now())
    }
}
