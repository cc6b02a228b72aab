//! The time of a fabric: the machine's, or one that frames drive.

use crate::switchyard::protocol::{Kind, Message};
use std::time::Duration;
use tokio::time::Instant;

/// What a virtual clock goes on by with each frame that is sent.
const TICK: Duration = Duration::from_millis(1);
/// How long nobody sends a frame before a virtual clock goes on to whatever is still held.
const PAUSE: Duration = Duration::from_millis(100);

/// Which time a fabric has.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// That of the machine, from this moment on.
    Real(Instant),
    /// A millisecond a frame: what is done does not depend on how fast anybody is.
    Virtual {
        /// What time it is.
        now: Duration,
        /// When the last frame was sent.
        since: Instant,
    },
}

impl Clock {
    /// The machine's, from now on.
    pub fn real() -> Self {
        Self::Real(Instant::now())
    }

    /// One that frames drive.
    pub fn driven() -> Self {
        Self::Virtual { now: Duration::ZERO, since: Instant::now() }
    }

    /// What time it is.
    pub(super) fn now(self) -> Duration {
        match self {
            Self::Real(start) => start.elapsed(),
            Self::Virtual { now, .. } => now,
        }
    }

    /// The clock of a fabric has come to a message.
    pub(super) fn meet(&mut self, message: &Message) {
        if let Self::Virtual { now, since } = self
            && message.kind == Kind::PACKET_OUT
        {
            *now += TICK;
            *since = Instant::now();
        }
    }

    /// When to do what is due, if nothing comes in before.
    pub(super) fn wake(self, due: Duration) -> Instant {
        match self {
            Self::Real(start) => start + due,
            Self::Virtual { since, .. } => since + PAUSE,
        }
    }

    /// Nothing has come in before what is due.
    pub(super) fn reach(&mut self, due: Duration) {
        if let Self::Virtual { now, .. } = self {
            *now = due.max(*now);
        }
    }
}
