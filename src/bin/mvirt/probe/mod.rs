//! `mvirt probe …`: a synthetic guest on a vNIC that no VMM holds, to try a network without a VM.
//!
//! ```text
//! mod: commands, what is printed ── ping, lease, throughput ── guest: frames ── device: rings
//! ```

mod device;
mod guest;
mod lease;
mod ping;
mod throughput;

use super::{
    Failure, complete,
    connect::Client,
    nic,
    output::{self, Cell, Output},
    units,
};
use clap::{Args, Subcommand};
use guest::Guest;
use lease::{Lease, Router, Told};
use mvirt_net::proto::Nic;
use std::{net::IpAddr, time::Duration};

const EXAMPLES: &str = "\
Examples:
  mvirt probe vm1 lease
  mvirt probe vm1 ping 10.0.0.2 -c 10 -i 200ms
  mvirt probe vm1 throughput vm2 --seconds 10";

/// What to do about a vNIC that is in use.
const INSTEAD: &str = "probe another, or stop that VM";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Command {
    /// The vNIC to be, by name or id
    #[arg(add = complete::nics())]
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
        #[arg(
            short, long, default_value = "56",
            value_parser = clap::value_parser!(u16).range(..=65_000)
        )]
        size: u16,
        /// How long to wait for each: milliseconds, or like 2s
        #[arg(
            short, long, value_name = "TIME", default_value = "1000",
            value_parser = units::milliseconds
        )]
        wait: Duration,
        /// From one to the next: milliseconds, or like 2s
        #[arg(
            short, long, value_name = "TIME", default_value = "1s",
            value_parser = units::milliseconds
        )]
        interval: Duration,
    },
    /// Show the routers on the way
    Traceroute {
        /// IPv4 or IPv6
        address: IpAddr,
        /// How far
        #[arg(short, long, default_value = "8", value_parser = clap::value_parser!(u8).range(1..))]
        max_hops: u8,
        /// How long to wait at each hop: milliseconds, or like 2s
        #[arg(
            short, long, value_name = "TIME", default_value = "1000",
            value_parser = units::milliseconds
        )]
        wait: Duration,
    },
    /// Send TCP to another vNIC, which is probed too
    Throughput {
        /// The other vNIC, by name or id
        #[arg(add = complete::nics())]
        to: String,
        /// How long
        #[arg(
            short, long, default_value = "3",
            value_parser = clap::value_parser!(u64).range(1..=3600)
        )]
        seconds: u64,
    },
}

pub(crate) async fn run(
    command: Command,
    client: &mut Client,
    out: &Output,
) -> Result<(), Failure> {
    let own = nic::unused(client, command.nic, INSTEAD).await?;
    let guest = Guest::connect(&own)?;
    let network = own.network_id.clone();
    match command.probe {
        Probe::Lease => show_lease(guest, out).await,
        Probe::Ping { address, count, size, wait, interval } => {
            let ping = ping::Ping { address, count, size: size.into(), wait, interval };
            ping::ping(guest, (client, network), ping, out).await
        }
        Probe::Traceroute { address, max_hops, wait } => {
            let way = (address, max_hops, wait);
            ping::traceroute(guest, (client, network), way, out).await
        }
        Probe::Throughput { to, seconds } => {
            let duration = Duration::from_secs(seconds);
            throughput(client, (own, guest), (to, duration), out).await
        }
    }
}

async fn throughput(
    client: &mut Client,
    (own, guest): (Nic, Guest),
    (to, duration): (String, Duration),
    out: &Output,
) -> Result<(), Failure> {
    // It would wait for itself, which holds the vNIC.
    if to == own.name || to == own.id {
        return Err(Failure::Usage(format!("{to} is the sender: name another vNIC to send to")));
    }
    let other = nic::unused(client, to, INSTEAD).await?;
    let receiver = (Guest::connect(&other)?, other.mtu);
    let tell = |so_far: &throughput::Carried| {
        if !out.is_document() {
            let (seconds, rate) = (so_far.seconds, so_far.gbit_per_second);
            output::say(&format!("{seconds:.0} s  {rate:.2} Gbit/s"));
        }
    };
    let carried = throughput::throughput((guest, own.mtu), receiver, duration, tell).await?;
    let octets = units::octets(carried.octets);
    let rows = [
        ("from", carried.from.as_str().into()),
        ("to", carried.to.as_str().into()),
        ("carried", format!("{octets} in {:.2} s", carried.seconds).into()),
        ("throughput", format!("{:.2} Gbit/s", carried.gbit_per_second).into()),
    ];
    out.object(&carried, &own.name, &rows)
}

async fn show_lease(mut guest: Guest, out: &Output) -> Result<(), Failure> {
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
    let rows: Vec<_> =
        rows.iter().map(|(name, value)| (name.as_str(), Cell::from(value.as_str()))).collect();
    // Before anything is printed: where the daemon is gone, no lease is missing.
    guest.device.check()?;
    out.object(&told, &guest.device.name, &rows)?;
    missing(&guest, &told)
}

/// Fails where a vNIC was not told what one with its addresses should be.
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
