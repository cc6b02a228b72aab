//! What is known of the other end of a port beside what it has carried: what its driver has
//! negotiated, and what went wrong last. The port's task writes it, control reads it.

use crate::{dataplane::counters::PortCounters, mutex::lock};
use serde::{Deserialize, Serialize};
use std::{
    sync::{Arc, Mutex},
    time::SystemTime,
};

/// Octets of a reason that are kept.
// All that is handed over of a port must fit one message.
const MAX_REASON: usize = 512;

/// What a driver and its VMM have agreed to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// Features of virtio, by their bits.
    pub features: u64,
    /// Entries of its rings that run: of those that receive, and of those that send.
    pub rings: Vec<u32>,
}

/// Something that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// When.
    pub at: SystemTime,
    /// What.
    pub reason: String,
}

/// Of one port.
#[derive(Debug, Default)]
pub(in crate::dataplane) struct Facts(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    negotiated: Negotiated,
    last_error: Option<LastError>,
}

impl Facts {
    /// Begins with what another process has known.
    pub(in crate::dataplane) fn restore(last_error: Option<LastError>) -> Self {
        Self(Mutex::new(Known { last_error, ..Known::default() }))
    }

    pub(super) fn negotiated(&self, negotiated: Negotiated) {
        lock(&self.0).negotiated = negotiated;
    }

    pub(super) fn went_wrong(&self, reason: &str) {
        let end = reason.floor_char_boundary(MAX_REASON);
        let reason = reason[..end].to_owned();
        lock(&self.0).last_error = Some(LastError { at: SystemTime::now(), reason });
    }

    pub(super) fn last_error(&self) -> Option<LastError> {
        lock(&self.0).last_error.clone()
    }
}

/// Where others see what a port does, also when it is gone.
#[derive(Debug, Clone, Default)]
pub struct Monitor {
    pub(in crate::dataplane) counters: Arc<PortCounters>,
    pub(in crate::dataplane) facts: Arc<Facts>,
}

impl Monitor {
    /// Returns what it has carried.
    pub fn counters(&self) -> &PortCounters {
        &self.counters
    }

    /// Returns what its driver has negotiated.
    pub fn negotiated(&self) -> Negotiated {
        lock(&self.facts.0).negotiated.clone()
    }

    /// Returns what went wrong last.
    pub fn last_error(&self) -> Option<LastError> {
        self.facts.last_error()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let monitor = Monitor::default();
        monitor.facts.went_wrong(&format!("x{}", "ä".repeat(MAX_REASON)));
        let kept = monitor.last_error().unwrap().reason;
        assert_eq!(kept, format!("x{}", "ä".repeat(255)));
        let next = Facts::restore(monitor.last_error());
        assert_eq!(next.last_error(), monitor.last_error());
    }
}
