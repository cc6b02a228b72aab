//! The durable form of the desired state.
//!
//! A change that a [`Store`] has returned from is on stable storage; one it has refused is not
//! there after a restart.

mod busy;
pub mod json;

pub use busy::{Busy, Watched};

use crate::{
    lock::LockError,
    model::{Network, Nic},
};
use std::{io, path::PathBuf};
use uuid::Uuid;

/// What was stored.
#[derive(Debug, Default, PartialEq)]
pub struct Contents {
    /// All networks.
    pub networks: Vec<Network>,
    /// All vNICs; each one's network is there.
    pub nics: Vec<Nic>,
    /// vNICs whose network is not there, since its file is damaged: they stay stored.
    pub orphans: Vec<Nic>,
    /// How many files could not be understood.
    pub damaged: usize,
}

/// A change could not be made durable, or the store not be used at all.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A system call failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A change is there, but might not be after a power failure: it is to be taken back.
    #[error("cannot sync {}: {source}", path.display())]
    // Apart from `Io`: only here is something left in place.
    Unsynced {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be locked: another daemon uses it.
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// Keeps networks and vNICs.
pub trait Store: Send {
    /// What was stored, at the start. What cannot be understood is set aside with a warning, not an
    /// error.
    fn load(&mut self) -> Result<Contents, StoreError>;
    /// Stores a network, new or changed.
    fn put_network(&mut self, network: &Network) -> Result<(), StoreError>;
    /// Stores a vNIC, new or changed.
    fn put_nic(&mut self, nic: &Nic) -> Result<(), StoreError>;
    /// Removes a network and its vNICs: all of them or none, also if the daemon dies meanwhile.
    fn delete_network(&mut self, id: Uuid, nics: &[Uuid]) -> Result<(), StoreError>;
    /// Removes a vNIC.
    fn delete_nic(&mut self, id: Uuid) -> Result<(), StoreError>;
    /// Whether a change could be made now.
    fn probe(&mut self) -> Result<(), StoreError>;
}
