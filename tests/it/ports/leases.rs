//! Hosts behind ports lease addresses of the gateway (`dhcp_pool`).

use super::{create, get};
use crate::{
    daemon::{Daemon, wait_until},
    events::wait_for_event,
    inside::inside,
    namespace::run,
    streams::{Client, free_ports},
};
use dhcproto::{
    Decodable as _, Encodable as _,
    v4::{DhcpOption, Message, MessageType},
};
use mvirt_net::{
    proto::{
        CreateNetworkRequest, CreatePortRequest, GetNetworkRequest, L2Policy, ListMacsRequest, Mac,
        NetworkKind, PortState, get_network_request::Identifier,
    },
    wire::{Writer, udp},
};
use std::{net::Ipv4Addr, path::Path, process::Command, time::Duration};

const EVERYBODY: [u8; 6] = [0xff; 6];

/// The MAC of a host.
fn mac(number: u8) -> [u8; 6] {
    [2, 7, 0, 0, 0, number]
}

/// Makes the segment "lab", 10.0.0.0/24 and fd00::/64, of which hosts lease `pool`.
fn lab(daemon: &mut Daemon, pool: &str) {
    daemon.network_with("lab", |request: &mut CreateNetworkRequest| {
        request.kind = NetworkKind::Switched.into();
        request.l2 = Some(L2Policy { dhcp_pool: pool.into(), ..Default::default() });
    });
}

/// A message of a DHCP client at `mac`.
fn message(mac: [u8; 6], kind: MessageType, wanted: Option<Ipv4Addr>) -> Vec<u8> {
    let zero = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(7, zero, zero, zero, zero, &mac);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    message.opts_mut().insert(DhcpOption::Hostname(format!("host-{}", mac[5])));
    if let Some(wanted) = wanted {
        message.opts_mut().insert(DhcpOption::RequestedIpAddress(wanted));
    }
    let (payload, mut buffer) = (message.to_vec().unwrap(), [0; 1500]);
    let mut writer = Writer::new(&mut buffer);
    udp::write_ipv4(&mut writer, (zero, 68), (Ipv4Addr::BROADCAST, 67), &payload).unwrap();
    [&EVERYBODY[..], &mac, &[0x08, 0x00], writer.since(0)].concat()
}

/// Says something, again each second as clients do, until an answer comes.
fn ask(client: &mut Client, mac: [u8; 6], kind: MessageType, wanted: Option<Ipv4Addr>) -> Message {
    for _ in 0..30 {
        client.send(&message(mac, kind, wanted));
        client.stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        while let Some(frame) = client.receive() {
            if frame[..6] == mac && frame[12..14] == [8, 0] && frame[34..36] == [0, 67] {
                return Message::from_bytes(&frame[42..]).unwrap();
            }
            client.stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        }
    }
    panic!("nobody answers");
}

/// The address that a host leases, from the first word to the last.
fn lease(client: &mut Client, mac: [u8; 6]) -> Ipv4Addr {
    let offer = ask(client, mac, MessageType::Discover, None);
    assert_eq!(offer.opts().msg_type(), Some(MessageType::Offer));
    let ack = ask(client, mac, MessageType::Request, Some(offer.yiaddr()));
    assert_eq!((ack.opts().msg_type(), ack.yiaddr()), (Some(MessageType::Ack), offer.yiaddr()));
    ack.yiaddr()
}

fn macs(daemon: &mut Daemon) -> Vec<Mac> {
    let request = ListMacsRequest { network_id: "lab".into() };
    daemon.call(async |client| client.list_macs(request).await).unwrap().macs
}

/// What busybox's client is told behind a TAP device, which gets the address.
fn udhcpc(directory: &Path) -> String {
    let (script, told) = (directory.join("script"), directory.join("told"));
    let text = format!(
        "#!/bin/sh\n[ $1 = bound ] || exit 0\nip address flush dev $interface\n\
         ip address add $ip/24 dev $interface\necho $ip $subnet $router $lease > {}\n",
        told.display()
    );
    std::fs::write(&script, text).unwrap();
    run(&format!("chmod +x {}", script.display()));
    // After a crash it comes anew.
    wait_until("the device is there", || {
        let shown = Command::new("ip").args(["link", "show", "tap0"]).output().unwrap();
        shown.status.success()
    });
    run("ip link set tap0 address 02:00:00:00:00:50 up");
    let script = script.display();
    run(&format!("busybox udhcpc -i tap0 -f -n -q -t 20 -T 1 -s {script}"));
    std::fs::read_to_string(told).unwrap().trim().into()
}

#[test]
fn hosts_behind_ports_lease_addresses_and_keep_them() {
    inside(|| {
        run("ip link set lo up");
        let mut daemon = Daemon::start();
        lab(&mut daemon, "auto");
        let [port] = free_ports();
        create(&mut daemon, "qemu", &format!("stream-listen://127.0.0.1:{port}"));
        create(&mut daemon, "tap0", "tap://tap0");
        let vnic = daemon.nic("lab", "vm1");
        assert_eq!(vnic.ipv4_address, "10.0.0.2", "vNICs have the lower half");
        let address = |last: u8| Ipv4Addr::new(10, 0, 0, last);
        let hosts = || -> Vec<_> {
            (1..=10).map(|number| (Client::new(port, number), mac(number))).collect()
        };
        let mut ten = hosts();
        for (last, (client, mac)) in (128..).zip(&mut ten) {
            assert_eq!(lease(client, *mac), address(last));
        }
        let told = "10.0.0.138 255.255.255.0 10.0.0.1 3600";
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(udhcpc(directory.path()), told);
        // The host is asked for, and the daemon answers: this one never would.
        run("busybox arping -c 1 -w 10 -I tap0 10.0.0.130");
        let known = macs(&mut daemon);
        let first = known.iter().find(|it| it.mac == "02:07:00:00:00:01").unwrap();
        assert_eq!((&*first.port, &*first.ipv4_address), ("qemu", "10.0.0.128"));
        assert_eq!(first.hostname, "host-1");
        assert!((3000..=3600).contains(&first.lease_seconds), "{first:?}");
        let tap = known.iter().find(|it| it.mac == "02:00:00:00:00:50").unwrap();
        assert_eq!((&*tap.port, &*tap.ipv4_address), ("tap0", "10.0.0.138"));
        let own = known.iter().find(|it| it.nic == "vm1").unwrap();
        assert_eq!((&*own.ipv4_address, own.lease_seconds), ("10.0.0.2", 0));
        assert!(daemon.hand_over(), "{}", daemon.log());
        // Backwards: the order of asking is of no matter any more.
        for (last, (client, mac)) in (128..138).zip(&mut ten).rev() {
            assert_eq!(lease(client, *mac), address(last), "after a hand-over");
        }
        daemon.crash_and_restart();
        assert_eq!(udhcpc(directory.path()), told, "after a crash");
        let mut ten = hosts();
        for (last, (client, mac)) in (128..138).zip(&mut ten).rev() {
            assert_eq!(lease(client, *mac), address(last), "after a crash");
        }
        let mut stranger = Client::new(port, 77);
        assert_eq!(lease(&mut stranger, mac(77)), address(139));
    });
}

#[test]
fn who_makes_macs_up_takes_no_more_than_its_port_may() {
    let mut daemon = Daemon::start();
    lab(&mut daemon, "10.0.0.100-10.0.0.120");
    let ports: [u16; 2] = free_ports();
    for (name, port) in ["rude", "good"].into_iter().zip(ports) {
        let request = CreatePortRequest {
            network_id: "lab".into(),
            name: name.into(),
            locator: format!("stream-listen://127.0.0.1:{port}"),
            mac_limit: 5,
            ..Default::default()
        };
        daemon.call(async |client| client.create_port(request).await).unwrap();
    }
    let [mut rude, mut good] = [0, 1].map(|at| Client::new(ports[at], 1));
    // What it is told is of no interest to it.
    let mut reads = rude.stream.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        // It ends by the connection's.
        std::io::copy(&mut reads, &mut std::io::sink()).ok();
    });
    for number in 0..10_000_u16 {
        let [high, low] = number.to_be_bytes();
        rude.send(&message([2, 9, 9, 9, high, low], MessageType::Discover, None));
    }
    // It goes on meanwhile, with messages that are none.
    for len in 34..300 {
        let mut broken = message([2, 9, 9, 9, 0, 0], MessageType::Decline, None);
        broken.truncate(len);
        rude.send(&broken);
    }
    let mine = lease(&mut good, mac(1));
    assert!((100..=105).contains(&mine.octets()[3]), "{mine}");
    let leased = macs(&mut daemon).iter().filter(|it| it.lease_seconds > 0).count();
    assert!((1..=6).contains(&leased), "five, and the one of the other port");
    rude.stream.shutdown(std::net::Shutdown::Both).unwrap();
    reader.join().unwrap();
}

#[test]
fn an_empty_pool_is_told_and_what_is_leased_is_no_vnics() {
    let mut daemon = Daemon::start();
    lab(&mut daemon, "10.0.0.2-10.0.0.3");
    let [port] = free_ports();
    create(&mut daemon, "qemu", &format!("stream-listen://127.0.0.1:{port}"));
    wait_until("it listens", || get(&mut daemon, "qemu").state() == PortState::Listening);
    assert_eq!(daemon.nic("lab", "vm1").ipv4_address, "10.0.0.4");
    let refused = daemon.try_nic_with("lab", "vm2", |nic| nic.ipv4_address = "10.0.0.3".into());
    let refused = refused.unwrap_err();
    assert!(refused.message().contains("dhcp_pool"), "{refused}");
    let mut clients = [1, 2, 3].map(|number| Client::new(port, number));
    assert_eq!(lease(&mut clients[0], mac(1)), Ipv4Addr::new(10, 0, 0, 2));
    assert_eq!(lease(&mut clients[1], mac(2)), Ipv4Addr::new(10, 0, 0, 3));
    let lab = |daemon: &mut Daemon| {
        let request = GetNetworkRequest { identifier: Some(Identifier::Name("lab".into())) };
        daemon.call(async |client| client.get_network(request).await).unwrap()
    };
    assert_eq!(lab(&mut daemon).dhcp_pool_empty_at, "");
    clients[2].send(&message(mac(3), MessageType::Discover, None));
    wait_until("it is told", || !lab(&mut daemon).dhcp_pool_empty_at.is_empty());
    let network = lab(&mut daemon);
    assert_eq!(network.l2_in_force.unwrap().dhcp_pool, "10.0.0.2-10.0.0.3");
    daemon.says("dhcp_pool_empty");
    let told = wait_for_event(&mut daemon, "limit_reached", |_| true);
    assert_eq!(told.object_ids, [network.id]);
    // Who has one gives it up, and the other one has it at once.
    let mut release = message(mac(1), MessageType::Release, None);
    // `ciaddr` (RFC 2131 §2); the checksum of UDP may be 0.
    release[42 + 12..42 + 16].copy_from_slice(&[10, 0, 0, 2]);
    release[40..42].fill(0);
    clients[0].send(&release);
    assert_eq!(lease(&mut clients[2], mac(3)), Ipv4Addr::new(10, 0, 0, 2));
    let shown = Command::new(env!("CARGO_BIN_EXE_mvirt"))
        .args(["--net-server", &daemon.address(), "mac", "list", "lab"])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let line = shown.lines().find(|line| line.starts_with("02:07:00:00:00:03")).unwrap();
    assert!(line.contains("10.0.0.2"), "{shown}");
}
