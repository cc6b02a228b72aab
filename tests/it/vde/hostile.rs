//! Clients of a VDE switch that do not what they should: each costs itself, and nobody else.

use super::{
    stock::{ALL, Plug, frame},
    switches::{lab, serve, wait_for_clients},
};
use crate::{
    daemon::{cannot_run, wait_until},
    lab::get,
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::{
    fs::File,
    io::{IoSlice, Read as _, Write as _},
    os::{
        fd::AsFd as _,
        unix::{
            fs::{PermissionsExt as _, symlink},
            net::{UnixDatagram, UnixListener, UnixStream},
            process::CommandExt as _,
        },
    },
    path::Path,
    process::Command,
};

fn request(path: &[u8]) -> Vec<u8> {
    let head = [0xfeed_face_u32, 3, 0].map(u32::to_ne_bytes).concat();
    let mut octets = [&head[..], &1_u16.to_ne_bytes(), path].concat();
    octets.resize(122, 0);
    octets
}

/// Sends `octets` as a request. Returns how much comes back until the end.
fn ask(directory: &Path, octets: &[u8]) -> usize {
    let mut control = UnixStream::connect(directory.join("ctl")).unwrap();
    // It may have been closed already.
    control.write_all(octets).ok();
    let mut reply = [0; 110];
    control.read(&mut reply).unwrap_or(0)
}

#[test]
fn requests_that_are_none_end_their_connection_alone() {
    let mut daemon = lab();
    let directory = serve(&mut daemon, "switch", "");
    let mut a = Plug::stock(&directory.display().to_string());
    wait_for_clients(&mut daemon, 1);
    let others = tempfile::tempdir().unwrap();
    let at = |name: &str| others.path().join(name).into_os_string().into_encoded_bytes();
    let made = Command::new("mkfifo").arg(others.path().join("fifo")).status().unwrap();
    assert!(made.success());
    std::fs::write(others.path().join("file"), "text").unwrap();
    let _stream = UnixListener::bind(others.path().join("stream")).unwrap();
    let real = UnixDatagram::bind(others.path().join("real")).unwrap();
    symlink(others.path().join("real"), others.path().join("link")).unwrap();
    let dead = UnixDatagram::bind(others.path().join("dead")).unwrap();
    drop(dead);
    let mut short = request(&at("real"));
    short.truncate(121);
    for (what, octets) in [
        ("nothing of VDE's", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("too short", short),
        ("a FIFO", request(&at("fifo"))),
        ("a file", request(&at("file"))),
        ("a directory", request(others.path().as_os_str().as_encoded_bytes())),
        ("nothing", request(&at("none"))),
        ("a stream", request(&at("stream"))),
        ("a dead socket", request(&at("dead"))),
        ("a link to another", request(&at("link"))),
        ("a relative path", request(b"vde/ctl")),
        ("a process's", request(b"/proc/self/fd/3")),
        ("108 octets without an end", request(&[b'x'; 108])),
    ] {
        assert_eq!(ask(&directory, &octets), 0, "{what}");
    }
    // 300 octets: what is behind the 256th is nothing to the switch.
    let mut long = request(&at("real"));
    long.resize(300, b'd');
    assert_eq!(ask(&directory, &long), 110);
    drop(real);
    wait_until("the one with a socket has left", || get(&mut daemon, "vde").attachments.len() == 1);
    let b = Plug::stock(&directory.display().to_string());
    wait_for_clients(&mut daemon, 2);
    a.sends(&frame(ALL, 1, 60));
    assert_eq!(b.hears(), frame(ALL, 1, 60));
}

#[test]
fn descriptors_that_come_with_a_request_are_closed() {
    let mut daemon = lab();
    let directory = serve(&mut daemon, "switch", "");
    let before = daemon.descriptors();
    let null = File::open("/dev/null").unwrap();
    for _ in 0..20 {
        let mut control = UnixStream::connect(directory.join("ctl")).unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [null.as_fd(); 8];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        let octets = request(b"/nowhere");
        sendmsg(&control, &[IoSlice::new(&octets)], &mut ancillary, SendFlags::empty()).unwrap();
        assert_eq!(control.read(&mut [0]).unwrap_or(0), 0);
    }
    wait_until("all are closed", || daemon.descriptors() <= before);
}

#[test]
fn who_connects_and_says_nothing_keeps_nobody_out() {
    let mut daemon = lab();
    let directory = serve(&mut daemon, "switch", "");
    let silent: Vec<_> =
        (0..200).map(|_| UnixStream::connect(directory.join("ctl")).unwrap()).collect();
    let mut a = Plug::stock(&directory.display().to_string());
    let b = Plug::stock(&directory.display().to_string());
    wait_for_clients(&mut daemon, 2);
    a.sends(&frame(ALL, 1, 60));
    assert_eq!(b.hears(), frame(ALL, 1, 60));
    // The last of them are asked to leave, too, in time.
    for mut control in silent {
        assert_eq!(control.read(&mut [0]).unwrap_or(0), 0);
    }
}

/// A daemon of root's may connect where its clients may not: what they name must be theirs.
#[test]
fn a_client_cannot_name_the_socket_of_another_user() {
    if !rustix::process::geteuid().is_root() {
        return cannot_run("only root can be another user");
    }
    let mut daemon = lab();
    let directory = serve(&mut daemon, "switch", "[mode=0666/dirmode=0777]");
    let open = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    };
    for parent in directory.ancestors().skip(1).take_while(|path| path.starts_with("/tmp/")) {
        open(parent);
    }
    let others = tempfile::tempdir().unwrap();
    open(others.path());
    let victim = UnixDatagram::bind(others.path().join("victim")).unwrap();
    open(&others.path().join("victim"));
    let program = "
import os, socket, struct, sys
control = socket.socket(socket.AF_UNIX)
control.connect(sys.argv[1] + '/ctl')
head = struct.pack('=IIIH', 0xfeedface, 3, 0, 1)
control.sendall((head + sys.argv[2].encode()).ljust(122, b'\\0'))
sys.exit(len(control.recv(110)))";
    let asks = |path: &Path| {
        let mut command = Command::new("python3");
        let command = command.args(["-c", program]).arg(&directory).arg(path);
        command.uid(65534).gid(65534).status().unwrap().code().unwrap()
    };
    assert_eq!(asks(&others.path().join("victim")), 0, "it is not its own");
    assert!(victim.set_nonblocking(true).is_ok() && victim.recv(&mut [0]).is_err());
    // Its own: an ordinary plug of that user's.
    let mut command = Command::new("vde_plug");
    let mut a = Plug::of(command.arg(&directory).uid(65534).gid(65534));
    let b = Plug::stock(&directory.display().to_string());
    wait_for_clients(&mut daemon, 2);
    a.sends(&frame(ALL, 1, 60));
    assert_eq!(b.hears(), frame(ALL, 1, 60));
}
