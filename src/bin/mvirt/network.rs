//! `mvirt network …`

use super::{
    Failure, complete,
    connect::Client,
    output::{Output, Table},
    units,
};
use clap::{ArgGroup, Args, Subcommand};
use mvirt_net::proto::{
    CreateNetworkRequest, DeleteNetworkRequest, GetNetworkRequest, ListNetworksRequest, Network,
    UpdateNetworkRequest, get_network_request::Identifier,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a network
    Create(Create),
    /// Show all networks
    #[command(visible_alias = "ls")]
    List,
    /// Show one network
    #[command(visible_alias = "show")]
    Get {
        /// Name or id
        #[arg(add = complete::networks())]
        network: String,
    },
    /// Replace a network's DNS or NTP servers
    Update(Update),
    /// Delete a network
    #[command(visible_alias = "rm")]
    Delete {
        /// Name or id
        #[arg(add = complete::networks())]
        network: String,
        /// Delete its vNICs too
        #[arg(short, long)]
        force: bool,
    },
}

const EXAMPLES: &str = "\
Examples:
  mvirt network create prod --ipv4-subnet 10.0.0.0/24
  mvirt network create prod --ipv4-subnet 10.0.0.0/24 --ipv6-prefix fd00::/64 --dns 1.1.1.1,9.9.9.9";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(group = ArgGroup::new("named").args(["name", "name_flag"]).required(true))]
pub(crate) struct Create {
    /// Unique name
    name: Option<String>,
    /// Unique name, for who likes flags
    #[arg(short, long = "name", value_name = "NAME")]
    name_flag: Option<String>,
    /// Like 10.0.0.0/24
    #[arg(long, value_name = "CIDR", default_value = "", hide_default_value = true)]
    ipv4_subnet: String,
    /// Like fd00::/64
    #[arg(long, value_name = "CIDR", default_value = "", hide_default_value = true)]
    ipv6_prefix: String,
    /// DNS servers, IPv4 or IPv6, with commas between; may be given several times
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    dns: Vec<String>,
    /// NTP servers, likewise
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    ntp: Vec<String>,
    /// Octets of an IP packet [default: 1500]
    #[arg(long, default_value = "0", hide_default_value = true)]
    mtu: u32,
    /// DNS domain, like prod.internal
    #[arg(long, default_value = "", hide_default_value = true)]
    domain: String,
    /// Let guests reach what is outside
    #[arg(long)]
    public: bool,
    /// A UUID, which makes the command repeatable
    #[arg(long, value_name = "UUID", default_value = "", hide_default_value = true)]
    id: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mvirt network update prod --dns 9.9.9.9 --clear-ntp")]
#[command(group = ArgGroup::new("what").args(["dns", "clear_dns", "ntp", "clear_ntp"])
    .required(true).multiple(true))]
pub(crate) struct Update {
    /// Name or id
    #[arg(add = complete::networks())]
    network: String,
    /// DNS servers, in place of those there were
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    dns: Vec<String>,
    /// Remove all DNS servers
    #[arg(long, conflicts_with = "dns")]
    clear_dns: bool,
    /// NTP servers, in place of those there were
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    ntp: Vec<String>,
    /// Remove all NTP servers
    #[arg(long, conflicts_with = "ntp")]
    clear_ntp: bool,
}

pub(crate) async fn run(
    command: Command,
    client: &mut Client,
    out: &Output,
) -> Result<(), Failure> {
    match command {
        Command::Create(create) => {
            show(&client.create_network(request(create)).await?.into_inner(), out)
        }
        Command::List => list(client, out).await,
        Command::Get { network } => show(&get(client, network).await?, out),
        Command::Update(update) => change(update, client, out).await,
        Command::Delete { network, force } => {
            let request = DeleteNetworkRequest { id: network.clone(), force, ..Default::default() };
            let response = client.delete_network(request).await?.into_inner();
            let nics = match response.nics_deleted {
                0 => String::new(),
                nics => format!(" and {}", units::counted(nics.into(), "vNIC")),
            };
            out.done(&response, &network, &format!("Deleted network {network}{nics}."))
        }
    }
}

fn request(create: Create) -> CreateNetworkRequest {
    CreateNetworkRequest {
        // clap lets one of both through.
        name: create.name.or(create.name_flag).unwrap_or_default(),
        ipv4_enabled: !create.ipv4_subnet.is_empty(),
        ipv4_subnet: create.ipv4_subnet,
        ipv6_enabled: !create.ipv6_prefix.is_empty(),
        ipv6_prefix: create.ipv6_prefix,
        dns_servers: create.dns,
        ntp_servers: create.ntp,
        is_public: create.public,
        id: create.id,
        mtu: create.mtu,
        domain: create.domain,
        ..Default::default()
    }
}

async fn list(client: &mut Client, out: &Output) -> Result<(), Failure> {
    let response = client.list_networks(ListNetworksRequest::default()).await?.into_inner();
    let mut table = Table::new(&["NAME", "IPV4", "IPV6", "MTU", "VNICS", "ID", "DOMAIN"], 5);
    for network in &response.networks {
        let cells = vec![
            network.name.as_str().into(),
            network.ipv4_subnet.as_str().into(),
            network.ipv6_prefix.as_str().into(),
            network.mtu.into(),
            network.nic_count.into(),
            network.id.as_str().into(),
            network.domain.as_str().into(),
        ];
        table.row(&network.name, cells);
    }
    out.list(&response, &table)
}

async fn change(update: Update, client: &mut Client, out: &Output) -> Result<(), Failure> {
    let now = get(client, update.network).await?;
    let keep = |given: Vec<String>, clear: bool, now: Vec<String>| {
        if given.is_empty() && !clear { now } else { given }
    };
    let request = UpdateNetworkRequest {
        id: now.id,
        dns_servers: keep(update.dns, update.clear_dns, now.dns_servers),
        ntp_servers: keep(update.ntp, update.clear_ntp, now.ntp_servers),
        ..Default::default()
    };
    show(&client.update_network(request).await?.into_inner(), out)
}

pub(crate) async fn get(client: &mut Client, key: String) -> Result<Network, Failure> {
    let request = GetNetworkRequest { identifier: Some(Identifier::Name(key)) };
    Ok(client.get_network(request).await?.into_inner())
}

fn show(network: &Network, out: &Output) -> Result<(), Failure> {
    let rows = [
        ("name", network.name.as_str().into()),
        ("id", network.id.as_str().into()),
        ("ipv4", network.ipv4_subnet.as_str().into()),
        ("ipv6", network.ipv6_prefix.as_str().into()),
        ("dns", network.dns_servers.join(" ").into()),
        ("ntp", network.ntp_servers.join(" ").into()),
        ("domain", network.domain.as_str().into()),
        ("mtu", network.mtu.into()),
        ("vnics", network.nic_count.into()),
        ("created", units::local(&network.created_at).into()),
        ("updated", units::local(&network.updated_at).into()),
    ];
    out.object(network, &network.name, &rows)
}
