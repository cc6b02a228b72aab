//! `mvirt reactor …`

use super::{
    Failure,
    connect::Client,
    output::{Cell, Output, Table},
};
use clap::Subcommand;
use mvirt_net::proto::{ListReactorsRequest, Reactor};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show all, and how busy they have been since the daemon started
    #[command(visible_alias = "ls", after_help = "Examples:\n  mvirt reactor list")]
    List,
}

pub(crate) async fn run(
    Command::List: Command,
    client: &mut Client,
    out: &Output,
) -> Result<(), Failure> {
    let request = ListReactorsRequest::default();
    let response = client.list_reactors(request).await?.into_inner();
    const HEADER: &[&str] =
        &["ID", "NICS", "FRAMES", "NS/FRAME", "FRAMES/TURN", "BUSY", "POLLING", "SLEEPS"];
    let mut table = Table::new(HEADER, HEADER.len());
    for reactor in &response.reactors {
        table.row(&reactor.id.to_string(), row(reactor));
    }
    out.list(&response, &table)
}

fn row(reactor: &Reactor) -> Vec<Cell> {
    let per = |sum: u64, count: u64| match count {
        // No average of nothing; a table shows `-`.
        0 => String::new(),
        _ => format!("{:.1}", sum as f64 / count as f64),
    };
    let seconds = |ns: u64| format!("{:.3}s", ns as f64 / 1e9);
    vec![
        reactor.id.into(),
        reactor.nics.into(),
        reactor.frames.into(),
        per(reactor.busy_ns, reactor.frames).into(),
        per(reactor.frames, reactor.busy_turns).into(),
        seconds(reactor.busy_ns).into(),
        seconds(reactor.polling_ns).into(),
        reactor.sleeps.into(),
    ]
}
