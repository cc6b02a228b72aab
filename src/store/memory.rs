//! A store that keeps nothing: what is made is there until the process ends.

use super::{Change, Contents, Store, StoreError};

/// Takes every change, and forgets it.
#[derive(Debug, Default, Clone, Copy)]
pub struct MemoryStore;

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Contents, StoreError> {
        Ok(Contents::default())
    }

    fn commit(&mut self, _changes: &[&Change]) -> Result<(), StoreError> {
        // Control has the whole state in memory already.
        Ok(())
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}
