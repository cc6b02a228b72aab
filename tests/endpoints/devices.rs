//! The kernel's interfaces, in namespaces of the tests' own: TAP devices, and any interface by
//! packet sockets. At the other end of a TAP device is the test.

use crate::{
    arrivals,
    namespace::{Namespace, run},
    not_run::cannot_run,
    peer::{How, Peer, frame, mac},
    rig::{Rig, has_counted},
};
use mvirt_net::{
    dataplane::{
        Attached, PortSpec, PortState, dial,
        port::{
            descriptor::Transport as _,
            tap::{Make, Tap},
        },
        tap::Spec,
    },
    wire::vnet::Offload,
};
use rustix::{
    io::{Errno, read},
    thread::{CapabilitySet, capabilities, set_capabilities},
};
use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// Runs a test in a network namespace of its own.
fn in_namespace(test: impl FnOnce() + Send) {
    if !rustix::process::geteuid().is_root() {
        return cannot_run("only root can make devices");
    }
    if !Path::new("/dev/net/tun").exists() {
        return cannot_run("there is no /dev/net/tun");
    }
    let namespace = Namespace::new();
    // A thread of its own: it stays in the namespace, and so does what it starts.
    namespace.within(test);
}

fn tap(interface: &str) -> Spec {
    Spec { interface: interface.into(), ..Spec::default() }
}

fn shown(interface: &str) -> String {
    let shown = Command::new("ip").args(["-o", "link", "show", interface]).output().unwrap();
    String::from_utf8(shown.stdout).unwrap()
}

/// A client of a packet socket, who is the member of this number.
fn client(rig: &mut Rig, number: u8) -> (Attached, Peer, Attached) {
    let path = rig.path("port");
    let listener = rig.listen(arrivals::spec(&path, 1)).unwrap();
    let client = Peer::connect(&path, How::Messages);
    let port = rig.admit(number);
    (listener, client, port)
}

/// What is behind a TAP device's other end: writes reach the interface, reads come from it.
struct Wire(Tap, OwnedFd);

impl Wire {
    fn new(interface: &str) -> Self {
        let tap = Tap::open(interface, Make::Always).unwrap();
        let fd = tap.share().unwrap();
        run(&format!("ip link set {interface} up"));
        Self(tap, fd)
    }

    fn sends(&mut self, frame: &[u8], offload: Offload) {
        self.0.send(frame, offload).unwrap();
    }

    /// The next frame of the EtherType for experiments, or with a tag; others are the host's.
    fn hears(&self) -> Vec<u8> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut buffer = [0; 3000];
        loop {
            match read(&self.1, &mut buffer) {
                Ok(len) if matches!(buffer[24..26], [0x88, 0xb5] | [0x81, 0x00]) => {
                    return buffer[12..len].to_vec();
                }
                Ok(_) | Err(Errno::AGAIN) => thread::yield_now(),
                Err(errno) => panic!("{errno}"),
            }
            assert!(Instant::now() < deadline, "nothing comes");
        }
    }
}

// seed H.5.15
#[test]
fn a_tap_device_is_made_as_is_asked_and_says_what_is_wrong() {
    in_namespace(|| {
        let mut rig = Rig::new();
        run("ip link add br0 type bridge");
        let spec = Spec {
            create: true,
            up: true,
            mtu: Some(1400),
            master: Some("br0".into()),
            ..tap("t0")
        };
        let port = rig.join(PortSpec::Tap(spec.clone()), 1).unwrap();
        rig.wait_until(1, PortState::Active);
        let link = shown("t0");
        for part in ["mtu 1400", "master br0", "UP"] {
            assert!(link.contains(part), "{link}");
        }
        let refused = rig.join(PortSpec::Tap(tap("t0")), 2).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy);
        let holder = format!("t0 is open already, by process {} (", std::process::id());
        assert!(refused.to_string().starts_with(&holder), "{refused}");
        let refused = rig.join(PortSpec::Tap(spec), 2).unwrap_err();
        assert_eq!(refused.to_string(), "t0 is there already");
        let refused = rig.join(PortSpec::Tap(tap("br0")), 2).unwrap_err();
        assert_eq!(refused.to_string(), "br0 is an interface, but no TAP device of one queue");
        let no_bridge = Spec { master: Some("br9".into()), ..tap("t9") };
        let refused = rig.join(PortSpec::Tap(no_bridge), 2).unwrap_err();
        assert!(refused.to_string().starts_with("br9: "), "{refused}");
        rig.close(port);
        assert_eq!(shown("t0"), "");
    });
}

#[test]
fn a_user_without_the_right_is_told_which_and_may_use_a_device_made_for_it() {
    in_namespace(|| {
        run("ip tuntap add t1 mode tap user root");
        let mut rig = Rig::new();
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW);
        // Of this thread alone.
        set_capabilities(None, sets).unwrap();
        let refused = rig.join(PortSpec::Tap(tap("t0")), 1).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(refused.to_string().contains("CAP_NET_ADMIN"), "{refused}");
        let lo = PortSpec::Dial(dial::Spec::Interface("lo".into()));
        let refused = rig.join(lo, 1).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(refused.to_string().contains("CAP_NET_RAW"), "{refused}");
        let _port = rig.join(PortSpec::Tap(tap("t1")), 2).unwrap();
    });
}

#[test]
fn a_device_that_goes_down_or_away_is_said_to_be() {
    in_namespace(|| {
        let mut rig = Rig::new();
        let (_listener, a, port_a) = client(&mut rig, 1);
        run("ip tuntap add t0 mode tap");
        let _port = rig.join(PortSpec::Tap(tap("t0")), 2).unwrap();
        let why = rig.why_it_is(2, PortState::Idle);
        assert!(why.contains("down"), "{why}");
        a.sends(&frame(2, 1, b"nobody hears this"));
        has_counted(&port_a, &[("no_guest", 1)]);
        run("ip link set t0 up");
        rig.wait_until(2, PortState::Active);
        a.sends(&frame(2, 1, b"the host does"));
        has_counted(&port_a, &[("ingress_forwarded", 1)]);
        run("ip link set t0 down");
        rig.wait_until(2, PortState::Idle);
        run("ip link delete t0");
        let why = rig.why_it_is(2, PortState::Failed);
        assert!(!why.is_empty());
        // It is there again, and is found.
        run("ip tuntap add t0 mode tap");
        run("ip link set t0 up");
        rig.wait_until(2, PortState::Active);
    });
}

#[test]
fn an_interface_carries_frames_both_ways_with_their_tags_and_no_echo() {
    in_namespace(|| {
        let mut wire = Wire::new("t0");
        let mut rig = Rig::new();
        let interface = PortSpec::Dial(dial::Spec::Interface("t0".into()));
        let port = rig.join(interface, 1).unwrap();
        rig.wait_until(1, PortState::Active);
        let (_listener, a, _port_a) = client(&mut rig, 2);
        a.sends(&frame(1, 2, b"out"));
        assert_eq!(wire.hears(), frame(1, 2, b"out"));
        wire.sends(&frame(2, 1, b"in"), Offload::None);
        assert_eq!(a.hears(), frame(2, 1, b"in"));
        // Linux takes the tag out of what it receives.
        let tagged = [&mac(2)[..], &mac(1), &[0x81, 0x00, 0x60, 0x07, 0x88, 0xb5], b"tagged"];
        wire.sends(&tagged.concat(), Offload::None);
        assert_eq!(a.hears(), tagged.concat());
        let tagged = [&mac(1)[..], &mac(2), &[0x81, 0x00, 0x60, 0x07, 0x88, 0xb5], b"out again"];
        a.sends(&tagged.concat());
        assert_eq!(wire.hears(), tagged.concat());
        // A checksum that the interface leaves open is finished for who takes no such frame.
        let mut udp = [&mac(2)[..], &mac(1), &[0x08, 0x00]].concat();
        udp.extend([0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0x26, 0xcb, 10, 0, 0, 1, 10, 0, 0, 2]);
        // Of the pseudo-header: 0a00 + 0001 + 0a00 + 0002 + 0011 + 000c.
        udp.extend([0, 1, 0, 2, 0, 12, 0x14, 0x20, 1, 2, 3, 4]);
        wire.sends(&udp, Offload::Checksum { start: 34, offset: 6 });
        let heard = a.hears();
        // And of the rest: 0001 + 0002 + 000c + 0102 + 0304.
        assert_eq!(heard[40..42], (!(0x1420_u16 + 0x0415)).to_be_bytes());
        assert_eq!((&heard[..40], &heard[42..]), (&udp[..40], &udp[42..]));
        // None of its own is among those.
        has_counted(&port, &[("egress_frames", 2), ("ingress_forwarded", 3)]);
        run("ip link set t0 down");
        let why = rig.why_it_is(1, PortState::Idle);
        assert_eq!(why, "the interface is down");
        run("ip link set t0 up");
        rig.wait_until(1, PortState::Active);
        a.sends(&frame(1, 2, b"up again"));
        assert_eq!(wire.hears(), frame(1, 2, b"up again"));
    });
}

/// The file of a macvtap device, until dropped.
struct Node(Option<String>);

impl Node {
    /// As udev makes it; where /dev is devtmpfs, it is there already.
    fn new(interface: &str) -> Self {
        let show = format!(
            "mount -t sysfs none /sys && cd /sys/class/net/{interface}/tap* && \
             basename $PWD && cat dev"
        );
        let shown = Command::new("unshare").args(["--mount", "sh", "-c", &show]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let (name, number) = shown.trim().split_once('\n').unwrap();
        let path = format!("/dev/{name}");
        if Path::new(&path).exists() {
            return Self(None);
        }
        run(&format!("mknod {path} c {}", number.replace(':', " ")));
        Self(Some(path))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.0.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    }
}

#[test]
fn a_macvtap_device_is_a_card_of_its_own_on_another() {
    in_namespace(|| {
        run("ip link add v0 type veth peer name v1");
        run("ip link add link v0 name m0 type macvtap mode passthru");
        let [mut host, mut rig] = [Rig::new(), Rig::new()];
        let spec = || PortSpec::Dial(dial::Spec::Macvtap("m0".into()));
        let other = PortSpec::Dial(dial::Spec::Macvtap("lo".into()));
        let refused = rig.join(other, 1).unwrap_err();
        assert!(refused.to_string().starts_with("lo: /dev/tap1"), "{refused}");
        let _node = Node::new("m0");
        for link in ["v0", "v1", "m0"] {
            run(&format!("ip link set {link} up"));
        }
        let _port = rig.join(spec(), 1).unwrap();
        rig.wait_until(1, PortState::Active);
        let (_listener, a, _port_a) = client(&mut rig, 2);
        // At the other end of the cable, another segment.
        let interface = PortSpec::Dial(dial::Spec::Interface("v1".into()));
        let _cable = host.join(interface, 2).unwrap();
        host.wait_until(2, PortState::Active);
        let (_other, b, _port_b) = client(&mut host, 1);
        a.sends(&frame(1, 2, b"out"));
        assert_eq!(b.hears(), frame(1, 2, b"out"));
        b.sends(&frame(2, 1, b"in"));
        assert_eq!(a.hears(), frame(2, 1, b"in"));
        let group = [&[0x33, 0x33, 0, 0, 0, 9][..], &mac(1), &[0x88, 0xb5], b"to a group"].concat();
        b.sends(&group);
        assert_eq!(a.hears(), group);
    });
}
