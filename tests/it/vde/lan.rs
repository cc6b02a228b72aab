//! Hosts that are network namespaces, on a bridge in one more.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::File,
    io::Read as _,
    os::fd::AsFd as _,
    process::{Child, Command, Stdio},
};

/// A network namespace, until dropped.
pub(super) struct Host(Child);

impl Host {
    fn new() -> Self {
        let mut holder = Command::new("unshare");
        // It ends with its input, and so with this process.
        let holder = holder.args(["--net", "sh", "-c", "echo; cat"]);
        let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        holder.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Self(holder)
    }

    /// Moves this thread into it, and what it starts from now on.
    pub(super) fn enter(&self) {
        let file = File::open(format!("/proc/{}/ns/net", self.0.id())).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// A program that is to be started in it.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.0.id())).arg(program);
        command
    }

    /// Runs a command that has to succeed. Returns what it says.
    pub(super) fn run(&self, command: &str) -> String {
        let words: Vec<_> = command.split(' ').collect();
        let ran = self.command(words[0]).args(&words[1..]).output().unwrap();
        assert!(ran.status.success(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).into_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

/// Hosts that reach each other by eth0: 10.9.0.1 and so on.
pub(super) struct Lan<const N: usize> {
    pub(super) hosts: [Host; N],
    _bridge: Host,
}

impl<const N: usize> Lan<N> {
    pub(super) fn new() -> Self {
        let bridge = Host::new();
        // A querier is not there: groups are flooded.
        bridge.run("ip link add br0 type bridge mcast_snooping 0");
        bridge.run("ip link set br0 up");
        let hosts = std::array::from_fn(|at| {
            let host = Host::new();
            let own = format!("to{at}");
            let peer = format!("peer name eth0 netns {}", host.0.id());
            bridge.run(&format!("ip link add {own} type veth {peer}"));
            bridge.run(&format!("ip link set {own} master br0 up"));
            host.run("ip link set lo up");
            host.run(&format!("ip addr add 10.9.0.{}/24 dev eth0", at + 1));
            host.run("ip link set eth0 up");
            host
        });
        Self { hosts, _bridge: bridge }
    }
}
