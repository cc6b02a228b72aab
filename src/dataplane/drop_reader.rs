//! Frames that were dropped, of all reactors: read as one.

use super::reactor::{
    self,
    dropped::{DroppedFrame, NewDrops},
};
use std::sync::{Arc, Weak};
use tokio::sync::oneshot;

/// Reads the last frames that reactors have dropped: at first those that there are, then those that
/// have come since.
#[derive(Debug)]
pub struct DropReader {
    /// Each with where to look from next. Weak: who only reads keeps no reactor from ending.
    reactors: Vec<(Weak<reactor::Handle>, u64)>,
}

impl DropReader {
    pub(super) fn of(reactors: &[Arc<reactor::Handle>]) -> Self {
        Self { reactors: reactors.iter().map(|reactor| (Arc::downgrade(reactor), 0)).collect() }
    }

    /// Returns those that have come, in order, and how many there were so far of which nothing was
    /// kept. Nothing comes of a reactor that has ended.
    pub async fn next(&mut self) -> (Vec<DroppedFrame>, u64) {
        let ask = |(reactor, from): &(Weak<reactor::Handle>, u64)| {
            let (answer, answered) = oneshot::channel();
            if let Some(reactor) = reactor.upgrade() {
                // Who asked may wait no more.
                reactor.dropped_since(*from, |news| drop(answer.send(news)));
            }
            answered
        };
        // All at once: each answers at the end of its turn.
        let asked: Vec<_> = self.reactors.iter().map(ask).collect();
        let (mut all, mut in_all) = (Vec::new(), 0);
        for ((_, from), answered) in self.reactors.iter_mut().zip(asked) {
            let Ok(NewDrops { frames, next, unseen }) = answered.await else { continue };
            *from = next;
            all.extend(frames);
            in_all += unseen;
        }
        all.sort_by_key(|frame| frame.time);
        (all, in_all)
    }
}
