//! What a locator comes to here: who may ask for it, and what the data plane makes of it.

use super::{refusal::Refusal, slirp};
use crate::account::Group;
use crate::{
    dataplane::{
        Access, MAX_CLIENTS, PortSpec, dial, dives, given, listen,
        socket::{Address, Framing, Prefix},
        switchyard, tunnel, vde,
    },
    dives::{advert::Policy, node::Settings},
    egress::protocol::Denied,
    locator::{self, Dgram, Listen, Locator, Reach},
};
use ipnet::IpNet;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};
use uuid::Uuid;

/// How names end that vNICs have in the folder of sockets.
const NAMES_OF_NICS: [&str; 3] = ["sock", "guest", "vde"];

/// What of the host ports may reach: callers of the API get what the flags allow, and no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reachable {
    /// Whatever the user may: the caller is the user.
    Everything,
    /// As the flags say.
    Flags {
        /// Folders that sockets may be in.
        directories: Vec<PathBuf>,
        /// Networks of addresses that may be listened at.
        listen: Vec<IpNet>,
        /// What no guest reaches by a port, as the API.
        deny: Vec<Denied>,
    },
}

impl Reachable {
    /// Refuses what may not be asked for here.
    pub(super) fn check(&self, locator: &Locator) -> Result<(), Refusal> {
        let Self::Flags { directories, listen, .. } = self else { return Ok(()) };
        match locator.reach() {
            Reach::Process => Err(Refusal::Forbidden(format!(
                "{}:// is for commands, which have a process of their own: use mvirt plug",
                locator.kind().name
            ))),
            Reach::Paths(paths) => {
                let outside = paths.into_iter().find(|path| !is_within(path, directories));
                outside.map_or(Ok(()), |path| {
                    Err(Refusal::Forbidden(format!(
                        "{} is in none of the folders of --port-dir, which are {}",
                        path.display(),
                        shown(directories.iter().map(|directory| directory.display()))
                    )))
                })
            }
            Reach::Listens(address) => self.check_address(address, listen),
            Reach::World { loopback: true, .. } => Err(Refusal::Forbidden(
                "disable_host_loopback=off lets guests reach what listens on this host's loopback \
                 address alone: it is for commands, use mvirt plug"
                    .into(),
            )),
            Reach::World { listens, loopback: false } => {
                listens.into_iter().try_for_each(|address| self.check_address(address, listen))
            }
            Reach::Nothing | Reach::Connects(_) | Reach::Interface(_) => Ok(()),
        }
    }

    /// Returns what the data plane makes of a locator that was checked.
    pub(super) fn spec(&self, locator: &Locator, description: &str) -> io::Result<PortSpec> {
        let mut made = spec(locator, description)?;
        if let (Self::Flags { deny, .. }, PortSpec::Slirp(made)) = (self, &mut made) {
            made.configuration.deny.extend(deny);
        }
        Ok(made)
    }

    fn check_address(&self, address: IpAddr, listen: &[IpNet]) -> Result<(), Refusal> {
        if address.is_loopback() || listen.iter().any(|net| net.contains(&address)) {
            return Ok(());
        }
        Err(Refusal::Forbidden(format!(
            "{address} is no loopback address and in none of the networks of --port-listen, \
             which are {}",
            shown(listen)
        )))
    }
}

/// Whether a path is within one of some folders, as it is written: `..` may lead anywhere.
fn is_within(path: &Path, directories: &[PathBuf]) -> bool {
    let plain = path.components().all(|part| part != Component::ParentDir);
    plain && directories.iter().any(|directory| path.starts_with(directory))
}

fn shown<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    let values: Vec<_> = values.into_iter().map(|value| value.to_string()).collect();
    if values.is_empty() { "none".into() } else { values.join(", ") }
}

/// Whether others connect to it, each of whom is a member of the network.
pub fn listens(locator: &Locator) -> bool {
    matches!(
        locator,
        Locator::StreamListen(_)
            | Locator::SeqpacketListen(_)
            | Locator::Switch(_)
            | Locator::Hub(_)
    )
}

/// Refuses a socket that would have the name of a vNIC's, of one that is there or that comes.
pub(super) fn refuse_names_of_nics(locator: &Locator, sockets: &Path) -> Result<(), Refusal> {
    let made = match locator {
        Locator::Switch(node) | Locator::Hub(node) => &node.directory,
        Locator::SeqpacketListen(at) => &at.path,
        Locator::StreamListen(locator::StreamListen {
            listen: Listen::Unix { path, .. }, ..
        }) => path,
        Locator::Dgram(at) => &at.local,
        Locator::Ptp(at) => &at.path,
        _ => return Ok(()),
    };
    let name = made.file_stem().and_then(|name| name.to_str());
    let is_id = name.is_some_and(|name| Uuid::try_parse(name).is_ok());
    let is_kind = made.extension().is_some_and(|kind| NAMES_OF_NICS.iter().any(|of| kind == *of));
    if made.parent() != Some(sockets) || !is_kind || !is_id {
        return Ok(());
    }
    Err(Refusal::InUse(format!("{} is what a vNIC's socket is called", made.display())))
}

/// Returns where datagrams go of a vNIC whose socket is at `path`: its VMM makes the other one.
pub(super) fn own_datagrams(path: &Path) -> Dgram {
    Dgram {
        local: path.into(),
        remote: path.with_extension("guest"),
        access: locator::Access::default(),
    }
}

/// Returns what the data plane makes of a locator; others may be told its `description`.
pub fn spec(locator: &Locator, description: &str) -> io::Result<PortSpec> {
    match locator {
        Locator::Switch(node) | Locator::Hub(node) => {
            if node.directory.as_os_str().is_empty() {
                let expected = "expected a directory behind ://";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, expected));
            }
            Ok(PortSpec::VdeSwitch(vde::switch::Spec {
                directory: node.directory.clone(),
                access: access(&node.access)?,
                directory_mode: node.directory_mode,
                max_clients: node.max.map_or(MAX_CLIENTS, u32::from),
            }))
        }
        Locator::Vde(plug) => Ok(PortSpec::VdePlug(vde::plug::Spec {
            directory: plug.directory.clone(),
            port: match &plug.port {
                None => vde::plug::SwitchPort::Any,
                Some(locator::SwitchPort::Number(number)) => vde::plug::SwitchPort::Number(*number),
                Some(locator::SwitchPort::Group(group)) => {
                    vde::plug::SwitchPort::Group(group.clone())
                }
            },
            access: access(&plug.access)?,
            description: match description {
                "" => format!("mvirt-net PID={}", std::process::id()),
                said => format!("{said} PID={}", std::process::id()),
            },
        })),
        Locator::Vxvde(cloud) => {
            let user_group = match cloud.user_group.as_deref() {
                // As vde_plug has it: one's own.
                Some("") => Some(rustix::process::getegid().as_raw()),
                asked => asked.map(group).transpose()?,
            };
            Ok(PortSpec::Tunnel(tunnel::Spec::Vxvde { cloud: cloud.clone(), user_group }))
        }
        Locator::Vxlan(vxlan) => Ok(PortSpec::Tunnel(tunnel::Spec::Vxlan(vxlan.clone()))),
        Locator::SeqpacketListen(at) => Ok(PortSpec::Listen(listen::Spec {
            address: Address::Unix(at.path.clone()),
            framing: Framing::Packets,
            access: access(&at.access)?,
            max_clients: at.max.map_or(MAX_CLIENTS, u32::from),
        })),
        Locator::Dives(at) => mesh(at).map(PortSpec::Dives),
        Locator::StreamListen(at) => {
            let (address, access) = match &at.listen {
                Listen::Tcp { address, insecure } => {
                    check_port(*address)?;
                    check_exposed(address.ip(), *insecure)?;
                    (Address::Tcp(*address), Access::default())
                }
                Listen::Unix { path, access: by } => (Address::Unix(path.clone()), access(by)?),
            };
            Ok(PortSpec::Listen(listen::Spec {
                address,
                framing: Framing::Stream(Prefix::U32),
                access,
                max_clients: at.max.map_or(MAX_CLIENTS, u32::from),
            }))
        }
        Locator::Stream(to) => Ok(PortSpec::Dial(dial::Spec::Stream(to.clone()))),
        Locator::SeqpacketConnect(path) => Ok(PortSpec::Dial(dial::Spec::Packets(path.clone()))),
        Locator::Dgram(at) => Ok(PortSpec::Dial(dial::Spec::Datagrams {
            local: at.local.clone(),
            access: access(&at.access)?,
            remote: at.remote.clone(),
        })),
        Locator::Ptp(at) => Ok(PortSpec::Dial(dial::Spec::Cable {
            path: at.path.clone(),
            access: access(&at.access)?,
        })),
        Locator::SwitchyardListen(at) => {
            check_port(at.address)?;
            check_exposed(at.address.ip(), at.insecure)?;
            Ok(PortSpec::Switchyard(switchyard::Spec {
                address: at.address,
                max_clients: at.max.map_or(MAX_CLIENTS, u32::from),
            }))
        }
        Locator::Null => Ok(PortSpec::Given(given::Spec::Null)),
        Locator::Seqpacket(number) => {
            let socket = inherited(*number).map_err(|error| {
                io::Error::new(error.kind(), format!("descriptor {number}: {error}"))
            })?;
            Ok(PortSpec::Given(given::Spec::Socket(socket, Framing::Packets)))
        }
        Locator::Udp(to) => Ok(PortSpec::Dial(dial::Spec::Host(to.clone()))),
        Locator::Packet(interface) => Ok(PortSpec::Dial(dial::Spec::Interface(interface.clone()))),
        Locator::Macvtap(interface) => Ok(PortSpec::Dial(dial::Spec::Macvtap(interface.clone()))),
        Locator::Mcast(group) => Ok(PortSpec::Dial(dial::Spec::Group(group.clone()))),
        Locator::Tap(tap) => Ok(PortSpec::Tap(tap.clone())),
        Locator::Slirp(slirp) => Ok(PortSpec::Slirp(slirp::spec(slirp)?)),
        Locator::Cmd(_) | Locator::Stdio => {
            let kind = locator.kind().name;
            let why = format!("this daemon has no ports of the kind {kind}");
            Err(io::Error::new(io::ErrorKind::Unsupported, why))
        }
    }
}

/// Refuses port 0: the kernel would choose one, each time another, and nobody would learn it.
fn check_port(address: SocketAddr) -> io::Result<()> {
    if address.port() != 0 {
        return Ok(());
    }
    let why = "port 0 is any port, and nobody would know which: expected a number from 1 to 65535";
    Err(io::Error::new(io::ErrorKind::InvalidInput, why))
}

/// Refuses an address that others than this host reach, where that was not said to be wanted.
fn check_exposed(address: IpAddr, insecure: bool) -> io::Result<()> {
    if insecure || address.is_loopback() {
        return Ok(());
    }
    let why = format!(
        "others than this host reach {address}, and nobody is asked who they are: say so by \
         /insecure behind the port"
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, why))
}

fn mesh(at: &locator::Dives) -> io::Result<dives::Spec> {
    let refused = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    let SocketAddr::V4(group) = at.group else {
        return refused("expected a group of IPv4, like 239.13.13.13");
    };
    if at.names {
        return refused("names=on: peers are known by addresses only");
    }
    let advert = match at.advert {
        locator::Advert::Auto => Policy::Auto,
        locator::Advert::Text => Policy::Text,
        locator::Advert::Sockaddr => Policy::Binary,
        locator::Advert::Both => Policy::Both,
    };
    let (host, port, allow) = (at.host, at.port, at.allow.clone());
    let switch = Settings { host, port, group, advert, allow };
    Ok(dives::Spec { switch, vlan: at.vlan })
}

/// Returns a descriptor of this process, by its number: another one of the same.
fn inherited(number: u32) -> io::Result<OwnedFd> {
    // By way of the kernel, which knows whether there is one: its number alone proves nothing.
    let process = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(process, number.cast_signed(), PidfdGetfdFlags::empty())?)
}

/// Returns who may open a socket; names are looked up now.
fn access(access: &locator::Access) -> io::Result<Access> {
    let group = access.group.as_deref().map(group).transpose()?;
    Ok(Access { owner: None, group, mode: access.mode })
}

/// Returns the number of a group.
fn group(name: &str) -> io::Result<u32> {
    match name.parse() {
        Ok(Group(number)) => Ok(number),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidInput, error)),
    }
}

/// Returns why a port could not be made.
pub(super) fn refused(locator: &Locator, error: io::Error) -> Refusal {
    let said = error.to_string();
    match error.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported => {
            Refusal::invalid("locator", locator, error)
        }
        io::ErrorKind::PermissionDenied => Refusal::Forbidden(format!("{locator}: {error}{}", {
            match locator.kind().needs {
                // The port's own words may say so already, as those of a TAP device do.
                needs if needs.is_empty() || said.contains("it needs") => String::new(),
                needs => format!(": it needs {needs}"),
            }
        })),
        io::ErrorKind::AddrInUse | io::ErrorKind::ResourceBusy => {
            Refusal::InUse(format!("{locator}: {error}"))
        }
        _ => Refusal::Unready(format!("{locator}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_reach_what_the_flags_allow() {
        let may = |listen: &str, locator: &str| {
            let listen = listen.split_terminator(',').map(|net| net.parse().unwrap()).collect();
            let directories = vec!["/run/vde".into()];
            let reachable = Reachable::Flags { directories, listen, deny: vec![] };
            reachable.check(&locator.parse().unwrap()).is_ok()
        };
        for (locator, networks) in [
            ("stream-listen://10.0.0.1:9999/insecure", "10.0.0.0/8"),
            ("switchyard-listen://10.0.0.1:9999/insecure", "10.0.0.0/8"),
            ("udp://10.0.0.1:5->10.0.0.2:5", "10.0.0.0/8"),
            ("udp://5->10.0.0.2:5", "0.0.0.0/0"),
            ("udp://5->[fd00::2]:5", "::/0"),
            ("mcast://239.192.1.1:1102", "239.0.0.0/8"),
            ("mcast://239.192.1.1:1102/if=eth0", "239.0.0.0/8"),
            ("vxvde://239.0.0.1/bind=127.0.0.1", "239.0.0.0/8"),
            ("vxlan://239.0.0.1", "0.0.0.0/0"),
            ("vxlan:///remote=10.0.0.2/local=10.0.0.1", "10.0.0.0/8"),
            ("dives://239.13.13.13:3535/host=10.0.0.1/vlan=5", "10.0.0.0/8"),
            ("slirp:///tcpfwd=80:10.0.2.15:80/udpfwd=10.0.0.1:53:10.0.2.15:53", "10.0.0.0/8"),
        ] {
            assert!(!may("", locator) && !may("192.0.2.0/24,fd00::/8", locator), "{locator}");
            assert!(may(networks, locator), "{locator}");
        }
        // Who connects to others needs no flag; nor does what stays on this host.
        for locator in [
            "stream://192.0.2.1:9999",
            "stream://example.org:9999",
            "udp://127.0.0.1:5->192.0.2.1:5",
            "mcast://239.192.1.1:1102/if=lo",
            "dives://239.13.13.13:3535/vlan=5",
            "stream-listen://[::1]:9999",
            "switch:///run/vde/lab",
            "stream:///run/vde/lab",
            "tap://t0",
            "slirp:///tcpfwd=80:10.0.2.15:80",
        ] {
            assert!(may("", locator), "{locator}");
        }
        for locator in [
            "cmd://sh",
            "stdio://",
            "seqpacket://3",
            "switch:///run/vde2",
            "vde:///run/vde/../docker.sock",
            "stream:///var/run/docker.sock",
            "dgram:///run/vde/a->/tmp/b",
            "seqpacket-connect:///proc/self/fd/3",
            "slirp:///disable_host_loopback=off",
        ] {
            assert!(!may("0.0.0.0/0,::/0", locator), "{locator}");
        }
    }

    #[test]
    fn who_listens_beyond_this_host_must_say_so() {
        let spec = |locator: &str| spec(&locator.parse().unwrap(), "");
        for kind in ["stream-listen", "switchyard-listen"] {
            let refused = spec(&format!("{kind}://0.0.0.0:9999")).unwrap_err().to_string();
            assert!(refused.contains("say so by /insecure"), "{refused}");
            assert!(spec(&format!("{kind}://0.0.0.0:9999/insecure")).is_ok());
            assert!(spec(&format!("{kind}://127.0.0.1:9999")).is_ok());
            assert!(spec(&format!("{kind}://[::1]:9999")).is_ok());
            for address in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0/insecure"] {
                let refused = spec(&format!("{kind}://{address}")).unwrap_err().to_string();
                assert!(refused.contains("port 0"), "{refused}");
            }
        }
    }
}
