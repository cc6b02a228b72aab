//! Waiting until something is as it should be: it is looked at again and again, until then or until
//! nobody waits any more.

use crate::{Failure, units};
use clap::Args;
use std::time::{Duration, Instant};

/// Between two looks.
// Renewals of leases make no events. Ten small requests a second are no load, and nobody feels the
// delay.
const LOOK: Duration = Duration::from_millis(100);

/// How long it is waited, where nobody says.
const AT_MOST: Duration = Duration::from_secs(60);

// No documentation: that would be the commands'.
#[derive(Debug, Args)]
pub(crate) struct Patience {
    /// How long: seconds, or like 2m [default: as --timeout says, else 60]
    #[arg(long, value_name = "TIME", value_parser = units::seconds)]
    at_most: Option<Duration>,
}

impl Patience {
    /// Returns what `look` returns as soon as that `is_so`; `what` says so in words.
    ///
    /// # Errors
    ///
    /// It is not so within that time, nor `timeout`; as `look`.
    pub(crate) async fn until<T>(
        self,
        timeout: Option<Duration>,
        (name, what): (&str, &str),
        is_so: impl Fn(&T) -> bool,
        mut look: impl AsyncFnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let at_most = self.at_most.or(timeout).unwrap_or(AT_MOST);
        let deadline = Instant::now() + at_most;
        loop {
            // Before the deadline is looked at: what is so already needs no time.
            let it = look().await?;
            if is_so(&it) {
                return Ok(it);
            }
            if Instant::now() >= deadline {
                return Err(Failure::Stopped(format!("{name}: not {what} within {at_most:?}")));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
