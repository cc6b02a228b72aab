//! `mvirt nic …`

mod create;
mod limit;
mod metadata;
mod show;
mod update;
mod watch;

use super::{
    Failure, complete,
    connect::{Client, Connection},
    delete::How,
    filter::Filter,
    mask,
    output::{self, Output, Table},
    stats,
    vm::args,
};
use clap::{Args, Subcommand};
use mvirt_net::{
    lists,
    proto::{
        DeleteNicRequest, DeleteNicResponse, GetNicRequest, ListNicsRequest, ListNicsResponse, Nic,
        Transport, get_nic_request::Identifier,
    },
};
use std::{
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a vNIC and its socket
    Create(Box<create::Create>),
    /// Show all vNICs
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List {
        #[command(flatten)]
        within: InNetwork,
        #[command(flatten)]
        filter: Filter,
        /// Only those in this state
        #[arg(long, value_parser = ["created", "active", "blocked", "error"])]
        state: Option<String>,
    },
    /// Show one vNIC
    #[command(
        visible_alias = "show",
        after_help = "Examples:\n  mvirt nic get vm1\n  mvirt nic get vm1 -o json"
    )]
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
        #[command(flatten)]
        watch: stats::Watch,
    },
    /// Change a vNIC, while traffic flows
    Update(Box<update::Update>),
    /// Show or change how much a vNIC may carry
    Limit(limit::Limit),
    /// Show or change what a vNIC's guest is told by HTTP, as of clouds
    Metadata(metadata::Metadata),
    /// Delete vNICs
    #[command(visible_alias = "rm", after_help = DELETE_EXAMPLES)]
    Delete {
        /// Names or ids
        #[arg(value_name = "NIC", required = true, add = complete::nics())]
        nics: Vec<String>,
        /// Even while a VM uses one, which is cut off; with their forwards and floating IPs
        #[arg(short, long)]
        force: bool,
        #[command(flatten)]
        how: How,
    },
    /// Print vNICs as they are, then each change, until Ctrl-C
    #[command(after_help = "Examples:\n  mvirt nic watch -n prod\n  mvirt nic watch -o json")]
    Watch(InNetwork),
    /// Wait until a vNIC is in use, its guest has an address, or it is left
    Wait(watch::Wait),
    /// Print the arguments that connect a VMM to a vNIC
    #[command(after_help = VMM_ARGS_EXAMPLES)]
    VmmArgs {
        /// Name or id
        #[arg(add = complete::nics())]
        nic: String,
        #[command(flatten)]
        machine: args::Machine,
    },
}

const LIST_EXAMPLES: &str = "\
Examples:
  mvirt nic list -n prod --state active
  mvirt nic list --label owner=me --name vm
  mvirt nic list --columns NAME,MAC,SOCKET --no-headers";

const DELETE_EXAMPLES: &str = "\
Examples:
  mvirt nic delete vm1 vm2
  mvirt nic delete vm1 --force --if-exists   # even from under a VM; whether or not it is there";

// No documentation: that would be the commands'.
#[derive(Debug, Args)]
pub(crate) struct InNetwork {
    /// Only those of this network, by name or id
    #[arg(
        short,
        long,
        default_value = "",
        hide_default_value = true,
        add = complete::networks()
    )]
    pub(crate) network: String,
}

const VMM_ARGS_EXAMPLES: &str = "\
Examples:
  cloud-hypervisor --kernel vmlinux $(mvirt nic vmm-args vm1 --vmm cloud-hypervisor)
  mvirt nic vmm-args vm1 --vmm qemu --memory 2G
  mvirt nic vmm-args vm1 --vmm libvirt          # elements of the domain's XML
  mvirt nic vmm-args vm1 --vmm firecracker      # a part of its configuration file";

/// IPv6 prefixes have colons.
fn by_family(routes: Vec<String>) -> (Vec<String>, Vec<String>) {
    routes.into_iter().partition(|route| !route.contains(':'))
}

pub(crate) async fn run(
    command: Command,
    client: &mut Client,
    out: &Output,
    connection: &Connection,
) -> Result<(), Failure> {
    let is_new = matches!(command, Command::Create(_));
    let is_dry = match &command {
        Command::Create(create) => create.dry_run,
        Command::Update(update) => update.dry_run,
        _ => false,
    };
    let nic = match command {
        Command::Create(create) => client.create_nic((*create).request()?).await?.into_inner(),
        Command::List { within: InNetwork { network: network_id }, filter, state } => {
            let (name_prefix, labels) = filter.wanted()?;
            let request = ListNicsRequest { network_id, name_prefix, labels, ..Default::default() };
            return list(client, request, state, out).await;
        }
        Command::Get { nic } => get(client, nic).await?,
        Command::Stats { nic, watch } => {
            let ways = ("from the guest", "to the guest");
            return watch.run(client, (&nic, nic.clone()), ways, out).await;
        }
        Command::Update(update) => update.run(client).await?,
        Command::Limit(limit) => return limit.run(client, out).await,
        Command::Metadata(metadata) => return metadata.run(client, out).await,
        Command::Delete { nics, force, how } => {
            let is_dry = how.dry_run;
            let delete = async |nic: &str| delete(client, nic, (force, is_dry)).await;
            return how.each(&nics, "vNIC", out, delete).await;
        }
        Command::Watch(InNetwork { network }) => return watch::watch(client, network, out).await,
        Command::Wait(wait) => wait.run(client, connection.timeout()).await?,
        Command::VmmArgs { nic, machine } => return vmm_args(client, nic, &machine, out).await,
    };
    show::nic(&nic, out)?;
    if is_dry {
        out.dry_run();
    } else if is_new && nic.transport() == Transport::VhostUser {
        out.next(&format!("mvirt vm start {0} --nic {0} …, or mvirt nic vmm-args {0}", nic.name));
    }
    Ok(())
}

async fn delete(
    client: &mut Client,
    nic: &str,
    (force, validate_only): (bool, bool),
) -> Result<(DeleteNicResponse, String), Failure> {
    let id = nic.to_owned();
    // Decided by the server: here the state could change after it was read.
    let unless_active = !force;
    let request =
        DeleteNicRequest { id, unless_active, validate_only, force, ..Default::default() };
    let response = client.delete_nic(request).await.map_err(|status| {
        // The server names fields, one of which is a flag turned round.
        match status.code() {
            tonic::Code::FailedPrecondition if status.message().contains("is active") => {
                Failure::Stopped(format!(
                    "vNIC {nic} is active: a VM uses it\n  Stop the VM, or cut it off with --force."
                ))
            }
            _ => status.into(),
        }
    })?;
    Ok((response.into_inner(), String::new()))
}

async fn vmm_args(
    client: &mut Client,
    nic: String,
    machine: &args::Machine,
    out: &Output,
) -> Result<(), Failure> {
    let nic = get(client, nic).await?;
    let vmm = machine.vmm();
    let args = machine.network_args(vmm, &nic)?;
    if out.is_document() {
        return out.end(&args);
    }
    let user = rustix::process::geteuid().as_raw().to_string();
    let preparation = args::preparation(&nic, &user);
    if !preparation.is_empty() {
        out.remark("Once before, as root; the device stays, and is this user's:");
        preparation.iter().for_each(|line| out.remark(&format!("  {line}")));
    }
    if let Some(source) = args::data_source(&nic)
        && !args.iter().any(|arg| arg.contains(&source))
    {
        out.remark(&format!("For cloud-init, an argument of the guest's kernel: '{source}'"));
    }
    // For `$(…)`; XML is for an editor.
    let line = if vmm.is_pasted_into_a_shell() { args::shell_line(&args) } else { args.join("\n") };
    output::print(&format!("{line}\n"))
}

async fn list(
    client: &mut Client,
    request: ListNicsRequest,
    state: Option<String>,
    out: &Output,
) -> Result<(), Failure> {
    let mut nics = wanted(client, request).await?;
    nics.retain(|nic| state.as_ref().is_none_or(|state| nic.state().word() == state));
    let response = ListNicsResponse { nics, ..Default::default() };
    // The first five fit a terminal of 80 columns; `-o wide` has the rest.
    const HEADER: &[&str] =
        &["NAME", "NETWORK", "STATE", "IPV4", "IPV6", "MAC", "MTU", "QUEUES", "SOCKET", "LABELS"];
    let mut table = Table::new(HEADER, 5);
    for nic in &response.nics {
        let cells = vec![
            nic.name.as_str().into(),
            nic.network_name.as_str().into(),
            output::Cell::state(nic.state()),
            nic.ipv4_address.as_str().into(),
            nic.ipv6_address.as_str().into(),
            nic.mac_address.as_str().into(),
            nic.mtu.into(),
            nic.queue_pairs.into(),
            nic.socket_path.as_str().into(),
            mask::labels(&nic.labels).into(),
        ];
        table.row(&nic.name, cells);
    }
    out.list(&response, &table)
}

/// All vNICs, or those of a network, which come in pages.
pub(crate) async fn all(client: &mut Client, network: &str) -> Result<Vec<Nic>, Failure> {
    let network_id = network.to_owned();
    wanted(client, ListNicsRequest { network_id, ..Default::default() }).await
}

async fn wanted(client: &mut Client, request: ListNicsRequest) -> Result<Vec<Nic>, Failure> {
    let page = async |request| Ok::<_, Failure>(client.list_nics(request).await?.into_inner());
    Ok(lists::all(request, page).await?.nics)
}

/// Returns a vNIC that no VMM uses. Waits up to a second for a VMM that has just left.
///
/// # Errors
///
/// One that stays in use, with `remedy`.
pub(crate) async fn unused(client: &mut Client, key: String, remedy: &str) -> Result<Nic, Failure> {
    // Whoever has ended a VMM knows of it a moment before the daemon does.
    let patient = Instant::now() + Duration::from_secs(1);
    loop {
        let nic = get(client, key.clone()).await?;
        if !nic.state().is_connected() {
            return Ok(nic);
        }
        if Instant::now() > patient {
            return Err(in_use(&nic, remedy));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn in_use(nic: &Nic, remedy: &str) -> Failure {
    Failure::Stopped(format!("vNIC {}: a VMM is connected to it: {remedy}", nic.name))
}

pub(crate) async fn get(client: &mut Client, key: String) -> Result<Nic, Failure> {
    // The server looks for either, whichever of both it is called.
    let request = GetNicRequest { identifier: Some(Identifier::Name(key)) };
    Ok(client.get_nic(request).await?.into_inner())
}

/// Connects to a vNIC's socket, as a guest of `whose` kind will.
pub(crate) fn dial(nic: &Nic, whose: &str) -> Result<UnixStream, Failure> {
    UnixStream::connect(&nic.socket_path).map_err(|error| {
        Failure::Stopped(format!(
            "vNIC {}: cannot connect to {}: {error}\n  {whose} run on the daemon's host, as a user \
             who may open the socket.",
            nic.name, nic.socket_path
        ))
    })
}
