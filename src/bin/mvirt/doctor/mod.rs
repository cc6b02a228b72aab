//! `mvirt doctor`: looks at this host, the daemon and, where one is named, a vNIC, and says what is
//! wrong and what to do.
//!
//! ```text
//! look.rs  reads what there is of the host ──▶ host.rs, egress.rs  what is wrong with it
//! the API  the daemon, ports, a vNIC twice ─▶ tunnel.rs, nic.rs   what is wrong with those
//! ```
//! What is looked at is a value, and a check a function of it: each text is tried without a host
//! that is as ill.

mod egress;
mod finding;
mod host;
mod look;
mod nic;
mod tunnel;

use super::{
    Failure,
    connect::{Client, Connection},
    output::{self, Output, Table},
    units::counted,
};
use clap::Args;
use finding::{Finding, Level};
use mvirt_net::proto::{GetNicStatsRequest, GetVersionRequest, ListReactorsRequest, NicState};
use std::time::Duration;

/// How long what a vNIC carries is watched.
// Guests that are in trouble try again within a second: ARP and TCP's first retransmission do.
const WATCHED: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 nothing fails, 1 something does, 2 wrong usage, 3 the daemon \
                        cannot be reached\n\nExamples:\n  mvirt doctor\n  mvirt doctor vm1 -o json"
)]
pub(crate) struct Command {
    /// A vNIC, by name or id, to look at, too
    #[arg(value_name = "NIC", add = super::complete::nics())]
    nic: Option<String>,
}

pub(crate) async fn run(
    Command { nic }: Command,
    connection: &Connection,
    out: &Output,
) -> Result<(), Failure> {
    let host = look::host();
    let (mut findings, outcome) = (host::check(&host), asked(connection, &host, nic).await);
    let outcome = outcome.map(|found| findings.extend(found));
    if let Err(failure) = &outcome {
        let told = failure.to_string();
        let (text, remedy) = told.split_once("\n  ").unwrap_or((&told, ""));
        findings.push(Finding::fail("daemon", text, remedy));
    }
    if out.is_document() {
        out.document(&findings)?;
    } else if out.is_for_people() {
        let lines = findings.iter().map(|finding| finding.line() + "\n");
        output::print(&lines.collect::<String>())?;
    } else {
        let mut table = Table::new(&["LEVEL", "CHECK", "FOUND", "REMEDY"], 4);
        for finding in &findings {
            table.row(finding.name, finding.parts().map(Into::into).to_vec());
        }
        out.list(&findings, &table)?;
    }
    let failed = findings.iter().filter(|finding| finding.level == Level::Fail).count();
    match outcome {
        Err(Failure::Unreachable { .. } | Failure::Late { .. }) => Err(Failure::Unseen),
        // Of a vNIC that there is not.
        Err(failure) => Err(failure),
        Ok(()) if failed > 0 => Err(Failure::Ill(counted(failed as u64, "check"))),
        Ok(()) => Ok(()),
    }
}

/// What the daemon says of itself, and of a vNIC.
async fn asked(
    connection: &Connection,
    host: &look::Host,
    nic: Option<String>,
) -> Result<Vec<Finding>, Failure> {
    let mut client = connection.connect().await?;
    told(&mut client, host, nic).await.map_err(|failure| connection.explain(failure))
}

async fn told(
    client: &mut Client,
    host: &look::Host,
    nic: Option<String>,
) -> Result<Vec<Finding>, Failure> {
    let version = client.get_version(GetVersionRequest {}).await?.into_inner();
    let nics = super::nic::all(client, "").await?;
    let reactors = client.list_reactors(ListReactorsRequest {}).await?.into_inner().reactors;
    let way = super::egress::get(client).await?;
    let count = nics.len() as u64;
    let mut findings = host::daemon(&version, env!("CARGO_PKG_VERSION"));
    findings.push(host::open_files(host.daemons_files, count));
    findings.push(host::hugepages(host.hugepages, reactors.len() as u64));
    findings.push(host::sockets(look::folder(&nics).as_ref()));
    findings.extend(egress::check(&way, &host.egress));
    let (ports, networks) = (super::port::all(client).await?, super::network::all(client).await?);
    let ways = tunnel::ways(&ports, &networks);
    findings.extend(ways.iter().map(|way| tunnel::check(way, look::mtu(way.to))));
    let is_ill = |nic: &&mvirt_net::proto::Nic| nic.state() == NicState::Error;
    let ill: Vec<_> = nics.iter().filter(is_ill).map(|nic| nic.name.as_str()).collect();
    findings.push(host::nics(count, &ill));
    if let Some(name) = nic {
        findings.extend(watched(client, name).await?);
    }
    Ok(findings)
}

/// What is wrong with a vNIC, and with what it carries meanwhile.
async fn watched(client: &mut Client, name: String) -> Result<Vec<Finding>, Failure> {
    let nic = super::nic::get(client, name).await?;
    let network = super::network::get(client, nic.network_id.clone()).await?;
    let request = GetNicStatsRequest { id: nic.id.clone() };
    let before = client.get_nic_stats(request.clone()).await?.into_inner();
    tokio::time::sleep(WATCHED).await;
    let after = client.get_nic_stats(request).await?.into_inner();
    let socket = look::socket(&nic.socket_path);
    Ok(nic::check(&nic::Watched { nic, network, before, after, socket }))
}
