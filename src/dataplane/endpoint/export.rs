//! What an endpoint exports to another process of the daemon, which goes on with the same sockets,
//! memory and rings.

use super::facts::LastError;
use crate::dataplane::{
    port::vhost_user::{
        memory::{Region, dirty_log::LogArea},
        session::SavedSession,
    },
    reactor::allowance::SavedAllowance,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io, os::fd::OwnedFd, time::Duration};
use tokio::sync::{mpsc, oneshot};

/// What a task serves, for another process of the daemon.
#[derive(Debug)]
pub struct Exported {
    /// What it has carried.
    pub counters: BTreeMap<String, u64>,
    /// What it may.
    pub kept: SavedLimits,
    /// The VMM's connection, if there is one.
    pub connection: Option<SavedConnection>,
    /// The listener, or the TAP device; of a connection then its socket, a file for each region of
    /// memory and for marks of written pages, and what its session holds.
    pub fds: Vec<OwnedFd>,
}

impl Exported {
    /// Returns the socket of a port that listens; an error where it was not exported.
    pub(super) fn listener(self) -> io::Result<OwnedFd> {
        Ok(self.fds.into_iter().next().ok_or(io::ErrorKind::UnexpectedEof)?)
    }

    /// Returns what descriptors alone say of it: it begins anew but for them.
    pub fn kept(fds: Vec<OwnedFd>) -> Self {
        let (counters, kept) = (BTreeMap::new(), SavedLimits::default());
        Self { counters, kept, connection: None, fds }
    }
}

/// A connection without its descriptors.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedConnection {
    pub(super) session: SavedSession,
    pub(super) regions: Vec<Region>,
    /// Where written pages are marked, if the VMM has said so.
    #[serde(default)]
    pub(super) marks: Option<LogArea>,
}

/// What limits a vNIC, whichever VMM is connected to it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SavedLimits {
    pub(super) allowance: SavedAllowance,
    /// How long it is not served yet.
    pub(super) locked_out_ms: u64,
    /// What went wrong last.
    #[serde(default)]
    pub(in crate::dataplane) last_error: Option<LastError>,
}

impl SavedLimits {
    /// Returns for how long it is still not to be served.
    pub(super) fn locked_out(&self) -> Duration {
        Duration::from_millis(self.locked_out_ms)
    }
}

/// Asks a task to stop and to give what it serves.
#[derive(Debug)]
pub(in crate::dataplane) struct ExportRequest {
    /// Comes with the answer.
    pub(in crate::dataplane) number: usize,
    pub(in crate::dataplane) answers: mpsc::UnboundedSender<(usize, io::Result<Exported>)>,
    /// A message: nobody took over, the task goes on. Dropped: the process is ending.
    pub(in crate::dataplane) resume: oneshot::Receiver<()>,
}

impl ExportRequest {
    /// Exports, and returns when nobody took over.
    pub(super) async fn answer(self, given: io::Result<Exported>) {
        // Who asked may have given up, and then says so, too.
        self.answers.send((self.number, given)).ok();
        drop(self.answers);
        if self.resume.await.is_err() {
            std::future::pending().await
        }
    }
}
