//! What real guests find on the way: routers, the MTU of a path, and networks behind another guest.

use crate::{
    daemon::Daemon,
    machine::{Machine, artefact},
};
use mvirt_net::proto::{Nic, UpdateNicRequest};

fn debian(daemon: &Daemon, nic: &Nic) -> Machine {
    let mut machine = Machine::debian(daemon, nic, artefact("debian").parent().unwrap());
    let (ipv4, ipv6, mtu) = (&nic.ipv4_address, &nic.ipv6_address, nic.mtu);
    machine.succeed(&format!(
        "ip link set eth0 mtu {mtu} up && ip addr add {ipv4}/32 dev eth0 && ip -6 addr add \
         {ipv6}/128 dev eth0 nodad && ip route add 169.254.0.1 dev eth0 && ip route add default \
         via 169.254.0.1"
    ));
    // The default route of IPv6 comes from the router.
    machine.succeed("until ip -6 route | grep -q '^default via fe80::1'; do sleep 0.1; done");
    machine
}

#[test]
fn guests_find_the_mtu_of_a_path_and_its_routers() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let large = daemon.nic_with("prod", "large", |r| r.mtu = 9000);
    let small = daemon.nic("prod", "small");
    let (mut a, mut b) = (debian(&daemon, &large), debian(&daemon, &small));
    b.succeed("iperf3 -s -D --logfile /dev/null && sleep 0.5");
    for (address, gateway) in [("10.0.0.2", "169.254.0.1"), ("fd00::2", "fe80::1")] {
        let flush = "ip route flush cache; ip -6 route flush cache";
        a.succeed(flush);
        let way = a.succeed(&format!("traceroute -n -q 1 -w 5 {address}"));
        // A link-local address comes with its link.
        let hop = |line: &'_ str| Some(line.split_whitespace().nth(1)?.replace("%eth0", ""));
        let hops: Vec<_> = way.lines().skip(1).filter_map(hop).collect();
        assert_eq!(hops, [gateway, address], "{way}");
        let way = a.succeed(&format!("tracepath -n {address}"));
        assert!(way.contains("pmtu 9000") && way.contains("Resume: pmtu 1500 hops 2"), "{way}");
        // TCP in segments of the sender's MTU, with and without segmentation offload, and datagrams
        // beyond the path's.
        for offload in ["on", "off"] {
            a.succeed(&format!("{flush}; ethtool -K eth0 tso {offload} gso {offload}"));
            let report = a.succeed(&format!("iperf3 -c {address} -n 8M -f m"));
            assert!(report.contains("receiver"), "tso {offload}: {report}");
        }
        a.succeed(flush);
        a.run(&format!("ping -n -c 1 -W 2 -M do -s 4000 {address}"));
        let told = a.succeed(&format!("ping -n -c 3 -i 0.2 -W 5 -M want -s 4000 {address}"));
        assert!(told.contains(" 0% packet loss"), "in fragments: {told}");
        let mtu = a.succeed(&format!("ip route get {address}"));
        assert!(mtu.contains("mtu 1500"), "{mtu}");
        assert_eq!(a.run(&format!("ping -n -c 1 -W 2 -M do -s 4000 {address}")).1, 1);
    }
    assert!(daemon.drops("large", "exceeds_mtu") > 0);
}

#[test]
fn a_guest_routes_for_what_is_behind_it() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let client = daemon.nic_with("prod", "client", |r| r.mtu = 1300);
    let prefixes = [vec!["10.8.0.0/16".to_owned()], vec!["fd08::/64".to_owned()]];
    let router = daemon.nic_with("prod", "router", |r| {
        [r.routed_ipv4_prefixes, r.routed_ipv6_prefixes] = prefixes.clone();
    });
    let (mut a, mut b) = (debian(&daemon, &client), debian(&daemon, &router));
    // A container: a namespace behind the guest, whose addresses are in the routed prefixes.
    b.succeed(
        "ip netns add c && ip link add v0 type veth peer name v1 netns c && ip link set v0 up && \
         ip -n c link set v1 up && ip -n c link set lo up",
    );
    b.succeed(
        "ip addr add 10.8.0.1/24 dev v0 && ip -6 addr add fd08::1/64 dev v0 nodad && ip -n c addr \
         add 10.8.0.2/24 dev v1 && ip -n c -6 addr add fd08::2/64 dev v1 nodad",
    );
    b.succeed(
        "ip -n c route add default via 10.8.0.1 && ip -n c -6 route add default via fd08::1 && \
         sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
         net.ipv6.conf.eth0.accept_ra=2",
    );
    b.succeed("until ip -6 route | grep -q '^default via fe80::1'; do sleep 0.1; done");
    for address in ["10.8.0.2", "fd08::2"] {
        let told = a.succeed(&format!("ping -n -c 3 -i 0.2 -W 5 {address}"));
        assert!(told.contains(" 0% packet loss"), "{told}");
    }
    // The container is told of the client's MTU by an address that its router can forward from.
    for to in [&client.ipv4_address, &client.ipv6_address] {
        b.run(&format!("ip netns exec c ping -n -c 1 -W 2 -M do -s 1350 {to}"));
        let mtu = b.succeed(&format!("ip -n c route get {to}"));
        assert!(mtu.contains("mtu 1300"), "{mtu}");
    }
    // The prefixes are changed while traffic flows: not a packet of it is lost.
    a.succeed("ping -n -c 40 -i 0.1 -W 5 10.8.0.2 >/tmp/ping 2>&1 &");
    for n in 0..20_usize {
        let mut routed = prefixes[0].clone();
        routed.extend((0..n % 3).map(|n| format!("10.9.{n}.0/24")));
        let request = UpdateNicRequest {
            id: "router".into(),
            routed_ipv4_prefixes: routed,
            routed_ipv6_prefixes: prefixes[1].clone(),
            ..Default::default()
        };
        daemon.call(async |client| client.update_nic(request).await).unwrap();
    }
    let told = a.succeed("wait; cat /tmp/ping");
    assert!(told.contains("40 received, 0% packet loss"), "{told}");
    // What is behind it no more is not reached, and its sender is told.
    let request = UpdateNicRequest { id: "router".into(), ..Default::default() };
    daemon.call(async |client| client.update_nic(request).await).unwrap();
    let (told, status) = a.run("ping -n -c 1 -W 5 10.8.0.2");
    assert!(status == 1 && told.contains("Destination Net Unreachable"), "{told}");
}

#[test]
fn a_guest_without_dhcpv6_chooses_its_address() {
    let mut daemon = Daemon::start();
    daemon.network_with("prod", |r| r.ipv6_prefix = "fd00::/56".into());
    let phone = daemon.nic_with("prod", "phone", |r| r.ipv6_mode = 2);
    let server = daemon.nic("prod", "server");
    let mut b = debian(&daemon, &server);
    let mut a = Machine::debian(&daemon, &phone, artefact("debian").parent().unwrap());
    a.succeed(
        "ip link set eth0 up && until ip -6 -o addr show dev eth0 scope global | grep inet6 | grep \
         -qv tentative; do sleep 0.1; done",
    );
    let chosen = a.succeed("ip -6 -o addr show dev eth0 scope global");
    let address = chosen.split_whitespace().nth(3).unwrap().trim_end_matches("/64");
    let prefix: ipnet::Ipv6Net = phone.slaac_prefix.parse().unwrap();
    assert!(prefix.contains(&address.parse::<std::net::Ipv6Addr>().unwrap()), "{chosen}");
    let told = a.succeed(&format!("ping -n -c 3 -i 0.2 -W 5 {}", server.ipv6_address));
    assert!(told.contains(" 0% packet loss"), "{told}");
    b.succeed(&format!("ping -n -c 1 -W 5 {address}"));
}

#[test]
fn a_load_of_dhcpv6_clients_is_answered() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "vm1");
    let mut machine = debian(&daemon, &nic);
    // Four-way exchanges of many clients, as fast as a guest may ask.
    let (told, status) = machine.run("perfdhcp -6 -l eth0 -r 200 -R 50 -n 400 2>&1");
    // 3: some are not answered. It does not wait for the answers to its last questions.
    assert!([0, 3].contains(&status), "{status}:\n{told}");
    for exchange in ["SOLICIT-ADVERTISE", "REQUEST-REPLY"] {
        let (_, report) = told.split_once(exchange).unwrap_or_else(|| panic!("{told}"));
        let count = |what: &str| -> u64 {
            let line = report.lines().find(|line| line.starts_with(what)).unwrap();
            line.split(": ").nth(1).unwrap().trim().parse().unwrap()
        };
        let (sent, received) = (count("sent packets"), count("received packets"));
        assert!(sent >= 390 && received + 8 >= sent, "{told}");
    }
}
