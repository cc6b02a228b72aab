//! The last frames of a reactor that were dropped: the heads of some, for who asks why.
//!
//! Frames that are carried cost nothing here. Of those that are dropped, the heads of so many a
//! second are copied, and fewer of one port's: a guest all of whose frames are dropped costs little
//! more than their counts. However many do so, they hide nobody's who seldom does: half of what may
//! be kept is for ports that have not used up their own.

use super::tap::Point;
use crate::{
    dataplane::{forward::tables::PortId, frame::verdict::DropReason},
    token_bucket::TokenBucket,
    wire::vlan::VlanId,
};
use arrayvec::ArrayVec;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Frames that are kept.
const KEPT: usize = 256;
/// Octets of each: all headers of nearly all.
const HEAD: usize = 128;
/// Frames a second that are kept, and at once after a pause.
const RATE: f64 = 100.0;
/// The same of one port, so that one that storms leaves room to others.
const PORT_RATE: f64 = 20.0;
const PORT_BURST: f64 = 32.0;
/// For how long none of a port is kept once there were too many: until its next may be.
const PAUSE: Duration = Duration::from_millis(50);

/// A frame that was dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedFrame {
    /// Where it was counted.
    pub port: PortId,
    /// Its VLAN, where that is a trunk.
    pub vlan: Option<VlanId>,
    /// Whether it came from there, or was to be put into it.
    pub point: Point,
    /// Why.
    pub reason: DropReason,
    /// When.
    pub time: Instant,
    /// Octets that it had.
    pub len: usize,
    /// Its first ones, as they were then.
    pub head: ArrayVec<u8, HEAD>,
}

/// Where and why a frame is dropped.
#[derive(Debug, Clone, Copy)]
pub struct Dropping {
    /// Where it is counted.
    pub port: PortId,
    /// Its VLAN, where that is a trunk.
    pub vlan: Option<VlanId>,
    /// Whether it came from there, or was to be put into it.
    pub point: Point,
    /// Why.
    pub reason: DropReason,
}

/// How many frames of one port may be kept.
#[derive(Debug)]
pub struct PortShare {
    rate: TokenBucket,
    /// Until then none is kept.
    pause: Option<Instant>,
}

impl Default for PortShare {
    fn default() -> Self {
        Self { rate: TokenBucket::new(PORT_RATE, PORT_BURST), pause: None }
    }
}

/// The last frames that were dropped.
#[derive(Debug)]
pub struct LastDrops {
    /// The oldest first. It takes its memory when the first comes.
    frames: VecDeque<DroppedFrame>,
    /// How many were kept so far.
    kept: u64,
    /// How many were dropped beside these.
    unseen: u64,
    rate: TokenBucket,
}

impl Default for LastDrops {
    fn default() -> Self {
        let rate = TokenBucket::new(RATE, RATE);
        Self { frames: VecDeque::new(), kept: 0, unseen: 0, rate }
    }
}

/// What was dropped since somebody looked last.
#[derive(Debug, Default)]
pub struct NewDrops {
    /// The frames, the oldest first.
    pub frames: Vec<DroppedFrame>,
    /// Where to look from next.
    pub next: u64,
    /// How many were dropped so far of which nothing was kept.
    pub unseen: u64,
}

impl LastDrops {
    /// Keeps the head of a frame, unless there were many just before.
    pub fn keep(
        &mut self,
        dropping: Dropping,
        (head, len): (&[u8], usize),
        share: &mut PortShare,
        time: Instant,
    ) {
        // In a storm it ends at the first look: buckets are dear.
        if share.pause.is_some_and(|until| time < until) || !self.admits(share, time) {
            self.unseen += 1;
            return;
        }
        let Dropping { port, vlan, point, reason } = dropping;
        let head = head[..head.len().min(HEAD)].iter().copied().collect();
        if self.frames.len() == KEPT {
            self.frames.pop_front();
        }
        self.frames.push_back(DroppedFrame { port, vlan, point, reason, time, len, head });
        self.kept += 1;
    }

    /// Whether one more may be kept, of a port that has this share.
    fn admits(&mut self, share: &mut PortShare, time: Instant) -> bool {
        share.rate.refill(time);
        self.rate.refill(time);
        // Who drops seldom may use up all there is, others no more than half of it.
        let is_seldom = share.rate.tokens() >= PORT_BURST / 2.0;
        let left = if is_seldom { 1.0 } else { 1.0 + RATE / 2.0 };
        if share.rate.tokens() < 1.0 || self.rate.tokens() < left {
            share.pause = Some(time + PAUSE);
            // Else many that storm at once would all be taken for ports that seldom drop.
            share.rate.charge(share.rate.tokens().floor());
            return false;
        }
        share.rate.charge(1.0);
        self.rate.charge(1.0);
        true
    }

    /// Returns those that were kept since there were `from`.
    pub fn since(&self, from: u64) -> NewDrops {
        let first = self.kept - self.frames.len() as u64;
        let skipped = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        let frames = self.frames.iter().skip(skipped).cloned().collect();
        NewDrops { frames, next: self.kept, unseen: self.unseen }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropping(slot: u32) -> Dropping {
        let port = PortId { slot, generation: 1 };
        Dropping { port, vlan: None, point: Point::FromGuest, reason: DropReason::NoRoute }
    }

    #[test]
    fn the_last_heads_are_kept_and_read_once() {
        let (mut drops, mut time) = (LastDrops::default(), Instant::now());
        let mut keep = |drops: &mut LastDrops, n: u16| {
            time += Duration::from_millis(100);
            let frame = [&n.to_be_bytes()[..], &[7; 198]].concat();
            drops.keep(dropping(1), (&frame, 1500), &mut PortShare::default(), time);
        };
        (0..300).for_each(|n| keep(&mut drops, n));
        let all = drops.since(0);
        assert_eq!((all.frames.len(), all.next, all.unseen), (KEPT, 300, 0));
        let number = |frame: &DroppedFrame| u16::from_be_bytes([frame.head[0], frame.head[1]]);
        assert_eq!((number(&all.frames[0]), number(&all.frames[KEPT - 1])), (44, 299));
        assert!(all.frames.iter().all(|frame| frame.head.len() == HEAD && frame.len == 1500));
        assert!(drops.since(all.next).frames.is_empty());
        keep(&mut drops, 300);
        let more = drops.since(all.next);
        assert_eq!(more.frames.iter().map(number).collect::<Vec<_>>(), [300]);
        // Who asks for what is still to come, as one of another process may, gets nothing.
        assert!(drops.since(1000).frames.is_empty());
    }

    #[test]
    fn a_storm_is_looked_at_once_in_a_while() {
        let (mut drops, start) = (LastDrops::default(), Instant::now());
        let mut share = PortShare::default();
        let mut keep = |after, share: &mut PortShare| {
            let time = start + Duration::from_millis(after);
            drops.keep(dropping(1), (&[1; 60], 60), share, time);
            (drops.kept, format!("{share:?}"))
        };
        let (kept, paused) = (0..100).map(|_| keep(0, &mut share)).last().unwrap();
        assert_eq!(kept, 32);
        assert_eq!(keep(49, &mut share), (32, paused), "no bucket is looked at");
        assert_eq!(keep(50, &mut share).0, 33);
    }

    #[test]
    fn a_storm_is_counted_and_hides_nobody() {
        let (mut drops, start) = (LastDrops::default(), Instant::now());
        let (mut stormy, mut quiet) = (PortShare::default(), PortShare::default());
        for millisecond in 0..10_000 {
            let time = start + Duration::from_millis(millisecond);
            (0..100).for_each(|_| drops.keep(dropping(1), (&[1; 60], 60), &mut stormy, time));
            if millisecond % 1000 == 999 {
                drops.keep(dropping(2), (&[2; 60], 60), &mut quiet, time);
            }
        }
        let seen = drops.since(0);
        let of = |slot| seen.frames.iter().filter(|frame| frame.port.slot == slot).count();
        assert_eq!(of(2), 10);
        assert!((200..250).contains(&of(1)), "{}", of(1));
        assert_eq!(drops.kept + drops.unseen, 1_000_010);
        // Many ports share what the reactor keeps.
        let (mut drops, mut shares) = (LastDrops::default(), Vec::new());
        shares.resize_with(100, PortShare::default);
        for millisecond in 0..1000 {
            let time = start + Duration::from_millis(millisecond);
            for share in &mut shares {
                drops.keep(dropping(1), (&[1; 60], 60), share, time);
            }
        }
        assert!((125..=200).contains(&drops.kept), "{}", drops.kept);
        // Also then one that seldom drops is seen.
        let seen = |drops: &LastDrops| drops.frames.iter().any(|frame| frame.port.slot == 2);
        for second in 1..10 {
            for millisecond in 0..1000 {
                let time = start + Duration::from_millis(second * 1000 + millisecond);
                for share in &mut shares {
                    drops.keep(dropping(1), (&[1; 60], 60), share, time);
                }
            }
            let time = start + Duration::from_secs(second + 1);
            drops.keep(dropping(2), (&[2; 60], 60), &mut quiet, time);
            assert!(seen(&drops), "in second {second}");
            drops.frames.clear();
        }
    }
}
