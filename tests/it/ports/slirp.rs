//! The world as a port of a segment: hosts that know nothing lease an address as they do of slirp,
//! ask for names and fetch pages; and what they must not reach they do not.

use super::{create, lab};
use crate::{
    command::{mvirt, stderr},
    daemon::{Daemon, PATIENCE, cannot_run, wait_until},
    lab::get,
    namespace::{Namespace, run},
};
use mvirt_net::proto::{DeletePortRequest, PortState};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

const HOST: &str = "198.51.100.1";
const WORLD: &str = "198.51.100.2";
const WORLD6: &str = "2001:db8:5::2";
/// What every name has as its address here.
const NAMED: [u8; 4] = [192, 0, 2, 7];

/// A host in a network namespace, behind which is a world, and a guest at the end of a cable.
pub(crate) struct Scene {
    pub(crate) host: Namespace,
    world: Namespace,
    pub(crate) guest: Namespace,
    directory: tempfile::TempDir,
}

/// Runs a story on the thread of a host of its own. The guest has no cable yet.
pub(crate) fn scene(story: impl FnOnce(&Scene) + Send) {
    if !rustix::process::geteuid().is_root() {
        return cannot_run("only root can make a network namespace");
    }
    let [host, world, guest] = [(); 3].map(|()| Namespace::new());
    let scene = Scene { host, world, guest, directory: tempfile::tempdir().unwrap() };
    scene.host.within(|| {
        run("ip link set lo up");
        run(&format!("ip link add h0 type veth peer name w0 netns {}", scene.world.0.id()));
        run(&format!("ip addr add {HOST}/24 dev h0"));
        run("ip addr add 2001:db8:5::1/64 dev h0 nodad");
        run("ip link set h0 up");
        run("sysctl -qw net.ipv4.ping_group_range=0\t2147483647");
        scene.world.within(|| {
            run("ip link set lo up");
            run(&format!("ip addr add {WORLD}/24 dev w0"));
            run(&format!("ip addr add {WORLD6}/64 dev w0 nodad"));
            run("ip link set w0 up");
        });
        scene.guest.within(|| run("ip link set lo up"));
        story(&scene);
    });
}

impl Scene {
    /// Lays a cable from the guest's `eth0` to an interface of the host.
    fn cable(&self, name: &str) {
        run(&format!("ip link add {name} type veth peer name eth0 netns {}", self.guest.0.id()));
        run(&format!("ip link set {name} up"));
        self.guest.within(|| run("ip link set eth0 up"));
    }

    /// Has the guest lease an address by a client of DHCP, which sets it up. Returns what that was
    /// told: address, mask, routers, DNS servers, seconds.
    pub(crate) fn lease(&self, interface: &str) -> String {
        let (script, told) =
            (self.directory.path().join("told.sh"), self.directory.path().join("told"));
        let text = format!(
            "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nip addr flush dev $interface scope global\n\
             ip addr add $ip/$mask dev $interface\nip route add default via $router\n\
             echo $ip $subnet $router $dns $lease $serverid >{}\n",
            told.display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        self.guest.within(|| {
            let script = script.display();
            run(&format!("busybox udhcpc -i {interface} -n -q -t 20 -T 1 -s {script}"))
        });
        fs::read_to_string(told).unwrap().trim().to_owned()
    }

    /// Runs a command of words in the guest, which must succeed.
    pub(crate) fn run(&self, command: &str) -> String {
        self.guest.within(|| run(command))
    }

    pub(crate) fn connect(&self, to: &str) -> std::io::Result<TcpStream> {
        let to = to.parse::<SocketAddr>().unwrap();
        self.guest.within(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))
    }

    /// What the page of somebody in the world says.
    pub(crate) fn fetch(&self, to: &str) -> String {
        let mut stream = self.connect(to).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"?").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Has the world answer each who calls by the address that it sees.
    pub(crate) fn serve(&self) {
        let listener = self.world.within(|| TcpListener::bind("[::]:80").unwrap());
        // It ends with the process: nobody connects to it any more.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let seen = stream.peer_addr().unwrap().ip().to_canonical();
                // Who goes without having asked is not answered.
                if stream.read_exact(&mut [0]).is_ok() {
                    stream.write_all(format!("You are {seen}").as_bytes()).unwrap();
                }
            }
        });
    }

    /// Has the host have the DNS server that its resolv.conf(5) names, on itself.
    pub(crate) fn serve_names(&self) {
        let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let named = text.lines().filter_map(|line| line.strip_prefix("nameserver "));
        let server = named.filter_map(|it| it.trim().parse::<IpAddr>().ok()).next();
        let server = server.unwrap_or([127, 0, 0, 1].into());
        if !server.is_loopback() {
            run(&format!("ip addr add {server} dev lo"));
        }
        let datagrams = UdpSocket::bind((server, 53)).unwrap();
        let listener = TcpListener::bind((server, 53)).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((len, from)) = datagrams.recv_from(&mut buffer) {
                datagrams.send_to(&answer(&buffer[..len]), from).unwrap();
            }
        });
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, mut len) = (stream.unwrap(), [0; 2]);
                stream.read_exact(&mut len).unwrap();
                let mut question = vec![0; u16::from_be_bytes(len).into()];
                stream.read_exact(&mut question).unwrap();
                let answer = answer(&question);
                let len = (answer.len() as u16).to_be_bytes();
                stream.write_all(&[&len[..], &answer].concat()).unwrap();
            }
        });
    }
}

/// The answer to a question of DNS: the address that every name has.
fn answer(question: &[u8]) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|octet| *octet == 0).unwrap() + 5;
    let mut answer = question[..end].to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    answer.extend(NAMED);
    answer
}

/// A daemon whose segment "lab" the guest is in, with a port of the world.
fn start(scene: &Scene, locator: &str) -> Daemon {
    start_with(scene, locator, &[])
}

pub(crate) fn start_with(scene: &Scene, locator: &str, flags: &[&str]) -> Daemon {
    scene.cable("g0");
    let mut daemon = Daemon::start_with(flags);
    lab(&mut daemon);
    create(&mut daemon, "guest", "packet://g0");
    create(&mut daemon, "world", locator);
    wait_until_up(&mut daemon);
    daemon
}

fn wait_until_up(daemon: &mut Daemon) {
    wait_until("there is a way to the world", || get(daemon, "world").state() == PortState::Up);
}

/// The processes that carry what goes to the world.
fn helpers(daemon: &Daemon) -> Vec<u32> {
    let children = format!("/proc/{0}/task/{0}/children", daemon.pid());
    let of_main = fs::read_to_string(children).unwrap();
    let others = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let others =
        others.filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok());
    let all = others.chain([of_main]).collect::<String>();
    let mut ids: Vec<u32> = all.split_whitespace().map(|id| id.parse().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

// seed H.5.17
#[test]
fn a_host_that_knows_nothing_leases_resolves_and_fetches() {
    scene(|scene| {
        let _daemon = start(scene, "slirp://");
        scene.serve();
        scene.serve_names();
        let told = scene.lease("eth0");
        assert_eq!(told, "10.0.2.15 255.255.255.0 10.0.2.2 10.0.2.3 86400 10.0.2.2");
        scene.run("ping -c 1 -W 5 10.0.2.2");
        scene.run("ping -c 1 -W 5 -s 4000 10.0.2.2");
        scene.run(&format!("ping -c 1 -W 5 {WORLD}"));
        let named = "192.0.2.7";
        for way in ["+notcp", "+tcp"] {
            let asked = scene.run(&format!("dig {way} +short +tries=3 @10.0.2.3 x.example A"));
            assert_eq!(asked.trim(), named, "{way}");
        }
        assert_eq!(scene.fetch(&format!("{WORLD}:80")), format!("You are {HOST}"));
        // By IPv6, with an address that the guest has chosen itself.
        let is_there = || scene.run("ip -6 addr show dev eth0 scope global -tentative");
        wait_until("it has chosen an address", || is_there().contains(" fd00::"));
        scene.run("ping -c 1 -W 5 fd00::2");
        scene.run("ping -c 1 -W 5 fe80::2%eth0");
        scene.run(&format!("ping -c 1 -W 5 {WORLD6}"));
        let asked = scene.run("dig +short +tries=3 @fd00::3 x.example A");
        assert_eq!(asked.trim(), named);
        assert_eq!(scene.fetch(&format!("[{WORLD6}]:80")), "You are 2001:db8:5::1");
    });
}

#[test]
fn what_comes_to_a_forward_is_a_guests() {
    scene(|scene| {
        let forwards = "tcpfwd=8080:10.0.2.15:80/udpfwd=5353:10.0.2.15:53";
        let mut daemon = start(scene, &format!("slirp:///{forwards}"));
        let told = scene.lease("eth0");
        assert!(told.starts_with("10.0.2.15 "), "{told}");
        let (listener, datagrams) = scene.guest.within(|| {
            (TcpListener::bind("0.0.0.0:80").unwrap(), UdpSocket::bind("0.0.0.0:53").unwrap())
        });
        let mut stream = TcpStream::connect("127.0.0.1:8080").unwrap();
        let (mut taken, from) = listener.accept().unwrap();
        assert_eq!(from.ip().to_string(), "10.0.2.2", "this host is the gateway to its guests");
        taken.write_all(b"welcome").unwrap();
        drop(taken);
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "welcome");
        let caller = UdpSocket::bind("127.0.0.1:0").unwrap();
        for socket in [&caller, &datagrams] {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        caller.send_to(b"who?", "127.0.0.1:5353").unwrap();
        let (_, from) = datagrams.recv_from(&mut [0; 10]).unwrap();
        assert_eq!(from.ip().to_string(), "10.0.2.2");
        datagrams.send_to(b"me", from).unwrap();
        let (len, from) = caller.recv_from(&mut [0; 10]).unwrap();
        assert_eq!((len, from.to_string()), (2, "127.0.0.1:5353".into()));
        // A port that is taken: the port says so, and has it once it is free.
        let request = DeletePortRequest { id: get(&mut daemon, "world").id, ..Default::default() };
        daemon.call(async |client| client.delete_port(request).await).unwrap();
        let taken = TcpListener::bind("127.0.0.1:8080").unwrap();
        create(&mut daemon, "world", &format!("slirp:///{forwards}"));
        let error = "tcpfwd: cannot listen at 127.0.0.1:8080: Address already in use";
        wait_until("it says why not", || get(&mut daemon, "world").error.starts_with(error));
        assert_eq!(get(&mut daemon, "world").state(), PortState::Error);
        drop(taken);
        wait_until_up(&mut daemon);
    });
}

#[test]
fn nothing_of_the_host_is_reached() {
    scene(|scene| {
        let _daemon = start(scene, "slirp://");
        run("ip addr add 169.254.169.254/32 dev lo");
        // Services of the host: on its loopback address, at its link-local address, and on all.
        let services = ["127.0.0.1:7001", "169.254.169.254:80", "0.0.0.0:7002", "[::1]:7003"];
        let _services = services.map(|address| TcpListener::bind(address).unwrap());
        let told = scene.lease("eth0");
        assert!(told.starts_with("10.0.2.15 "), "{told}");
        scene.guest.within(|| {
            // Even where the guest's own kernel would send such packets out.
            run("sysctl -qw net.ipv4.conf.all.route_localnet=1");
            run("ip route add 169.254.0.0/16 via 10.0.2.2");
        });
        for address in
            ["10.0.2.2:7001", "10.0.2.2:7002", "10.0.2.3:7002", "169.254.169.254:80", "10.0.2.9:80"]
        {
            let to = address.parse().unwrap();
            let short = Duration::from_millis(500);
            let reached = scene.guest.within(|| TcpStream::connect_timeout(&to, short));
            assert!(reached.is_err(), "{address}");
        }
        let datagrams = UdpSocket::bind("127.0.0.1:7004").unwrap();
        datagrams.set_nonblocking(true).unwrap();
        let guest = scene.guest.within(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        guest.send_to(b"x", "10.0.2.2:7004").unwrap();
        // What listens on all addresses is there at those that others reach, as on any LAN.
        scene.connect(&format!("{HOST}:7002")).unwrap();
        assert!(datagrams.recv(&mut [0; 10]).is_err());
    });
}

#[test]
fn what_the_daemon_denies_is_denied_here_too() {
    scene(|scene| {
        let denied = format!("{HOST}/32");
        let _daemon = start_with(scene, "slirp://", &["--egress-deny", &denied]);
        let _services = ["0.0.0.0:7002"].map(|address| TcpListener::bind(address).unwrap());
        scene.lease("eth0");
        let to = format!("{HOST}:7002").parse().unwrap();
        let short = Duration::from_secs(1);
        let reached = scene.guest.within(|| TcpStream::connect_timeout(&to, short));
        assert!(reached.is_err());
    });
}

#[test]
fn a_process_that_ends_is_started_again_and_none_is_left() {
    scene(|scene| {
        let mut daemon = start(scene, "slirp:///tcpfwd=8080:10.0.2.15:80");
        scene.serve();
        scene.lease("eth0");
        let first = helpers(&daemon);
        assert_eq!(first.len(), 1, "{first:?}");
        let process = rustix::process::Pid::from_raw(first[0] as i32).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
        wait_until("there is another", || {
            helpers(&daemon).first().is_some_and(|id| *id != first[0])
        });
        wait_until_up(&mut daemon);
        assert_eq!(scene.fetch(&format!("{WORLD}:80")), format!("You are {HOST}"));
        daemon.says("mvirt-egress has ended: signal: 9");
        // The other process of the daemon has one of its own, which listens at the same port.
        let mut open = scene.connect(&format!("{WORLD}:80")).unwrap();
        assert!(daemon.hand_over(), "{}", daemon.log());
        wait_until_up(&mut daemon);
        open.set_read_timeout(Some(PATIENCE)).unwrap();
        open.write_all(b"?").ok();
        assert!(open.read(&mut [0]).is_err(), "connections end with the process");
        assert_eq!(scene.fetch(&format!("{WORLD}:80")), format!("You are {HOST}"));
        daemon.crash_and_restart();
        wait_until_up(&mut daemon);
        assert_eq!(scene.fetch(&format!("{WORLD}:80")), format!("You are {HOST}"));
        let last = helpers(&daemon);
        let request = DeletePortRequest { id: get(&mut daemon, "world").id, ..Default::default() };
        daemon.call(async |client| client.delete_port(request).await).unwrap();
        let is_gone = |id: &u32| !Path::new(&format!("/proc/{id}")).exists();
        wait_until("it is gone", || last.iter().all(is_gone));
    });
}

#[test]
fn a_restricted_segment_has_forwards_and_no_way_out() {
    scene(|scene| {
        let _daemon = start(scene, "slirp:///restricted/tcpfwd=8080:10.0.2.15:80");
        scene.serve();
        scene.run("ip addr add 10.0.2.15/24 dev eth0");
        scene.run("ip route add default via 10.0.2.2");
        let listener = scene.guest.within(|| TcpListener::bind("0.0.0.0:80").unwrap());
        let mut stream = TcpStream::connect("127.0.0.1:8080").unwrap();
        let (mut taken, _) = listener.accept().unwrap();
        taken.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        let to = format!("{WORLD}:80").parse().unwrap();
        let reached =
            scene.guest.within(|| TcpStream::connect_timeout(&to, Duration::from_millis(500)));
        assert!(reached.is_err());
    });
}

#[test]
fn what_is_not_to_be_had_is_refused_by_name() {
    let mut daemon = Daemon::start();
    lab(&mut daemon);
    for (locator, said) in [
        ("slirp:///tftp_path=\\/srv", "the option tftp_path is not served here"),
        ("slirp:///smb=x", "unknown key: smb"),
        ("slirp:///dhcp=10.0.3.15", "dhcp `10.0.3.15`: expected another host's address in"),
        ("slirp:///tcpfwd=198.51.100.1:80:10.0.2.15:80", "--port-listen"),
        ("slirp:///disable_host_loopback=off", "use mvirt plug"),
    ] {
        let said_it = stderr(&mvirt(&daemon, &["port", "create", "lab", locator]), 1);
        assert!(said_it.contains(said), "{locator}: {said_it}");
    }
}

/// A switch of VDE's with one cable to the guest and another to the world, by `program`.
struct Vde(Vec<Child>, PathBuf);

impl Vde {
    fn start(scene: &Scene, program: &str, arguments: &[&str]) -> Self {
        let directory = scene.directory.path().join(format!("{}.vde", arguments.len()));
        let at = directory.display().to_string();
        let mut switch = Command::new("vde_switch");
        switch.args(["-s", &at]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut children = vec![switch.spawn().unwrap()];
        wait_until("the switch is there", || directory.join("ctl").exists());
        let mut plug = Command::new(program);
        let arguments = arguments.iter().map(|word| word.replace("SWITCH", &at));
        children.push(plug.args(arguments).stdin(Stdio::null()).spawn().unwrap());
        let mut tap = scene.guest_command("vde_plug");
        tap.args(["tap://t0", &format!("vde://{at}")]).stdin(Stdio::null());
        children.push(tap.spawn().unwrap());
        wait_until("the guest has a device", || {
            let mut set_up = scene.guest_command("ip");
            set_up.args(["link", "set", "t0", "up"]).stderr(Stdio::null());
            set_up.status().unwrap().success()
        });
        Self(children, directory)
    }
}

impl Drop for Vde {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let process = rustix::process::Pid::from_child(child);
            rustix::process::kill_process(process, rustix::process::Signal::TERM).ok();
            child.wait().unwrap();
        }
        fs::remove_dir_all(&self.1).ok();
    }
}

impl Scene {
    fn guest_command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.guest.0.id())).arg(program);
        command
    }
}

// seed H.5.17
#[test]
fn a_plug_gives_a_switch_of_vdes_the_world_as_vdes_own_does() {
    if Command::new("vde_switch").arg("-v").stdout(Stdio::null()).status().is_err() {
        return cannot_run("there is no vde_switch (Debian's vde-switch)");
    }
    scene(|scene| {
        scene.serve();
        scene.serve_names();
        let ours = {
            let ours = &["plug", "SWITCH", "slirp://"];
            let _vde = Vde::start(scene, env!("CARGO_BIN_EXE_mvirt"), ours);
            let told = scene.lease("t0");
            assert_eq!(scene.fetch(&format!("{WORLD}:80")), format!("You are {HOST}"));
            let asked = scene.run("dig +short +tries=3 @10.0.2.3 x.example A");
            assert_eq!(asked.trim(), "192.0.2.7");
            told
        };
        let plugin = ["/usr/lib/x86_64-linux-gnu", "/usr/lib"];
        let plugin = plugin.map(|folder| Path::new(folder).join("vdeplug/libvdeplug_slirp.so"));
        if !plugin.iter().any(|path| path.exists()) {
            return cannot_run("there is no slirp of VDE's to compare with (libvdeplug-slirp)");
        }
        let _vde = Vde::start(scene, "vde_plug", &["SWITCH", "slirp://"]);
        assert_eq!(scene.lease("t0"), ours, "a host is told the same by either");
        assert_eq!(scene.fetch(&format!("{WORLD}:80")), format!("You are {HOST}"));
    });
}
