//! Captures of all reactors: begun and ended on each, and read as one.

use super::forward::tables::PortId;
use super::reactor::{
    self,
    tap::{CHUNKS, Chunk, MAX_TAPS, Points, Record, Recorder, Tap, Targets},
};
use crate::bpf::Program;
use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering::Relaxed},
    mpsc as reactors,
};
use tokio::sync::{mpsc, oneshot};

/// What is to be captured.
#[derive(Debug)]
pub struct CaptureRequest {
    /// Whose frames.
    pub targets: Targets,
    /// Which of them.
    pub points: Points,
    /// Only those that match.
    pub filter: Option<Program>,
    /// Octets of each, at most.
    pub snaplen: usize,
}

impl CaptureRequest {
    /// The same, of the ports that it is about now: what [`CaptureRequest::selects`] looks for.
    #[must_use]
    pub fn among(mut self, mut ports: Vec<PortId>) -> Self {
        ports.sort_unstable();
        self.targets = Targets::Ports(ports);
        self
    }

    /// Whether it is about a frame that begins with `octets`, of those that are there already. The
    /// ports of a network are those that it has now.
    pub fn selects(&self, record: &Record, octets: &[u8]) -> bool {
        let is_of = match &self.targets {
            Targets::Ports(ports) => ports.binary_search(&record.port).is_ok(),
            Targets::Network(_) | Targets::All => true,
        };
        let filter = self.filter.as_ref();
        is_of
            && self.points.want(record)
            && filter.is_none_or(|filter| filter.matches(octets, record.len))
    }
}

/// There are as many captures as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are {MAX_TAPS} captures, which is the most: end some")]
pub struct TooManyCaptures;

/// The captures that there are.
#[derive(Debug, Default)]
pub(super) struct Captures {
    /// Held by each.
    places: Arc<()>,
    last: u64,
}

/// A capture, until it is dropped.
#[derive(Debug)]
pub struct Capture {
    chunks: mpsc::UnboundedReceiver<(usize, Chunk)>,
    /// The way of chunks back, by reactor.
    empty: Vec<reactors::Sender<Chunk>>,
    lost: Arc<AtomicU64>,
    id: u64,
    // Weak: who only watches keeps no reactor from ending.
    reactors: Vec<Weak<reactor::Handle>>,
    _place: Arc<()>,
}

impl Captures {
    pub(super) fn begin(
        &mut self,
        reactors: &[Arc<reactor::Handle>],
        request: CaptureRequest,
    ) -> Result<Capture, TooManyCaptures> {
        if Arc::strong_count(&self.places) > MAX_TAPS {
            return Err(TooManyCaptures);
        }
        self.last += 1;
        let CaptureRequest { targets, points, filter, snaplen } = request;
        let tap = Arc::new(Tap { id: self.last, targets, points, filter, snaplen });
        // Unbounded, but never long: there are so many chunks, and no more are made.
        let (filled, chunks) = mpsc::unbounded_channel();
        let lost = Arc::<AtomicU64>::default();
        let begin = |(at, reactor): (usize, &Arc<reactor::Handle>)| {
            let (empty, emptied) = reactors::channel();
            for _ in 0..CHUNKS {
                // Its other end is right here.
                empty.send(Chunk::default()).ok();
            }
            let filled = filled.clone();
            let hand_on = Box::new(move |chunk| filled.send((at, chunk)).is_ok());
            reactor.tap(Arc::clone(&tap), Recorder::new(emptied, Arc::clone(&lost), hand_on));
            empty
        };
        let empty = reactors.iter().enumerate().map(begin).collect();
        let reactors = reactors.iter().map(Arc::downgrade).collect();
        let place = Arc::clone(&self.places);
        Ok(Capture { chunks, empty, lost, id: tap.id, reactors, _place: place })
    }
}

impl Capture {
    /// Returns the next frames; none once the reactors have ended.
    pub async fn next(&mut self) -> Option<Filled> {
        let (reactor, chunk) = self.chunks.recv().await?;
        Some(Filled { chunk, empty: self.empty.get(reactor)?.clone() })
    }

    /// Returns how many frames were lost so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let reactors = self.reactors.iter().filter_map(Weak::upgrade);
        reactors.for_each(|reactor| reactor.end_tap(self.id));
    }
}

/// The last frames of all ports: soon to be there.
#[derive(Debug)]
pub struct Kept(Vec<oneshot::Receiver<Vec<Arc<Chunk>>>>);

impl Kept {
    pub(super) fn of(reactors: &[Arc<reactor::Handle>]) -> Self {
        let ask = |reactor: &Arc<reactor::Handle>| {
            let (answer, answered) = oneshot::channel();
            // Who asked may wait no more.
            reactor.kept(|chunks| drop(answer.send(chunks)));
            answered
        };
        Self(reactors.iter().map(ask).collect())
    }

    /// Returns them, those of each reactor in order. One that has ended is left out.
    pub async fn collected(self) -> Vec<Arc<Chunk>> {
        let mut all = Vec::new();
        for chunks in self.0 {
            all.extend(chunks.await.unwrap_or_default());
        }
        all
    }
}

/// Captured frames, whose memory goes back to their reactor when this is dropped.
#[derive(Debug)]
pub struct Filled {
    chunk: Chunk,
    empty: reactors::Sender<Chunk>,
}

impl std::ops::Deref for Filled {
    type Target = Chunk;

    fn deref(&self) -> &Chunk {
        &self.chunk
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let mut chunk = std::mem::replace(&mut self.chunk, Chunk::none());
        chunk.clear();
        // A reactor that has ended fills no more.
        self.empty.send(chunk).ok();
    }
}
