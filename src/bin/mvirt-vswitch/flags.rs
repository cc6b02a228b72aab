//! The command line in the style of Go's `flag`: one or two dashes, `-flag value` or `-flag=value`,
//! and switches that may be `-switch=false`. Takes arguments and the environment; refuses what is
//! unknown, by name.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};
use tracing::level_filters::LevelFilter;

/// What `-help` says.
pub(crate) const USAGE: &str = "\
A switch for QEMU's socket networks: each TCP port is an isolated Ethernet VLAN.

Usage: vswitch [flags]

Flags (with one dash or two; -flag value or -flag=value):
  -ports LIST       TCP ports, separated by commas, one VLAN each: PORT listens on all
                    addresses, ADDRESS:PORT on one (default \"9999,9998\")
  -daemon           run in the background; returns when all ports listen
  -pid-file FILE    where the process id is kept (default $XDG_RUNTIME_DIR/vswitch.pid;
                    root, or where that is not set: /tmp/vswitch.pid)
  -log-file FILE    append the log to FILE, reopened on SIGHUP (default: standard output;
                    with -daemon, syslog)
  -log-level LEVEL  error, warn, info, debug or trace (default \"info\")
  -status           say whether the daemon runs, and what each VLAN carries
  -stop             end the daemon, and wait for its end
  -stats-port PORT  serve /stats (JSON) and /metrics (Prometheus) by HTTP on 127.0.0.1:PORT
  -version          print the version
  -help, -h         print this

Environment, where the flag is not given: VSWITCH_PORTS, VSWITCH_DAEMON, VSWITCH_PID_FILE,
VSWITCH_LOG_FILE, VSWITCH_LOG_LEVEL, VSWITCH_STATS_PORT

Exit codes: 0 done, 1 cannot (a port in use, a daemon there already), 2 wrong usage,
3 with -status: not running

A VM joins VLAN 1 so:
  qemu-system-x86_64 -netdev socket,id=net0,connect=:9999 -device virtio-net-pci,netdev=net0

The protocol has no authentication: whoever reaches a port is in its VLAN. To keep it on this
host: -ports 127.0.0.1:9999,127.0.0.1:9998
";

const DEFAULT_PORTS: &str = "9999,9998";
/// Of `-log-level`.
const LEVELS: [(&str, LevelFilter); 5] = [
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];
/// Flags without a value, and with one.
const SWITCHES: [&str; 7] = ["daemon", "status", "stop", "version", "help", "h", DETACHED];
const VALUES: [&str; 5] = ["ports", "pid-file", "log-file", "log-level", "stats-port"];
/// Marks the process in the background, for which another one waits. Nobody else gives it.
pub(crate) const DETACHED: &str = "detached-child";

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Switch, as this process.
    Run,
    /// Start a process that switches, and wait until it does.
    Daemon,
    /// Switch, for another process that waits.
    Detached,
    Status,
    Stop,
    Version,
    Help,
}

/// Where a VLAN is joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct VlanPort {
    /// Absent: all addresses.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
}

impl VlanPort {
    /// Whether others than this host reach it.
    pub(crate) fn is_exposed(&self) -> bool {
        !self.address.is_some_and(|address| address.is_loopback())
    }
}

impl fmt::Display for VlanPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => SocketAddr::new(address, self.port).fmt(f),
            None => write!(f, ":{}", self.port),
        }
    }
}

/// A command line that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) action: Action,
    /// In the order of the VLANs' numbers; never empty, and no two the same.
    pub(crate) ports: Vec<VlanPort>,
    pub(crate) pid_file: PathBuf,
    pub(crate) log_file: Option<PathBuf>,
    pub(crate) log_level: LevelFilter,
    pub(crate) stats_port: Option<u16>,
}

/// What is wrong with a command line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UsageError {
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    #[error("unexpected argument '{0}': all are flags, and a switch is set like -daemon=false")]
    Argument(String),
    #[error("{origin}: invalid boolean value '{value}': expected true or false")]
    Boolean { origin: String, value: String },
    #[error("{origin}: invalid port '{value}'{hint}")]
    Port { origin: String, value: String, hint: &'static str },
    #[error("{origin}: port {value} out of range ({least}-65535)")]
    Range { origin: String, value: String, least: u16 },
    #[error("{origin}: {value} is given twice: each port is one VLAN")]
    Twice { origin: String, value: VlanPort },
    #[error("{origin}: no ports")]
    NoPorts { origin: String },
    #[error("{origin}: unknown level '{value}': expected error, warn, info, debug or trace")]
    Level { origin: String, value: String },
    #[error("{origin}: expected a file's name")]
    NoFile { origin: String },
}

/// A value, and where it was given.
struct Given {
    origin: String,
    value: String,
}

/// Reads a command line, without the program's name. `variable` looks up the environment, and
/// `pid_file` is where the process id is kept if nobody says.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = String>,
    variable: impl Fn(&str) -> Option<String>,
    pid_file: PathBuf,
) -> Result<Flags, UsageError> {
    let given = split(arguments)?;
    let is_set = |name: &str| given.get(name).map_or(Ok(false), |value| boolean(name, value));
    // Answered whatever else is asked or wrong: who is lost needs them.
    let is_question = is_set("help")? || is_set("h")? || is_set("version")?;
    let find = |name: &str| {
        if is_question {
            return None;
        }
        let value = given.get(name).map(|value| (format!("-{name}"), value.clone()));
        let value = value.or_else(|| {
            let variable_name = format!("VSWITCH_{}", name.to_uppercase().replace('-', "_"));
            // Empty is as good as absent: a variable in a unit's file cannot be unset.
            let value = variable(&variable_name).filter(|value| !value.is_empty())?;
            Some((variable_name, value))
        });
        value.map(|(origin, value)| Given { origin, value })
    };
    let daemon = find("daemon").map_or(Ok(false), |daemon| boolean(&daemon.origin, &daemon.value));
    let action = if is_set("help")? || is_set("h")? {
        Action::Help
    } else if is_set("version")? {
        Action::Version
    } else if is_set("status")? {
        Action::Status
    } else if is_set("stop")? {
        Action::Stop
    } else if is_set(DETACHED)? {
        Action::Detached
    } else if daemon? {
        Action::Daemon
    } else {
        Action::Run
    };
    let log_level = find("log-level").map_or(Ok(LevelFilter::INFO), level)?;
    let stats_port = find("stats-port").map(stats_port).transpose()?.flatten();
    let default_ports = || Given { origin: "-ports".into(), value: DEFAULT_PORTS.into() };
    Ok(Flags {
        action,
        ports: ports(find("ports").unwrap_or_else(default_ports))?,
        pid_file: find("pid-file").map(file).transpose()?.unwrap_or(pid_file),
        log_file: match find("log-file") {
            // As the program's default is written.
            Some(Given { value, .. }) if value.is_empty() => None,
            Some(given) => Some(file(given)?),
            None => None,
        },
        log_level,
        stats_port,
    })
}

/// Returns the values of flags; the last one counts, as in Go.
fn split(
    arguments: impl IntoIterator<Item = String>,
) -> Result<HashMap<String, String>, UsageError> {
    let mut arguments = arguments.into_iter();
    let mut given = HashMap::new();
    while let Some(argument) = arguments.next() {
        let dashed = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'));
        let Some(flag) = dashed.filter(|flag| !flag.is_empty()) else {
            // Nothing may follow a `--` either.
            match arguments.next() {
                None if argument == "--" => break,
                Some(next) if argument == "--" => return Err(UsageError::Argument(next)),
                _ => return Err(UsageError::Argument(argument)),
            }
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let value = if SWITCHES.contains(&name) {
            value.unwrap_or_else(|| "true".into())
        } else if VALUES.contains(&name) {
            let value = value.or_else(|| arguments.next());
            value.ok_or_else(|| UsageError::NoValue(name.into()))?
        } else {
            return Err(UsageError::Unknown(name.into()));
        };
        given.insert(name.to_owned(), value);
    }
    Ok(given)
}

/// The words of Go's `strconv.ParseBool`.
fn boolean(origin: &str, value: &str) -> Result<bool, UsageError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(UsageError::Boolean { origin: origin.into(), value: value.into() }),
    }
}

fn level(Given { origin, value }: Given) -> Result<LevelFilter, UsageError> {
    let found = LEVELS.iter().find(|(name, _)| *name == value);
    found.map(|(_, level)| *level).ok_or(UsageError::Level { origin, value })
}

fn file(Given { origin, value }: Given) -> Result<PathBuf, UsageError> {
    if value.is_empty() {
        return Err(UsageError::NoFile { origin });
    }
    Ok(value.into())
}

fn stats_port(Given { origin, value }: Given) -> Result<Option<u16>, UsageError> {
    // 0, as the program's default: nothing is served.
    number(&origin, &value, 0).map(|port| (port > 0).then_some(port))
}

fn ports(Given { origin, value }: Given) -> Result<Vec<VlanPort>, UsageError> {
    let mut ports = Vec::new();
    for item in value.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let port = vlan_port(&origin, item)?;
        if ports.contains(&port) {
            return Err(UsageError::Twice { origin, value: port });
        }
        ports.push(port);
    }
    if ports.is_empty() {
        return Err(UsageError::NoPorts { origin });
    }
    Ok(ports)
}

fn vlan_port(origin: &str, item: &str) -> Result<VlanPort, UsageError> {
    let Some((host, port)) = item.rsplit_once(':') else {
        return Ok(VlanPort { address: None, port: number(origin, item, 1)? });
    };
    let port = number(origin, port, 1)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let address = match (host, bare) {
        ("", _) => return Ok(VlanPort { address: None, port }),
        (_, Some(host)) => host.parse().map(IpAddr::V6).ok(),
        (host, None) => host.parse().map(IpAddr::V4).ok(),
    };
    let hint = ": expected PORT, ADDRESS:PORT or [ADDRESS]:PORT";
    let refused = || UsageError::Port { origin: origin.into(), value: item.into(), hint };
    Ok(VlanPort { address: Some(address.ok_or_else(refused)?), port })
}

fn number(origin: &str, text: &str, least: u16) -> Result<u16, UsageError> {
    let (origin, value) = (origin.to_owned(), text.to_owned());
    // Any number is told from what is none, however long it is.
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(UsageError::Port { origin, value, hint: "" });
    }
    let port = text.parse().ok().filter(|port| *port >= least);
    port.ok_or(UsageError::Range { origin, value, least })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_with(line: &str, environment: &[(&str, &str)]) -> Result<Flags, String> {
        let variable = |name: &str| {
            let found = environment.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let arguments = line.split('|').filter(|argument| !argument.is_empty());
        parse(arguments.map(str::to_owned), variable, "/run/pid".into())
            .map_err(|error| error.to_string())
    }

    fn ports_of(list: &str) -> Result<String, String> {
        let flags = parse_with(&format!("-ports={list}"), &[])?;
        Ok(flags.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn without_flags_the_defaults_are_the_programs() {
        let flags = parse_with("", &[]).unwrap();
        let expected = Flags {
            action: Action::Run,
            ports: vec![
                VlanPort { address: None, port: 9999 },
                VlanPort { address: None, port: 9998 },
            ],
            pid_file: "/run/pid".into(),
            log_file: None,
            log_level: LevelFilter::INFO,
            stats_port: None,
        };
        assert_eq!(flags, expected);
    }

    #[test]
    fn one_dash_and_two_are_the_same_and_the_last_value_counts() {
        for line in
            ["-ports|1,2|-daemon", "--ports=1,2|--daemon=true", "-ports|3|-ports=1,2|-daemon"]
        {
            let flags = parse_with(line, &[]).unwrap();
            assert_eq!(flags.action, Action::Daemon, "{line}");
            assert_eq!(flags.ports.iter().map(|port| port.port).collect::<Vec<_>>(), [1, 2]);
        }
        for word in ["0", "f", "F", "false", "FALSE", "False"] {
            let flags = parse_with(&format!("-daemon|-daemon={word}"), &[]).unwrap();
            assert_eq!(flags.action, Action::Run);
        }
        let flags = parse_with("-log-level|debug|-log-file=/l|-stats-port|80|--", &[]).unwrap();
        assert_eq!(flags.log_level, LevelFilter::DEBUG);
        assert_eq!((flags.log_file, flags.stats_port), (Some("/l".into()), Some(80)));
    }

    #[test]
    fn the_first_question_is_answered_whatever_else_is_asked() {
        for (line, action) in [
            ("-help|-stop", Action::Help),
            ("-ports|x|-help", Action::Help),
            ("-h", Action::Help),
            ("-version|-status", Action::Version),
            ("-daemon|-status", Action::Status),
            ("-daemon|-stop", Action::Stop),
            ("-detached-child|-daemon", Action::Detached),
        ] {
            assert_eq!(parse_with(line, &[]).unwrap().action, action, "{line}");
        }
    }

    // seed H.2.12
    #[test]
    fn a_list_of_ports_is_read_as_the_program_does_and_more() {
        for (list, expected) in [
            ("9999,9998", ":9999 :9998"),
            (" 9999 ,\t9998 ", ":9999 :9998"),
            ("8080", ":8080"),
            (",,1,,65535,", ":1 :65535"),
            (":7", ":7"),
            ("9999,", ":9999"),
            ("127.0.0.1:7,[::1]:7,7", "127.0.0.1:7 [::1]:7 :7"),
        ] {
            assert_eq!(ports_of(list).as_deref(), Ok(expected), "{list}");
        }
        for (list, expected) in [
            ("0", "-ports: port 0 out of range (1-65535)"),
            ("70000", "-ports: port 70000 out of range (1-65535)"),
            ("-1", "-ports: port -1 out of range (1-65535)"),
            ("99999999999999999999", "-ports: port 99999999999999999999 out of range (1-65535)"),
            ("x", "-ports: invalid port 'x'"),
            ("1,1", "-ports: :1 is given twice: each port is one VLAN"),
            (
                "::1:7",
                "-ports: invalid port '::1:7': expected PORT, ADDRESS:PORT or [ADDRESS]:PORT",
            ),
            (
                "host:7",
                "-ports: invalid port 'host:7': expected PORT, ADDRESS:PORT or [ADDRESS]:PORT",
            ),
            (" , ,", "-ports: no ports"),
            ("", "-ports: no ports"),
        ] {
            assert_eq!(ports_of(list).unwrap_err(), expected, "{list}");
        }
    }

    // seed H.2.22
    #[test]
    fn a_flag_wins_over_the_environment() {
        let environment = [
            ("VSWITCH_PORTS", "1,2"),
            ("VSWITCH_DAEMON", "true"),
            ("VSWITCH_PID_FILE", "/e/pid"),
            ("VSWITCH_LOG_FILE", "/e/log"),
            ("VSWITCH_LOG_LEVEL", "trace"),
            ("VSWITCH_STATS_PORT", "90"),
        ];
        let told = parse_with("", &environment).unwrap();
        assert_eq!((told.action, told.ports[0].port), (Action::Daemon, 1));
        assert_eq!((told.pid_file.to_str(), told.log_level), (Some("/e/pid"), LevelFilter::TRACE));
        assert_eq!((told.log_file, told.stats_port), (Some("/e/log".into()), Some(90)));
        let line = "-ports|3|-daemon=false|-pid-file|/p|-log-file=|-log-level|warn|-stats-port=0";
        let flags = parse_with(line, &environment).unwrap();
        assert_eq!((flags.action, flags.ports[0].port), (Action::Run, 3));
        assert_eq!((flags.pid_file.to_str(), flags.log_level), (Some("/p"), LevelFilter::WARN));
        assert_eq!((flags.log_file, flags.stats_port), (None, None));
        let refused = parse_with("", &[("VSWITCH_PORTS", "x")]).unwrap_err();
        assert_eq!(refused, "VSWITCH_PORTS: invalid port 'x'");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, expected) in [
            ("-port|1", "flag provided but not defined: -port"),
            ("-ports", "flag needs an argument: -ports"),
            (
                "-daemon|false",
                "unexpected argument 'false': all are flags, and a switch is set \
              like -daemon=false",
            ),
            ("-", "unexpected argument '-': all are flags, and a switch is set like -daemon=false"),
            (
                "--|x",
                "unexpected argument 'x': all are flags, and a switch is set like \
              -daemon=false",
            ),
            ("-daemon=maybe", "-daemon: invalid boolean value 'maybe': expected true or false"),
            (
                "-log-level|loud",
                "-log-level: unknown level 'loud': expected error, warn, info, \
              debug or trace",
            ),
            ("-stats-port|65536", "-stats-port: port 65536 out of range (0-65535)"),
            ("-pid-file=", "-pid-file: expected a file's name"),
        ] {
            assert_eq!(parse_with(line, &[]).unwrap_err(), expected, "{line}");
        }
    }

    #[test]
    fn the_usage_names_every_flag() {
        for flag in SWITCHES.iter().chain(&VALUES).filter(|flag| **flag != DETACHED) {
            let shown = format!(" -{flag}");
            let ends = USAGE.split(&shown).skip(1).any(|rest| rest.starts_with([' ', ',', '\n']));
            assert!(ends, "{flag}");
        }
    }
}
