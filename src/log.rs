//! How log lines look: for people, as JSON, or for the journal, which keeps time and priority
//! itself.

use crate::{config::LogFormat, log_writer::LogWriter};
use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt,
    io::{IsTerminal as _, Write as _},
    os::unix::fs::MetadataExt as _,
};
use tracing::{Event, Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{JsonFields, Writer, format},
    },
    registry::LookupSpan,
};

/// How the lines of another program than the daemon look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// For people, with the time.
    Text {
        /// For a terminal.
        colour: bool,
    },
    /// With the priority in front, as syslog and the journal know it.
    Priority,
}

/// Begins to log to `writer`, and to log panics, too: lines of `level` and those that matter more.
pub fn start_at(level: LevelFilter, look: Look, writer: LogWriter) {
    let log = tracing_subscriber::fmt().with_max_level(level);
    let log = log.with_writer(move || writer.clone());
    match look {
        Look::Text { colour } => log.with_target(false).with_ansi(colour).init(),
        Look::Priority => {
            let line = format().with_target(false).with_level(false).with_ansi(false);
            log.with_ansi(false).event_format(Priority(line.without_time())).init();
        }
    }
    log_panics();
}

/// Begins to log to `writer`, and to log panics, too. `RUST_LOG` says which lines there are.
pub fn start(format_of_lines: LogFormat, writer: LogWriter) {
    let (filter, refused) = filter();
    let is_journal = is_journal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || writer.clone());
    match (format_of_lines, is_journal) {
        (LogFormat::Text, false) => {
            let colour = std::io::stderr().is_terminal();
            log.with_target(false).with_ansi(colour).init();
        }
        (LogFormat::Text, true) => {
            let line = format().with_target(false).with_level(false).with_ansi(false);
            log.with_ansi(false).event_format(Priority(line.without_time())).init();
        }
        (LogFormat::Json, false) => log.json().init(),
        (LogFormat::Json, true) => {
            log.fmt_fields(JsonFields::new()).event_format(Priority(format().json())).init();
        }
    }
    if let Some(refused) = refused {
        tracing::warn!("{refused}");
    }
    log_panics();
}

fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        // Only with RUST_BACKTRACE set: else this costs nothing.
        let trace = Backtrace::capture();
        let trace = (trace.status() == BacktraceStatus::Captured).then(|| trace.to_string());
        // The message has several lines: the journal would take each for an entry.
        tracing::error!(trace, "{}", panic.to_string().replace('\n', " "));
    }));
}

/// Says why the daemon ends, in the way of its other lines.
pub fn fatal(format_of_lines: LogFormat, mut writer: LogWriter, reason: &dyn fmt::Display) {
    match format_of_lines {
        LogFormat::Json => tracing::error!("{reason}"),
        LogFormat::Text => {
            let priority = if is_journal() { "<3>" } else { "" };
            // The writer takes everything, or counts what it loses.
            writer.write_all(format!("{priority}mvirt-net: {reason}\n").as_bytes()).ok();
        }
    }
}

fn filter() -> (EnvFilter, Option<String>) {
    let given = std::env::var_os(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    if given.is_empty() {
        // Empty is as good as absent: a variable in a file for systemd cannot be unset.
        return (EnvFilter::new("info"), None);
    }
    let Ok(text) = given.into_string() else {
        return (EnvFilter::new("info"), Some("RUST_LOG: not UTF-8: info is taken".into()));
    };
    match EnvFilter::builder().parse(&text) {
        Ok(filter) => (filter, None),
        Err(error) => {
            let expected = "expected a level like debug, or crate::control=debug,info";
            let refused = format!("RUST_LOG: {text:?}: {error}; {expected}: info is taken");
            (EnvFilter::new("info"), Some(refused))
        }
    }
}

/// Whether the journal reads stderr (JOURNAL_STREAM of systemd.exec(5)): the variable alone may be
/// inherited.
pub fn is_journal() -> bool {
    let Ok(found) = std::fs::metadata("/proc/self/fd/2") else { return false };
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    stream == format!("{}:{}", found.dev(), found.ino())
}

/// Puts the priority of sd-daemon(3) before each line.
struct Priority<F>(F);

impl<S, N, F> FormatEvent<S, N> for Priority<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}
