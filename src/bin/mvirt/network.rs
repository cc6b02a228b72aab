//! `mvirt network …`

use super::{
    Failure, complete,
    connect::Client,
    delete::How,
    egress,
    filter::Filter,
    l2::{self, Kind},
    mask::{self, Mask, NewNotes, Notes, Now, Places},
    output::{Cell, Output, Table},
    units,
    watch::{Lines, Watched},
};
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use mvirt_net::{
    lists,
    proto::{
        CreateNetworkRequest, DeleteNetworkRequest, DnsMode, GetNetworkRequest,
        ListNetworksRequest, ListNetworksResponse, Network, NetworkKind, Toggle,
        UpdateNetworkRequest, WatchNetworksRequest, get_network_request::Identifier,
    },
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a network
    Create(Box<Create>),
    /// Show all networks
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List(Filter),
    /// Show all networks, then each change
    #[command(after_help = "Examples:\n  mvirt network watch\n  mvirt network watch -o json")]
    Watch,
    /// Show one network
    #[command(
        visible_alias = "show",
        after_help = "Examples:\n  mvirt network get prod\n  mvirt network get prod -o json"
    )]
    Get {
        /// Name or id
        #[arg(add = complete::networks())]
        network: String,
    },
    /// Change a network, while traffic flows
    Update(Box<Update>),
    /// Delete networks
    #[command(visible_alias = "rm", after_help = DELETE_EXAMPLES)]
    Delete {
        /// Names or ids
        #[arg(value_name = "NETWORK", required = true, add = complete::networks())]
        networks: Vec<String>,
        /// Delete their vNICs and ports too
        #[arg(short, long)]
        force: bool,
        #[command(flatten)]
        how: How,
    },
}

const LIST_EXAMPLES: &str = "\
Examples:
  mvirt network list --label owner=me
  mvirt network list --columns NAME,VNICS -o csv";

const DELETE_EXAMPLES: &str = "\
Examples:
  mvirt network delete prod test
  mvirt network delete prod --force --if-exists   # with its vNICs; whether or not it is there";

/// What guests are told of DNS.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Dns {
    /// The servers given by --dns
    Tell,
    /// The gateway, which knows the names of the network's vNICs
    Names,
}

impl Dns {
    /// Returns it as requests have it.
    fn number(self) -> i32 {
        match self {
            Self::Tell => DnsMode::Tell,
            Self::Names => DnsMode::Names,
        }
        .into()
    }
}

const EXAMPLES: &str = "\
Examples:
  mvirt network create prod --ipv4-subnet 10.0.0.0/24
  mvirt network create prod --ipv4-subnet 10.0.0.0/24 --ipv6-prefix fd00::/64 \
   --dns 1.1.1.1,9.9.9.9
  mvirt network create web --ipv4-subnet 10.1.0.0/24 --public
  mvirt network create lab --kind switched";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(group = ArgGroup::new("named").args(["name", "name_flag"]).required(true))]
pub(crate) struct Create {
    /// Unique name
    name: Option<String>,
    /// Unique name, for who likes flags
    #[arg(short, long = "name", value_name = "NAME")]
    name_flag: Option<String>,
    /// How guests reach each other
    #[arg(long, value_enum, default_value_t)]
    kind: Kind,
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
    /// What guests are told of DNS [default: tell]
    #[arg(long, value_enum)]
    dns_mode: Option<Dns>,
    /// Whether guests are told of their vNICs by HTTP, as of clouds [default: off]
    #[arg(long)]
    metadata: Option<l2::OnOff>,
    /// Let guests reach what is outside
    #[arg(long)]
    public: bool,
    #[command(flatten)]
    notes: Notes,
    #[command(flatten)]
    l2: l2::Flags,
    /// Whether it has a gateway, with DHCP and router advertisements [default: where it has
    /// addresses]
    #[arg(long, help_heading = l2::HEADING)]
    gateway: Option<l2::OnOff>,
    /// The gateway's address [default: the first of the subnet]
    #[arg(long, value_name = "ADDRESS", default_value = "", hide_default_value = true,
          help_heading = l2::HEADING)]
    gateway_ipv4: String,
    /// A UUID, which makes the command repeatable
    #[arg(long, value_name = "UUID", default_value = "", hide_default_value = true)]
    id: String,
    /// Check only: create nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  mvirt network update prod --dns 9.9.9.9 --clear-ntp --mtu 9000"
)]
pub(crate) struct Update {
    /// Name or id
    #[arg(add = complete::networks())]
    network: String,
    /// A new name
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
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
    /// Octets of an IP packet
    #[arg(long)]
    mtu: Option<u32>,
    /// DNS domain; an empty one removes it
    #[arg(long)]
    domain: Option<String>,
    /// What guests are told of DNS
    #[arg(long, value_enum)]
    dns_mode: Option<Dns>,
    /// Whether guests are told of their vNICs by HTTP, as of clouds
    #[arg(long)]
    metadata: Option<l2::OnOff>,
    /// Whether guests reach what is outside [default: true, where the flag is given]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    public: Option<bool>,
    #[command(flatten)]
    notes: NewNotes,
    #[command(flatten)]
    l2: l2::Flags,
    /// Check only: change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(
    command: Command,
    client: &mut Client,
    out: &Output,
) -> Result<(), Failure> {
    let is_new = matches!(command, Command::Create(_));
    let (network, is_dry) = match command {
        Command::Create(create) => {
            let is_dry = create.dry_run;
            let made = client.create_network(request(*create)?).await?.into_inner();
            (made, is_dry)
        }
        Command::List(filter) => return list(client, filter, out).await,
        Command::Watch => return watch(client, out).await,
        Command::Get { network } => (get(client, network).await?, false),
        Command::Update(update) => {
            let is_dry = update.dry_run;
            (change(*update, client).await?, is_dry)
        }
        Command::Delete { networks, force, how } => {
            let validate_only = how.dry_run;
            let delete = async |id: &str| {
                let id = id.to_owned();
                let request =
                    DeleteNetworkRequest { id, force, validate_only, ..Default::default() };
                let response = client.delete_network(request).await?.into_inner();
                let with = with_members(response.nics_deleted, response.ports_deleted);
                Ok::<_, Failure>((response, with))
            };
            return how.each(&networks, "network", out, delete).await;
        }
    };
    let public = match &*network.error {
        _ if !network.is_public => String::new(),
        "" => egress::way(client).await?,
        why => format!("yes, but {why}"),
    };
    show(&network, &public, out)?;
    if is_dry {
        out.dry_run();
    } else if is_new {
        out.next(&format!("mvirt nic create {} --name vm1", network.name));
    }
    Ok(())
}

/// Returns what goes with a network, in words.
fn with_members(nics: u32, ports: u32) -> String {
    let counted = [(nics, "vNIC"), (ports, "port")].into_iter().filter(|(count, _)| *count > 0);
    let counted = counted.map(|(count, what)| units::counted(count.into(), what));
    match &counted.collect::<Vec<_>>()[..] {
        [] => String::new(),
        [one] => format!(" and {one}"),
        all => format!(", {}", all.join(" and ")),
    }
}

fn request(create: Create) -> Result<CreateNetworkRequest, Failure> {
    create.l2.check(create.kind)?;
    let kind = match create.kind {
        Kind::Routed => NetworkKind::Routed,
        Kind::Switched => NetworkKind::Switched,
    };
    if kind == NetworkKind::Routed && create.ipv4_subnet.is_empty() && create.ipv6_prefix.is_empty()
    {
        let needed = "a routed network needs addresses: give --ipv4-subnet, --ipv6-prefix or both";
        return Err(Failure::Usage(needed.into()));
    }
    Ok(CreateNetworkRequest {
        labels: create.notes.marks.labels(Default::default())?,
        boot: create.notes.boot(None),
        description: create.notes.marks.description.unwrap_or_default(),
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
        dns_mode: create.dns_mode.map_or(0, Dns::number),
        metadata: create.metadata.map_or(0, |choice| Toggle::from(choice).into()),
        kind: kind.into(),
        l2: create.l2.apply(None),
        gateway: create.gateway.map_or(0, |choice| Toggle::from(choice).into()),
        gateway_ipv4: create.gateway_ipv4,
        validate_only: create.dry_run,
    })
}

async fn list(client: &mut Client, filter: Filter, out: &Output) -> Result<(), Failure> {
    let (name_prefix, labels) = filter.wanted()?;
    let request = ListNetworksRequest { name_prefix, labels, ..Default::default() };
    let networks = wanted(client, request).await?;
    let response = ListNetworksResponse { networks, ..Default::default() };
    // The first six fit a terminal of 80 columns; `-o wide` has the rest.
    const HEADER: &[&str] =
        &["NAME", "IPV4", "IPV6", "MTU", "VNICS", "PUBLIC", "KIND", "ID", "DOMAIN", "LABELS"];
    let mut table = Table::new(HEADER, 6);
    for network in &response.networks {
        let cells = vec![
            network.name.as_str().into(),
            network.ipv4_subnet.as_str().into(),
            network.ipv6_prefix.as_str().into(),
            network.mtu.into(),
            network.nic_count.into(),
            is_public(network),
            kind(network).into(),
            network.id.as_str().into(),
            network.domain.as_str().into(),
            mask::labels(&network.labels).into(),
        ];
        table.row(&network.name, cells);
    }
    out.list(&response, &table)
}

/// Returns all networks.
pub(crate) async fn all(client: &mut Client) -> Result<Vec<Network>, Failure> {
    wanted(client, ListNetworksRequest::default()).await
}

async fn wanted(
    client: &mut Client,
    request: ListNetworksRequest,
) -> Result<Vec<Network>, Failure> {
    let page = async |request| Ok::<_, Failure>(client.list_networks(request).await?.into_inner());
    Ok(lists::all(request, page).await?.networks)
}

/// Returns in one word whether guests reach the world; an error is told by `get`.
fn is_public(network: &Network) -> Cell {
    match &*network.error {
        _ if !network.is_public => "no".into(),
        "" => "yes".into(),
        _ => Cell::error(),
    }
}

async fn watch(client: &mut Client, out: &Output) -> Result<(), Failure> {
    let request = WatchNetworksRequest::default();
    let mut events = Watched::of(client.watch_networks(request).await?)?;
    let mut lines = Lines::begin(out, [("VNICS", 5), ("IPV4", 18), ("IPV6", 0)])?;
    while let Some(event) = events.next().await? {
        let network = event.network.as_ref();
        let nics = network.map_or(0, |network| network.nic_count).to_string();
        let shown = network.map(|it| (&*it.name, [&*nics, &it.ipv4_subnet, &it.ipv6_prefix]));
        lines.event(&event, (event.timestamp, &event.network_id), shown)?;
    }
    Ok(())
}

async fn change(update: Update, client: &mut Client) -> Result<Network, Failure> {
    let now = get(client, update.network).await?;
    let mut request =
        UpdateNetworkRequest { id: now.id, validate_only: update.dry_run, ..Default::default() };
    let servers = |given: Vec<String>, clear| (clear || !given.is_empty()).then_some(given);
    let mut mask = Mask::default();
    mask.set("name", &mut request.name, update.name);
    mask.set("dns_servers", &mut request.dns_servers, servers(update.dns, update.clear_dns));
    mask.set("ntp_servers", &mut request.ntp_servers, servers(update.ntp, update.clear_ntp));
    mask.set("mtu", &mut request.mtu, update.mtu);
    mask.set("domain", &mut request.domain, update.domain);
    mask.set("dns_mode", &mut request.dns_mode, update.dns_mode.map(Dns::number));
    let metadata = update.metadata.map(|choice| Toggle::from(choice).into());
    mask.set("metadata", &mut request.metadata, metadata);
    mask.set("is_public", &mut request.is_public, update.public.map(Some));
    if let Some(policy) = update.l2.apply(now.l2) {
        mask.set("l2", &mut request.l2, Some(Some(policy)));
        // What another client has changed of it meanwhile must not be lost.
        request.etag.clone_from(&now.etag);
    }
    let places = Places {
        labels: &mut request.labels,
        description: &mut request.description,
        boot: &mut request.boot,
        etag: &mut request.etag,
    };
    let now = Now { labels: now.labels, boot: now.boot, etag: now.etag };
    update.notes.put(now, &mut mask, places)?;
    request.update_mask = mask.into_paths("--dns, --clear-dns, --mtu, --domain")?;
    Ok(client.update_network(request).await?.into_inner())
}

pub(crate) async fn get(client: &mut Client, key: String) -> Result<Network, Failure> {
    // The server looks for either, whichever of both it is called.
    let request = GetNetworkRequest { identifier: Some(Identifier::Name(key)) };
    Ok(client.get_network(request).await?.into_inner())
}

/// Returns which servers guests are told of.
fn dns(network: &Network) -> String {
    match network.dns_mode() {
        DnsMode::Unspecified | DnsMode::Tell => network.dns_servers.join(" "),
        DnsMode::Names => "the gateway: names of vNICs".into(),
    }
}

/// Returns a network's kind in one word.
fn kind(network: &Network) -> &'static str {
    match network.kind() {
        NetworkKind::Unspecified | NetworkKind::Routed => "routed",
        NetworkKind::Switched => "switched",
    }
}

/// Shows a network, and how it is `public`; empty where it is not.
fn show(network: &Network, public: &str, out: &Output) -> Result<(), Failure> {
    // Most networks can have none.
    let ports = match network.port_count {
        0 => String::new(),
        count => count.to_string(),
    };
    let rows = [
        ("name", network.name.as_str().into()),
        ("id", network.id.as_str().into()),
        ("kind", kind(network).into()),
        ("ipv4", network.ipv4_subnet.as_str().into()),
        ("ipv6", network.ipv6_prefix.as_str().into()),
        ("gateway", network.gateway_ipv4.as_str().into()),
        ("dns", dns(network).into()),
        ("ntp", network.ntp_servers.join(" ").into()),
        ("domain", network.domain.as_str().into()),
        ("metadata", if network.metadata() == Toggle::On { "on" } else { "" }.into()),
        ("mtu", network.mtu.into()),
        ("public", public.into()),
        ("l2", l2::text(network.l2_in_force.as_ref()).into()),
        ("boot", mask::boot(network.boot.as_ref()).into()),
        ("vnics", network.nic_count.into()),
        ("ports", ports.into()),
        ("labels", mask::labels(&network.labels).into()),
        ("description", network.description.as_str().into()),
        ("created", units::local(&network.created_at).into()),
        ("updated", units::local(&network.updated_at).into()),
    ];
    out.object(network, &network.name, &rows)
}

#[cfg(test)]
mod tests {
    use super::with_members;

    #[test]
    fn ports_are_counted_as_vnics_are() {
        assert_eq!(with_members(0, 0), "");
        assert_eq!(with_members(1, 0), " and 1 vNIC");
        assert_eq!(with_members(0, 2), " and 2 ports");
        assert_eq!(with_members(3, 1), ", 3 vNICs and 1 port");
    }
}
