//! Guests ask of their vNICs by HTTP, as in clouds: each hears of its own, and of no other.

use super::{apart, container, no_containers, settle, tell};
use crate::{
    command::{mvirt, stdout},
    daemon::{Daemon, cannot_run, wait_until},
    namespace::{Namespace, run},
};
use mvirt_net::proto::{NetworkKind, Nic, Toggle};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

const SERVICE: &str = "http://169.254.169.254";

/// What curl gets for these arguments: the status, and the body.
fn curl(arguments: &[&str]) -> (u16, String) {
    let mut curl = Command::new("curl");
    let curl = curl.args(["-sg", "--max-time", "10", "-w", "\n%{http_code}"]).args(arguments);
    let output = curl.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.into())
}

fn get(path: &str) -> (u16, String) {
    curl(&[&format!("{SERVICE}{path}")])
}

fn found(text: &str) -> (u16, String) {
    (200, text.into())
}

/// Sends what is no request that curl makes. Returns all that comes until the service ends it.
fn send(octets: &[u8]) -> String {
    let mut stream = connect();
    // The service may have ended it before it has heard all.
    stream.write_all(octets).ok();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).ok();
    String::from_utf8_lossy(&heard).into_owned()
}

fn connect() -> TcpStream {
    let service: SocketAddr = "169.254.169.254:80".parse().unwrap();
    let stream = TcpStream::connect_timeout(&service, Duration::from_secs(10)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// A daemon in a namespace, whose networks prod and lab tell of vNICs, and two containers in each.
fn rig(namespace: &Namespace) -> (Daemon, [(Nic, Namespace); 3]) {
    namespace.enter();
    let mut daemon = Daemon::start();
    for (name, kind) in [("prod", NetworkKind::Routed), ("lab", NetworkKind::Switched)] {
        daemon.network_with(name, |request| {
            request.kind = kind.into();
            request.metadata = Toggle::On.into();
        });
    }
    let nics = [("prod", "c1"), ("prod", "c2"), ("lab", "c3")];
    let containers = nics.map(|(network, name)| {
        let made = container(&mut daemon, network, name);
        let told = tell(&mut daemon, name, |it| {
            it.user_data = format!("data of {name}").into();
            it.public_keys = vec![format!("ssh-ed25519 AAAA {name}@host")];
        });
        assert_eq!(told.metadata.unwrap().user_data_octets, 10);
        made
    });
    (daemon, containers)
}

fn each_guest_hears_of_itself(namespace: &Namespace) {
    let (mut daemon, containers) = rig(namespace);
    let ask_all = || {
        for (nic, container) in &containers {
            apart(|| {
                container.enter();
                let own = found(&format!("data of {}", nic.name));
                let path = "/latest/user-data";
                for host in ["169.254.169.254", "[fd00:ec2::254]"] {
                    assert_eq!(curl(&[&format!("http://{host}{path}")]), own, "{host}");
                }
                let link = format!("http://[fe80::a9fe:a9fe%25{}]{path}", nic.name);
                assert_eq!(curl(&[&link]), own);
                let address = get("/latest/meta-data/local-ipv4");
                assert_eq!(address, found(&nic.ipv4_address));
                let mac = get("/2009-04-04/meta-data/mac");
                assert_eq!(mac, found(&nic.mac_address));
                let data = get("/openstack/latest/meta_data.json").1;
                assert!(data.contains(&nic.id), "{data}");
                // Several requests of one connection.
                let both = [&*format!("{SERVICE}{path}"), &*format!("{SERVICE}/nocloud/user-data")];
                assert_eq!(curl(&both).1.matches(&own.1).count(), 2);
            });
        }
    };
    for (nic, container) in &containers {
        apart(|| settle(nic, container));
    }
    ask_all();
    // The answers of another process are the same.
    assert!(daemon.hand_over(), "{}", daemon.log());
    ask_all();
    daemon.crash_and_restart();
    let [(nic, container), ..] = &containers;
    apart(|| {
        // The device has gone with its daemon, and is there again outside.
        let (name, pid) = (&nic.name, container.0.id());
        let ip = |words: &str| Command::new("ip").args(words.split(' ')).output().unwrap().status;
        let address = format!("link set {name} address {}", nic.mac_address);
        wait_until("it is there again", || ip(&address).success());
        wait_until("the old one is gone", || ip(&format!("link set {name} netns {pid}")).success());
        settle(nic, container);
        assert_eq!(get("/latest/user-data"), found("data of c1"));
        assert_eq!(get("/latest/nothing").0, 404);
        let (code, _) = curl(&["-I", &format!("{SERVICE}/latest/user-data")]);
        assert_eq!(code, 200, "HEAD");
    });
    // What changes is told at once, and what is off is not there.
    tell(&mut daemon, "c1", |it| it.user_data = b"other".into());
    apart(|| {
        container.enter();
        assert_eq!(get("/latest/user-data"), found("other"));
    });
    let off = mvirt(&daemon, &["network", "update", "prod", "--metadata", "off"]);
    assert!(off.status.success(), "{}", stdout(&off));
    apart(|| {
        container.enter();
        let refused = curl(&["--max-time", "3", &format!("{SERVICE}/latest/user-data")]);
        assert_eq!(refused.0, 0, "nobody is there");
    });
}

fn tokens_are_of_one_vnic(namespace: &Namespace) {
    let (mut daemon, [(nic, container), (other, elsewhere), _]) = rig(namespace);
    apart(|| settle(&other, &elsewhere));
    let api = format!("{SERVICE}/latest/api/token");
    let seconds = |seconds: &str| format!("X-aws-ec2-metadata-token-ttl-seconds: {seconds}");
    let put = |header: &str| curl(&["-X", "PUT", "-H", header, &api]);
    let with = |token: &str| {
        let header = format!("X-aws-ec2-metadata-token: {token}");
        curl(&["-H", &header, &format!("{SERVICE}/latest/user-data")])
    };
    let token = apart(|| {
        settle(&nic, &container);
        let (code, token) = put(&seconds("60"));
        assert_eq!((code, token.len()), (200, 64));
        assert_eq!(with(&token), found("data of c1"));
        assert_eq!(with("a").0, 401, "it is none");
        for bad in ["0", "21601", "x", ""] {
            assert_eq!(put(&seconds(bad)).0, 400, "{bad}");
        }
        let forwarded = ["-X", "PUT", "-H", &seconds("60"), "-H", "X-Forwarded-For: 1.1.1.1"];
        assert_eq!(curl(&[&forwarded[..], &[&api]].concat()).0, 403);
        assert_eq!(curl(&["-X", "PUT", &api]).0, 400);
        assert_eq!(curl(&["-X", "DELETE", &api]).0, 405);
        token
    });
    apart(|| {
        elsewhere.enter();
        assert_eq!(with(&token).0, 401, "it is another's");
        assert_eq!(get("/latest/user-data"), found("data of c2"));
    });
    tell(&mut daemon, "c1", |it| {
        it.user_data = b"secret".into();
        it.token_required = true;
    });
    apart(|| {
        container.enter();
        assert_eq!(get("/latest/user-data").0, 401);
        assert_eq!(get("/nocloud/user-data").0, 401);
        assert_eq!(with(&token), found("secret"));
        // What has been routed on its way was not asked by the guest itself.
        run("sysctl -qw net.ipv4.ip_default_ttl=63");
        assert_eq!(with(&token).0, 403);
        assert_eq!(put(&seconds("60")).0, 403);
        run("sysctl -qw net.ipv4.ip_default_ttl=64");
        let hops = stdout(&Command::new("python3").args(["-c", HOPS]).output().unwrap());
        assert_eq!(hops.trim(), "64 1", "a token goes no further than its guest");
    });
}

/// Says with how many hops left the first segment of the service came, and the last one, where a
/// token was asked for.
const HOPS: &str = r#"
import socket
raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x800))
tcp = socket.create_connection(("169.254.169.254", 80))
tcp.sendall(b"PUT /latest/api/token HTTP/1.1\r\nHost: a\r\n"
            b"X-aws-ec2-metadata-token-ttl-seconds: 60\r\nConnection: close\r\n\r\n")
while tcp.recv(4096): pass
raw.settimeout(1)
hops = []
try:
    while True:
        packet, where = raw.recvfrom(2048)
        if packet[12:16] == bytes([169, 254, 169, 254]) and where[2] == 0: hops.append(packet[8])
except TimeoutError: pass
print(hops[0], hops[-1])
"#;

fn what_is_no_short_request_is_refused(namespace: &Namespace) {
    let (mut daemon, [(nic, container), ..]) = rig(namespace);
    let (told, heard) = apart(|| {
        settle(&nic, &container);
        let get = "GET /latest/user-data HTTP/1.1\r\nHost: a\r\n";
        let refused = |head: &str, status: &str| {
            let heard = send(head.as_bytes());
            assert!(heard.starts_with(&format!("HTTP/1.1 {status} ")), "{head:.80}: {heard}");
            assert_eq!(heard.matches("HTTP/1.1").count(), 1, "nothing behind it is heard");
        };
        refused(&format!("{get}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{get}\r\n"), "400");
        refused(&format!("{get}Content-Length: 5\r\n\r\nhello{get}\r\n"), "413");
        refused(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(5000)), "414");
        let long = format!("{get}X: {}\r\n\r\n", "x".repeat(1 << 20));
        let heard = send(long.as_bytes());
        assert!(heard.is_empty() || heard.starts_with("HTTP/1.1 431 "), "{heard}");
        let junk = send(b"\x16\x03\x01\x02\0\x01\0\r\n\r\n");
        assert!(junk.is_empty() || junk.starts_with("HTTP/1.1 400 "), "{junk}");
        // Requests that do not wait for answers are answered in order.
        let heard = send(format!("{get}\r\n{get}\r\n{get}Connection: close\r\n\r\n").as_bytes());
        assert_eq!(heard.matches("data of c1").count(), 3, "{heard}");
        // Many at once: some must wait their turn.
        let many = format!("{get}\r\n").repeat(150) + get + "Connection: close\r\n\r\n";
        let heard = send(many.as_bytes());
        assert!(heard.matches("HTTP/1.1 200 ").count() >= 80, "{heard}");
        assert!(heard.contains("HTTP/1.1 503 "), "{heard}");
        // Who says nothing more is not waited for, and keeps nobody else from asking.
        let began = Instant::now();
        let mut idle: Vec<_> = (0..8).map(|_| connect()).collect();
        idle.iter_mut().for_each(|stream| stream.write_all(get.as_bytes()).unwrap());
        let mut reader = connect();
        reader.write_all(format!("{get}Connection: close\r\n\r\n").as_bytes()).unwrap();
        let mut told = String::new();
        reader.read_to_string(&mut told).unwrap();
        for stream in &mut idle {
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).ok();
        }
        assert!(began.elapsed() >= Duration::from_secs(9), "{:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        (told, curl(&[&format!("{SERVICE}/latest/user-data")]))
    });
    // It may have had to wait, as the one before has asked for much.
    assert!(told.contains("HTTP/1.1 200") || told.contains("HTTP/1.1 503"), "{told}");
    assert_eq!(heard, found("data of c1"));
    // Nobody is there at other ports, which is said.
    apart(|| {
        container.enter();
        let other: SocketAddr = "169.254.169.254:8080".parse().unwrap();
        assert!(TcpStream::connect_timeout(&other, Duration::from_secs(5)).is_err());
    });
    assert!(daemon.drops("c1", "not_served") > 0);
    // Nobody may be who the service is.
    apart(|| {
        container.enter();
        run("ip address add 169.254.169.254/32 dev lo");
        let ping = ["-c", "1", "-W", "1", "-I", "169.254.169.254", "169.254.0.1"];
        Command::new("busybox").arg("ping").args(ping).output().unwrap();
    });
    assert!(daemon.drops("c1", "spoofed_source_ipv4") > 0);
}

#[test]
fn each_guest_hears_of_its_own_vnic_and_of_no_other() {
    if let Some(why) = no_containers() {
        return cannot_run(why);
    }
    let namespace = Namespace::new();
    apart(|| each_guest_hears_of_itself(&namespace));
}

#[test]
fn a_token_is_of_one_vnic_and_stays_there() {
    if let Some(why) = no_containers() {
        return cannot_run(why);
    }
    let namespace = Namespace::new();
    apart(|| tokens_are_of_one_vnic(&namespace));
}

#[test]
fn slow_long_and_smuggled_requests_are_refused() {
    if let Some(why) = no_containers() {
        return cannot_run(why);
    }
    let namespace = Namespace::new();
    apart(|| what_is_no_short_request_is_refused(&namespace));
}

#[test]
fn what_is_told_is_set_by_the_command_line_and_shown_without_it() {
    let mut daemon = Daemon::start();
    daemon.network_with("prod", |request| request.metadata = Toggle::On.into());
    daemon.nic("prod", "vm1");
    let file = daemon.path("data");
    std::fs::write(&file, "#cloud-config\n").unwrap();
    let keys = daemon.path("keys");
    std::fs::write(&keys, "# mine\nssh-ed25519 AAAA me\n\nssh-rsa BBBB\n").unwrap();
    let (file, keys) = (file.to_str().unwrap(), keys.to_str().unwrap());
    let set = ["nic", "metadata", "vm1", "--user-data", file, "--ssh-key", keys];
    let shown = stdout(&mvirt(&daemon, &[&set[..], &["--extra", "role=db"]].concat()));
    for row in ["user data  14 octets", "ssh keys   2", "extra      1", "served     yes"] {
        assert!(shown.contains(row), "{row}: {shown}");
    }
    let args = stdout(&mvirt(&daemon, &["nic", "vmm-args", "vm1", "--vmm", "qemu"]));
    let serial = "'type=1,serial=ds=nocloud-net;s=http://169.254.169.254/nocloud/'";
    assert!(args.contains(&format!("-smbios {serial}")), "{args}");
    let args = stdout(&mvirt(&daemon, &["nic", "vmm-args", "vm1", "--vmm", "uml"]));
    assert!(args.contains("'ds=nocloud-net;s=http://169.254.169.254/nocloud/'"), "{args}");
    let token = |required: &str| {
        stdout(&mvirt(&daemon, &["nic", "metadata", "vm1", "--token-required", required]));
        stdout(&mvirt(&daemon, &["nic", "vmm-args", "vm1", "--vmm", "uml"]))
    };
    assert!(!token("true").contains("nocloud"), "it has no tokens");
    assert!(token("false").contains("nocloud"));
    daemon.crash_and_restart();
    let shown = stdout(&mvirt(&daemon, &["nic", "metadata", "vm1"]));
    assert!(shown.contains("user data  14 octets"), "{shown}");
    let cleared = stdout(&mvirt(&daemon, &["nic", "metadata", "vm1", "--clear"]));
    assert!(!cleared.contains("octets"), "{cleared}");
    let large = daemon.path("large");
    std::fs::write(&large, vec![b'x'; 65_537]).unwrap();
    let refused =
        mvirt(&daemon, &["nic", "metadata", "vm1", "--user-data", large.to_str().unwrap()]);
    assert!(!refused.status.success());
}
