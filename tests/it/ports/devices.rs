//! Ports whose device is not there.

use super::{create, get};
use crate::{
    daemon::{Daemon, wait_until},
    inside::inside,
    namespace::run,
};
use mvirt_net::proto::{NetworkKind, PortState};

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
