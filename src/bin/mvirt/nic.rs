//! `mvirt nic …`

use super::{Failure, connect::Client, output::Output, rate, rate::Rate, vm};
use clap::{Args, Subcommand, ValueEnum};
use mvirt_net::proto::{
    Addressing, CreateNicRequest, DeleteNicRequest, GetNicRequest, GetNicStatsRequest, Ipv6Mode,
    ListNicsRequest, Nic, NicState, SetNicLimitsRequest, UpdateNicRequest,
    get_nic_request::Identifier,
};
use std::io::Write as _;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a vNIC and its socket
    Create(Create),
    /// Show all vNICs
    List {
        /// Only those of this network, by name or id
        #[arg(long, default_value = "", hide_default_value = true)]
        network: String,
    },
    /// Show one vNIC
    Get {
        /// Name or id
        nic: String,
    },
    /// Show what a vNIC has carried, answered and dropped, and why
    Stats {
        /// Name or id
        nic: String,
    },
    /// Replace the prefixes routed to a vNIC
    Update {
        /// Name or id
        nic: String,
        /// Prefix, in place of those there were; may be given several times
        #[arg(long, value_name = "PREFIX")]
        route: Vec<String>,
        /// Remove all prefixes
        #[arg(long, conflicts_with = "route", required_unless_present = "route")]
        clear_routes: bool,
    },
    /// Replace how much a vNIC may carry; without rates: as much as it can
    Limit {
        /// Name or id
        nic: String,
        /// What its guest may send, like 1Gbit or 200kpps, with /BURST if wanted; may be given twice
        #[arg(long, value_name = "RATE")]
        from_guest: Vec<Rate>,
        /// What its guest may get, likewise
        #[arg(long, value_name = "RATE")]
        to_guest: Vec<Rate>,
    },
    /// Delete a vNIC and disconnect its VMM
    Delete {
        /// Name or id
        nic: String,
    },
    /// Print the arguments that connect a VMM to a vNIC
    VmmArgs {
        /// Name or id
        nic: String,
        #[command(flatten)]
        machine: vm::Machine,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AddressingFlag {
    /// A /32 and a /128, the gateway on link
    Host,
    /// The subnet's own mask, everybody on link
    Subnet,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Ipv6ModeFlag {
    /// One address
    Dhcpv6,
    /// Chosen by the guest in a /64 of its own, for guests without DHCPv6
    Slaac,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Network, by name or id
    #[arg(long)]
    network: String,
    /// Unique name
    #[arg(long)]
    name: String,
    /// Like 52:54:00:12:34:56 [default: chosen]
    #[arg(long, default_value = "", hide_default_value = true)]
    mac: String,
    /// Address in the network's subnet [default: the lowest free one]
    #[arg(long, value_name = "ADDRESS", default_value = "", hide_default_value = true)]
    ipv4: String,
    /// Address in the network's prefix [default: the lowest free one]
    #[arg(long, value_name = "ADDRESS", default_value = "", hide_default_value = true)]
    ipv6: String,
    /// Prefix behind the guest, IPv4 or IPv6; may be given several times
    #[arg(long, value_name = "PREFIX")]
    route: Vec<String>,
    /// How the guest sees the network's subnets
    #[arg(long, default_value = "host")]
    addressing: AddressingFlag,
    /// How the guest comes by its IPv6 addresses
    #[arg(long, value_name = "MODE", default_value = "dhcpv6")]
    ipv6_mode: Ipv6ModeFlag,
    /// Octets of an IP packet, 1280-65535 [default: the network's]
    #[arg(long, default_value = "0", hide_default_value = true)]
    mtu: u32,
    /// Queue pairs offered to the VMM
    #[arg(long, value_name = "N", default_value = "1")]
    queues: u32,
    /// A UUID, which makes the command repeatable
    #[arg(long, value_name = "UUID", default_value = "", hide_default_value = true)]
    id: String,
}

/// IPv6 prefixes have colons.
fn by_family(routes: Vec<String>) -> (Vec<String>, Vec<String>) {
    routes.into_iter().partition(|route| !route.contains(':'))
}

pub(crate) async fn run(
    command: Command,
    client: &mut Client,
    out: &mut Output,
) -> Result<(), Failure> {
    match command {
        Command::Create(create) => {
            show(&client.create_nic(request(create)).await?.into_inner(), out)
        }
        Command::List { network } => list(client, network, out).await,
        Command::Get { nic } => show(&get(client, nic).await?, out),
        Command::Stats { nic } => {
            let stats = client.get_nic_stats(GetNicStatsRequest { id: nic }).await?.into_inner();
            let mut rows = vec![
                (
                    "from the guest",
                    format!("{} frames, {} octets", stats.ingress_frames, stats.ingress_octets),
                ),
                ("  forwarded", format!("{} frames", stats.ingress_forwarded)),
                ("  answered", format!("{} frames", stats.ingress_answered)),
                (
                    "to the guest",
                    format!("{} frames, {} octets", stats.egress_frames, stats.egress_octets),
                ),
            ];
            rows.extend(
                stats
                    .drops
                    .iter()
                    .map(|drop| ("dropped", format!("{} frames: {}", drop.frames, drop.reason))),
            );
            out.object(&stats, &rows)
        }
        Command::Update { nic, route, clear_routes: _ } => {
            let (routed_ipv4_prefixes, routed_ipv6_prefixes) = by_family(route);
            let request = UpdateNicRequest { id: nic, routed_ipv4_prefixes, routed_ipv6_prefixes };
            show(&client.update_nic(request).await?.into_inner(), out)
        }
        Command::Limit { nic, from_guest, to_guest } => {
            let (from_guest, to_guest) = (rate::limit(&from_guest), rate::limit(&to_guest));
            let request = SetNicLimitsRequest { id: nic, from_guest, to_guest };
            show(&client.set_nic_limits(request).await?.into_inner(), out)
        }
        Command::Delete { nic } => {
            let response =
                client.delete_nic(DeleteNicRequest { id: nic.clone() }).await?.into_inner();
            out.done(&response, &format!("Deleted vNIC {nic}."))
        }
        Command::VmmArgs { nic, machine } => {
            let nic = get(client, nic).await?;
            let args = machine.network_args(&nic);
            Ok(std::io::stdout().write_all(format!("{}\n", vm::shell_line(&args)).as_bytes())?)
        }
    }
}

fn request(create: Create) -> CreateNicRequest {
    let (routed_ipv4_prefixes, routed_ipv6_prefixes) = by_family(create.route);
    let addressing = match create.addressing {
        AddressingFlag::Host => Addressing::Host,
        AddressingFlag::Subnet => Addressing::Subnet,
    };
    let ipv6_mode = match create.ipv6_mode {
        Ipv6ModeFlag::Dhcpv6 => Ipv6Mode::Dhcpv6,
        Ipv6ModeFlag::Slaac => Ipv6Mode::Slaac,
    };
    CreateNicRequest {
        network_id: create.network,
        name: create.name,
        mac_address: create.mac,
        ipv4_address: create.ipv4,
        ipv6_address: create.ipv6,
        routed_ipv4_prefixes,
        routed_ipv6_prefixes,
        id: create.id,
        addressing: addressing.into(),
        queue_pairs: create.queues,
        mtu: create.mtu,
        ipv6_mode: ipv6_mode.into(),
        limit_from_guest: None,
        limit_to_guest: None,
    }
}

async fn list(client: &mut Client, network: String, out: &mut Output) -> Result<(), Failure> {
    let response = client.list_nics(ListNicsRequest { network_id: network }).await?.into_inner();
    let networks =
        client.list_networks(mvirt_net::proto::ListNetworksRequest {}).await?.into_inner();
    let name = |id: &str| {
        let found = networks.networks.iter().find(|network| network.id == id);
        found.map_or(id, |network| &network.name).to_owned()
    };
    let header = ["NAME", "NETWORK", "STATE", "IPV4", "IPV6", "MAC", "SOCKET"];
    let row = |nic: &Nic| {
        vec![
            nic.name.clone(),
            name(&nic.network_id),
            state(nic).into(),
            nic.ipv4_address.clone(),
            nic.ipv6_address.clone(),
            nic.mac_address.clone(),
            nic.socket_path.clone(),
        ]
    };
    let rows: Vec<_> = response.nics.iter().map(row).collect();
    out.list(&response, &header, &rows)
}

pub(crate) async fn get(client: &mut Client, key: String) -> Result<Nic, Failure> {
    let request = GetNicRequest { identifier: Some(Identifier::Name(key)) };
    Ok(client.get_nic(request).await?.into_inner())
}

fn state(nic: &Nic) -> &'static str {
    match nic.state() {
        NicState::Unspecified => "unknown",
        NicState::Created => "created",
        NicState::Active => "active",
        NicState::Error => "error",
    }
}

/// How long ago a time was.
fn ago(at: &str) -> String {
    let Ok(at) = at.parse::<jiff::Timestamp>() else { return String::new() };
    let seconds = jiff::Timestamp::now().as_second().saturating_sub(at.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

fn show(nic: &Nic, out: &mut Output) -> Result<(), Failure> {
    let routes = [&nic.routed_ipv4_prefixes[..], &nic.routed_ipv6_prefixes[..]].concat();
    let addressing = match nic.addressing() {
        Addressing::Subnet => "subnet",
        Addressing::Host | Addressing::Unspecified => "host",
    };
    let guest = nic.guest.clone().unwrap_or_default();
    let rows = [
        ("name", nic.name.clone()),
        ("id", nic.id.clone()),
        ("network", nic.network_id.clone()),
        ("state", state(nic).into()),
        ("mac", nic.mac_address.clone()),
        ("ipv4", nic.ipv4_address.clone()),
        ("ipv6", nic.ipv6_address.clone()),
        ("ipv6 prefix", nic.slaac_prefix.clone()),
        ("routes", routes.join(" ")),
        ("addressing", addressing.into()),
        ("mtu", nic.mtu.to_string()),
        ("from guest", rate::shown(nic.limit_from_guest)),
        ("to guest", rate::shown(nic.limit_to_guest)),
        ("queues", nic.queue_pairs.to_string()),
        ("socket", nic.socket_path.clone()),
        ("ipv4 lease", ago(&guest.ipv4_lease_at)),
        ("ipv6 lease", ago(&guest.ipv6_lease_at)),
        ("arp", ago(&guest.ipv4_neighbour_at)),
        ("ndp", ago(&guest.ipv6_neighbour_at)),
        ("router sought", ago(&guest.router_at)),
        ("hostname", guest.hostname),
        ("dhcp client", guest.vendor_class),
        ("created", nic.created_at.clone()),
        ("updated", nic.updated_at.clone()),
    ];
    out.object(nic, &rows)
}
