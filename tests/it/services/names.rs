//! The gateway answers names of its network's vNICs, and of no other's.

use crate::{
    daemon::{Daemon, cannot_run},
    frames::{Udp4, Udp6},
    guest::Guest,
    namespace::{Namespace, run},
};
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use mvirt_net::proto::{
    DeleteNicRequest, DnsMode, Network, NetworkKind, Transport, UpdateNetworkRequest,
    UpdateNicRequest,
};
use prost_types::FieldMask;
use std::{
    fs::Permissions, os::unix::fs::PermissionsExt as _, path::Path, process::Command, thread,
};
use tonic::Code;

/// Octets of the headers before a message over IPv4, and over IPv6.
const HEADERS4: usize = 14 + 20 + 8;
const HEADERS6: usize = 14 + 40 + 8;

fn named(daemon: &mut Daemon, name: &str) -> Network {
    daemon.network_with(name, |request| request.dns_mode = DnsMode::Names.into())
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn text(message: &Message) -> (ResponseCode, String) {
    let answers: Vec<_> = message.answers.iter().map(|answer| answer.data.to_string()).collect();
    (message.response_code, answers.join(" "))
}

/// Asks the gateway as a resolver does. Returns the code and the data of the answer.
fn ask(guest: &mut Guest, name: &str, kind: RecordType) -> (ResponseCode, String) {
    let (address, asked) = (guest.address().to_owned(), query(name, kind));
    let frame =
        Udp4 { ports: (5353, 53), ..Udp4::new(guest.mac, &address, "169.254.0.1", &asked) }.frame();
    guest.send(&frame);
    let answer = guest.expect("the gateway answers", |frame| {
        frame.len() > HEADERS4 && frame[34..38] == [0, 53, 0x14, 0xe9]
    });
    text(&Message::from_vec(&answer[HEADERS4..]).unwrap())
}

fn found(data: &str) -> (ResponseCode, String) {
    (ResponseCode::NoError, data.into())
}

#[test]
fn guests_find_each_other_by_name_and_nobody_of_another_network() {
    let mut daemon = Daemon::start();
    assert_eq!(named(&mut daemon, "prod").dns_mode(), DnsMode::Names);
    named(&mut daemon, "test");
    let vm1 = daemon.nic("prod", "vm1");
    let mut guest = Guest::connect(&vm1);
    daemon.nic("prod", "vm2");
    daemon.nic("test", "vm3");
    let no_name = (ResponseCode::NXDomain, String::new());
    let elsewhere = (ResponseCode::Refused, String::new());
    assert_eq!(ask(&mut guest, "vm2.prod.internal.", RecordType::A), found("10.0.0.2"));
    assert_eq!(ask(&mut guest, "vm2.internal.", RecordType::AAAA), found("fd00::2"));
    let pointer = ask(&mut guest, "2.0.0.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(pointer, found("vm2.prod.internal."));
    // The other network's addresses are the same.
    let pointer = ask(&mut guest, "1.0.0.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(pointer, found("vm1.prod.internal."));
    for name in ["vm3.internal.", "vm3.test.internal.", "vm3.prod.internal."] {
        assert_eq!(ask(&mut guest, name, RecordType::A), no_name, "{name}");
    }
    assert_eq!(ask(&mut guest, "example.com.", RecordType::A), elsewhere);
    // Over IPv6, too.
    let asked = query("vm2.internal.", RecordType::A);
    let (from, ports) = (&vm1.ipv6_address, (5353, 53));
    let frame = Udp6 { ports, ..Udp6::new(guest.mac, from, "fe80::1", &asked) }.frame();
    guest.send(&frame);
    let answer = guest.expect("the gateway answers", |frame| {
        frame.len() > HEADERS6 && frame[54..58] == [0, 53, 0x14, 0xe9]
    });
    assert_eq!(text(&Message::from_vec(&answer[HEADERS6..]).unwrap()), found("10.0.0.2"));
    // Names follow what they are of.
    let name = "db".into();
    let update_mask = Some(FieldMask { paths: vec!["name".into()] });
    let request = UpdateNicRequest { id: "vm2".into(), name, update_mask, ..Default::default() };
    daemon.call(async |client| client.update_nic(request).await).unwrap();
    assert_eq!(ask(&mut guest, "db.internal.", RecordType::A), found("10.0.0.2"));
    assert_eq!(ask(&mut guest, "vm2.internal.", RecordType::A), no_name);
    let request = DeleteNicRequest { id: "db".into(), ..Default::default() };
    daemon.call(async |client| client.delete_nic(request).await).unwrap();
    assert_eq!(ask(&mut guest, "db.internal.", RecordType::A), no_name);
}

#[test]
fn who_serves_no_names_says_so_and_who_asks_too_much_is_not_answered() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let vm1 = daemon.nic("prod", "vm1");
    let mut guest = Guest::connect(&vm1);
    let asked = query("vm1.internal.", RecordType::A);
    let ports = (5353, 53);
    let frame = Udp4 { ports, ..Udp4::new(guest.mac, "10.0.0.1", "169.254.0.1", &asked) }.frame();
    let error = guest.provoke(&frame);
    assert_eq!((error.kind, error.code), (3, 3), "port unreachable");
    assert_eq!(daemon.drops("vm1", "not_served"), 1);
    let request = |mode: DnsMode| UpdateNetworkRequest {
        id: "prod".into(),
        dns_mode: mode.into(),
        domain: "corp.example".into(),
        update_mask: Some(FieldMask { paths: vec!["dns_mode".into(), "domain".into()] }),
        ..Default::default()
    };
    let names = request(DnsMode::Names);
    daemon.call(async |client| client.update_network(names).await).unwrap();
    assert_eq!(ask(&mut guest, "vm1.corp.example.", RecordType::A), found("10.0.0.1"));
    // What it is stays what it is in the next process.
    daemon.crash_and_restart();
    let mut guest = Guest::connect(&vm1);
    assert_eq!(ask(&mut guest, "vm1.corp.example.", RecordType::A), found("10.0.0.1"));
    (0..3000).for_each(|_| guest.send(&frame));
    guest.drain();
    assert!(daemon.drops("vm1", "reply_limit") > 0);
    let tell = request(DnsMode::Unspecified);
    let changed = daemon.call(async |client| client.update_network(tell).await).unwrap();
    assert_eq!(changed.dns_mode(), DnsMode::Tell);
}

#[test]
fn a_switch_without_a_gateway_answers_no_names() {
    let mut daemon = Daemon::start();
    let refused = daemon.block_on(async |client| {
        let request = mvirt_net::proto::CreateNetworkRequest {
            name: "lab".into(),
            kind: NetworkKind::Switched.into(),
            dns_mode: DnsMode::Names.into(),
            ..Default::default()
        };
        client.create_network(request).await.unwrap_err()
    });
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("dns_mode: \"DNS_MODE_NAMES\""), "{refused:?}");
}

/// What udhcpc has done with a lease.
const LEASE: &str = "#!/bin/sh
[ $1 = bound ] || exit 0
ip address add $ip/$mask dev $interface
ip route replace 169.254.0.1 dev $interface
ip route replace default via 169.254.0.1
echo dns=$dns
echo domain=$domain
";

/// Runs dig with these arguments. Returns what it says.
fn dig(arguments: &str) -> String {
    run(&format!("dig +time=5 +tries=2 {arguments}"))
}

/// A client of others has its server's addresses by DHCP, and asks of that in each way it knows.
fn clients_are_answered(namespace: &Namespace) {
    namespace.enter();
    let mut daemon = Daemon::start();
    named(&mut daemon, "prod");
    daemon.network_with("lab", |request| {
        request.kind = NetworkKind::Switched.into();
        request.dns_mode = DnsMode::Names.into();
        request.domain = "lab.example".into();
    });
    for (network, name, gateway) in [("prod", "c1", "169.254.0.1"), ("lab", "c2", "10.0.0.1")] {
        let nic = daemon.nic_with(network, name, |nic| {
            nic.transport = Transport::Tap.into();
            nic.tap_interface = name.into();
        });
        let container = Namespace::new();
        run(&format!("ip link set {name} address {}", nic.mac_address));
        run(&format!("ip link set {name} netns {}", container.0.id()));
        let inside = || {
            container.enter();
            // No wait for who else might have its address.
            let detects = format!("/proc/sys/net/ipv6/conf/{name}/accept_dad");
            std::fs::write(detects, "0").unwrap();
            run(&format!("ip link set {name} up"));
            let script = daemon.path("lease");
            std::fs::write(&script, LEASE).unwrap();
            std::fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
            let mut client = Command::new("busybox");
            let client = client.args(["udhcpc", "-i", name, "-n", "-q", "-f", "-s"]).arg(script);
            let told = client.output().unwrap();
            let told = String::from_utf8_lossy(&told.stdout).into_owned();
            assert!(told.contains(&format!("dns={gateway}\n")), "{told}");
            let domain = if network == "prod" { "internal" } else { "lab.example" };
            assert!(told.contains(&format!("domain={domain}\n")), "{told}");
            let full = format!("{name}.{network}.{domain}");
            let servers = [gateway.to_owned(), "169.254.0.1".into(), format!("fe80::1%{name}")];
            for server in servers {
                let short = dig(&format!("+short @{server} {full} A"));
                assert_eq!(short.trim(), nic.ipv4_address, "{server}");
            }
            let at = format!("@{gateway}");
            let pointer = dig(&format!("+short {at} -x {}", nic.ipv4_address));
            assert_eq!(pointer.trim(), format!("{full}."));
            let pointer = dig(&format!("+short {at} -x {}", nic.ipv6_address));
            assert_eq!(pointer.trim(), format!("{full}."));
            let all = dig(&format!("{at} +bufsize=4096 +dnssec NoSuch.{domain} AAAA"));
            let what = ["status: NXDOMAIN", "flags: qr aa rd", "udp: 1232", "SOA", "NoSuch."];
            what.iter().for_each(|part| assert!(all.contains(part), "{part}: {all}"));
            assert!(!all.contains("malformed") && !all.contains("Warning"), "{all}");
            let future = dig(&format!("{at} +edns=1 {full} A"));
            assert!(future.contains("BADVERS") || future.contains(&nic.ipv4_address), "{future}");
            assert!(dig(&format!("{at} {full} ANY +notcp")).contains("status: REFUSED"));
            assert!(dig(&format!("{at} example.com")).contains("status: REFUSED"));
            assert!(dig(&format!("{at} +opcode=2 {full}")).contains("status: NOTIMP"));
            assert!(dig(&format!("{at} CH TXT version.bind")).contains("status: REFUSED"));
        };
        thread::scope(|scope| scope.spawn(inside).join().unwrap());
    }
}

#[test]
fn clients_in_namespaces_ask_names_of_their_gateway() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
        return cannot_run("only root can make a TAP device, where there is /dev/net/tun");
    }
    let namespace = Namespace::new();
    thread::scope(|scope| scope.spawn(|| clients_are_answered(&namespace)).join().unwrap());
}
