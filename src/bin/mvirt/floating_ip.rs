//! `mvirt floating-ip …`

use super::{
    Failure, complete,
    connect::Client,
    delete::How,
    filter::Labels,
    forward::{state, state_word},
    mask::{self, Marks, Mask},
    nic::InNetwork,
    output::{Cell, Output, Table},
    units,
    watch::{Lines, Watched},
};
use clap::{Args, Subcommand};
use mvirt_net::{
    lists,
    proto::{
        CreateFloatingIpRequest, DeleteFloatingIpRequest, FloatingIp, GetFloatingIpRequest,
        ListFloatingIpsRequest, UpdateFloatingIpRequest, WatchFloatingIpsRequest,
    },
};
use std::collections::BTreeMap;

const EXAMPLES: &str = "\
Examples:
  mvirt floating-ip create --address 203.0.113.7 --nic vm1-eth0
  mvirt floating-ip move 203.0.113.7 --nic vm2-eth0";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Give an address of the world to a vNIC
    Create(Create),
    /// Show all floating IPs
    #[command(visible_alias = "ls", after_help = "Examples:\n  mvirt floating-ip list -n web")]
    List {
        #[command(flatten)]
        within: InNetwork,
        #[command(flatten)]
        labels: Labels,
    },
    /// Show one floating IP
    #[command(
        visible_alias = "show",
        after_help = "Examples:\n  mvirt floating-ip get 203.0.113.7"
    )]
    Get {
        /// Address or id
        #[arg(add = complete::floating_ips())]
        floating_ip: String,
    },
    /// Change a floating IP: move it to another vNIC, or note something
    #[command(visible_alias = "move", after_help = UPDATE_EXAMPLES)]
    Update(Update),
    /// Delete floating IPs; connections to and from them end
    #[command(
        visible_alias = "rm",
        after_help = "Examples:\n  mvirt floating-ip delete 203.0.113.7 203.0.113.8"
    )]
    Delete {
        /// Addresses or ids
        #[arg(value_name = "FLOATING_IP", required = true, add = complete::floating_ips())]
        floating_ips: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Print floating IPs as they are, then each change, until Ctrl-C
    #[command(after_help = "Examples:\n  mvirt floating-ip watch -n web")]
    Watch(InNetwork),
}

const UPDATE_EXAMPLES: &str = "\
Examples:
  mvirt floating-ip move 203.0.113.7 --nic vm2-eth0
  mvirt floating-ip update 203.0.113.7 --label owner=me";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Create {
    /// IPv4 or IPv6 address, none of the host's own
    #[arg(short, long)]
    address: String,
    /// vNIC of a public network, by name or id
    #[arg(long, add = complete::nics())]
    nic: String,
    #[command(flatten)]
    marks: Marks,
    /// Check only: create nothing
    #[arg(long)]
    dry_run: bool,
    /// A UUID, which makes the command repeatable
    #[arg(long, value_name = "UUID", default_value = "", hide_default_value = true)]
    id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Address or id
    #[arg(add = complete::floating_ips())]
    floating_ip: String,
    /// Another vNIC of a public network, by name or id
    #[arg(long, add = complete::nics())]
    nic: Option<String>,
    #[command(flatten)]
    marks: Marks,
    /// First remove all labels
    #[arg(long)]
    clear_labels: bool,
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
        Command::Create(Create { address, nic: nic_id, marks, dry_run: validate_only, id }) => {
            let labels = marks.labels(BTreeMap::new())?;
            let description = marks.description.unwrap_or_default();
            let request =
                CreateFloatingIpRequest { id, address, nic_id, labels, description, validate_only };
            (client.create_floating_ip(request).await?.into_inner(), validate_only)
        }
        Command::List { within: InNetwork { network: network_id }, labels } => {
            let labels = labels.wanted()?;
            let request = ListFloatingIpsRequest { network_id, labels, ..Default::default() };
            return list(client, request, out).await;
        }
        Command::Watch(InNetwork { network }) => return watch(client, network, out).await,
        Command::Get { floating_ip } => (get(client, floating_ip).await?, false),
        Command::Update(update) => {
            let is_dry = update.dry_run;
            (update.run(client).await?, is_dry)
        }
        Command::Delete { floating_ips, how } => {
            let validate_only = how.dry_run;
            let delete = async |id: &str| {
                let id = id.to_owned();
                let request = DeleteFloatingIpRequest { id, validate_only, ..Default::default() };
                Ok::<_, Failure>((
                    client.delete_floating_ip(request).await?.into_inner(),
                    String::new(),
                ))
            };
            return how.each(&floating_ips, "floating IP", out, delete).await;
        }
    };
    show(&floating_ip, out)?;
    if is_dry {
        out.dry_run();
    }
    Ok(())
}

impl Update {
    async fn run(self, client: &mut Client) -> Result<FloatingIp, Failure> {
        let now = get(client, self.floating_ip).await?;
        let mut request = UpdateFloatingIpRequest {
            id: now.id,
            validate_only: self.dry_run,
            ..Default::default()
        };
        let mut mask = Mask::default();
        mask.set("nic_id", &mut request.nic_id, self.nic);
        if let Some(labels) = self.marks.new_labels(&now.labels, self.clear_labels.into())? {
            mask.set("labels", &mut request.labels, Some(labels));
            // What another client has added meanwhile must not be lost.
            request.etag = now.etag;
        }
        mask.set("description", &mut request.description, self.marks.description);
        request.update_mask = mask.into_paths("--nic, --label, --description")?;
        Ok(client.update_floating_ip(request).await?.into_inner())
    }
}

async fn get(client: &mut Client, id: String) -> Result<FloatingIp, Failure> {
    Ok(client.get_floating_ip(GetFloatingIpRequest { id }).await?.into_inner())
}

/// Prints the floating IPs there are, and each change, until the server ends.
async fn watch(client: &mut Client, network_id: String, out: &Output) -> Result<(), Failure> {
    let request = WatchFloatingIpsRequest { network_id, ..Default::default() };
    let mut events = Watched::of(client.watch_floating_ips(request).await?)?;
    // `not-in-force`; names as most are.
    let mut lines = Lines::begin(out, [("STATE", 12), ("VNIC", 15), ("NETWORK", 0)])?;
    while let Some(event) = events.next().await? {
        let state = event.floating_ip.as_ref().map(|it| state_word(&it.error)).unwrap_or_default();
        let shown = event.floating_ip.as_ref();
        let shown = shown.map(|it| (&*it.address, [&*state, nic(it), &it.network_name]));
        lines.event(&event, (event.timestamp, &event.floating_ip_id), shown)?;
    }
    Ok(())
}

async fn list(
    client: &mut Client,
    request: ListFloatingIpsRequest,
    out: &Output,
) -> Result<(), Failure> {
    let page =
        async |request| Ok::<_, Failure>(client.list_floating_ips(request).await?.into_inner());
    let response = lists::all(request, page).await?;
    // The first four fit a terminal of 80 columns; `-o wide` has the rest.
    const HEADER: &[&str] = &["ADDRESS", "VNIC", "NETWORK", "STATE", "ID", "LABELS"];
    let mut table = Table::new(HEADER, 4);
    for floating_ip in &response.floating_ips {
        let cells = vec![
            floating_ip.address.as_str().into(),
            nic(floating_ip).into(),
            floating_ip.network_name.as_str().into(),
            state_word(&floating_ip.error).into(),
            floating_ip.id.as_str().into(),
            mask::labels(&floating_ip.labels).into(),
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
    let rows: [(&str, Cell); 10] = [
        ("address", floating_ip.address.as_str().into()),
        ("id", floating_ip.id.as_str().into()),
        ("vnic", nic(floating_ip).into()),
        ("network", floating_ip.network_name.as_str().into()),
        ("state", state(&floating_ip.error).into()),
        ("error", floating_ip.error.as_str().into()),
        ("labels", mask::labels(&floating_ip.labels).into()),
        ("description", floating_ip.description.as_str().into()),
        ("created", units::local(&floating_ip.created_at).into()),
        ("updated", units::local(&floating_ip.updated_at).into()),
    ];
    out.object(floating_ip, &floating_ip.address, &rows)
}
