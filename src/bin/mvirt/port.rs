//! `mvirt port …`

use super::{
    Failure, complete,
    connect::{Client, Connection},
    delete::How,
    filter::Filter,
    impair::{self, ImpairFlags, NewImpairFlags},
    mask::{self, Marks, Mask},
    nic::InNetwork,
    output::{Cell, Output, Table},
    rate::{self, Rate},
    stats, units,
    wait::Patience,
    watch::{Lines, Watched},
};
use clap::{Args, Subcommand, ValueEnum};
use mvirt_net::{
    lists,
    locator::KINDS,
    proto::{
        CreatePortRequest, DeletePortRequest, GetPortRequest, ListPortsRequest, ListPortsResponse,
        Port, PortRole, PortState, RateLimit, TaggedNetwork, UpdatePortRequest, WatchPortsRequest,
        get_port_request::Identifier,
    },
};
use std::{collections::BTreeMap, str::FromStr, time::Duration};

const EXAMPLES: &str = "\
Examples:
  mvirt port create lab stream-listen://127.0.0.1:9999   # QEMU: -netdev socket,connect=
  mvirt port create lab tap://tap0[up]
  mvirt port create lab tap://tap0 --vlan 10=red,20=blue  # a trunk: untagged frames are of lab
  mvirt port kinds                                       # what else there is";

const UPDATE_EXAMPLES: &str = "\
Examples:
  mvirt port update qemu --limit-from 100Mbit --protected true
  mvirt port update qemu --loss 1% --delay 20ms";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a port of a switched network
    Create(Box<Create>),
    /// Show all ports
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List {
        #[command(flatten)]
        within: InNetwork,
        #[command(flatten)]
        filter: Filter,
        /// Only those in this state
        #[arg(long, value_parser = ["down", "listening", "up", "blocked", "error"])]
        state: Option<String>,
    },
    /// Show one port, and who is connected to it
    #[command(
        visible_alias = "show",
        after_help = "Examples:\n  mvirt port get qemu\n  mvirt port get qemu -o json"
    )]
    Get {
        /// Name or id
        #[arg(add = complete::ports())]
        port: String,
    },
    /// Show what a port has carried and dropped, and why
    Stats {
        /// Name or id
        #[arg(add = complete::ports())]
        port: String,
        #[command(flatten)]
        watch: stats::Watch,
    },
    /// Change a port, while traffic flows
    Update(Box<Update>),
    /// Delete ports; who is connected to one is disconnected
    #[command(visible_alias = "rm", after_help = "Examples:\n  mvirt port delete qemu tap0")]
    Delete {
        /// Names or ids
        #[arg(value_name = "PORT", required = true, add = complete::ports())]
        ports: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Print ports as they are, then each change, until Ctrl-C
    #[command(after_help = "Examples:\n  mvirt port watch -n lab\n  mvirt port watch -o json")]
    Watch(InNetwork),
    /// Wait until a port carries frames, or whoever is to connect to it can
    #[command(after_help = "Examples:\n  mvirt port wait tap0 --for up --at-most 30")]
    Wait {
        /// Name or id
        #[arg(add = complete::ports())]
        port: String,
        /// What for
        #[arg(long = "for", value_name = "WHAT", default_value = "up")]
        what: For,
        #[command(flatten)]
        patience: Patience,
    },
    /// Show which kinds of port there are, and how they are written
    Kinds,
}

const LIST_EXAMPLES: &str = "\
Examples:
  mvirt port list -n lab --state up
  mvirt port list --columns NAME,LOCATOR -o csv";

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum For {
    /// Frames can go both ways; of one that listens, somebody is connected
    Up,
    /// It waits for others to connect
    Listening,
}

impl For {
    fn is_so(self, port: &Port) -> bool {
        match self {
            // The state of one that listens stays, whoever connects.
            Self::Up => port.state() == PortState::Up || !port.attachments.is_empty(),
            Self::Listening => port.state() == PortState::Listening,
        }
    }

    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    /// As the kind of the locator says
    Auto,
    /// One guest, or few behind a small bridge
    Access,
    /// Another network: a bridge, a card, somebody else's switch
    Uplink,
    /// Another node of a full mesh
    Peer,
}

impl From<Role> for PortRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Auto => Self::Unspecified,
            Role::Access => Self::Access,
            Role::Uplink => Self::Uplink,
            Role::Peer => Self::Peer,
        }
    }
}

/// A VLAN of a trunk, written `10=lab`.
#[derive(Debug, Clone)]
struct Vlan(TaggedNetwork);

impl FromStr for Vlan {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, String> {
        let (vid, network) = written.split_once('=').unwrap_or((written, ""));
        let network_id = network.to_owned();
        match vid.parse() {
            Ok(vid) if (1..=4094).contains(&vid) && !network_id.is_empty() => {
                Ok(Self(TaggedNetwork { vid, network_id, ..Default::default() }))
            }
            _ => Err("expected a VLAN from 1 to 4094 and a network, like 10=lab".into()),
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Create {
    /// Network, by name or id; of a trunk, that of untagged frames, unless a --vlan has it, too
    #[arg(add = complete::networks())]
    network: String,
    /// What it is made of, like stream-listen://127.0.0.1:9999
    locator: String,
    /// Unique name [default: chosen]
    #[arg(short, long, default_value = "", hide_default_value = true)]
    name: String,
    /// What it leads to
    #[arg(long, default_value = "auto")]
    role: Role,
    /// Make it a trunk: frames with the tag of a VLAN are of its network, like 10=lab
    #[arg(long, value_name = "VID=NETWORK", value_delimiter = ',')]
    vlan: Vec<Vlan>,
    /// MACs that are learned behind it [default: as its role has it]
    #[arg(long, value_name = "COUNT", default_value = "0", hide_default_value = true)]
    mac_limit: u32,
    /// Let nothing go from it to another port that is protected
    #[arg(long)]
    protected: bool,
    /// What may come from it, like 1Gbit, 200kpps or both, with /BURST if wanted
    #[arg(long, value_name = "RATE", value_delimiter = ',')]
    limit_from: Vec<Rate>,
    /// What it may get, likewise
    #[arg(long, value_name = "RATE", value_delimiter = ',')]
    limit_to: Vec<Rate>,
    #[command(flatten)]
    impair: ImpairFlags,
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
    #[arg(add = complete::ports())]
    port: String,
    /// A new name
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
    /// What it leads to
    #[arg(long)]
    role: Option<Role>,
    /// The VLANs of a trunk, in place of all that it has
    #[arg(long, value_name = "VID=NETWORK", value_delimiter = ',')]
    vlan: Vec<Vlan>,
    /// Make it no trunk: all its frames are of its network
    #[arg(long, conflicts_with = "vlan")]
    clear_vlans: bool,
    /// MACs that are learned behind it; 0: as its role has it
    #[arg(long, value_name = "COUNT")]
    mac_limit: Option<u32>,
    /// Whether nothing goes from it to another port that is protected
    #[arg(long, value_name = "BOOL")]
    protected: Option<bool>,
    /// What may come from it, in place of what it was
    #[arg(long, value_name = "RATE", value_delimiter = ',')]
    limit_from: Vec<Rate>,
    /// What it may get, likewise
    #[arg(long, value_name = "RATE", value_delimiter = ',')]
    limit_to: Vec<Rate>,
    /// Remove what limits what may come from it
    #[arg(long, conflicts_with = "limit_from")]
    clear_limit_from: bool,
    /// Remove what limits what it may get
    #[arg(long, conflicts_with = "limit_to")]
    clear_limit_to: bool,
    #[command(flatten)]
    impair: NewImpairFlags,
    #[command(flatten)]
    marks: Marks,
    /// First remove all labels
    #[arg(long)]
    clear_labels: bool,
    /// Check only: change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Returns a new port as soon as it is known whether it works, which takes a moment.
async fn settled(client: &mut Client, mut port: Port) -> Result<Port, Failure> {
    for _ in 0..25 {
        // One that is down and says why has been tried.
        if port.state() != PortState::Down || !port.error.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        port = get(client, port.id).await?;
    }
    Ok(port)
}

pub(crate) async fn run(
    command: Command,
    client: &mut Client,
    out: &Output,
    connection: &Connection,
) -> Result<(), Failure> {
    let (port, is_dry) = match command {
        Command::Create(create) => {
            let is_dry = create.dry_run;
            let port = client.create_port(create.request()?).await?.into_inner();
            (if is_dry { port } else { settled(client, port).await? }, is_dry)
        }
        Command::List { within: InNetwork { network: network_id }, filter, state } => {
            let (name_prefix, labels) = filter.wanted()?;
            let request =
                ListPortsRequest { network_id, name_prefix, labels, ..Default::default() };
            return list(client, request, state, out).await;
        }
        Command::Get { port } => (get(client, port).await?, false),
        Command::Stats { port, watch } => {
            // First: of a name that nobody has, this one says that no port has it.
            let id = get(client, port.clone()).await?.id;
            return watch.run(client, (&port, id), ("from the port", "to the port"), out).await;
        }
        Command::Update(update) => {
            let is_dry = update.dry_run;
            (update.run(client).await?, is_dry)
        }
        Command::Delete { ports, how } => {
            let validate_only = how.dry_run;
            let delete = async |id: &str| {
                let id = id.to_owned();
                let request = DeletePortRequest { id, validate_only, ..Default::default() };
                Ok::<_, Failure>((client.delete_port(request).await?.into_inner(), String::new()))
            };
            return how.each(&ports, "port", out, delete).await;
        }
        Command::Wait { port, what, patience } => {
            let look = async || get(client, port.clone()).await;
            let said = (&*port, &*what.name());
            let is_so = |port: &Port| what.is_so(port);
            (patience.until(connection.timeout(), said, is_so, look).await?, false)
        }
        Command::Watch(InNetwork { network }) => return watch(client, network, out).await,
        Command::Kinds => return kinds(out),
    };
    show(&port, out)?;
    if is_dry {
        out.dry_run();
    }
    Ok(())
}

fn limit(flag: &str, rates: &[Rate]) -> Result<Option<RateLimit>, Failure> {
    rate::limit(None, rates).map_err(|why| Failure::Usage(format!("{flag}: {why}")))
}

impl Create {
    fn request(self) -> Result<CreatePortRequest, Failure> {
        Ok(CreatePortRequest {
            network_id: self.network,
            name: self.name,
            locator: self.locator,
            role: PortRole::from(self.role).into(),
            vlans: self.vlan.into_iter().map(|Vlan(tagged)| tagged).collect(),
            mac_limit: self.mac_limit,
            limit_from: limit("--limit-from", &self.limit_from)?,
            limit_to: limit("--limit-to", &self.limit_to)?,
            protected: self.protected,
            id: self.id,
            labels: self.marks.labels(BTreeMap::new())?,
            description: self.marks.description.unwrap_or_default(),
            validate_only: self.dry_run,
            impairments: self.impair.asked(),
        })
    }
}

impl Update {
    async fn run(self, client: &mut Client) -> Result<Port, Failure> {
        let now = get(client, self.port).await?;
        let mut request =
            UpdatePortRequest { id: now.id, validate_only: self.dry_run, ..Default::default() };
        let rates = |flag, clear, rates: &[Rate]| match (clear, rates) {
            (false, []) => Ok(None),
            _ => limit(flag, rates).map(Some),
        };
        let mut mask = Mask::default();
        mask.set("name", &mut request.name, self.name);
        mask.set("role", &mut request.role, self.role.map(|role| PortRole::from(role).into()));
        mask.set("mac_limit", &mut request.mac_limit, self.mac_limit);
        mask.set("protected", &mut request.protected, self.protected);
        let vlans = self.vlan.into_iter().map(|Vlan(tagged)| tagged).collect::<Vec<_>>();
        let vlans = (self.clear_vlans || !vlans.is_empty()).then_some(vlans);
        mask.set("vlans", &mut request.vlans, vlans);
        let from = rates("--limit-from", self.clear_limit_from, &self.limit_from)?;
        mask.set("limit_from", &mut request.limit_from, from);
        let to = rates("--limit-to", self.clear_limit_to, &self.limit_to)?;
        mask.set("limit_to", &mut request.limit_to, to);
        self.impair.put(&mut mask, &mut request.impairments);
        if let Some(labels) = self.marks.new_labels(&now.labels, self.clear_labels.into())? {
            mask.set("labels", &mut request.labels, Some(labels));
            // What another client has added meanwhile must not be lost.
            request.etag = now.etag;
        }
        mask.set("description", &mut request.description, self.marks.description);
        request.update_mask = mask.into_paths("--role, --mac-limit, --limit-from")?;
        Ok(client.update_port(request).await?.into_inner())
    }
}

async fn get(client: &mut Client, key: String) -> Result<Port, Failure> {
    // The server looks for either, whichever of both it is called.
    let request = GetPortRequest { identifier: Some(Identifier::Name(key)) };
    Ok(client.get_port(request).await?.into_inner())
}

/// Returns all ports.
pub(crate) async fn all(client: &mut Client) -> Result<Vec<Port>, Failure> {
    Ok(wanted(client, ListPortsRequest::default()).await?.ports)
}

async fn wanted(
    client: &mut Client,
    request: ListPortsRequest,
) -> Result<ListPortsResponse, Failure> {
    let page = async |request| Ok::<_, Failure>(client.list_ports(request).await?.into_inner());
    lists::all(request, page).await
}

async fn list(
    client: &mut Client,
    request: ListPortsRequest,
    state: Option<String>,
    out: &Output,
) -> Result<(), Failure> {
    let mut response = wanted(client, request).await?;
    response.ports.retain(|port| state.as_ref().is_none_or(|state| port.state().word() == state));
    // The first five fit a terminal of 80 columns; `-o wide` has the rest.
    const HEADER: &[&str] = &[
        "NAME", "NETWORK", "STATE", "CLIENTS", "LOCATOR", "ROLE", "MACS", "VLANS", "ID", "LABELS",
    ];
    let mut table = Table::new(HEADER, 5);
    for port in &response.ports {
        let cells = vec![
            port.name.as_str().into(),
            port.network_name.as_str().into(),
            Cell::port_state(port.state()),
            (port.attachments.len() as u64).into(),
            port.locator.as_str().into(),
            role(port).into(),
            port.mac_limit.into(),
            vlans(port).into(),
            port.id.as_str().into(),
            mask::labels(&port.labels).into(),
        ];
        table.row(&port.name, cells);
    }
    out.list(&response, &table)
}

/// Prints which kinds of port there are; no server is asked.
pub(crate) fn kinds(out: &Output) -> Result<(), Failure> {
    const HEADER: &[&str] = &["KIND", "WRITTEN", "WHAT IT IS", "OPTIONS", "NEEDS"];
    let mut table = Table::new(HEADER, 3);
    let mut document = Vec::new();
    for kind in KINDS {
        let options = kind.options.iter().map(|option| match option.value {
            "" => option.name.to_owned(),
            value => format!("{}={value}", option.name),
        });
        let options = options.collect::<Vec<_>>().join(" ");
        document.push(BTreeMap::from([
            ("kind", kind.name),
            ("form", kind.form),
            ("about", kind.about),
            ("needs", kind.needs),
        ]));
        let cells = vec![
            kind.name.into(),
            kind.form.into(),
            kind.about.into(),
            options.into(),
            kind.needs.into(),
        ];
        table.row(kind.name, cells);
    }
    out.list(&document, &table)
}

/// Prints the ports there are, and each change, until the server ends.
async fn watch(client: &mut Client, network_id: String, out: &Output) -> Result<(), Failure> {
    let request = WatchPortsRequest { network_id, ..Default::default() };
    let mut events = Watched::of(client.watch_ports(request).await?)?;
    // `listening`; a header.
    let mut lines = Lines::begin(out, [("STATE", 9), ("CLIENTS", 7), ("LOCATOR", 0)])?;
    while let Some(event) = events.next().await? {
        let clients = event.port.as_ref().map_or(0, |port| port.attachments.len()).to_string();
        let port = event.port.as_ref();
        let port = port.map(|port| (&*port.name, [port.state().word(), &clients, &port.locator]));
        lines.event(&event, (event.timestamp, &event.port_id), port)?;
    }
    Ok(())
}

/// Returns the VLANs of a trunk, as they are written.
fn vlans(port: &Port) -> String {
    let vlans = port.vlans.iter().map(|it| format!("{}={}", it.vid, it.network_name));
    vlans.collect::<Vec<_>>().join(",")
}

/// Returns a port's role in one word.
fn role(port: &Port) -> &'static str {
    match port.role() {
        PortRole::Unspecified | PortRole::Access => "access",
        PortRole::Uplink => "uplink",
        PortRole::Peer => "peer",
    }
}

fn show(port: &Port, out: &Output) -> Result<(), Failure> {
    let [line_from, line_to] = impair::shown(port.impairments.as_ref());
    let mut rows = vec![
        ("name", port.name.as_str().into()),
        ("id", port.id.as_str().into()),
        ("network", port.network_name.as_str().into()),
        ("vlans", vlans(port).into()),
        ("locator", port.locator.as_str().into()),
        ("state", Cell::port_state(port.state())),
        ("error", port.error.as_str().into()),
        ("role", role(port).into()),
        ("mac limit", port.mac_limit.into()),
        ("protected", if port.protected { "yes" } else { "" }.into()),
        ("from port", rate::shown(port.limit_from).into()),
        ("to port", rate::shown(port.limit_to).into()),
        ("line from", line_from.into()),
        ("line to", line_to.into()),
    ];
    for client in &port.attachments {
        let since = units::local(&client.since);
        let blocked = match &*client.blocked {
            "" => String::new(),
            why => format!(", blocked: {why}"),
        };
        rows.push(("connected", format!("{} since {since}{blocked}", client.remote).into()));
    }
    if port.refused_clients > 0 {
        rows.push(("refused", units::counted(port.refused_clients, "connection").into()));
    }
    rows.extend([
        ("labels", mask::labels(&port.labels).into()),
        ("description", port.description.as_str().into()),
        ("created", units::local(&port.created_at).into()),
        ("updated", units::local(&port.updated_at).into()),
    ]);
    out.object(port, &port.name, &rows)
}
