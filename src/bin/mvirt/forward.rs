//! `mvirt forward …`

use super::{
    Failure, complete,
    connect::Client,
    delete::How,
    filter::Filter,
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
        CreateForwardRequest, DeleteForwardRequest, Forward, GetForwardRequest,
        ListForwardsRequest, Protocol, UpdateForwardRequest, WatchForwardsRequest,
    },
};
use std::{collections::BTreeMap, str::FromStr};

const EXAMPLES: &str = "\
Examples:
  mvirt forward add --network web --listen tcp:0.0.0.0:8080 --to vm1:80
  mvirt forward add --listen udp:53 --to vm1                 # at all IPv4 addresses of the host
  mvirt forward add --listen tcp:[2001:db8::7]:80,8000-8099 --to vm1";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Give ports of the host's side to a vNIC
    #[command(visible_alias = "create")]
    Add(Box<Add>),
    /// Show all forwards
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List {
        #[command(flatten)]
        within: InNetwork,
        #[command(flatten)]
        filter: Filter,
    },
    /// Show one forward
    #[command(
        visible_alias = "show",
        after_help = "Examples:\n  mvirt forward get web\n  mvirt forward get web -o json"
    )]
    Get {
        /// Name or id
        #[arg(add = complete::forwards())]
        forward: String,
    },
    /// Change a forward
    Update(Box<Update>),
    /// Delete forwards; connections through them end
    #[command(visible_alias = "rm", after_help = "Examples:\n  mvirt forward delete web ssh")]
    Delete {
        /// Names or ids
        #[arg(value_name = "FORWARD", required = true, add = complete::forwards())]
        forwards: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Print forwards as they are, then each change, until Ctrl-C
    #[command(after_help = "Examples:\n  mvirt forward watch -n web")]
    Watch(InNetwork),
}

const UPDATE_EXAMPLES: &str = "\
Examples:
  mvirt forward update web --listen tcp:0.0.0.0:8081
  mvirt forward update web --to vm2:80";

const LIST_EXAMPLES: &str = "\
Examples:
  mvirt forward list -n web
  mvirt forward list --label owner=me -o csv";

/// Where it is listened, written `tcp:0.0.0.0:8080`, `tcp:[::]:8080` or `tcp:8080`.
#[derive(Debug, Clone, PartialEq)]
struct Listen {
    protocol: Protocol,
    /// Empty: at all addresses.
    address: String,
    ports: String,
}

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(written: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected a protocol, an address and ports, like tcp:0.0.0.0:8080, \
                                tcp:[2001:db8::7]:80,8000-8099 or udp:53";
        let (protocol, rest) = written.split_once(':').ok_or(EXPECTED)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(EXPECTED),
        };
        let (address, ports) = match rest.rsplit_once(':') {
            Some((address, ports)) => (address, ports),
            None => ("", rest),
        };
        let inner = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        // Else it is not to be seen where the address ends.
        if inner.is_none() && address.contains(':') || ports.is_empty() {
            return Err(EXPECTED);
        }
        let address = inner.unwrap_or(address).to_owned();
        Ok(Self { protocol, address, ports: ports.to_owned() })
    }
}

/// A vNIC and its ports, written `vm1:80`, or `vm1` for the ports that are listened to.
#[derive(Debug, Clone, PartialEq)]
struct Target {
    nic: String,
    ports: Option<String>,
}

impl FromStr for Target {
    type Err = &'static str;

    fn from_str(written: &str) -> Result<Self, Self::Err> {
        // Names have no colons.
        let (nic, ports) = match written.split_once(':') {
            Some((nic, ports)) => (nic, Some(ports.to_owned())),
            None => (written, None),
        };
        if nic.is_empty() || ports.as_ref().is_some_and(String::is_empty) {
            return Err("expected a vNIC, and ports if they are others, like vm1:80 or vm1");
        }
        Ok(Self { nic: nic.into(), ports })
    }
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Add {
    /// Where to listen, like tcp:0.0.0.0:8080; without an address at all of the host's
    #[arg(short, long, value_name = "PROTOCOL:[ADDRESS:]PORTS")]
    listen: Listen,
    /// A vNIC by name or id, and its ports if they are others: one for all or as many
    #[arg(short, long, value_name = "VNIC[:PORTS]", add = complete::nics())]
    to: Target,
    /// Network of the vNIC, by name or id [default: whichever it is in]
    #[arg(long, default_value = "", hide_default_value = true, add = complete::networks())]
    network: String,
    /// Unique name [default: chosen]
    #[arg(short, long, default_value = "", hide_default_value = true)]
    name: String,
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
#[command(after_help = UPDATE_EXAMPLES)]
pub(crate) struct Update {
    /// Name or id
    #[arg(add = complete::forwards())]
    forward: String,
    /// A new name
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
    /// Listen elsewhere, like tcp:0.0.0.0:8080; without an address at all of the host's
    #[arg(short, long, value_name = "PROTOCOL:[ADDRESS:]PORTS")]
    listen: Option<Listen>,
    /// Another vNIC of the same network, or other ports of one
    #[arg(short, long, value_name = "VNIC[:PORTS]", add = complete::nics())]
    to: Option<Target>,
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
    let (forward, is_dry) = match command {
        Command::Add(add) => {
            let is_dry = add.dry_run;
            (client.create_forward(add.request()?).await?.into_inner(), is_dry)
        }
        Command::List { within: InNetwork { network: network_id }, filter } => {
            let (name_prefix, labels) = filter.wanted()?;
            let request =
                ListForwardsRequest { network_id, name_prefix, labels, ..Default::default() };
            return list(client, request, out).await;
        }
        Command::Watch(InNetwork { network }) => return watch(client, network, out).await,
        Command::Get { forward } => (get(client, forward).await?, false),
        Command::Update(update) => {
            let is_dry = update.dry_run;
            (update.run(client).await?, is_dry)
        }
        Command::Delete { forwards, how } => {
            let validate_only = how.dry_run;
            let delete = async |id: &str| {
                let id = id.to_owned();
                let request = DeleteForwardRequest { id, validate_only, ..Default::default() };
                Ok::<_, Failure>((
                    client.delete_forward(request).await?.into_inner(),
                    String::new(),
                ))
            };
            return how.each(&forwards, "forward", out, delete).await;
        }
    };
    show(&forward, out)?;
    if is_dry {
        out.dry_run();
    }
    Ok(())
}

impl Add {
    fn request(self) -> Result<CreateForwardRequest, Failure> {
        Ok(CreateForwardRequest {
            id: self.id,
            network_id: self.network,
            listen_address: self.listen.address,
            protocol: self.listen.protocol.into(),
            listen_ports: self.listen.ports,
            nic_id: self.to.nic,
            target_ports: self.to.ports.unwrap_or_default(),
            name: self.name,
            labels: self.marks.labels(BTreeMap::new())?,
            description: self.marks.description.unwrap_or_default(),
            validate_only: self.dry_run,
        })
    }
}

impl Update {
    async fn run(self, client: &mut Client) -> Result<Forward, Failure> {
        let now = get(client, self.forward).await?;
        let mut request =
            UpdateForwardRequest { id: now.id, validate_only: self.dry_run, ..Default::default() };
        let mut mask = Mask::default();
        mask.set("name", &mut request.name, self.name);
        if let Some(Listen { protocol, address, ports }) = self.listen {
            mask.set("protocol", &mut request.protocol, Some(protocol.into()));
            mask.set("listen_address", &mut request.listen_address, Some(address));
            mask.set("listen_ports", &mut request.listen_ports, Some(ports));
        }
        if let Some(Target { nic, ports }) = self.to {
            mask.set("nic_id", &mut request.nic_id, Some(nic));
            mask.set("target_ports", &mut request.target_ports, ports);
        }
        if let Some(labels) = self.marks.new_labels(&now.labels, self.clear_labels.into())? {
            mask.set("labels", &mut request.labels, Some(labels));
            // What another client has added meanwhile must not be lost.
            request.etag = now.etag;
        }
        mask.set("description", &mut request.description, self.marks.description);
        request.update_mask = mask.into_paths("--listen, --to, --name")?;
        Ok(client.update_forward(request).await?.into_inner())
    }
}

async fn get(client: &mut Client, id: String) -> Result<Forward, Failure> {
    Ok(client.get_forward(GetForwardRequest { id }).await?.into_inner())
}

/// Prints the forwards there are, and each change, until the server ends.
async fn watch(client: &mut Client, network_id: String, out: &Output) -> Result<(), Failure> {
    let request = WatchForwardsRequest { network_id, ..Default::default() };
    let mut events = Watched::of(client.watch_forwards(request).await?)?;
    // `not-in-force`; the longest of IPv4, with one port.
    let mut lines = Lines::begin(out, [("STATE", 12), ("LISTENS", 25), ("TO", 0)])?;
    while let Some(event) = events.next().await? {
        let cells =
            event.forward.as_ref().map(|it| (state_word(&it.error), listens(it), target(it)));
        let cells = cells.unwrap_or_default();
        let shown = event.forward.as_ref();
        let shown = shown.map(|it| (&*it.name, [&*cells.0, &cells.1, &cells.2]));
        lines.event(&event, (event.timestamp, &event.forward_id), shown)?;
    }
    Ok(())
}

async fn list(
    client: &mut Client,
    request: ListForwardsRequest,
    out: &Output,
) -> Result<(), Failure> {
    let page = async |request| Ok::<_, Failure>(client.list_forwards(request).await?.into_inner());
    let response = lists::all(request, page).await?;
    // The first four fit a terminal of 80 columns; `-o wide` has the rest.
    const HEADER: &[&str] = &["NAME", "LISTENS", "TO", "STATE", "NETWORK", "ID", "LABELS"];
    let mut table = Table::new(HEADER, 4);
    for forward in &response.forwards {
        let cells = vec![
            forward.name.as_str().into(),
            listens(forward).into(),
            target(forward).into(),
            state_word(&forward.error).into(),
            forward.network_name.as_str().into(),
            forward.id.as_str().into(),
            mask::labels(&forward.labels).into(),
        ];
        table.row(&forward.name, cells);
    }
    out.list(&response, &table)
}

/// Returns whether something is in force, in words.
pub(crate) fn state(error: &str) -> &'static str {
    if error.is_empty() { "in force" } else { "not in force" }
}

/// Returns that in one word: cells of lists have no blanks.
pub(crate) fn state_word(error: &str) -> String {
    state(error).replace(' ', "-")
}

/// Returns where a forward listens, as it is written.
fn listens(forward: &Forward) -> String {
    let Forward { listen_address: address, listen_ports: ports, .. } = forward;
    let protocol = forward.protocol().word();
    match address.contains(':') {
        true => format!("{protocol}:[{address}]:{ports}"),
        false => format!("{protocol}:{address}:{ports}"),
    }
}

/// Returns where a forward leads to, as it is written.
fn target(forward: &Forward) -> String {
    let nic = if forward.nic_name.is_empty() { &forward.nic_id } else { &forward.nic_name };
    match &*forward.target_ports {
        "" => nic.clone(),
        ports => format!("{nic}:{ports}"),
    }
}

fn show(forward: &Forward, out: &Output) -> Result<(), Failure> {
    let rows: [(&str, Cell); 11] = [
        ("name", forward.name.as_str().into()),
        ("id", forward.id.as_str().into()),
        ("network", forward.network_name.as_str().into()),
        ("listens", listens(forward).into()),
        ("to", target(forward).into()),
        ("state", state(&forward.error).into()),
        ("error", forward.error.as_str().into()),
        ("labels", mask::labels(&forward.labels).into()),
        ("description", forward.description.as_str().into()),
        ("created", units::local(&forward.created_at).into()),
        ("updated", units::local(&forward.updated_at).into()),
    ];
    out.object(forward, &forward.name, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_listens_is_written_in_one_word() {
        let listen = |protocol, address: &str, ports: &str| {
            Ok(Listen { protocol, address: address.into(), ports: ports.into() })
        };
        for (written, expected) in [
            ("tcp:0.0.0.0:8080", listen(Protocol::Tcp, "0.0.0.0", "8080")),
            ("tcp:[::]:80,90-100", listen(Protocol::Tcp, "::", "80,90-100")),
            ("udp:53", listen(Protocol::Udp, "", "53")),
        ] {
            assert_eq!(written.parse(), expected, "{written}");
        }
        for bad in ["tcp", "8080", "icmp:1", "tcp:::80", "tcp:[::1:80", "tcp:1.2.3.4:"] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
        let target = |written: &str| written.parse::<Target>().map(|to| (to.nic, to.ports));
        assert_eq!(target("vm1:80"), Ok(("vm1".into(), Some("80".into()))));
        assert_eq!(target("vm1"), Ok(("vm1".into(), None)));
        assert!(target(":80").is_err() && target("vm1:").is_err());
    }
}
