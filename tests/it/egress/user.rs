//! Guests of public networks and the world, by sockets of the host: without any privilege, and
//! whatever addresses others have.

use super::rig::{
    Container, HOST, WEB, WORLD, egress, fetch, inside, on_a_host, page, public, serve, set_public,
    start, try_public,
};
use crate::{
    command::{mvirt, stdout},
    daemon::{Daemon, cannot_run, wait_until},
    guest::Guest,
    namespace::run,
    ports::slirp,
};
use mvirt_net::proto::{EgressFlows, EgressMode};
use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    time::Duration,
};

/// A daemon whose way out are sockets of the host, which may ping.
fn start_user() -> Daemon {
    run("sysctl -qw net.ipv4.ping_group_range=0\t2147483647");
    start(&["--egress", "user"])
}

/// What a vNIC has open outside.
fn flows(daemon: &mut Daemon, nic: &str) -> EgressFlows {
    daemon.stats(nic).outside.expect("its network is public")
}

fn dropped(flows: &EgressFlows, reason: &str) -> u64 {
    flows.drops.iter().find(|drop| drop.reason == reason).map_or(0, |drop| drop.frames)
}

/// The process that has the sockets.
fn helper(daemon: &Daemon) -> i32 {
    let all = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let lists = all.map(|task| task.unwrap().path().join("children"));
    let mut pids = lists.flat_map(|list| {
        let text = std::fs::read_to_string(list).unwrap_or_default();
        text.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<i32>>()
    });
    pids.next().expect("a child of the daemon")
}

#[test]
fn guests_reach_the_world_which_sees_the_host_and_nothing_of_the_host_itself() {
    on_a_host(|world| {
        let mut daemon = start_user();
        serve(world);
        public(&mut daemon, "web", WEB);
        let guest = Container::new(&mut daemon, "web", "c1");
        for (address, host) in WORLD.into_iter().zip(HOST) {
            assert!(guest.pings(address), "{address}: {}", daemon.log());
            assert_eq!(fetch(&guest, address), format!("You are {host}"));
        }
        // A machine of the other kind, without a kernel: by its lease.
        let mut vm = Guest::connect(&daemon.nic("web", "vm1"));
        assert_eq!(vm.lease().0, "10.1.0.2/32");
        assert!(WORLD.iter().all(|world| vm.ping(world)));
        let way = egress(&mut daemon);
        assert_eq!(way.mode(), EgressMode::User);
        assert!(way.program.ends_with("/mvirt-egress"), "{}", way.program);
        assert!(!run("ip link").contains("mvirt0") && run("nft list tables").is_empty());
        // The host itself is reached as a machine of its LAN does, and what is for it alone is not:
        // its loopback, and the metadata of the cloud that it may be in.
        run("ip address add 169.254.169.254/32 dev lo");
        let _everywhere = TcpListener::bind("[::]:8088").unwrap();
        assert!(HOST.iter().all(|address| connects(&guest, address, 8088)));
        let nowhere = ["127.0.0.1", "127.0.0.53", "0.0.0.0", "::1", "169.254.169.254"];
        for address in nowhere {
            assert!(!connects(&guest, address, 8088), "{address}");
        }
    });
}

fn connects(guest: &Container, address: &str, port: u16) -> bool {
    let to = (address.parse::<IpAddr>().unwrap(), port).into();
    guest.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(2)).is_ok())
}

#[test]
fn the_hosts_loopback_is_reached_where_it_is_to_be_and_the_api_never() {
    on_a_host(|_| {
        let flags = ["--egress", "user", "--egress-host-loopback", "10.99.0.1"];
        let allowed =
            ["--egress-allow", "192.0.2.1/32", "--egress-deny", "192.0.2.0/24,10.98.0.0/16"];
        let listen = ["--listen", "127.0.0.1:50054"];
        let mut daemon = start(&[&flags[..], &allowed, &listen].concat());
        public(&mut daemon, "web", WEB);
        let guest = Container::new(&mut daemon, "web", "c1");
        let _near = TcpListener::bind("127.0.0.1:8088").unwrap();
        assert!(connects(&guest, "10.99.0.1", 8088), "{}", daemon.log());
        assert!(TcpStream::connect("127.0.0.1:50054").is_ok(), "somebody listens");
        assert!(!connects(&guest, "10.99.0.1", 50054), "the API");
        let _far = TcpListener::bind((HOST[0], 8088)).unwrap();
        assert!(!connects(&guest, HOST[0], 8088), "what is denied wins");
        wait_until("it is counted", || dropped(&flows(&mut daemon, "c1"), "egress_denied") >= 2);
    });
}

#[test]
fn link_local_networks_of_the_host_are_reached_where_that_is_allowed() {
    on_a_host(|world| {
        run("sysctl -qw net.ipv4.ping_group_range=0\t2147483647");
        let mut daemon = start(&["--egress", "user", "--egress-allow", "169.254.77.0/24"]);
        run("ip address add 169.254.77.1/23 dev h0");
        inside(world, || {
            run("ip address add 169.254.77.2/23 dev w0");
            run("ip address add 169.254.76.2/23 dev w0");
        });
        let _there = inside(world, || TcpListener::bind("0.0.0.0:8088").unwrap());
        public(&mut daemon, "web", WEB);
        let guest = Container::new(&mut daemon, "web", "c1");
        assert!(connects(&guest, "169.254.77.2", 8088), "{}", daemon.log());
        assert!(guest.pings("169.254.77.2"));
        assert!(!connects(&guest, "169.254.76.2", 8088), "its neighbour");
    });
}

#[test]
fn a_segments_own_way_out_leads_to_no_guest_of_a_public_network() {
    if Command::new("nft").arg("-v").stdout(Stdio::null()).status().is_err() {
        return cannot_run("there is no nft: the package nftables");
    }
    slirp::scene(|scene| {
        let mut daemon = slirp::start_with(scene, "slirp://", &["--egress", "tun"]);
        scene.serve();
        scene.lease("eth0");
        let reaches = |at: &str| {
            let to = at.parse().unwrap();
            let soon = Duration::from_secs(2);
            scene.guest.within(|| TcpStream::connect_timeout(&to, soon).is_ok())
        };
        for [name, subnet, guest] in [["web", "10.1.0.0/24", "c1"], ["two", "10.2.0.0/24", "c2"]] {
            try_public(&mut daemon, name, [subnet, ""]).unwrap();
            let container = Container::new(&mut daemon, name, guest);
            container.serve("guest");
            let at = format!("{}:80", container.nic.ipv4_address);
            assert!(page(&at).starts_with("guest sees"), "this host reaches it: {at}");
            assert!(!reaches(&at), "{at}");
        }
        assert!(reaches("198.51.100.2:80"), "the world");
    });
}

#[test]
fn networks_of_the_same_addresses_do_not_mix() {
    on_a_host(|world| {
        let mut daemon = start_user();
        for name in ["a", "b"] {
            try_public(&mut daemon, name, WEB).unwrap();
        }
        let [a, b] =
            ["a", "b"].map(|name| Container::new(&mut daemon, name, &format!("of-{name}")));
        assert_eq!(a.nic.ipv4_address, b.nic.ipv4_address);
        let echo = inside(world, || UdpSocket::bind("192.0.2.2:7").unwrap());
        let exchange = |guest: &Container, said: &[u8]| {
            guest.enter(|| {
                let socket = UdpSocket::bind("0.0.0.0:4000").unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                socket.send_to(said, "192.0.2.2:7").unwrap();
                socket
            })
        };
        let sockets = [exchange(&a, b"from a"), exchange(&b, b"from b")];
        for _ in 0..2 {
            let mut buffer = [0; 16];
            let (len, from) = echo.recv_from(&mut buffer).unwrap();
            echo.send_to(&buffer[..len], from).unwrap();
        }
        for (socket, said) in sockets.iter().zip([b"from a", b"from b"]) {
            let mut buffer = [0; 16];
            let len = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], said);
        }
        wait_until("it is told", || flows(&mut daemon, "of-a").udp_ports == 1);
    });
}

#[test]
fn a_network_is_public_for_as_long_as_it_is_said_to_be() {
    on_a_host(|_| {
        let mut daemon = start_user();
        daemon.network("prod");
        let guest = Container::new(&mut daemon, "prod", "c1");
        assert!(WORLD.iter().all(|to| guest.misses(to)));
        set_public(&mut daemon, "prod", true);
        assert!(WORLD.iter().all(|world| guest.pings(world)), "{}", daemon.log());
        let pid = helper(&daemon);
        set_public(&mut daemon, "prod", false);
        assert!(WORLD.iter().all(|to| guest.misses(to)));
        wait_until("nothing of it is left", || !std::fs::exists(format!("/proc/{pid}")).unwrap());
    });
}

/// A connection to the world, over which one octet has gone.
fn connection(guest: &Container, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let mut near = guest.enter(|| TcpStream::connect("192.0.2.2:9").unwrap());
    near.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    near.write_all(b"x").unwrap();
    far.read_exact(&mut [0]).unwrap();
    (near, far)
}

/// Waits until a connection that is gone is said to be.
fn is_reset((mut near, _far): (TcpStream, TcpStream)) {
    // What is sent into nothing is answered once there is somebody again.
    let mut told = None;
    wait_until("the connection is reset", || {
        told = near.write_all(b"x").err().map(|error| error.kind());
        told.is_some()
    });
    let expected = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    assert!(told.is_some_and(|kind| expected.contains(&kind)), "{told:?}");
}

#[test]
fn a_process_that_is_killed_is_there_again_and_connections_are_reset() {
    on_a_host(|world| {
        let mut daemon = start_user();
        public(&mut daemon, "web", WEB);
        let guest = Container::new(&mut daemon, "web", "c1");
        let listener = inside(world, || TcpListener::bind("192.0.2.2:9").unwrap());
        let before = connection(&guest, &listener);
        let pid = helper(&daemon);
        let killed = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
        is_reset(before);
        assert!(guest.pings(WORLD[0]), "{}", daemon.log());
        assert_ne!(helper(&daemon), pid);
        connection(&guest, &listener);
    });
}

#[test]
fn a_process_that_hangs_is_found_out_and_there_is_another() {
    on_a_host(|_| {
        let mut daemon = start_user();
        public(&mut daemon, "web", WEB);
        let guest = Container::new(&mut daemon, "web", "c1");
        assert!(guest.pings(WORLD[0]), "{}", daemon.log());
        let pid = helper(&daemon);
        let stopped = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(stopped, rustix::process::Signal::STOP).unwrap();
        wait_until("it has gone", || !std::fs::exists(format!("/proc/{pid}")).unwrap());
        daemon.says("mvirt-egress does not answer");
        wait_until("there is another", || guest.pings(WORLD[0]));
    });
}

#[test]
fn few_open_files_are_told_of() {
    on_a_host(|_| {
        let mut daemon = start_user();
        run(&format!("prlimit --pid {} --nofile=300:300", daemon.pid()));
        public(&mut daemon, "web", WEB);
        daemon.says("the limit of open files leaves few to mvirt-egress");
        daemon.says("flows=236");
    });
}

#[test]
fn a_new_process_of_the_daemon_begins_anew_and_connections_are_reset() {
    on_a_host(|world| {
        let mut daemon = start_user();
        public(&mut daemon, "web", WEB);
        let mut vm = Guest::connect(&daemon.nic("web", "vm1"));
        vm.lease();
        let guest = Container::new(&mut daemon, "web", "c1");
        let add = ["forward", "add", "--listen", "tcp:192.0.2.1:8080", "--to", "c1:80"];
        stdout(&mvirt(&daemon, &add));
        let _page = guest.enter(|| TcpListener::bind("0.0.0.0:80").unwrap());
        let called = || inside(world, || TcpStream::connect("192.0.2.1:8080").is_ok());
        wait_until("the forward is in force", called);
        let listener = inside(world, || TcpListener::bind("192.0.2.2:9").unwrap());
        let before = connection(&guest, &listener);
        assert!(daemon.hand_over(), "{}", daemon.log());
        is_reset(before);
        assert!(guest.pings(WORLD[1]) && vm.ping(WORLD[0]), "{}", daemon.log());
        // The old process had its socket when the new one began; that is no news.
        wait_until("the forward is in force again", called);
        assert!(!daemon.log().contains("a forward is not in force"), "{}", daemon.log());
        daemon.crash_and_restart();
        // A TAP device ends with the daemon, so this guest is a VM that connects again.
        let mut vm = Guest::connect(&daemon.get_nic("vm1"));
        vm.lease();
        assert!(vm.ping(WORLD[0]) && vm.ping(WORLD[1]), "{}", daemon.log());
    });
}
