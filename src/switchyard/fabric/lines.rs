//! The bad lines of a fabric: of each endpoint at most one in each direction.

use crate::{
    impair::{Fate, Impairment},
    switchyard::body::LineStats,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// A direction, seen from the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// What it sends.
    From,
    /// What it hears.
    To,
}

/// A line of an endpoint.
pub(super) type Key = (u32, Way);

/// All lines, and when each has something to do: in that order they are asked, so that what comes
/// out does not depend on how often somebody asks.
#[derive(Debug, Default)]
pub(super) struct Lines {
    lines: BTreeMap<Key, Impairment<Arc<[u8]>>>,
    agenda: BTreeSet<(Duration, Key)>,
}

impl Lines {
    /// What a line does, and has done.
    pub(super) fn stats(&self, key: Key, now: Duration) -> Option<LineStats> {
        let line = self.lines.get(&key).filter(|line| !line.is_over(now))?;
        let (spec, counters) = (line.spec().to_string(), line.counters());
        Some(LineStats { spec, held: line.held(), counters })
    }

    /// Changes a line, and its place in the agenda.
    fn with<T>(
        &mut self,
        key: Key,
        change: impl FnOnce(&mut Impairment<Arc<[u8]>>) -> T,
    ) -> Option<T> {
        let line = self.lines.get_mut(&key)?;
        let before = line.next_due();
        let result = change(line);
        let after = line.next_due();
        if before != after {
            before.map(|due| self.agenda.remove(&(due, key)));
            self.agenda.extend(after.map(|due| (due, key)));
        }
        Some(result)
    }

    /// Gives a frame to a line; `None` if there is none, or none any more. What was due by now has
    /// been taken before.
    pub(super) fn offer(&mut self, key: Key, frame: &Arc<[u8]>, now: Duration) -> Option<Fate> {
        if self.lines.get(&key)?.is_over(now) {
            self.lines.remove(&key);
            return None;
        }
        self.with(key, |line| line.offer(frame.clone(), &mut (), now))
    }

    /// Puts a line in place of what there was; returns the frames that were on that.
    pub(super) fn set(&mut self, key: Key, line: Option<Impairment<Arc<[u8]>>>) -> Vec<Arc<[u8]>> {
        let old = self.lines.remove(&key);
        if let Some(due) = old.as_ref().and_then(Impairment::next_due) {
            self.agenda.remove(&(due, key));
        }
        if let Some(line) = line {
            self.agenda.extend(line.next_due().map(|due| (due, key)));
            self.lines.insert(key, line);
        }
        old.map(|line| line.release().collect()).unwrap_or_default()
    }

    /// Returns the next frame that is due by now, and on which line.
    pub(super) fn take(&mut self, now: Duration) -> Option<(Key, Arc<[u8]>)> {
        let (_, key) = self.agenda.first().copied().filter(|(due, _)| *due <= now)?;
        let (_, frame) = self.with(key, |line| line.take(now))??;
        Some((key, frame))
    }

    /// When something is to be taken next.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.agenda.first().map(|(due, _)| *due)
    }
}
