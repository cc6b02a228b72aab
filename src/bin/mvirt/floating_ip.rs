//! `mvirt floating-ip …`

use super::{
    Failure, complete,
    connect::Client,
    forward::state,
    nic::InNetwork,
    output::{Cell, Output, Table},
    units,
};
use clap::{Args, Subcommand};
use mvirt_net::{
    lists,
    proto::{
        CreateFloatingIpRequest, DeleteFloatingIpRequest, FloatingIp, GetFloatingIpRequest,
        ListFloatingIpsRequest, UpdateFloatingIpRequest,
    },
};

const EXAMPLES: &str = "\
Examples:
  mvirt floating-ip create --address 203.0.113.7 --nic vm1-eth0
  mvirt floating-ip move 203.0.113.7 --nic vm2-eth0";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Give an address of the world to a vNIC
    Create(Create),
    /// Show all floating IPs
    #[command(visible_alias = "ls")]
    List(InNetwork),
    /// Show one floating IP
    #[command(visible_alias = "show")]
    Get {
        /// Address or id
        #[arg(add = complete::floating_ips())]
        floating_ip: String,
    },
    /// Move a floating IP to another vNIC
    #[command(visible_alias = "update")]
    Move(Move),
    /// Delete a floating IP; connections to and from it end
    #[command(visible_alias = "rm")]
    Delete {
        /// Address or id
        #[arg(add = complete::floating_ips())]
        floating_ip: String,
        /// Check only: change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Create {
    /// IPv4 or IPv6 address, none of the host's own
    #[arg(short, long)]
    address: String,
    /// vNIC of a public network, by name or id
    #[arg(long, add = complete::nics())]
    nic: String,
    /// Check only: create nothing
    #[arg(long)]
    dry_run: bool,
    /// A UUID, which makes the command repeatable
    #[arg(long, value_name = "UUID", default_value = "", hide_default_value = true)]
    id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Move {
    /// Address or id
    #[arg(add = complete::floating_ips())]
    floating_ip: String,
    /// vNIC of a public network, by name or id
    #[arg(long, add = complete::nics())]
    nic: String,
    /// Check only: change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(
    command: Command,
    client: &mut Client,
    out: &Output,
) -> Result<(), Failure> {
    let (floating_ip, is_dry) = match command {
        Command::Create(Create { address, nic: nic_id, dry_run: validate_only, id }) => {
            let request =
                CreateFloatingIpRequest { id, address, nic_id, validate_only, ..Default::default() };
            (client.create_floating_ip(request).await?.into_inner(), validate_only)
        }
        Command::List(InNetwork { network }) => return list(client, network, out).await,
        Command::Get { floating_ip: id } => {
            let request = GetFloatingIpRequest { id };
            (client.get_floating_ip(request).await?.into_inner(), false)
        }
        Command::Move(Move { floating_ip: id, nic: nic_id, dry_run: validate_only }) => {
            let request =
                UpdateFloatingIpRequest { id, nic_id, validate_only, ..Default::default() };
            (client.update_floating_ip(request).await?.into_inner(), validate_only)
        }
        Command::Delete { floating_ip, dry_run: validate_only } => {
            let id = floating_ip.clone();
            let request = DeleteFloatingIpRequest { id, validate_only, ..Default::default() };
            let response = client.delete_floating_ip(request).await?.into_inner();
            let what = format!("floating IP {floating_ip}");
            return out.deleted(&response, validate_only, (&what, &floating_ip));
        }
    };
    show(&floating_ip, out)?;
    if is_dry {
        out.dry_run();
    }
    Ok(())
}

async fn list(client: &mut Client, network_id: String, out: &Output) -> Result<(), Failure> {
    let request = ListFloatingIpsRequest { network_id, ..Default::default() };
    let page =
        async |request| Ok::<_, Failure>(client.list_floating_ips(request).await?.into_inner());
    let response = lists::all(request, page).await?;
    // The first four fit a terminal of 80 columns; `-o wide` has the rest.
    const HEADER: &[&str] = &["ADDRESS", "VNIC", "NETWORK", "STATE", "ID"];
    let mut table = Table::new(HEADER, 4);
    for floating_ip in &response.floating_ips {
        let cells = vec![
            floating_ip.address.as_str().into(),
            nic(floating_ip).into(),
            floating_ip.network_name.as_str().into(),
            state(&floating_ip.error).into(),
            floating_ip.id.as_str().into(),
        ];
        table.row(&floating_ip.address, cells);
    }
    out.list(&response, &table)
}

/// Returns what a vNIC is called, which may not be there.
fn nic(floating_ip: &FloatingIp) -> &str {
    let FloatingIp { nic_name, nic_id, .. } = floating_ip;
    if nic_name.is_empty() { nic_id } else { nic_name }
}

fn show(floating_ip: &FloatingIp, out: &Output) -> Result<(), Failure> {
    let rows: [(&str, Cell); 8] = [
        ("address", floating_ip.address.as_str().into()),
        ("id", floating_ip.id.as_str().into()),
        ("vnic", nic(floating_ip).into()),
        ("network", floating_ip.network_name.as_str().into()),
        ("state", state(&floating_ip.error).into()),
        ("error", floating_ip.error.as_str().into()),
        ("created", units::local(&floating_ip.created_at).into()),
        ("updated", units::local(&floating_ip.updated_at).into()),
    ];
    out.object(floating_ip, &floating_ip.address, &rows)
}
