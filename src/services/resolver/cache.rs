//! Answers that are kept: so many, and so many octets, and of too many those go that nobody has
//! asked for the longest.
//!
//! Time is what the caller says it is.

use super::{Key, stored::Stored};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

/// Answers, and octets of all of them with their questions.
const MOST: usize = 10_000;
const MOST_OCTETS: usize = 16 << 20;
/// Octets of an answer that is kept.
// One guest that asks for long ones would have those of all others thrown away.
const LONGEST: usize = 16 << 10;

/// The cache.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: HashMap<Key, Entry>,
    /// Which was asked for when, by turns.
    by_turn: BTreeMap<u64, Key>,
    turn: u64,
    octets: usize,
}

#[derive(Debug)]
struct Entry {
    stored: Arc<Stored>,
    turn: u64,
}

impl Cache {
    /// Returns what is known by now.
    pub(super) fn get(&mut self, key: &Key, now: Instant) -> Option<Arc<Stored>> {
        let entry = self.entries.get_mut(key)?;
        if !entry.stored.is_fresh(now) {
            self.remove(key);
            return None;
        }
        self.turn += 1;
        let stored = Arc::clone(&entry.stored);
        let turn = std::mem::replace(&mut entry.turn, self.turn);
        if let Some(key) = self.by_turn.remove(&turn) {
            self.by_turn.insert(self.turn, key);
        }
        Some(stored)
    }

    /// Keeps an answer, if that may be kept.
    pub(super) fn put(&mut self, key: Key, stored: Arc<Stored>, now: Instant) {
        self.remove(&key);
        let octets = octets(&key, &stored);
        if !stored.is_fresh(now) || octets > LONGEST {
            return;
        }
        self.turn += 1;
        self.octets += octets;
        self.by_turn.insert(self.turn, key.clone());
        self.entries.insert(key, Entry { stored, turn: self.turn });
        while self.entries.len() > MOST || self.octets > MOST_OCTETS {
            let Some((_, key)) = self.by_turn.pop_first() else { return };
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(Entry { stored, turn }) = self.entries.remove(key) {
            self.octets -= octets(key, &stored);
            self.by_turn.remove(&turn);
        }
    }
}

/// Octets that an answer takes, with its question, which is there twice.
fn octets(key: &Key, stored: &Stored) -> usize {
    stored.octets() + 2 * (size_of::<Key>() + key.name.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn key(number: usize) -> Key {
        let name = format!("\x08{number:08}\0").into_bytes().into();
        let servers = ["192.0.2.1:53".parse().unwrap()].into();
        Key { servers, name, kind: 16, signatures: false, unchecked: false }
    }

    /// An answer of so many octets, for so many seconds.
    fn stored(octets: usize, ttl: u8, now: Instant) -> Arc<Stored> {
        let mut message = b"\0\x01\x81\x80\0\x01\0\x01\0\0\0\0\x01a\0\0\x10\0\x01".to_vec();
        message.extend(b"\xc0\x0c\0\x10\0\x01\0\0\0");
        message.push(ttl);
        message.extend((octets as u16).to_be_bytes());
        message.resize(message.len() + octets, 0);
        Arc::new(Stored::read(&message, now).unwrap())
    }

    #[test]
    fn what_has_ended_is_gone_and_what_is_another_networks_is_not_found() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put(key(1), stored(10, 5, now), now);
        assert!(cache.get(&key(1), now + Duration::from_secs(4)).is_some());
        let elsewhere = Key { servers: ["192.0.2.2:53".parse().unwrap()].into(), ..key(1) };
        assert!(cache.get(&elsewhere, now).is_none());
        assert!(cache.get(&Key { signatures: true, ..key(1) }, now).is_none());
        assert!(cache.get(&key(1), now + Duration::from_secs(5)).is_none());
        assert_eq!((cache.octets, cache.entries.len(), cache.by_turn.len()), (0, 0, 0));
        cache.put(key(1), stored(10, 0, now), now);
        assert!(cache.get(&key(1), now).is_none(), "it may not be kept");
    }

    #[test]
    fn there_are_so_many_and_so_many_octets() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for number in 0..MOST {
            cache.put(key(number), stored(10, 5, now), now);
        }
        assert!(cache.get(&key(0), now).is_some());
        cache.put(key(MOST), stored(10, 5, now), now);
        assert_eq!((cache.entries.len(), cache.by_turn.len()), (MOST, MOST));
        assert!(cache.get(&key(0), now).is_some(), "it was asked for since");
        assert!(cache.get(&key(1), now).is_none());
        for number in 0..MOST {
            cache.put(key(number), stored(10_000, 5, now), now);
        }
        assert!(cache.octets <= MOST_OCTETS);
        let all: usize = cache.entries.iter().map(|(key, entry)| octets(key, &entry.stored)).sum();
        assert_eq!(all, cache.octets);
        let number = MOST + 1;
        cache.put(key(number), stored(LONGEST, 5, now), now);
        assert!(cache.get(&key(number), now).is_none(), "it is too long");
    }
}
