//! Who comes to the API and means no good, or nothing: others are served as before, and little is spent.

use super::daemon::{Daemon, PATIENCE, wait_until};
use mvirt_net::proto::GetVersionRequest;
use rustix::{
    net::sockopt,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};
use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    time::{Duration, Instant},
};

/// What a client of HTTP/2 says first, and SETTINGS (RFC 9113 §3.4).
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A daemon that listens on a TCP port of loopback, too, and the port.
fn on_tcp() -> (Daemon, SocketAddr) {
    let daemon = Daemon::start_with(&["--listen", "127.0.0.1:0", "--reactors", "1"]);
    let mut address = None;
    wait_until("the daemon tells its address", || {
        let log = daemon.log();
        let port = log
            .split("127.0.0.1:")
            .nth(1)
            .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
        address = port.and_then(|port| format!("127.0.0.1:{port}").parse().ok());
        address.is_some_and(|address: SocketAddr| address.port() != 0)
    });
    (daemon, address.unwrap())
}

fn is_served(daemon: &mut Daemon) -> bool {
    daemon.call(async |client| client.get_version(GetVersionRequest {}).await).is_ok()
}

/// Whether the other side has ended a connection; waits for that, or for octets, as long as the stream does.
fn is_ended(mut stream: impl Read) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn connections_over_tcp_do_not_wait_for_acknowledgements() {
    let (daemon, address) = on_tcp();
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(HELLO).unwrap();
    client.read_exact(&mut [0; 9]).expect("it is accepted");
    let local = client.local_addr().unwrap();
    let process = Pid::from_raw(daemon.pid() as i32).unwrap();
    let process = pidfd_open(process, PidfdFlags::empty()).unwrap();
    let ours = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().flatten();
    let ours = ours.filter_map(|entry| {
        let number = entry.file_name().to_string_lossy().parse().ok()?;
        let socket = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok()?;
        let peer = SocketAddr::try_from(rustix::net::getpeername(&socket).ok()??).ok()?;
        (peer == local).then_some(socket)
    });
    let sockets: Vec<_> = ours.collect();
    assert_eq!(sockets.len(), 1);
    assert!(sockopt::tcp_nodelay(&sockets[0]).unwrap());
    assert!(sockopt::socket_keepalive(&sockets[0]).unwrap());
}

#[test]
fn those_who_never_begin_have_a_share_and_ten_seconds() {
    let (mut daemon, address) = on_tcp();
    let began = Instant::now();
    let mut silent: Vec<TcpStream> =
        (0..300).map(|_| TcpStream::connect(address).unwrap()).collect();
    wait_until("there are too many", || daemon.log().contains("the most a peer may have"));
    for (n, stream) in silent.iter_mut().enumerate() {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // Nothing at all, half a preface, or the beginning of TLS. Who is turned away may be gone by now.
        let said = [&b""[..], &HELLO[..10], &[22, 3][..]][n % 3];
        stream.write_all(said).ok();
    }
    assert!(is_served(&mut daemon), "others are");
    assert!(silent.iter().all(is_ended));
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(HELLO).unwrap();
    client.read_exact(&mut [0; 9]).expect("there is room again");
    assert!(daemon.log().contains("it speaks TLS to an address that is served without"));
    assert!(daemon.log().contains("it did not begin within 10s"));
}

#[test]
fn who_is_turned_away_again_and_again_does_not_fill_the_log() {
    let mut daemon = Daemon::start();
    for _ in 0..1000 {
        let mut stream = UnixStream::connect(daemon.path("api")).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        assert!(is_ended(stream));
    }
    assert!(is_served(&mut daemon));
    let log = daemon.log();
    let lines = log.matches("it does not speak HTTP/2").count();
    assert!((100..200).contains(&lines), "{lines} lines for 1000 strangers");
}

/// The beginning of a request ListNics with an empty message, on stream `id` (RFC 9113 §6.2, RFC 7541).
fn list_nics(id: u32) -> Vec<u8> {
    // POST, http, and four literals that are not indexed.
    let mut headers = vec![0x83, 0x86];
    for (name, value) in [
        (&b"\x04"[..], "/mvirt.net.NetService/ListNics"),
        (b"\x01", "localhost"),
        (b"\x0f\x10", "application/grpc"),
        (b"\x00\x02te", "trailers"),
    ] {
        headers.extend([name, &[value.len() as u8], value.as_bytes()].concat());
    }
    let frame = |kind: u8, flags: u8, body: &[u8]| {
        let length = &(body.len() as u32).to_be_bytes()[1..];
        [length, &[kind, flags], &id.to_be_bytes(), body].concat()
    };
    [frame(1, 4, &headers), frame(0, 1, &[0; 5])].concat()
}

#[test]
fn who_does_not_read_answers_is_refused_more_and_disconnected() {
    let mut daemon = Daemon::start();
    let mut stuck = UnixStream::connect(daemon.path("api")).unwrap();
    // No window for any answer: SETTINGS_INITIAL_WINDOW_SIZE of zero.
    let hello = [&HELLO[..24], b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0"].concat();
    stuck.write_all(&hello).unwrap();
    (0..64).for_each(|n| stuck.write_all(&list_nics(1 + 2 * n)).unwrap());
    let mut told = None;
    wait_until("no more answers are made", || {
        let asked = daemon.call(async |client| client.get_version(GetVersionRequest {}).await);
        told = asked.err();
        told.is_some()
    });
    let told = told.unwrap();
    assert_eq!(told.code(), tonic::Code::ResourceExhausted, "{told}");
    assert!(told.message().contains("64 answers wait for this client"), "{told}");
    stuck.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    while !is_ended(&stuck) {}
    wait_until("that is over", || is_served(&mut daemon));
}

#[test]
fn out_of_descriptors_the_api_waits_without_a_cpu() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let script = folder.path().join("few");
    let binary = env!("CARGO_BIN_EXE_mvirt-net");
    fs::write(&script, format!("#!/bin/sh\nulimit -n 64 && exec {binary} \"$@\"\n")).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut daemon = Daemon::start_binary(&script, &["--reactors", "1"]);
    assert!(daemon.log().contains("few files may be open"), "{}", daemon.log());
    daemon.network("prod");
    // Listeners, and VMMs that say nothing, take all there are.
    let mut vmms = Vec::new();
    for n in 0..64 {
        let Ok(nic) = daemon.try_nic_with("prod", &format!("vm{n}"), |_| {}) else { break };
        vmms.extend(UnixStream::connect(nic.socket_path));
    }
    let mut strangers = Vec::new();
    let refusals = |daemon: &Daemon| daemon.log().matches("nobody is let in").count();
    strangers.extend((0..40).map(|_| UnixStream::connect(daemon.path("api")).unwrap()));
    wait_until("there is no descriptor left", || refusals(&daemon) > 0);
    let (before, used) = (refusals(&daemon), daemon.cpu_time());
    wait_until("that lasts a second", || refusals(&daemon) > before + 9);
    let used = daemon.cpu_time() - used;
    assert!(used < Duration::from_millis(500), "{used:?} in a second");
    let last = strangers.pop().unwrap();
    last.set_read_timeout(Some(PATIENCE)).unwrap();
    drop(strangers);
    assert!(is_ended(last), "who waits is told that there is no room");
    drop(vmms);
    wait_until("others are served again", || is_served(&mut daemon));
}
