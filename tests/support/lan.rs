//! Hosts that are network namespaces, on a bridge in one more.

use super::namespace::{Namespace, run};
use std::process::Command;

impl Namespace {
    /// A program that is to be started in it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.0.id())).arg(program);
        command
    }

    /// Runs a command of words in it, which must succeed. Returns what it says.
    pub(crate) fn run(&self, command: &str) -> String {
        run(&format!("nsenter --net=/proc/{}/ns/net {command}", self.0.id()))
    }
}

/// Hosts that reach each other by eth0: 10.9.0.1 and so on.
pub(crate) struct Lan<const N: usize> {
    pub(crate) hosts: [Namespace; N],
    _bridge: Namespace,
}

impl<const N: usize> Lan<N> {
    pub(crate) fn new() -> Self {
        let bridge = Namespace::new();
        // A querier is not there: groups are flooded.
        bridge.run("ip link add br0 type bridge mcast_snooping 0");
        bridge.run("ip link set br0 up");
        let hosts = std::array::from_fn(|at| {
            let host = Namespace::new();
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
