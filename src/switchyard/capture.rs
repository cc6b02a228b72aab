//! The last frames of a fabric, as many as fit a ring, with what became of each.
//!
//! They are read in pages from any place on; what has left the ring before it was read is told. A
//! frame is kept with its first 24,576 octets: what a page can carry as text.

use crate::impair::Fate;
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

/// Octets of a frame that are kept.
const SNAP_LEN: usize = 24_576;
/// Octets of JSON after which a page ends. One frame more fits a message.
const PAGE_LEN: usize = 12_000;
/// What a frame costs in the ring beside its octets, and in JSON beside its text.
const FRAME_COST: usize = 160;

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It went on, at once or later.
    Forwarded,
    /// Dropped by a rule of the filter, of this number.
    Filtered(usize),
    /// Dropped by a bad line.
    Impaired(Fate),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forwarded | Self::Impaired(Fate::Held) => f.write_str("verdict=forwarded"),
            Self::Filtered(rule) => write!(f, "verdict=dropped reason=filtered rule={rule}"),
            Self::Impaired(Fate::Lost) => f.write_str("verdict=dropped reason=impaired_loss"),
            Self::Impaired(Fate::QueueFull) => f.write_str("verdict=dropped reason=impaired_queue"),
            Self::Impaired(Fate::TooLong) => f.write_str("verdict=dropped reason=exceeds_mtu"),
        }
    }
}

/// A frame of a ring, as it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// When it was sent: seconds since 1970.
    pub seconds: u64,
    /// And nanoseconds.
    pub nanos: u32,
    /// The endpoint that sent it.
    pub endpoint_id: u32,
    /// Its name.
    pub name: String,
    /// What became of it.
    pub verdict: String,
    /// Octets that it had.
    pub len: usize,
    /// The first of them, in hexadecimal.
    pub octets: String,
}

/// Frames that follow one another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// In the order in which they were sent.
    pub frames: Vec<Captured>,
    /// Where the next page begins.
    pub next: u64,
    /// Frames that have left the ring before they were read.
    pub lost: u64,
}

#[derive(Debug)]
struct Entry {
    time: Duration,
    endpoint: u32,
    name: Arc<str>,
    verdict: Verdict,
    frame: Arc<[u8]>,
}

impl Entry {
    fn kept(&self) -> &[u8] {
        self.frame.get(..SNAP_LEN).unwrap_or(&self.frame)
    }

    fn cost(&self) -> usize {
        // All of it is in memory.
        self.frame.len() + FRAME_COST
    }
}

/// The last frames.
#[derive(Debug)]
pub struct Ring {
    capacity: usize,
    held: usize,
    entries: VecDeque<Entry>,
    /// The number of the first that is held.
    first: u64,
}

impl Ring {
    /// A ring of so many octets.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, held: 0, entries: VecDeque::new(), first: 0 }
    }

    /// Puts a frame into the ring, which the oldest leave for it.
    pub fn put(
        &mut self,
        time: Duration,
        (endpoint, name): (u32, &Arc<str>),
        verdict: Verdict,
        frame: &Arc<[u8]>,
    ) {
        let entry = Entry { time, endpoint, name: name.clone(), verdict, frame: frame.clone() };
        self.held += entry.cost();
        self.entries.push_back(entry);
        while self.held > self.capacity {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.held -= oldest.cost();
            self.first += 1;
        }
    }

    /// Reads a page, from the frame of a number on.
    pub fn page(&self, from: u64) -> Page {
        let begin = from.clamp(self.first, self.first + self.entries.len() as u64);
        let mut page = Page { frames: Vec::new(), next: begin, lost: begin.saturating_sub(from) };
        let mut len = 0;
        let skip = usize::try_from(begin - self.first).unwrap_or(usize::MAX);
        for entry in self.entries.iter().skip(skip) {
            if len > PAGE_LEN {
                break;
            }
            let kept = entry.kept();
            let captured = Captured {
                seconds: entry.time.as_secs(),
                nanos: entry.time.subsec_nanos(),
                endpoint_id: entry.endpoint,
                name: entry.name.to_string(),
                verdict: entry.verdict.to_string(),
                len: entry.frame.len(),
                octets: kept.iter().map(|octet| format!("{octet:02x}")).collect(),
            };
            len += 2 * kept.len() + FRAME_COST;
            page.frames.push(captured);
            page.next += 1;
        }
        page
    }
}

impl Captured {
    /// The octets themselves; `None` where the text is none.
    pub fn frame(&self) -> Option<Vec<u8>> {
        let digits = self.octets.as_bytes();
        let octet = |pair: &[u8]| {
            let text = std::str::from_utf8(pair).ok().filter(|_| pair.len() == 2)?;
            u8::from_str_radix(text, 16).ok()
        };
        digits.chunks(2).map(octet).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switchyard::{body, protocol::MAX_PAYLOAD};

    fn put(ring: &mut Ring, n: u8, len: usize) {
        let frame: Arc<[u8]> = vec![n; len].into();
        ring.put(Duration::from_millis(1500), (1, &"a".into()), Verdict::Forwarded, &frame);
    }

    // seed H.4.38
    #[test]
    fn a_ring_keeps_the_last_and_tells_what_it_has_lost() {
        let mut ring = Ring::new(1000);
        assert_eq!(ring.page(0), Page::default());
        (0..10).for_each(|n| put(&mut ring, n, 40));
        let page = ring.page(0);
        assert_eq!((page.frames.len(), page.next, page.lost), (5, 10, 5));
        let first = &page.frames[0];
        assert_eq!(first.frame().unwrap(), [5; 40]);
        assert_eq!((first.seconds, first.nanos, first.len), (1, 500_000_000, 40));
        assert_eq!(first.verdict, "verdict=forwarded");
        assert_eq!(ring.page(9).frames.len(), 1);
        // Whoever asks for what is not there yet is told where the end is.
        assert_eq!(ring.page(99), Page { next: 10, ..Page::default() });
    }

    #[test]
    fn pages_fit_messages() {
        let mut ring = Ring::new(64 << 20);
        for n in 0..200 {
            put(&mut ring, n, if n % 3 == 0 { 65_549 } else { 1514 });
        }
        let (mut next, mut frames) = (0, 0);
        loop {
            let page = ring.page(next);
            assert!(body::write(&page).len() <= MAX_PAYLOAD);
            if page.frames.is_empty() {
                break;
            }
            frames += page.frames.len();
            next = page.next;
        }
        assert_eq!((frames, next), (200, 200));
        assert_eq!(ring.page(0).frames[0].frame().unwrap().len(), SNAP_LEN);
    }
}
