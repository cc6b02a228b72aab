//! `mvirt reactor …`

use super::{Failure, connect::Client, output::Output};
use clap::Subcommand;
use mvirt_net::proto::{ListReactorsRequest, Reactor};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show all, and how busy they have been since the daemon started
    List,
}

pub(crate) async fn run(
    Command::List: Command,
    client: &mut Client,
    out: &mut Output,
) -> Result<(), Failure> {
    let response = client.list_reactors(ListReactorsRequest {}).await?.into_inner();
    let header = ["ID", "NICS", "FRAMES", "NS/FRAME", "FRAMES/TURN", "BUSY", "POLLING", "SLEEPS"];
    let rows: Vec<_> = response.reactors.iter().map(row).collect();
    out.list(&response, &header, &rows)
}

fn row(reactor: &Reactor) -> Vec<String> {
    let per = |sum: u64, count: u64| match count {
        0 => "-".into(),
        _ => format!("{:.1}", sum as f64 / count as f64),
    };
    let seconds = |ns: u64| format!("{:.3} s", ns as f64 / 1e9);
    vec![
        reactor.id.to_string(),
        reactor.nics.to_string(),
        reactor.frames.to_string(),
        per(reactor.busy_ns, reactor.frames),
        per(reactor.frames, reactor.busy_turns),
        seconds(reactor.busy_ns),
        seconds(reactor.polling_ns),
        reactor.sleeps.to_string(),
    ]
}
