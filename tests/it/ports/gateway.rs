//! What the gateway of a segment does for those behind its ports.

use super::{create, get};
use crate::{
    daemon::{Daemon, wait_until},
    inside::inside,
    namespace::run,
};
use mvirt_net::proto::{NetworkKind, PortState};
use std::process::Command;

/// Makes the segment "lab", 10.0.0.0/24 and fd00::/64, whose gateway is 10.0.0.1, and a TAP device
/// of this name that is a port of it.
pub(super) fn lab_behind(daemon: &mut Daemon, tap: &str) {
    daemon.network_with("lab", |request| {
        request.kind = NetworkKind::Switched.into();
        request.ipv4_subnet = "10.0.0.0/24".into();
        request.ipv6_prefix = "fd00::/64".into();
    });
    create(daemon, tap, &format!("tap://{tap}"));
    run(&format!("ip link set {tap} up"));
    wait_until("it is up", || get(daemon, tap).state() == PortState::Up);
}

#[test]
fn a_host_behind_a_port_finds_the_gateway_and_pings_it() {
    inside(|| {
        let mut daemon = Daemon::start();
        lab_behind(&mut daemon, "tap0");
        run("ip address add 10.0.0.50/24 dev tap0");
        run("ip route add 169.254.0.1 dev tap0");
        for address in ["10.0.0.1", "169.254.0.1"] {
            run(&format!("busybox ping -c 1 -W 10 {address}"));
        }
        let route = || {
            let shown = Command::new("ip").args(["-6", "route"]).output().unwrap();
            String::from_utf8(shown.stdout).unwrap()
        };
        // By router advertisements: the prefix is on link, and the gateway the way to the rest.
        wait_until("it has a router", || route().contains("default via fe80::1 dev tap0"));
        run("busybox ping -c 1 -W 10 fe80::1%tap0");
        assert!(route().contains("fd00::/64 dev tap0 proto kernel"), "{}", route());
    });
}
