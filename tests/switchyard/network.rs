//! Fabrics as members of a network of the daemon's.

use crate::{
    support::{Client, Fabric, frame},
    tools::{Service, run, yard},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

/// A daemon; ended with its value.
struct Daemon {
    process: Child,
    /// To whom it has handed over.
    successor: Option<Pid>,
    folder: tempfile::TempDir,
}

fn spawn(folder: &Path) -> Child {
    let at = |name: &str| folder.join(name).display().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt-net"));
    command.args(["--listen", &format!("unix:{}", at("api.sock")), "--reactors", "1"]);
    command.args(["--socket-dir", &at("s"), "--metadata-dir", &at("m"), "--hugepages", "off"]);
    let log = std::fs::File::options().create(true).append(true).open(at("log")).unwrap();
    command.stderr(log).spawn().unwrap()
}

impl Daemon {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let daemon = Self { process: spawn(folder.path()), successor: None, folder };
        let deadline = Instant::now() + Duration::from_secs(20);
        while run(&mut daemon.mvirt("version")).0 != 0 {
            assert!(Instant::now() < deadline, "the daemon does not serve");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        daemon
    }

    /// Has it give everything to another process.
    fn hand_over(&mut self) {
        kill_process(Pid::from_child(&self.process), Signal::USR2).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.successor.is_none() {
            assert!(Instant::now() < deadline, "nobody takes over");
            std::thread::park_timeout(Duration::from_millis(5));
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
            let pid = log.split("handed over pid=").nth(1);
            let pid = pid.and_then(|after| after.split_whitespace().next()?.parse().ok());
            self.successor = pid.and_then(Pid::from_raw);
        }
        assert!(self.process.wait().unwrap().success());
    }

    fn server(&self) -> String {
        format!("unix:{}", self.folder.path().join("api.sock").display())
    }

    fn mvirt(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
        command.args(line.split(' ')).env("MVIRT_NET_SERVER", self.server());
        command
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(successor) = self.successor {
            // It is nobody's child here: its end is seen by its sockets.
            kill_process(successor, Signal::KILL).ok();
        }
        self.process.kill().ok();
        self.process.wait().unwrap();
    }
}

/// An address that was free a moment ago.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A fabric of the daemon's network; ended with its value.
fn join(daemon: &Daemon, network: &str) -> Fabric {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt-switchyardd"));
    command.args(["--network", network, "--listen", &free().to_string()]);
    Fabric::spawn(command.env("MVIRT_NET_SERVER", daemon.server()))
}

fn listed(daemon: &Daemon) -> usize {
    let (code, out, err) = run(&mut daemon.mvirt("port list --no-headers"));
    assert_eq!(code, 0, "{err}");
    out.lines().count()
}

// seed H.4.44
#[test]
fn programs_of_two_fabrics_reach_each_other_by_a_network() {
    let daemon = Daemon::start();
    assert_eq!(run(&mut daemon.mvirt("network create lab --kind switched")).0, 0);
    let (mut one, other) = (join(&daemon, "lab"), join(&daemon, "lab"));
    assert_eq!(listed(&daemon), 2);
    let _echo = Service::start(&mut yard(&one, "echo"));
    let mut ping = yard(&other, "ping --to network --count 20");
    let (code, out, err) = run(&mut ping);
    assert_eq!((code, out.matches("got reply").count()), (0, 20), "{err}");
    // The longest frame of an Ethernet, and no IP at all.
    let (mut a, mut b) = (one.member("a"), other.member("b"));
    assert_ne!(a.mac, b.mac, "each fabric has MACs of its own");
    let hello = frame("ff:ff:ff:ff:ff:ff", &b.mac, &[7; 1486]);
    b.send_frame(&hello);
    assert_eq!(a.next_frame(), hello);
    let answer = frame(&b.mac, &a.mac, &[8; 60]);
    a.send_frame(&answer);
    assert_eq!(b.next_frame(), answer);
    // Who ends it takes it out of the network.
    one.end();
    assert_eq!(listed(&daemon), 1);
}

// seed H.4.44
#[test]
fn a_fabric_that_the_daemon_serves_is_there_again_after_a_crash() {
    let mut daemon = Daemon::start();
    assert_eq!(run(&mut daemon.mvirt("network create lab --kind switched")).0, 0);
    let address = free();
    let line = format!("port create lab --name yard switchyard-listen://{address}");
    let (code, _, err) = run(&mut daemon.mvirt(&line));
    assert_eq!(code, 0, "{err}");
    let mut client = Client::connect(address);
    client.hello();
    daemon.process.kill().unwrap();
    daemon.process.wait().unwrap();
    daemon.process = spawn(daemon.folder.path());
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "the fabric does not come back");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Client::connect(address).hello();
    assert_eq!(run(&mut daemon.mvirt("port delete yard")).0, 0);
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens there any more");
}

#[test]
fn a_fabric_goes_to_the_new_process_and_clients_come_back() {
    let mut daemon = Daemon::start();
    assert_eq!(run(&mut daemon.mvirt("network create lab --kind switched")).0, 0);
    let addresses = [free(), free()];
    for address in addresses {
        let line = format!("port create lab switchyard-listen://{address}");
        assert_eq!(run(&mut daemon.mvirt(&line)).0, 0);
    }
    let mut before = Client::connect(addresses[0]);
    before.hello();
    daemon.hand_over();
    assert!(before.next().is_none(), "its place in the stream is lost");
    let mut members = addresses.map(Client::connect);
    for (n, member) in members.iter_mut().enumerate() {
        member.join(&format!("member-{n}"));
    }
    let [a, b] = &mut members;
    let sent = frame("ff:ff:ff:ff:ff:ff", &a.mac, b"across both");
    a.send_frame(&sent);
    assert_eq!(b.next_frame(), sent);
}

#[test]
fn who_cannot_join_is_told_why() {
    let daemon = Daemon::start();
    let refused = |server: &str, flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt-switchyardd"));
        let (code, _, err) = run(command.args(flags).env("MVIRT_NET_SERVER", server));
        (code, err)
    };
    let (code, err) = refused(&daemon.server(), &["--network", "none"]);
    assert!(code == 1 && err.contains("--network none: "), "{err}");
    let (code, err) = refused("unix:/nonexistent", &["--network", "lab"]);
    assert!(code == 1 && err.contains("cannot reach mvirt-net at unix:/nonexistent"), "{err}");
    let (code, err) = refused(&daemon.server(), &["--network", "lab", "--any-sender"]);
    assert!(code == 2 && err.contains("cannot be used with"), "{err}");
}
