//! Addresses of the world that are a guest's.

use super::{
    kernel::{cleanup, is_untouched},
    rig::{
        Container, WEB, WORLD, fetch, inside, is_refused, is_silent, on_a_host, page, public,
        refused, serve, set_public, start, start_egress, try_public,
    },
};
use crate::{
    command::{mvirt, stdout},
    daemon::{Daemon, wait_until},
    namespace::run,
};
use std::{
    net::UdpSocket,
    process::{Command, Stdio},
    time::Duration,
};

const ADDRESSES: [&str; 2] = ["192.0.2.77", "2001:db8:ffff::77"];

fn create(daemon: &Daemon, address: &str, nic: &str) -> String {
    let words = ["floating-ip", "create", "--address", address, "--nic", nic];
    stdout(&mvirt(daemon, &words))
}

/// A guest that serves pages which say its name.
fn server(daemon: &mut Daemon, network: &str, name: &'static str) -> Container {
    let guest = Container::new(daemon, network, name);
    guest.serve(name);
    guest
}

fn page_of(address: &str) -> String {
    let at =
        if address.contains(':') { format!("[{address}]:80") } else { format!("{address}:80") };
    page(&at)
}

fn proxied() -> String {
    run("ip neigh show proxy")
}

#[test]
fn a_guest_has_an_address_of_the_world_both_ways() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        serve(world);
        public(&mut daemon, "web", WEB);
        let guest = server(&mut daemon, "web", "c1");
        let other = server(&mut daemon, "web", "c2");
        let shown = create(&daemon, ADDRESSES[0], "c1");
        assert!(shown.contains("in force") && !shown.contains("not in force"), "{shown}");
        create(&daemon, ADDRESSES[1], "c1");
        for (address, from) in ADDRESSES.into_iter().zip(WORLD) {
            assert_eq!(inside(world, || page_of(address)), format!("c1 sees {from}"));
            assert_eq!(fetch(&guest, from), format!("You are {address}"));
            assert!(guest.pings(from));
            inside(world, || drop(run(&format!("ping -c 1 -W 5 {address}"))));
        }
        // The host reaches it as anybody does.
        assert_eq!(page_of(ADDRESSES[0]), "c1 sees 192.0.2.1");
        // Within its network it has its own address, and others have the host's outside.
        let own = guest.nic.ipv4_address.clone();
        assert_eq!(other.enter(|| page_of(&own)), format!("c1 sees {}", other.nic.ipv4_address));
        assert_eq!(fetch(&other, WORLD[0]), "You are 192.0.2.1");
        // One that others route to the host.
        create(&daemon, "203.0.113.7", "c2");
        inside(world, || run("ip route add 203.0.113.7 via 192.0.2.1"));
        assert_eq!(inside(world, || page_of("203.0.113.7")), "c2 sees 192.0.2.2");
        assert_eq!(fetch(&other, WORLD[0]), "You are 203.0.113.7");
        assert!(!proxied().contains("203.0.113.7"));
        let list = stdout(&mvirt(&daemon, &["floating-ip", "list", "-o", "name"]));
        assert_eq!(list, "192.0.2.77\n2001:db8:ffff::77\n203.0.113.7\n");
        stdout(&mvirt(&daemon, &["floating-ip", "delete", "203.0.113.7"]));
        assert!(inside(world, || is_silent("203.0.113.7:80")));
        assert_eq!(fetch(&other, WORLD[0]), "You are 192.0.2.1");
    });
}

#[test]
fn who_shares_anothers_addresses_takes_nothing_of_the_world_until_that_is_gone() {
    on_a_host(|world| {
        // There both have a way out.
        let mut daemon = start(&["--egress", "user"]);
        serve(world);
        public(&mut daemon, "a", WEB);
        public(&mut daemon, "b", WEB);
        let [one, other] = [("a", "ga"), ("b", "gb")].map(|of| server(&mut daemon, of.0, of.1));
        assert_eq!(one.nic.ipv4_address, other.nic.ipv4_address);
        let add = ["forward", "add", "--listen", "tcp:8080", "--to", "gb:80", "-n", "web"];
        stdout(&mvirt(&daemon, &add));
        daemon.terminate();
        daemon.use_flags(&["--reactors", "1", "--egress", "tun", "--egress-sysctl"]);
        daemon.start_again();
        [&one, &other].into_iter().for_each(Container::plug);
        wait_until("a has a way out", || one.pings(WORLD[0]));
        let why = "network b has addresses of network a";
        let shown = |daemon: &Daemon, words: &[&str]| stdout(&mvirt(daemon, words));
        let network = shown(&daemon, &["network", "get", "b"]);
        assert!(network.contains(&format!("yes, but {why}")), "{network}");
        let forward = shown(&daemon, &["forward", "get", "web"]);
        assert!(forward.contains("not in force") && forward.contains(why), "{forward}");
        assert!(inside(world, || is_refused("192.0.2.1:8080")), "nor is it ga's");
        let floating = ["floating-ip", "create", "--address", ADDRESSES[0], "--nic", "gb"];
        let balancer = "lb create --network b --address 192.0.2.78 --port tcp:80 --backend gb";
        let balancer: Vec<_> = balancer.split(' ').collect();
        for words in [&floating[..], &balancer] {
            let said = refused(&daemon, words);
            assert!(said.contains(why), "{said}");
        }
        shown(&daemon, &["network", "delete", "a", "--force"]);
        assert!(shown(&daemon, &["network", "get", "b"]).contains("yes, by tun"));
        wait_until("it is reached", || !inside(world, || is_silent("192.0.2.1:8080")));
        assert_eq!(inside(world, || page("192.0.2.1:8080")), "gb sees 192.0.2.2");
        assert_eq!(fetch(&other, WORLD[0]), "You are 192.0.2.1");
        create(&daemon, ADDRESSES[0], "gb");
        assert_eq!(inside(world, || page_of(ADDRESSES[0])), "gb sees 192.0.2.2");
    });
}

#[test]
fn guests_reach_one_another_by_floating_addresses() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        public(&mut daemon, "app", ["10.2.0.0/24", "fd00:2::/64"]);
        let [one, two] = ["c1", "c2"].map(|name| server(&mut daemon, "web", name));
        let three = server(&mut daemon, "app", "c3");
        create(&daemon, ADDRESSES[0], "c1");
        create(&daemon, ADDRESSES[1], "c1");
        create(&daemon, "192.0.2.79", "c3");
        // Itself, a neighbour without a floating address, and a guest of another network with one.
        assert_eq!(one.enter(|| page_of(ADDRESSES[0])), "c1 sees 192.0.2.77");
        assert_eq!(one.enter(|| page_of(ADDRESSES[1])), "c1 sees 2001:db8:ffff::77");
        assert_eq!(two.enter(|| page_of(ADDRESSES[0])), "c1 sees 192.0.2.1");
        assert_eq!(two.enter(|| page_of(ADDRESSES[1])), "c1 sees 2001:db8:ffff::1");
        assert_eq!(three.enter(|| page_of(ADDRESSES[0])), "c1 sees 192.0.2.79");
        assert_eq!(one.enter(|| page_of("192.0.2.79")), "c3 sees 192.0.2.77");
        assert!(three.misses(&one.nic.ipv4_address), "and by nothing else");
    });
}

#[test]
fn errors_about_what_is_translated_come_back() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        let _guest = Container::new(&mut daemon, "web", "c1");
        for (address, any) in ADDRESSES.into_iter().zip(["0.0.0.0:0", "[::]:0"]) {
            create(&daemon, address, "c1");
            let error = inside(world, || {
                let socket = UdpSocket::bind(any).unwrap();
                socket.connect((address, 9)).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                socket.send(b"x").unwrap();
                socket.recv(&mut [0; 1]).unwrap_err()
            });
            // As it is about the address that was called, its sender is told.
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{address}");
        }
    });
}

#[test]
fn a_floating_address_moves_while_it_is_pinged() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        let [one, two] = ["c1", "c2"].map(|name| server(&mut daemon, "web", name));
        create(&daemon, ADDRESSES[0], "c1");
        assert_eq!(inside(world, || page_of(ADDRESSES[0])), "c1 sees 192.0.2.2");
        let ping = inside(world, || {
            let mut ping = Command::new("ping");
            let ping = ping.args(["-i", "0.1", "-c", "30", "-W", "1", ADDRESSES[0]]);
            ping.stdout(Stdio::piped()).spawn().unwrap()
        });
        let asked = |guest: &str| daemon_carried(&daemon, guest);
        let before = asked("c1");
        wait_until("some are answered", || asked("c1") > before + 5);
        stdout(&mvirt(&daemon, &["floating-ip", "move", ADDRESSES[0], "--nic", "c2"]));
        let said = String::from_utf8(ping.wait_with_output().unwrap().stdout).unwrap();
        assert!(["30 received", "29 received"].iter().any(|some| said.contains(some)), "{said}");
        assert_eq!(inside(world, || page_of(ADDRESSES[0])), "c2 sees 192.0.2.2");
        assert!(one.pings(&two.nic.ipv4_address) && two.pings(&one.nic.ipv6_address));
        assert!(one.pings(WORLD[0]) && two.pings(WORLD[0]));
    });
}

/// How many frames a vNIC's guest was given.
fn daemon_carried(daemon: &Daemon, nic: &str) -> u64 {
    let stats = stdout(&mvirt(daemon, &["nic", "stats", nic, "-o", "json"]));
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    stats["egress_frames"].as_u64().unwrap()
}

#[test]
fn neighbours_hear_that_an_address_is_here() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        daemon.nic("web", "vm1");
        let mac = mac_of("h0");
        for address in ADDRESSES {
            let knows = |what: &str| {
                inside(world, || run(&format!("ip neigh show {address}"))).contains(what)
            };
            let stale = format!("ip neigh add {address} lladdr 02:00:00:00:00:99 dev w0 nud stale");
            inside(world, || run(&stale));
            assert!(knows("02:00:00:00:00:99"));
            create(&daemon, address, "vm1");
            wait_until("the world knows where it is", || knows(&mac));
        }
    });
}

fn mac_of(interface: &str) -> String {
    let shown = run(&format!("ip -o link show {interface}"));
    let (_, mac) = shown.split_once("link/ether ").unwrap();
    mac.split(' ').next().unwrap().to_owned()
}

#[test]
fn addresses_that_cannot_be_are_refused() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        daemon.network("prod");
        daemon.nic("prod", "p1");
        daemon.nic("web", "c1");
        daemon.network_with("v4", |network| {
            network.ipv4_subnet = "10.4.0.0/24".into();
            network.ipv6_prefix.clear();
            network.is_public = true;
        });
        daemon.nic("v4", "c4");
        create(&daemon, "192.0.2.77", "c1");
        let try_create = |address: &str, nic: &str| {
            refused(&daemon, &["floating-ip", "create", "--address", address, "--nic", nic])
        };
        for (address, nic, said) in [
            ("192.0.2.1", "c1", "is taken by this host"),
            ("192.0.2.2", "c1", "is taken by a router"),
            ("2001:db8:ffff::2", "c1", "is taken by a router"),
            ("192.0.2.255", "c1", "is taken by all of 192.0.2.0/24"),
            ("192.0.2.0", "c1", "is taken by all of 192.0.2.0/24"),
            ("2001:db8:ffff::", "c1", "is taken by all of 2001:db8:ffff::/64"),
            ("192.0.2.77", "c4", "is taken by floating IP 192.0.2.77"),
            ("::ffff:192.0.2.77", "c4", "is taken by floating IP 192.0.2.77"),
            ("10.1.0.9", "c1", "network web, whose guests have"),
            ("127.0.0.1", "c1", "no packet is routed to that address"),
            ("224.0.0.1", "c1", "no packet is routed to that address"),
            ("fe80::7", "c1", "no packet is routed to that address"),
            ("0.0.0.0", "c1", "no packet is routed to that address"),
            ("2001:db8::7", "c4", "it has no IPv6 address"),
            ("203.0.113.7", "p1", "mvirt network update prod --public"),
            ("203.0.113.0/24", "c1", "expected an IPv4 or IPv6 address"),
            ("203.0.113.7", "c9", "vNIC \"c9\" does not exist"),
        ] {
            let said_of = try_create(address, nic);
            assert!(said_of.contains(said), "{address} {nic}: {said_of}");
        }
        let forward = ["forward", "add", "--listen", "tcp:192.0.2.77:80", "--to", "c1"];
        assert!(refused(&daemon, &forward).contains("which has all ports"));
        let forward = ["forward", "add", "--listen", "tcp:192.0.2.2:80", "--to", "c1"];
        assert!(refused(&daemon, &forward).contains("is taken by a router"));
        let taken = try_public(&mut daemon, "lan", ["203.0.113.0/24", "fd00:9::/64"]);
        taken.unwrap();
        let taken = try_public(&mut daemon, "b", ["192.0.2.64/26", "fd00:b::/64"]).unwrap_err();
        assert!(taken.message().contains("floating IP 192.0.2.77"), "{taken}");
        // One that the host routes elsewhere is left alone, and nothing of it is kept.
        run("ip route add 198.51.100.7 via 192.0.2.2");
        let said = refused(
            &daemon,
            &["floating-ip", "create", "--address", "198.51.100.7", "--nic", "c1"],
        );
        assert!(said.contains("cannot route 198.51.100.7/32"), "{said}");
        assert!(!run("nft list table inet mvirt").contains("198.51.100.7"));
        let list = stdout(&mvirt(&daemon, &["floating-ip", "list", "-o", "name"]));
        assert_eq!(list, "192.0.2.77\n");
        // One that is there is answered for again, also where it could not be made any more.
        let again = ["floating-ip", "create", "--address", "2001:db8:ffff::77", "--nic", "c1"];
        let again = [&again[..], &["--id", "22222222-2222-4222-8222-222222222222"]].concat();
        stdout(&mvirt(&daemon, &again));
        set_public(&mut daemon, "web", false);
        let shown = stdout(&mvirt(&daemon, &again));
        assert!(shown.contains("network web is not public"), "{shown}");
    });
}

#[test]
fn floating_addresses_outlive_the_daemon_and_go_with_their_guest() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        serve(world);
        public(&mut daemon, "web", WEB);
        let guest = server(&mut daemon, "web", "c1");
        ADDRESSES.iter().for_each(|address| drop(create(&daemon, address, "c1")));
        assert!(daemon.hand_over(), "{}", daemon.log());
        assert_eq!(inside(world, || page_of(ADDRESSES[1])), "c1 sees 2001:db8:ffff::2");
        daemon.crash_and_restart();
        guest.plug();
        wait_until("it is reached again", || !inside(world, || is_silent("192.0.2.77:80")));
        assert_eq!(inside(world, || page_of(ADDRESSES[0])), "c1 sees 192.0.2.2");
        assert_eq!(fetch(&guest, WORLD[0]), "You are 192.0.2.77");
        assert_eq!(proxied().lines().count(), 2);
        stdout(&mvirt(&daemon, &["nic", "delete", "-f", "c1"]));
        assert_eq!(proxied(), "");
        assert!(!run("ip route").contains("192.0.2.77"));
        assert_eq!(stdout(&mvirt(&daemon, &["floating-ip", "list", "-o", "name"])), "");
        daemon.nic("web", "c2");
        create(&daemon, ADDRESSES[0], "c2");
        daemon.terminate();
        assert!(proxied().contains("192.0.2.77"), "it is there for the next");
        assert_eq!(cleanup().status.code(), Some(0));
        assert!(is_untouched());
    });
}
