//! `ptp://`: the daemon is either end of a cable, and VDE's own plug the other.

use super::{
    stock::{ALL, Plug, frame, mac},
    switches::{lab, serve, wait_for_clients},
};
use crate::{
    daemon::{Daemon, wait_until},
    lab::{create, get},
};
use mvirt_net::proto::{DeletePortRequest, PortState};
use std::{
    fs,
    os::unix::{fs::symlink, net::UnixDatagram},
    path::{Path, PathBuf},
};
use tonic::Code;

/// A daemon with a plug of VDE's at a switch of it, and the path of a cable.
fn started() -> (Daemon, Plug, PathBuf) {
    let mut daemon = lab();
    serve(&mut daemon, "switch", "");
    let plug = plugged(&mut daemon);
    let cable = daemon.path("s/cable");
    (daemon, plug, cable)
}

/// A plug of VDE's at the switch.
fn plugged(daemon: &mut Daemon) -> Plug {
    wait_until("the switch is served", || get(daemon, "vde").state() == PortState::Listening);
    let plug = Plug::stock(&daemon.path("s/vde").display().to_string());
    wait_for_clients(daemon, 1);
    plug
}

fn locator(cable: &Path) -> String {
    format!("ptp://{}", cable.display())
}

fn other_end(cable: &Path) -> PathBuf {
    cable.with_file_name("cable+")
}

/// Waits until frames go both ways.
fn converse(daemon: &mut Daemon, inside: &mut Plug, at_the_end: &mut Plug) {
    wait_until("the end is heard", || {
        at_the_end.sends(&frame(ALL, 2, 60));
        inside.hears_within(100).is_some()
    });
    wait_until("the end hears", || {
        inside.sends(&frame(mac(2), 1, 60));
        at_the_end.hears_within(100).is_some()
    });
    assert_eq!(get(daemon, "cable").state(), PortState::Up);
    for len in [14, 1514, 9018] {
        inside.sends(&frame(mac(2), 1, len));
        while at_the_end.hears() != frame(mac(2), 1, len) {}
        at_the_end.sends(&frame(mac(1), 2, len));
        while inside.hears() != frame(mac(1), 2, len) {}
    }
}

// seed H.5.20
#[test]
fn a_plug_of_vde_comes_to_the_cable_and_goes() {
    let (mut daemon, mut inside, cable) = started();
    create(&mut daemon, "cable", &locator(&cable)).unwrap();
    assert_eq!(get(&mut daemon, "cable").state(), PortState::Down);
    let mut end = Plug::stock(&locator(&cable));
    converse(&mut daemon, &mut inside, &mut end);
    // Both ends are taken now.
    let refused = create(&mut daemon, "third", &locator(&cable)).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(daemon.hand_over());
    converse(&mut daemon, &mut inside, &mut end);
    daemon.crash_and_restart();
    inside = plugged(&mut daemon);
    converse(&mut daemon, &mut inside, &mut end);
    // The next plug finds the end that this one had, though it leaves its file.
    drop(end);
    assert!(other_end(&cable).exists());
    let mut end = Plug::stock(&locator(&cable));
    converse(&mut daemon, &mut inside, &mut end);
    let request = DeletePortRequest { id: "cable".into(), ..Default::default() };
    daemon.call(async |client| client.delete_port(request).await).unwrap();
    assert!(!cable.exists() && other_end(&cable).exists());
}

// seed H.5.20
#[test]
fn a_port_comes_to_the_cable_of_a_plug_of_vde() {
    let (mut daemon, mut inside, cable) = started();
    let mut end = Plug::stock(&locator(&cable));
    wait_until("it has the first end", || cable.exists());
    create(&mut daemon, "cable", &locator(&cable)).unwrap();
    assert!(other_end(&cable).exists());
    converse(&mut daemon, &mut inside, &mut end);
    assert!(daemon.hand_over());
    converse(&mut daemon, &mut inside, &mut end);
    daemon.crash_and_restart();
    inside = plugged(&mut daemon);
    converse(&mut daemon, &mut inside, &mut end);
    // The plug begins anew, at its end.
    drop(end);
    let mut end = Plug::stock(&locator(&cable));
    converse(&mut daemon, &mut inside, &mut end);
    // In the order in which both began anew, the port has its end again.
    assert!(daemon.hand_over());
    converse(&mut daemon, &mut inside, &mut end);
}

#[test]
fn a_cable_is_in_the_folders_of_ports_with_both_its_ends() {
    let (mut daemon, _inside, cable) = started();
    let sockets = daemon.path("s");
    for (path, code) in [
        (PathBuf::from("/tmp/cable"), Code::PermissionDenied),
        // The other end would be beside the folder.
        (sockets.clone(), Code::FailedPrecondition),
        (sockets.join("none/cable"), Code::FailedPrecondition),
    ] {
        let refused = create(&mut daemon, "cable", &locator(&path)).unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
    }
    let outside = tempfile::tempdir().unwrap();
    let victim = UnixDatagram::bind(outside.path().join("victim")).unwrap();
    // Either end may be a link that somebody has put there.
    symlink(outside.path().join("victim"), &cable).unwrap();
    let refused = create(&mut daemon, "cable", &locator(&cable)).unwrap_err();
    assert!(refused.message().contains("no socket"), "{refused}");
    fs::remove_file(&cable).unwrap();
    symlink(outside.path().join("victim"), other_end(&cable)).unwrap();
    create(&mut daemon, "cable", &locator(&cable)).unwrap();
    wait_until("it is told", || get(&mut daemon, "cable").error.contains("symbolic link"));
    victim.set_nonblocking(true).unwrap();
    assert!(victim.recv(&mut [0; 100]).is_err());
}

#[test]
fn what_is_no_frame_costs_a_cable_nothing() {
    let (mut daemon, mut inside, cable) = started();
    create(&mut daemon, "cable", &locator(&cable)).unwrap();
    let mut end = Plug::stock(&locator(&cable));
    converse(&mut daemon, &mut inside, &mut end);
    let stranger = UnixDatagram::unbound().unwrap();
    for len in [0, 1, 13, 70_000] {
        stranger.send_to(&vec![1; len], &cable).unwrap();
    }
    converse(&mut daemon, &mut inside, &mut end);
    assert_eq!(get(&mut daemon, "cable").error, "");
}
