//! Watches: until Ctrl-C, and what those of objects (`nic watch`, `lb watch`) print of events: a
//! line each, or a document.

use crate::{Failure, output::Output, units};
use std::collections::BTreeMap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic::{Response, Streaming};

/// What is watched, until the server ends, or Ctrl-C: it is how a watch ends, and nothing went
/// wrong.
pub(crate) struct Watched<T> {
    stream: Streaming<T>,
    interrupt: Signal,
}

impl<T> Watched<T> {
    /// Watches a stream. From here on Ctrl-C ends it, also while something is printed.
    pub(crate) fn of(response: Response<Streaming<T>>) -> Result<Self, Failure> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { stream: response.into_inner(), interrupt })
    }

    /// Returns what comes next; nothing at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, Failure> {
        tokio::select! {
            it = self.stream.message() => Ok(it?),
            _ = self.interrupt.recv() => Ok(None),
        }
    }
}

/// The cells beside time and name; the first is `deleted` where an object is gone.
type Cells<'a> = [&'a str; 3];

/// Lines of events about objects. An event that one is gone has its id alone: names are kept.
pub(crate) struct Lines<'a> {
    out: &'a Output,
    widths: [usize; 3],
    names: BTreeMap<String, String>,
}

impl<'a> Lines<'a> {
    /// Prints the first line. `columns` are their names and widths.
    pub(crate) fn begin(out: &'a Output, columns: [(&str, usize); 3]) -> Result<Self, Failure> {
        let widths = columns.map(|(_, width)| width);
        let lines = Self { out, widths, names: BTreeMap::new() };
        out.header(&lines.line("TIME", "NAME", columns.map(|(name, _)| name)))?;
        Ok(lines)
    }

    /// Prints an event about the object of this id, with its name and cells if there is one.
    pub(crate) fn event(
        &mut self,
        event: &impl serde::Serialize,
        (timestamp, id): (i64, &str),
        object: Option<(&str, Cells<'_>)>,
    ) -> Result<(), Failure> {
        if self.out.is_document() {
            return self.out.event(event);
        }
        let time = units::time_of_day(timestamp);
        let Some((name, cells)) = object else {
            let name = self.names.remove(id).unwrap_or_else(|| id.to_owned());
            return self.out.line(&self.line(&time, &name, ["deleted", "-", "-"]));
        };
        self.names.insert(id.to_owned(), name.to_owned());
        self.out.line(&self.line(&time, name, cells))
    }

    fn line<'b>(&self, time: &'b str, name: &'b str, cells: Cells<'b>) -> [(&'b str, usize); 5] {
        let [a, b, c] = std::array::from_fn(|at| (cells[at], self.widths[at]));
        // A time, and names as most are.
        [(time, 8), (name, 15), a, b, c]
    }
}
