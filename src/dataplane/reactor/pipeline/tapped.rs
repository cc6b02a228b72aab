//! What those see of a burst who capture it: its frames as they were sent, and what became of each.
//!
//! ```text
//! poll → begin: heads kept → decide, rewrite, deliver: fates noted → see_ingress → complete
//! ```

use super::{Pipeline, deliver::Done};
use crate::{
    dataplane::{
        forward::tables::PortId,
        frame::{self, BURST, FrameSet, HEAD_LEN, Outgoing, verdict::DropReason},
        reactor::{
            ports::Ports,
            tap::{Outcome, Point, Seen},
            ways::Ways,
        },
    },
    wire::vnet::Offload,
};
use std::time::Instant;

/// A frame as its guest sent it, without its tail: that stays as it is.
#[derive(Debug, Clone)]
struct Original {
    head: [u8; HEAD_LEN],
    head_len: usize,
    len: usize,
    offload: Offload,
    /// A frame that is not as it should be may have a tail that is not, either.
    has_tail: bool,
    outcome: Outcome,
}

/// What is kept of a burst while it is captured.
#[derive(Debug, Default)]
pub(super) struct Burst {
    /// Whether it is.
    pub(super) is_on: bool,
    // Made once, by the first that is.
    frames: Vec<Original>,
}

impl Burst {
    /// Keeps the heads of a burst that nobody has changed yet.
    #[cold]
    pub(super) fn begin(&mut self, burst: &frame::Burst) {
        self.frames.clear();
        self.frames.reserve(BURST);
        self.frames.extend((0..burst.len()).map(|at| {
            let frame = burst.frame(at);
            Original {
                head: frame.head,
                head_len: frame.head_len,
                len: frame.len,
                offload: frame.offload,
                has_tail: frame.invalid.is_none(),
                // What nobody has noted was not dealt with, and is not seen.
                outcome: Outcome::Dropped(DropReason::NoRoute),
            }
        }));
    }

    /// Notes what becomes of a frame.
    pub(super) fn note(&mut self, at: usize, outcome: Outcome) {
        if self.is_on
            && let Some(original) = self.frames.get_mut(at)
        {
            original.outcome = outcome;
        }
    }

    /// Notes what has become of a frame that did not go on as it was.
    #[cold]
    pub(super) fn ended(&mut self, at: usize, outcome: &Result<Done, DropReason>) {
        match outcome {
            Ok(Done::Answered) => self.note(at, Outcome::Answered),
            Ok(Done::Asked) => self.note(at, Outcome::Asked),
            // To whom was noted when it went.
            Ok(Done::Forwarded) => {}
            Err(reason) => self.note(at, Outcome::Dropped(*reason)),
        }
    }
}

impl Pipeline {
    /// Shows the frames of `dealt`, which came from a port, to who captures them.
    #[cold]
    pub(super) fn see_ingress<L: Ways>(
        &mut self,
        ports: &mut Ports,
        links: &mut L,
        (ingress, dealt): (PortId, FrameSet),
        now: Instant,
    ) {
        let Some(tapped) = ports.get_mut(ingress).and_then(|slot| slot.tapped.clone()) else {
            return;
        };
        // Tails are read from its guest's memory, which may hold the reactor up.
        links.start();
        // When they came, that is before they were put anywhere.
        tapped.see_each(
            Some(now),
            dealt.iter().filter_map(|at| {
                let original = self.tapped.frames.get(at)?;
                let tail = if original.has_tail { self.burst.outgoing(at).tail } else { &[] };
                let (head, len) = (&original.head[..original.head_len], original.len);
                let frame = Outgoing { offload: original.offload, head, tail, len };
                let (point, outcome) = (Point::FromGuest, original.outcome);
                Some((frame, Seen { port: ingress, vlan: None, point, outcome }))
            }),
        );
        let held_up = links.held_up();
        ports.blame(ingress, held_up, now);
    }
}
