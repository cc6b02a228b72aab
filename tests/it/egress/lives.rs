//! Flows go on while the daemon ends and begins.

use super::rig::{Container, WEB, WORLD, inside, on_a_host, public, start_egress};
use crate::{
    command::{mvirt, stdout},
    daemon::{Daemon, wait_until},
    events::wait_for_event,
    guest::Guest,
    namespace::{Namespace, run},
};
use mvirt_net::proto::Nic;
use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

/// A connection from a guest to the world, which echoes.
fn connect(guest: &Container, world: &Namespace) -> TcpStream {
    let listener = inside(world, || TcpListener::bind("0.0.0.0:7").unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut writer = stream.try_clone().unwrap();
        // Until the guest ends it.
        std::io::copy(&mut stream, &mut writer).ok();
    });
    guest.enter(|| {
        let stream = TcpStream::connect((WORLD[0], 7)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    })
}

fn echoes(stream: &mut TcpStream, what: &str) {
    stream.write_all(what.as_bytes()).unwrap();
    let mut back = vec![0; what.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, what.as_bytes());
}

fn outlives(end: impl FnOnce(&mut Daemon) + Send) {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        let guest = Container::new(&mut daemon, "web", "c1");
        let mut stream = connect(&guest, world);
        echoes(&mut stream, "before");
        end(&mut daemon);
        echoes(&mut stream, "after");
        assert!(guest.pings(WORLD[1]));
    });
}

#[test]
fn a_hand_over_costs_no_connection_to_the_world() {
    outlives(|daemon| assert!(daemon.hand_over(), "{}", daemon.log()));
}

/// The kernel takes a moment to use a device again that was closed.
fn answers_again(nic: &Nic) {
    let mut guest = Guest::connect(nic);
    for world in WORLD {
        wait_until("the world answers again", || {
            guest.ping_within(world, Duration::from_millis(200))
        });
    }
}

/// The TAP of the container ends with the daemon, so this guest is a VM that connects again.
#[test]
fn the_way_out_is_there_again_after_kill_9() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        let nic = daemon.nic("web", "vm1");
        let mut guest = Guest::connect(&nic);
        assert!(guest.ping(WORLD[0]));
        daemon.crash_and_restart();
        answers_again(&nic);
        daemon.terminate();
        daemon.start_again();
        answers_again(&nic);
    });
}

#[test]
fn a_device_that_is_deleted_is_made_anew() {
    on_a_host(|_| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        let guest = Container::new(&mut daemon, "web", "c1");
        assert!(guest.pings(WORLD[0]));
        run("ip link del mvirt0");
        wait_until("the world answers again", || !guest.misses(WORLD[0]));
        let lost = "the way out of public networks is lost";
        daemon.says(lost);
        wait_for_event(&mut daemon, "egress", |event| event.text.starts_with(lost));
    });
}

/// Answers all datagrams to a guest by its name.
fn answer(guest: &Container, name: &'static str) {
    let socket = guest.enter(|| UdpSocket::bind("0.0.0.0:53").unwrap());
    std::thread::spawn(move || {
        let mut asked = [0; 64];
        // It ends with the process.
        while let Ok((_, from)) = socket.recv_from(&mut asked) {
            socket.send_to(name.as_bytes(), from).unwrap();
        }
    });
}

#[test]
fn flows_through_a_network_end_with_it() {
    on_a_host(|world| {
        let mut daemon = start_egress();
        public(&mut daemon, "web", WEB);
        let first = Container::new(&mut daemon, "web", "c1");
        answer(&first, "c1");
        let forward = ["forward", "add", "--listen", "udp:192.0.2.1:5300", "--to", "c1:53"];
        stdout(&mvirt(&daemon, &forward));
        let client = inside(world, || UdpSocket::bind("0.0.0.0:0").unwrap());
        client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let answers = || {
            client.send_to(b"?", "192.0.2.1:5300").ok();
            let mut answer = [0; 64];
            client.recv(&mut answer).ok().map(|len| answer[..len].to_vec())
        };
        wait_until("the guest answers", || answers().is_some_and(|it| it == b"c1"));
        stdout(&mvirt(&daemon, &["network", "delete", "web", "--force"]));
        public(&mut daemon, "next", WEB);
        let next = Container::new(&mut daemon, "next", "c2");
        assert_eq!(next.nic.ipv4_address, first.nic.ipv4_address);
        answer(&next, "c2");
        assert!(next.pings(WORLD[0]));
        // Nobody has led the port to this one.
        assert!((0..20).all(|_| answers().is_none()));
    });
}
