//! Whether a backend is healthy, from what its checks come to. No I/O, no clock.
//!
//! Nobody knows of a new backend, and after a start of any: it is taken for healthy until as many
//! checks as any other's have failed. A daemon that starts again would otherwise turn clients away
//! while VMs find their sockets again.

use std::num::NonZeroU32;

/// How many checks in a row change what is thought of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// That succeed, until it is healthy again.
    pub rise: NonZeroU32,
    /// That fail, until it is not.
    pub fall: NonZeroU32,
}

/// What is thought of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    is_healthy: bool,
    /// Checks in a row that say otherwise.
    otherwise: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self { is_healthy: true, otherwise: 0 }
    }
}

impl Health {
    /// Whether it takes flows.
    pub fn is_healthy(self) -> bool {
        self.is_healthy
    }

    /// Takes what a check has come to. Returns whether the backend has changed by it.
    pub fn take(&mut self, has_succeeded: bool, patience: Patience) -> bool {
        if has_succeeded == self.is_healthy {
            self.otherwise = 0;
            return false;
        }
        self.otherwise += 1;
        let enough = if self.is_healthy { patience.fall } else { patience.rise };
        let has_changed = self.otherwise >= enough.get();
        if has_changed {
            *self = Self { is_healthy: has_succeeded, otherwise: 0 };
        }
        has_changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience =
        Patience { rise: NonZeroU32::new(2).unwrap(), fall: NonZeroU32::new(3).unwrap() };

    /// What a backend is after each check.
    fn after(checks: &str) -> String {
        let mut health = Health::default();
        let mut take = |check| {
            let before = health.is_healthy();
            let has_changed = health.take(check == '+', PATIENCE);
            assert_eq!(has_changed, before != health.is_healthy());
            if health.is_healthy() { 'u' } else { 'd' }
        };
        checks.chars().map(&mut take).collect()
    }

    #[test]
    fn a_backend_is_healthy_until_checks_have_failed_in_a_row() {
        assert_eq!(after("---"), "uud");
        assert_eq!(after("--+--+---"), "uuuuuuuud");
    }

    #[test]
    fn it_comes_back_when_checks_have_succeeded_in_a_row() {
        assert_eq!(after("---+-++"), "uuddddu");
        assert_eq!(after("---++--"), "uudduuu");
    }
}
