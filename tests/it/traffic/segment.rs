//! vNICs of a switched network: neighbours on one segment, with a gateway among them.

use crate::{
    daemon::Daemon,
    frames::{Udp4, is_udp4},
    guest::Guest,
};
use mvirt_net::proto::NetworkKind;

#[test]
fn guests_of_a_segment_lease_its_subnet_and_reach_each_other_as_they_are() {
    let mut daemon = Daemon::start();
    daemon.network_with("lan", |request| request.kind = NetworkKind::Switched.into());
    let [mut a, mut b] = ["a", "b"].map(|name| Guest::connect(&daemon.nic("lan", name)));
    assert_eq!(a.lease(), ("10.0.0.2/24".into(), "10.0.0.1".into()));
    assert_eq!(b.lease(), ("10.0.0.3/24".into(), "10.0.0.1".into()));
    assert!(a.ping("10.0.0.1") && a.ping("169.254.0.1") && a.ping("fe80::1"), "the gateway");
    let mut udp = Udp4::new(a.mac, "10.0.0.2", "10.0.0.3", b"as I am");
    udp.to_mac = b.mac;
    let sent = udp.frame();
    a.send(&sent);
    let heard = b.expect("the frame arrives", |frame| is_udp4(frame, b"as I am"));
    assert_eq!(heard, sent, "no octet is changed");
    // Through the gateway all the same, for who asks it to.
    assert!(b.answers(&mut a, "10.0.0.3"));
    let own = Udp4 { to_mac: b.mac, ..Udp4::new(a.mac, "10.0.0.9", "10.0.0.3", b"I am another") };
    a.send(&own.frame());
    crate::daemon::wait_until("it is counted", || daemon.drops("a", "spoofed_source_ipv4") == 1);
}
