//! Who comes to the API and means no good, or nothing: others are served as before, and little is
//! spent.

use crate::{
    daemon::{Client, Daemon, PATIENCE, wait_until},
    rude::{AT_ONCE, Rude, code, list},
};
use mvirt_net::proto::{CreateForwardRequest, GetVersionRequest, ListNicsRequest, Protocol};
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
use tokio::task::JoinSet;
use tonic::Code;

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

/// Fails where another client has to wait, in the second that follows.
fn nobody_waits(daemon: &mut Daemon) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        let asked = Instant::now();
        assert!(is_served(daemon));
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// MiB of memory of the daemon's own.
fn memory(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() >> 10
}

/// Whether the other side has ended a connection; waits for that, or for octets, as long as the
/// stream does.
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
        // Nothing at all, half a preface, or the beginning of TLS. Who is turned away may be gone
        // by now.
        let said = [&b""[..], &HELLO[..10], &[22, 3][..]][n % 3];
        stream.write_all(said).ok();
    }
    assert!(is_served(&mut daemon), "others are");
    assert!(silent.iter().all(is_ended));
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(HELLO).unwrap();
    client.read_exact(&mut [0; 9]).expect("there is room again");
    daemon.says("it speaks TLS to an address that is served without");
    daemon.says("it did not begin within 10s");
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

/// The beginning of a request ListNics with an empty message, on stream `id` (RFC 9113 §6.2, RFC
/// 7541).
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
    daemon.says("few files may be open");
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

#[test]
fn requests_that_never_end_keep_nobody_waiting() {
    let mut daemon = Daemon::start();
    let silent = Rude::connect(&daemon);
    let begun: Vec<_> = (0..AT_ONCE).map(|_| silent.send_half("GetVersion", None)).collect();
    nobody_waits(&mut daemon);
    assert!(begun.iter().all(|begun| !begun.is_finished()));
}

#[test]
fn octets_of_requests_that_never_end_are_bounded() {
    let mut daemon = Daemon::start();
    let before = memory(&daemon);
    let slow = [(); 3].map(|()| Rude::connect(&daemon));
    let half = || Some(vec![0; 1 << 20].into());
    for method in ["CreateNic", "WatchNics"] {
        let begun = slow
            .each_ref()
            .map(|slow| (0..AT_ONCE).map(|_| slow.send_half(method, half())).collect::<Vec<_>>());
        let is_over = |begun: &&_| tokio::task::JoinHandle::is_finished(begun);
        let over = || begun.iter().flatten().filter(is_over).count();
        // A peer may have 64 MiB on their way.
        wait_until("the others are refused", || over() >= 2 * AT_ONCE);
        nobody_waits(&mut daemon);
        let grown = memory(&daemon) - before;
        assert!(grown < 160, "{grown} MiB");
        for (slow, begun) in slow.iter().zip(begun) {
            for begun in begun {
                if begun.is_finished() {
                    assert_eq!(code(&slow.begun(begun)), Some(Code::ResourceExhausted));
                } else {
                    begun.abort();
                }
            }
        }
    }
}

async fn list_all(mut client: Client) -> Result<usize, tonic::Status> {
    client = client.max_decoding_message_size(64 << 20);
    let listed = client.list_nics(ListNicsRequest::default()).await?.into_inner();
    assert!(listed.next_page_token.is_empty());
    Ok(listed.nics.len())
}

#[test]
fn long_lists_are_made_one_at_a_time() {
    const NICS: usize = 300;
    let mut daemon = Daemon::start();
    daemon.network_with("prod", |r| r.ipv4_subnet = "10.0.0.0/16".into());
    for n in 0..NICS {
        daemon.nic_with("prod", &format!("n{n:03}"), |r| {
            r.labels = (0..64).map(|m| (format!("label{m}"), "x".repeat(255))).collect();
        });
    }
    // Who reads them has all that are asked for, one after the other.
    let listed = daemon.block_on(async |client| {
        let lists: JoinSet<_> = (0..12).map(|_| list_all(client.clone())).collect();
        lists.join_all().await
    });
    assert!(listed.iter().all(|listed| matches!(listed, Ok(NICS))), "{listed:?}");

    let before = memory(&daemon);
    let deaf = Rude::connect(&daemon);
    let mut begun: Vec<_> = (0..AT_ONCE).map(|_| deaf.send("ListNics", list())).collect();
    let mut first = None;
    wait_until("one begins", || {
        first = begun.iter().position(|begun| begun.is_finished());
        first.is_some()
    });
    let _unread = deaf.begun(begun.remove(first.unwrap()));
    nobody_waits(&mut daemon);
    let grown = memory(&daemon).saturating_sub(before);
    assert!(grown < 64, "{grown} MiB");
    assert!(begun.iter().all(|begun| !begun.is_finished()), "the next when this is read");
    let again =
        |daemon: &mut Daemon| daemon.block_on(async |client| list_all(client.clone()).await);
    let refused = again(&mut daemon).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("page_size"), "{refused}");
    let page = ListNicsRequest { page_size: 1000, ..Default::default() };
    daemon.call(async |client| client.list_nics(page).await).expect("pages come all the same");
    drop(deaf);
    wait_until("there are long lists again", || matches!(again(&mut daemon), Ok(NICS)));
}

#[test]
fn more_ranges_of_ports_than_there_may_be_are_refused_at_once() {
    let mut daemon = Daemon::start_with(&["--reactors", "1", "--egress", "off"]);
    // Each of them would be compared with all others.
    let ports: Vec<_> = (1..=65535).rev().map(|port: u16| port.to_string()).collect();
    let request = CreateForwardRequest {
        protocol: Protocol::Tcp.into(),
        listen_ports: ports.join(","),
        nic_id: "vm1".into(),
        ..Default::default()
    };
    let began = Instant::now();
    let refused = daemon.call(async |client| client.create_forward(request).await).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("65535 ranges"), "{refused}");
}
