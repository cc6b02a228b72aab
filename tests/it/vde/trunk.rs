//! A tagged port of `vde_switch`, which has VLANs, and a trunk of ours.

use super::stock::{ALL, Plug, Switch, frame, mac};
use crate::{
    daemon::{Daemon, wait_until},
    lab,
};
use mvirt_net::proto::{CreatePortRequest, PortState, TaggedNetwork};

// A.4: `vde_switch` with `vlan/create`, `vlan/addport` on a VDE port.
#[test]
fn vlans_of_vde_switch_are_networks_of_a_trunk() {
    let mut daemon = Daemon::start();
    for network in ["native", "red", "blue"] {
        daemon.network_with(network, lab::segment);
    }
    let theirs = daemon.path("s/theirs");
    let commands = "port/create 2\nport/create 3\nport/create 7\nvlan/create 10\nvlan/create 20\n\
         vlan/addport 10 7\nvlan/addport 20 7\nport/setvlan 2 10\nport/setvlan 3 20\n";
    let _switch = Switch::told(&theirs, commands);
    let mut create = |name: &str, network: &str, locator: String, vlans: &[(u32, &str)]| {
        let vlans = vlans.iter().map(|(vid, network)| TaggedNetwork {
            vid: *vid,
            network_id: (*network).into(),
            ..Default::default()
        });
        let request = CreatePortRequest {
            network_id: network.into(),
            name: name.into(),
            locator,
            vlans: vlans.collect(),
            ..Default::default()
        };
        daemon.call(async |client| client.create_port(request).await).unwrap();
    };
    let vlans = [(10, "red"), (20, "blue")];
    create("up", "native", format!("vde://{}[7]", theirs.display()), &vlans);
    let ours = ["red", "blue"].map(|name| {
        let directory = theirs.with_file_name(name);
        create(&format!("{name}-members"), name, format!("switch://{}", directory.display()), &[]);
        directory
    });
    wait_until("the trunk is up", || lab::get(&mut daemon, "up").state() == PortState::Up);
    let mut near = ours.map(|directory| Plug::stock(&format!("vde://{}", directory.display())));
    let mut far = [2, 3].map(|port| Plug::stock(&format!("vde://{}[{port}]", theirs.display())));
    for (at, number) in [(0, 1), (1, 2)] {
        // Until all are plugged in.
        wait_until("it is heard", || {
            near[at].sends(&frame(ALL, number, 100));
            far[at].hears_within(100) == Some(frame(ALL, number, 100))
        });
        far[at].sends(&frame(mac(number), 10 + number, 60));
        assert_eq!(near[at].hears(), frame(mac(number), 10 + number, 60));
    }
    for (at, number) in [(0, 2), (1, 1)] {
        let foreign = |plug: &Plug| {
            let mut heard = std::iter::from_fn(|| plug.hears_within(0));
            heard.any(|frame| frame[6..12] == mac(number) || frame[6..12] == mac(10 + number))
        };
        assert!(!foreign(&near[at]) && !foreign(&far[at]), "one VLAN is not the other");
    }
}
