//! What the daemon measures of itself beside what frames are counted by: requests to its API, and
//! writes to its store. Whoever measures writes here, and `web/metrics.rs` reads it.

use prometheus_client::metrics::{counter::Counter, family::Family, histogram::Histogram};
use std::time::Duration;

/// Upper bounds of durations that are told apart, in seconds.
// From what is answered from memory to what waits for a disk that is about to fail.
const BOUNDS: [f64; 9] = [0.0005, 0.002, 0.01, 0.05, 0.2, 1.0, 5.0, 10.0, 30.0];

fn durations() -> Histogram {
    Histogram::new(BOUNDS)
}

/// Which request, and what came of it: `method`, `code`.
pub type Outcome = [(&'static str, String); 2];

/// How long requests took, by what they were.
pub type Durations = Family<Outcome, Histogram, fn() -> Histogram>;

/// All of it; copies share it.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// Requests that were answered.
    pub(crate) api_requests: Family<Outcome, Counter>,
    /// How long that took.
    pub(crate) api_durations: Durations,
    /// How long changes took to be stored.
    pub(crate) store_writes: Histogram,
    /// Changes that could not be.
    pub(crate) store_errors: Counter,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            api_requests: Family::default(),
            api_durations: Family::new_with_constructor(durations),
            store_writes: durations(),
            store_errors: Counter::default(),
        }
    }
}

impl Telemetry {
    /// A request was answered, with this code of gRPC, or has begun to be if it lasts.
    pub fn answered(&self, method: &str, code: tonic::Code, took: Duration) {
        // Anybody may ask for anything: what is not served has one name.
        let method = if code == tonic::Code::Unimplemented { "unknown" } else { method };
        let outcome = [("method", method.to_owned()), ("code", code_name(code))];
        self.api_requests.get_or_create(&outcome).inc();
        self.api_durations.get_or_create(&outcome).observe(took.as_secs_f64());
    }

    /// Changes were stored, or could not be.
    pub(crate) fn stored(&self, is_stored: bool, took: Duration) {
        self.store_writes.observe(took.as_secs_f64());
        if !is_stored {
            self.store_errors.inc();
        }
    }
}

/// As gRPC spells it: `INVALID_ARGUMENT`.
pub fn code_name(code: tonic::Code) -> String {
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        // tonic has no such text; its `Debug` is the name in camel case.
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn what_is_asked_of_nobody_has_one_name() {
        let telemetry = Telemetry::default();
        let counted = |method: &str, code| {
            let outcome = [("method", method.to_owned()), ("code", code_name(code))];
            telemetry.api_requests.get_or_create(&outcome).get()
        };
        for method in ["x", "y"] {
            telemetry.answered(method, Code::Unimplemented, Duration::ZERO);
        }
        telemetry.answered("GetNic", Code::NotFound, Duration::ZERO);
        assert_eq!(counted("unknown", Code::Unimplemented), 2);
        assert_eq!(counted("GetNic", Code::NotFound), 1);
        assert_eq!(
            (code_name(Code::Ok), code_name(Code::NotFound)),
            ("OK".into(), "NOT_FOUND".into())
        );
    }
}
