//! Where a capture's frames go on one reactor: into chunks, of which there are always as many.

use super::{Chunk, Record};
use crate::dataplane::frame::Span;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::{Duration, Instant},
};

/// How long a captured frame waits for others at most, while its reactor is busy.
// Nobody who looks sees it, and a hundred messages a second are no load.
const PATIENCE: Duration = Duration::from_millis(10);

/// One end of a capture.
pub struct Recorder {
    current: Option<Chunk>,
    /// Those that were read.
    empty: mpsc::Receiver<Chunk>,
    /// Hands one on to who captures. False: there is nobody.
    hand_on: Box<dyn FnMut(Chunk) -> bool + Send>,
    handed_on: Option<Instant>,
    /// Frames that found no room since the last that did; and all of them, of all reactors.
    lost: u64,
    lost_in_all: Arc<AtomicU64>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("lost", &self.lost).finish_non_exhaustive()
    }
}

impl Recorder {
    /// One that fills what comes by `empty`.
    pub fn new(
        empty: mpsc::Receiver<Chunk>,
        lost_in_all: Arc<AtomicU64>,
        hand_on: Box<dyn FnMut(Chunk) -> bool + Send>,
    ) -> Self {
        Self { current: None, empty, hand_on, handed_on: None, lost: 0, lost_in_all }
    }

    /// A frame is lost to the capture.
    pub(super) fn lose(&mut self) {
        self.lost += 1;
        self.lost_in_all.fetch_add(1, Relaxed);
    }

    /// Takes a frame, if there is room.
    pub(super) fn push(&mut self, record: Record, head: [&[u8]; 2], tail: &[Span]) {
        if self.current.as_ref().is_some_and(|chunk| !chunk.has_room(record.kept)) {
            self.hand_on();
        }
        if self.current.is_none() {
            self.current = self.empty.try_recv().ok();
        }
        match &mut self.current {
            Some(chunk) => {
                let lost = std::mem::take(&mut self.lost);
                chunk.push(Record { lost, ..record }, head, tail);
            }
            None => self.lose(),
        }
    }

    /// Hands on what waits, if it is time to.
    pub(super) fn end_turn(&mut self, now: Instant, is_idle: bool) {
        if self.current.as_ref().is_none_or(Chunk::is_empty) {
            return;
        }
        if is_idle {
            return self.hand_on();
        }
        let is_due = self.handed_on.is_none_or(|at| now.duration_since(at) >= PATIENCE);
        // While its reader is slow, a chunk is filled before the last one is given up.
        if is_due && let Ok(next) = self.empty.try_recv() {
            self.hand_on();
            self.current = Some(next);
            self.handed_on = Some(now);
        }
    }

    fn hand_on(&mut self) {
        if let Some(chunk) = self.current.take() {
            // Who captures has gone, and says so to the reactor, too: until then all is lost.
            (self.hand_on)(chunk);
        }
    }
}
