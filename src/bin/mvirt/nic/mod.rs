//! `mvirt nic …`

mod create;
mod limit;
mod show;

use super::{
    Failure, complete,
    connect::Client,
    network,
    output::{self, Output, Table},
    vm,
};
use clap::{ArgGroup, Args, Subcommand};
use mvirt_net::proto::{
    DeleteNicRequest, GetNicRequest, GetNicStatsRequest, ListNetworksRequest, ListNicsRequest,
    ListNicsResponse, Nic, NicState, UpdateNicRequest, get_nic_request::Identifier,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a vNIC and its socket
    Create(create::Create),
    /// Show all vNICs
    #[command(visible_alias = "ls")]
    List {
        /// Only those of this network, by name or id
        #[arg(
            short,
            long,
            default_value = "",
            hide_default_value = true,
            add = complete::networks()
        )]
        network: String,
    },
    /// Show one vNIC
    #[command(visible_alias = "show")]
    Get {
        /// Name or id
        #[arg(add = complete::nics())]
        nic: String,
    },
    /// Show what a vNIC has carried, answered and dropped, and why
    Stats {
        /// Name or id
        #[arg(add = complete::nics())]
        nic: String,
    },
    /// Replace the prefixes routed to a vNIC
    Update(Update),
    /// Show or change how much a vNIC may carry
    Limit(limit::Limit),
    /// Delete a vNIC
    #[command(visible_alias = "rm")]
    Delete {
        /// Name or id
        #[arg(add = complete::nics())]
        nic: String,
        /// Even while a VM uses it, which is cut off
        #[arg(short, long)]
        force: bool,
    },
    /// Print the arguments that connect a VMM to a vNIC
    #[command(after_help = VMM_ARGS_EXAMPLES)]
    VmmArgs {
        /// Name or id
        #[arg(add = complete::nics())]
        nic: String,
        #[command(flatten)]
        machine: vm::Machine,
    },
}

const VMM_ARGS_EXAMPLES: &str = "\
Examples:
  cloud-hypervisor --kernel vmlinux $(mvirt nic vmm-args vm1 --vmm cloud-hypervisor)
  mvirt nic vmm-args vm1 --vmm qemu --memory 2G
  mvirt nic vmm-args vm1 --vmm libvirt          # elements of the domain's XML";

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mvirt nic update vm1 --route 10.8.0.0/16,fd08::/64")]
#[command(group = ArgGroup::new("what").args(["route", "clear_routes"]).required(true))]
pub(crate) struct Update {
    /// Name or id
    #[arg(add = complete::nics())]
    nic: String,
    /// Prefixes, in place of those there were, with commas between; may be given several times
    #[arg(long, value_name = "PREFIX", value_delimiter = ',')]
    route: Vec<String>,
    /// Remove all prefixes
    #[arg(long)]
    clear_routes: bool,
}

/// IPv6 prefixes have colons.
fn by_family(routes: Vec<String>) -> (Vec<String>, Vec<String>) {
    routes.into_iter().partition(|route| !route.contains(':'))
}

pub(crate) async fn run(
    command: Command,
    client: &mut Client,
    out: &Output,
) -> Result<(), Failure> {
    let nic = match command {
        Command::Create(create) => client.create_nic(create.request()?).await?.into_inner(),
        Command::List { network } => return list(client, network, out).await,
        Command::Get { nic } => get(client, nic).await?,
        Command::Stats { nic } => {
            let request = GetNicStatsRequest { id: nic.clone() };
            let stats = client.get_nic_stats(request).await?.into_inner();
            return show::stats(&nic, &stats, out);
        }
        Command::Update(Update { nic, route, clear_routes: _ }) => {
            let (routed_ipv4_prefixes, routed_ipv6_prefixes) = by_family(route);
            let request = UpdateNicRequest {
                id: nic,
                routed_ipv4_prefixes,
                routed_ipv6_prefixes,
                ..Default::default()
            };
            client.update_nic(request).await?.into_inner()
        }
        Command::Limit(limit) => return limit.run(client, out).await,
        Command::Delete { nic, force } => return delete(client, nic, force, out).await,
        Command::VmmArgs { nic, machine } => return vmm_args(client, nic, &machine, out).await,
    };
    let network = network::get(client, nic.network_id.clone()).await?.name;
    show::nic(&nic, &network, out)
}

async fn delete(
    client: &mut Client,
    nic: String,
    force: bool,
    out: &Output,
) -> Result<(), Failure> {
    if !force && get(client, nic.clone()).await?.state() == NicState::Active {
        return Err(Failure::Stopped(format!(
            "vNIC {nic} is active: a VM uses it\n  Stop the VM, or cut it off with --force."
        )));
    }
    let response = client
        .delete_nic(DeleteNicRequest { id: nic.clone(), ..Default::default() })
        .await?
        .into_inner();
    out.done(&response, &nic, &format!("Deleted vNIC {nic}."))
}

async fn vmm_args(
    client: &mut Client,
    nic: String,
    machine: &vm::Machine,
    out: &Output,
) -> Result<(), Failure> {
    let nic = get(client, nic).await?;
    let vmm = machine.vmm();
    let args = machine.network_args(vmm, &nic);
    if out.is_document() {
        return out.end(&args);
    }
    let line = if vmm.is_pasted_into_a_shell() { vm::shell_line(&args) } else { args.join("\n") };
    output::print(&format!("{line}\n"))
}

async fn list(client: &mut Client, network: String, out: &Output) -> Result<(), Failure> {
    let response = ListNicsResponse { nics: all(client, &network).await?, ..Default::default() };
    let networks =
        client.list_networks(ListNetworksRequest::default()).await?.into_inner().networks;
    let name = |id: &str| {
        let found = networks.iter().find(|network| network.id == id);
        found.map_or(id, |network| &network.name).to_owned()
    };
    const HEADER: &[&str] =
        &["NAME", "NETWORK", "STATE", "IPV4", "IPV6", "MAC", "MTU", "QUEUES", "SOCKET"];
    let mut table = Table::new(HEADER, 5);
    for nic in &response.nics {
        let cells = vec![
            nic.name.as_str().into(),
            name(&nic.network_id).into(),
            output::Cell::state(nic.state()),
            nic.ipv4_address.as_str().into(),
            nic.ipv6_address.as_str().into(),
            nic.mac_address.as_str().into(),
            nic.mtu.into(),
            nic.queue_pairs.into(),
            nic.socket_path.as_str().into(),
        ];
        table.row(&nic.name, cells);
    }
    out.list(&response, &table)
}

/// All vNICs, or those of a network.
pub(crate) async fn all(client: &mut Client, network: &str) -> Result<Vec<Nic>, Failure> {
    let request = ListNicsRequest { network_id: network.into(), ..Default::default() };
    Ok(client.list_nics(request).await?.into_inner().nics)
}

pub(crate) async fn get(client: &mut Client, key: String) -> Result<Nic, Failure> {
    let request = GetNicRequest { identifier: Some(Identifier::Name(key)) };
    Ok(client.get_nic(request).await?.into_inner())
}
