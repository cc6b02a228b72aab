//! Every default, path and flag of the daemon.

use crate::{
    account::{Group, Mode, User},
    dataplane::{Access, Hugepages},
    egress::protocol::Denied,
    flags::{
        self, Gathered, effective,
        read::{Presence, Wanted},
    },
    manual::Generated,
    net_toml::{self, FilePage},
    web::per_nic::PerNic,
    wire::dns,
};
use clap::{
    ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, ValueEnum,
    builder::FalseyValueParser,
};
use ipnet::IpNet;
use std::{
    env,
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

/// Where the daemon listens, and the CLI looks for it.
// Loopback: beyond it the API is served with certificates only (`access`).
pub const DEFAULT_LISTEN: &str = "[::1]:50054";
/// Where the service of `dist/mvirt-net.service` listens instead.
pub const SERVICE_SOCKET: &str = "/run/mvirt/net-api.sock";

/// Where the CLI looks for the daemon: at the service's socket, where there is one.
pub fn default_server() -> String {
    if Path::new(SERVICE_SOCKET).exists() {
        return format!("unix:{SERVICE_SOCKET}");
    }
    DEFAULT_LISTEN.into()
}

/// Octets of an IP packet, where a network does not say.
// Ethernet's (RFC 894 and RFC 2464).
pub const DEFAULT_MTU: u16 = 1500;

/// Returns the domain of names where a network has none.
pub fn default_domain() -> dns::Name {
    // Set apart for networks that nobody outside sees (ICANN, 2024): no name there is hidden.
    "internal".parse().expect("it is a label")
}
// Each ordered pair may need a link of 2 MiB: 64 reactors have 8 GiB of them at worst.
const MAX_REACTORS: usize = 64;
/// With `--reactors auto`: half of the CPUs are for guests, and few hosts need more than this.
const MAX_AUTO_REACTORS: usize = 4;
/// Microseconds that a reactor keeps polling after the last frame.
// Up to eight times as much where it pays: decision 0005 has the figures.
pub const DEFAULT_BUSY_POLL: u64 = 50;
/// Percent of the time that a reactor may be busy before it gives ports to others.
pub const DEFAULT_REBALANCE: u8 = 80;
/// Ports there may be.
// Each connection of one that listens has some 400 KiB of buffers.
pub const DEFAULT_MAX_PORTS: usize = 4096;
/// Networks there may be.
pub const DEFAULT_MAX_NETWORKS: usize = 4096;

/// The servers of the host for names.
pub const DEFAULT_RESOLV_CONF: &str = "/etc/resolv.conf";

/// The TUN device that leads outside.
pub const DEFAULT_EGRESS_DEVICE: &str = "mvirt0";

/// How many data-plane threads suit this machine.
pub fn auto_reactors() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    (cpus / 2).clamp(1, MAX_AUTO_REACTORS)
}

/// An address of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// TCP.
    Tcp(SocketAddr),
    /// A UNIX socket.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err("expected an absolute path after unix:, like unix:/run/mvirt/net.sock".into())
            };
        }
        text.parse()
            .map(Self::Tcp)
            .map_err(|_| format!("expected ADDRESS:PORT like {DEFAULT_LISTEN}, or unix:/path"))
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How many reactors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reactors {
    /// As many as suit the machine, or `--cpus`.
    Auto,
    /// So many.
    Count(usize),
}

impl FromStr for Reactors {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let count = text.parse().ok().filter(|count| (1..=MAX_REACTORS).contains(count));
        match (text, count) {
            ("auto", _) => Ok(Self::Auto),
            (_, Some(count)) => Ok(Self::Count(count)),
            _ => Err(format!("expected auto or 1-{MAX_REACTORS}")),
        }
    }
}

/// Octets of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub usize);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, shift) = match text.as_bytes().last() {
            Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
            Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
            Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
            _ => (text, 0),
        };
        let is_number = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
        let octets = number.parse::<usize>().ok().filter(|_| is_number);
        let octets = octets.and_then(|octets| octets.checked_mul(1 << shift));
        // From what holds a few thousand frames to what no host has to spare.
        let octets = octets.filter(|octets| (1 << 20..=1 << 40).contains(octets));
        octets.map(Self).ok_or_else(|| "expected 1M to 1024G, like 64M".into())
    }
}

/// A list of CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpus(pub Vec<usize>);

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || "expected CPUs like 2,3 or 2-5".to_owned();
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            // CPU_SETSIZE of CPU_SET(3).
            let number = |text: &str| text.parse::<usize>().ok().filter(|cpu| *cpu < 1024);
            let (Some(first), Some(last)) = (number(first), number(last)) else {
                return Err(malformed());
            };
            if first > last {
                return Err(malformed());
            }
            cpus.extend(first..=last);
        }
        // The order given is kept: it says which reactor is where.
        let mut sorted = cpus.clone();
        sorted.sort_unstable();
        if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("a CPU is named twice".into());
        }
        Ok(Self(cpus))
    }
}

/// Backing of the channels between reactors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HugepagesFlag {
    /// 2 MiB pages if there are any, else ordinary memory and one warning
    Auto,
    /// 2 MiB pages or nothing
    On,
    /// Ordinary memory
    Off,
}

impl From<HugepagesFlag> for Hugepages {
    fn from(flag: HugepagesFlag) -> Self {
        match flag {
            HugepagesFlag::Auto => Self::Auto,
            HugepagesFlag::On => Self::On,
            HugepagesFlag::Off => Self::Off,
        }
    }
}

/// How guests of public networks reach what is outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EgressFlag {
    /// By the host's routing where the daemon may change that, else as user
    Auto,
    /// By the host's routing, through a TUN device: needs CAP_NET_ADMIN and nft
    Tun,
    /// By sockets of the host, without privileges: TCP, UDP and ping, through mvirt-egress
    User,
    /// Not at all: no network can be public
    Off,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

impl LogFormat {
    /// Whether the flags, which may be wrong otherwise, ask for JSON.
    pub fn is_json_asked_for() -> bool {
        let arguments: Vec<OsString> = env::args_os().collect();
        let is_flag = |pair: &[OsString]| pair[0] == "--log-format" && pair[1] == "json";
        arguments.windows(2).any(is_flag)
            || arguments.iter().any(|argument| argument == "--log-format=json")
            || env::var_os("MVIRT_NET_LOG_FORMAT").is_some_and(|format| format == "json")
    }
}

/// What is said behind the flags.
const EXAMPLES: &str = "\
Examples:
  mvirt-net                                    networks of your own, without privileges
  mvirt network create prod --ipv4-subnet 10.0.0.0/24
  mvirt-net --listen unix:/run/mvirt/net-api.sock --allow-gid kvm --socket-group kvm

Signals: SIGTERM and SIGINT end it; SIGUSR2 lets the program that is installed by now take over;
SIGUSR1 writes the frames of --capture-ring into a file

Exit codes: 0 ended, 1 cannot start or go on, 2 a flag, a variable or the file is wrong";

/// The daemon that carries the frames of virtual machines, in networks that are routed or switched.
///
/// VMs come in by a vhost-user socket for each of their cards, or by other ports. Networks, vNICs
/// and ports are made by `mvirt`, or another client of the gRPC API.
#[derive(Debug, Clone, Parser)]
#[command(name = "mvirt-net", version, after_help = EXAMPLES)]
pub struct Config {
    /// Where the gRPC API is: ADDRESS:PORT, or unix:/path; may be given several times
    #[arg(
        long,
        value_name = "ADDR", env = "MVIRT_NET_LISTEN",
        default_value = DEFAULT_LISTEN, value_delimiter = ','
    )]
    pub listen: Vec<Listen>,

    /// PEM certificate of the daemon; needed, with the next two, to listen beyond loopback
    #[arg(
        long,
        value_name = "FILE", env = "MVIRT_NET_TLS_CERT",
        requires_all = ["tls_key", "tls_client_ca"]
    )]
    pub tls_cert: Option<PathBuf>,

    /// PEM private key of that certificate
    #[arg(
        long,
        value_name = "FILE", env = "MVIRT_NET_TLS_KEY",
        requires_all = ["tls_cert", "tls_client_ca"]
    )]
    pub tls_key: Option<PathBuf>,

    /// PEM certificates of the authorities whose clients are let in
    #[arg(
        long,
        value_name = "FILE", env = "MVIRT_NET_TLS_CLIENT_CA",
        requires_all = ["tls_cert", "tls_key"]
    )]
    pub tls_client_ca: Option<PathBuf>,

    /// Users, by name or number, who may use the API over its UNIX socket, beside root and the
    /// daemon's own
    #[arg(long, value_name = "USER", env = "MVIRT_NET_ALLOW_UID", value_delimiter = ',')]
    pub allow_uid: Vec<User>,

    /// Groups, by name or number, whose members may
    #[arg(long, value_name = "GROUP", env = "MVIRT_NET_ALLOW_GID", value_delimiter = ',')]
    pub allow_gid: Vec<Group>,

    /// Where the vNICs' sockets are made [default: /run/mvirt/net; not root:
    /// $XDG_RUNTIME_DIR/mvirt/net]
    #[arg(long, value_name = "DIR", env = "MVIRT_NET_SOCKET_DIR")]
    pub socket_dir: Option<PathBuf>,

    /// Owner of the vNICs' sockets, where a vNIC does not say; another user's needs CAP_CHOWN
    #[arg(long, value_name = "USER", env = "MVIRT_NET_SOCKET_OWNER")]
    pub socket_owner: Option<User>,

    /// Group of the vNICs' sockets, where a vNIC does not say: VMMs run in it
    #[arg(long, value_name = "GROUP", env = "MVIRT_NET_SOCKET_GROUP")]
    pub socket_group: Option<Group>,

    /// Permissions of the vNICs' sockets, in octal, where a vNIC does not say [default: 660]
    #[arg(long, value_name = "MODE", env = "MVIRT_NET_SOCKET_MODE")]
    pub socket_mode: Option<Mode>,

    /// Where networks and vNICs are kept [default: /var/lib/mvirt/net; not root:
    /// $XDG_STATE_HOME/mvirt/net]
    #[arg(long, value_name = "DIR", env = "MVIRT_NET_METADATA_DIR")]
    pub metadata_dir: Option<PathBuf>,

    /// Data-plane threads: auto or a number
    #[arg(long, value_name = "N", env = "MVIRT_NET_REACTORS", default_value = "auto")]
    pub reactors: Reactors,

    /// Pin reactors to these CPUs, like 2,3 or 2-5
    #[arg(long, value_name = "LIST", env = "MVIRT_NET_CPUS")]
    pub cpus: Option<Cpus>,

    /// Back the channels between reactors with 2 MiB pages
    #[arg(long, value_name = "WHEN", env = "MVIRT_NET_HUGEPAGES", default_value = "auto")]
    pub hugepages: HugepagesFlag,

    /// How long a reactor keeps polling after the last frame before it sleeps; 0: sleep at once
    #[arg(long, value_name = "MICROS", env = "MVIRT_NET_BUSY_POLL",
          default_value_t = DEFAULT_BUSY_POLL,
          value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    pub busy_poll: u64,

    /// How busy a reactor must be, as a share of the time it carries frames, to give vNICs to
    /// others; 100: never
    #[arg(long, value_name = "PERCENT", env = "MVIRT_NET_REBALANCE",
          default_value_t = DEFAULT_REBALANCE,
          value_parser = clap::value_parser!(u8).range(1..=100))]
    pub rebalance: u8,

    /// Networks there may be
    #[arg(long, value_name = "N", env = "MVIRT_NET_MAX_NETWORKS",
          default_value_t = DEFAULT_MAX_NETWORKS)]
    pub max_networks: usize,

    /// vNICs there may be
    #[arg(long, value_name = "N", env = "MVIRT_NET_MAX_NICS", default_value = "16384")]
    pub max_nics: usize,

    /// Prefixes that may be routed to one vNIC; of each family 256 in any case
    #[arg(long, value_name = "N", env = "MVIRT_NET_MAX_ROUTES", default_value = "512")]
    pub max_routes: usize,

    /// Ports there may be
    #[arg(long, value_name = "N", env = "MVIRT_NET_MAX_PORTS",
          default_value_t = DEFAULT_MAX_PORTS)]
    pub max_ports: usize,

    /// Folders that sockets of ports may be in, separated by commas [default: that of
    /// --socket-dir, and /run/vde]
    #[arg(long, value_name = "DIR", env = "MVIRT_NET_PORT_DIR", value_delimiter = ',')]
    pub port_dir: Vec<PathBuf>,

    /// Networks whose addresses ports may listen at, beside loopback, separated by commas:
    /// 0.0.0.0/0 for all, groups among them
    #[arg(long, value_name = "CIDR", env = "MVIRT_NET_PORT_LISTEN", value_delimiter = ',',
          value_parser = network)]
    pub port_listen: Vec<IpNet>,

    /// How guests of public networks reach what is outside
    #[arg(long, value_name = "HOW", env = "MVIRT_NET_EGRESS", default_value = "auto")]
    pub egress: EgressFlag,

    /// The TUN device that leads outside, which is made with the first public network
    #[arg(long, value_name = "NAME", env = "MVIRT_NET_EGRESS_DEVICE",
          default_value = DEFAULT_EGRESS_DEVICE, value_parser = interface)]
    pub egress_device: String,

    /// Let the host forward packets (net.ipv4.ip_forward, net.ipv6.conf.all.forwarding; accept_ra=2
    /// where it follows routers) once a network is public, and answer for IPv6 addresses of guests
    /// (net.ipv6.conf.LINK.proxy_ndp)
    #[arg(long, env = "MVIRT_NET_EGRESS_SYSCTL", value_parser = FalseyValueParser::new())]
    pub egress_sysctl: bool,

    /// Whom to ask for names that no network has, where a public one has no DNS servers
    #[arg(long, value_name = "FILE", env = "MVIRT_NET_RESOLV_CONF",
          default_value = DEFAULT_RESOLV_CONF)]
    pub resolv_conf: PathBuf,

    /// What guests may reach by mvirt-egress although nobody may by default: link-local networks of
    /// the host
    #[arg(long, value_name = "PREFIX", env = "MVIRT_NET_EGRESS_ALLOW", value_delimiter = ',',
          value_parser = network)]
    pub egress_allow: Vec<IpNet>,

    /// What guests may not reach by mvirt-egress, nor by ports slirp://, whatever is allowed
    #[arg(long, value_name = "PREFIX", env = "MVIRT_NET_EGRESS_DENY", value_delimiter = ',',
          value_parser = network)]
    pub egress_deny: Vec<IpNet>,

    /// The address that is, for guests, the loopback address of the host, by mvirt-egress
    #[arg(long, value_name = "ADDRESS", env = "MVIRT_NET_EGRESS_HOST_LOOPBACK")]
    pub egress_host_loopback: Option<IpAddr>,

    /// Remove the device, routes and rules of nftables that are there for public networks, and end
    #[arg(long)]
    pub cleanup: bool,

    /// Where counters are served by HTTP at /metrics, as OpenMetrics text [default: nowhere]
    #[arg(long, value_name = "ADDR", env = "MVIRT_NET_METRICS", value_parser = address)]
    pub metrics: Option<SocketAddr>,

    /// Serve them beyond loopback, too, to whoever asks
    #[arg(
        long, env = "MVIRT_NET_METRICS_INSECURE",
        requires = "metrics", value_parser = FalseyValueParser::new()
    )]
    pub metrics_insecure: bool,

    /// Which vNICs and ports have series of their own: all, none or top:N, those that have carried
    /// most [default: all up to 2000, else top:200]
    #[arg(long, value_name = "WHICH", env = "MVIRT_NET_METRICS_PER_NIC")]
    pub metrics_per_nic: Option<PerNic>,

    /// Where a console for browsers is served by HTTP, which shows all there is and changes nothing
    /// [default: nowhere]
    #[arg(long, value_name = "ADDR", env = "MVIRT_NET_HTTP", value_parser = address)]
    pub http: Option<SocketAddr>,

    /// File of the token that readers of the console have to know; beyond loopback they have to
    #[arg(long, value_name = "FILE", env = "MVIRT_NET_HTTP_TOKEN", requires = "http")]
    pub http_token: Option<PathBuf>,

    /// GiB of memory that one VMM may have mapped
    #[arg(long, value_name = "GIB", env = "MVIRT_NET_MAX_GUEST_MEMORY", default_value = "1024",
          value_parser = clap::value_parser!(u64).range(1..1 << 20))]
    // The highest value, in octets, is still far from 2^64: it is shifted by 30 bits.
    pub max_guest_memory: u64,

    /// Keep the heads of the last frames of all vNICs and ports, in so much memory, for `mvirt
    /// capture --ring`, for SIGUSR1, and for when a port fails: like 64M
    #[arg(long, value_name = "SIZE", env = "MVIRT_NET_CAPTURE_RING")]
    pub capture_ring: Option<Size>,

    /// How log lines look, on stderr; the variable RUST_LOG says which there are, like debug
    #[arg(long, value_name = "FORMAT", env = "MVIRT_NET_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// File of flags, net.toml(5); what is given otherwise counts before it [default:
    /// /etc/mvirt/net.toml, if there; not root: $XDG_CONFIG_HOME/mvirt/net.toml]
    #[arg(long, value_name = "FILE", env = "MVIRT_NET_CONFIG")]
    pub config: Option<PathBuf>,

    /// Print what is in force and where each value is from, with that file if it is given, and end:
    /// 2 if something is wrong
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    pub check_config: Option<Option<PathBuf>>,

    /// Take over from the daemon at the standard input, which starts this one with that flag
    #[arg(long, hide = true)]
    pub take_over: bool,

    /// Print what `make install` installs beside this program
    #[arg(long, hide = true, value_name = "WHAT")]
    pub generate: Option<Generated>,

    /// Print what `make install` installs for the file of flags
    #[arg(long, hide = true, value_name = "WHAT")]
    pub generate_file: Option<FilePage>,

    /// Print the reference of the API, a page of the book
    #[arg(long, hide = true)]
    pub generate_reference: bool,
}

impl Config {
    /// Returns what guests may not reach by sockets of the host, whatever is allowed: nobody the
    /// API.
    pub fn denied(&self) -> Vec<Denied> {
        let prefixes = self.egress_deny.iter().copied().map(Denied::Network);
        let api = self.listen.iter().filter_map(|listen| match listen {
            Listen::Tcp(address) => Some(Denied::Port(*address)),
            Listen::Unix(_) => None,
        });
        let web = [self.metrics, self.http].into_iter().flatten().map(Denied::Port);
        prefixes.chain(api).chain(web).collect()
    }

    /// The command line, the environment and the file, and what each has said; an error may be one
    /// of `--help` or `--version`.
    pub fn read() -> Result<(Self, Gathered), clap::Error> {
        let arguments: Vec<OsString> = env::args_os().collect();
        let gathered = flags::gather(Self::command(), &arguments, file)?;
        Ok((Self::from_arg_matches(&gathered.matches)?, gathered))
    }

    /// Returns all values that are in force, and where each is from.
    pub fn shown(&self, gathered: &Gathered) -> String {
        let shown = |path: Option<PathBuf>| path.map(|path| path.display().to_string());
        let folders = [("socket-dir", self.socket_dir()), ("metadata-dir", self.metadata_dir())];
        let computed = folders.into_iter().filter_map(|(key, path)| Some((key, shown(path)?)));
        effective::show(gathered, &computed.collect::<Vec<_>>())
    }

    /// Who may open vNICs' sockets.
    pub fn socket_access(&self) -> Access {
        Access {
            owner: self.socket_owner.map(|user| user.0),
            group: self.socket_group.map(|group| group.0),
            mode: self.socket_mode.map(|mode| mode.0),
        }
    }

    /// Where sockets are made; `None` where no default can be told.
    pub fn socket_dir(&self) -> Option<PathBuf> {
        self.socket_dir.clone().or_else(|| {
            if is_root() {
                return Some("/run/mvirt/net".into());
            }
            env_dir("XDG_RUNTIME_DIR").map(|dir| dir.join("mvirt/net"))
        })
    }

    /// Where metadata is kept; `None` where no default can be told.
    pub fn metadata_dir(&self) -> Option<PathBuf> {
        self.metadata_dir.clone().or_else(|| {
            if is_root() {
                return Some("/var/lib/mvirt/net".into());
            }
            let state = env_dir("XDG_STATE_HOME")
                .or_else(|| env_dir("HOME").map(|home| home.join(".local/state")));
            state.map(|dir| dir.join("mvirt/net"))
        })
    }

    /// How many data-plane threads.
    pub fn reactor_count(&self) -> usize {
        match (self.reactors, &self.cpus) {
            (Reactors::Count(count), _) => count,
            (Reactors::Auto, Some(Cpus(cpus))) => cpus.len().min(MAX_REACTORS),
            (Reactors::Auto, None) => auto_reactors(),
        }
    }
}

/// What could be given for a directory that has no default.
pub fn example_dir(flag: &str) -> PathBuf {
    let own = || env::temp_dir().join(format!("mvirt-{}", rustix::process::geteuid().as_raw()));
    let base = env_dir("HOME").map_or_else(own, |home| home.join(".local"));
    // Not the default place of the metadata.
    let kind = if flag == "socket-dir" { "run" } else { "state" };
    base.join(kind).join("mvirt/net")
}

/// Returns which file of flags is to be read, by what the command line and the environment say.
fn file(matches: &ArgMatches) -> Option<Wanted> {
    // What is installed is the same everywhere.
    if matches.contains_id("generate")
        || matches.contains_id("generate_file")
        || matches.get_flag("generate_reference")
    {
        return None;
    }
    let named = |id| matches.get_one::<PathBuf>(id).cloned();
    if let Some(path) = named("check_config").or_else(|| named(flags::FILE)) {
        return Some(Wanted { path, presence: Presence::Needed });
    }
    let own = || {
        let config = env_dir("XDG_CONFIG_HOME");
        let config = config.or_else(|| env_dir("HOME").map(|home| home.join(".config")))?;
        Some(config.join("mvirt/net.toml"))
    };
    let path = if is_root() { net_toml::PATH.into() } else { own()? };
    Some(Wanted { path, presence: Presence::Optional })
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn env_dir(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Reads a network; of an address alone it says how that one is written as a network.
fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>().map_err(|error| match text.parse::<std::net::IpAddr>() {
        Ok(address) => format!("expected a network, like {}", IpNet::from(address)),
        Err(_) => error.to_string(),
    })
}

/// Reads an address with a port.
fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "expected an address and a port, like 127.0.0.1:9177 or [::1]:9177")
}

/// Reads the name of an interface that is to be made.
fn interface(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    // IFNAMSIZ (linux/if.h), of which the last octet ends the name. It begins no flag, and is no
    // folder.
    let is_name = (1..=15).contains(&text.len())
        && text.chars().all(allowed)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if is_name {
        Ok(text.into())
    } else {
        Err("expected 1-15 of A-Z a-z 0-9 . _ -, starting with a letter or digit".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Config, String> {
        let args = ["mvirt-net"].iter().chain(flags);
        Config::try_parse_from(args).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.listen, [Listen::Tcp("[::1]:50054".parse().unwrap())]);
        assert_eq!((config.busy_poll, config.reactors), (50, Reactors::Auto));
    }

    #[test]
    fn lists_and_paths_are_understood() {
        let config =
            parse(&["--cpus", "2,4-6", "--listen", "unix:/run/x", "--listen", "[::]:1"]).unwrap();
        assert_eq!(config.cpus, Some(Cpus(vec![2, 4, 5, 6])));
        assert_eq!(config.reactor_count(), 4);
        assert_eq!(config.listen.len(), 2);
    }

    #[test]
    fn a_refused_flag_is_named_with_its_value() {
        for (flag, value, hint) in [
            ("--reactors", "0", "expected auto or 1-64"),
            ("--cpus", "5-2", "expected CPUs like"),
            ("--listen", "nowhere", "expected ADDRESS:PORT"),
            ("--listen", "unix:here", "expected an absolute path"),
            ("--hugepages", "maybe", "possible values"),
            ("--busy-poll", "1000001", "1000000"),
            ("--rebalance", "101", "100"),
            ("--max-guest-memory", "0", "1..1048576"),
            ("--max-nics", "many", "invalid digit"),
            ("--capture-ring", "64", "expected 1M to 1024G"),
            ("--capture-ring", "+1M", "expected 1M to 1024G"),
            ("--capture-ring", "999999999999G", "expected 1M to 1024G"),
            ("--allow-uid", "no such user", "expected a name or a number"),
            ("--socket-group", "no such group", "expected a name or a number"),
            ("--socket-mode", "888", "expected an octal mode"),
            ("--cpus", "0,2,0-1", "named twice"),
        ] {
            let error = parse(&[flag, value]).unwrap_err();
            for part in [flag, value, hint] {
                assert!(error.contains(part), "{error:?} lacks {part:?}");
            }
        }
    }
}
