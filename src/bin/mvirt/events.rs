//! `mvirt watch`: what happens.

use crate::{Failure, connect::Client, output::Output, units, watch::Watched};
use clap::Args;
use jiff::Timestamp;
use mvirt_net::proto::WatchEventsRequest;
use std::time::Duration;

/// From when on events are told.
#[derive(Debug, Clone)]
enum Since {
    /// All that are kept.
    All,
    /// So long ago.
    Ago(Duration),
    /// A time.
    At(Timestamp),
}

impl std::str::FromStr for Since {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "expected all, a duration like 10m, or a time like 2026-11-27T18:30:00Z";
        match text {
            "all" => Ok(Self::All),
            _ => match (units::seconds(text), text.parse()) {
                (Ok(ago), _) => Ok(Self::Ago(ago)),
                (Err(_), Ok(at)) => Ok(Self::At(at)),
                _ => Err(expected),
            },
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mvirt watch --since 10m\n  \
    mvirt -o json watch --kind nic_state,port_state")]
pub(crate) struct Watch {
    /// Also what has happened before: all, 10m (ago), or since a time
    #[arg(short, long, value_name = "WHEN")]
    since: Option<Since>,
    /// Only these kinds, separated by commas, like nic_state,lease
    #[arg(short, long, value_name = "KIND", value_delimiter = ',')]
    kind: Vec<String>,
}

impl Watch {
    /// Prints events until the server ends, or Ctrl-C.
    pub(crate) async fn run(self, client: &mut Client, out: &Output) -> Result<(), Failure> {
        let now = Timestamp::now();
        let since = match self.since {
            Some(Since::All) => String::new(),
            Some(Since::Ago(ago)) => (now - ago).to_string(),
            Some(Since::At(at)) => at.to_string(),
            None => now.to_string(),
        };
        let request = WatchEventsRequest { since, kinds: self.kind };
        let mut events = Watched::of(client.watch_events(request).await?)?;
        out.header(&widths(["TIME", "SEVERITY", "KIND", "WHAT"]))?;
        while let Some(event) = events.next().await? {
            if out.is_document() {
                out.event(&event)?;
                continue;
            }
            let at = event.time.parse::<Timestamp>().unwrap_or_default();
            let time = units::time_of_day(at.as_millisecond());
            out.line(&widths([&*time, event.severity().word(), &*event.kind, &*event.text]))?;
        }
        Ok(())
    }
}

fn widths(cells: [&str; 4]) -> [(&str, usize); 4] {
    // `capture_started`; what is told last needs none.
    let widths = [8, 8, 15, 0];
    std::array::from_fn(|at| (cells[at], widths[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_in_three_ways() {
        assert!(matches!("all".parse(), Ok(Since::All)));
        let ten_minutes = Duration::from_secs(600);
        assert!(matches!("10m".parse(), Ok(Since::Ago(ago)) if ago == ten_minutes));
        assert!(matches!("2026-11-27T18:30:00Z".parse(), Ok(Since::At(_))));
        for junk in ["", "yesterday", "-1", "0", "27.11.2026"] {
            assert!(junk.parse::<Since>().is_err(), "{junk}");
        }
    }
}
