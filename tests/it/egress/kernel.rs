//! What the host's kernel is told, and what it is not.

use super::rig::{
    Container, HOST, WEB, WORLD, egress, on_a_host, public, refused, start, start_egress,
    try_public,
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
        // Where people look, for as long as it is so.
        let shown = || {
            let egress = stdout(&mvirt(&daemon, &["egress"]));
            let network = stdout(&mvirt(&daemon, &["network", "get", "web"]));
            let doctor = mvirt(&daemon, &["doctor"]).stdout;
            [egress, network, String::from_utf8(doctor).unwrap()]
        };
        let what = "net.ipv4.ip_forward is not set: guests reach this host alone";
        let all = shown();
        assert!(all.iter().all(|text| text.contains(what)), "{all:?}");
        run("sysctl -qw net.ipv4.ip_forward=1");
        assert!(shown().iter().all(|text| !text.contains("ip_forward")), "it is set now");
        run("sysctl -qw net.ipv4.ip_forward=0");
        stdout(&mvirt(&daemon, &["network", "delete", "web"]));
        assert!(is_untouched());
        let shown = stdout(&mvirt(&daemon, &["egress"]));
        assert!(shown.contains("tun (mvirt0)"), "{shown}");
        assert!(!shown.contains("ip_forward"), "in nobody's way: {shown}");
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
        let shown = |daemon: &Daemon| stdout(&mvirt(daemon, &["egress"])).contains(rules);
        assert!(shown(&daemon));
        rules.split("; ").for_each(|rule| drop(run(rule)));
        assert!(guest.pings(WORLD[0]), "what it says helps");
        assert!(!shown(&daemon));
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

#[test]
fn a_network_that_is_refused_takes_no_interface_away_that_is_not_ours() {
    on_a_host(|_| {
        run("ip link add mvirt0 type bridge");
        let mut daemon = start_egress();
        let refused = try_public(&mut daemon, "web", WEB).unwrap_err();
        assert!(refused.message().contains("mvirt0: it is no TUN device"), "{refused}");
        let mut other = start(&["--egress-device", "h0"]);
        let refused = try_public(&mut other, "web", WEB).unwrap_err();
        assert!(refused.message().contains("h0: it is no TUN device"), "{refused}");
        assert!(has("ip link show mvirt0") && has("ip link show h0"));
        assert!(!has("nft list table inet mvirt_daemon"), "whoever comes next may have it");
    });
}

#[test]
fn one_daemon_leads_packets_through_a_host() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        let guest = Container::new(&mut daemon, "web", "c1");
        let mut other = start(&["--egress-device", "mvirt1"]);
        let app = ["10.2.0.0/24", "fd00:2::/64"];
        let refused = try_public(&mut other, "app", app).unwrap_err();
        assert!(refused.message().contains("another mvirt-net"), "{refused}");
        assert!(!has("ip link show mvirt1"));
        let of_another = Command::new(env!("CARGO_BIN_EXE_mvirt-net"))
            .args(["--cleanup", "--egress-device", "mvirt1"])
            .output()
            .unwrap();
        assert_eq!(of_another.status.code(), Some(1));
        // Nobody else's end takes the right from it.
        run("nft flush ruleset");
        wait_until("its rules are there again", || has("nft list table inet mvirt"));
        assert!(daemon.hand_over(), "{}", daemon.log());
        try_public(&mut other, "app", app).unwrap_err();
        assert!(guest.pings(WORLD[0]));
        stdout(&mvirt(&daemon, &["network", "delete", "web", "--force"]));
        public(&mut other, "app", app);
        assert!(has("ip link show mvirt1"));
        try_public(&mut daemon, "web", WEB).unwrap_err();
    });
}

#[test]
fn a_network_that_the_host_does_not_take_is_left_out_and_named() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        public(&mut daemon, "net2", ["10.2.0.0/24", "fd00:2::/64"]);
        let guest = Container::new(&mut daemon, "web", "c1");
        run("ip link add br9 type bridge");
        run("ip address add 10.2.0.254/16 dev br9");
        let error = |daemon: &Daemon| stdout(&mvirt(daemon, &["network", "get", "net2"]));
        let why = "10.2.0.0/24 has an address of the host's: 10.2.0.254";
        wait_until("it is left out", || error(&daemon).contains(why));
        assert!(egress(&mut daemon).error.contains("network net2 has no way out"));
        assert!(stdout(&mvirt(&daemon, &["version"])).contains("network net2 has no way out"));
        assert!(!run("ip route").contains("10.2.0.0/24 dev mvirt0"));
        assert!(!run("nft list table inet mvirt").contains("10.2.0.0"));
        // All others go on, and change.
        let forward = ["forward", "add", "--listen", "tcp:192.0.2.50:80", "--to", "c1"];
        stdout(&mvirt(&daemon, &[&forward[..], &["--name", "f"]].concat()));
        assert!(guest.pings(WORLD[0]));
        assert!(run("nft list table inet mvirt").contains("192.0.2.50"));
        stdout(&mvirt(&daemon, &["forward", "delete", "f"]));
        assert!(!run("nft list table inet mvirt").contains("192.0.2.50"));
        daemon.terminate();
        assert_eq!(cleanup().status.code(), Some(0));
        daemon.start_again();
        guest.plug();
        wait_until("the world answers again", || !guest.misses(WORLD[0]));
        assert!(error(&daemon).contains(why));
        let public_again = ["10.2.4.0/24", "fd00:4::/64"];
        try_public(&mut daemon, "net4", public_again).unwrap();
        run("ip link del br9");
        wait_until("it is led again", || run("ip route").contains("10.2.0.0/24 dev mvirt0"));
        wait_until("and that is said", || egress(&mut daemon).error.is_empty());
        assert!(!error(&daemon).contains(why));
    });
}

#[test]
fn a_device_of_another_name_takes_over_what_is_stored() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        daemon.terminate();
        start_with(&mut daemon, "--egress-device mvirt7");
        let routes = || run("ip route");
        wait_until("it is routed there", || routes().contains("10.1.0.0/24 dev mvirt7"));
        assert!(!routes().contains("mvirt0"));
        assert_eq!(egress(&mut daemon).error, "");
    });
}

/// The same daemon again, with flags beside its own.
fn start_with(daemon: &mut Daemon, flags: &str) {
    let program = daemon.path("mvirt-net");
    let binary = env!("CARGO_BIN_EXE_mvirt-net");
    executable(&program, &format!("#!/bin/sh\nexec {binary} \"$@\" {flags}\n"));
    daemon.run_instead(program);
    daemon.start_again();
}

#[test]
fn what_others_take_from_the_kernel_it_is_told_again() {
    on_a_host(|_| {
        run("ip address del 192.0.2.1/24 dev h0");
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        let guest = Container::new(&mut daemon, "web", "c1");
        let floating = ["floating-ip", "create", "--address", "192.0.2.7", "--nic", "c1"];
        stdout(&mvirt(&daemon, &floating));
        let is_proxied = || run("ip neigh show proxy").contains("192.0.2.7 dev h0");
        assert!(!is_proxied());
        run("ip address add 192.0.2.1/24 dev h0");
        wait_until("its subnet is there", is_proxied);
        run("ip link set h0 down");
        run("ip link set h0 up");
        wait_until("the interface answers again", is_proxied);
        run("ip link set mvirt0 down");
        run("ip link set mvirt0 up");
        let is_routed = || run("ip route").contains("10.1.0.0/24 dev mvirt0");
        wait_until("it is routed again", is_routed);
        run("ip link set mvirt0 down");
        wait_until("the device is up again", is_routed);
        run("ip route del 10.1.0.0/24 dev mvirt0");
        wait_until("it is routed once more", is_routed);
        assert!(guest.pings(WORLD[0]));
        for words in [
            "flush ruleset",
            "flush chain inet mvirt post",
            "flush set inet mvirt nat4",
            "delete table inet mvirt",
        ] {
            run(&format!("nft {words}"));
            wait_until("the rules are there", || {
                has("nft list table inet mvirt") && {
                    let rules = run("nft list table inet mvirt");
                    rules.contains("masquerade") && rules.contains("10.1.0.0/24")
                }
            });
        }
        assert!(guest.pings(WORLD[0]), "{}", daemon.log());
        assert_eq!(egress(&mut daemon).error, "");
    });
}

#[test]
fn rules_that_are_gone_are_no_reason_to_refuse_a_change() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        daemon.nic("web", "vm1");
        let balancer = |name: &str, address: &str| {
            let words = ["lb", "create", "--name", name, "--address", address, "--network", "web"];
            let rest = ["--port", "tcp:80:80", "--backend", "vm1"];
            stdout(&mvirt(&daemon, &[&words[..], &rest].concat()));
        };
        balancer("a", "203.0.113.80");
        // Before it is noticed, or after.
        run("nft flush ruleset");
        balancer("b", "203.0.113.81");
        let all = || {
            has("nft list table inet mvirt_lb") && {
                let rules = run("nft list table inet mvirt_lb");
                rules.contains("203.0.113.80 .") && rules.contains("203.0.113.81 .")
            }
        };
        wait_until("both are there", all);
    });
}

#[test]
fn what_an_earlier_daemon_has_left_goes_with_the_next_that_does_not_need_it() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        daemon.nic("web", "vm1");
        let floating = ["floating-ip", "create", "--address", "192.0.2.7", "--nic", "vm1"];
        stdout(&mvirt(&daemon, &floating));
        daemon.terminate();
        assert!(!is_untouched());
        start_with(&mut daemon, "--egress user");
        wait_until("it is gone", is_untouched);
        stdout(&mvirt(&daemon, &["network", "delete", "web", "--force"]));
        // Killed while its last network went: what is stored says nothing of the kernel.
        run("nft add table inet mvirt");
        run("ip tuntap add mvirt0 mode tun");
        daemon.kill();
        start_with(&mut daemon, "--egress tun");
        wait_until("it is gone", is_untouched);
    });
}

#[test]
fn without_nft_the_end_of_a_network_removes_what_it_made() {
    on_a_host(|_| {
        let script = "#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin exec nft \"$@\"\n";
        let mut daemon = without_nft(Some(script));
        public(&mut daemon, "web", WEB);
        daemon.nic("web", "vm1");
        let forward = ["forward", "add", "--listen", "tcp:192.0.2.50:80", "--to", "vm1"];
        stdout(&mvirt(&daemon, &[&forward[..], &["--name", "f"]].concat()));
        fs::remove_file(daemon.path("bin").join("nft")).unwrap();
        // What is stored goes at once, and what is left of it until nft is back is said.
        stdout(&mvirt(&daemon, &["forward", "delete", "f"]));
        let ailing = stdout(&mvirt(&daemon, &["version"]));
        assert!(ailing.contains("install the package nftables"), "{ailing}");
        stdout(&mvirt(&daemon, &["network", "delete", "web", "--force"]));
        assert!(is_untouched());
        assert!(!stdout(&mvirt(&daemon, &["version"])).contains("nftables"));
    });
}
