//! `mvirt mac …`

use super::{
    Failure, complete,
    connect::Client,
    output::{Output, Table},
};
use clap::Subcommand;
use mvirt_net::proto::ListMacsRequest;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the MACs of a network: those of vNICs, and what was learned
    #[command(visible_alias = "ls", after_help = "Examples:\n  mvirt mac list lab")]
    List {
        /// Network, by name or id
        #[arg(add = complete::networks())]
        network: String,
    },
}

pub(crate) async fn run(
    Command::List { network: network_id }: Command,
    client: &mut Client,
    out: &Output,
) -> Result<(), Failure> {
    let response = client.list_macs(ListMacsRequest { network_id }).await?.into_inner();
    const HEADER: &[&str] = &["MAC", "VLAN", "BEHIND", "AGE", "ADDRESS", "LEASE", "CLIENT", "HOST"];
    let mut table = Table::new(HEADER, 7);
    for mac in &response.macs {
        // Of a vNIC's own MAC nothing is learned, and so nothing ages.
        let age = if mac.r#static { "static".into() } else { format!("{}s", mac.age_seconds) };
        let vlan = if mac.vid == 0 { String::new() } else { mac.vid.to_string() };
        let behind = match mac.port_vid {
            0 if mac.nic.is_empty() => mac.port.clone(),
            0 => mac.nic.clone(),
            vid => format!("{},vlan={vid}", mac.port),
        };
        let addresses = [mac.ipv4_address.as_str(), mac.ipv6_address.as_str()];
        let addresses: Vec<_> = addresses.into_iter().filter(|it| !it.is_empty()).collect();
        let lease = match mac.lease_seconds {
            0 => String::new(),
            seconds => format!("{seconds}s"),
        };
        let cells = vec![
            mac.mac.as_str().into(),
            vlan.into(),
            behind.as_str().into(),
            age.into(),
            addresses.join(",").into(),
            lease.into(),
            mac.remote.as_str().into(),
            mac.hostname.as_str().into(),
        ];
        table.row(&mac.mac, cells);
    }
    out.list(&response, &table)
}
