//! The parts of a locator, as its kind wants them.

use super::{
    LocatorError,
    kinds::{Kind, UNSERVED},
    lex::{self, Octet},
    places::{self, Forward, Host},
    specs::{
        Access, Advert, Bound, Dgram, Dives, Listen, Mcast, Node, Plug, SeqpacketListen, Slirp,
        Stream, StreamListen, SwitchPort, SwitchyardListen, Tap, Tunnel, Udp, Vxlan, Vxvde,
    },
};
use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    os::unix::ffi::OsStringExt as _,
    path::PathBuf,
    str::FromStr,
};

/// Where VXLAN is (RFC 7348 §5).
pub(super) const VXLAN_PORT: u16 = 4789;
/// Where VDE's clouds are.
pub(super) const VXVDE_PORT: u16 = 14789;
/// Where a DiVES switch is.
pub(super) const DIVES_PORT: u16 = 3333;
// The groups that VDE's modules take where none is said.
pub(super) const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 0, 0, 1);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff05, 0x56de, 0, 0, 0, 0, 0, 1);
/// The longest path of a socket: `sun_path` without the octet that ends it (unix(7)).
const MAX_PATH: usize = 107;
/// A network's number has 24 bits (RFC 7348 §5).
const MAX_VNI: u32 = (1 << 24) - 1;

type Read<T> = Result<T, LocatorError>;

/// How closely a text is to be written as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rigour {
    /// As it should be.
    Strict,
    /// As VDE's own programs take it: keys may be cut short, the last of several counts, and a
    /// bracket may stay open.
    Lenient,
}

/// A locator of which all options are known to its kind, but not yet what they say.
pub(super) struct Parts {
    kind: &'static Kind,
    address: Vec<Octet>,
    options: Vec<(&'static str, Vec<u8>)>,
    rigour: Rigour,
}

impl Parts {
    /// `PATH[key=value/key=value]`
    pub(super) fn of_path(kind: &'static Kind, text: &[Octet], rigour: Rigour) -> Read<Self> {
        let (address, rest) = lex::split_once(text, b'[');
        let mut parts = Self { kind, address: address.to_vec(), options: Vec::new(), rigour };
        let Some(rest) = rest else { return Ok(parts) };
        let (options, after) = lex::split_once(rest, b']');
        let is_closed = after.is_some_and(<[Octet]>::is_empty);
        if !is_closed && rigour == Rigour::Strict {
            return Err(parts.wrong("brackets", rest, "`]` at the end"));
        }
        parts.take_options(options)?;
        Ok(parts)
    }

    /// `ADDRESS/key=value/key=value`
    pub(super) fn of_address(kind: &'static Kind, text: &[Octet], rigour: Rigour) -> Read<Self> {
        let (address, options) = lex::split_once(text, b'/');
        let mut parts = Self { kind, address: address.to_vec(), options: Vec::new(), rigour };
        parts.take_options(options.unwrap_or_default())?;
        Ok(parts)
    }

    fn take_options(&mut self, text: &[Octet]) -> Read<()> {
        for element in lex::split(text, b'/').filter(|element| !element.is_empty()) {
            let text = lex::unquoted(element);
            let (key, value) = match text.iter().position(|octet| *octet == b'=') {
                Some(at) => (&text[..at], Some(&text[at + 1..])),
                None => (&text[..], None),
            };
            let known = self.kind.options.iter().map(|option| option.name);
            let found = match (self.rigour, value) {
                (Rigour::Lenient, Some(_)) if !key.is_empty() => {
                    // The first that begins so, as VDE compares.
                    known.clone().find(|name| name.as_bytes().starts_with(key))
                }
                _ => known.clone().find(|name| name.as_bytes() == key),
            };
            let (name, value) = match (found, value) {
                (Some(name), value) => (name, value.unwrap_or_default().to_vec()),
                // Of a switch, the port is wanted so often that it needs no key.
                (None, None) if self.kind.name == "vde" => ("port", text),
                (None, _) => {
                    let mut unserved = UNSERVED.iter().filter(|(of, ..)| *of == self.kind.name);
                    if let Some((_, option, why)) =
                        unserved.find(|(_, name, _)| name.as_bytes() == key)
                    {
                        return Err(LocatorError::UnservedOption { kind: self.kind, option, why });
                    }
                    let key = String::from_utf8_lossy(key).into_owned();
                    return Err(LocatorError::UnknownOption { kind: self.kind, key });
                }
            };
            let earlier = self.options.iter_mut().find(|(earlier, _)| *earlier == name);
            match (earlier, self.rigour) {
                (None, _) => self.options.push((name, value)),
                (Some(earlier), Rigour::Lenient) => earlier.1 = value,
                (Some(_), Rigour::Strict) => {
                    return Err(self.wrong(name, element, "each option once"));
                }
            }
        }
        Ok(())
    }

    fn wrong(&self, part: &str, text: &[Octet], expected: &str) -> LocatorError {
        self.wrong_text(part, &String::from_utf8_lossy(&lex::unquoted(text)), expected)
    }

    fn wrong_text(&self, part: &str, text: &str, expected: &str) -> LocatorError {
        LocatorError::Wrong {
            kind: self.kind,
            part: part.into(),
            text: text.into(),
            expected: expected.into(),
        }
    }

    fn take(&mut self, name: &str) -> Option<Vec<u8>> {
        let at = self.options.iter().position(|(key, _)| *key == name)?;
        Some(self.options.swap_remove(at).1)
    }

    /// What an option says, as `read` understands it.
    fn option<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Read<Option<T>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match str::from_utf8(&value).ok().and_then(read) {
            Some(value) => Ok(Some(value)),
            None => Err(self.wrong_text(name, &String::from_utf8_lossy(&value), expected)),
        }
    }

    fn number<T: TryFrom<u64>>(
        &mut self,
        name: &str,
        range: RangeInclusive<u64>,
    ) -> Read<Option<T>> {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        self.option(name, &expected, |text| {
            number(text).filter(|number| range.contains(number))?.try_into().ok()
        })
    }

    fn text(&mut self, name: &str) -> Read<Option<String>> {
        self.option(name, "a word", |text| (!text.is_empty()).then(|| text.into()))
    }

    fn parsed<T: FromStr>(&mut self, name: &str, expected: &str) -> Read<Option<T>> {
        self.option(name, expected, |text| text.parse().ok())
    }

    fn list<T: FromStr>(&mut self, name: &str, expected: &str) -> Read<Vec<T>> {
        let read = |text: &str| text.split(',').map(|item| item.parse().ok()).collect();
        Ok(self.option(name, expected, read)?.unwrap_or_default())
    }

    /// Whether it is said, `name`, or `name=on`.
    fn switch(&mut self, name: &str) -> Read<Option<bool>> {
        self.option(name, "on or off", |text| match text {
            "" | "on" => Some(true),
            "off" => Some(false),
            _ => None,
        })
    }

    fn flag(&mut self, name: &str) -> Read<bool> {
        Ok(self.switch(name)?.unwrap_or(false))
    }

    fn octal(&mut self, name: &str) -> Read<Option<u16>> {
        self.option(name, "an octal mode, like 0660", |text| {
            let digits = (1..=5).contains(&text.len()) && !text.starts_with('+');
            let mode = u16::from_str_radix(text, 8).ok()?;
            (digits && mode <= 0o7777).then_some(mode)
        })
    }

    fn access(&mut self, group: &str) -> Read<Access> {
        Ok(Access { mode: self.octal("mode")?, group: self.text(group)? })
    }

    fn max(&mut self) -> Read<Option<u16>> {
        // A client is a port of its own: more than these belong to several listeners.
        self.number("max", 1..=256)
    }

    fn interface_option(&mut self, name: &str) -> Read<Option<String>> {
        self.option(name, "the name of an interface", places::interface)
    }

    fn path_of(&self, text: &[Octet], part: &str) -> Read<PathBuf> {
        let path = lex::unquoted(text);
        match path.len() {
            1..=MAX_PATH => Ok(OsString::from_vec(path).into()),
            0 => Err(self.wrong(part, text, "a path")),
            _ => Err(self.wrong(part, text, "a path of at most 107 octets")),
        }
    }

    pub(super) fn path(&self) -> Read<PathBuf> {
        self.path_of(&self.address, "path")
    }

    /// A directory in which sockets are; empty: the usual one.
    fn directory(&self) -> Read<PathBuf> {
        match self.address.is_empty() {
            true => Ok(PathBuf::new()),
            false => self.path(),
        }
    }

    /// The address, as `read` understands it.
    fn address<T>(&self, expected: &str, read: impl FnOnce(&str) -> Option<T>) -> Read<T> {
        let text = lex::unquoted(&self.address);
        let read = str::from_utf8(&text).ok().and_then(read);
        read.ok_or_else(|| self.wrong("address", &self.address, expected))
    }

    fn listen_address(&self) -> Read<SocketAddr> {
        let expected = "an address and a port, like 127.0.0.1:9999 or [::1]:9999";
        self.address(expected, places::listen_address)
    }

    pub(super) fn interface(&self) -> Read<String> {
        self.address("the name of an interface", places::interface)
    }

    pub(super) fn nothing(&self) -> Read<()> {
        self.address("nothing behind ://", |text| text.is_empty().then_some(()))
    }

    pub(super) fn descriptor(&self) -> Read<u32> {
        // The first three are the standard streams.
        self.address("the number of an open descriptor, from 3 on", |text| {
            number(text)?.try_into().ok().filter(|fd| (3..=i32::MAX as u32).contains(fd))
        })
    }

    pub(super) fn node(&mut self) -> Read<Node> {
        Ok(Node {
            directory: self.directory()?,
            access: self.access("grp")?,
            directory_mode: self.octal("dirmode")?,
            hash_size: self.number("hashsize", 1..=u32::MAX.into())?,
            hash_seed: self.number("hashseed", 0..=u64::MAX)?,
            expire_time: self.number("expiretime", 1..=u32::MAX.into())?,
            max: self.max()?,
        })
    }

    pub(super) fn plug(&mut self) -> Read<Plug> {
        let group = self.text("portgroup")?;
        let port = match (self.text("port")?, group) {
            (Some(_), Some(group)) if self.rigour == Rigour::Strict => {
                return Err(self.wrong_text("portgroup", &group, "either a port or a port group"));
            }
            (port, group) => group.or(port),
        };
        let port = match port {
            // 24 bits are left for it in a request.
            Some(text) if text.bytes().all(|octet| octet.is_ascii_digit()) => {
                let number = text.parse().ok().filter(|number| *number < 1 << 24);
                let expected = "a port's number below 2^24, or the name of a group of ports";
                let number = number.ok_or_else(|| self.wrong_text("port", &text, expected))?;
                Some(SwitchPort::Number(number))
            }
            // A group is a file of the directory.
            Some(text) if text.contains('/') || text == ".." || text == "." => {
                return Err(self.wrong_text("port", &text, "a number, or a name without `/`"));
            }
            port => port.map(SwitchPort::Group),
        };
        Ok(Plug { directory: self.directory()?, port, access: self.access("group")? })
    }

    pub(super) fn bound(&mut self) -> Read<Bound> {
        let path = self.path()?;
        if path.as_os_str().len() == MAX_PATH {
            let expected = "a path of at most 106 octets, since the other end has one more";
            return Err(self.wrong("path", &self.address, expected));
        }
        Ok(Bound { path, access: self.access("grp")? })
    }

    pub(super) fn seqpacket_listen(&mut self) -> Read<SeqpacketListen> {
        let (path, access) = (self.path()?, self.access("grp")?);
        Ok(SeqpacketListen { path, access, max: self.max()? })
    }

    pub(super) fn stream_listen_tcp(&mut self) -> Read<StreamListen> {
        let (address, insecure) = (self.listen_address()?, self.flag("insecure")?);
        let access = self.access("grp")?;
        if access != Access::default() {
            return Err(self.wrong("mode", &[], "a path, since TCP has no permissions"));
        }
        Ok(StreamListen { listen: Listen::Tcp { address, insecure }, max: self.max()? })
    }

    pub(super) fn stream_listen_unix(&mut self) -> Read<StreamListen> {
        let (path, access) = (self.path()?, self.access("grp")?);
        if self.flag("insecure")? {
            return Err(self.wrong("insecure", &[], "TCP, since a path has permissions"));
        }
        Ok(StreamListen { listen: Listen::Unix { path, access }, max: self.max()? })
    }

    pub(super) fn stream_tcp(&mut self) -> Read<Stream> {
        let expected = "a host and a port, like 10.0.0.1:9999, [::1]:9999 or host.example:9999";
        self.address(expected, |text| text.parse().ok()).map(Stream::Tcp)
    }

    pub(super) fn dgram(&mut self) -> Read<Dgram> {
        let both = lex::split_at_arrow(&self.address);
        let expected = "two paths, with -> between them";
        let (local, remote) = both.ok_or_else(|| self.wrong("path", &self.address, expected))?;
        let (local, remote) = (self.path_of(local, "path")?, self.path_of(remote, "path")?);
        Ok(Dgram { local, remote, access: self.access("grp")? })
    }

    pub(super) fn udp(&mut self) -> Read<Udp> {
        let expected = "two addresses of one family, like 127.0.0.1:5000->10.0.0.2:5001 or \
                        5000->10.0.0.2:5001";
        let read = |text: &str| {
            let (local, remote) = text.split_once("->")?;
            // A port alone is bound on all addresses.
            let (address, port) = match (local.strip_prefix(':').unwrap_or(local), remote) {
                (local, _) if local.bytes().all(|octet| octet.is_ascii_digit()) => (None, local),
                (local, _) => {
                    let (address, port) = local.rsplit_once(':')?;
                    let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
                    let address: IpAddr = match address {
                        Some(inner) => inner.parse::<Ipv6Addr>().ok()?.into(),
                        None => local.rsplit_once(':')?.0.parse::<Ipv4Addr>().ok()?.into(),
                    };
                    (Some(address), port)
                }
            };
            let port = number(port)?.try_into().ok().filter(|port| *port != 0)?;
            let udp = Udp { address, port, remote: remote.parse().ok()? };
            // From one family nothing is sent to the other.
            match (udp.address, &udp.remote.host) {
                (Some(own), Host::Address(to)) if own.is_ipv4() != to.is_ipv4() => None,
                _ => Some(udp),
            }
        };
        self.address(expected, read)
    }

    pub(super) fn mcast(&mut self) -> Read<Mcast> {
        let expected = "a multicast group and a port, like 239.192.1.1:1102";
        let group = self.address(expected, |text| multicast(text.parse().ok()?))?;
        Ok(Mcast { group, interface: self.text("if")?, ttl: self.number("ttl", 0..=255)? })
    }

    pub(super) fn tap(&mut self) -> Read<Tap> {
        Ok(Tap {
            interface: self.interface()?,
            create: self.flag("create")?,
            up: self.flag("up")?,
            mac: self.parsed("mac", "a MAC, like 52:54:00:12:34:56")?,
            mtu: self.number("mtu", 68..=65535)?,
            master: self.interface_option("master")?,
        })
    }

    fn tunnel(&mut self) -> Read<Tunnel> {
        Ok(Tunnel {
            ttl: self.number("ttl", 0..=255)?,
            receive_buffer: self.number("rcvbuf", 1..=i32::MAX as u64)?,
            hash_size: self.number("hashsize", 1..=u32::MAX.into())?,
            expire_time: self.number("expiretime", 1..=u32::MAX.into())?,
            interface: self.interface_option("if")?,
        })
    }

    fn group(&mut self) -> Read<IpAddr> {
        let (v4, v6) = (self.flag("v4")?, self.flag("v6")?);
        if self.address.is_empty() {
            return Ok(if v6 && !v4 { GROUP_V6.into() } else { GROUP_V4.into() });
        }
        let group = self.address("the address of a multicast group", |text| {
            let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
            inner.unwrap_or(text).parse::<IpAddr>().ok().filter(IpAddr::is_multicast)
        })?;
        match (v4, v6, group.is_ipv4()) {
            (true, false, false) => Err(self.wrong("address", &self.address, "an IPv4 group")),
            (false, true, true) => Err(self.wrong("address", &self.address, "an IPv6 group")),
            _ => Ok(group),
        }
    }

    pub(super) fn vxvde(&mut self) -> Read<Vxvde> {
        Ok(Vxvde {
            group: self.group()?,
            port: self.number("port", 1..=65535)?.unwrap_or(VXVDE_PORT),
            vni: self.number("vni", 0..=MAX_VNI.into())?,
            user_group: self.option("grp", "a group", |text| Some(text.into()))?,
            tunnel: self.tunnel()?,
            bind: self.parsed("bind", "an address")?,
        })
    }

    pub(super) fn vxlan(&mut self) -> Read<Vxlan> {
        Ok(Vxlan {
            group: self.group()?,
            port: self.number("port", 1..=65535)?.unwrap_or(VXLAN_PORT),
            vni: self.number("vni", 0..=MAX_VNI.into())?.unwrap_or(1),
            tunnel: self.tunnel()?,
            remote: self.list("remote", "addresses with commas between them")?,
            local: self.parsed("local", "an address")?,
            learn: self.switch("learn")?.unwrap_or(true),
            allow: self.list("allow", "networks with commas between them, like 10.0.0.0\\/8")?,
        })
    }

    pub(super) fn dives(&mut self) -> Read<Dives> {
        let expected = "a multicast group and a port, like 239.13.13.13:3535";
        let vlan = self.number("vlan", 0..=u32::MAX.into())?;
        Ok(Dives {
            group: self.address(expected, |text| multicast(text.parse().ok()?))?,
            host: self.parsed("host", "an IPv4 address")?.unwrap_or(Ipv4Addr::LOCALHOST),
            port: self.number("port", 1..=65535)?.unwrap_or(DIVES_PORT),
            vlan: vlan.ok_or_else(|| self.wrong("vlan", &[], "the VLAN's number, /vlan=N"))?,
            advert: self
                .option("advert", "auto, text, sockaddr or both", advert)?
                .unwrap_or_default(),
            names: self.flag("names")?,
            allow: self.list("allow", "networks with commas between them, like 10.0.0.0\\/8")?,
        })
    }

    pub(super) fn switchyard_listen(&mut self) -> Read<SwitchyardListen> {
        let (address, insecure) = (self.listen_address()?, self.flag("insecure")?);
        Ok(SwitchyardListen { address, insecure, max: self.max()? })
    }

    pub(super) fn slirp(&mut self) -> Read<Slirp> {
        self.nothing()?;
        let forwards = "[HADDR:]HPORT:GADDR:GPORT, with commas between them";
        let (v4, v6) = ("an address, as 10.0.2.2\\/24", "an address, as fd00::2\\/64");
        // As VDE's, of the network that such an address has where nothing is said.
        let net4 = |text: &str| text.parse().or_else(|_| format!("{text}/24").parse()).ok();
        let net6 = |text: &str| text.parse().or_else(|_| format!("{text}/64").parse()).ok();
        let (host, addr) = (self.option("host", v4, net4)?, self.option("addr", v4, net4)?);
        let (host6, addr6) = (self.option("host6", v6, net6)?, self.option("addr6", v6, net6)?);
        Ok(Slirp {
            restricted: self.flag("restricted")?,
            v4: self.flag("v4")?,
            v6: self.flag("v6")?,
            host: self.one_of(("host", host), ("addr", addr))?,
            host6: self.one_of(("host6", host6), ("addr6", addr6))?,
            hostname: self.text("hostname")?,
            dhcp: self.parsed("dhcp", "an IPv4 address")?,
            nameserver: self.parsed("vnameserver", "an IPv4 address")?,
            nameserver6: self.parsed("vnameserver6", "an IPv6 address")?,
            domain: self.text("vdomainname")?,
            // The least that a link of IPv4 may have is 68, of IPv6 1280: `control::slirp` looks.
            mtu: self.number("mtu", 68..=65521)?,
            loopback: self.switch("disable_host_loopback")? == Some(false),
            tcp_forwards: self.list::<Forward>("tcpfwd", forwards)?,
            udp_forwards: self.list::<Forward>("udpfwd", forwards)?,
        })
    }

    /// What one of two names of an option says.
    fn one_of<T>(&self, one: (&str, Option<T>), other: (&str, Option<T>)) -> Read<Option<T>> {
        match (one.1, other.1) {
            (Some(_), Some(_)) if self.rigour == Rigour::Strict => {
                let expected = format!("either {} or {}, which are the same", one.0, other.0);
                Err(self.wrong_text(other.0, "", &expected))
            }
            (one, other) => Ok(other.or(one)),
        }
    }

    /// Whether everything that was said was looked at.
    pub(super) fn is_read(&self) -> bool {
        self.options.is_empty()
    }
}

fn multicast(group: SocketAddr) -> Option<SocketAddr> {
    Some(group).filter(|group| group.ip().is_multicast() && group.port() != 0)
}

fn advert(text: &str) -> Option<Advert> {
    match text {
        "auto" => Some(Advert::Auto),
        "text" => Some(Advert::Text),
        "sockaddr" => Some(Advert::Sockaddr),
        "both" => Some(Advert::Both),
        _ => None,
    }
}

/// Returns a number: decimal, or hexadecimal behind 0x; and K, M, G are 2^10, 2^20, 2^30 of it, as
/// VDE has it.
fn number(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number = match digits.strip_prefix("0x") {
        // Neither takes a sign here: `from_str` would.
        Some(digits) if digits.bytes().all(|octet| octet.is_ascii_hexdigit()) => {
            u64::from_str_radix(digits, 16).ok()?
        }
        None if digits.bytes().all(|octet| octet.is_ascii_digit()) => digits.parse().ok()?,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}
