//! Clouds and tunnels: the daemon in one network namespace, `vde_plug` and Linux's own VXLAN
//! devices in others.

use super::{
    stock::{ALL, Plug, frame, mac},
    switches::{lab_with, serve, wait_for_clients},
};
use crate::{
    daemon::{Daemon, cannot_run, wait_until},
    lab::{create, get},
    lan::Lan,
    namespace::Namespace,
};
use mvirt_net::proto::{DeletePortRequest, PortState};
use std::net::UdpSocket;

/// A plug of the daemon's own network, and the daemon in `host`.
fn station(host: &Namespace, locator: &str) -> (Daemon, Plug) {
    host.enter();
    let mut daemon = lab_with(&["--port-listen", "0.0.0.0/0"]);
    let directory = serve(&mut daemon, "switch", "");
    let plug = Plug::stock(&directory.display().to_string());
    wait_for_clients(&mut daemon, 1);
    create(&mut daemon, "tunnel", locator).unwrap();
    wait_until("the tunnel is up", || get(&mut daemon, "tunnel").state() == PortState::Up);
    (daemon, plug)
}

fn stock(host: &Namespace, locator: &str) -> Plug {
    Plug::of(host.command("vde_plug").arg(locator))
}

/// Sends again and again until `to` hears.
fn until_heard(what: &str, from: &mut Plug, frame: &[u8], to: &Plug) {
    wait_until(what, || {
        from.sends(frame);
        to.hears_within(50).as_deref() == Some(frame)
    });
}

/// What `to` has heard by the time that it hears a marker of `from`'s.
fn heard_until(from: &mut Plug, marker: u8, to: &Plug) -> Vec<Vec<u8>> {
    let marker = frame(ALL, marker, 99);
    from.sends(&marker);
    std::iter::from_fn(|| Some(to.hears()).filter(|heard| *heard != marker)).collect()
}

/// Waits for one frame; what comes before it is of no interest.
fn wait_for(to: &Plug, frame: &[u8]) {
    while to.hears() != frame {}
}

// seed H.5.16
#[test]
fn a_cloud_of_vde_plugs_and_the_daemon_is_a_full_mesh() {
    if !rustix::process::geteuid().is_root() {
        return cannot_run("only root can make network namespaces");
    }
    let lan = Lan::<3>::new();
    let cloud = "vxvde://239.0.0.1/if=eth0";
    let (mut daemon, mut a) = station(&lan.hosts[0], cloud);
    let (mut b, mut c) = (stock(&lan.hosts[1], cloud), stock(&lan.hosts[2], cloud));
    until_heard("b hears a", &mut a, &frame(ALL, 1, 60), &b);
    until_heard("c hears a", &mut a, &frame(ALL, 1, 60), &c);
    until_heard("a hears b", &mut b, &frame(ALL, 2, 60), &a);
    until_heard("a hears c", &mut c, &frame(ALL, 3, 60), &a);
    // What is for one goes to that one only, whoever sends it; 9018 octets in fragments. (A plug of
    // VDE's takes none of 14 octets here.)
    for len in [15, 60, 1514, 9018] {
        a.sends(&frame(mac(2), 1, len));
        wait_for(&b, &frame(mac(2), 1, len));
        b.sends(&frame(mac(1), 2, len));
        wait_for(&a, &frame(mac(1), 2, len));
    }
    let heard = heard_until(&mut b, 2, &c);
    assert!(heard.iter().all(|frame| frame.starts_with(&ALL)), "{heard:?}");
    // Somebody's goodbye says nothing of another.
    let goodbye = lan.hosts[1].command("python3").args(["-c", GOODBYE]).output().unwrap();
    assert!(goodbye.status.success(), "{goodbye:?}");
    a.sends(&frame(mac(2), 1, 61));
    wait_for(&b, &frame(mac(2), 1, 61));
    let heard = heard_until(&mut a, 1, &c);
    assert!(heard.iter().all(|frame| frame.starts_with(&ALL)), "{heard:?}");
    drop(b);
    // Ours is heard by the others: c knew a, and sends to all now, as d hears.
    let d = stock(&lan.hosts[1], cloud);
    until_heard("d hears c", &mut c, &frame(ALL, 3, 60), &d);
    c.sends(&frame(mac(1), 3, 62));
    let heard = heard_until(&mut c, 3, &d);
    assert!(heard.iter().all(|frame| frame.starts_with(&ALL)), "{heard:?}");
    let request = DeletePortRequest { id: "tunnel".into(), ..Default::default() };
    daemon.call(async |client| client.delete_port(request).await).unwrap();
    until_heard("c has forgotten a", &mut c, &frame(mac(1), 3, 62), &d);
}

/// Says goodbye from a port of its own.
const GOODBYE: &str = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton('10.9.0.2'))
s.sendto(bytes([8, 0, 0, 0, 0, 0, 1, 0]), ('239.0.0.1', 14789))";

#[test]
fn a_group_of_users_has_a_cloud_of_its_own() {
    if !rustix::process::geteuid().is_root() {
        return cannot_run("only root can make network namespaces");
    }
    let lan = Lan::<2>::new();
    let (mut daemon, mut a) = station(&lan.hosts[0], "vxvde:///grp=1000/if=eth0");
    let b = stock(&lan.hosts[1], "vxvde:///grp=1000/if=eth0");
    let c = stock(&lan.hosts[1], "vxvde:///if=eth0");
    until_heard("b hears a", &mut a, &frame(ALL, 1, 60), &b);
    assert!(c.is_silent(), "another group");
    // By its address, with another number: it is heard, and ignored.
    let mut d = stock(&lan.hosts[1], "vxvde://239.0.3.232/vni=7/if=eth0");
    wait_until("frames for another network are counted", || {
        d.sends(&frame(ALL, 4, 60));
        daemon.drops("tunnel", "unknown_vni") > 0
    });
    assert!(a.is_silent());
}

#[test]
fn a_vxlan_port_talks_to_linux() {
    if !rustix::process::geteuid().is_root() {
        return cannot_run("only root can make network namespaces");
    }
    for (locator, device) in [
        ("vxlan://239.1.1.1/vni=42/if=eth0", "group 239.1.1.1 dev eth0"),
        ("vxlan:///vni=42/remote=10.9.0.2/local=10.9.0.1", "remote 10.9.0.1 local 10.9.0.2"),
    ] {
        let lan = Lan::<2>::new();
        let linux = &lan.hosts[1];
        linux.run(&format!("ip link add vx0 type vxlan id 42 {device} dstport 4789"));
        linux.run("ip addr add 10.50.0.2/24 dev vx0");
        linux.run("ip link set vx0 up");
        let (mut daemon, _plug) = station(&lan.hosts[0], locator);
        create(&mut daemon, "tap", "tap://t0").unwrap();
        lan.hosts[0].run("ip addr add 10.50.0.1/24 dev t0");
        lan.hosts[0].run("ip link set t0 mtu 1450 up");
        let said = linux.run("busybox ping -c 3 -W 5 -s 1400 10.50.0.1");
        assert!(said.contains(" 0% packet loss"), "{said}");
        // Its neighbours' table knows where the MAC is.
        let known = linux.run("bridge fdb show dev vx0");
        assert!(known.contains("dst 10.9.0.1"), "{known}");
    }
}

/// Who is no member is not heard, and what is no frame of the network's hurts nobody.
#[test]
fn strangers_and_junk_cost_a_tunnel_nothing_but_a_count() {
    if !rustix::process::geteuid().is_root() {
        return cannot_run("only root can make network namespaces");
    }
    let lan = Lan::<3>::new();
    let locator = "vxlan:///vni=42/remote=10.9.0.2/local=10.9.0.1";
    let (mut daemon, mut a) = station(&lan.hosts[0], locator);
    let socket = |host: &Namespace| {
        host.enter();
        let socket = UdpSocket::bind("0.0.0.0:4789").unwrap();
        socket.connect("10.9.0.1:4789").unwrap();
        socket
    };
    let (member, stranger) = (socket(&lan.hosts[1]), socket(&lan.hosts[2]));
    let packet = |vni: u8, frame: &[u8]| [&[8, 0, 0, 0, 0, 0, vni, 0][..], frame].concat();
    stranger.send(&packet(42, &frame(ALL, 3, 60))).unwrap();
    for junk in [&[][..], &[8; 7], &packet(42, &[]), &packet(42, &[1; 13])] {
        member.send(junk).unwrap();
    }
    member.send(&packet(41, &frame(ALL, 2, 60))).unwrap();
    member.send(&packet(42, &frame(ALL, 2, 60))).unwrap();
    assert_eq!(a.hears(), frame(ALL, 2, 60), "the first that is heard");
    wait_until("all are counted", || {
        let counted = ["unknown_vtep", "unknown_vni", "frame_too_short"];
        counted.map(|reason| daemon.drops("tunnel", reason)) == [1, 1, 4]
    });
    // Nobody is there any more: the kernel says so, and the port lives.
    drop(member);
    for _ in 0..10 {
        a.sends(&frame(mac(2), 1, 60));
    }
    lan.hosts[1].enter();
    let member = UdpSocket::bind("0.0.0.0:4789").unwrap();
    let mut buffer = [0; 100];
    a.sends(&frame(mac(2), 1, 66));
    // Some of those before may still have been on their way.
    let wanted = packet(42, &frame(mac(2), 1, 66));
    while member.recv(&mut buffer).unwrap() != wanted.len() {}
    assert!(buffer[..wanted.len()] == wanted);
    assert_eq!(get(&mut daemon, "tunnel").state(), PortState::Up);
}
