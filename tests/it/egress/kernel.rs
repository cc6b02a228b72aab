//! What the host's kernel is told, and what it is not.

use super::rig::{
    Container, HOST, WEB, WORLD, on_a_host, public, refused, start, start_egress, try_public,
};
use crate::{
    command::{mvirt, stdout},
    daemon::{Daemon, wait_until},
    namespace::run,
};
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

fn has(command: &str) -> bool {
    let words: Vec<_> = command.split(' ').collect();
    Command::new(words[0]).args(&words[1..]).output().unwrap().status.success()
}

/// Whether the kernel knows anything of ours.
pub(super) fn is_untouched() -> bool {
    let proxied = run("ip neigh show proxy");
    proxied.is_empty() && !has("ip link show mvirt0") && !has("nft list table inet mvirt")
}

pub(super) fn cleanup() -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_mvirt-net")).arg("--cleanup").output().unwrap()
}

#[test]
fn nothing_is_touched_before_there_is_a_public_network_nor_left_after_the_last() {
    on_a_host(|_| {
        let mut daemon = start(&[]);
        daemon.network("prod");
        assert!(is_untouched());
        public(&mut daemon, "web", WEB);
        assert!(!is_untouched());
        daemon.says("net.ipv4.ip_forward=1");
        stdout(&mvirt(&daemon, &["network", "delete", "web"]));
        assert!(is_untouched());
        let shown = stdout(&mvirt(&daemon, &["egress"]));
        assert!(shown.contains("tun (mvirt0)"), "{shown}");
    });
}

#[test]
fn cleanup_removes_all_that_a_daemon_has_left() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        let refused = cleanup();
        assert_eq!(refused.status.code(), Some(1));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("end the daemon first"), "{said}");
        daemon.terminate();
        assert!(run("ip route").contains("10.1.0.0/24 dev mvirt0"), "it is there for the next");
        assert_eq!(cleanup().status.code(), Some(0));
        assert!(is_untouched());
        assert_eq!(cleanup().status.code(), Some(0), "again");
        daemon.start_again();
        let mut guest = crate::guest::Guest::connect(&daemon.nic("web", "vm1"));
        assert!(guest.ping(WORLD[0]), "what is stored is served");
    });
}

fn executable(path: &Path, script: &str) {
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A daemon that finds no nft, or one that fails.
fn without_nft(script: Option<&str>) -> Daemon {
    Daemon::start_with_environment(|directory| {
        let bin = directory.join("bin");
        fs::create_dir(&bin).unwrap();
        if let Some(script) = script {
            executable(&bin.join("nft"), script);
        }
        vec![("PATH", bin), ("MVIRT_NET_EGRESS", "tun".into())]
    })
}

#[test]
fn without_nft_nothing_is_made_and_the_reason_is_said() {
    on_a_host(|_| {
        let mut daemon = without_nft(None);
        let refused = try_public(&mut daemon, "web", WEB).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        assert!(refused.message().contains("install the package nftables"), "{refused}");
        assert!(is_untouched());
        daemon.network("prod");
    });
}

#[test]
fn an_nft_that_fails_leaves_nothing_behind() {
    on_a_host(|_| {
        let mut daemon = without_nft(Some("#!/bin/sh\necho no such thing >&2\nexit 1\n"));
        let refused = try_public(&mut daemon, "web", WEB).unwrap_err();
        assert!(refused.message().contains("no such thing"), "{refused}");
        assert!(is_untouched());
        // It is not there: its name is free.
        assert!(stdout(&mvirt(&daemon, &["network", "list"])).lines().count() <= 1);
    });
}

#[test]
fn an_nft_that_fails_later_leaves_what_there_was() {
    on_a_host(|_| {
        let mut daemon = without_nft(Some(
            "#!/bin/sh\n[ -e \"${0%/*}/broken\" ] && { echo no such thing >&2; exit 1; }\n\
             PATH=/usr/sbin:/usr/bin:/sbin:/bin exec nft \"$@\"\n",
        ));
        public(&mut daemon, "web", WEB);
        daemon.nic("web", "vm1");
        fs::write(daemon.path("bin").join("broken"), "").unwrap();
        for words in [
            ["forward", "add", "--listen", "tcp:192.0.2.50:80", "--to", "vm1"],
            ["floating-ip", "create", "--address", "192.0.2.50", "--nic", "vm1"],
        ] {
            let said = refused(&daemon, &words);
            assert!(said.contains("no such thing"), "{said}");
            assert!(!run("nft list table inet mvirt").contains("192.0.2.50"));
            assert!(!run("ip route").contains("192.0.2.50"));
            assert_eq!(run("ip neigh show proxy"), "");
            let list = stdout(&mvirt(&daemon, &[words[0], "list", "-o", "name"]));
            assert_eq!(list, "");
        }
        fs::remove_file(daemon.path("bin").join("broken")).unwrap();
        let made = ["floating-ip", "create", "--address", "192.0.2.50", "--nic", "vm1"];
        stdout(&mvirt(&daemon, &made));
        assert!(run("ip route").contains("192.0.2.50 dev mvirt0"));
    });
}

#[test]
fn what_is_the_hosts_own_stays_its_own() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        let refused = try_public(&mut daemon, "lan", ["192.0.2.0/25", "fd00:1::/64"]).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        assert!(refused.message().contains(HOST[0]), "{refused}");
        run("ip route add 10.9.0.0/24 via 192.0.2.2");
        let refused = try_public(&mut daemon, "far", ["10.9.0.0/24", "fd00:1::/64"]).unwrap_err();
        assert!(refused.message().contains("10.9.0.0/24"), "{refused}");
        assert!(is_untouched(), "{refused}");
        let refused = try_public(&mut daemon, "lo", ["127.1.0.0/24", "fd00:1::/64"]).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        // With another that is public, too: what the kernel knows of that stays.
        public(&mut daemon, "web", WEB);
        try_public(&mut daemon, "far", ["10.9.0.0/24", "fd00:9::/64"]).unwrap_err();
        assert!(!run("nft list table inet mvirt").contains("10.9.0.0"));
        assert!(!run("ip -6 route").contains("fd00:9::/64"));
        let guest = Container::new(&mut daemon, "web", "c1");
        assert!(guest.pings(WORLD[0]));
    });
}

#[test]
fn a_firewall_in_the_way_is_named() {
    on_a_host(|_| {
        run("nft add table ip filter");
        let chain = "{ type filter hook forward priority 0 ; policy drop ; }";
        run(&format!("nft add chain ip filter FORWARD {chain}"));
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        let guest = Container::new(&mut daemon, "web", "c1");
        assert!(guest.misses(WORLD[0]));
        let rules = "nft insert rule ip filter FORWARD iifname mvirt0 accept; \
                     nft insert rule ip filter FORWARD oifname mvirt0 ct state \
                     established,related accept";
        assert!(daemon.log().contains(rules), "{}", daemon.log());
        rules.split("; ").for_each(|rule| drop(run(rule)));
        assert!(guest.pings(WORLD[0]), "what it says helps");
    });
}

#[test]
fn an_nft_that_hangs_is_not_waited_for_without_end() {
    on_a_host(|_| {
        let mut daemon = without_nft(Some("#!/bin/sh\nexec /bin/sleep 60\n"));
        let refused = try_public(&mut daemon, "web", WEB).unwrap_err();
        assert!(refused.message().contains("timed out"), "{refused}");
        daemon.network("prod");
    });
}

#[test]
fn without_the_right_to_it_sockets_are_the_way_and_the_reason_is_said() {
    on_a_host(|_| {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("mvirt-net");
        let text = format!(
            "#!/bin/sh\nexec setpriv --bounding-set -net_admin {} \"$@\"\n",
            env!("CARGO_BIN_EXE_mvirt-net")
        );
        executable(&program, &text);
        let mut daemon = Daemon::start_binary(&program, &["--reactors", "1"]);
        let why = "no tun: the daemon has no CAP_NET_ADMIN";
        wait_until("the log says so", || daemon.log().contains(why));
        try_public(&mut daemon, "web", WEB).unwrap();
        let shown = stdout(&mvirt(&daemon, &["egress"]));
        assert!(shown.contains(&format!("user ({why})")), "{shown}");
        let shown = stdout(&mvirt(&daemon, &["network", "get", "web"]));
        assert!(shown.contains(&format!("yes, by user ({why})")), "{shown}");
        assert!(is_untouched());
    });
}

#[test]
fn the_device_takes_the_longest_packets_of_all() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        let guest = Container::new(&mut daemon, "web", "c1");
        let mtu = || {
            let link = run("ip -o link show mvirt0");
            let (_, mtu) = link.split_once("mtu ").unwrap();
            mtu.split(' ').next().unwrap().to_owned()
        };
        assert_eq!(mtu(), "1500");
        daemon.network_with("jumbo", |network| {
            network.is_public = true;
            network.mtu = 9000;
        });
        assert_eq!(mtu(), "9000");
        assert!(guest.pings(WORLD[0]));
        stdout(&mvirt(&daemon, &["network", "update", "jumbo", "--public=false"]));
        assert_eq!(mtu(), "1500");
        assert!(guest.pings(WORLD[0]));
    });
}
