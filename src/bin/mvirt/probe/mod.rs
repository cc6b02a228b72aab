//! `mvirt probe …`: a synthetic guest on a vNIC that no VMM holds, to try a network without a VM.
//!
//! ```text
//! mod: commands, what is printed ── lease, throughput ── guest: frames ── device: rings
//! ```

mod device;
mod guest;
mod lease;
mod throughput;

use super::{Failure, connect::Client, nic, output::Output};
use clap::{Args, Subcommand};
use guest::{Answer, Echo, Guest};
use lease::{Lease, Router, Told};
use mvirt_net::proto::{Nic, NicState};
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

#[derive(Debug, Args)]
pub(crate) struct Command {
    /// The vNIC to be, by name or id
    nic: String,
    #[command(subcommand)]
    probe: Probe,
}

#[derive(Debug, Subcommand)]
enum Probe {
    /// Take the leases and the router's advertisement, and show what they tell
    Lease,
    /// Ask for echoes
    Ping {
        /// IPv4 or IPv6
        address: IpAddr,
        /// How many
        #[arg(short, long, default_value = "3", value_parser = clap::value_parser!(u16).range(1..))]
        count: u16,
        /// Octets of data in each
        #[arg(short, long, default_value = "56", value_parser = clap::value_parser!(u16).range(..=65_000))]
        size: u16,
        /// Milliseconds to wait for each
        #[arg(short, long, value_name = "MS", default_value = "1000")]
        wait: u64,
    },
    /// Show the routers on the way
    Traceroute {
        /// IPv4 or IPv6
        address: IpAddr,
        /// How far
        #[arg(short, long, default_value = "8", value_parser = clap::value_parser!(u8).range(1..))]
        max_hops: u8,
        /// Milliseconds to wait at each hop
        #[arg(short, long, value_name = "MS", default_value = "1000")]
        wait: u64,
    },
    /// Send TCP to another vNIC, which is probed too
    Throughput {
        /// The other vNIC, by name or id
        to: String,
        /// How long
        #[arg(short, long, default_value = "3", value_parser = clap::value_parser!(u64).range(1..=3600))]
        seconds: u64,
    },
}

#[derive(Debug, serde::Serialize)]
struct Answers {
    address: String,
    answers: Vec<Answer>,
}

pub(crate) async fn run(
    command: Command,
    client: &mut Client,
    out: &mut Output,
) -> Result<(), Failure> {
    let own = unused(client, command.nic).await?;
    let guest = Guest::connect(&own)?;
    match command.probe {
        Probe::Lease => show_lease(guest, out).await,
        Probe::Ping { address, count, size, wait } => {
            let echo = |sequence| Echo { to: address, hops: 64, size: size.into(), sequence };
            let echoes = (0..count).map(echo).collect();
            let answers = answers(guest, echoes, wait, false).await?;
            let row = |answer: &Answer| vec![answer.from.clone(), answer.what.into(), ms(answer)];
            let rows: Vec<_> = answers.answers.iter().map(row).collect();
            out.list(&answers, &["FROM", "ANSWER", "TIME"], &rows)?;
            let replies = answers.answers.iter().filter(|answer| answer.is_reply()).count();
            if replies > 0 {
                return Ok(());
            }
            Err(Failure::Probe(format!("{address} answered none of {count} echo requests")))
        }
        Probe::Traceroute { address, max_hops, wait } => {
            let echo = |hops| Echo { to: address, hops, size: 32, sequence: hops.into() };
            let answers = answers(guest, (1..=max_hops).map(echo).collect(), wait, true).await?;
            let row = |(hop, answer): (usize, &Answer)| {
                vec![(hop + 1).to_string(), answer.from.clone(), answer.what.into(), ms(answer)]
            };
            let rows: Vec<_> = answers.answers.iter().enumerate().map(row).collect();
            out.list(&answers, &["HOP", "FROM", "ANSWER", "TIME"], &rows)?;
            if answers.answers.last().is_some_and(Answer::is_reply) {
                return Ok(());
            }
            Err(Failure::Probe(format!("{address} was not reached")))
        }
        Probe::Throughput { to, seconds } => {
            let other = unused(client, to).await?;
            let receiver = (Guest::connect(&other)?, other.mtu);
            let duration = Duration::from_secs(seconds);
            let carried = throughput::throughput((guest, own.mtu), receiver, duration).await?;
            let rows = [
                ("from", carried.from.clone()),
                ("to", carried.to.clone()),
                ("carried", format!("{} octets in {:.2} s", carried.octets, carried.seconds)),
                ("throughput", format!("{:.2} Gbit/s", carried.gbit_per_second)),
            ];
            out.object(&carried, &rows)
        }
    }
}

/// A vNIC, as soon as who left it just now is gone; one that stays in use is given as that.
async fn unused(client: &mut Client, key: String) -> Result<Nic, Failure> {
    let patient = Instant::now() + Duration::from_secs(1);
    loop {
        let nic = nic::get(client, key.clone()).await?;
        if nic.state() != NicState::Active || Instant::now() > patient {
            return Ok(nic);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn ms(answer: &Answer) -> String {
    if answer.from.is_empty() { String::new() } else { format!("{:.3} ms", answer.ms) }
}

/// Asks for one echo after the other; `on_the_way` ends with the first that is answered by other than a router for its
/// limit of hops.
async fn answers(
    mut guest: Guest,
    echoes: Vec<Echo>,
    wait: u64,
    on_the_way: bool,
) -> Result<Answers, Failure> {
    let mut answers = Vec::new();
    let address = echoes.first().map(|echo| echo.to.to_string()).unwrap_or_default();
    for echo in echoes {
        let answer = guest.echo(echo, Duration::from_millis(wait)).await?;
        let arrived = !matches!(answer.what, "hop limit exceeded" | "none");
        answers.push(answer);
        if on_the_way && arrived {
            break;
        }
    }
    Ok(Answers { address, answers })
}

async fn show_lease(mut guest: Guest, out: &mut Output) -> Result<(), Failure> {
    let told = lease::lease(&mut guest).await;
    let mut rows = Vec::new();
    if let Some(lease) = &told.ipv4 {
        rows.extend(lease_rows("ipv4", lease));
    }
    if let Some(lease) = &told.ipv6 {
        rows.extend(lease_rows("ipv6", lease));
    }
    if let Some(router) = &told.router {
        rows.extend(router_rows(router));
    }
    let rows: Vec<_> = rows.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    out.object(&told, &rows)?;
    missing(&guest, &told)
}

/// What a vNIC of its families should have been told, and was not.
fn missing(guest: &Guest, told: &Told) -> Result<(), Failure> {
    let address = |lease: &Option<Lease>| lease.as_ref().is_none_or(|l| l.address.is_empty());
    let missing = [
        ("DHCPv4 lease", guest.ipv4.is_some() && address(&told.ipv4)),
        ("DHCPv6 lease", guest.ipv6.is_some() && address(&told.ipv6)),
        ("router advertisement", guest.ipv6.is_some() && told.router.is_none()),
    ];
    let missing: Vec<_> = missing.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::Probe(format!("the network gave no {}", missing.join(", no "))))
}

fn lease_rows(family: &str, lease: &Lease) -> Vec<(String, String)> {
    let seconds = match lease.lease_seconds {
        u32::MAX => "for ever".into(),
        seconds => format!("{seconds} s"),
    };
    let rows = [
        ("", format!("{} {seconds}", lease.address)),
        (" gateway", lease.gateway.clone()),
        (" routes", lease.routes.join(", ")),
        (" dns", lease.dns.join(" ")),
        (" ntp", lease.ntp.join(" ")),
        (" domain", lease.domain.join(" ")),
        (" hostname", lease.hostname.clone()),
        (" mtu", lease.mtu.map(|mtu| mtu.to_string()).unwrap_or_default()),
        (" delegated", lease.delegated.join(" ")),
    ];
    rows.into_iter().map(|(name, value)| (format!("{family}{name}"), value)).collect()
}

fn router_rows(router: &Router) -> Vec<(String, String)> {
    let addresses = if router.managed { "addresses by DHCPv6" } else { "" };
    let lifetime = router.lifetime_seconds;
    let rows = [
        ("", format!("{} {lifetime} s {addresses}", router.address)),
        (" mtu", router.mtu.map(|mtu| mtu.to_string()).unwrap_or_default()),
        (" prefixes", router.prefixes.join(", ")),
        (" dns", router.dns.join(" ")),
        (" domain", router.domain.join(" ")),
    ];
    rows.into_iter().map(|(name, value)| (format!("router{name}"), value)).collect()
}
