//! `mvirt-vswitch`, also installed as `vswitch`: a switch for QEMU's socket networks, which takes
//! the place of the program of that name. Each TCP port is an isolated VLAN.
//!
//! ```text
//! flags ── -daemon ──▶ background (starts this program again, waits for its ports)
//!       ── -status, -stop ──▶ pid_file, status
//!       ── else ──▶ switch (the embedded daemon), with http, status, log_lines
//! ```
//! Exit codes: 0 done, 1 cannot, 2 wrong usage, 3 with -status: not running.

mod background;
mod flags;
mod http;
mod log_lines;
mod pid_file;
mod stats;
mod status;
mod switch;

use flags::{Action, Flags};
use log_lines::{Reopen, Sink};
use mvirt_net::{embedded::Embedded, log_writer::LogWriter, printable::printable_lines};
use pid_file::PidFile;
use std::{
    env,
    error::Error,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};
use switch::Vlans;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often the log is told what was carried.
const TOTALS: Duration = Duration::from_secs(60);
/// How long ports may take to close: clients see the end of the process in any case.
const GRACE: Duration = Duration::from_millis(700);
/// How long the last lines of the log may take.
const LAST_LINES: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let arguments: Result<Vec<_>, _> =
        env::args_os().skip(1).map(std::ffi::OsString::into_string).collect();
    let read = match arguments {
        Ok(arguments) => flags::parse(arguments, |name| env::var(name).ok(), default_pid_file())
            .map_err(|error| error.to_string()),
        Err(argument) => Err(format!("{}: not UTF-8", argument.display())),
    };
    let flags = match read {
        Ok(flags) => flags,
        Err(wrong) => {
            complain(&format!("{wrong}\nSee vswitch -help"));
            return ExitCode::from(2);
        }
    };
    let done = match flags.action {
        Action::Help => io::stderr().write_all(flags::USAGE.as_bytes()).map(|()| ExitCode::SUCCESS),
        Action::Version => writeln!(io::stdout(), "vswitch {}", env!("CARGO_PKG_VERSION"))
            .map(|()| ExitCode::SUCCESS),
        Action::Status => status::print(&flags),
        Action::Stop => stop(&flags),
        Action::Daemon => background::start(),
        Action::Run | Action::Detached => return run(&flags),
    };
    done.unwrap_or_else(|error| {
        complain(&error);
        ExitCode::FAILURE
    })
}

/// Says what is wrong.
fn complain(what: &dyn std::fmt::Display) {
    // Nobody reads it where this fails.
    writeln!(io::stderr(), "vswitch: {}", printable_lines(&what.to_string())).ok();
}

/// In a folder of this user's own, if there is one; root's is where the program has it.
fn default_pid_file() -> PathBuf {
    let is_root = rustix::process::geteuid().is_root();
    let folder = env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty() && !is_root);
    folder.map_or_else(|| "/tmp".into(), PathBuf::from).join("vswitch.pid")
}

fn stop(flags: &Flags) -> io::Result<ExitCode> {
    match pid_file::stop(&flags.pid_file) {
        Ok(()) => writeln!(io::stdout(), "Daemon stopped").map(|()| ExitCode::SUCCESS),
        Err(error) => {
            writeln!(io::stderr(), "Failed to stop daemon: {error}").map(|()| ExitCode::FAILURE)
        }
    }
}

fn run(flags: &Flags) -> ExitCode {
    let is_detached = flags.action == Action::Detached;
    let reopen = Reopen::default();
    let started = absolute(flags).and_then(|flags| {
        if is_detached {
            background::detach()?;
        }
        let log = start_log(&flags, is_detached, &reopen)?;
        Ok((flags, log))
    });
    let (flags, log) = match started {
        Ok(started) => started,
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    let outcome = switch_until_told(&flags, is_detached, &reopen);
    if let Err(error) = &outcome {
        // To who waits for the start, if it has not come to that; afterwards, to the log alone.
        complain(error);
        if is_detached {
            tracing::error!("{error}");
        }
    }
    if let Some(log) = log {
        log.flush(LAST_LINES);
    }
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Files as they are named where the program is started: in the background it is elsewhere.
fn absolute(flags: &Flags) -> io::Result<Flags> {
    let log_file = flags.log_file.as_ref().map(std::path::absolute).transpose()?;
    Ok(Flags { pid_file: std::path::absolute(&flags.pid_file)?, log_file, ..flags.clone() })
}

fn start_log(flags: &Flags, is_detached: bool, reopen: &Reopen) -> io::Result<Option<LogWriter>> {
    let named = |path: &Path, error: io::Error| {
        io::Error::new(error.kind(), format!("-log-file {}: {error}", path.display()))
    };
    let sink = match &flags.log_file {
        Some(path) => Sink::File(path.clone()),
        None if is_detached => Sink::Syslog,
        None => Sink::Output,
    };
    match (log_lines::start(&sink, flags.log_level, reopen), &sink) {
        (Ok(writer), _) => Ok(Some(writer)),
        (Err(error), Sink::File(path)) => Err(named(path, error)),
        (Err(error), Sink::Syslog) => {
            // No reason not to switch.
            complain(&format!("syslog: {error}: nothing is logged (see -log-file)"));
            Ok(None)
        }
        (Err(error), Sink::Output) => Err(error),
    }
}

fn switch_until_told(
    flags: &Flags,
    is_detached: bool,
    reopen: &Reopen,
) -> Result<(), Box<dyn Error>> {
    // Until all is over: only then may another one begin.
    let _pid_file = is_detached.then(|| PidFile::take(&flags.pid_file)).transpose()?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // Few: frames are carried by threads of the reactors.
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(serve(flags, is_detached, reopen));
    // A thread of it may wait for ever; the process does not.
    runtime.shutdown_background();
    outcome
}

async fn serve(flags: &Flags, is_detached: bool, reopen: &Reopen) -> Result<(), Box<dyn Error>> {
    // First: one that comes while ports are opened must end this process as any other.
    let mut signals = Signals::new(flags)?;
    tracing::debug!(?flags, "starting");
    let (mut daemon, vlans) = switch::start(&flags.ports).await?;
    let outcome = switch(flags, is_detached, reopen, &mut signals, (&mut daemon, &vlans)).await;
    // Also where that has failed: its threads do without this runtime no longer than that.
    if tokio::time::timeout(GRACE, daemon.stop()).await.is_err() {
        tracing::warn!("ports were not closed in time");
    }
    outcome
}

/// Serves what runs, until a signal.
async fn switch(
    flags: &Flags,
    is_detached: bool,
    reopen: &Reopen,
    signals: &mut Signals,
    (daemon, vlans): (&mut Embedded, &Vlans),
) -> Result<(), Box<dyn Error>> {
    if let Some(port) = flags.stats_port {
        let refused = |error| format!("-stats-port {port}: {error}");
        tokio::spawn(http::serve(http::listen(port).await.map_err(refused)?, vlans.clone()));
    }
    if is_detached {
        tokio::spawn(status::serve(status::listen()?, vlans.clone()));
    }
    tracing::info!(vlans = flags.ports.len(), "ready");
    if is_detached {
        // Last: who waits for it finds all of that in place.
        background::ready()?;
    }
    let mut totals = tokio::time::interval(TOTALS);
    // The first tick is at once.
    totals.tick().await;
    loop {
        tokio::select! {
            () = Signals::end(&mut signals.end) => break,
            () = Signals::reopen(&mut signals.reopen) => reopen.ask(),
            () = daemon.ended() => return Err("internal error: see the log".into()),
            _ = totals.tick() => log_totals(vlans).await,
        }
    }
    tracing::info!("shutting down");
    log_totals(vlans).await;
    Ok(())
}

async fn log_totals(vlans: &Vlans) {
    let Ok(stats) = vlans.stats().await else { return };
    let (vlans, connections, macs, frames) = stats.totals();
    tracing::info!(
        vlans,
        connections,
        macs,
        received = frames.received,
        forwarded = frames.forwarded,
        dropped = frames.dropped,
        sent = frames.sent,
        "totals"
    );
}

/// What this process is told by signals.
struct Signals {
    end: [Signal; 2],
    /// Absent without a log file: then a terminal that closes ends the program.
    reopen: Option<Signal>,
}

impl Signals {
    fn new(flags: &Flags) -> io::Result<Self> {
        let end = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
        // A daemon has no terminal that could close.
        let is_taken = flags.log_file.is_some() || flags.action == Action::Detached;
        let reopen = is_taken.then(|| signal(SignalKind::hangup())).transpose()?;
        Ok(Self { end, reopen })
    }

    async fn end(end: &mut [Signal; 2]) {
        let [terminate, interrupt] = end;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }

    async fn reopen(reopen: &mut Option<Signal>) {
        match reopen {
            Some(hangup) => drop(hangup.recv().await),
            None => std::future::pending().await,
        }
    }
}
