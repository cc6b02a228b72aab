//! Flows to an address of the world are spread over guests, who fail, come back and are drained.

use super::rig::{
    Container, WEB, inside, on_a_host, public, refused, set_public, start, start_egress,
};
use crate::{
    command::{mvirt, stderr, stdout},
    daemon::{Daemon, wait_until},
    namespace::{Namespace, run},
};
use mvirt_net::proto::{
    Backend, BalancedPort, CreateLoadBalancerRequest, GetLoadBalancerRequest, HealthCheck,
    HealthKind, ListLoadBalancersRequest, LoadBalancer, Protocol,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead as _, BufReader, ErrorKind, Write as _},
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};
use tonic::Code;

/// Of balancers, as the world and guests call them.
const FRONT: [&str; 2] = ["203.0.113.80", "2001:db8:80::80"];

/// Lets the world find them.
fn lead(world: &Namespace) {
    inside(world, || {
        run(&format!("ip route add {}/32 via {}", FRONT[0], super::rig::HOST[0]));
        run(&format!("ip route add {}/128 via {}", FRONT[1], super::rig::HOST[1]));
    });
}

/// Answers each connection to a guest by its name, and then what it is sent.
fn serve(guest: &Container) {
    let listener = guest.enter(|| TcpListener::bind("[::]:8080").unwrap());
    let name = guest.nic.name.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, name) = (stream.unwrap(), name.clone());
            thread::spawn(move || {
                // The client may be gone already.
                stream.write_all(format!("{name}\n").as_bytes()).ok();
                let mut back = stream.try_clone().unwrap();
                io::copy(&mut stream, &mut back).ok();
            });
        }
    });
}

/// Guests of the network web that serve.
fn guests<const N: usize>(daemon: &mut Daemon, names: [&str; N]) -> [Container; N] {
    names.map(|name| {
        let guest = Container::new(daemon, "web", name);
        serve(&guest);
        guest
    })
}

/// A connection to a balancer, and who has taken it.
struct Flow {
    stream: BufReader<TcpStream>,
    backend: String,
}

impl Flow {
    fn new(address: &str, port: u16) -> io::Result<Self> {
        let address: IpAddr = address.parse().unwrap();
        let stream = TcpStream::connect_timeout(&(address, port).into(), Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut flow = Self { stream: BufReader::new(stream), backend: String::new() };
        flow.backend = flow.line()?;
        Ok(flow)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    fn echoes(&mut self, what: &str) {
        self.stream.get_mut().write_all(format!("{what}\n").as_bytes()).unwrap();
        assert_eq!(self.line().unwrap(), what);
    }
}

/// Who takes so many flows, and how many each.
fn spread(address: &str, flows: usize) -> BTreeMap<String, usize> {
    let mut taken = BTreeMap::new();
    for _ in 0..flows {
        let flow = Flow::new(address, 80).unwrap();
        *taken.entry(flow.backend).or_default() += 1;
    }
    taken
}

fn takers(address: &str, flows: usize) -> BTreeSet<String> {
    spread(address, flows).into_keys().collect()
}

fn lb(daemon: &Daemon, words: &str) -> String {
    let words: Vec<_> = ["lb"].into_iter().chain(words.split(' ')).collect();
    stdout(&mvirt(daemon, &words))
}

fn complaint(refused: &Output) -> String {
    assert!(!refused.status.success());
    String::from_utf8_lossy(&refused.stderr).into_owned()
}

fn get(daemon: &mut Daemon) -> LoadBalancer {
    let request = GetLoadBalancerRequest { id: "front".into() };
    daemon.call(async |client| client.get_load_balancer(request).await).unwrap()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

const CREATE: &str = "create --name front --network web --address 203.0.113.80 --port tcp:80:8080";

#[test]
fn flows_are_spread_by_weight_and_stay_where_they_are() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        lead(world);
        let [a, b] = guests(&mut daemon, ["vm1", "vm2"]);
        let shown = lb(&daemon, &format!("{CREATE} --backend vm1 --backend vm2,weight=3"));
        assert!(
            shown.contains("in force") && shown.contains("vm2: not checked, weight 3"),
            "{shown}"
        );
        let taken = inside(world, || spread(FRONT[0], 200));
        assert_eq!(taken.keys().cloned().collect::<BTreeSet<_>>(), set(["vm1", "vm2"]));
        // Three in four, give or take what 200 throws may.
        assert!((115..=185).contains(&taken["vm2"]), "{taken:?}");
        let mut stays = inside(world, || {
            loop {
                let flow = Flow::new(FRONT[0], 80).unwrap();
                if flow.backend == "vm1" {
                    break flow;
                }
            }
        });
        // The backend sees who comes.
        let seen = a.run("ss -tnH state established sport = :8080");
        assert!(String::from_utf8_lossy(&seen.stdout).contains(super::rig::WORLD[0]));
        lb(&daemon, "update front --drain vm1");
        assert_eq!(inside(world, || takers(FRONT[0], 30)), set(["vm2"]));
        stays.echoes("drained");
        assert!(lb(&daemon, "list").contains("1/2"));
        lb(&daemon, "update front --undrain vm1 --add vm2,weight=1");
        assert_eq!(inside(world, || takers(FRONT[0], 60)), set(["vm1", "vm2"]));
        lb(&daemon, "update front --remove vm1");
        assert_eq!(inside(world, || takers(FRONT[0], 30)), set(["vm2"]));
        stays.echoes("removed");
        lb(&daemon, "delete front");
        stays.echoes("deleted");
        let gone = inside(world, || Flow::new(FRONT[0], 80).err().unwrap());
        assert_ne!(gone.kind(), ErrorKind::ConnectionRefused, "nobody has the address any more");
        assert!(!run("ip route").contains(FRONT[0]));
        assert!(!run("nft list tables").contains("mvirt_lb"));
        drop(b);
    });
}

#[test]
fn what_is_so_already_is_done() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        daemon.nic("web", "vm1");
        lb(&daemon, &format!("{CREATE} --backend vm1"));
        for _ in 0..2 {
            lb(&daemon, "update front --drain vm1 --label tier=1");
        }
        lb(&daemon, "update front --add vm1,weight=3");
        let shown = get(&mut daemon);
        assert!(shown.backends[0].drained && shown.backends[0].weight == 3, "{shown:?}");
        let nothing = stderr(&mvirt(&daemon, &["lb", "update", "front"]), 2);
        assert!(nothing.contains("nothing to change is named"), "{nothing}");
    });
}

/// What a watch has told so far, until that is so.
struct Told {
    process: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Told {
    fn by(daemon: &Daemon, kind: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
        command.env("MVIRT_NET_SERVER", daemon.address()).args([kind, "watch", "--no-headers"]);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let (out, told) = (process.stdout.take().unwrap(), Arc::clone(&lines));
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                // Without the time.
                let words = line.split_whitespace().skip(1).collect::<Vec<_>>();
                told.lock().unwrap().push(words.join(" "));
            }
        });
        Self { process, lines }
    }

    fn says(&self, line: &str) {
        wait_until(&format!("{line:?} is told"), || {
            self.lines.lock().unwrap().last().is_some_and(|last| last == line)
        });
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn watchers_are_told_of_backends_and_of_what_is_in_force() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        let [vm1] = guests(&mut daemon, ["vm1"]);
        let [lbs, forwards, floating] =
            ["lb", "forward", "floating-ip"].map(|kind| Told::by(&daemon, kind));
        lb(&daemon, &format!("{CREATE} --backend vm1 --health tcp,interval=1,rise=1,fall=1"));
        lbs.says("front in-force 1/1 203.0.113.80");
        lb(&daemon, "wait front --at-most 20");
        lb(&daemon, "update front --drain vm1");
        lbs.says("front in-force 0/1 203.0.113.80");
        let late = mvirt(&daemon, &["lb", "wait", "front", "--at-most", "0.2"]);
        assert!(stderr(&late, 1).contains("front: not 1 healthy within 200ms"));
        lb(&daemon, "update front --undrain vm1");
        lbs.says("front in-force 1/1 203.0.113.80");
        // Its guest answers no longer.
        vm1.run("ip link set vm1 down");
        lbs.says("front in-force 0/1 203.0.113.80");
        let run = |line: &str| stdout(&mvirt(&daemon, &line.split(' ').collect::<Vec<_>>()));
        run("forward add --listen tcp:8080 --to vm1:80 -n f");
        forwards.says("f in-force tcp:0.0.0.0:8080 vm1:80");
        run("floating-ip create --address 203.0.113.7 --nic vm1 --label tier=1");
        floating.says("203.0.113.7 in-force vm1 web");
        run("network update web --public=false");
        forwards.says("f not-in-force tcp:0.0.0.0:8080 vm1:80");
        floating.says("203.0.113.7 not-in-force vm1 web");
        // It is checked no longer.
        lbs.says("front not-in-force 1/1 203.0.113.80");
        run("network update web --public");
        forwards.says("f in-force tcp:0.0.0.0:8080 vm1:80");
        // What is called otherwise is told, too.
        run("nic update vm1 --name one");
        forwards.says("f in-force tcp:0.0.0.0:8080 one:80");
        floating.says("203.0.113.7 in-force one web");
        run("forward delete f");
        forwards.says("f deleted - -");
        let refused = mvirt(&daemon, &["lb", "watch", "-n", "nowhere"]);
        assert!(stderr(&refused, 1).contains("does not exist"));
    });
}

#[test]
fn what_belongs_to_a_damaged_network_refuses_what_would_need_it() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        public(&mut daemon, "other", ["10.2.0.0/24", "fd00:2::/64"]);
        daemon.nic("web", "vm1");
        daemon.nic("other", "o1");
        lb(&daemon, &format!("{CREATE} --backend vm1"));
        let add = ["forward", "add", "--listen", "tcp:8080", "--to", "vm1:80", "-n", "f"];
        stdout(&mvirt(&daemon, &add));
        let file = format!("m/networks/{}.json", get(&mut daemon).network_id);
        daemon.terminate();
        std::fs::write(daemon.path(&file), b"{ torn").unwrap();
        daemon.start_again();
        for words in [
            "lb update front --add 10.1.0.5",
            "lb update front --add o1",
            "lb update front --drain vm1",
            "forward update f --to o1:80",
        ] {
            let said = refused(&daemon, &words.split(' ').collect::<Vec<_>>());
            assert!(said.contains("its network is not there"), "{words}: {said}");
        }
        for shown in [["lb", "get", "front"], ["forward", "get", "f"]] {
            assert!(stdout(&mvirt(&daemon, &shown)).contains("not in force"));
        }
        lb(&daemon, "delete front");
        stdout(&mvirt(&daemon, &["forward", "delete", "f"]));
    });
}

#[test]
fn a_hand_over_costs_no_flow_and_a_crash_changes_nothing_in_the_kernel() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        lead(world);
        let _guests = guests(&mut daemon, ["vm1", "vm2"]);
        lb(&daemon, &format!("{CREATE} --backend vm1 --backend vm2"));
        let mut flow = inside(world, || Flow::new(FRONT[0], 80).unwrap());
        // With handles: one that is made anew has another.
        let of_balancers = || {
            let table = run("nft -a -t list table inet mvirt_lb");
            let lines = table.lines().filter(|line| line.contains("lb_")).map(str::to_owned);
            lines.collect::<BTreeSet<_>>()
        };
        let before = of_balancers();
        assert!(before.iter().any(|line| line.contains("map lb_")), "{before:?}");
        assert!(daemon.hand_over(), "{}", daemon.log());
        flow.echoes("handed over");
        assert_eq!(inside(world, || takers(FRONT[0], 40)), set(["vm1", "vm2"]));
        daemon.crash_and_restart();
        let shown = get(&mut daemon);
        assert_eq!((shown.backends.len(), &*shown.error), (2, ""));
        let rules = |lines: &BTreeSet<String>| {
            let kept = lines.iter().filter(|line| !line.contains("goto") && !line.contains("vmap"));
            kept.cloned().collect::<BTreeSet<_>>()
        };
        assert_eq!(rules(&of_balancers()), rules(&before));
        daemon.terminate();
        let mut cleanup = Command::new(env!("CARGO_BIN_EXE_mvirt-net"));
        assert!(cleanup.arg("--cleanup").status().unwrap().success());
        assert_eq!(run("nft list tables").trim(), "");
    });
}

#[test]
fn a_backend_that_fails_is_left_out_until_it_is_well() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        lead(world);
        let [a, b] = guests(&mut daemon, ["vm1", "vm2"]);
        let health = |guest: &Container| guest.enter(|| TcpListener::bind("[::]:8081").unwrap());
        let (well, _other) = (health(&a), health(&b));
        let checks = "--health tcp:8081,interval=1,timeout=1,rise=1,fall=2";
        lb(&daemon, &format!("{CREATE} --backend vm1 --backend vm2 {checks}"));
        assert_eq!(inside(world, || takers(FRONT[0], 40)), set(["vm1", "vm2"]));
        let mut stays = inside(world, || {
            loop {
                let flow = Flow::new(FRONT[0], 80).unwrap();
                if flow.backend == "vm1" {
                    break flow;
                }
            }
        });
        drop(well);
        wait_until("it is found to be ill", || !get(&mut daemon).backends[0].healthy);
        wait_until("it takes no flows", || inside(world, || takers(FRONT[0], 20)) == set(["vm2"]));
        let shown = get(&mut daemon);
        assert!(shown.backends[1].healthy && shown.backends[0].error.contains("refused"));
        assert!(shown.backends[0].checked);
        wait_until("the other is checked, too", || get(&mut daemon).backends[1].checked);
        stays.echoes("what it has goes on");
        let _well = health(&a);
        wait_until("it takes flows again", || {
            inside(world, || takers(FRONT[0], 20)) == set(["vm1", "vm2"])
        });
        let log = daemon.log();
        assert_eq!(log.matches("backend not healthy").count(), 1, "{log}");
        assert_eq!(log.matches("backend healthy").count(), 1, "{log}");
        // Without its vNIC, it is none; with one of its id, it is one again.
        stdout(&mvirt(&daemon, &["nic", "delete", "vm1", "--force"]));
        assert!(get(&mut daemon).backends[0].error.contains("its vNIC is not there"));
        assert_eq!(inside(world, || takers(FRONT[0], 20)), set(["vm2"]));
        daemon.nic_with("web", "vm1", |nic| nic.id = a.nic.id.clone());
        assert_eq!(get(&mut daemon).backends[0].nic_name, "vm1");
    });
}

#[test]
fn an_empty_balancer_refuses_or_is_silent() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        lead(world);
        let [_guest] = guests(&mut daemon, ["vm1"]);
        lb(&daemon, &format!("{CREATE} --port udp:53 --backend vm1,drained --reject-when-empty"));
        let refused = || {
            let tcp = Flow::new(FRONT[0], 80).err().map(|error| error.kind());
            let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
            udp.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            udp.connect((FRONT[0], 53)).unwrap();
            udp.send(b"x").unwrap();
            (tcp, udp.recv(&mut [0; 9]).err().map(|error| error.kind()))
        };
        let both = (Some(ErrorKind::ConnectionRefused), Some(ErrorKind::ConnectionRefused));
        assert_eq!(inside(world, refused), both);
        // The host's own datagram does not even leave.
        let of_host = Flow::new(FRONT[0], 80).err().map(|error| error.kind());
        assert_eq!(of_host, Some(ErrorKind::ConnectionRefused));
        lb(&daemon, "update front --reject-when-empty=false");
        let silence = (Some(ErrorKind::TimedOut), Some(ErrorKind::WouldBlock));
        assert_eq!(inside(world, refused), silence);
        lb(&daemon, "update front --undrain vm1");
        assert_eq!(inside(world, || takers(FRONT[0], 5)), set(["vm1"]));
    });
}

#[test]
fn who_was_sending_before_there_was_a_balancer_reaches_it() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        lead(world);
        let guest = Container::new(&mut daemon, "web", "vm1");
        let service = guest.enter(|| UdpSocket::bind("0.0.0.0:53").unwrap());
        service.set_nonblocking(true).unwrap();
        // One flow, which does not rest.
        let caller = inside(world, || UdpSocket::bind("0.0.0.0:5353").unwrap());
        let call = || caller.send_to(b"?", (FRONT[0], 53)).unwrap();
        // The host remembers flows that it lets pass.
        run(&format!("ip route add 203.0.113.0/24 via {}", super::rig::WORLD[0]));
        call();
        lb(&daemon, &format!("{CREATE} --port udp:53 --backend vm1"));
        wait_until("the guest hears it", || {
            call();
            service.recv(&mut [0; 9]).is_ok()
        });
    });
}

#[test]
fn guests_and_the_host_use_a_balancer_and_a_backend_its_own() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        public(&mut daemon, "app", ["10.2.0.0/24", "fd00:2::/64"]);
        lead(world);
        let [a, b] = guests(&mut daemon, ["vm1", "vm2"]);
        let other = Container::new(&mut daemon, "app", "vm3");
        for (name, front) in ["front", "six"].into_iter().zip(FRONT) {
            let create = format!(
                "create --name {name} --network web --address {front} --port tcp:80:8080 \
                 --backend vm1 --backend vm2"
            );
            lb(&daemon, &create);
            assert_eq!(takers(front, 40), set(["vm1", "vm2"]), "{front} for the host");
            assert_eq!(inside(world, || takers(front, 40)), set(["vm1", "vm2"]));
            for guest in [&a, &b, &other] {
                assert_eq!(guest.enter(|| takers(front, 40)), set(["vm1", "vm2"]), "{front}");
            }
        }
        // What is not balanced passes as little as ever.
        assert!(other.misses(&a.nic.ipv4_address));
        assert!(other.enter(|| Flow::new(FRONT[0], 81)).is_err());
    });
}

#[test]
fn echo_requests_are_a_check_where_they_may_be_sent() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        lead(world);
        let [a, _b] = guests(&mut daemon, ["vm1", "vm2"]);
        let create =
            format!("{CREATE} --backend vm1 --backend vm2 --health icmp,interval=1,fall=1");
        run("sysctl -qw net.ipv4.ping_group_range=1\t0");
        let words: Vec<_> = ["lb"].into_iter().chain(create.split(' ')).collect();
        let said = complaint(&mvirt(&daemon, &words));
        assert!(said.contains("net.ipv4.ping_group_range"), "{said}");
        run("sysctl -qw net.ipv4.ping_group_range=0\t2147483647");
        lb(&daemon, &create);
        a.run("sysctl -qw net.ipv4.icmp_echo_ignore_all=1");
        wait_until("it is found to be away", || !get(&mut daemon).backends[0].healthy);
        assert!(get(&mut daemon).backends[1].healthy);
        a.run("sysctl -qw net.ipv4.icmp_echo_ignore_all=0");
        wait_until("it is found again", || get(&mut daemon).backends[0].healthy);
    });
}

#[test]
fn only_a_public_network_has_a_balancer_in_force() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        lead(world);
        let [_guest] = guests(&mut daemon, ["vm1"]);
        lb(&daemon, &format!("{CREATE} --backend vm1"));
        set_public(&mut daemon, "web", false);
        let shown = get(&mut daemon);
        assert!(shown.error.contains("network web is not public"), "{}", shown.error);
        assert!(inside(world, || Flow::new(FRONT[0], 80)).is_err());
        assert!(!run("nft list tables").contains("mvirt_lb"));
        let refused = mvirt(&daemon, &["network", "delete", "web"]);
        let said = complaint(&refused);
        assert!(said.contains("1 vNIC and 1 load balancer"), "{said}");
        set_public(&mut daemon, "web", true);
        assert_eq!(inside(world, || takers(FRONT[0], 5)), set(["vm1"]));
        stdout(&mvirt(&daemon, &["network", "delete", "web", "--force"]));
        let request = ListLoadBalancersRequest::default();
        let left = daemon.call(async |client| client.list_load_balancers(request).await).unwrap();
        assert_eq!(left.load_balancers, []);
    });
}

fn port(port: u32) -> BalancedPort {
    BalancedPort { protocol: Protocol::Tcp.into(), port, target_port: 0 }
}

fn of_nic(name: &str) -> Backend {
    Backend { nic_id: name.into(), ..Default::default() }
}

#[test]
fn refusals_name_the_field_and_the_value() {
    on_a_host(|_| {
        let mut daemon = start(&[]);
        public(&mut daemon, "web", WEB);
        public(&mut daemon, "app", ["10.2.0.0/24", "fd00:2::/64"]);
        daemon.network("prod");
        daemon.nic("web", "vm1");
        daemon.nic("app", "vm2");
        let good = || CreateLoadBalancerRequest {
            network_id: "web".into(),
            address: FRONT[0].into(),
            ports: vec![port(80)],
            backends: vec![of_nic("vm1")],
            ..Default::default()
        };
        let check = |kind: HealthKind, change: fn(&mut HealthCheck)| {
            let mut check = HealthCheck { kind: kind.into(), ..Default::default() };
            change(&mut check);
            Some(check)
        };
        let mut refused =
            |code: Code, named: &str, change: &dyn Fn(&mut CreateLoadBalancerRequest)| {
                let mut request = good();
                change(&mut request);
                let answer = daemon.call(async |client| client.create_load_balancer(request).await);
                let refused = answer.unwrap_err();
                assert_eq!(refused.code(), code, "{refused}");
                assert!(refused.message().contains(named), "{refused} names {named}");
            };
        let invalid = Code::InvalidArgument;
        refused(Code::FailedPrecondition, "network prod is not public", &|r| {
            (r.network_id, r.backends) = ("prod".into(), vec![])
        });
        refused(Code::NotFound, "nowhere", &|r| r.network_id = "nowhere".into());
        let either = "address: \"front\": expected an IPv4 or IPv6 address";
        refused(invalid, either, &|r| r.address = "front".into());
        refused(invalid, &format!("backends.{either}"), &|r| {
            r.backends = vec![Backend { address: "front".into(), ..Default::default() }]
        });
        refused(invalid, "address: \"127.0.0.1\"", &|r| r.address = "127.0.0.1".into());
        refused(Code::AlreadyExists, "network app", &|r| r.address = "10.2.0.77".into());
        refused(Code::AlreadyExists, "a router", &|r| r.address = super::rig::WORLD[0].into());
        refused(Code::AlreadyExists, "all of", &|r| r.address = "192.0.2.255".into());
        refused(invalid, "ports: \"\": required", &|r| r.ports.clear());
        refused(invalid, "ports.port: \"65536\"", &|r| r.ports = vec![port(65_536)]);
        refused(invalid, "ports: \"tcp:80\": it is given twice", &|r| r.ports = vec![port(80); 2]);
        refused(invalid, "17 ports", &|r| r.ports = (1..=17).map(port).collect());
        refused(invalid, "ports.protocol", &|r| r.ports[0].protocol = 0);
        refused(Code::NotFound, "vm9", &|r| r.backends = vec![of_nic("vm9")]);
        refused(invalid, "expected a vNIC of network web", &|r| r.backends = vec![of_nic("vm2")]);
        refused(invalid, "given twice", &|r| r.backends = vec![of_nic("vm1"); 2]);
        refused(invalid, "neither is given", &|r| r.backends = vec![Backend::default()]);
        refused(invalid, "backends.weight: \"101\"", &|r| r.backends[0].weight = 101);
        for address in ["10.2.0.1", "10.1.0.255", "fd00:1::1", "x"] {
            refused(invalid, &format!("backends.address: \"{address}\""), &|r| {
                r.backends = vec![Backend { address: address.into(), ..Default::default() }]
            });
        }
        refused(invalid, "65 backends", &|r| r.backends = vec![of_nic("vm1"); 65]);
        refused(invalid, "health.path: \"healthz\"", &|r| {
            r.health = check(HealthKind::Http, |check| check.path = "healthz".into())
        });
        refused(invalid, "health.path: \"/x\"", &|r| {
            r.health = check(HealthKind::Tcp, |check| check.path = "/x".into())
        });
        refused(invalid, "health.timeout_s: \"9\"", &|r| {
            r.health = check(HealthKind::Tcp, |check| check.timeout_s = 9)
        });
        refused(invalid, "health.timeout_s: \"61\": expected 1 to 60", &|r| {
            r.health = check(HealthKind::Tcp, |it| (it.interval_s, it.timeout_s) = (900, 61))
        });
        refused(invalid, "health.kind: \"9\"", &|r| {
            r.health = Some(HealthCheck { kind: 9, ..Default::default() })
        });
        refused(invalid, "health.port", &|r| {
            r.ports[0].protocol = Protocol::Udp.into();
            r.health = check(HealthKind::Tcp, |_| {});
        });
        // None of these is there; and what is there is not there twice.
        let created = good();
        let create = async |client: &mut crate::daemon::Client| {
            client
                .create_load_balancer(CreateLoadBalancerRequest { id: ID.into(), ..created })
                .await
        };
        const ID: &str = "22222222-2222-4222-8222-222222222222";
        daemon.call(create).unwrap();
        let mut again = |change: &dyn Fn(&mut CreateLoadBalancerRequest)| {
            let mut request = CreateLoadBalancerRequest { id: ID.into(), ..good() };
            change(&mut request);
            daemon.call(async |client| client.create_load_balancer(request).await)
        };
        assert_eq!(again(&|_| {}).unwrap().id, ID);
        let other = again(&|r| r.reject_when_empty = true).unwrap_err();
        assert_eq!(other.code(), Code::AlreadyExists);
        let same_port = again(&|r| r.id.clear()).unwrap_err();
        assert!(same_port.message().contains("ports: \"tcp:80:80\" is taken by load balancer"));
        again(&|r| (r.id, r.ports) = (String::new(), vec![port(81)])).unwrap();
        // Nor may a network take the address.
        let taken = super::rig::try_public(&mut daemon, "x", ["203.0.113.0/24", "fd00:3::/64"]);
        assert_eq!(taken.unwrap_err().code(), Code::AlreadyExists);
    });
}

#[test]
fn as_many_balancers_as_there_may_be_are_in_force() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        lead(world);
        let [_guest] = guests(&mut daemon, ["vm1"]);
        let request = |number: u32| CreateLoadBalancerRequest {
            network_id: "web".into(),
            address: FRONT[0].into(),
            ports: vec![BalancedPort { target_port: 8080, ..port(number) }],
            backends: vec![of_nic("vm1")],
            ..Default::default()
        };
        for number in 1..=256 {
            daemon.call(async |client| client.create_load_balancer(request(number)).await).unwrap();
        }
        let beyond = daemon.call(async |client| client.create_load_balancer(request(257)).await);
        assert_eq!(beyond.unwrap_err().code(), Code::ResourceExhausted);
        // A host that has started anew knows none of them.
        daemon.terminate();
        run("nft delete table inet mvirt_lb");
        daemon.start_again();
        wait_until("all are there", || {
            let listed = Command::new("nft").args(["-t", "list", "ruleset"]).output().unwrap();
            String::from_utf8_lossy(&listed.stdout).matches("map lb_").count() == 256
        });
    });
}
