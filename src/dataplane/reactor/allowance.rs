//! What a vNIC may still carry, ask and be told. It is the vNIC's, not its port's: a VMM that
//! connects again, or disturbs its rings, which guests can bring about at will, neither refills nor
//! empties it.

use super::{flood_limit::FloodLimit, timers::TOGETHER};
use crate::{
    dataplane::{
        forward::{
            Joined,
            limit::{Limiter, SavedLimiter},
            tables::{Member, NetworkKey},
        },
        gateway::GatewayEvent,
        port::PortFailure,
    },
    model::RateLimit,
    token_bucket::TokenBucket,
};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Answers of the gateway to a guest in a second, and how many at once.
// To answer costs the reactor more than to carry. Errors are to be limited anyway (RFC 1812
// §4.3.2.8, RFC 4443 §2.4(f)).
const REPLIES_PER_SECOND: f64 = 1000.0;
/// Hosts behind a port that may ask control for an address in a second, and how many at once.
// Each makes control store something, and publish the network anew.
const QUESTIONS_PER_SECOND: f64 = 20.0;
/// How often it is noted that a guest was told the same kind of thing.
// Each note is a message to Control, and to those who watch the vNIC.
const TELL_INTERVAL: Duration = Duration::from_secs(1);
/// How long after one router advertisement another may follow unasked (RFC 4861 §6.2.6,
/// MIN_DELAY_BETWEEN_RAS).
const ADVERTISEMENT_INTERVAL: Duration = Duration::from_secs(3);

/// How often a vNIC's ports may hold up a reactor before they fail, and how long a time is held
/// against it. Once may be the machine's doing: a page that had to be read back from a disk.
// Attempts that are a minute apart cost the others next to nothing.
const STRIKES: u8 = 2;
const FORGIVEN: Duration = Duration::from_secs(60);

/// What one vNIC may.
#[derive(Debug, Clone)]
pub struct Allowance {
    /// How much its guest may send, where that is limited.
    pub from_guest: Option<Limiter>,
    /// How much its guest may get, where that is limited.
    pub to_guest: Option<Limiter>,
    /// How much of what it sends may go to several receivers.
    pub floods: FloodLimit,
    replies: TokenBucket,
    questions: TokenBucket,
    /// What groups it hears, where it has been at another reactor.
    pub joined: Vec<(NetworkKey, Joined)>,
    /// When each kind of thing was last noted.
    told: [Option<Instant>; GatewayEvent::KINDS],
    /// When it last got a router advertisement that it had not asked for.
    advertised: Option<Instant>,
    /// How often its ports have held up a reactor, and when one last did.
    strikes: u8,
    struck: Option<Instant>,
}

/// An [`Allowance`] as one process of the daemon hands it to the next: what is left at that moment.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SavedAllowance {
    from_guest: Option<SavedLimiter>,
    to_guest: Option<SavedLimiter>,
    replies: Option<f64>,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            from_guest: None,
            to_guest: None,
            floods: FloodLimit::default(),
            replies: TokenBucket::new(REPLIES_PER_SECOND, REPLIES_PER_SECOND),
            questions: TokenBucket::new(QUESTIONS_PER_SECOND, QUESTIONS_PER_SECOND),
            joined: Vec::new(),
            told: [None; GatewayEvent::KINDS],
            advertised: None,
            strikes: 0,
            struck: None,
        }
    }
}

impl Allowance {
    /// Keeps to the limits of `member` from now on. A limit that is as it was keeps what is left of
    /// it. What the guest is told next is noted at once: the vNIC may have other addresses, or
    /// another guest.
    pub fn keep_to(&mut self, member: &Member) {
        let keep = |limiter: &mut Option<Limiter>, limit: RateLimit| {
            // Tables are published at every change in a network: that must refill nobody's bucket.
            if limiter.as_ref().map_or(RateLimit::default(), |limiter| *limiter.limit()) != limit {
                *limiter = Limiter::new(limit);
            }
        };
        let (from, to) = member.limits();
        keep(&mut self.from_guest, from);
        keep(&mut self.to_guest, to);
        self.told = [None; GatewayEvent::KINDS];
    }

    /// Takes one of the answers the gateway may give this second.
    pub fn may_reply(&mut self, now: Instant) -> bool {
        self.replies.take(now)
    }

    /// Whether [`Allowance::may_reply`] would say so.
    pub fn might_reply(&self, now: Instant) -> bool {
        let mut replies = self.replies;
        replies.take(now)
    }

    /// Takes one of the questions that control may be asked this second.
    pub fn may_ask(&mut self, now: Instant) -> bool {
        self.questions.take(now)
    }

    /// Whether it is to be noted that the guest was told something: once a second for each kind of
    /// thing.
    pub fn may_note(&mut self, told: &GatewayEvent, now: Instant) -> bool {
        let Some(last) = self.told.get_mut(told.kind()) else { return false };
        let due = last.is_none_or(|last| now.saturating_duration_since(last) >= TELL_INTERVAL);
        if due {
            *last = Some(now);
        }
        due
    }

    /// Notes that the guest got an advertisement.
    pub fn note_advertisement(&mut self, now: Instant) {
        self.advertised = Some(now);
    }

    /// When a port that begins may advertise.
    pub fn next_advertisement(&self, now: Instant) -> Instant {
        // What is due may be done a little early, and this must not.
        self.advertised.map_or(now, |last| now.max(last + ADVERTISEMENT_INTERVAL + TOGETHER))
    }

    /// Notes that a port held up its reactor. An error: too often.
    pub fn strike(&mut self, took: Duration, now: Instant) -> Result<(), PortFailure> {
        // From the last strike, not the first: a minute without any is asked for.
        let last = self.struck.replace(now);
        if last.is_none_or(|last| now.saturating_duration_since(last) > FORGIVEN) {
            self.strikes = 0;
        }
        self.strikes += 1;
        if self.strikes < STRIKES { Ok(()) } else { Err(PortFailure::HeldUp(took)) }
    }

    /// What is left, for another process.
    pub fn save(&self) -> SavedAllowance {
        SavedAllowance {
            // Strikes are not saved: the new process maps the memory anew, and meets what is slow
            // in it.
            from_guest: self.from_guest.as_ref().map(Limiter::save),
            to_guest: self.to_guest.as_ref().map(Limiter::save),
            replies: Some(self.replies.tokens()),
        }
    }

    /// What another process had left.
    pub fn restore(saved: &SavedAllowance) -> Self {
        let mut allowance = Self {
            from_guest: saved.from_guest.as_ref().and_then(Limiter::restore),
            to_guest: saved.to_guest.as_ref().and_then(Limiter::restore),
            ..Self::default()
        };
        // Absent from a daemon that did not save it: then the bucket is full.
        if let Some(left) = saved.replies {
            allowance.replies.keep(left);
        }
        allowance
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::reactor::timers::Timers;

    #[test]
    fn a_thousand_replies_a_second_and_no_more() {
        let start = Instant::now();
        let mut allowance = Allowance::default();
        let mut replies = |now| (0..1500).filter(|_| allowance.may_reply(now)).count();
        assert_eq!(replies(start), 1000);
        assert_eq!(replies(start + Duration::from_millis(10)), 10);
        assert_eq!(replies(start + Duration::from_secs(3600)), 1000);
    }

    #[test]
    fn no_advertisement_follows_another_within_three_seconds() {
        let (start, mut allowance) = (Instant::now(), Allowance::default());
        let mut timers = Timers::default();
        assert_eq!(allowance.next_advertisement(start), start);
        allowance.note_advertisement(start);
        timers.set('a', allowance.next_advertisement(start));
        assert_eq!(timers.pop(start + Duration::from_millis(2999)), None);
        assert_eq!(timers.pop(start + Duration::from_secs(3)), Some('a'));
    }

    #[test]
    fn what_is_left_survives_being_saved_as_text() {
        let now = Instant::now();
        let limit = RateLimit { packets: 100, burst_packets: 64, ..RateLimit::default() };
        let mut allowance = Allowance { from_guest: Limiter::new(limit), ..Allowance::default() };
        let limiter = allowance.from_guest.as_mut().unwrap();
        limiter.refill(now);
        (0..60).for_each(|_| limiter.charge(60, crate::wire::vnet::Offload::None));
        assert_eq!((0..990).filter(|_| allowance.may_reply(now)).count(), 990);
        let text = serde_json::to_string(&allowance.save()).unwrap();
        let mut restored = Allowance::restore(&serde_json::from_str(&text).unwrap());
        assert_eq!((0..1500).filter(|_| restored.may_reply(now)).count(), 10);
        let limiter = restored.from_guest.unwrap();
        let frames = [(60, crate::wire::vnet::Offload::None); 64];
        assert_eq!((*limiter.limit(), limiter.admitted(frames.into_iter())), (limit, 4));
        let none = Allowance::restore(&SavedAllowance::default());
        assert!(none.from_guest.is_none() && none.replies.tokens() == REPLIES_PER_SECOND);
    }
}
