//! When what is to be looked at again: one time for each key, whatever is asked for it, so that
//! guests cannot fill the memory with times.

use std::{
    collections::{BTreeSet, HashMap},
    time::Instant,
};

/// What an event or a timer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    Packets,
    Control,
    Tcp(u32),
    Udp(u32),
    Echo(u32),
    Listener(u32),
    Fragments,
    Stats,
    Segment,
}

impl Key {
    /// Returns it as a number, which epoll gives back.
    pub(crate) fn encode(self) -> u64 {
        let (kind, index) = match self {
            Self::Packets => (0, 0),
            Self::Control => (1, 0),
            Self::Tcp(index) => (2, index),
            Self::Udp(index) => (3, index),
            Self::Echo(index) => (4, index),
            Self::Listener(index) => (5, index),
            Self::Fragments => (6, 0),
            Self::Stats => (7, 0),
            Self::Segment => (8, 0),
        };
        kind << 32 | u64::from(index)
    }

    /// Returns what that number was.
    pub(crate) fn decode(number: u64) -> Self {
        let index = number as u32;
        match number >> 32 {
            0 => Self::Packets,
            1 => Self::Control,
            2 => Self::Tcp(index),
            3 => Self::Udp(index),
            4 => Self::Echo(index),
            5 => Self::Listener(index),
            6 => Self::Fragments,
            7 => Self::Stats,
            _ => Self::Segment,
        }
    }
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    by_time: BTreeSet<(Instant, Key)>,
    by_key: HashMap<Key, Instant>,
}

impl Timers {
    /// Has a key come back at a time, unless it comes before. Whoever then finds that it was too
    /// early asks again: most deadlines are moved many times before they come.
    pub(crate) fn at(&mut self, time: Instant, key: Key) {
        if self.by_key.get(&key).is_some_and(|before| *before <= time) {
            return;
        }
        self.cancel(key);
        self.by_key.insert(key, time);
        self.by_time.insert((time, key));
    }

    /// A key comes no more.
    pub(crate) fn cancel(&mut self, key: Key) {
        if let Some(time) = self.by_key.remove(&key) {
            self.by_time.remove(&(time, key));
        }
    }

    /// Returns a key whose time has come.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Key> {
        let (time, key) = *self.by_time.first()?;
        if time > now {
            return None;
        }
        self.cancel(key);
        Some(key)
    }

    /// Returns when the next one comes.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(time, _)| *time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_key_comes_once_at_the_earliest_time_that_was_asked_for() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        timers.at(after(7200), Key::Tcp(1));
        timers.at(after(5), Key::Tcp(1));
        timers.at(after(9), Key::Tcp(1));
        timers.at(after(7), Key::Udp(1));
        assert_eq!((timers.next(), timers.due(after(4))), (Some(after(5)), None));
        assert_eq!(timers.due(after(8)), Some(Key::Tcp(1)));
        assert_eq!(timers.due(after(8)), Some(Key::Udp(1)));
        assert_eq!((timers.due(after(9999)), timers.next()), (None, None));
        timers.at(after(1), Key::Stats);
        timers.cancel(Key::Stats);
        assert_eq!((timers.by_time.len(), timers.by_key.len()), (0, 0));
    }
}
