//! The daemon's command line: flags to a configuration, errors to exit codes (1: cannot start, 2:
//! bad flag, variable or file).

use clap::CommandFactory as _;
use mvirt_net::{
    config::{Config, LogFormat},
    daemon::{self, StartError},
    descriptor_store, handover,
    host_network::HostNetwork,
    log,
    log_writer::LogWriter,
    reference,
    remains::Remains,
    signals::{self, Orders},
};
use std::{
    env,
    fmt::Display,
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

/// How long the last lines of the log may take.
// With `signals::DEADLINE` and what `remains` may take, an end stays below five seconds.
const LAST_LINES: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    // First: where there is something, the program starts anew.
    let gathered = descriptor_store::gather();
    // Both before either is judged: what is wrong with the flags may belong into the log.
    let (read, writer) = match (Config::read(), LogWriter::start(io::stderr())) {
        (Ok(read), Ok(writer)) => (read, writer),
        (Err(error), writer) => return refuse(&error, writer.ok()),
        (_, Err(error)) => return fail(&error, 1),
    };
    let (config, sources) = read;
    if let Some(asked) = config.generate {
        return asked.print(env!("CARGO_BIN_NAME"), Config::command());
    }
    if let Some(asked) = config.generate_file {
        return print(&asked.text(&Config::command()));
    }
    if config.generate_reference {
        return print(&reference::page());
    }
    if config.check_config.is_some() {
        return match daemon::check(&config) {
            Ok(()) => print(&config.shown(&sources)),
            Err(error) => fail(&error, 2),
        };
    }
    if config.cleanup {
        return match HostNetwork::clean_up(&config.egress_device) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, 1),
        };
    }
    let format = config.log_format;
    log::start(format, writer.clone());
    if let Err(error) = gathered {
        tracing::warn!(%error, "what the service manager kept is lost");
    }
    let remains = Arc::<Remains>::default();
    let leave = {
        let (remains, writer) = (Arc::clone(&remains), writer.clone());
        move || {
            tracing::error!("not ended after {:?}: leaving all the same", signals::DEADLINE);
            // Before the log is flushed: guests matter more than the last line.
            remains.take_away();
            writer.flush(LAST_LINES);
            // Nothing that other threads hold is waited for, as exit(3) would.
            signal_hook::low_level::exit(1);
        }
    };
    let takes_over = config.take_over;
    let outcome = signals::take(leave).map_err(StartError::System);
    let outcome = outcome.and_then(|orders| run(config, orders, remains));
    if let Err(error) = &outcome {
        log::fatal(format, writer.clone(), error);
        if takes_over {
            handover::refuse(&error.to_string());
        }
    }
    writer.flush(LAST_LINES);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_usage() => ExitCode::from(2),
        Err(_) => ExitCode::FAILURE,
    }
}

/// Prints what was asked for.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Says what is wrong, before there is a log.
fn fail(error: &dyn Display, code: u8) -> ExitCode {
    // Nobody reads it where this fails.
    writeln!(io::stderr(), "mvirt-net: {error}").ok();
    ExitCode::from(code)
}

fn run(config: Config, orders: Arc<Orders>, remains: Arc<Remains>) -> Result<(), StartError> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // Few: frames are carried by threads of the reactors, and changes by one of Control.
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(daemon::run(config, orders, remains));
    // A thread of it may wait for ever; the process does not.
    runtime.shutdown_background();
    outcome
}

/// Says what is wrong with the flags; what was asked for, as by --help, goes to the standard
/// output.
fn refuse(error: &clap::Error, writer: Option<LogWriter>) -> ExitCode {
    let format = if LogFormat::is_json_asked_for() { LogFormat::Json } else { LogFormat::Text };
    // Lines of the journal have a priority, and those of JSON fields; clap's text has neither.
    let is_logged = error.use_stderr() && (format == LogFormat::Json || log::is_journal());
    let text = error.to_string();
    let text = text.trim_start_matches("error: ").trim_end();
    // The process that started this one has a log of its own, and goes on.
    if env::args_os().any(|argument| argument == handover::FLAG) {
        handover::refuse(text);
    }
    match writer {
        Some(writer) if is_logged => {
            log::start(format, writer.clone());
            log::fatal(format, writer.clone(), &text);
            writer.flush(LAST_LINES);
        }
        // Nobody reads it where this fails.
        _ => drop(error.print()),
    }
    // clap: 2 for bad usage, 0 for --help and --version.
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
