//! Locators as text: the shortest that says the same.

use super::{
    Locator,
    lex::{Quoted, QuotedPath},
    read::{DIVES_PORT, GROUP_V4, VXLAN_PORT, VXVDE_PORT},
    specs::{
        Access, Advert, Bound, Dgram, Dives, Listen, Mcast, Node, Plug, SeqpacketListen, Slirp,
        Stream, StreamListen, SwitchPort, SwitchyardListen, Tap, Tunnel, Udp, Vxlan, Vxvde,
    },
};
use std::{
    fmt::{self, Display, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

/// What stands behind an address, of what was said.
struct Options(Vec<String>);

impl Options {
    fn none() -> Self {
        Self(Vec::new())
    }

    fn with(mut self, name: &str, value: Option<impl Display>) -> Self {
        if let Some(value) = value {
            let value = value.to_string();
            self.0.push(format!("{name}={}", Quoted(value.as_bytes())));
        }
        self
    }

    fn flag(mut self, name: &str, is_set: bool) -> Self {
        if is_set {
            self.0.push(name.into());
        }
        self
    }

    fn list(self, name: &str, values: &[impl Display]) -> Self {
        let text = values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        self.with(name, Some(text).filter(|_| !values.is_empty()))
    }

    fn access(self, access: &Access, group: &str) -> Self {
        let mode = access.mode.map(|mode| format!("{mode:04o}"));
        self.with("mode", mode).with(group, access.group.as_ref())
    }

    fn tunnel(self, tunnel: &Tunnel) -> Self {
        self.with("ttl", tunnel.ttl)
            .with("rcvbuf", tunnel.receive_buffer)
            .with("hashsize", tunnel.hash_size)
            .with("expiretime", tunnel.expire_time)
            .with("if", tunnel.interface.as_ref())
    }

    /// Behind a path.
    fn in_brackets(&self) -> String {
        match self.0.is_empty() {
            true => String::new(),
            false => format!("[{}]", self.0.join("/")),
        }
    }

    /// Behind an address.
    fn with_slashes(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, option| {
            // Writing to a text cannot fail.
            write!(text, "/{option}").expect("a text takes any");
            text
        })
    }
}

fn path(path: &Path) -> QuotedPath<'_> {
    QuotedPath(path.as_os_str().as_bytes())
}

impl Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = Options::none()
            .access(&self.access, "grp")
            .with("dirmode", self.directory_mode.map(|mode| format!("{mode:05o}")))
            .with("hashsize", self.hash_size)
            .with("hashseed", self.hash_seed)
            .with("expiretime", self.expire_time)
            .with("max", self.max);
        write!(f, "{}{}", path(&self.directory), options.in_brackets())
    }
}

impl Display for Plug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, group) = match &self.port {
            None => (None, None),
            Some(SwitchPort::Number(number)) => (Some(number), None),
            Some(SwitchPort::Group(group)) => (None, Some(group)),
        };
        let options = Options::none().with("port", number).with("portgroup", group);
        let options = options.access(&self.access, "group");
        write!(f, "{}{}", path(&self.directory), options.in_brackets())
    }
}

impl Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = Options::none().access(&self.access, "grp");
        write!(f, "{}{}", path(&self.path), options.in_brackets())
    }
}

impl Display for SeqpacketListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = Options::none().access(&self.access, "grp").with("max", self.max);
        write!(f, "{}{}", path(&self.path), options.in_brackets())
    }
}

impl Display for Dgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = Options::none().access(&self.access, "grp");
        let (local, remote) = (path(&self.local), path(&self.remote));
        write!(f, "{local}->{remote}{}", options.in_brackets())
    }
}

impl Display for Udp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{}", SocketAddr::new(address, self.port))?,
            None => write!(f, "{}", self.port)?,
        }
        write!(f, "->{}", self.remote)
    }
}

impl Display for Mcast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = Options::none().with("if", self.interface.as_ref()).with("ttl", self.ttl);
        write!(f, "{}{}", self.group, options.with_slashes())
    }
}

impl Display for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = Options::none().flag("create", self.create).flag("up", self.up);
        let options = options.with("mac", self.mac).with("mtu", self.mtu);
        let options = options.with("master", self.master.as_ref());
        write!(f, "{}{}", Quoted(self.interface.as_bytes()), options.in_brackets())
    }
}

impl Display for Vxvde {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = Options::none()
            .with("port", Some(self.port).filter(|port| *port != VXVDE_PORT))
            .with("vni", self.vni)
            .with("grp", self.user_group.as_ref())
            .tunnel(&self.tunnel)
            .with("bind", self.bind);
        write!(f, "{}{}", self.group, options.with_slashes())
    }
}

impl Display for Vxlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = Options::none()
            .with("port", Some(self.port).filter(|port| *port != VXLAN_PORT))
            .with("vni", Some(self.vni).filter(|vni| *vni != 1))
            .tunnel(&self.tunnel)
            .list("remote", &self.remote)
            .with("local", self.local)
            .with("learn", (!self.learn).then_some("off"))
            .list("allow", &self.allow);
        // Whoever names the members has no group, and is shown none.
        if !self.remote.is_empty() && self.group == IpAddr::V4(GROUP_V4) {
            return options.with_slashes().fmt(f);
        }
        write!(f, "{}{}", self.group, options.with_slashes())
    }
}

impl Display for Dives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advert = match self.advert {
            Advert::Auto => None,
            Advert::Text => Some("text"),
            Advert::Sockaddr => Some("sockaddr"),
            Advert::Both => Some("both"),
        };
        let options = Options::none()
            .with("host", Some(self.host).filter(|host| *host != Ipv4Addr::LOCALHOST))
            .with("port", Some(self.port).filter(|port| *port != DIVES_PORT))
            .with("vlan", Some(self.vlan))
            .with("advert", advert)
            .with("names", self.names.then_some("on"))
            .list("allow", &self.allow);
        write!(f, "{}{}", self.group, options.with_slashes())
    }
}

impl Display for SwitchyardListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = Options::none().with("max", self.max).flag("insecure", self.insecure);
        write!(f, "{}{}", self.address, options.with_slashes())
    }
}

impl Display for Slirp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = Options::none()
            .flag("restricted", self.restricted)
            .flag("v4", self.v4)
            .flag("v6", self.v6)
            .with("host", self.host)
            .with("host6", self.host6)
            .with("hostname", self.hostname.as_ref())
            .with("dhcp", self.dhcp)
            .with("vnameserver", self.nameserver)
            .with("vnameserver6", self.nameserver6)
            .with("vdomainname", self.domain.as_ref())
            .with("mtu", self.mtu)
            .with("disable_host_loopback", self.loopback.then_some("off"))
            .list("tcpfwd", &self.tcp_forwards)
            .list("udpfwd", &self.udp_forwards);
        f.write_str(&options.with_slashes())
    }
}

impl Display for StreamListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = Options::none().with("max", self.max);
        match &self.listen {
            Listen::Tcp { address, insecure } => {
                write!(f, "{address}{}", options.flag("insecure", *insecure).with_slashes())
            }
            Listen::Unix { path: at, access } => {
                write!(f, "{}{}", path(at), options.access(access, "grp").in_brackets())
            }
        }
    }
}

impl Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(to) => to.fmt(f),
            Self::Unix(to) => path(to).fmt(f),
        }
    }
}

impl Display for Locator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.kind().name)?;
        match self {
            Self::Null | Self::Stdio => Ok(()),
            Self::Switch(spec) | Self::Hub(spec) => spec.fmt(f),
            Self::Vde(spec) => spec.fmt(f),
            Self::Ptp(spec) => spec.fmt(f),
            Self::Seqpacket(fd) => fd.fmt(f),
            Self::SeqpacketListen(spec) => spec.fmt(f),
            Self::SeqpacketConnect(to) => path(to).fmt(f),
            Self::Cmd(words) => {
                let words = words.iter().map(String::as_str);
                // Words that were read hold no zero octet.
                f.write_str(&shlex::try_join(words).map_err(|_| fmt::Error)?)
            }
            Self::StreamListen(spec) => spec.fmt(f),
            Self::Stream(spec) => spec.fmt(f),
            Self::Dgram(spec) => spec.fmt(f),
            Self::Udp(spec) => spec.fmt(f),
            Self::Mcast(spec) => spec.fmt(f),
            Self::Tap(spec) => spec.fmt(f),
            Self::Macvtap(name) | Self::Packet(name) => Quoted(name.as_bytes()).fmt(f),
            Self::Vxvde(spec) => spec.fmt(f),
            Self::Vxlan(spec) => spec.fmt(f),
            Self::Dives(spec) => spec.fmt(f),
            Self::SwitchyardListen(spec) => spec.fmt(f),
            Self::Slirp(spec) => spec.fmt(f),
        }
    }
}
