//! Which kinds of port there are, and how each is written: what `mvirt port kinds` prints.

use crate::model::PortRole;

/// A kind of port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// What is in front of `://`.
    pub name: &'static str,
    /// How one is written.
    pub form: &'static str,
    /// What may be said beside its address.
    pub options: &'static [Opt],
    /// What a port of it leads to, where nothing is said.
    pub role: PortRole,
    /// What it needs that an ordinary user does not have; empty: nothing.
    pub needs: &'static str,
    /// What it is.
    pub about: &'static str,
}

/// An option of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opt {
    /// What is in front of `=`.
    pub name: &'static str,
    /// What is behind it; empty: nothing is.
    pub value: &'static str,
}

const fn opt(name: &'static str, value: &'static str) -> Opt {
    Opt { name, value }
}

const MODE: Opt = opt("mode", "OCTAL");
const GROUP: Opt = opt("grp", "GROUP");
const MAX: Opt = opt("max", "CLIENTS");
const INSECURE: Opt = opt("insecure", "");
const TTL: Opt = opt("ttl", "HOPS");
const INTERFACE: Opt = opt("if", "INTERFACE");
const NODE: &[Opt] = &[
    MODE,
    opt("dirmode", "OCTAL"),
    GROUP,
    opt("hashsize", "N"),
    opt("hashseed", "N"),
    opt("expiretime", "SECONDS"),
    MAX,
];
const CAP_NET_RAW: &str = "CAP_NET_RAW";

const fn kind(
    (name, form): (&'static str, &'static str),
    options: &'static [Opt],
    role: PortRole,
    needs: &'static str,
    about: &'static str,
) -> Kind {
    Kind { name, form, options, role, needs, about }
}

use PortRole::{Access, Peer, Uplink};

/// All kinds.
pub const KINDS: &[Kind] = &[
    kind(("null", "null://"), &[], Access, "", "takes every frame and sends none"),
    kind(("switch", "switch://DIR"), NODE, Access, "", "is a VDE switch to its clients"),
    kind(("hub", "hub://DIR"), NODE, Access, "", "is a VDE hub: all clients hear all frames"),
    kind(
        ("vde", "vde://DIR[PORT]"),
        &[opt("port", "N"), opt("portgroup", "NAME"), opt("group", "GROUP"), MODE],
        Uplink,
        "",
        "a client of a VDE switch",
    ),
    kind(("ptp", "ptp://PATH"), &[MODE, GROUP], Access, "", "a VDE cable between two processes"),
    kind(("seqpacket", "seqpacket://FD"), &[], Access, "", "a packet socket that was inherited"),
    kind(
        ("seqpacket-listen", "seqpacket-listen://PATH"),
        &[MODE, GROUP, MAX],
        Access,
        "",
        "packet sockets that connect, as UML's transport bess",
    ),
    kind(
        ("seqpacket-connect", "seqpacket-connect://PATH"),
        &[],
        Access,
        "",
        "a packet socket that listens",
    ),
    kind(("cmd", "cmd://COMMAND ARGS"), &[], Access, "", "the standard streams of a command"),
    kind(("stdio", "stdio://"), &[], Access, "", "one's own standard streams"),
    kind(
        ("stream-listen", "stream-listen://ADDRESS:PORT or stream-listen:///PATH"),
        &[MAX, INSECURE, MODE, GROUP],
        Access,
        "",
        "QEMU's netdevs socket and stream that connect",
    ),
    kind(
        ("stream", "stream://HOST:PORT or stream:///PATH"),
        &[],
        Access,
        "",
        "QEMU's netdev stream that listens, or passt",
    ),
    kind(
        ("dgram", "dgram:///LOCAL->/REMOTE"),
        &[MODE, GROUP],
        Access,
        "",
        "QEMU's netdev dgram on UNIX sockets",
    ),
    kind(
        ("udp", "udp://[ADDRESS:]PORT->HOST:PORT"),
        &[],
        Uplink,
        "",
        "a frame in each datagram, to one host",
    ),
    kind(
        ("mcast", "mcast://GROUP:PORT"),
        &[INTERFACE, TTL],
        Uplink,
        "",
        "a frame in each datagram, to a multicast group",
    ),
    kind(
        ("tap", "tap://INTERFACE"),
        &[
            opt("create", ""),
            opt("up", ""),
            opt("mac", "MAC"),
            opt("mtu", "OCTETS"),
            opt("master", "BRIDGE"),
        ],
        Uplink,
        "CAP_NET_ADMIN, but for a TAP device of one's own that is left as it is",
        "a TAP device",
    ),
    kind(
        ("macvtap", "macvtap://INTERFACE"),
        &[],
        Uplink,
        "the right to open /dev/tapN",
        "a macvtap device",
    ),
    kind(("packet", "packet://INTERFACE"), &[], Uplink, CAP_NET_RAW, "an interface of the host's"),
    kind(
        ("vxvde", "vxvde://[GROUP]"),
        &[
            opt("port", "PORT"),
            opt("vni", "N"),
            GROUP,
            TTL,
            opt("rcvbuf", "OCTETS"),
            opt("v4", ""),
            opt("v6", ""),
            opt("hashsize", "N"),
            opt("expiretime", "SECONDS"),
            INTERFACE,
            opt("bind", "ADDRESS"),
        ],
        Peer,
        "",
        "a VDE cloud of one local network",
    ),
    kind(
        ("vxlan", "vxlan://[GROUP]"),
        &[
            opt("port", "PORT"),
            opt("vni", "N"),
            TTL,
            opt("rcvbuf", "OCTETS"),
            opt("v4", ""),
            opt("v6", ""),
            opt("hashsize", "N"),
            opt("expiretime", "SECONDS"),
            INTERFACE,
            opt("remote", "ADDRESS,…"),
            opt("local", "ADDRESS"),
            opt("learn", "on|off"),
            opt("allow", "CIDR,…"),
        ],
        Peer,
        "",
        "VXLAN tunnels (RFC 7348)",
    ),
    kind(
        ("dives", "dives://GROUP:PORT"),
        &[
            opt("host", "ADDRESS"),
            opt("port", "PORT"),
            opt("vlan", "ID"),
            opt("advert", "auto|text|sockaddr|both"),
            opt("names", "on|off"),
            opt("allow", "CIDR,…"),
        ],
        Peer,
        "",
        "a mesh of DiVES switches",
    ),
    kind(
        ("switchyard-listen", "switchyard-listen://ADDRESS:PORT"),
        &[MAX, INSECURE],
        Access,
        "",
        "clients of Switchyard",
    ),
    kind(
        ("slirp", "slirp:///OPTIONS"),
        &[
            opt("restricted", ""),
            opt("v4", ""),
            opt("v6", ""),
            opt("host", "ADDRESS[\\/LENGTH]"),
            opt("addr", "ADDRESS[\\/LENGTH]"),
            opt("host6", "ADDRESS[\\/LENGTH]"),
            opt("addr6", "ADDRESS[\\/LENGTH]"),
            opt("hostname", "NAME"),
            opt("dhcp", "ADDRESS"),
            opt("vnameserver", "ADDRESS"),
            opt("vnameserver6", "ADDRESS"),
            opt("vdomainname", "NAME"),
            opt("mtu", "OCTETS"),
            opt("disable_host_loopback", "on|off"),
            opt("tcpfwd", "[HADDR:]HPORT:GADDR:GPORT,…"),
            opt("udpfwd", "[HADDR:]HPORT:GADDR:GPORT,…"),
        ],
        Uplink,
        "",
        "the world, without privileges: a gateway with DHCP and DNS",
    ),
];

/// Kinds that others have, and what is to be done without them here.
pub(super) const ELSEWHERE: &[(&str, &str)] = &[
    ("multi", "one switched network does what it does, with a port for each"),
    ("bonding", "bond interfaces of the host, and use packet:// on them"),
    ("vlan", STOCK),
    ("agno", STOCK),
    ("pcap", STOCK),
    ("vdesl", STOCK),
    ("geneve", "make a geneve device (ip link add type geneve), and use packet:// on it"),
    ("xdp", "use packet:// on the interface"),
];
const STOCK: &str = "it is a plug-in of vde_plug: mvirt plug LOCATOR 'cmd://vde_plug KIND://…'";

/// Options that VDE's kind of that name has, and why they are none here.
pub(super) const UNSERVED: &[(&str, &str, &str)] = &[
    ("slirp", "tftp_server_name", NO_TFTP),
    ("slirp", "tftp_path", NO_TFTP),
    ("slirp", "bootfile", NO_TFTP),
    ("slirp", "vdnssearch", "hosts are told one domain: vdomainname="),
    ("slirp", "mru", "packets of any length are taken: mtu= is for those that are sent"),
    ("slirp", "unixfwd", "guests reach no socket of this host's by a path"),
    ("slirp", "cmdfwd", "guests start no command of this host's"),
    ("slirp", "verbose", "mvirt port get shows what is in force"),
];
const NO_TFTP: &str = "there is no TFTP server";

/// Returns the kind called `name`.
pub(super) fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}
