//! Ports whose device is not there.

use super::{create, get, lab};
use crate::{
    daemon::{Daemon, wait_until},
    inside::inside,
    namespace::run,
};
use mvirt_net::proto::{NetworkKind, PortState};
use std::process::Command;

#[test]
fn a_port_without_its_device_is_handed_over_and_finds_it_when_it_is_there() {
    inside(|| {
        let mut daemon = Daemon::start();
        daemon.network_with("lab", |request| request.kind = NetworkKind::Switched.into());
        let make_card = || {
            run("ip link add card type veth peer name wire");
            run("ip link set card up");
            run("ip link set wire up");
        };
        make_card();
        create(&mut daemon, "card", "packet://card");
        wait_until("it is up", || get(&mut daemon, "card").state() == PortState::Up);
        run("ip link delete card");
        wait_until("it is not", || get(&mut daemon, "card").state() != PortState::Up);
        for _ in 0..2 {
            assert!(daemon.hand_over(), "{}", daemon.log());
            let card = get(&mut daemon, "card");
            assert!(card.state() != PortState::Up && card.error.contains("card"), "{card:?}");
        }
        make_card();
        wait_until("it is up again", || get(&mut daemon, "card").state() == PortState::Up);
    });
}

#[test]
fn a_group_is_sent_to_and_heard_whatever_address_the_host_has_meanwhile() {
    inside(|| {
        let mut daemon = Daemon::start_with(&["--port-listen", "239.0.0.0/8"]);
        lab(&mut daemon);
        run("ip link add card type veth peer name wire");
        run("ip link set card up");
        run("ip link set wire up");
        let tap = "tap://host[create/up]";
        create(&mut daemon, "host", tap);
        create(&mut daemon, "group", "mcast://239.192.1.1:1102/if=card");
        wait_until("both are up", || {
            ["host", "group"].iter().all(|name| get(&mut daemon, name).state() == PortState::Up)
        });
        run("ip address add 10.9.9.1/24 dev host");
        for address in ["10.44.0.1/24", "10.44.0.2/24"] {
            run(&format!("ip address add {address} dev card"));
            let before = daemon.stats("group").egress_frames;
            // It asks for a MAC that nobody has.
            let asked = Command::new("ping").args(["-c", "1", "-W", "1", "10.9.9.2"]).output();
            assert!(!asked.unwrap().status.success(), "there is somebody");
            wait_until("it was sent", || daemon.stats("group").egress_frames > before);
            let stats = daemon.stats("group");
            assert_eq!(stats.ingress_frames, 0, "nobody else is in the group: {stats:?}");
            assert_eq!(get(&mut daemon, "host").state(), PortState::Up);
            run(&format!("ip address del {address} dev card"));
        }
    });
}
