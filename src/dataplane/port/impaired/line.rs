//! A bad line of a port in one direction: frames of bursts in, and out when they are due.

use super::arena::{Arena, Budget};
use crate::{
    dataplane::frame::{
        MAX_FRAME_LEN, Outgoing,
        offload::{self, Offloads},
        verdict::DropReason,
    },
    impair::{Fate, Frame, Impairment, Spec},
    wire::vnet::Offload,
};
use std::time::Duration;

/// A frame that a line holds, whose octets are in the line's arena.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    number: u64,
    len: usize,
    /// The queue that it came from.
    pub(super) queue: usize,
    /// What its sender left to be done.
    pub(super) offload: Offload,
}

impl Frame for Held {
    type Store = Arena;

    fn octets(&self) -> usize {
        self.len
    }

    fn flip(&mut self, octet: usize, bit: u8, arena: &mut Arena) {
        arena.octets_mut(self.number)[octet] ^= 1 << (bit % 8);
    }

    fn copy(&self, arena: &mut Arena) -> Self {
        arena.share(self.number);
        *self
    }
}

/// The line.
#[derive(Debug)]
pub(super) struct Line {
    line: Impairment<Held>,
    arena: Arena,
    /// What may be left to be done about frames on it.
    accepts: Offloads,
    whole: Box<[u8]>,
}

impl Line {
    pub(super) fn new(spec: Spec, seed: u64, budget: Budget, now: Duration) -> Self {
        // A bit that flips must not be covered by a checksum that is made later, and what is longer
        // than the line takes are packets, not what they are cut from.
        let is_literal = spec.corrupt > 0.0 || spec.mtu.is_some();
        Self {
            line: Impairment::new(spec, seed, now),
            arena: Arena::new(budget),
            accepts: if is_literal { Offloads::NONE } else { Offloads::ALL },
            whole: vec![0; MAX_FRAME_LEN].into(),
        }
    }

    /// Whether frames on it are as they would be on a cable.
    pub(super) fn is_literal(&self) -> bool {
        self.accepts == Offloads::NONE
    }

    /// Takes a frame, or all that it is cut into. An error says why nothing of it is held.
    pub(super) fn take(
        &mut self,
        frame: &Outgoing<'_>,
        queue: usize,
        now: Duration,
    ) -> Result<(), DropReason> {
        let Self { line, arena, accepts, whole } = self;
        // As a port that sends: what a part of was taken counts as taken.
        let mut outcome = Err(DropReason::BadSegmentation);
        offload::finish(frame, *accepts, whole, |octets, offload| {
            let taken = hold(line, arena, octets, (queue, offload), now);
            if outcome.is_err() {
                outcome = taken;
            }
        });
        outcome
    }

    /// Returns the next frame that is due by now, and since when it is. It is to be let go.
    pub(super) fn due(&mut self, now: Duration) -> Option<(Duration, Held)> {
        self.line.take(now)
    }

    /// Returns the octets of a frame that was due.
    pub(super) fn octets(&self, held: &Held) -> &[u8] {
        self.arena.octets(held.number)
    }

    /// Lets go of a frame that was due.
    pub(super) fn free(&mut self, held: Held) {
        self.arena.free(held.number);
    }

    /// When a frame is due next.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.line.next_due()
    }

    /// Ends it: all that it holds is due. Returns how many frames that is.
    pub(super) fn end(&mut self) -> usize {
        self.line.end();
        self.line.held()
    }
}

fn hold(
    line: &mut Impairment<Held>,
    arena: &mut Arena,
    octets: &[u8],
    (queue, offload): (usize, Offload),
    now: Duration,
) -> Result<(), DropReason> {
    let number = arena.hold(octets).ok_or(DropReason::ImpairedQueue)?;
    let held = Held { number, len: octets.len(), queue, offload };
    let reason = match line.offer(held, arena, now) {
        Fate::Held => return Ok(()),
        Fate::Lost => DropReason::ImpairedLoss,
        Fate::QueueFull => DropReason::ImpairedQueue,
        Fate::TooLong => DropReason::ExceedsMtu,
    };
    arena.free(number);
    Err(reason)
}
