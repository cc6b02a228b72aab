//! A host with a daemon, and a world behind a cable that knows the host's addresses alone.

use crate::{
    command::{mvirt, stderr},
    daemon::{Daemon, cannot_run, wait_until},
    namespace::{Namespace, run},
};
use mvirt_net::proto::{
    CreateNetworkRequest, Egress, GetEgressRequest, Nic, Transport, UpdateNetworkRequest,
};
use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

/// Of the world, as guests call it; and of the host, as the world sees it.
pub(super) const WORLD: [&str; 2] = ["192.0.2.2", "2001:db8:ffff::2"];
pub(super) const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:ffff::1"];

/// Runs a story on a host of its own.
pub(crate) fn on_a_host(story: impl FnOnce(&Namespace) + Send) {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
        return cannot_run("only root can make a TUN device, where there is /dev/net/tun");
    }
    if Command::new("nft").arg("-v").stdout(Stdio::null()).status().is_err() {
        return cannot_run("there is no nft: the package nftables");
    }
    let [host, world] = [(); 2].map(|()| Namespace::new());
    thread::scope(|scope| {
        let cabled = || {
            host.enter();
            let peer = world.0.id();
            run(&format!("ip link add h0 type veth peer name w0 netns {peer}"));
            set_up("h0", HOST);
            run("ip link set lo up");
            run(&format!("ip route add default via {}", WORLD[0]));
            run(&format!("ip route add default via {}", WORLD[1]));
            inside(&world, || {
                set_up("w0", WORLD);
                run("ip link set lo up");
            });
            story(&world);
        };
        scope.spawn(cabled).join().unwrap();
    });
}

fn set_up(interface: &str, [ipv4, ipv6]: [&str; 2]) {
    run(&format!("ip link set {interface} up"));
    run(&format!("ip address add {ipv4}/24 dev {interface}"));
    run(&format!("ip address add {ipv6}/64 dev {interface} nodad"));
}

/// Runs something in a namespace.
pub(super) fn inside<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> T {
    namespace.within(work)
}

pub(super) fn start(flags: &[&str]) -> Daemon {
    Daemon::start_with(&[&["--reactors", "1", "--hugepages", "off"], flags].concat())
}

/// A daemon that may set the kernel's switches.
pub(crate) fn start_egress() -> Daemon {
    start(&["--egress-sysctl"])
}

/// A public network of these addresses.
pub(super) fn public(daemon: &mut Daemon, name: &str, [ipv4, ipv6]: [&str; 2]) {
    try_public(daemon, name, [ipv4, ipv6]).unwrap();
}

pub(super) fn try_public(
    daemon: &mut Daemon,
    name: &str,
    [ipv4, ipv6]: [&str; 2],
) -> Result<(), tonic::Status> {
    let request = CreateNetworkRequest {
        name: name.into(),
        ipv4_subnet: ipv4.into(),
        ipv6_prefix: ipv6.into(),
        is_public: true,
        ..Default::default()
    };
    daemon.call(async |client| client.create_network(request).await).map(drop)
}

pub(super) const WEB: [&str; 2] = ["10.1.0.0/24", "fd00:1::/64"];

/// Makes a network public, or no longer so.
pub(super) fn set_public(daemon: &mut Daemon, id: &str, is_public: bool) {
    let paths = vec!["is_public".into()];
    let request = UpdateNetworkRequest {
        id: id.into(),
        is_public: Some(is_public),
        update_mask: Some(prost_types::FieldMask { paths }),
        ..Default::default()
    };
    daemon.call(async |client| client.update_network(request).await).unwrap();
}

pub(super) fn egress(daemon: &mut Daemon) -> Egress {
    daemon.call(async |client| client.get_egress(GetEgressRequest::default()).await).unwrap()
}

/// How often what came from outside was dropped for a reason.
pub(super) fn drops_from_outside(daemon: &mut Daemon, reason: &str) -> u64 {
    let stats = egress(daemon).stats.unwrap_or_default();
    stats.drops.iter().find(|drop| drop.reason == reason).map_or(0, |drop| drop.frames)
}

/// A container that is a guest: it has a vNIC's TAP device, and nothing else.
pub(super) struct Container {
    namespace: Namespace,
    pub(super) nic: Nic,
}

impl Container {
    pub(super) fn new(daemon: &mut Daemon, network: &str, name: &str) -> Self {
        let nic = daemon.nic_with(network, name, |nic| {
            nic.transport = Transport::Tap.into();
            nic.tap_interface = name.into();
        });
        let container = Self { namespace: Namespace::new(), nic };
        container.plug();
        container
    }

    /// Gives it the device of its vNIC, also that of the next daemon.
    pub(super) fn plug(&self) {
        let Self { namespace, nic } = self;
        let name = &nic.name;
        let is_there = || {
            let mut link = Command::new("ip");
            let shown = link.args(["link", "show", name]).stdout(Stdio::null());
            shown.stderr(Stdio::null()).status().unwrap().success()
        };
        // After a crash the kernel may still be about to let the last one go.
        wait_until("its device is there", is_there);
        run(&format!("ip link set {name} address {}", nic.mac_address));
        run(&format!("ip link set {name} netns {}", namespace.0.id()));
        inside(namespace, || {
            run(&format!("ip link set {name} up"));
            run(&format!("ip address add {}/32 dev {name}", nic.ipv4_address));
            run(&format!("ip route add 169.254.0.1 dev {name}"));
            run("ip route add default via 169.254.0.1");
            if !nic.ipv6_address.is_empty() {
                run(&format!("ip address add {}/128 dev {name} nodad", nic.ipv6_address));
                run(&format!("ip route add default via fe80::1 dev {name}"));
            }
        });
    }

    /// Serves pages that say its name, and who asks.
    pub(super) fn serve(&self, name: &'static str) {
        let listener = self.enter(|| TcpListener::bind("[::]:80").unwrap());
        answer(listener, move |seen| format!("{name} sees {seen}"));
    }

    /// Runs a command of words in it.
    pub(super) fn run(&self, command: &str) -> Output {
        inside(&self.namespace, || {
            let words: Vec<_> = command.split(' ').collect();
            Command::new(words[0]).args(&words[1..]).output().unwrap()
        })
    }

    pub(super) fn pings(&self, address: &str) -> bool {
        self.run(&format!("busybox ping -c 1 -W 5 {address}")).status.success()
    }

    /// Whether an address stays silent, or is said to be unreachable.
    pub(super) fn misses(&self, address: &str) -> bool {
        !self.run(&format!("busybox ping -c 1 -W 1 {address}")).status.success()
    }

    pub(super) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.namespace, work)
    }
}

const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// A server in the world, which answers each request by the address that it sees.
pub(super) fn serve(world: &Namespace) {
    let listener = inside(world, || TcpListener::bind("[::]:80").unwrap());
    answer(listener, |seen| format!("You are {seen}"));
}

/// Answers each request by what is said to who asks.
fn answer(listener: TcpListener, says: impl Fn(IpAddr) -> String + Send + 'static) {
    // It ends with the process: nobody connects to it any more.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            // Who only looks whether it is there says nothing.
            if stream.read_exact(&mut [0; REQUEST.len()]).is_err() {
                continue;
            }
            let seen = stream.peer_addr().unwrap().ip().to_canonical();
            let answer = format!("HTTP/1.0 200 OK\r\n\r\n{}", says(seen));
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
}

/// What a page says.
pub(super) fn fetch(guest: &Container, address: &str) -> String {
    let address: IpAddr = address.parse().unwrap();
    guest.enter(|| page(&SocketAddr::new(address, 80).to_string()))
}

/// What a page says that is at an address and port, from where this is run.
pub(super) fn page(at: &str) -> String {
    let mut answer = String::new();
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(REQUEST).unwrap();
    stream.read_to_string(&mut answer).unwrap();
    answer.rsplit("\r\n").next().unwrap().to_owned()
}

/// Whether nobody listens at an address and port, and that is said.
pub(super) fn is_refused(at: &str) -> bool {
    let connected = TcpStream::connect(at);
    connected.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// Whether nobody answers at an address and port for a while.
pub(super) fn is_silent(at: &str) -> bool {
    TcpStream::connect_timeout(&at.parse().unwrap(), Duration::from_millis(500)).is_err()
}

/// Runs a command that is refused, and returns what is said.
pub(super) fn refused(daemon: &Daemon, words: &[&str]) -> String {
    stderr(&mvirt(daemon, words), 1)
}
