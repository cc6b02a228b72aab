//! Lists that are wanted without pages and do not fit in one: each takes its memory from the first
//! page until its client has read it, so there are few at a time.

use super::refusal::Refusal;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Octets of the longest list: `mvirt` of older versions, which list without pages, take no more.
const MAX_OCTETS: usize = 512 << 20;

/// How many long lists the caller may have. By default, any number.
#[derive(Debug, Clone, Default)]
pub struct LongLists(Vec<Arc<Semaphore>>);

/// The right to one, until dropped.
#[derive(Debug)]
pub struct LongList {
    _permits: Vec<OwnedSemaphorePermit>,
}

impl LongLists {
    /// No more than each of `limits` has permits.
    pub fn within(limits: [Arc<Semaphore>; 2]) -> Self {
        Self(limits.into())
    }

    /// Returns the right to one, or refuses. It does not wait: others may read their lists as
    /// slowly as they like.
    pub(super) fn take(&self) -> Result<LongList, Refusal> {
        // Where one of them fails, what was acquired before is dropped with the collection.
        let permits = self.0.iter().map(|limit| Arc::clone(limit).try_acquire_owned());
        let _permits = permits.collect::<Result<_, _>>().map_err(|_| {
            Refusal::Exhausted(
                "the list is long, and other long lists are not read yet: ask for pages (page_size)"
                    .into(),
            )
        })?;
        Ok(LongList { _permits })
    }

    /// Refuses what no client takes.
    pub(super) fn check(octets: usize) -> Result<(), Refusal> {
        if octets <= MAX_OCTETS {
            return Ok(());
        }
        Err(Refusal::Exhausted(format!(
            "the list is longer than {MAX_OCTETS} octets: ask for pages (page_size)"
        )))
    }
}
