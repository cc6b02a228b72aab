//! What paths of ports may be: nothing that others have is changed, replaced or removed.

use super::lab;
use crate::{
    daemon::{Daemon, wait_until},
    lab::{create, get},
};
use mvirt_net::proto::{DeletePortRequest, PortState};
use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _, symlink},
        net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::Path,
    time::Duration,
};
use tonic::Code;

fn started() -> Daemon {
    let mut daemon = Daemon::start();
    lab(&mut daemon);
    daemon
}

fn delete(daemon: &mut Daemon, name: &str) {
    let request = DeletePortRequest { id: name.into(), ..Default::default() };
    daemon.call(async |client| client.delete_port(request).await).unwrap();
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn no_symbolic_link_leads_out_of_the_folders_of_ports() {
    let mut daemon = started();
    let (outside, link) = (daemon.path("outside"), daemon.path("s/link"));
    fs::create_dir(&outside).unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o755)).unwrap();
    let theirs = outside.join("theirs");
    let _theirs = UnixListener::bind(&theirs).unwrap();
    symlink(&outside, &link).unwrap();
    symlink(&theirs, daemon.path("s/straight")).unwrap();
    let (link, sockets) = (link.display().to_string(), daemon.path("s"));
    let sockets = sockets.display();
    for locator in [
        format!("stream-listen://{link}/x[mode=0666]"),
        format!("seqpacket-listen://{link}/x"),
        format!("dgram://{link}/x->{sockets}/y"),
        format!("dgram://{sockets}/y->{link}/theirs"),
        format!("switch://{link}"),
        format!("switch://{link}/x[dirmode=0777]"),
        format!("hub://{link}[dirmode=0777]"),
        format!("vde://{link}"),
        format!("stream://{link}/theirs"),
        format!("stream://{sockets}/straight"),
        format!("seqpacket-connect://{link}/theirs"),
    ] {
        let refused = create(&mut daemon, "x", &locator).unwrap_err();
        assert!(refused.message().contains("symbolic link"), "{locator}: {refused}");
        assert_eq!(refused.code(), Code::PermissionDenied, "{locator}");
    }
    assert_eq!((names(&outside), mode(&outside)), (vec!["theirs".to_owned()], 0o755));
    // Nor does one that was put there later, when the port is opened again.
    let folder = daemon.path("s/folder");
    fs::create_dir(&folder).unwrap();
    create(&mut daemon, "x", &format!("stream-listen://{}/x", folder.display())).unwrap();
    daemon.kill();
    fs::remove_dir_all(&folder).unwrap();
    symlink(&outside, &folder).unwrap();
    daemon.start_again_after_its_end();
    let port = get(&mut daemon, "x");
    assert_eq!(port.state(), PortState::Error);
    assert!(port.error.contains("symbolic link"), "{}", port.error);
    assert_eq!(names(&outside), ["theirs"]);
}

#[test]
fn a_link_that_takes_the_place_of_another_end_later_leads_nowhere() {
    let mut daemon = started();
    let sockets = daemon.path("s");
    let [local, remote, moved, second, there] =
        ["local", "remote", "moved", "second", "there"].map(|name| sockets.join(name));
    let outside = tempfile::tempdir().unwrap();
    let victim = UnixDatagram::bind(outside.path().join("victim")).unwrap();
    victim.set_nonblocking(true).unwrap();
    let [one, other] = [&remote, &there].map(|at| UnixDatagram::bind(at).unwrap());
    let between = |own: &Path, to: &Path| format!("dgram://{}->{}", own.display(), to.display());
    create(&mut daemon, "one", &between(&local, &remote)).unwrap();
    create(&mut daemon, "two", &between(&second, &there)).unwrap();
    let frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[0x88, 0xb5], &[7; 46]].concat();
    let mut heard = [0; 100];
    let mut goes = || {
        other.send_to(&frame, &second).unwrap();
        one.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        one.recv(&mut heard).is_ok_and(|len| heard[..len] == frame)
    };
    wait_until("frames go", &mut goes);
    fs::rename(&remote, &moved).unwrap();
    symlink(outside.path().join("victim"), &remote).unwrap();
    wait_until("frames go where they went", &mut goes);
    assert!(victim.recv(&mut [0; 100]).is_err());
}

#[test]
fn a_port_outside_the_folders_of_a_later_start_is_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let (script, port) = (folder.path().join("mvirt-net"), folder.path().join("port"));
    let (binary, at) = (env!("CARGO_BIN_EXE_mvirt-net"), folder.path().display());
    fs::write(&script, format!("#!/bin/sh\nexec {binary} --port-dir {at} \"$@\"\n")).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut daemon = Daemon::start_binary(&script, &["--reactors", "1"]);
    lab(&mut daemon);
    create(&mut daemon, "x", &format!("stream-listen://{}", port.display())).unwrap();
    UnixStream::connect(&port).unwrap();
    daemon.run_instead(binary.into());
    daemon.crash_and_restart();
    let found = get(&mut daemon, "x");
    assert_eq!(found.state(), PortState::Error);
    assert!(found.error.contains("--port-dir"), "{}", found.error);
    assert!(UnixStream::connect(&port).is_err());
}

#[test]
fn folders_that_others_have_made_keep_their_permissions() {
    let mut daemon = started();
    let (sockets, theirs) = (daemon.path("s"), daemon.path("s/theirs"));
    fs::create_dir(&theirs).unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o750)).unwrap();
    for folder in [&sockets, &theirs] {
        let before = mode(folder);
        let locator = format!("switch://{}[dirmode=0777]", folder.display());
        let refused = create(&mut daemon, "x", &locator).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("is there already"), "{refused}");
        assert_eq!(mode(folder), before);
    }
    // One that the port made itself is found again after a crash.
    let locator = format!("switch://{}/own[dirmode=0711]", sockets.display());
    create(&mut daemon, "x", &locator).unwrap();
    daemon.crash_and_restart();
    wait_until("it listens", || get(&mut daemon, "x").state() == PortState::Listening);
    assert_eq!(mode(&sockets.join("own")), 0o711);
}

#[test]
fn what_others_have_put_in_the_place_of_a_socket_stays() {
    let mut daemon = started();
    let sockets = daemon.path("s");
    let listen = |kind: &str, name: &str| format!("{kind}://{}/{name}", sockets.display());
    let note = sockets.join("a.tmp");
    fs::write(&note, "text").unwrap();
    create(&mut daemon, "b", &listen("stream-listen", "b.tmp")).unwrap();
    create(&mut daemon, "a", &listen("stream-listen", "a")).unwrap();
    create(&mut daemon, "c", &listen("stream-listen", "b")).unwrap();
    UnixStream::connect(sockets.join("b.tmp")).expect("another port's socket is left alone");
    create(&mut daemon, "d", &listen("switch", "d")).unwrap();
    for (port, path) in [("a", "a"), ("d", "d/ctl")] {
        let path = sockets.join(path);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "theirs").unwrap();
        delete(&mut daemon, port);
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
    }
    assert_eq!(fs::read_to_string(&note).unwrap(), "text");
    // What is not ready when the daemon dies goes at its next start, and nothing else does.
    daemon.kill();
    let left = format!(".mvirt-{}.tmp", "0123456789abcdef".repeat(2));
    drop(UnixListener::bind(sockets.join(&left)).unwrap());
    let file = left.replace('0', "f");
    fs::write(sockets.join(&file), "theirs").unwrap();
    drop(UnixListener::bind(sockets.join("their.tmp")).unwrap());
    daemon.start_again_after_its_end();
    wait_until("it is gone", || !sockets.join(&left).exists());
    let found = names(&sockets);
    for stays in [&file, "their.tmp", "a.tmp", "b.tmp", "b"] {
        assert!(found.iter().any(|name| name == stays), "{stays} of {found:?}");
    }
}

#[test]
fn vnics_and_ports_do_not_take_each_others_sockets() {
    let mut daemon = started();
    let (sockets, id) = (daemon.path("s"), "6ac9a4a5-0c48-4d6f-a4b5-0d4c1a0e5b11");
    for (kind, end) in [("stream-listen", "sock"), ("switch", "vde"), ("stream-listen", "guest")] {
        let locator = format!("{kind}://{}/{id}.{end}", sockets.display());
        let refused = create(&mut daemon, "x", &locator).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("what a vNIC's socket is called"), "{refused}");
    }
    let path = sockets.join(format!("{id}.sock"));
    let theirs = UnixListener::bind(&path).unwrap();
    let refused = daemon.try_nic_with("lab", "vm", |nic| nic.id = id.into()).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("in use"), "{refused}");
    UnixStream::connect(&path).unwrap();
    drop(theirs);
    // Nobody serves it any more.
    daemon.try_nic_with("lab", "vm", |nic| nic.id = id.into()).unwrap();
    assert!(fs::metadata(&path).unwrap().file_type().is_socket());
}

#[test]
fn what_is_refused_leaves_nothing() {
    let mut daemon = started();
    let sockets = daemon.path("s");
    let before = names(&sockets);
    let longest = 107 - sockets.as_os_str().len() - 1;
    let long = "x".repeat(longest);
    for (locator, code) in [
        // Too long for the sockets in it.
        (format!("switch://{}/{long}", sockets.display()), Code::InvalidArgument),
        (format!("stream-listen://{}/x/y", sockets.display()), Code::FailedPrecondition),
        ("stream-listen://127.0.0.1:0".into(), Code::InvalidArgument),
    ] {
        let refused = create(&mut daemon, "x", &locator).unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
    }
    if !rustix::process::geteuid().is_root() {
        // Which only root may give away.
        for locator in ["stream-listen", "switch"] {
            let locator = format!("{locator}://{}/x[grp=0]", sockets.display());
            create(&mut daemon, "x", &locator).unwrap_err();
        }
    }
    assert_eq!(names(&sockets), before);
}
