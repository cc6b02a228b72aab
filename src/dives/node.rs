//! A switch of the mesh on sockets: one UDP socket for the frames of all its VLANs, one for the
//! group, and for each VLAN a pair of packet sockets, whose other end is a port.
//!
//! ```text
//! port of VLAN 5 ══ pair ══ task ──▶ unicast socket ──▶ peers
//! port of VLAN 6 ══ pair ══ task ──▶       │
//!        ▲────────── receiving task ◀──────┘
//!                    discovering task ◀──▶ group
//! ```
//! A VLAN is left when the other end of its pair is closed.

use super::{
    advert::{self, Policy},
    mesh::{self, Advert, Mesh, PeerMac, Totals},
    subnet,
};
use crate::mutex::lock;
use ipnet::IpNet;
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, bind, send, socket_with, socketpair, sockopt,
};
use std::{
    collections::HashMap,
    fs, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket as StdSocket},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixDatagram as StdDatagram,
    },
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};
use tokio::{
    net::{UdpSocket, UnixDatagram},
    task::AbortHandle,
    time::MissedTickBehavior,
};

/// How often a switch says that it is there.
const ADVERTISE: Duration = Duration::from_secs(1);
/// Octets of a UDP datagram at most, and one that shows what is longer (RFC 768).
const DATAGRAM: usize = 65_536;
/// Where a switch is in which mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its unicast address.
    pub host: Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// The group of discovery.
    pub group: SocketAddrV4,
    /// How it says that it is there.
    pub advert: Policy,
    /// Where peers may be; empty: in the network of `host`.
    pub allow: Vec<IpNet>,
}

/// A switch. Dropping it leaves the mesh.
#[derive(Debug)]
pub struct Node {
    shared: Arc<Shared>,
    tasks: Vec<AbortHandle>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    unicast: UdpSocket,
    discovery: UdpSocket,
    mesh: Mutex<Mesh>,
    /// This end of each VLAN's pair.
    vlans: Mutex<HashMap<u32, Arc<UnixDatagram>>>,
}

/// The sockets of a switch.
#[derive(Debug)]
pub struct Sockets {
    unicast: StdSocket,
    discovery: StdSocket,
}

impl Sockets {
    /// Opens them.
    pub fn open(settings: &Settings) -> io::Result<Self> {
        let Settings { host, port, group, .. } = *settings;
        if !group.ip().is_multicast() {
            let why = format!("{}: expected a multicast address like 239.13.13.13", group.ip());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let unicast = StdSocket::bind((host, port)).map_err(about(format!("UDP {host}:{port}")))?;
        unicast.set_nonblocking(true)?;
        let discovery = discovery_socket(group, host).map_err(about(format!("group {group}")))?;
        Ok(Self { unicast, discovery })
    }

    /// Returns those that [`Node::share`] has given; none where it has given none.
    pub fn from_fds(fds: Vec<OwnedFd>) -> Option<Self> {
        let [unicast, discovery] = <[_; 2]>::try_from(fds).ok()?;
        Some(Self { unicast: unicast.into(), discovery: discovery.into() })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Names what cannot be done.
fn about(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Returns the networks of `allow`, or the one of `host`.
fn allowed(allow: &[IpNet], host: Ipv4Addr) -> io::Result<Vec<IpNet>> {
    if !allow.is_empty() {
        return Ok(allow.to_vec());
    }
    let table = fs::read_to_string("/proc/net/route")?;
    let unknown = || {
        let why = format!("{host} is in no network of this host's: say where peers may be");
        io::Error::new(io::ErrorKind::InvalidInput, why)
    };
    subnet::find(&table, host).map(|net| vec![net]).ok_or_else(unknown)
}

fn discovery_socket(group: SocketAddrV4, host: Ipv4Addr) -> io::Result<StdSocket> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    // Others on this host listen to the same group.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // To the group's address: what is sent to this host's is for somebody else.
    bind(&socket, &group)?;
    sockopt::set_ip_multicast_if(&socket, &host)?;
    let socket = StdSocket::from(socket);
    socket.join_multicast_v4(group.ip(), &host)?;
    socket.set_multicast_loop_v4(true)?;
    // The mesh is of one link.
    socket.set_multicast_ttl_v4(1)?;
    Ok(socket)
}

/// Returns a packet socket for tokio, which knows of datagram sockets only: calls are the same.
fn packets(socket: OwnedFd) -> io::Result<UnixDatagram> {
    UnixDatagram::from_std(StdDatagram::from(socket))
}

impl Node {
    /// Starts a switch on its sockets, on the current runtime of tokio.
    pub fn start(settings: Settings, sockets: Sockets) -> io::Result<Self> {
        let Sockets { unicast, discovery } = sockets;
        let allowed = allowed(&settings.allow, settings.host)?;
        let own = unicast.local_addr()?;
        let mesh = Mesh::new(own, allowed, settings.advert, Instant::now());
        let shared = Arc::new(Shared {
            settings,
            unicast: UdpSocket::from_std(unicast)?,
            discovery: UdpSocket::from_std(discovery)?,
            mesh: Mutex::new(mesh),
            vlans: Mutex::default(),
        });
        let tasks = vec![
            tokio::spawn(receive(Arc::clone(&shared))).abort_handle(),
            tokio::spawn(discover(Arc::clone(&shared))).abort_handle(),
        ];
        Ok(Self { shared, tasks })
    }

    /// Where it is.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Returns its sockets, for another process.
    pub fn share(&self) -> io::Result<Vec<OwnedFd>> {
        let Shared { unicast, discovery, .. } = &*self.shared;
        [unicast, discovery].map(|socket| socket.as_fd().try_clone_to_owned()).into_iter().collect()
    }

    /// Joins a VLAN. Returns the packet socket on which its frames come and go.
    pub fn join(&self, vlan: u32) -> io::Result<OwnedFd> {
        if lock(&self.shared.vlans).contains_key(&vlan) {
            let why = format!("VLAN {vlan} of {} is another port's", self.shared.settings.group);
            return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
        }
        self.rejoin(vlan)
    }

    /// Joins a VLAN anew, whose socket is closed.
    pub fn rejoin(&self, vlan: u32) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let ours = Arc::new(packets(ours)?);
        lock(&self.shared.vlans).insert(vlan, Arc::clone(&ours));
        lock(&self.shared.mesh).join(vlan);
        // Ends when `theirs` is closed; it holds no more than what it needs until then.
        tokio::spawn(send_all(Arc::downgrade(&self.shared), vlan, ours));
        Ok(theirs)
    }

    /// Returns the peers, each with the time since its last advert.
    pub fn peers(&self) -> Vec<(SocketAddr, Duration)> {
        lock(&self.shared.mesh).peers(Instant::now())
    }

    /// Returns the MACs of a VLAN that are behind peers.
    pub fn macs(&self, vlan: u32) -> Vec<PeerMac> {
        lock(&self.shared.mesh).macs(vlan, Instant::now())
    }

    /// What has been carried.
    pub fn totals(&self) -> Totals {
        lock(&self.shared.mesh).totals()
    }
}

/// Takes datagrams of peers, and gives each frame to its VLAN.
async fn receive(shared: Arc<Shared>) {
    let mut datagram = vec![0; DATAGRAM];
    loop {
        let (len, from) = match shared.unicast.recv_from(&mut datagram).await {
            Ok(received) => received,
            // Of what was sent before: a peer that is gone.
            Err(error) => {
                tracing::debug!(%error, "a datagram was not received");
                continue;
            }
        };
        let datagram = &datagram[..len];
        let taken = lock(&shared.mesh).receive(from, datagram, Instant::now());
        // What is dropped is counted.
        let Ok((vlan, frame)) = taken else { continue };
        let port = lock(&shared.vlans).get(&vlan).cloned();
        // Whoever has no room misses it, as on any wire: peers are not held up for one VLAN.
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        if port.is_none_or(|port| send(&*port, frame, flags).is_err()) {
            lock(&shared.mesh).count_sent(0, 1);
        }
    }
}

/// Says that this switch is there, and hears who else is.
async fn discover(shared: Arc<Shared>) {
    // Not before: whoever has only listened so far knows no better what to say.
    let first = match shared.settings.advert {
        Policy::Auto => tokio::time::Instant::now() + advert::LISTEN,
        Policy::Text | Policy::Binary | Policy::Both => tokio::time::Instant::now(),
    };
    let mut turns = tokio::time::interval_at(first, ADVERTISE);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut datagram = [0; advert::LONGEST + 1];
    loop {
        tokio::select! {
            _ = turns.tick() => advertise(&shared).await,
            received = shared.discovery.recv(&mut datagram) => match received {
                Ok(len) => hear(&shared, &datagram[..len]),
                Err(error) => tracing::debug!(%error, "an advert was not received"),
            }
        }
    }
}

async fn advertise(shared: &Shared) {
    let now = Instant::now();
    let (adverts, gone) = {
        let mut mesh = lock(&shared.mesh);
        let gone = mesh.expire(now);
        (mesh.adverts(now), gone)
    };
    for peer in gone {
        tracing::info!("timing out peer {peer}");
    }
    for advert in adverts {
        if let Err(error) = shared.discovery.send_to(&advert, shared.settings.group).await {
            tracing::debug!(%error, "an advert was not sent");
        }
    }
}

fn hear(shared: &Shared, datagram: &[u8]) {
    let heard = lock(&shared.mesh).hear(datagram, Instant::now());
    match heard {
        Advert::Discovered(peer) => tracing::info!("discovered peer {peer}"),
        Advert::Full(peer) => tracing::warn!("no place for peer {peer}: there are too many"),
        Advert::Nothing => {}
    }
}

/// Sends the frames of a VLAN to peers until its port is closed.
async fn send_all(shared: Weak<Shared>, vlan: u32, port: Arc<UnixDatagram>) {
    let mut datagram = vec![0; mesh::HEADER + DATAGRAM];
    datagram[..mesh::HEADER].copy_from_slice(&mesh::header(vlan));
    let mut peers = Vec::new();
    loop {
        let len = match port.recv(&mut datagram[mesh::HEADER..]).await {
            // No frame is empty: the other end was closed.
            Ok(0) | Err(_) => break,
            Ok(len) => len,
        };
        let Some(shared) = shared.upgrade() else { return };
        let datagram = &datagram[..mesh::HEADER + len];
        peers.clear();
        let frame = &datagram[mesh::HEADER..];
        lock(&shared.mesh).destinations(vlan, frame, Instant::now(), |peer| peers.push(peer));
        let (mut sent, mut lost) = (0, 0);
        for peer in &peers {
            // What waits here holds up its own VLAN, which is the back-pressure of it.
            match shared.unicast.send_to(datagram, peer).await {
                Ok(_) => sent += 1,
                Err(_) => lost += 1,
            }
        }
        lock(&shared.mesh).count_sent(sent, lost);
    }
    let Some(shared) = shared.upgrade() else { return };
    let mut vlans = lock(&shared.vlans);
    // Unless it was joined anew since.
    if vlans.get(&vlan).is_some_and(|joined| Arc::ptr_eq(joined, &port)) {
        vlans.remove(&vlan);
        lock(&shared.mesh).leave(vlan);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long beside a second between adverts.
    const SOON: Duration = Duration::from_secs(10);

    /// A group that nobody else is in.
    fn group() -> SocketAddrV4 {
        let any = StdSocket::bind("127.0.0.1:0").unwrap();
        SocketAddrV4::new(Ipv4Addr::new(239, 13, 13, 13), any.local_addr().unwrap().port())
    }

    fn settings(group: SocketAddrV4, advert: Policy) -> Settings {
        Settings { host: Ipv4Addr::LOCALHOST, port: 0, group, advert, allow: vec![] }
    }

    fn node(group: SocketAddrV4, advert: Policy) -> Node {
        let settings = settings(group, advert);
        let sockets = Sockets::open(&settings).unwrap();
        Node::start(settings, sockets).unwrap()
    }

    async fn until(wanted: impl Fn() -> bool) {
        let wait = async {
            while !wanted() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, wait).await.expect("it becomes so");
    }

    /// A VLAN of a node, as a port has it.
    struct Port(UnixDatagram);

    impl Port {
        fn new(node: &Node, vlan: u32) -> Self {
            Self(packets(node.join(vlan).unwrap()).unwrap())
        }

        async fn send(&self, frame: &[u8]) {
            assert_eq!(self.0.send(frame).await.unwrap(), frame.len());
        }

        async fn hear(&self) -> Vec<u8> {
            let mut frame = vec![0; 2048];
            let read = self.0.recv(&mut frame);
            let len = tokio::time::timeout(SOON, read).await.unwrap().unwrap();
            frame.truncate(len);
            frame
        }
    }

    fn frame(to: u8, from: u8, text: &str) -> Vec<u8> {
        let (to, from) = ([2, 0, 0, 0, 0, to], [2, 0, 0, 0, 0, from]);
        [&to[..], &from, &[0x88, 0xb5], text.as_bytes()].concat()
    }

    // seed H.3.24, H.3.25
    #[tokio::test]
    async fn three_switches_send_each_other_frames_of_their_vlans() {
        let group = group();
        let nodes = [Policy::Text, Policy::Binary, Policy::Auto].map(|form| node(group, form));
        let [a, b, c] = &nodes;
        until(|| nodes.iter().all(|node| node.peers().len() == 2)).await;
        let ports = nodes.each_ref().map(|node| Port::new(node, 5));
        let other = Port::new(b, 6);
        assert!(a.join(5).is_err(), "a VLAN has one port");
        ports[0].send(&frame(9, 1, "to whom it may concern")).await;
        for port in &ports[1..] {
            assert_eq!(port.hear().await, frame(9, 1, "to whom it may concern"));
        }
        // Learned there: the answer is for the first alone.
        ports[1].send(&frame(1, 2, "answer")).await;
        assert_eq!(ports[0].hear().await, frame(1, 2, "answer"));
        other.send(&frame(1, 2, "of another VLAN")).await;
        until(|| a.totals().unknown_vlan == 1 && c.totals().unknown_vlan == 1).await;
        assert_eq!((b.totals().sent, c.totals().received), (3, 1));
        assert_eq!(a.macs(5)[0].mac.0, [2, 0, 0, 0, 0, 2]);
        // A port that is closed leaves its VLAN, which may be joined again.
        drop(other);
        until(|| lock(&b.shared.vlans).len() == 1).await;
        Port::new(b, 6);
        drop(nodes);
        let settings = settings(group, Policy::Auto);
        Sockets::open(&Settings { host: Ipv4Addr::new(192, 0, 2, 1), ..settings.clone() })
            .expect_err("no address of this host");
        let group = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        let refused = Sockets::open(&Settings { group, ..settings }).unwrap_err().to_string();
        assert_eq!(refused, "127.0.0.1: expected a multicast address like 239.13.13.13");
    }

    #[tokio::test]
    async fn who_is_not_heard_is_not_heard_out() {
        let group = group();
        let node = node(group, Policy::Text);
        let port = Port::new(&node, 5);
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let own = node.shared.unicast.local_addr().unwrap();
        let datagram = [&[0, 0, 0, 5][..], &frame(1, 2, "hello")].concat();
        stranger.send_to(&datagram, own).await.unwrap();
        until(|| node.totals().unknown_peer == 1).await;
        let advert = stranger.local_addr().unwrap().to_string();
        rustix::net::sockopt::set_ip_multicast_if(&stranger, &Ipv4Addr::LOCALHOST).unwrap();
        stranger.send_to(advert.as_bytes(), group).await.unwrap();
        until(|| node.peers().len() == 1).await;
        stranger.send_to(&datagram, own).await.unwrap();
        assert_eq!(port.hear().await, frame(1, 2, "hello"));
        // Octet for octet as a peer of the protocol's text has it.
        port.send(&frame(2, 1, "hello yourself")).await;
        let mut answer = [0; 2048];
        let (len, from) = stranger.recv_from(&mut answer).await.unwrap();
        let expected = [&[0, 0, 0, 5][..], &frame(2, 1, "hello yourself")].concat();
        assert_eq!((&answer[..len], from), (&expected[..], own));
    }
}
