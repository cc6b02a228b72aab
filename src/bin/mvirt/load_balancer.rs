//! `mvirt load-balancer …`

use super::{
    Failure, complete,
    connect::{Client, Connection},
    delete::How,
    filter::Filter,
    forward::{state, state_word},
    mask::{self, Marks, Mask},
    nic::InNetwork,
    output::{Cell, Output, Table},
    units,
    wait::Patience,
    watch::{Lines, Watched},
};
use clap::{Args, Subcommand};
use mvirt_net::{
    lists,
    proto::{
        Backend, BalancedPort, CreateLoadBalancerRequest, DeleteLoadBalancerRequest,
        GetLoadBalancerRequest, HealthCheck, HealthKind, ListLoadBalancersRequest, LoadBalancer,
        Protocol, UpdateLoadBalancerRequest, WatchLoadBalancersRequest,
    },
};
use std::{collections::BTreeMap, net::IpAddr, str::FromStr};

const EXAMPLES: &str = "\
Examples:
  mvirt lb create --network web --address 203.0.113.80 --port tcp:80:8080 \\
      --backend vm1 --backend vm2,weight=2 --health http:/healthz
  mvirt lb create --network web --address 203.0.113.80 --port udp:53 --backend vm3 \\
      --health icmp,interval=1";
const UPDATES: &str = "\
Examples:
  mvirt lb update front --drain vm1         # no new flows; those that it has go on
  mvirt lb update front --undrain vm1
  mvirt lb update front --add vm3,weight=2 --remove vm1";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Spread flows that come to an address over vNICs
    Create(Box<Create>),
    /// Show all load balancers
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List {
        #[command(flatten)]
        within: InNetwork,
        #[command(flatten)]
        filter: Filter,
    },
    /// Show one load balancer, and how its backends are
    #[command(
        visible_alias = "show",
        after_help = "Examples:\n  mvirt lb get front\n  mvirt lb get front -o json"
    )]
    Get {
        /// Name or id
        #[arg(add = complete::load_balancers())]
        load_balancer: String,
    },
    /// Change a load balancer, while flows go on
    Update(Box<Update>),
    /// Delete load balancers; flows that they have spread go on
    #[command(visible_alias = "rm", after_help = "Examples:\n  mvirt lb delete front back")]
    Delete {
        /// Names or ids
        #[arg(value_name = "LOAD_BALANCER", required = true, add = complete::load_balancers())]
        load_balancers: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Print load balancers as they are, then each change, also of their backends, until Ctrl-C
    #[command(after_help = "Examples:\n  mvirt lb watch -n web")]
    Watch(InNetwork),
    /// Wait until so many backends take flows
    #[command(after_help = "Examples:\n  mvirt lb wait front --healthy 2 --at-most 30")]
    Wait {
        /// Name or id
        #[arg(add = complete::load_balancers())]
        load_balancer: String,
        /// How many: healthy, and not drained
        #[arg(long, value_name = "N", default_value = "1")]
        healthy: usize,
        #[command(flatten)]
        patience: Patience,
    },
}

const LIST_EXAMPLES: &str = "\
Examples:
  mvirt lb list -n web
  mvirt lb list --label owner=me --columns NAME,BACKENDS";

fn port(written: &str) -> Result<BalancedPort, &'static str> {
    const EXPECTED: &str = "expected a protocol and a port, and another of backends, like tcp:80, \
                            tcp:80:8080 or udp:53";
    let mut parts = written.split(':');
    let protocol = match parts.next() {
        Some("tcp") => Protocol::Tcp,
        Some("udp") => Protocol::Udp,
        _ => return Err(EXPECTED),
    };
    let number = |text: &str| text.parse::<u32>().ok().filter(|port| *port > 0).ok_or(EXPECTED);
    let port = number(parts.next().ok_or(EXPECTED)?)?;
    let target_port = parts.next().map_or(Ok(0), number)?;
    match parts.next() {
        None => Ok(BalancedPort { protocol: protocol.into(), port, target_port }),
        Some(_) => Err(EXPECTED),
    }
}

/// Returns a backend by what it is called: a vNIC's name or id, or an address.
fn named(text: &str) -> Backend {
    match text.parse::<IpAddr>() {
        Ok(_) => Backend { address: text.into(), ..Default::default() },
        Err(_) => Backend { nic_id: text.into(), ..Default::default() },
    }
}

fn backend(written: &str) -> Result<Backend, &'static str> {
    const EXPECTED: &str = "expected a vNIC or an address, and what it is to take, like vm1, \
                            vm2,weight=2 or vm3,drained";
    let mut parts = written.split(',');
    let name = parts.next().filter(|name| !name.is_empty()).ok_or(EXPECTED)?;
    let mut backend = named(name);
    for part in parts {
        match part.split_once('=') {
            Some(("weight", weight)) => {
                let weight = weight.parse().ok().filter(|weight: &u32| *weight > 0);
                backend.weight = weight.ok_or(EXPECTED)?;
            }
            None if part == "drained" => backend.drained = true,
            _ => return Err(EXPECTED),
        }
    }
    Ok(backend)
}

/// How backends are checked, as it is written; for clap, which takes an `Option` for something of
/// its own.
#[derive(Debug, Clone, PartialEq)]
struct Health(Option<HealthCheck>);

impl FromStr for Health {
    type Err = &'static str;

    fn from_str(written: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected none, tcp, tcp:PORT, http:/PATH, http:PORT/PATH or icmp, \
                                and figures, like tcp,interval=5,timeout=2,rise=2,fall=3";
        let mut parts = written.split(',');
        let (kind, at) = match parts.next().unwrap_or_default().split_once(':') {
            Some((kind, at)) => (kind, at),
            None => (written.split(',').next().unwrap_or_default(), ""),
        };
        let (port, path) = match at.find('/') {
            Some(slash) if kind == "http" => at.split_at(slash),
            _ => (at, ""),
        };
        let kind = match (kind, port) {
            ("none", "") if written == "none" => return Ok(Self(None)),
            ("tcp", _) => HealthKind::Tcp,
            ("http", _) => HealthKind::Http,
            ("icmp", "") => HealthKind::Icmp,
            _ => return Err(EXPECTED),
        };
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number > 0);
        let mut check = HealthCheck { kind: kind.into(), path: path.into(), ..Default::default() };
        if !port.is_empty() {
            check.port = number(port).ok_or(EXPECTED)?;
        }
        for part in parts {
            let (name, figure) = part.split_once('=').ok_or(EXPECTED)?;
            let place = match name {
                "interval" => &mut check.interval_s,
                "timeout" => &mut check.timeout_s,
                "rise" => &mut check.rise,
                "fall" => &mut check.fall,
                _ => return Err(EXPECTED),
            };
            *place = number(figure).ok_or(EXPECTED)?;
        }
        Ok(Self(Some(check)))
    }
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Create {
    /// Network of the backends, by name or id; it must be public
    #[arg(long, add = complete::networks())]
    network: String,
    /// Where flows come to
    #[arg(short, long)]
    address: String,
    /// What is served, and the backends' port if it is another; may be given several times
    #[arg(short, long = "port", value_name = "PROTOCOL:PORT[:TARGET]", required = true,
          value_parser = port)]
    ports: Vec<BalancedPort>,
    /// A vNIC or an address of the network that takes flows; may be given several times
    #[arg(short, long = "backend", value_name = "VNIC[,weight=N][,drained]", value_parser = backend,
          add = complete::nics())]
    backends: Vec<Backend>,
    /// How backends are checked: tcp, tcp:PORT, http:/PATH, http:PORT/PATH or icmp; then interval=,
    /// timeout= (seconds), rise=, fall=
    #[arg(long, value_name = "KIND[,NAME=N…]", default_value = "none", hide_default_value = true)]
    health: Health,
    /// Refuse who comes while no backend takes flows, instead of silence
    #[arg(long)]
    reject_when_empty: bool,
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
#[command(after_help = UPDATES)]
pub(crate) struct Update {
    /// Name or id
    #[arg(add = complete::load_balancers())]
    load_balancer: String,
    /// A new name
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
    /// In place of all ports; may be given several times
    #[arg(short, long = "port", value_name = "PROTOCOL:PORT[:TARGET]", value_parser = port)]
    ports: Vec<BalancedPort>,
    /// In place of all backends; may be given several times
    #[arg(short, long = "backend", value_name = "VNIC[,weight=N][,drained]", value_parser = backend,
          add = complete::nics(), conflicts_with_all = ["add", "remove", "drain", "undrain"])]
    backends: Vec<Backend>,
    /// One backend more, or another weight of one, which stays drained where it is; may be given
    /// several times
    #[arg(long, value_name = "VNIC[,weight=N]", value_parser = backend, add = complete::nics())]
    add: Vec<Backend>,
    /// One backend less; may be given several times
    #[arg(long, value_name = "VNIC", add = complete::nics())]
    remove: Vec<String>,
    /// A backend that takes no new flows; may be given several times
    #[arg(long, value_name = "VNIC", add = complete::nics())]
    drain: Vec<String>,
    /// A backend that takes new flows again; may be given several times
    #[arg(long, value_name = "VNIC", add = complete::nics())]
    undrain: Vec<String>,
    /// How backends are checked, as `create` takes it; none: not at all
    #[arg(long, value_name = "KIND[,NAME=N…]")]
    health: Option<Health>,
    /// Whether to refuse who comes while no backend takes flows
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    reject_when_empty: Option<bool>,
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
    connection: &Connection,
) -> Result<(), Failure> {
    let (balancer, is_dry) = match command {
        Command::Create(create) => {
            let is_dry = create.dry_run;
            (client.create_load_balancer(create.request()?).await?.into_inner(), is_dry)
        }
        Command::List { within: InNetwork { network: network_id }, filter } => {
            let (name_prefix, labels) = filter.wanted()?;
            let request =
                ListLoadBalancersRequest { network_id, name_prefix, labels, ..Default::default() };
            return list(client, request, out).await;
        }
        Command::Watch(InNetwork { network }) => return watch(client, network, out).await,
        Command::Wait { load_balancer, healthy, patience } => {
            let look = async || get(client, load_balancer.clone()).await;
            let said = (&*load_balancer, &*format!("{healthy} healthy"));
            // What takes no flows as a whole has no backend that does.
            let is_so = |it: &LoadBalancer| it.error.is_empty() && taking(it) >= healthy;
            (patience.until(connection.timeout(), said, is_so, look).await?, false)
        }
        Command::Get { load_balancer } => (get(client, load_balancer).await?, false),
        Command::Update(update) => {
            let is_dry = update.dry_run;
            (update.run(client).await?, is_dry)
        }
        Command::Delete { load_balancers, how } => {
            let validate_only = how.dry_run;
            let delete = async |id: &str| {
                let id = id.to_owned();
                let request = DeleteLoadBalancerRequest { id, validate_only, ..Default::default() };
                Ok::<_, Failure>((
                    client.delete_load_balancer(request).await?.into_inner(),
                    String::new(),
                ))
            };
            return how.each(&load_balancers, "load balancer", out, delete).await;
        }
    };
    show(&balancer, out)?;
    if is_dry {
        out.dry_run();
    }
    Ok(())
}

impl Create {
    fn request(self) -> Result<CreateLoadBalancerRequest, Failure> {
        Ok(CreateLoadBalancerRequest {
            id: self.id,
            network_id: self.network,
            address: self.address,
            ports: self.ports,
            backends: self.backends,
            health: self.health.0,
            reject_when_empty: self.reject_when_empty,
            name: self.name,
            labels: self.marks.labels(BTreeMap::new())?,
            description: self.marks.description.unwrap_or_default(),
            validate_only: self.dry_run,
        })
    }
}

impl Update {
    async fn run(mut self, client: &mut Client) -> Result<LoadBalancer, Failure> {
        let now = get(client, self.load_balancer.clone()).await?;
        let mut request = UpdateLoadBalancerRequest {
            id: now.id.clone(),
            validate_only: self.dry_run,
            ..Default::default()
        };
        let mut mask = Mask::default();
        mask.set("name", &mut request.name, self.name.take());
        let ports = std::mem::take(&mut self.ports);
        mask.set("ports", &mut request.ports, (!ports.is_empty()).then_some(ports));
        // Also where they are so already: what is asked for is done.
        if let Some(backends) = self.new_backends(now.backends)? {
            // What another client has changed meanwhile must not be lost.
            if self.backends.is_empty() {
                request.etag.clone_from(&now.etag);
            }
            mask.set("backends", &mut request.backends, Some(backends));
        }
        if let Some(Health(health)) = self.health {
            mask.set("health", &mut request.health, Some(health));
        }
        let reject = self.reject_when_empty;
        mask.set("reject_when_empty", &mut request.reject_when_empty, reject);
        if let Some(labels) = self.marks.new_labels(&now.labels, self.clear_labels.into())? {
            mask.set("labels", &mut request.labels, Some(labels));
            request.etag = now.etag;
        }
        mask.set("description", &mut request.description, self.marks.description);
        request.update_mask = mask.into_paths("--drain, --add, --health")?;
        Ok(client.update_load_balancer(request).await?.into_inner())
    }

    /// Returns the backends that take the place of those that there are `now`; nothing where none
    /// are named.
    ///
    /// # Errors
    ///
    /// There is none of a name.
    fn new_backends(&self, now: Vec<Backend>) -> Result<Option<Vec<Backend>>, Failure> {
        if !self.backends.is_empty() {
            return Ok(Some(self.backends.clone()));
        }
        let named = [&self.remove, &self.drain, &self.undrain];
        if self.add.is_empty() && named.iter().all(|names| names.is_empty()) {
            return Ok(None);
        }
        let mut backends = now;
        let find = |backends: &[Backend], flag: &str, name: &str| {
            let found = backends.iter().position(|backend| is_called(backend, name));
            found.ok_or_else(|| Failure::Usage(format!("{flag}: {name} is no backend")))
        };
        for name in &self.remove {
            backends.remove(find(&backends, "--remove", name)?);
        }
        for (flag, names, drained) in
            [("--drain", &self.drain, true), ("--undrain", &self.undrain, false)]
        {
            for name in names {
                let at = find(&backends, flag, name)?;
                backends[at].drained = drained;
            }
        }
        for new in &self.add {
            let name = if new.nic_id.is_empty() { &new.address } else { &new.nic_id };
            match backends.iter_mut().find(|backend| is_called(backend, name)) {
                // What is not said stays: who changes a weight puts nobody back into service.
                Some(backend) => {
                    backend.drained |= new.drained;
                    if new.weight != 0 {
                        backend.weight = new.weight;
                    }
                }
                None => backends.push(new.clone()),
            }
        }
        Ok(Some(backends))
    }
}

/// Whether a backend is called so: by its address, or its vNIC's name or id.
fn is_called(backend: &Backend, name: &str) -> bool {
    match name.parse::<IpAddr>() {
        Ok(address) => backend.address.parse() == Ok(address),
        Err(_) => [&backend.nic_id, &backend.nic_name].iter().any(|it| *it == name),
    }
}

async fn get(client: &mut Client, id: String) -> Result<LoadBalancer, Failure> {
    Ok(client.get_load_balancer(GetLoadBalancerRequest { id }).await?.into_inner())
}

/// Prints the load balancers there are, and each change, until the server ends.
async fn watch(client: &mut Client, network_id: String, out: &Output) -> Result<(), Failure> {
    let request = WatchLoadBalancersRequest { network_id, ..Default::default() };
    let mut events = Watched::of(client.watch_load_balancers(request).await?)?;
    // `not-in-force`; a header.
    let mut lines = Lines::begin(out, [("STATE", 12), ("BACKENDS", 8), ("ADDRESS", 0)])?;
    while let Some(event) = events.next().await? {
        let shown = event.load_balancer.as_ref();
        let cells = shown.map(|it| (state_word(&it.error), taking_of_all(it))).unwrap_or_default();
        let shown = shown.map(|it| (&*it.name, [&*cells.0, &cells.1, &it.address]));
        lines.event(&event, (event.timestamp, &event.load_balancer_id), shown)?;
    }
    Ok(())
}

async fn list(
    client: &mut Client,
    request: ListLoadBalancersRequest,
    out: &Output,
) -> Result<(), Failure> {
    let page =
        async |request| Ok::<_, Failure>(client.list_load_balancers(request).await?.into_inner());
    let response = lists::all(request, page).await?;
    // The first five fit a terminal of 80 columns; `-o wide` has the rest.
    const HEADER: &[&str] =
        &["NAME", "ADDRESS", "PORTS", "BACKENDS", "STATE", "NETWORK", "ID", "LABELS"];
    let mut table = Table::new(HEADER, 5);
    for balancer in &response.load_balancers {
        let cells = vec![
            balancer.name.as_str().into(),
            balancer.address.as_str().into(),
            ports(balancer).replace(' ', ",").into(),
            taking_of_all(balancer).into(),
            state_word(&balancer.error).into(),
            balancer.network_name.as_str().into(),
            balancer.id.as_str().into(),
            mask::labels(&balancer.labels).into(),
        ];
        table.row(&balancer.name, cells);
    }
    out.list(&response, &table)
}

/// Returns services as they are written.
fn ports(balancer: &LoadBalancer) -> String {
    let one = |port: &BalancedPort| {
        let (protocol, target) = (port.protocol().word(), port.target_port);
        let to = if target == port.port { String::new() } else { format!(":{target}") };
        format!("{protocol}:{}{to}", port.port)
    };
    balancer.ports.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Returns how many backends take flows.
fn taking(balancer: &LoadBalancer) -> usize {
    balancer.backends.iter().filter(|backend| backend.healthy && !backend.drained).count()
}

/// Returns that, and of how many.
fn taking_of_all(balancer: &LoadBalancer) -> String {
    format!("{}/{}", taking(balancer), balancer.backends.len())
}

/// Returns a check as it is written.
fn health(check: Option<&HealthCheck>) -> String {
    let Some(check) = check else { return "none".into() };
    let port = |before: &str| match check.port {
        0 => String::new(),
        port => format!("{before}{port}"),
    };
    let what = match check.kind() {
        HealthKind::Unspecified | HealthKind::None => "none".into(),
        HealthKind::Tcp => format!("tcp{}", port(":")),
        HealthKind::Http => format!("http:{}{}", port(""), check.path),
        HealthKind::Icmp => "icmp".into(),
    };
    let HealthCheck { interval_s, timeout_s, rise, fall, .. } = check;
    format!("{what},interval={interval_s},timeout={timeout_s},rise={rise},fall={fall}")
}

/// Returns how a backend is, in words.
fn backend_state(backend: &Backend) -> String {
    let weight =
        if backend.weight == 1 { String::new() } else { format!(", weight {}", backend.weight) };
    let drained = if backend.drained { ", drained" } else { "" };
    let health = match &*backend.error {
        _ if backend.healthy && backend.checked => "healthy".into(),
        _ if backend.healthy => "not checked".into(),
        "" => "not healthy".into(),
        why => format!("not healthy ({why})"),
    };
    format!("{health}{drained}{weight}")
}

fn show(balancer: &LoadBalancer, out: &Output) -> Result<(), Failure> {
    let reject = if balancer.reject_when_empty { "refused" } else { "silence" };
    let mut rows: Vec<(&str, Cell)> = vec![
        ("name", balancer.name.as_str().into()),
        ("id", balancer.id.as_str().into()),
        ("network", balancer.network_name.as_str().into()),
        ("address", balancer.address.as_str().into()),
        ("ports", ports(balancer).into()),
        ("health", health(balancer.health.as_ref()).into()),
        ("when empty", reject.into()),
        ("state", state(&balancer.error).into()),
        ("error", balancer.error.as_str().into()),
    ];
    for backend in &balancer.backends {
        let names = [&backend.nic_name, &backend.nic_id, &backend.address];
        let name = names.into_iter().find(|name| !name.is_empty()).map_or("", String::as_str);
        rows.push(("backend", format!("{name}: {}", backend_state(backend)).into()));
    }
    rows.extend([
        ("labels", mask::labels(&balancer.labels).into()),
        ("description", balancer.description.as_str().into()),
        ("created", units::local(&balancer.created_at).into()),
        ("updated", units::local(&balancer.updated_at).into()),
    ]);
    out.object(balancer, &balancer.name, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_backends_are_written_in_one_word() {
        let tcp = |port, target_port| {
            Ok(BalancedPort { protocol: Protocol::Tcp.into(), port, target_port })
        };
        assert_eq!((port("tcp:80"), port("tcp:80:8080")), (tcp(80, 0), tcp(80, 8080)));
        for bad in ["80", "tcp", "tcp:", "sctp:80", "tcp:0", "tcp:80:", "tcp:80:1:2", "tcp:80-90"] {
            assert!(port(bad).is_err(), "{bad}");
        }
        let vm2 = backend("vm2,weight=2,drained").unwrap();
        assert_eq!((&*vm2.nic_id, vm2.weight, vm2.drained), ("vm2", 2, true));
        assert_eq!(backend("fd00:1::9").unwrap().address, "fd00:1::9");
        for bad in ["", ",weight=2", "vm1,weight", "vm1,weight=0", "vm1,heavy"] {
            assert!(backend(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_check_is_written_as_it_is_shown() {
        for written in [
            "tcp,interval=5,timeout=2,rise=2,fall=3",
            "tcp:8080,interval=1,timeout=1,rise=1,fall=1",
            "http:/healthz,interval=5,timeout=2,rise=2,fall=3",
            "http:8081/a/b?c,interval=5,timeout=2,rise=2,fall=3",
            "icmp,interval=5,timeout=2,rise=2,fall=3",
        ] {
            let read: Health = written.parse().unwrap();
            assert_eq!(health(read.0.as_ref()), written);
        }
        assert_eq!("none".parse(), Ok(Health(None)));
        for bad in
            ["", "none,rise=2", "ftp", "icmp:7", "tcp:x", "tcp,rise", "tcp,rise=0", "tcp,up=2"]
        {
            assert!(bad.parse::<Health>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_change_of_backends_keeps_the_others() {
        let there = |id: &str, name: &str| Backend {
            nic_id: id.into(),
            nic_name: name.into(),
            weight: 1,
            healthy: true,
            ..Default::default()
        };
        let now = vec![there("1", "vm1"), there("2", "vm2")];
        let update = |add: &[&str], remove: &[&str], drain: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
            Update {
                load_balancer: "front".into(),
                name: None,
                ports: vec![],
                backends: vec![],
                add: add.iter().map(|name| backend(name).unwrap()).collect(),
                remove: owned(remove),
                drain: owned(drain),
                undrain: vec![],
                health: None,
                reject_when_empty: None,
                marks: Marks::default(),
                clear_labels: false,
                dry_run: false,
            }
            .new_backends(now.clone())
        };
        let names = |backends: Option<Vec<Backend>>| {
            let all = backends.unwrap().into_iter();
            all.map(|it| (it.nic_id, it.weight, it.drained)).collect::<Vec<_>>()
        };
        let changed = update(&["vm3,weight=2", "vm2,weight=5"], &["vm1"], &[]).unwrap();
        assert_eq!(names(changed), [("2".into(), 5, false), ("vm3".into(), 2, false)]);
        let drained = update(&[], &[], &["vm1"]).unwrap();
        assert_eq!(names(drained), [("1".into(), 1, true), ("2".into(), 1, false)]);
        // Another weight puts nobody back into service, and to be drained is no weight.
        let weighed = update(&["vm1,weight=3", "vm2,drained"], &[], &["vm1"]).unwrap();
        assert_eq!(names(weighed), [("1".into(), 3, true), ("2".into(), 1, true)]);
        assert!(update(&[], &["vm9"], &[]).is_err());
        assert_eq!(update(&[], &[], &[]).unwrap(), None, "nothing is named");
    }
}
