//! Bad lines on purpose, between a port and its network.

use crate::impair::Spec;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// By what lines frames come from a port and go to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Impairments {
    /// What becomes of those that come from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Spec>,
    /// What becomes of those that go to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Spec>,
    /// Since when. A line whose time is over is none.
    pub since: Timestamp,
}

impl Impairments {
    /// Whether there is no such line, and was none.
    pub fn is_none(&self) -> bool {
        self.from.is_none() && self.to.is_none()
    }

    /// Returns what is left of both at a time, in the order of the fields.
    pub fn left(&self, now: Timestamp) -> [Option<Spec>; 2] {
        // A clock that was set back makes them last longer, and no more than that.
        let passed = Duration::try_from(now.duration_since(self.since)).unwrap_or_default();
        [self.from, self.to].map(|spec| {
            let spec = spec?;
            let until = spec.until.map(|until| until.saturating_sub(passed));
            (until != Some(Duration::ZERO)).then_some(Spec { until, ..spec })
        })
    }

    /// Returns what takes the place of these. Lines that are the same go on as they were, unless
    /// they would end.
    pub fn replaced_by(&self, from: Option<Spec>, to: Option<Spec>, now: Timestamp) -> Self {
        let ends = [from, to].iter().flatten().any(|spec| spec.until.is_some());
        let same = (from, to) == (self.from, self.to) && !ends;
        Self { from, to, since: if same { self.since } else { now } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_and_begin_anew() {
        let now = Timestamp::now();
        let spec: Spec = "loss=1%,until=60s".parse().unwrap();
        let lines = Impairments::default().replaced_by(Some(spec), None, now);
        let after = |seconds| lines.left(now + Duration::from_secs(seconds));
        assert_eq!(after(0), [Some(spec), None]);
        let left = Spec { until: Some(Duration::from_secs(1)), ..spec };
        assert_eq!(after(59), [Some(left), None]);
        assert_eq!(after(60), [None, None]);
        assert_eq!(lines.left(now - Duration::from_secs(1)), [Some(spec), None]);
        // What ends begins anew when it is asked for again; other lines just go on.
        let later = now + Duration::from_secs(9);
        assert_eq!(lines.replaced_by(Some(spec), None, later).since, later);
        let endless = Some(Spec { until: None, ..spec });
        let lines = lines.replaced_by(endless, endless, now);
        assert_eq!(lines.replaced_by(endless, endless, later), lines);
        assert_eq!(lines.replaced_by(endless, None, later).since, later);
    }

    #[test]
    fn they_are_stored_as_they_are_written() {
        let stored = serde_json::json!({ "to": "delay=20ms", "since": "2026-01-01T00:00:00Z" });
        let lines: Impairments = serde_json::from_value(stored.clone()).unwrap();
        assert_eq!(lines.to.map(|to| to.delay), Some(Duration::from_millis(20)));
        assert_eq!(serde_json::to_value(lines).unwrap(), stored);
        assert!(Impairments::default().is_none());
    }
}
