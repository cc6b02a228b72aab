//! What captures see of a reactor's frames: those that come from a port once it is known what
//! becomes of them, and those that are put into one.
//!
//! ```text
//! pipeline, slots ── frames of tapped ports ──▶ Taps: points → filter → copy
//!                                                 └─ a recorder each ── chunks ──▶ who captures
//!                                                          ◀── empty chunks ──
//! ```
//! A capture slows nobody down: its memory is made when it begins, what finds no room in it is lost
//! to it and counted, and all captures together may take a tenth of the reactor's time. A reactor
//! without captures does not look at any frame for them.

mod chunk;
mod flight;
mod recorder;

pub use chunk::{CHUNKS, Chunk, Outcome, Point, Record};
pub use flight::Flight;
pub use recorder::Recorder;

use crate::{
    bpf::Program,
    dataplane::{
        forward::tables::{NetworkKey, PortId},
        frame::{Outgoing, Span},
    },
    wire::{ethernet::TAG_LEN, vlan::VlanId},
};
use arrayvec::ArrayVec;
use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

/// Captures at once.
// Each has 1 MiB on each reactor. A slot has a bit for each, and for the flight ring.
pub const MAX_TAPS: usize = 8;
/// Captures may take this part of the time: one in ten.
const SHARE: u32 = 10;
/// What they may save up of it.
// A burst of the longest frames is copied at once, and everybody else is late by no more than that.
const SAVED: Duration = Duration::from_millis(1);
/// What one frame is held to have taken at most.
// A thread that lost its CPU meanwhile has not copied for as long. The longest frames take half of
// it.
const DEAREST: Duration = Duration::from_micros(20);
/// Where a tag stands: behind both MACs.
const TAG_AT: usize = 12;
/// Octets of a frame that filters look at, at most: the longest head, and a tag.
const LOOKED_AT: usize = crate::dataplane::frame::HEAD_LEN + TAG_LEN;

/// Whose frames are captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Those of these ports.
    Ports(Vec<PortId>),
    /// Those of all ports of a network, also of such that come later.
    Network(NetworkKey),
    /// All.
    All,
}

/// Which frames are captured, of those that match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Points {
    /// Those that come from a port.
    pub from_guest: bool,
    /// Those that are put into one.
    pub to_guest: bool,
    /// Those that are dropped, whichever way.
    pub dropped: bool,
}

/// What is captured.
#[derive(Debug)]
pub struct Tap {
    /// Tells it from others.
    pub id: u64,
    /// Whose frames.
    pub targets: Targets,
    /// Which of them.
    pub points: Points,
    /// Only those that match.
    pub filter: Option<Program>,
    /// Octets of each, at most.
    pub snaplen: usize,
}

impl Points {
    /// Those where frames are, all of them.
    pub const ALL: Self = Self { from_guest: true, to_guest: true, dropped: true };

    /// Whether a frame is captured there.
    pub fn want(self, record: &Record) -> bool {
        let Self { from_guest, to_guest, dropped } = self;
        let is_dropped = matches!(record.outcome, Outcome::Dropped(_));
        match record.point {
            Point::FromGuest => from_guest || dropped && is_dropped,
            // What did not get there is no frame to it.
            Point::ToGuest => {
                if is_dropped {
                    dropped
                } else {
                    to_guest
                }
            }
        }
    }
}

/// A capture, and where it goes.
#[derive(Debug)]
struct Session {
    tap: Arc<Tap>,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Capture(Recorder),
    Flight(Flight),
}

impl Sink {
    fn push(&mut self, record: Record, head: [&[u8]; 2], tail: &[Span], snaplen: usize) {
        let there = head.iter().map(|part| part.len()).sum::<usize>();
        let there = there + tail.iter().map(|span| span.len()).sum::<usize>();
        // Of a frame that is not as it should be, its length may be all that there is.
        let kept = record.len.min(snaplen).min(there);
        match self {
            Self::Capture(recorder) => recorder.push(Record { kept, ..record }, head, tail),
            Self::Flight(flight) => flight.push(Record { kept, ..record }, head, tail),
        }
    }
}

/// The captures of a reactor.
#[derive(Debug)]
pub struct Taps {
    sessions: Vec<Session>,
    /// What they may still take, and when that was counted.
    left: Duration,
    counted: Option<Instant>,
}

impl Default for Taps {
    fn default() -> Self {
        Self { sessions: Vec::new(), left: SAVED, counted: None }
    }
}

/// Which captures see a port.
#[derive(Debug, Clone)]
pub struct Tapped {
    taps: Rc<RefCell<Taps>>,
    /// A bit for each.
    sessions: u32,
}

/// What is seen of frames that all fare alike.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// The port.
    pub port: PortId,
    /// The VLAN that they are tagged with there.
    pub vlan: Option<VlanId>,
    /// Which way they go.
    pub point: Point,
    /// What becomes of them.
    pub outcome: Outcome,
}

impl Taps {
    /// Begins a capture.
    pub fn begin(&mut self, tap: Arc<Tap>, recorder: Recorder) {
        self.sessions.push(Session { tap, sink: Sink::Capture(recorder) });
    }

    /// Keeps the last frames of all ports from now on.
    pub fn keep(&mut self, flight: Flight) {
        let (targets, points, snaplen) = (Targets::All, Points::ALL, flight::HEAD);
        // Numbers of captures begin after it.
        let tap = Arc::new(Tap { id: 0, targets, points, filter: None, snaplen });
        self.sessions.push(Session { tap, sink: Sink::Flight(flight) });
    }

    /// Returns the last frames, if they are kept, the oldest first.
    pub fn kept(&mut self) -> Vec<Arc<Chunk>> {
        let flight = self.sessions.iter_mut().find_map(|session| match &mut session.sink {
            Sink::Flight(flight) => Some(flight),
            Sink::Capture(_) => None,
        });
        flight.map_or_else(Vec::new, Flight::snapshot)
    }

    /// Ends one, if it is there.
    pub fn end(&mut self, id: u64) {
        self.sessions.retain(|session| session.tap.id != id);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Returns those that see a port, which is in networks as `is_in` says.
    pub fn of(
        taps: &Rc<RefCell<Self>>,
        port: PortId,
        is_in: impl Fn(NetworkKey) -> bool,
    ) -> Option<Tapped> {
        let sees = |session: &Session| match &session.tap.targets {
            Targets::Ports(ports) => ports.contains(&port),
            Targets::Network(network) => is_in(*network),
            Targets::All => true,
        };
        let bits = taps
            .borrow()
            .sessions
            .iter()
            .enumerate()
            .fold(0, |bits, (at, session)| bits | u32::from(sees(session)) << at);
        (bits != 0).then(|| Tapped { taps: Rc::clone(taps), sessions: bits })
    }

    /// Hands on what has been captured, where it has waited long enough, or nothing more will come
    /// soon.
    pub fn end_turn(&mut self, now: Instant, is_idle: bool) {
        let since = self.counted.replace(now).unwrap_or(now);
        let more = now.saturating_duration_since(since) / SHARE;
        self.left = SAVED.min(self.left.saturating_add(more));
        for session in &mut self.sessions {
            if let Sink::Capture(recorder) = &mut session.sink {
                recorder.end_turn(now, is_idle);
            }
        }
    }

    fn see(&mut self, sessions: u32, frame: &Outgoing<'_>, seen: Seen, now: Instant) {
        let Seen { port, vlan, point, outcome } = seen;
        let mut head = ArrayVec::<u8, LOOKED_AT>::new();
        let looked_at = match vlan {
            None => frame.head,
            Some(vlan) => tagged(frame.head, vlan, &mut head),
        };
        // A head may be all of the frame.
        let rest = match vlan {
            None => &[],
            Some(_) => &frame.head[(looked_at.len() - TAG_LEN).min(frame.head.len())..],
        };
        let len = frame.len + if vlan.is_some() { TAG_LEN } else { 0 };
        let offload = match vlan {
            None => frame.offload,
            Some(_) => frame.offload.moved(TAG_LEN as i16).unwrap_or_default(),
        };
        let record = Record { port, time: now, point, outcome, offload, len, kept: 0, lost: 0 };
        for (at, Session { tap, sink }) in self.sessions.iter_mut().enumerate() {
            if sessions >> at & 1 == 0 || !tap.points.want(&record) {
                continue;
            }
            if self.left.is_zero() {
                if let Sink::Capture(recorder) = sink {
                    recorder.lose();
                }
                continue;
            }
            if tap.filter.as_ref().is_none_or(|filter| filter.matches(looked_at, len)) {
                sink.push(record, [looked_at, rest], frame.tail, tap.snaplen);
            }
        }
    }
}

/// Returns the head of a frame with a tag in it, as far as there is room.
fn tagged<'a>(head: &[u8], vlan: VlanId, to: &'a mut ArrayVec<u8, LOOKED_AT>) -> &'a [u8] {
    let (macs, rest) = head.split_at(TAG_AT.min(head.len()));
    for octets in [macs, &vlan.tag(), rest] {
        let room = to.remaining_capacity().min(octets.len());
        to.extend(octets[..room].iter().copied());
    }
    to
}

impl Tapped {
    /// Sees frames that fare alike.
    pub fn see(&self, frames: &[Outgoing<'_>], seen: Seen) {
        self.see_each(None, frames.iter().map(|frame| (*frame, seen)));
    }

    /// Sees frames, as of a time: else as of now.
    #[cold]
    pub fn see_each<'a>(
        &self,
        time: Option<Instant>,
        frames: impl Iterator<Item = (Outgoing<'a>, Seen)>,
    ) {
        let mut taps = self.taps.borrow_mut();
        let begun = Instant::now();
        let mut most = Duration::ZERO;
        for (frame, seen) in frames {
            taps.see(self.sessions, &frame, seen, time.unwrap_or(begun));
            most += DEAREST;
        }
        let took = begun.elapsed().min(most);
        taps.left = taps.left.saturating_sub(took);
    }
}

#[cfg(test)]
mod tests;
