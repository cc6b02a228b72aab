//! A bad line on purpose: frames in, and the same frames out later, elsewhere in the order,
//! changed, twice or never. Fabrics of Switchyard have such lines.
//!
//! ```text
//! frame ─ mtu ─ loss ─ corrupt ─ dup ─ rate (a line that is busy) ─ delay ± jitter ─ due
//! ```
//! No clock and no chance of its own: time is a parameter, and every decision comes from a seed, so
//! that the same frames at the same times meet the same fate. Nothing is done before somebody asks
//! what is due; [`Impairment::next_due`] says when to ask. Holds at most 4 MiB.

mod random;
mod spec;

pub use random::{Random, mixed};
pub use spec::{BadSpec, Distribution, Spec};

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
    time::Duration,
};

/// Octets held at most, whatever rate and delay say.
const MAX_HELD: usize = 4 << 20;
/// What a held frame costs beside its octets.
const FRAME_COST: usize = 64;

/// What can be impaired.
pub trait Frame: Sized {
    /// Where its octets are, if that is somewhere else.
    type Store;

    /// How many octets.
    fn octets(&self) -> usize;

    /// Changes one bit of an octet.
    fn flip(&mut self, octet: usize, bit: u8, store: &mut Self::Store);

    /// Returns another of the same octets.
    fn copy(&self, store: &mut Self::Store) -> Self;
}

impl Frame for Vec<u8> {
    type Store = ();

    fn octets(&self) -> usize {
        self.len()
    }

    fn flip(&mut self, octet: usize, bit: u8, (): &mut ()) {
        if let Some(octet) = self.get_mut(octet) {
            *octet ^= 1 << (bit % 8);
        }
    }

    fn copy(&self, (): &mut ()) -> Self {
        self.clone()
    }
}

impl Frame for std::sync::Arc<[u8]> {
    type Store = ();

    fn octets(&self) -> usize {
        self.len()
    }

    fn flip(&mut self, octet: usize, bit: u8, (): &mut ()) {
        // Others may have the same frame: they keep it as it was.
        if let Some(octet) = std::sync::Arc::make_mut(self).get_mut(octet) {
            *octet ^= 1 << (bit % 8);
        }
    }

    fn copy(&self, (): &mut ()) -> Self {
        Self::clone(self)
    }
}

/// When a frame is due; then in which order they came.
type Place = (Duration, u64);

/// A frame that is held.
#[derive(Debug)]
struct Waiting<T> {
    // The first is the greatest of a heap.
    place: Reverse<Place>,
    frame: T,
}

impl<T> PartialEq for Waiting<T> {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

impl<T> Eq for Waiting<T> {}

impl<T> PartialOrd for Waiting<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Waiting<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.place.cmp(&other.place)
    }
}

/// What has been done to frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    /// Frames that came.
    pub frames: u64,
    /// Dropped by chance.
    pub impaired_loss: u64,
    /// Dropped, as the queue was full.
    pub impaired_queue: u64,
    /// Dropped, as longer than `mtu`.
    pub exceeds_mtu: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Sent ahead of others.
    pub reordered: u64,
    /// Changed.
    pub corrupted: u64,
}

/// What became of a frame that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is held until it is due.
    Held,
    /// Dropped by chance.
    Lost,
    /// Dropped, as the queue was full.
    QueueFull,
    /// Dropped, as longer than `mtu`.
    TooLong,
}

/// A line in one direction.
#[derive(Debug)]
pub struct Impairment<T> {
    spec: Spec,
    random: Random,
    /// When it ends by itself.
    until: Option<Duration>,
    /// Gilbert's bad state, in which every frame is lost.
    is_bad: bool,
    /// Octets that pass before the next one that is changed.
    sound: Option<u64>,
    /// When the line has sent all that it was given.
    free_at: Duration,
    /// When the last frame is due that keeps its place.
    last_due: Duration,
    // A heap, which grows to its working size once, and allocates nothing for a frame.
    held: BinaryHeap<Waiting<T>>,
    held_octets: usize,
    number: u64,
    counters: Counters,
}

impl<T: Frame> Impairment<T> {
    /// A line as `spec` says, from now on. Chance comes from the seed in `spec`, else from `seed`.
    pub fn new(spec: Spec, seed: u64, now: Duration) -> Self {
        let mut random = Random::new(spec.seed.unwrap_or(seed));
        let sound = random.gap(spec.corrupt);
        Self {
            until: spec.until.map(|time| now + time),
            spec,
            random,
            is_bad: false,
            sound,
            free_at: now,
            last_due: now,
            held: BinaryHeap::new(),
            held_octets: 0,
            number: 0,
            counters: Counters::default(),
        }
    }

    /// What it was asked to do.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What it has done.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How many frames it holds.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether its time is over: what it holds is due, and it is to be removed.
    pub fn is_over(&self, now: Duration) -> bool {
        self.until.is_some_and(|until| now >= until)
    }

    /// Ends it: what it holds is due, and nothing is done to frames any more.
    pub fn end(&mut self) {
        self.until = Some(Duration::ZERO);
    }

    /// Takes a frame, if it is not dropped. What it drops, it leaves in `store`.
    pub fn offer(&mut self, mut frame: T, store: &mut T::Store, now: Duration) -> Fate {
        self.counters.frames += 1;
        if self.is_over(now) {
            // It is due at once, behind those that are held still.
            (self.spec, self.is_bad, self.sound) = (Spec::default(), false, None);
        }
        if self.spec.mtu.is_some_and(|mtu| frame.octets() > mtu) {
            self.counters.exceeds_mtu += 1;
            return Fate::TooLong;
        }
        if self.is_lost() {
            self.counters.impaired_loss += 1;
            return Fate::Lost;
        }
        self.corrupt(&mut frame, store);
        let is_doubled = self.random.happens(self.spec.dup);
        self.counters.duplicated += u64::from(is_doubled);
        let first = self.place(frame.octets(), now);
        let second = if is_doubled { self.place(frame.octets(), now) } else { None };
        if let Some(place) = second {
            self.held.push(Waiting { place: Reverse(place), frame: frame.copy(store) });
        }
        let Some(place) = first else { return Fate::QueueFull };
        self.held.push(Waiting { place: Reverse(place), frame });
        Fate::Held
    }

    /// With bursts: two states, of which the bad one loses everything (Gilbert 1960). It is left
    /// with 1/burst, and entered as often as makes the share of the lost right.
    fn is_lost(&mut self) -> bool {
        let (loss, burst) = (self.spec.loss, self.spec.burst);
        if burst <= 1.0 || loss >= 1.0 {
            return self.random.happens(loss);
        }
        let change = if self.is_bad { 1.0 / burst } else { loss / (burst * (1.0 - loss)) };
        self.is_bad ^= self.random.happens(change);
        self.is_bad
    }

    fn corrupt(&mut self, frame: &mut T, store: &mut T::Store) {
        let len = frame.octets() as u64;
        let mut at = 0;
        let mut is_changed = false;
        // From one changed octet to the next, instead of asking chance about each.
        while let Some(gap) = self.sound {
            if at + gap >= len {
                self.sound = Some(gap - (len - at));
                break;
            }
            at += gap;
            let bit = (self.random.next_u64() >> 61) as u8;
            frame.flip(at as usize, bit, store);
            is_changed = true;
            at += 1;
            self.sound = self.random.gap(self.spec.corrupt);
        }
        self.counters.corrupted += u64::from(is_changed);
    }

    /// Returns the place of a frame of so many octets, if there is room.
    fn place(&mut self, len: usize, now: Duration) -> Option<Place> {
        let cost = len + FRAME_COST;
        let sent = self.sent(len, now).filter(|_| self.held_octets + cost <= MAX_HELD);
        let Some(sent) = sent else {
            self.counters.impaired_queue += 1;
            return None;
        };
        self.free_at = sent;
        let delay = self.delay();
        let due = if self.random.happens(self.spec.reorder) && !delay.is_zero() {
            self.counters.reordered += 1;
            sent
        } else {
            // Jitter changes no order: that is for `reorder` alone.
            self.last_due = self.last_due.max(sent + delay);
            self.last_due
        };
        self.held_octets += cost;
        self.number += 1;
        Some((due, self.number))
    }

    /// When a line of this rate has sent the frame; `None` if too much waits before it.
    fn sent(&self, len: usize, now: Duration) -> Option<Duration> {
        let Some(rate) = self.spec.rate else { return Some(now) };
        let begins = self.free_at.max(now);
        let waiting = (begins - now).as_secs_f64() * rate as f64 / 8.0;
        let fits = waiting + len as f64 <= self.spec.queue as f64;
        fits.then(|| begins + Duration::from_secs_f64(len as f64 * 8.0 / rate as f64))
    }

    fn delay(&mut self) -> Duration {
        let jitter = self.spec.jitter.as_secs_f64();
        let delay = self.spec.delay.as_secs_f64();
        let off = match self.spec.dist {
            _ if jitter == 0.0 => 0.0,
            Distribution::Uniform => self.random.unit() * 2.0 - 1.0,
            Distribution::Normal => self.random.normal(),
        };
        Duration::from_secs_f64((delay + jitter * off).max(0.0))
    }

    /// Returns the next frame that is due by now, and when it was.
    pub fn take(&mut self, now: Duration) -> Option<(Duration, T)> {
        let is_over = self.is_over(now);
        let first = self.held.peek_mut()?;
        let Reverse((due, _)) = first.place;
        if due > now && !is_over {
            return None;
        }
        let Waiting { frame, .. } = PeekMut::pop(first);
        self.held_octets -= frame.octets() + FRAME_COST;
        Some((due.min(now), frame))
    }

    /// When something is to be taken next.
    pub fn next_due(&self) -> Option<Duration> {
        let Reverse((due, _)) = self.held.peek()?.place;
        Some(self.until.map_or(due, |until| until.min(due)))
    }

    /// What it still holds, in order: where it is removed, all of that is due at once.
    pub fn release(self) -> impl Iterator<Item = T> {
        // The greatest of the heap, which is the first, comes last.
        self.held.into_sorted_vec().into_iter().rev().map(|waiting| waiting.frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(spec: &str) -> Impairment<Vec<u8>> {
        Impairment::new(spec.parse().unwrap(), 7, Duration::ZERO)
    }

    const MS: Duration = Duration::from_millis(1);

    /// Offers frames, one a millisecond, each with its number; returns who came out when.
    fn fates(spec: &str, count: u32, len: usize) -> Vec<(Duration, u32)> {
        let mut line = line(spec);
        let mut out = Vec::new();
        for n in 0..count {
            let mut frame = vec![0; len];
            frame[..4].copy_from_slice(&n.to_be_bytes());
            line.offer(frame, &mut (), n * MS);
            let end = if n + 1 == count { Duration::MAX } else { n * MS };
            while let Some((due, frame)) = line.take(end) {
                out.push((due, u32::from_be_bytes(frame[..4].try_into().unwrap())));
            }
        }
        out
    }

    // seed H.4.40
    #[test]
    fn the_same_seed_has_the_same_fate() {
        let spec =
            "loss=5%,burst=3,dup=1%,reorder=1%,delay=20ms,jitter=5ms,dist=normal,rate=10mbit";
        let fate = fates(&format!("{spec},seed=7"), 5000, 200);
        assert_eq!(fate, fates(&format!("{spec},seed=7"), 5000, 200));
        assert_ne!(fate, fates(&format!("{spec},seed=8"), 5000, 200));
    }

    // seed H.4.40
    #[test]
    fn frames_are_lost_as_often_as_asked_for() {
        for (spec, loss, burst) in [
            ("loss=2%", 0.02, 1.02),
            ("loss=10%,burst=5", 0.1, 5.0),
            ("loss=0.5,burst=10", 0.5, 10.0),
        ] {
            let count = 400_000;
            let there = fates(spec, count, 14).iter().map(|(_, n)| *n).collect::<Vec<_>>();
            let share = 1.0 - there.len() as f64 / f64::from(count);
            assert!((share / loss - 1.0).abs() < 0.05, "{spec}: {share}");
            let gaps = there.windows(2).map(|pair| pair[1] - pair[0] - 1).filter(|gap| *gap > 0);
            let gaps = gaps.map(f64::from).collect::<Vec<_>>();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            assert!((mean / burst - 1.0).abs() < 0.05, "{spec}: {mean}");
        }
        assert_eq!(fates("loss=100%,burst=5", 100, 14), []);
        assert_eq!(fates("loss=0", 100, 14).len(), 100);
    }

    #[test]
    fn delays_have_mean_and_spread_and_keep_the_order() {
        for (spec, spread) in [
            ("delay=20ms", 0.0),
            ("delay=20ms,jitter=5ms", 5.0 / 3_f64.sqrt()),
            ("delay=20ms,jitter=5ms,dist=normal", 5.0),
        ] {
            let mut line = line(spec);
            let mut delays = Vec::new();
            for n in 0..20_000 {
                // One at a time: nothing before it keeps it back.
                let now = n * 100 * MS;
                line.offer(vec![0; 60], &mut (), now);
                delays.push((line.next_due().unwrap() - now).as_secs_f64() * 1000.0);
                line.take(now + 100 * MS).unwrap();
            }
            let mean = delays.iter().sum::<f64>() / 20_000.0;
            let variance = delays.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 20_000.0;
            assert!((mean - 20.0).abs() < 0.2, "{spec}: {mean}");
            assert!((variance.sqrt() - spread).abs() < 0.05 * spread + 1e-9, "{spec}: {variance}");
        }
        let out = fates("delay=20ms,jitter=19ms", 1000, 14);
        assert!(out.is_sorted(), "jitter changes no order");
        let out = fates("delay=20ms,reorder=10%", 1000, 14);
        let ahead = out.iter().filter(|(due, n)| *due == *n * MS).count();
        assert!((70..130).contains(&ahead) && out.len() == 1000, "{ahead}");
    }

    #[test]
    fn a_slow_line_queues_and_then_drops() {
        // 1,000 octets take 8 ms at 1 Mbit/s, and one comes each millisecond.
        let mut line = line("rate=1mbit,queue=4000");
        for n in 0..16 {
            line.offer(vec![0; 1000], &mut (), n * MS);
        }
        assert_eq!(line.counters().impaired_queue, 11);
        let due = std::iter::from_fn(|| line.take(Duration::MAX)).map(|(due, _)| due);
        let due = due.collect::<Vec<_>>();
        assert_eq!(due, [8 * MS, 16 * MS, 24 * MS, 32 * MS, 40 * MS]);
        assert_eq!(line.next_due(), None);
        // However much is asked for, memory is bounded.
        let mut line = self::line("delay=1h");
        (0..100).for_each(|_| {
            line.offer(vec![0; 65_000], &mut (), Duration::ZERO);
        });
        assert_eq!(line.counters().impaired_queue, 36);
    }

    #[test]
    fn bits_flip_and_frames_double() {
        let mut line = line("corrupt=0.001,dup=50%");
        let mut flipped = 0;
        for _ in 0..1000 {
            line.offer(vec![0; 1000], &mut (), Duration::ZERO);
            let (_, frame) = line.take(Duration::ZERO).unwrap();
            flipped += frame.iter().map(|octet| octet.count_ones()).sum::<u32>();
            if let Some((_, copy)) = line.take(Duration::ZERO) {
                assert_eq!(copy, frame);
            }
        }
        assert!((900..1100).contains(&flipped), "{flipped} of a million octets");
        let counters = line.counters();
        assert!((450..550).contains(&counters.duplicated), "{counters:?}");
        assert!((580..690).contains(&counters.corrupted), "{counters:?}");
        let shared: std::sync::Arc<[u8]> = vec![0; 4].into();
        let mut other = shared.copy(&mut ());
        other.flip(1, 7, &mut ());
        assert_eq!((&shared[..], &other[..]), (&[0; 4][..], &[0, 0x80, 0, 0][..]));
    }

    #[test]
    fn it_ends_by_itself_or_is_removed_and_keeps_nothing() {
        let mut line = line("delay=1h,until=60s,mtu=100");
        for n in 0..3 {
            line.offer(vec![n], &mut (), Duration::ZERO);
        }
        line.offer(vec![9; 101], &mut (), Duration::ZERO);
        assert_eq!(line.counters().exceeds_mtu, 1);
        let end = Duration::from_secs(60);
        assert_eq!(line.next_due(), Some(end));
        assert!(line.take(end - MS).is_none() && !line.is_over(end - MS));
        assert_eq!(line.take(end), Some((end, vec![0])));
        assert!(line.is_over(end));
        // What comes then is behind what is held still, and nothing is done to it.
        assert_eq!(line.offer(vec![9; 101], &mut (), end), Fate::Held);
        assert_eq!(line.take(end), Some((end, vec![1])));
        assert_eq!(line.release().collect::<Vec<_>>(), [vec![2], vec![9; 101]]);
    }
}
