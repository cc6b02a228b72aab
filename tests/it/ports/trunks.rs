//! A trunk to a bridge that filters VLANs, of a kernel of its own: each VLAN reaches its segment,
//! with checksums and segmentation left to be done, and no other.

use super::get;
use crate::{
    daemon::{Daemon, wait_until},
    inside::inside,
    lab,
    machine::Machine,
    namespace::run,
};
use mvirt_net::proto::{CreatePortRequest, ListMacsRequest, PortState, TaggedNetwork};
use std::process::Command;

/// The segments, each with its VLAN on the trunk; 0: none.
const SEGMENTS: [(&str, u32); 3] = [("green", 0), ("red", 10), ("blue", 20)];

/// Makes the segments, a trunk of all of them on the bridge br0, and a TAP device in each.
fn with_trunk() -> Daemon {
    let mut daemon = Daemon::start_with(&["--reactors", "2", "--hugepages", "off"]);
    for (name, _) in SEGMENTS {
        daemon.network_with(name, lab::segment);
    }
    let mut create = |name: &str, network: &str, locator: &str, vlans: Vec<TaggedNetwork>| {
        let request = CreatePortRequest {
            network_id: network.into(),
            name: name.into(),
            locator: locator.into(),
            vlans,
            ..Default::default()
        };
        daemon.call(async |client| client.create_port(request).await).unwrap();
    };
    let tagged = SEGMENTS.into_iter().filter(|(_, vid)| *vid > 0);
    let tagged = tagged.map(|(name, vid)| {
        let network_id = name.into();
        TaggedNetwork { vid, network_id, ..Default::default() }
    });
    create("up", "green", "tap://trunk[up/master=br0]", tagged.collect());
    // On both reactors: the first of a network is placed where there is least.
    for (name, _) in SEGMENTS {
        create(&format!("t-{name}"), name, &format!("tap://{name}[up]"), Vec::new());
    }
    daemon
}

/// Waits for all ports, and pings the machine from each segment.
fn ping_all(daemon: &mut Daemon) {
    for name in ["t-green", "t-red", "t-blue", "up"] {
        wait_until("it is up", || get(daemon, name).state() == PortState::Up);
    }
    for (name, vid) in SEGMENTS {
        run(&format!("ip address replace 10.{vid}.0.2/24 dev {name}"));
    }
    for (_, vid) in SEGMENTS {
        run(&format!("busybox ping -c 1 -W 20 10.{vid}.0.1"));
    }
}

/// Loads what bridges and VLANs need, and makes both with the programs of the host: the machine's
/// own know no VLANs of bridges.
fn become_a_bridge(machine: &mut Machine) {
    machine.succeed("mkdir /host && mount -t hostfs none /host");
    machine.succeed("modules=/host/usr/lib/uml/modules/$(uname -r)/kernel/net");
    for module in ["llc/llc", "802/stp", "802/garp", "802/mrp", "8021q/8021q", "bridge/bridge"] {
        machine.succeed(&format!("insmod $modules/{module}.ko"));
    }
    for command in [
        "ip link add br0 type bridge vlan_filtering 1 mcast_snooping 0",
        "ip link set vec0 master br0",
        "ip address add 10.0.0.1/24 dev br0",
        "ip link set br0 up",
        "ip link set vec0 up",
    ] {
        machine.succeed(&format!("chroot /host /bin/{command}"));
    }
    for vid in [10, 20] {
        vlan(machine, vid);
    }
}

/// Has the machine's bridge pass a VLAN, in which it is 10.VLAN.0.1.
fn vlan(machine: &mut Machine, vid: u32) {
    for command in [
        format!("sbin/bridge vlan add dev vec0 vid {vid}"),
        format!("sbin/bridge vlan add dev br0 vid {vid} self"),
        format!("bin/ip link add link br0 name br0.{vid} type vlan id {vid}"),
        format!("bin/ip address add 10.{vid}.0.1/24 dev br0.{vid}"),
        format!("bin/ip link set br0.{vid} up"),
    ] {
        machine.succeed(&format!("chroot /host /{command}"));
    }
}

/// Returns how many TCP segments had a wrong checksum, by /proc/net/snmp.
fn wrong_checksums(snmp: &str) -> &str {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let named = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "InCsumErrors");
    named.unwrap().1
}

// A.4: a Linux bridge with `vlan_filtering 1` behind a trunk; B.7: a trunk with `bridge vlan`.
#[test]
fn a_bridge_that_filters_vlans_is_reached_by_a_trunk() {
    inside(|| {
        // The trunk and the machine's card are on a bridge that lets all pass.
        run("ip link add br0 type bridge mcast_snooping 0");
        run("ip tuntap add dev machine mode tap vnet_hdr");
        run("ip link set machine master br0 up");
        run("ip link set br0 up");
        // With buffers for frames that are not cut yet (gro).
        let card = "vec0:transport=tap,ifname=machine,depth=64,gro=1";
        let mut machine = Machine::alone_uml(&[card]);
        become_a_bridge(&mut machine);
        let mut daemon = with_trunk();
        ping_all(&mut daemon);
        machine.succeed("iperf3 -s -D --logfile /dev/null && usleep 500000");
        for (_, vid) in SEGMENTS {
            for direction in [&[][..], &["-R"]] {
                let server = format!("10.{vid}.0.1");
                // The server does not listen for a moment after each stream.
                wait_until("a stream has come", || {
                    let mut client = Command::new("iperf3");
                    client.args(["-c", &server, "-n", "2M"]).args(direction);
                    client.output().unwrap().status.success()
                });
                // A client of the API that says nothing for long is let go.
                assert_eq!(get(&mut daemon, "up").state(), PortState::Up);
            }
        }
        assert_eq!(wrong_checksums(&machine.succeed("cat /proc/net/snmp")), "0");
        assert_eq!(wrong_checksums(&run("cat /proc/net/snmp")), "0");
        // The bridge has one MAC in all VLANs: it is behind the trunk in each.
        for (network, vid) in SEGMENTS {
            let request = ListMacsRequest { network_id: network.into() };
            let macs = daemon.call(async |client| client.list_macs(request).await).unwrap().macs;
            let up: Vec<_> = macs.iter().filter(|mac| mac.port == "up").collect();
            assert!(!up.is_empty() && up.iter().all(|mac| mac.port_vid == vid), "{macs:?}");
        }
        assert_eq!(daemon.drops("up", "vlan_not_allowed"), 0);
        // One that the trunk does not list.
        vlan(&mut machine, 30);
        let (_, status) = machine.run("ping -c 1 -W 1 10.30.0.2");
        assert_ne!(status, 0);
        wait_until("it is counted", || daemon.drops("up", "vlan_not_allowed") > 0);
        assert!(daemon.hand_over(), "{}", daemon.log());
        ping_all(&mut daemon);
        // The devices are others then, for the daemon's ends of them have gone with it.
        daemon.crash_and_restart();
        ping_all(&mut daemon);
    });
}
