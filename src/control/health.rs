//! What ails the daemon though it serves: changes that cannot be stored, what is stored but
//! damaged, and what of the way out does not work. It is told by GetVersion, by the health service,
//! and by the log.

use super::refusal::counted;
use crate::{
    log_limit::{LogLimit, Said},
    store::StoreError,
};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tonic_health::{ServingStatus, server::HealthReporter};

/// Of the health service: SERVING while nothing ails the daemon. Its other name, that of the API,
/// says whether it serves.
pub const SERVICE: &str = "mvirt.net.changes";
/// How soon it is tried again whether changes can be stored.
// A try writes and syncs a file: no burden for a disk that errs, and soon enough for people.
const RETRY: Duration = Duration::from_secs(5);

/// What ails the daemon, for people.
pub type Degraded = watch::Receiver<Vec<String>>;

/// What is known of that.
#[derive(Debug)]
pub(super) struct Health {
    /// Why the last change could not be stored, and when to try again.
    refusing: Option<(String, Instant)>,
    damaged: usize,
    orphans: usize,
    /// What of the way out of public networks does not work.
    outside: Vec<String>,
    log: LogLimit,
    told: watch::Sender<Vec<String>>,
}

impl Health {
    /// With so many files that could not be understood.
    pub(super) fn new(damaged: usize) -> Self {
        let health = Self {
            refusing: None,
            damaged,
            orphans: 0,
            outside: Vec::new(),
            log: LogLimit::default(),
            told: watch::Sender::default(),
        };
        health.tell();
        health
    }

    pub(super) fn degraded(&self) -> Degraded {
        self.told.subscribe()
    }

    /// When it is to be tried again whether a change can be stored.
    pub(super) fn retry(&self) -> Option<Instant> {
        self.refusing.as_ref().map(|(_, at)| *at)
    }

    /// Notes whether a change could be stored.
    pub(super) fn stored(&mut self, result: &Result<(), StoreError>) {
        let now = Instant::now();
        match result {
            Ok(()) if self.refusing.take().is_some() => {
                tracing::info!("changes can be stored again");
                self.tell();
            }
            Ok(()) => {}
            Err(error) => {
                // Clients choose how many changes fail; the log must not fill up with them.
                if let Some(Said { unsaid }) = self.log.line(now) {
                    tracing::warn!(
                        %error, unsaid,
                        "a change cannot be stored and is refused; what is stored is served"
                    );
                }
                self.refusing = Some((error.to_string(), now + RETRY));
                self.tell();
            }
        }
    }

    /// So many vNICs are not served, for want of their network.
    pub(super) fn set_orphans(&mut self, orphans: usize) {
        self.orphans = orphans;
        self.tell();
    }

    /// So much of the way out of public networks does not work.
    pub(super) fn set_outside(&mut self, outside: Vec<String>) {
        if self.outside != outside {
            self.outside = outside;
            self.tell();
        }
    }

    fn tell(&self) {
        let refusing =
            self.refusing.as_ref().map(|(error, _)| format!("changes are refused: {error}"));
        let damaged = (self.damaged > 0).then(|| {
            let files = counted(self.damaged, "file");
            format!("{files} of metadata could not be understood: the log says which")
        });
        let orphans = (self.orphans > 0).then(|| {
            let (nics, is) = (counted(self.orphans, "vNIC"), self.orphans == 1);
            let (are, their) = if is { ("is", "its") } else { ("are", "their") };
            format!("{nics} {are} not served: the file of {their} network is damaged")
        });
        let outside = self.outside.iter().cloned();
        let all: Vec<_> =
            [refusing, damaged, orphans].into_iter().flatten().chain(outside).collect();
        // Each refused change comes here: receivers wake for news only.
        self.told.send_if_modified(|told| {
            let is_new = *told != all;
            *told = all;
            is_new
        });
    }
}

/// Tells the health service, until Control ends.
pub async fn report(mut degraded: Degraded, health: HealthReporter) {
    loop {
        // Marked as seen first: what changes while it is reported wakes the loop again.
        let is_well = degraded.borrow_and_update().is_empty();
        let status = if is_well { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status(SERVICE, status).await;
        if degraded.changed().await.is_err() {
            return;
        }
    }
}
