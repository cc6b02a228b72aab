//! A socket that others are reached by: it is connected, or bound, made a port, and connected again
//! when it has failed.

use super::{
    connection::{self, Own},
    export::Exported,
    folder::Roots,
    links::Links,
    listener::Access,
    port_handle::{PortHandle, Signal},
    socket::{self, Framing, Prefix},
};
use crate::{
    backoff::{self, Backoff},
    dataplane::{
        PortState,
        port::{
            Port,
            datagram::{Datagrams, Peer},
            descriptor::DescriptorPort,
            interface::Interface,
            own::OwnPort,
            packet::Packet,
            tap::Tap,
        },
    },
    locator::{Host, HostPort, Mcast, Stream, Udp, unspecified},
    log_limit::{LogLimit, Said},
};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketFlags, SocketType, bind, connect, getsockname,
        netdevice::name_to_index,
        socket_with,
        sockopt::{
            set_ip_add_membership, set_ip_add_membership_with_ifindex, set_ip_multicast_if,
            set_ip_multicast_if_with_ifindex, set_ip_multicast_loop, set_ip_multicast_ttl,
            set_ipv6_add_membership, set_ipv6_multicast_hops, set_ipv6_multicast_if,
            set_ipv6_multicast_loop, set_socket_recv_buffer_size, set_socket_reuseaddr,
        },
    },
};
use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    path::PathBuf,
    pin::pin,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Octets that may wait in a socket of datagrams.
// Some milliseconds of 1 Gbit/s. The kernel gives what net.core.rmem_max allows.
const RECEIVE_BUFFER: usize = 1 << 20;

/// What a socket is connected to.
#[derive(Debug)]
pub enum Spec {
    /// A stream with the length before each frame, which somebody listens for.
    Stream(Stream),
    /// A packet socket that somebody listens with, by its path.
    Packets(PathBuf),
    /// A UNIX datagram socket of one's own, and another's.
    Datagrams {
        /// One's own.
        local: PathBuf,
        /// Who may open that.
        access: Access,
        /// The other's.
        remote: PathBuf,
    },
    /// A cable of VDE's between two processes: a datagram socket at each end, of which the first is
    /// at a path, and the second has a `+` behind that.
    Cable {
        /// Of the first end. It is taken, or else the second.
        path: PathBuf,
        /// Who may open the one that is taken.
        access: Access,
    },
    /// A host, by UDP.
    Host(Udp),
    /// A multicast group, by UDP.
    Group(Mcast),
    /// An interface of the host's, by its name.
    Interface(String),
    /// One that a guest's VMM has, or will have: it need not be there yet.
    Guest(String),
    /// A macvtap device, by its interface.
    Macvtap(String),
}

/// What is opened as often as need be.
#[derive(Debug)]
pub(super) enum Source {
    Tcp(HostPort),
    Unix(PathBuf, Framing, Roots),
    Interface(String, Links),
    Macvtap(String, Links),
    Bound(Bound),
}

/// Sockets of one's own. They are never given up, but connected anew.
#[derive(Debug)]
pub(super) enum Bound {
    Datagrams { socket: OwnedFd, local: PathBuf, remote: PathBuf, roots: Roots },
    Host { socket: OwnedFd, remote: HostPort },
    Group { socket: OwnedFd, sender: OwnedFd, group: SocketAddr },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(to) => to.fmt(f),
            Self::Unix(path, ..) => path.display().fmt(f),
            Self::Bound(Bound::Datagrams { remote, .. }) => remote.display().fmt(f),
            Self::Bound(Bound::Host { remote, .. }) => remote.fmt(f),
            Self::Bound(Bound::Group { group, .. }) => group.fmt(f),
            Self::Interface(name, _) | Self::Macvtap(name, _) => name.fmt(f),
        }
    }
}

/// What a connection of a stream carries.
const STREAM: Framing = Framing::Stream(Prefix::U32);

impl Source {
    /// Opens what is one's own, or goes on with what another process of the daemon `exported`.
    /// Returns a port, too, where that process was connected.
    pub(super) fn open(
        spec: Spec,
        access: Access,
        exported: Option<Exported>,
        roots: &Roots,
    ) -> io::Result<(Self, Option<Box<dyn Port>>)> {
        if exported.is_none()
            && let Spec::Stream(Stream::Unix(path))
            | Spec::Packets(path)
            | Spec::Datagrams { remote: path, .. } = &spec
        {
            // Of what goes on, its connections say so.
            roots.refuse_links(path)?;
        }
        let fds = exported.map(|exported| exported.fds).unwrap_or_default();
        match spec {
            Spec::Stream(Stream::Unix(path)) => {
                Ok((Self::Unix(path, STREAM, roots.clone()), STREAM.import(fds)?))
            }
            Spec::Stream(Stream::Tcp(to)) => Ok((Self::Tcp(to), STREAM.import(fds)?)),
            Spec::Packets(path) => {
                let port = Framing::Packets.import(fds)?;
                Ok((Self::Unix(path, Framing::Packets, roots.clone()), port))
            }
            Spec::Interface(name) => {
                let port = match given(fds)? {
                    Some(port) => port,
                    // Now: what it lacks is told to who asks for it.
                    None => interface_port(&name)?,
                };
                Ok((Self::Interface(name, Links::new()?), Some(port)))
            }
            Spec::Guest(name) => {
                let port = match given(fds)?.map_or_else(|| interface_port(&name), Ok) {
                    Ok(port) => Some(port),
                    // Its VMM may not have made it yet. What this process may not, it never may.
                    Err(error) if error.kind() != io::ErrorKind::PermissionDenied => None,
                    Err(error) => return Err(error),
                };
                Ok((Self::Interface(name, Links::new()?), port))
            }
            Spec::Macvtap(name) => {
                let port: Box<dyn Port> = match connection::saved(fds, 1)? {
                    Some((mut fds, rest)) => {
                        let tap = Tap::from(fds.remove(0));
                        Box::new(DescriptorPort::with_frames(tap, &rest.frames)?)
                    }
                    None => macvtap_port(&name)?,
                };
                Ok((Self::Macvtap(name, Links::new()?), Some(port)))
            }
            Spec::Datagrams { local, access: by, remote } => {
                datagrams((local, remote), by.or(access), fds, roots)
            }
            Spec::Cable { path, access: by } => {
                datagrams(ends(path, fds.first(), roots)?, by.or(access), fds, roots)
            }
            Spec::Host(udp) => {
                let new = || host_socket(&udp).map(|socket| vec![socket]);
                let remote = udp.remote.clone();
                bound(fds, new, |[socket]| Bound::Host { socket, remote })
            }
            Spec::Group(mcast) => {
                let new = || group_sockets(&mcast).map(|(socket, sender)| vec![socket, sender]);
                let group = mcast.group;
                bound(fds, new, |[socket, sender]| Bound::Group { socket, sender, group })
            }
        }
    }

    /// Returns the path of its own socket, if that has one.
    pub(super) fn own_path(&self) -> Option<PathBuf> {
        match self {
            Self::Bound(Bound::Datagrams { local, .. }) => Some(local.clone()),
            _ => None,
        }
    }

    /// Returns when it is to be tried again: after `pause`, or sooner where something has changed.
    async fn wait(&self, pause: Duration) {
        let over = tokio::time::sleep(pause);
        if let Self::Interface(_, links) | Self::Macvtap(_, links) = self {
            // Interfaces of others may change without end.
            tokio::time::sleep(pause.min(backoff::FIRST)).await;
            tokio::select! {
                () = over => {}
                // An error says no more than that it is to be looked.
                _ = links.changed() => {}
            }
        } else {
            over.await;
        }
    }

    /// Connects, and returns a port.
    async fn connect(&self) -> io::Result<Box<dyn Port>> {
        match self {
            Self::Tcp(to) => STREAM.port(socket::connect_tcp(to).await?),
            Self::Unix(path, framing, roots) => {
                framing.port(socket::connect_unix(path, *framing, roots).await?)
            }
            Self::Interface(name, _) => interface_port(name),
            Self::Macvtap(name, _) => macvtap_port(name),
            Self::Bound(bound) => {
                bound.connect().await?;
                bound.port(&[])
            }
        }
    }

    /// Returns what another process of the daemon goes on with, where it is not connected.
    fn share(&self) -> io::Result<Vec<OwnedFd>> {
        match self {
            Self::Bound(bound) => bound.share(),
            // Opened anew: who listens takes another connection.
            _ => Ok(Vec::new()),
        }
    }
}

/// Returns the path of the end of a cable that is free, or that another process of the daemon
/// `had`, and the other's. The second end has a `+` behind the path of the first.
fn ends(path: PathBuf, had: Option<&OwnedFd>, roots: &Roots) -> io::Result<(PathBuf, PathBuf)> {
    if roots.contains(&path) {
        // What is beside it is in no folder of ports.
        return Err(socket::at(io::ErrorKind::IsADirectory, path.display()));
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push("+");
    let (first, second) = (roots.place(&path)?, path.with_file_name(name));
    let is_taken = match had {
        Some(socket) => !first.is_of(socket).unwrap_or(false),
        None => first.is_live(SocketType::DGRAM)?,
    };
    Ok(if is_taken { (second, path) } else { (path, second) })
}

/// Returns a socket of datagrams, by its own path and another's.
fn datagrams(
    (local, remote): (PathBuf, PathBuf),
    access: Access,
    mut fds: Vec<OwnedFd>,
    roots: &Roots,
) -> io::Result<(Source, Option<Box<dyn Port>>)> {
    // Whether its name is another's by now: who is to send would not find it.
    if !local.exists() {
        fds.clear();
    }
    let new = || {
        let place = roots.place(&local)?;
        place.refuse_live(SocketType::DGRAM)?;
        Ok(vec![place.make(access, SocketType::DGRAM, Ok)?])
    };
    let roots = roots.clone();
    let own = local.clone();
    bound(fds, new, |[socket]| Bound::Datagrams { socket, local: own, remote, roots })
}

/// Returns sockets that another process of the daemon had, of which `fds` are the descriptors, or
/// `new` ones; and a port where they were connected.
fn bound<const N: usize>(
    mut fds: Vec<OwnedFd>,
    new: impl FnOnce() -> io::Result<Vec<OwnedFd>>,
    made: impl FnOnce([OwnedFd; N]) -> Bound,
) -> io::Result<(Source, Option<Box<dyn Port>>)> {
    let mut frames = None;
    if fds.len() > N
        && let Some((sockets, rest)) = connection::saved(fds.split_off(0), N)?
    {
        (fds, frames) = (sockets, Some(rest.frames));
    }
    if fds.is_empty() {
        fds = new()?;
    }
    let bound = made(<[_; N]>::try_from(fds).map_err(|_| io::ErrorKind::InvalidData)?);
    // Who is gone meanwhile is looked for again.
    let port = frames.and_then(|frames| bound.port(&frames).ok());
    Ok((Source::Bound(bound), port))
}

impl Bound {
    async fn connect(&self) -> io::Result<()> {
        match self {
            Self::Datagrams { remote, roots, .. } => {
                // By another socket: who else sends to this one is to be heard, too.
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                let probe = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
                let found = roots.address(remote);
                let (_file, address) =
                    found.map_err(|error| socket::at(error, remote.display()))?;
                match connect(probe, &address) {
                    // It is connected, to this one as is to be hoped, and hears no other.
                    Ok(()) | Err(Errno::PERM) => Ok(()),
                    Err(errno) => Err(socket::at(errno, remote.display())),
                }
            }
            Self::Host { socket, remote } => {
                let to = resolve(remote, getsockname(socket)?.address_family()).await?;
                // The kernel takes datagrams from nobody else then.
                Ok(connect(socket, &to)?)
            }
            Self::Group { .. } => Ok(()),
        }
    }

    /// Returns a port of what is connected, which begins with these frames.
    fn port(&self, frames: &[Vec<u8>]) -> io::Result<Box<dyn Port>> {
        let (socket, peer) = match self {
            Self::Datagrams { socket, remote, roots, .. } => {
                // What is there now: what has its name later was not looked at.
                let (file, address) = roots.address(remote)?;
                (socket, Peer::UnixAt { file, address: address.into() })
            }
            Self::Host { socket, .. } => (socket, Peer::Host),
            Self::Group { socket, sender, group } => {
                let own = OwnPort::new(SocketAddr::try_from(getsockname(sender)?)?.port());
                let (sender, group) = (sender.try_clone()?, (*group).into());
                (socket, Peer::Group { sender, group, own })
            }
        };
        let transport = Datagrams::new(socket.try_clone()?, peer);
        Ok(Box::new(DescriptorPort::with_frames(transport, frames)?))
    }

    fn share(&self) -> io::Result<Vec<OwnedFd>> {
        match self {
            Self::Datagrams { socket, .. } | Self::Host { socket, .. } => {
                Ok(vec![socket.try_clone()?])
            }
            Self::Group { socket, sender, .. } => {
                Ok(vec![socket.try_clone()?, sender.try_clone()?])
            }
        }
    }
}

/// Returns a port of an interface that another process of the daemon had.
fn given(fds: Vec<OwnedFd>) -> io::Result<Option<Box<dyn Port>>> {
    let Some((mut fds, rest)) = connection::saved(fds, 1)? else { return Ok(None) };
    let packet = Packet::from(fds.remove(0));
    Ok(Some(Box::new(DescriptorPort::with_frames(packet, &rest.frames)?)))
}

/// Returns a port of an interface.
fn interface_port(name: &str) -> io::Result<Box<dyn Port>> {
    let opened = Packet::open(name).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            io::Error::new(error.kind(), format!("{name}: {error}; it needs CAP_NET_RAW"))
        }
        _ => socket::at(error, name),
    })?;
    Ok(Box::new(DescriptorPort::new(opened)?))
}

/// Returns a port of the macvtap device of an interface.
fn macvtap_port(name: &str) -> io::Result<Box<dyn Port>> {
    let opened = Interface::named(name).and_then(|interface| Tap::open_macvtap(&interface));
    Ok(Box::new(DescriptorPort::new(opened.map_err(|error| socket::at(error, name))?)?))
}

/// Returns a socket for UDP that is bound.
fn host_socket(udp: &Udp) -> io::Result<OwnedFd> {
    let address = udp.bound();
    let socket = socket::inet(&address, SocketType::DGRAM)?;
    bind(&socket, &address).map_err(|errno| socket::at(errno, address))?;
    set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
    Ok(socket)
}

/// Returns an address of a host, of the family that its socket has.
async fn resolve(remote: &HostPort, family: AddressFamily) -> io::Result<SocketAddr> {
    let name = match &remote.host {
        Host::Address(address) => return Ok(SocketAddr::new(*address, remote.port)),
        Host::Name(name) => name.as_str(),
    };
    let mut found = tokio::net::lookup_host((name, remote.port)).await?;
    let none = || io::Error::new(io::ErrorKind::NotFound, format!("{name} has no such address"));
    found.find(|address| address.is_ipv6() == (family == AddressFamily::INET6)).ok_or_else(none)
}

/// Returns a socket that hears a group, and one that sends to it.
fn group_sockets(Mcast { group, interface, ttl }: &Mcast) -> io::Result<(OwnedFd, OwnedFd)> {
    let receiver = socket::inet(group, SocketType::DGRAM)?;
    let sender = socket::inet(group, SocketType::DGRAM)?;
    // Others on this host may be in the group, too.
    set_socket_reuseaddr(&receiver, true)?;
    // To the group's address: datagrams to this host's own are no frames of the group.
    bind(&receiver, group).map_err(|errno| socket::at(errno, group))?;
    set_socket_recv_buffer_size(&receiver, RECEIVE_BUFFER)?;
    let index =
        |name: &str| name_to_index(&receiver, name).map_err(|errno| socket::at(errno, name));
    // Links further away hear nothing unless that is asked for.
    let ttl = u32::from(ttl.unwrap_or(1));
    match group.ip() {
        IpAddr::V4(address) => {
            match interface.as_deref().map(|name| (name, name.parse::<Ipv4Addr>())) {
                None => {
                    let joined = set_ip_add_membership(&receiver, &address, &Ipv4Addr::UNSPECIFIED);
                    joined.map_err(|errno| no_way(errno, *group))?;
                }
                Some((_, Ok(own))) => {
                    set_ip_add_membership(&receiver, &address, &own)?;
                    set_ip_multicast_if(&sender, &own)?;
                }
                Some((name, Err(_))) => {
                    let (any, index) = (Ipv4Addr::UNSPECIFIED, index(name)?);
                    set_ip_add_membership_with_ifindex(&receiver, &address, &any, index)?;
                    set_ip_multicast_if_with_ifindex(&sender, &address, &any, index)?;
                }
            }
            set_ip_multicast_ttl(&sender, ttl)?;
            set_ip_multicast_loop(&sender, true)?;
        }
        IpAddr::V6(address) => {
            let index = interface.as_deref().map_or(Ok(0), index)?;
            let joined = set_ipv6_add_membership(&receiver, &address, index);
            joined.map_err(|errno| no_way(errno, *group))?;
            set_ipv6_multicast_if(&sender, index)?;
            set_ipv6_multicast_hops(&sender, ttl)?;
            set_ipv6_multicast_loop(&sender, true)?;
        }
    }
    // Not connected: it would keep to the address that it had then, which its interface may lose.
    bind(&sender, &SocketAddr::new(unspecified(group.ip()), 0))?;
    Ok((receiver, sender))
}

/// Says what it means that a group cannot be joined.
fn no_way(errno: Errno, group: SocketAddr) -> io::Error {
    match errno {
        // The kernel looks for an interface by its routes.
        Errno::NODEV => io::Error::other(format!(
            "this host has no route to {group}: name the interface, as mcast://{group}/if=eth0"
        )),
        errno => socket::at(errno, group),
    }
}

/// Keeps the source attached until `stop`.
pub(super) async fn serve(
    (source, mut connected): (Source, Option<Box<dyn Port>>),
    mut port: PortHandle,
    mut stop: oneshot::Receiver<()>,
) {
    let mut log = LogLimit::default();
    let mut backoff = Backoff::default();
    let is_bound = matches!(source, Source::Bound(_));
    if connected.is_some() || is_bound {
        port.goes_on();
    }
    if is_bound {
        port.keep(|| source.share());
    }
    loop {
        let why = tokio::select! {
            why = try_once(&source, connected.take(), &mut backoff, &mut port) => why,
            _ = &mut stop => return port.end().await,
        };
        // Sockets of one's own are kept until the end.
        if !is_bound {
            port.forget();
        }
        port.tell_why(PortState::Idle, &why);
        if let Some(Said { unsaid }) = log.failure(&why, Instant::now()) {
            tracing::warn!(port = port.name(), to = %source, why, unsaid, "a port is down");
        }
    }
}

/// Attaches the source once, after a pause. Returns why it is not attached any more.
async fn try_once(
    source: &Source,
    connected: Option<Box<dyn Port>>,
    backoff: &mut Backoff,
    port: &mut PortHandle,
) -> String {
    let pause = backoff.next();
    let opened = if let Some(connected) = connected {
        Ok(connected)
    } else {
        let mut opening = pin!(async {
            source.wait(pause).await;
            source.connect().await
        });
        loop {
            tokio::select! {
                opened = &mut opening => break opened,
                signal = port.next() => {
                    // Nothing is attached that could move or fail.
                    if let Signal::Export(request) = signal {
                        port.export(request, source.share()).await;
                    }
                }
            }
        }
    };
    match opened {
        Err(error) => error.to_string(),
        Ok(made) => {
            port.begin();
            port.connected();
            let since = Instant::now();
            let failure = connection::keep(made, port, Own::default()).await;
            backoff.worked(since.elapsed());
            failure.to_string()
        }
    }
}
