//! `mvirt-dives`: a switch of a DiVES mesh, with the console of the program of that name.
//!
//! ```text
//! flags ──▶ switch (the embedded daemon) ◀── session: -c FILE, the standard input, DIR/ctl
//! ```
//! Exit codes: 0 ended, 1 cannot start or go on, 2 wrong usage or a bad line of a file.

mod flags;
mod session;
mod switch;

use clap::{CommandFactory as _, Parser as _};
use flags::Flags;
use mvirt_net::{
    config::LogFormat, embedded::Embedded, log, log_writer::LogWriter, printable::printable_lines,
};
use session::Ended;
use std::{
    error::Error,
    fs,
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use switch::Switch;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
};

/// How long ports may take to close.
const GRACE: Duration = Duration::from_millis(700);
/// How long the last lines of the log may take.
const LAST_LINES: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let flags = Flags::parse();
    if let Some(asked) = flags.generate {
        return asked.print(env!("CARGO_BIN_NAME"), Flags::command());
    }
    let outcome = LogWriter::start(io::stderr()).map_err(Box::from).and_then(|writer| {
        log::start(LogFormat::Text, writer.clone());
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        // Few: frames are carried by threads of the reactors, and to peers by one task a VLAN.
        let runtime = runtime.worker_threads(2).enable_all().build()?;
        let outcome = runtime.block_on(run(flags));
        // A thread of it may wait for ever; the process does not.
        runtime.shutdown_background();
        writer.flush(LAST_LINES);
        outcome
    });
    outcome.unwrap_or_else(|error| {
        // Nobody reads it where this fails.
        writeln!(io::stderr(), "mvirt-dives: {}", printable_lines(&error.to_string())).ok();
        ExitCode::FAILURE
    })
}

async fn run(flags: Flags) -> Result<ExitCode, Box<dyn Error>> {
    // First: one that comes while it starts must end this process as any other.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (files, directory) = (flags.run_control.clone(), flags.directory.clone());
    let has_console = flags.has_console();
    let mut daemon = Switch::daemon()?;
    let outcome = async {
        let switch = Arc::new(Switch::start(flags, &daemon).await?);
        for file in &files {
            if let Err(bad) = session::run_file(&switch, file).await {
                writeln!(io::stderr(), "mvirt-dives: {}", printable_lines(&bad))?;
                return Ok(ExitCode::from(2));
            }
        }
        let socket = session::listen(&directory)?;
        tokio::spawn(session::serve(socket, Arc::clone(&switch)));
        tracing::info!("ready");
        let console = has_console.then(|| tokio::spawn(session::console(switch)));
        let outcome = until_told(&mut daemon, console, [&mut terminate, &mut interrupt]).await;
        // First, so that nobody connects to what is about to go.
        fs::remove_file(directory.join("ctl"))?;
        outcome.map(|()| ExitCode::SUCCESS)
    }
    .await;
    // Also where that has failed: its threads do without this runtime no longer than that.
    if tokio::time::timeout(GRACE, daemon.stop()).await.is_err() {
        tracing::warn!("ports were not closed in time");
    }
    outcome
}

/// Returns when all is to end: by a signal, or by the end of a terminal.
async fn until_told(
    daemon: &mut Embedded,
    mut console: Option<JoinHandle<io::Result<Ended>>>,
    [terminate, interrupt]: [&mut Signal; 2],
) -> Result<(), Box<dyn Error>> {
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            () = daemon.ended() => return Err("internal error: see the log".into()),
            Some(ended) = async { Some(console.as_mut()?.await) } => {
                console = None;
                match ended? {
                    Ok(Ended::Terminal) => return Ok(()),
                    Ok(Ended::Input) => {}
                    // Nobody reads what is answered there.
                    Err(error) => tracing::warn!(%error, "the console ended"),
                }
            }
        }
    }
}
