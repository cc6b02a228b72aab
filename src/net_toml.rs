//! The daemon's file of flags, `net.toml`: where it is, and what is installed for it.

use crate::flags::pages::{self, Said};
use clap::{Command, ValueEnum};

/// The file of root, and of the service.
pub const PATH: &str = "/etc/mvirt/net.toml";

/// What that says where it is installed.
const SERVICE: &[Said] = &[
    Said {
        key: "listen",
        value: "[\"unix:/run/mvirt/net-api.sock\"]",
        why: "Here mvirt looks first. With \"[::1]:50054\" beside it, every process of the host \
              may use the API.",
    },
    Said {
        key: "allow-gid",
        value: "[\"mvirt-net\"]",
        why: "Who manages networks: root, and members of this group.",
    },
    Said {
        key: "socket-group",
        value: "\"kvm\"",
        why: "libvirt's QEMU runs in it. The service is a member, by sysusers.d.",
    },
];

const HEAD: &str = "\
The configuration of mvirt-net, as net.toml(5) has it: each key is a flag without its dashes.
A flag, or its variable, as in /etc/default/mvirt-net, counts before what is here.
What is commented out is the default, or, where there is none, an example.
`mvirt-net --check-config` prints what is in force; `systemctl reload mvirt-net` puts a change in
force, while guests stay connected.";

const PARAGRAPHS: &[&str] = &[
    "The file is TOML without tables. Each key is a flag of mvirt-net without its dashes; flags \
     that may be given several times, and those that take a list, take an array. A flag on the \
     command line counts before its environment variable (MVIRT_NET_ and its name), that before \
     the file, and that before the default.",
    "The file is read when the daemon starts, and when it is reloaded: systemctl reload \
     mvirt-net, or SIGUSR2. A new process takes over then with what the file says by now, while \
     guests stay connected. Where something in it is wrong, the reload is refused, and the old \
     process goes on; so it does where socket-dir or metadata-dir would change, which need a \
     restart.",
    "mvirt-net --check-config [FILE] prints all values that are in force, and where each is from. \
     What is wrong is said with its line, like: net.toml:12: reactors: expected auto or 1-64, got \
     \"many\". The exit status is 2 then.",
    "Root's daemon looks for /etc/mvirt/net.toml, another user's for \
     $XDG_CONFIG_HOME/mvirt/net.toml, or ~/.config/mvirt/net.toml. None need be there, but one \
     that --config or MVIRT_NET_CONFIG names. --config /dev/null means none.",
];

/// What is installed for the file of flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FilePage {
    /// `dist/net.toml`
    Sample,
    /// The page of the manual
    Man,
}

impl FilePage {
    /// Returns its text, for the daemon's flags.
    pub fn text(self, command: &Command) -> String {
        match self {
            Self::Sample => pages::sample(command, HEAD, SERVICE),
            Self::Man => pages::manual(command, "net.toml", PATH, PARAGRAPHS),
        }
    }
}
