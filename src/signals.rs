//! What the daemon is told by signals, taken by a thread of its own: it ends when it is told to,
//! whatever stands still.
//!
//! | signal | what happens |
//! |---|---|
//! | SIGTERM, SIGINT | an orderly end; after [`DEADLINE`] an end all the same |
//! | SIGUSR1 | the last frames are put into a file, where they are kept |
//! | SIGUSR2 | a new process takes over |
//! | SIGHUP | nothing: a terminal may close |

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2},
    iterator::Signals,
};
use std::{io, sync::Arc, time::Duration};
use tokio::sync::Notify;

/// How long an orderly end may take. The rest of five seconds is for an end by force.
// The unit's TimeoutStopSec=6 is beyond them: systemd need not kill.
pub const DEADLINE: Duration = Duration::from_millis(4200);

/// What was asked for, and not yet done; asking twice is asking once.
#[derive(Debug, Default)]
pub struct Orders {
    /// To end.
    pub end: Notify,
    /// To give everything to a new process.
    pub hand_over: Notify,
    /// To put the flight ring into a file.
    pub dump: Notify,
}

/// Takes signals from now on. Calls `leave` if the daemon is told to end and has not ended in time:
/// that is to end the process.
pub fn take(leave: impl FnOnce() + Send + 'static) -> io::Result<Arc<Orders>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGHUP])?;
    let orders = Arc::<Orders>::default();
    let told = Arc::clone(&orders);
    let mut leave = Some(leave);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            match signal {
                SIGTERM | SIGINT => {
                    // A permit is kept where nobody waits yet, as while the daemon starts.
                    told.end.notify_one();
                    // The deadline counts from the first signal: who asks again does not get more
                    // time.
                    if let Some(leave) = leave.take() {
                        leave_at_deadline(leave);
                    }
                }
                SIGUSR1 => told.dump.notify_one(),
                SIGUSR2 => told.hand_over.notify_one(),
                _ => {}
            }
        }
    })?;
    Ok(orders)
}

fn leave_at_deadline(leave: impl FnOnce() + Send + 'static) {
    let waiting = std::thread::Builder::new().name("deadline".into()).spawn(|| {
        let deadline = std::time::Instant::now() + DEADLINE;
        // park_timeout may wake early.
        while let Some(left) = deadline.checked_duration_since(std::time::Instant::now()) {
            std::thread::park_timeout(left);
        }
        leave();
    });
    if let Err(error) = waiting {
        tracing::error!(%error, "nothing will end this process if it does not end by itself");
    }
}
