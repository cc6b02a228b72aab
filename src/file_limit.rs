//! How many files this process may have open.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit as far as it goes. Returns what it is then.
// Thousands of ports need a few descriptors each; the soft limit is for programs that use
// select(2).
pub(crate) fn raise() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    limit.current.unwrap_or(u64::MAX)
}
