//! What guests reach, and who reaches them.

use super::rig::{
    Container, HOST, WEB, WORLD, drops_from_outside, egress, fetch, inside, on_a_host, public,
    serve, set_public, start_egress, try_public,
};
use crate::{
    daemon::wait_until,
    frames::{Udp4, Udp6, is_udp4},
    guest::Guest,
    lab,
    machine::Machine,
    namespace::{Namespace, run},
};
use mvirt_net::proto::{EgressMode, NetworkKind};
use std::process::{Command, Stdio};

#[test]
fn guests_of_a_public_network_reach_the_world_which_sees_the_host() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        serve(world);
        public(&mut daemon, "web", WEB);
        let guest = Container::new(&mut daemon, "web", "c1");
        for (address, host) in WORLD.into_iter().zip(HOST) {
            assert!(guest.pings(address), "{address}: {}", daemon.log());
            assert_eq!(fetch(&guest, address), format!("You are {host}"));
        }
        let egress = egress(&mut daemon);
        assert_eq!((egress.mode(), &*egress.device), (EgressMode::Tun, "mvirt0"));
        assert!(egress.stats.unwrap().ingress_forwarded > 4);
        // A machine of the other kind, without a kernel: by its lease.
        let mut vm = Guest::connect(&daemon.nic("web", "vm1"));
        let (address, router) = vm.lease();
        assert_eq!((&*address, &*router), ("10.1.0.2/32", "169.254.0.1"));
        assert!(WORLD.iter().all(|world| vm.ping(world)));
    });
}

#[test]
fn a_private_network_reaches_nothing_until_it_is_public() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        daemon.network("prod");
        let guest = Container::new(&mut daemon, "prod", "c1");
        assert!(WORLD.into_iter().chain(["10.1.0.1", HOST[0]]).all(|to| guest.misses(to)));
        assert!(daemon.drops("c1", "no_route") >= 4);
        set_public(&mut daemon, "prod", true);
        assert!(WORLD.iter().all(|world| guest.pings(world)), "{}", daemon.log());
        set_public(&mut daemon, "prod", false);
        assert!(WORLD.iter().all(|world| guest.misses(world)));
        // The host keeps no way to it.
        assert!(!run("ip route").contains("10.0.0.0/24"));
        assert!(run("ip route").contains("10.1.0.0/24 dev mvirt0"));
        assert!(!run("nft list table inet mvirt").contains("10.0.0.0"));
    });
}

#[test]
fn public_networks_have_no_address_in_common_and_do_not_reach_each_other() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        for (name, addresses) in [
            ("same", ["10.1.0.0/24", "fd00:2::/64"]),
            ("around", ["10.0.0.0/8", "fd00:2::/64"]),
            ("within", ["10.2.0.0/24", "fd00:1::1:0/112"]),
        ] {
            let refused = try_public(&mut daemon, name, addresses).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::AlreadyExists, "{name}: {refused}");
            assert!(refused.message().contains("network web"), "{refused}");
        }
        // What is behind a vNIC is its network's, too.
        let route = |prefix: &str| vec![prefix.to_owned()];
        daemon.nic_with("web", "router", |nic| nic.routed_ipv4_prefixes = route("10.3.0.0/24"));
        let refused = try_public(&mut daemon, "b", ["10.3.0.0/16", "fd00:2::/64"]).unwrap_err();
        assert!(refused.message().contains("network web"), "{refused}");
        public(&mut daemon, "app", ["10.2.0.0/24", "fd00:2::/64"]);
        let taken =
            daemon.try_nic_with("app", "x", |nic| nic.routed_ipv4_prefixes = route("10.1.0.9/32"));
        assert_eq!(taken.unwrap_err().code(), tonic::Code::AlreadyExists);
        let [a, b] = ["web", "app"].map(|network| Container::new(&mut daemon, network, network));
        assert!(a.pings(WORLD[0]) && b.pings(WORLD[0]));
        assert!(a.misses(&b.nic.ipv4_address) && b.misses(&a.nic.ipv6_address));
    });
}

#[test]
fn nobody_sends_from_what_is_not_theirs() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        let nic = daemon.nic("web", "vm1");
        let mut guest = Guest::connect(&nic);
        let mac = crate::guest::parse_mac(&nic.mac_address);
        // From inside: the guard is that of any vNIC.
        guest.send(&Udp4::new(mac, "10.1.0.77", WORLD[0], b"x").frame());
        guest.send(&Udp6::new(mac, "fd00:1::77", WORLD[1], b"x").frame());
        wait_until("both are counted", || {
            daemon.drops("vm1", "spoofed_source_ipv4") == 1
                && daemon.drops("vm1", "spoofed_source_ipv6") == 1
        });
        // From outside, past the host's own firewall: the world has an address of the network.
        run("nft flush chain inet mvirt forward");
        run("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.h0.rp_filter=0");
        inside(world, || {
            run("ip address add 10.1.0.66/32 dev lo");
            run("ip route add 10.1.0.1/32 via 192.0.2.1");
            let socket = std::net::UdpSocket::bind("10.1.0.66:9").unwrap();
            socket.send_to(b"x", "10.1.0.1:9").unwrap();
        });
        wait_until("it is counted", || drops_from_outside(&mut daemon, "spoofed_source_ipv4") == 1);
        assert!(!guest.drain().iter().any(|frame| is_udp4(frame, b"x")), "and not delivered");
    });
}

#[test]
fn what_nobody_has_is_unreachable_from_both_sides() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        let guest = Container::new(&mut daemon, "web", "c1");
        // Its own subnet does not leave.
        let said = guest.run("ping -c 1 -W 5 10.1.0.99");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains("Destination Host Unreachable"), "{said}");
        let before = egress(&mut daemon).stats.unwrap().egress_frames;
        for never in ["169.254.169.254", "127.0.0.2", "240.0.0.1", "0.0.0.9"] {
            assert!(guest.misses(never), "{never}");
        }
        assert_eq!(egress(&mut daemon).stats.unwrap().egress_frames, before);
        // The host is told, of each family.
        for address in ["10.1.0.99", "fd00:1::99"] {
            let mut ping = Command::new("ping");
            let said = ping.args(["-c", "1", "-W", "5", address]).output().unwrap();
            let said = String::from_utf8_lossy(&said.stdout).to_lowercase();
            assert!(said.contains("unreachable"), "{said}");
        }
        assert!(drops_from_outside(&mut daemon, "no_route") >= 2);
    });
}

#[test]
fn a_trace_shows_the_gateway_and_the_host() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        let guest = Container::new(&mut daemon, "web", "c1");
        let trace = guest.run(&format!("traceroute -n -q 1 -w 5 {}", WORLD[0]));
        let said = String::from_utf8(trace.stdout).unwrap();
        let hops: Vec<_> =
            said.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(hops, ["169.254.0.1", HOST[0], WORLD[0]], "{said}");
    });
}

#[test]
fn a_machine_leases_and_carries_much_both_ways() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        let nic = daemon.nic("web", "vm1");
        let mut machine = Machine::uml(&daemon, &nic);
        machine.succeed("lease4 && lease6");
        for address in WORLD {
            machine.succeed(&format!("ping -c 2 -W 10 {address}"));
        }
        let mut server = inside(world, || {
            let mut server = Command::new("iperf3");
            server.arg("-s").stdout(Stdio::null()).spawn().unwrap()
        });
        // It may need a moment to listen.
        wait_until("the server listens", || inside(world, || run("ss -tln").contains(":5201")));
        for way in ["", "-R"] {
            let report = machine.succeed(&format!("iperf3 -c {} -n 8M -f m {way}", WORLD[0]));
            assert!(report.contains("receiver"), "{report}");
        }
        server.kill().unwrap();
        server.wait().unwrap();
    });
}

#[test]
fn vnics_of_a_switched_network_reach_the_world_and_hosts_behind_its_ports_do_not() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        daemon.network_with("lab", |network| {
            network.kind = NetworkKind::Switched.into();
            network.ipv4_subnet = WEB[0].into();
            network.ipv6_prefix = WEB[1].into();
            network.is_public = true;
        });
        let mut guest = Guest::connect(&daemon.nic("lab", "vm1"));
        let (address, router) = guest.lease();
        assert_eq!((&*address, &*router), ("10.1.0.2/24", "10.1.0.1"));
        assert!(WORLD.iter().all(|world| guest.ping(world)), "{}", daemon.log());
        lab::create(&mut daemon, "host", "tap://host").unwrap();
        let namespace = Namespace::new();
        run(&format!("ip link set host netns {}", namespace.0.id()));
        inside(&namespace, || {
            run("ip link set host up");
            run("ip address add 10.1.0.200/24 dev host");
            run("ip route add default via 10.1.0.1");
            let ping = |address: &str| {
                let mut ping = Command::new("ping");
                let said = ping.args(["-c", "1", "-W", "10", address]).output().unwrap();
                String::from_utf8_lossy(&said.stdout).into_owned()
            };
            wait_until("the gateway answers", || ping("10.1.0.1").contains(" 0% packet loss"));
            let said = ping(WORLD[0]);
            assert!(said.contains("Destination Net Unreachable"), "{said}");
        });
        assert_eq!(daemon.drops("host", "no_route"), 1);
    });
}

#[test]
fn guests_with_addresses_of_the_world_are_reached_and_others_are_not() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        serve(world);
        public(&mut daemon, "web", ["10.1.0.0/24", "2001:db8:1::/64"]);
        public(&mut daemon, "app", ["10.2.0.0/24", "fd00:2::/64"]);
        let [web, app] = ["web", "app"].map(|name| Container::new(&mut daemon, name, name));
        inside(world, || {
            for prefix in ["10.1.0.0/24", "10.2.0.0/24", "2001:db8:1::/64", "fd00:2::/64"] {
                let host = HOST[usize::from(prefix.contains(':'))];
                run(&format!("ip route add {prefix} via {host}"));
            }
        });
        assert_eq!(fetch(&web, WORLD[1]), format!("You are {}", web.nic.ipv6_address));
        assert_eq!(fetch(&app, WORLD[1]), format!("You are {}", HOST[1]));
        let is_reached = |address: &str| {
            let mut ping = Command::new("ping");
            let ping = ping.args(["-c", "1", "-W", "2", address]).stdout(Stdio::null());
            inside(world, || ping.status().unwrap().success())
        };
        assert!(is_reached(&web.nic.ipv6_address), "{}", run("nft list table inet mvirt"));
        let masqueraded = [&web.nic.ipv4_address, &app.nic.ipv4_address, &app.nic.ipv6_address];
        assert!(!masqueraded.iter().any(|address| is_reached(address)));
    });
}
