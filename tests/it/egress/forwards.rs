//! Ports of the host's side that are a guest's.

use super::{
    kernel::{cleanup, is_untouched},
    rig::{
        Container, WEB, inside, is_refused, is_silent, on_a_host, page, public, refused,
        set_public, start, start_egress,
    },
};
use crate::{
    command::{mvirt, stdout},
    daemon::{Daemon, wait_until},
    namespace::{Namespace, run},
};
use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

/// Makes a forward; the words are those of a command line.
fn add(daemon: &Daemon, words: &str) -> String {
    let words: Vec<_> = ["forward", "add"].into_iter().chain(words.split(' ')).collect();
    stdout(&mvirt(daemon, &words))
}

/// A guest that serves pages which say its name.
fn server(daemon: &mut Daemon, network: &str, name: &'static str) -> Container {
    let guest = Container::new(daemon, network, name);
    guest.serve(name);
    guest
}

/// Sends back what comes to a port of a guest.
fn echo(guest: &Container, at: &str) {
    let socket = guest.enter(|| UdpSocket::bind(at).unwrap());
    // It ends with the process.
    thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..len], from).unwrap();
        }
    });
}

/// What a port of an address sends back, from where this is run.
fn echoed(to: &str) -> String {
    let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.send(b"hello").unwrap();
    let mut buffer = [0; 100];
    let len = socket.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..len]).into_owned()
}

#[test]
fn the_world_and_the_host_reach_a_guest_by_ports_of_the_host() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        let guest = server(&mut daemon, "web", "c1");
        echo(&guest, "0.0.0.0:53");
        echo(&guest, "[::]:5353");
        let from_world = |at: &str| inside(world, || page(at));
        assert!(inside(world, || is_refused("192.0.2.1:8080")));
        let shown = add(&daemon, "--network web --listen tcp:0.0.0.0:8080 --to c1:80 -n first");
        assert!(shown.contains("tcp:0.0.0.0:8080") && shown.contains("c1:80"), "{shown}");
        assert!(shown.contains("in force"), "{shown}");
        add(&daemon, "--listen tcp:[::]:8080 --to c1:80");
        add(&daemon, "--listen tcp:9000,9005-9010 --to c1:80");
        add(&daemon, "--listen udp:5353-5354 --to c1:53,54");
        add(&daemon, "--listen udp:[2001:db8:ffff::1]:5353 --to c1");
        // The guest sees who asks.
        assert_eq!(from_world("192.0.2.1:8080"), "c1 sees 192.0.2.2");
        assert_eq!(from_world("[2001:db8:ffff::1]:8080"), "c1 sees 2001:db8:ffff::2");
        assert_eq!(from_world("192.0.2.1:9007"), "c1 sees 192.0.2.2");
        assert!(inside(world, || is_refused("192.0.2.1:9001")));
        assert_eq!(inside(world, || echoed("192.0.2.1:5353")), "hello");
        assert_eq!(inside(world, || echoed("[2001:db8:ffff::1]:5353")), "hello");
        // The host itself, but not by its loopback.
        assert_eq!(page("192.0.2.1:8080"), "c1 sees 192.0.2.1");
        assert_eq!(page("[2001:db8:ffff::1]:8080"), "c1 sees 2001:db8:ffff::1");
        assert!(is_refused("127.0.0.1:8080"));
        let list = stdout(&mvirt(&daemon, &["forward", "list", "-n", "web"]));
        assert_eq!(list.lines().count(), 6, "{list}");
        let got = stdout(&mvirt(&daemon, &["forward", "get", "first"]));
        assert!(got.contains("tcp:0.0.0.0:8080"), "{got}");
        stdout(&mvirt(&daemon, &["forward", "delete", "first"]));
        assert!(inside(world, || is_refused("192.0.2.1:8080")));
        assert_eq!(from_world("192.0.2.1:9000"), "c1 sees 192.0.2.2");
    });
}

#[test]
fn a_forward_listens_elsewhere_and_who_came_by_the_other_port_is_let_go() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        let _guest = server(&mut daemon, "web", "c1");
        add(&daemon, "--listen tcp:8080 --to c1:80 -n web");
        add(&daemon, "--listen tcp:9090 --to c1:80 -n other");
        let update = |words: &str| {
            let words: Vec<_> = ["forward", "update"].into_iter().chain(words.split(' ')).collect();
            mvirt(&daemon, &words)
        };
        let shown = stdout(&update("web --listen tcp:192.0.2.1:8081"));
        assert!(shown.contains("tcp:192.0.2.1:8081") && shown.contains("c1:80"), "{shown}");
        let from_world = |at: &str| inside(world, || page(at));
        assert_eq!(from_world("192.0.2.1:8081"), "c1 sees 192.0.2.2");
        assert!(inside(world, || is_refused("192.0.2.1:8080")));
        // The other family, which the vNIC has, too.
        stdout(&update("web --listen tcp:[::]:8082"));
        assert_eq!(from_world("[2001:db8:ffff::1]:8082"), "c1 sees 2001:db8:ffff::2");
        let dry = update("web --listen tcp:8083 --dry-run");
        assert!(stdout(&dry).contains("tcp:0.0.0.0:8083"));
        assert!(inside(world, || is_refused("192.0.2.1:8083")));
        for (words, why) in [
            ("web --listen tcp:9000-9100", "forward other, which has tcp port 9090"),
            ("web --listen tcp:80,80", "it is given twice"),
            ("web --to c1:81,82 --listen tcp:1-3", "expected one port for all, or 3"),
            ("web --listen tcp:127.0.0.1:80", "no packet is routed to that address"),
        ] {
            let said = update(words);
            let said = String::from_utf8_lossy(&said.stderr);
            assert!(said.contains(why), "{words}: {said}");
        }
        let got = stdout(&mvirt(&daemon, &["forward", "get", "web"]));
        assert!(got.contains("tcp:[::]:8082"), "{got}");
    });
}

#[test]
fn guests_reach_one_another_by_what_is_forwarded_and_by_nothing_else() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        public(&mut daemon, "app", ["10.2.0.0/24", "fd00:2::/64"]);
        let [beside, beyond] =
            [("web", "c2"), ("app", "c3")].map(|(of, name)| Container::new(&mut daemon, of, name));
        let c4 = server(&mut daemon, "web", "c4");
        add(&daemon, "--listen tcp:8080 --to c4:80");
        add(&daemon, "--listen tcp:[::]:8080 --to c4:80");
        for guest in [&beside, &beyond, &c4] {
            assert_eq!(guest.enter(|| page("192.0.2.1:8080")), "c4 sees 192.0.2.1");
            let seen = guest.enter(|| page("[2001:db8:ffff::1]:8080"));
            assert_eq!(seen, "c4 sees 2001:db8:ffff::1");
        }
        // Within a network they are themselves, and from one to another there is nothing else.
        let direct = format!("{}:80", c4.nic.ipv4_address);
        let seen = format!("c4 sees {}", beside.nic.ipv4_address);
        assert_eq!(beside.enter(|| page(&direct)), seen);
        assert!(beyond.misses(&c4.nic.ipv4_address));
        assert!(beyond.misses(&c4.nic.ipv6_address));
    });
}

#[test]
fn an_address_that_is_nobodys_is_found_by_neighbours() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        server(&mut daemon, "web", "c1");
        add(&daemon, "--listen tcp:192.0.2.50:80-81 --to c1:80");
        add(&daemon, "--listen tcp:[2001:db8:ffff::50]:80 --to c1");
        let from_world = |at: &str| inside(world, || page(at));
        assert_eq!(from_world("192.0.2.50:81"), "c1 sees 192.0.2.2");
        assert_eq!(from_world("[2001:db8:ffff::50]:80"), "c1 sees 2001:db8:ffff::2");
        let proxied = run("ip neigh show proxy");
        assert!(proxied.contains("192.0.2.50 dev h0"), "{proxied}");
        stdout(&mvirt(&daemon, &["network", "delete", "-f", "web"]));
        assert_eq!(run("ip neigh show proxy"), "");
        assert_eq!(stdout(&mvirt(&daemon, &["forward", "list", "-o", "name"])), "");
    });
}

#[test]
fn what_cannot_be_is_refused_with_its_field_and_a_remedy() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        daemon.network("prod");
        daemon.nic("prod", "p1");
        daemon.nic("web", "c1");
        daemon.nic("web", "c2");
        add(&daemon, "--listen tcp:80,90-100 --to c1 -n first");
        for (words, said) in [
            ("--listen tcp:95 --to c2", "listen_ports: \"95\" is taken by forward first"),
            ("--listen tcp:192.0.2.1:80 --to c2", "tcp port 80 of 0.0.0.0"),
            ("--listen tcp:1 --to c2 -n first", "name: \"first\" is taken"),
            ("--listen tcp:1 --to p1", "mvirt network update prod --public"),
            ("--listen tcp:1 --to c9", "vNIC \"c9\" does not exist"),
            ("--listen tcp:1 --to c1 --network prod", "expected a vNIC of network prod"),
            ("--listen tcp:0 --to c1", "listen_ports: \"0\": expected ports from 1 to 65535"),
            ("--listen tcp:1,1-2 --to c1", "it is given twice"),
            ("--listen tcp:1-3 --to c1:1-2", "one port for all, or 3"),
            ("--listen tcp:1001-2000 --to c1:2-1001", "at most 256"),
            ("--listen tcp:127.0.0.1:1 --to c1", "no packet is routed to that address"),
            ("--listen tcp:10.1.0.9:1 --to c1", "network web, whose guests have"),
            ("--listen tcp:host:1 --to c1", "expected an IPv4 or IPv6 address"),
        ] {
            let words: Vec<_> = ["forward", "add"].into_iter().chain(words.split(' ')).collect();
            let refused = refused(&daemon, &words);
            assert!(refused.contains(said), "{words:?}: {refused}");
        }
        // The other protocol and the other family are others.
        add(&daemon, "--listen udp:80 --to c2");
        add(&daemon, "--listen tcp:[::]:80 --to c2");
        // Checked only.
        add(&daemon, "--listen tcp:1 --to c2 --dry-run");
        add(&daemon, "--listen tcp:1 --to c2 --id 22222222-2222-4222-8222-222222222222");
        let again = "--listen tcp:1 --to c2 --id 22222222-2222-4222-8222-222222222222";
        add(&daemon, again);
        // Also where it could not be made any more.
        set_public(&mut daemon, "web", false);
        let shown = add(&daemon, again);
        assert!(shown.contains("network web is not public"), "{shown}");
        set_public(&mut daemon, "web", true);
        let refused = refused(&daemon, &["nic", "delete", "c1"]);
        assert!(refused.contains("still has 1 forward:"), "{refused}");
        let list = || stdout(&mvirt(&daemon, &["forward", "list", "-o", "name"]));
        assert_eq!(list().lines().count(), 4);
        stdout(&mvirt(&daemon, &["nic", "delete", "-f", "c1"]));
        assert_eq!(list().lines().count(), 3);
        stdout(&mvirt(&daemon, &["nic", "delete", "-f", "c2"]));
        assert_eq!(list(), "");
    });
}

#[test]
fn without_privilege_a_forward_is_a_socket_of_the_host() {
    on_a_host(|world| {
        let mut daemon = start(&["--egress", "user"]);
        public(&mut daemon, "web", WEB);
        let guest = server(&mut daemon, "web", "c1");
        echo(&guest, "0.0.0.0:53");
        let taken = TcpListener::bind("0.0.0.0:8081").unwrap();
        add(&daemon, "--listen tcp:8080 --to c1:80 -n page");
        add(&daemon, "--listen tcp:[::]:9000-9010 --to c1:80");
        add(&daemon, "--listen udp:192.0.2.1:5353 --to c1:53");
        let from_world = |at: &str| inside(world, || page(at));
        wait_until("it listens", || !inside(world, || is_refused("192.0.2.1:8080")));
        assert_eq!(from_world("192.0.2.1:8080").split(' ').next(), Some("c1"));
        assert_eq!(from_world("[2001:db8:ffff::1]:9007").split(' ').next(), Some("c1"));
        assert_eq!(page("127.0.0.1:8080").split(' ').next(), Some("c1"));
        assert_eq!(inside(world, || echoed("192.0.2.1:5353")), "hello");
        // What another has shows its error, and is had once that is gone.
        add(&daemon, "--listen tcp:8081 --to c1:80 -n taken");
        let get = || stdout(&mvirt(&daemon, &["forward", "get", "taken"]));
        wait_until("it says why not", || get().contains("cannot listen at 0.0.0.0:8081"));
        drop(taken);
        let said =
            refused(&daemon, &["floating-ip", "create", "--address", "192.0.2.77", "--nic", "c1"]);
        assert!(said.contains("--egress tun"), "{said}");
        stdout(&mvirt(&daemon, &["forward", "delete", "page"]));
        wait_until("it listens no longer", || inside(world, || is_refused("192.0.2.1:8080")));
        // With the process that has the sockets, they are made anew.
        daemon.crash_and_restart();
        guest.plug();
        wait_until("it listens again", || !inside(world, || is_refused("[2001:db8:ffff::1]:9000")));
        wait_until("the other is had", || get_state(&daemon, "taken") == "in force");
    });
}

#[test]
fn forwards_that_only_sockets_can_be_are_left_out_by_the_kernel() {
    on_a_host(|world| {
        let mut daemon = start(&["--egress", "user"]);
        public(&mut daemon, "web", WEB);
        let guest = server(&mut daemon, "web", "c1");
        let sockets = ["127.0.0.5", "224.0.0.5", "169.254.7.7", "10.1.0.9"];
        for (number, address) in sockets.into_iter().enumerate() {
            add(&daemon, &format!("--listen tcp:{address}:8080 --to c1:80 -n f{number}"));
        }
        for (number, address) in ["fe80::1", "ff02::5"].into_iter().enumerate() {
            add(&daemon, &format!("--listen tcp:[{address}]:8080 --to c1:80 -n six{number}"));
        }
        add(&daemon, "--listen tcp:9090 --to c1:80 -n good");
        daemon.terminate();
        daemon.use_flags(&["--reactors", "1", "--egress", "tun", "--egress-sysctl"]);
        daemon.start_again();
        guest.plug();
        wait_until("it is reached", || !inside(world, || is_silent("192.0.2.1:9090")));
        assert_eq!(inside(world, || page("192.0.2.1:9090")), "c1 sees 192.0.2.2");
        assert_eq!(get_state(&daemon, "good"), "in force");
        for name in ["f0", "f1", "f2", "f3", "six0", "six1"] {
            assert_eq!(get_state(&daemon, name), "not in force", "{name}");
        }
        let said = stdout(&mvirt(&daemon, &["forward", "get", "f3"]));
        assert!(said.contains("10.1.0.9 is in network web"), "{said}");
        let routes = run("ip route show dev mvirt0") + &run("ip -6 route show dev mvirt0");
        assert!(!sockets.iter().any(|address| routes.contains(address)), "{routes}");
        assert!(!routes.contains("ff02::5") && !routes.contains("fe80::1"), "{routes}");
    });
}

#[test]
fn who_sends_before_a_forward_is_there_is_heard_by_its_guest() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        let guest = server(&mut daemon, "web", "c1");
        echo(&guest, "0.0.0.0:53");
        // Anything that has the kernel follow flows.
        add(&daemon, "--listen tcp:8080 --to c1:80");
        let client = inside(world, || UdpSocket::bind("0.0.0.0:0").unwrap());
        client.connect("192.0.2.1:5353").unwrap();
        client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let asks = || {
            // Refused by the host, until the forward is there.
            client.send(b"hello").ok();
            client.recv(&mut [0; 5]).is_ok()
        };
        assert!(!asks());
        add(&daemon, "--listen udp:5353 --to c1:53");
        wait_until("it is answered by the same socket", asks);
        daemon.says("leads elsewhere now");
    });
}

#[test]
fn a_forward_that_takes_the_port_of_a_process_is_logged() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        daemon.nic("web", "c1");
        let _taken = TcpListener::bind("0.0.0.0:8022").unwrap();
        add(&daemon, "--listen tcp:8080 --to c1 -n free");
        add(&daemon, "--listen tcp:8020-8029 --to c1 -n taken");
        daemon.says("a process of the host listens there");
        assert!(daemon.log().contains("at=0.0.0.0:8022"), "{}", daemon.log());
        assert!(!daemon.log().contains("forward=free at="));
        // What is so already is done.
        for _ in 0..2 {
            stdout(&mvirt(&daemon, &["forward", "update", "free", "--label", "tier=1"]));
        }
    });
}

fn get_state(daemon: &Daemon, name: &str) -> String {
    let shown = stdout(&mvirt(daemon, &["forward", "get", name]));
    let line = shown.lines().find(|line| line.starts_with("state")).unwrap();
    line.trim_start_matches("state").trim().to_owned()
}

/// A connection through a forward.
fn connect(guest: &Container, world: &Namespace, at: &str) -> TcpStream {
    let listener = guest.enter(|| TcpListener::bind("0.0.0.0:7").unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut writer = stream.try_clone().unwrap();
        std::io::copy(&mut stream, &mut writer).ok();
    });
    let stream = inside(world, || TcpStream::connect(at).unwrap());
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    stream
}

fn goes_on(stream: &mut TcpStream) -> bool {
    let mut back = [0; 5];
    stream.write_all(b"hello").is_ok() && stream.read_exact(&mut back).is_ok()
}

#[test]
fn a_change_ends_what_it_changes_and_nothing_else() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        let [one, other] = ["c1", "c2"].map(|name| server(&mut daemon, "web", name));
        add(&daemon, "--listen tcp:8007 --to c1:7 -n one");
        add(&daemon, "--listen tcp:9007 --to c2:7 -n other");
        add(&daemon, "--listen tcp:8080 --to c1:80 -n page");
        let mut through_one = connect(&one, world, "192.0.2.1:8007");
        let mut through_other = connect(&other, world, "192.0.2.1:9007");
        assert!(goes_on(&mut through_one) && goes_on(&mut through_other));
        stdout(&mvirt(&daemon, &["forward", "update", "page", "--to", "c2:80"]));
        assert_eq!(inside(world, || page("192.0.2.1:8080")), "c2 sees 192.0.2.2");
        assert!(goes_on(&mut through_one) && goes_on(&mut through_other));
        stdout(&mvirt(&daemon, &["forward", "delete", "one"]));
        assert!(!goes_on(&mut through_one), "{}", daemon.log());
        assert!(goes_on(&mut through_other));
    });
}

#[test]
fn forwards_are_in_force_while_their_network_is_public_whatever_becomes_of_the_daemon() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        let guest = server(&mut daemon, "web", "c1");
        add(&daemon, "--listen tcp:192.0.2.50:80 --to c1 -n web");
        let is_reached = || inside(world, || page("192.0.2.50:80")) == "c1 sees 192.0.2.2";
        assert!(is_reached());
        assert!(daemon.hand_over(), "{}", daemon.log());
        assert!(is_reached());
        let shown = |daemon: &Daemon| stdout(&mvirt(daemon, &["forward", "get", "web"]));
        assert!(!shown(&daemon).contains("not in force"));
        // The TAP ends with the daemon, and the guest with it: the host goes on by itself.
        daemon.crash_and_restart();
        wait_until("the daemon says what it knows", || shown(&daemon).contains("in force"));
        assert!(run("nft list table inet mvirt").contains("192.0.2.50 . tcp . 80"));
        assert!(run("ip neigh show proxy").contains("192.0.2.50"));
        guest.plug();
        wait_until("it is reached again", || !inside(world, || is_silent("192.0.2.50:80")));
        set_public(&mut daemon, "web", false);
        let now = shown(&daemon);
        assert!(now.contains("not in force") && now.contains("network web is not public"), "{now}");
        assert_eq!(run("ip neigh show proxy"), "");
        set_public(&mut daemon, "web", true);
        assert!(!shown(&daemon).contains("not in force"));
        assert!(is_reached());
        daemon.terminate();
        assert_eq!(cleanup().status.code(), Some(0));
        assert!(is_untouched());
    });
}
