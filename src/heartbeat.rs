//! Tells systemd's watchdog that the daemon moves (`WatchdogSec=`), from a thread outside of all
//! that it looks at.
//!
//! | what | how it is seen to move |
//! |---|---|
//! | reactors | each answers a question between two turns |
//! | sessions and the API | a task of theirs sends octets back that come over a socket |
//! | Control | it answers a request, unless it waits for a disk or for a process that takes over |
//!
//! One that stands still is told to the log, and the watchdog is not fed: systemd starts the daemon
//! again.

use crate::{control::Handle, dataplane::Pulse, store::Busy};
use sd_notify::NotifyState;
use std::{
    fmt, io,
    os::unix::net::UnixStream as StdStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::{MissedTickBehavior, timeout},
};

/// What is looked at.
#[derive(Debug)]
pub struct Parts {
    /// The reactors.
    pub pulse: Pulse,
    /// Control.
    pub control: Handle,
    /// Whether Control waits for a disk: to start again would not help.
    pub store: Busy,
    /// Whether another process is taking over: Control stands still then, and that has its own
    /// limits.
    pub is_handing_over: Arc<AtomicBool>,
}

/// What did not move in time.
#[derive(Debug, Clone, Copy)]
enum Still {
    Reactors,
    Sessions,
    Control,
}

impl fmt::Display for Still {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reactors => "a reactor",
            Self::Sessions => "the threads of sessions and the API",
            Self::Control => "Control",
        })
    }
}

/// Starts the thread, if systemd wants to be told. To be called on the runtime of the sessions,
/// which it watches. The thread ends with the process.
pub fn start(parts: Parts) -> io::Result<()> {
    let Some(limit) = sd_notify::watchdog_enabled() else { return Ok(()) };
    // Over a socket, not a channel: sessions hang also where tokio no longer learns of readiness.
    let (ours, theirs) = StdStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    tokio::spawn(echo(UnixStream::from_std(theirs)?));
    // Its own: on the sessions' runtime it would hang with them, and its timers, too.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name("heartbeat".into())
        // A quarter: three parts are asked in turn, so a round of slow answers is still within the
        // limit.
        .spawn(move || runtime.block_on(feed(parts, limit / 4, ours)))?;
    Ok(())
}

/// Sends back what comes.
async fn echo(mut stream: UnixStream) {
    let mut octet = [0];
    while stream.read_exact(&mut octet).await.is_ok() && stream.write_all(&octet).await.is_ok() {}
}

/// Tells systemd, if it has started this process.
pub fn tell_service_manager(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "no service manager to tell");
    }
}

async fn feed(parts: Parts, interval: Duration, echo: StdStream) {
    let mut echo = match UnixStream::from_std(echo) {
        Ok(stream) => Echo { stream, asked: 0 },
        Err(error) => return tracing::error!(%error, "the watchdog is not fed"),
    };
    let mut looks = tokio::time::interval(interval);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        match look(&parts, interval, &mut echo).await {
            None => tell_service_manager(&[NotifyState::Watchdog]),
            Some(still) => tracing::error!("{still} did not answer within {interval:?}"),
        }
    }
}

/// What stands still.
async fn look(parts: &Parts, limit: Duration, echo: &mut Echo) -> Option<Still> {
    // One that has ended does not move either.
    if timeout(limit, parts.pulse.barrier().passed()).await != Ok(true) {
        return Some(Still::Reactors);
    }
    if !matches!(timeout(limit, echo.turn()).await, Ok(Ok(()))) {
        return Some(Still::Sessions);
    }
    let is_excused = || parts.is_handing_over.load(Relaxed) || parts.store.is_busy();
    // Control that has ended ends the daemon by itself.
    let answered = timeout(limit, parts.control.call(|_| ())).await.is_ok();
    (!answered && !is_excused()).then_some(Still::Control)
}

/// A way to see a task of other threads move.
struct Echo {
    stream: UnixStream,
    asked: u8,
}

impl Echo {
    async fn turn(&mut self) -> io::Result<()> {
        self.asked = self.asked.wrapping_add(1);
        self.stream.write_all(&[self.asked]).await?;
        let mut octet = [0];
        // What was asked before, and answered too late, comes first.
        while octet != [self.asked] {
            self.stream.read_exact(&mut octet).await?;
        }
        Ok(())
    }
}
