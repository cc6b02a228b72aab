//! The durable form of the desired state.
//!
//! Changes that a [`Store`] has committed are on stable storage; those it has refused are not
//! there after a restart.

mod busy;
mod file;
pub mod json;
pub mod memory;

pub use busy::Busy;

use crate::{
    lock::LockError,
    model::{FloatingIp, Forward, Leases, LoadBalancer, Network, Nic, Port},
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
    /// All ports; each one's network is there.
    pub ports: Vec<Port>,
    /// What hosts behind ports have leased, of networks that are there.
    pub leases: Vec<Leases>,
    /// All forwards; the vNIC of one may be missing, since its file is damaged.
    pub forwards: Vec<Forward>,
    /// All floating IPs, likewise.
    pub floating_ips: Vec<FloatingIp>,
    /// All load balancers, of networks that are there.
    pub load_balancers: Vec<LoadBalancer>,
    /// How many files could not be understood.
    pub damaged: usize,
}

/// An object as it is to be, and as it was.
#[derive(Debug)]
pub struct Put<T> {
    /// Absent: it is new.
    pub old: Option<T>,
    /// What takes its place. It has the same id.
    pub new: T,
}

/// What goes with a vNIC, or with a network and its vNICs.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Dependants {
    /// Forwards to them.
    pub forwards: Vec<Uuid>,
    /// Their floating IPs.
    pub floating_ips: Vec<Uuid>,
    /// Load balancers of the network. One of a vNIC outlives it.
    pub load_balancers: Vec<Uuid>,
}

impl Dependants {
    /// Whether nothing goes with them.
    pub fn is_empty(&self) -> bool {
        self.forwards.is_empty() && self.floating_ips.is_empty() && self.load_balancers.is_empty()
    }
}

/// What one request changes: all of it or nothing, also if the daemon dies meanwhile.
#[derive(Debug)]
pub enum Change {
    /// A network is created or changed.
    PutNetwork(Box<Put<Network>>),
    /// A vNIC is created or changed.
    PutNic(Box<Put<Nic>>),
    /// A port is created or changed.
    PutPort(Box<Put<Port>>),
    /// Hosts behind ports have leased other addresses.
    PutLeases(Box<Put<Leases>>),
    /// A forward is created or changed.
    PutForward(Box<Put<Forward>>),
    /// A floating IP is created or changed.
    PutFloatingIp(Box<Put<FloatingIp>>),
    /// A load balancer is created or changed.
    PutLoadBalancer(Box<Put<LoadBalancer>>),
    /// A network goes, and its vNICs and ports with it.
    DeleteNetwork {
        /// The network.
        id: Uuid,
        /// All vNICs that are in it.
        nics: Vec<Uuid>,
        /// All ports that are in it.
        ports: Vec<Uuid>,
        /// What goes with its vNICs.
        with: Dependants,
    },
    /// A vNIC goes.
    DeleteNic {
        /// The vNIC.
        id: Uuid,
        /// What goes with it.
        with: Dependants,
    },
    /// A port goes.
    DeletePort(Uuid),
    /// A forward goes.
    DeleteForward(Uuid),
    /// A floating IP goes.
    DeleteFloatingIp(Uuid),
    /// A load balancer goes.
    DeleteLoadBalancer(Uuid),
}

/// Changes could not be made durable, or the store not be used at all.
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
    /// It cannot be locked: another daemon uses it.
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// Keeps networks, vNICs, ports, forwards, floating IPs, load balancers, and what hosts have
/// leased.
pub trait Store: Send {
    /// What was stored, at the start. What cannot be understood is set aside with a warning, not an
    /// error.
    fn load(&mut self) -> Result<Contents, StoreError>;
    /// Makes changes durable, all of them or, with an error, none. If the daemon dies meanwhile,
    /// each of them is there or not, whatever becomes of the others: so no object may be in two of
    /// them, and none may take what another one frees.
    fn commit(&mut self, changes: &[&Change]) -> Result<(), StoreError>;
    /// Whether a change could be made now.
    fn probe(&mut self) -> Result<(), StoreError>;
}
