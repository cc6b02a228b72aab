//! `mvirt network …`

use super::{Failure, connect::Client, output::Output};
use clap::{Args, Subcommand};
use mvirt_net::proto::{
    CreateNetworkRequest, DeleteNetworkRequest, GetNetworkRequest, ListNetworksRequest, Network,
    UpdateNetworkRequest, get_network_request::Identifier,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a network
    Create(Create),
    /// Show all networks
    List,
    /// Show one network
    Get {
        /// Name or id
        network: String,
    },
    /// Replace a network's DNS or NTP servers
    Update(Update),
    /// Delete a network
    Delete {
        /// Name or id
        network: String,
        /// Delete its vNICs too
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Unique name
    #[arg(long)]
    name: String,
    /// Like 10.0.0.0/24
    #[arg(long, value_name = "CIDR", default_value = "", hide_default_value = true)]
    ipv4_subnet: String,
    /// Like fd00::/64
    #[arg(long, value_name = "CIDR", default_value = "", hide_default_value = true)]
    ipv6_prefix: String,
    /// DNS server, IPv4 or IPv6; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// NTP server, IPv4 or IPv6; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    ntp: Vec<String>,
    /// Octets of an IP packet [default: 1500]
    #[arg(long, default_value = "0", hide_default_value = true)]
    mtu: u32,
    /// DNS domain, like prod.internal
    #[arg(long, default_value = "", hide_default_value = true)]
    domain: String,
    /// A UUID, which makes the command repeatable
    #[arg(long, value_name = "UUID", default_value = "", hide_default_value = true)]
    id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Name or id
    network: String,
    /// DNS server, in place of those there were; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Remove all DNS servers
    #[arg(long, conflicts_with = "dns")]
    clear_dns: bool,
    /// NTP server, in place of those there were; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    ntp: Vec<String>,
    /// Remove all NTP servers
    #[arg(long, conflicts_with = "ntp")]
    clear_ntp: bool,
}

pub(crate) async fn run(
    command: Command,
    client: &mut Client,
    out: &mut Output,
) -> Result<(), Failure> {
    match command {
        Command::Create(create) => {
            let request = CreateNetworkRequest {
                name: create.name,
                ipv4_enabled: !create.ipv4_subnet.is_empty(),
                ipv4_subnet: create.ipv4_subnet,
                ipv6_enabled: !create.ipv6_prefix.is_empty(),
                ipv6_prefix: create.ipv6_prefix,
                dns_servers: create.dns,
                ntp_servers: create.ntp,
                is_public: false,
                id: create.id,
                mtu: create.mtu,
                domain: create.domain,
            };
            show(&client.create_network(request).await?.into_inner(), out)
        }
        Command::List => {
            let response = client.list_networks(ListNetworksRequest {}).await?.into_inner();
            let header = ["NAME", "IPV4", "IPV6", "MTU", "VNICS", "ID"];
            let row = |n: &Network| {
                vec![
                    n.name.clone(),
                    n.ipv4_subnet.clone(),
                    n.ipv6_prefix.clone(),
                    n.mtu.to_string(),
                    n.nic_count.to_string(),
                    n.id.clone(),
                ]
            };
            let rows: Vec<_> = response.networks.iter().map(row).collect();
            out.list(&response, &header, &rows)
        }
        Command::Get { network } => show(&get(client, network).await?, out),
        Command::Update(update) => {
            let now = get(client, update.network).await?;
            let keep = |given: Vec<String>, clear: bool, now: Vec<String>| {
                if given.is_empty() && !clear { now } else { given }
            };
            let request = UpdateNetworkRequest {
                id: now.id,
                dns_servers: keep(update.dns, update.clear_dns, now.dns_servers),
                ntp_servers: keep(update.ntp, update.clear_ntp, now.ntp_servers),
            };
            show(&client.update_network(request).await?.into_inner(), out)
        }
        Command::Delete { network, force } => {
            let request = DeleteNetworkRequest { id: network.clone(), force };
            let response = client.delete_network(request).await?.into_inner();
            let sentence =
                format!("Deleted network {network} and {} vNICs.", response.nics_deleted);
            out.done(&response, &sentence)
        }
    }
}

async fn get(client: &mut Client, key: String) -> Result<Network, Failure> {
    let request = GetNetworkRequest { identifier: Some(Identifier::Name(key)) };
    Ok(client.get_network(request).await?.into_inner())
}

fn show(network: &Network, out: &mut Output) -> Result<(), Failure> {
    let rows = [
        ("name", network.name.clone()),
        ("id", network.id.clone()),
        ("ipv4", network.ipv4_subnet.clone()),
        ("ipv6", network.ipv6_prefix.clone()),
        ("dns", network.dns_servers.join(" ")),
        ("ntp", network.ntp_servers.join(" ")),
        ("domain", network.domain.clone()),
        ("mtu", network.mtu.to_string()),
        ("vnics", network.nic_count.to_string()),
        ("created", network.created_at.clone()),
        ("updated", network.updated_at.clone()),
    ];
    out.object(network, &rows)
}
