//! Descriptors that a VMM sends: looking at them, ringing or closing them must make nobody wait but
//! its own vNIC.

use super::{
    rig::{Rig, Voice, words},
    stage::Stage,
};
use crate::{daemon::wait_until, guest::PLAIN};
use mvirt_net::proto::Nic;
use rustix::{
    event::{EventfdFlags, epoll, eventfd},
    fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, inotify, memfd_create, open},
    net::{AddressFamily, SocketType, socket, sockopt::set_socket_linger},
    pipe::{PipeFlags, pipe, pipe_with},
    process::{PidfdFlags, getpid, pidfd_open},
    time::{TimerfdClockId, TimerfdFlags, timerfd_create},
};
use std::{
    io::{self, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::Path,
    time::Duration,
};
use vhost::vhost_user::message::FrontendReq as Ask;

/// What a descriptor may be sent as.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Role {
    Unasked,
    Kick,
    Call,
    Error,
    Memory,
    Log,
    Channel,
}

const ROLES: [Role; 7] =
    [Role::Unasked, Role::Kick, Role::Call, Role::Error, Role::Memory, Role::Log, Role::Channel];

impl Role {
    fn message(self) -> (Ask, Vec<u8>) {
        // The transmit queue.
        let ring = 1_u64.to_ne_bytes().to_vec();
        match self {
            Self::Unasked => (Ask::GET_FEATURES, vec![]),
            Self::Kick => (Ask::SET_VRING_KICK, ring),
            Self::Call => (Ask::SET_VRING_CALL, ring),
            Self::Error => (Ask::SET_VRING_ERR, ring),
            Self::Memory => {
                let region = [0, 4096, 1 << 40, 0].map(u64::to_ne_bytes).concat();
                (Ask::SET_MEM_TABLE, [words([1, 0]), region].concat())
            }
            Self::Log => (Ask::SET_LOG_BASE, [4096, 0].map(u64::to_ne_bytes).concat()),
            Self::Channel => (Ask::SET_BACKEND_REQ_FD, vec![]),
        }
    }
}

/// A vNIC for each role.
fn victims(stage: &mut Stage) -> Vec<Nic> {
    ROLES.iter().map(|role| stage.evil(&format!("evil-{role:?}").to_lowercase())).collect()
}

/// Sends a descriptor in each role, beside innocents; the daemon is ended, then does it again, and
/// the daemon is killed.
fn in_each_role(stage: &mut Stage, mut send: impl FnMut(&Voice, Role) -> io::Result<()> + Send) {
    let victims = victims(stage);
    let greeted = || {
        let greeted = victims.iter().map(|nic| {
            let voice = Voice::dial(nic)?;
            voice.greet(PLAIN).map(|()| voice)
        });
        greeted.collect::<io::Result<Vec<_>>>().unwrap()
    };
    let mut attack = |voices: &[Voice]| {
        for (voice, role) in voices.iter().zip(ROLES) {
            if let Err(error) = send(voice, role) {
                eprintln!("{role:?}: {error}");
            }
        }
    };
    let voices = greeted();
    let mut attacks = Some(&mut attack);
    let seen = stage.play(|| {
        if let Some(attack) = attacks.take() {
            attack(&voices);
        }
    });
    seen.assert_harmless();
    let voices = greeted();
    attack(&voices);
    stage.kill();
}

/// A TCP socket whose close waits for an hour: its peer takes nothing of what is in its buffer.
fn lingering(peers: &mut Vec<TcpStream>) -> io::Result<OwnedFd> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let socket = TcpStream::connect(listener.local_addr()?)?;
    peers.push(listener.accept()?.0);
    set_socket_linger(&socket, Some(Duration::from_secs(3600)))?;
    socket.set_nonblocking(true)?;
    while (&socket).write(&[0; 1 << 16]).is_ok() {}
    Ok(socket.into())
}

#[test]
fn sockets_that_linger_make_nobody_else_wait() {
    let mut stage = Stage::set();
    let mut peers = Vec::new();
    in_each_role(&mut stage, |voice, role| {
        let (ask, payload) = role.message();
        voice.leave(ask, &payload, lingering(&mut peers)?)
    });
}

/// Descriptors of all kinds that a test can make here, by name.
fn kinds(folder: &Path) -> Vec<(&'static str, OwnedFd)> {
    let opened = |path: &Path, flags| open(path, flags, Mode::RUSR | Mode::WUSR);
    let file = |flags| opened(&folder.join("file"), OFlags::CREATE | flags);
    let memory = |seals| {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = memfd_create("kind", flags)?;
        fcntl_add_seals(&fd, seals).map(|()| fd)
    };
    let kinds = [
        ("file", file(OFlags::RDWR)),
        ("file to read", file(OFlags::RDONLY)),
        ("path", opened(folder, OFlags::PATH)),
        ("folder", opened(folder, OFlags::RDONLY)),
        ("/dev/null", opened(Path::new("/dev/null"), OFlags::RDWR)),
        ("/dev/zero", opened(Path::new("/dev/zero"), OFlags::RDWR)),
        ("/dev/full", opened(Path::new("/dev/full"), OFlags::RDWR)),
        ("/dev/random", opened(Path::new("/dev/random"), OFlags::RDWR)),
        ("/proc", opened(Path::new("/proc/self/mem"), OFlags::RDWR)),
        ("terminal", opened(Path::new("/dev/ptmx"), OFlags::RDWR | OFlags::NOCTTY)),
        ("fuse", opened(Path::new("/dev/fuse"), OFlags::RDWR)),
        ("tun", opened(Path::new("/dev/net/tun"), OFlags::RDWR)),
        ("kvm", opened(Path::new("/dev/kvm"), OFlags::RDWR)),
        ("empty memory", memory(SealFlags::empty())),
        ("sealed memory", memory(SealFlags::GROW | SealFlags::SHRINK | SealFlags::WRITE)),
        ("semaphore", eventfd(u32::MAX, EventfdFlags::SEMAPHORE)),
        ("full eventfd", eventfd(u32::MAX, EventfdFlags::empty())),
        ("pipe to read", pipe().map(|(read, _)| read)),
        ("pipe to write", pipe().map(|(_, write)| write)),
        ("timer", timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::empty())),
        ("epoll", epoll::create(epoll::CreateFlags::CLOEXEC)),
        ("inotify", inotify::init(inotify::CreateFlags::CLOEXEC)),
        ("process", pidfd_open(getpid(), PidfdFlags::empty())),
        ("udp", Ok(UdpSocket::bind("127.0.0.1:0").unwrap().into())),
        ("tcp listener", Ok(TcpListener::bind("127.0.0.1:0").unwrap().into())),
        ("tcp", socket(AddressFamily::INET, SocketType::STREAM, None)),
        ("netlink", socket(AddressFamily::NETLINK, SocketType::RAW, None)),
        ("packet", socket(AddressFamily::PACKET, SocketType::RAW, None)),
        ("vsock", socket(AddressFamily::VSOCK, SocketType::STREAM, None)),
        ("unix listener", Ok(UnixListener::bind(folder.join("listener")).unwrap().into())),
        ("unix datagrams", Ok(UnixDatagram::unbound().unwrap().into())),
        ("unix, unconnected", socket(AddressFamily::UNIX, SocketType::STREAM, None)),
        ("unix, half closed", Ok(UnixStream::pair().unwrap().0.into())),
    ];
    let there = kinds.into_iter().filter_map(|(name, fd)| match fd {
        Ok(fd) => Some((name, fd)),
        Err(error) => {
            eprintln!("without {name}: {error}");
            None
        }
    });
    there.collect()
}

/// Uses a descriptor in a role, on rings that run. The daemon may hang up at any moment.
fn used(nic: &Nic, fd: &OwnedFd, role: Role) -> io::Result<()> {
    let mut rig = Rig::asking(nic)?;
    let (ask, payload) = role.message();
    rig.voice.say(ask, &payload, &[fd.as_fd()])?;
    rig.keep(1, 8);
    // A broken ring, of which an error descriptor is to tell.
    rig.post(1, u16::MAX);
    rig.voice.ask(Ask::GET_FEATURES, &[]).map(drop)
}

#[test]
fn descriptors_of_every_kind_are_refused_or_harmless() {
    let mut stage = Stage::set();
    let folder = tempfile::tempdir().unwrap();
    let kinds = kinds(folder.path());
    let nics: Vec<_> = (0..kinds.len()).map(|n| stage.evil(&format!("evil{n}"))).collect();
    let (descriptors, threads) = (stage.daemon.descriptors(), stage.threads());
    let cases = kinds.iter().zip(&nics).flat_map(|(kind, nic)| ROLES.map(|role| (kind, nic, role)));
    let act = |((name, fd), nic, role): (&(_, _), &Nic, Role)| {
        if let Err(error) = used(nic, fd, role)
            && error.kind() == io::ErrorKind::WouldBlock
        {
            eprintln!("{name} as {role:?}: no answer");
        }
    };
    let seen = stage.play_all(cases, act, |stage| {
        stage.wait_for_threads(threads);
        wait_until("no descriptor is left", || stage.daemon.descriptors() <= descriptors + 2);
    });
    seen.assert_harmless();
}

#[test]
fn its_own_end_of_the_connection_keeps_no_vnic_in_use() {
    let mut stage = Stage::set();
    for role in [Role::Channel, Role::Call, Role::Error, Role::Kick] {
        let nic = stage.evil(&format!("{role:?}").to_lowercase());
        let voice = Voice::dial(&nic).unwrap();
        voice.greet(PLAIN).unwrap();
        let (ask, payload) = role.message();
        // Refused, it may be; if not, the daemon holds both ends when the VMM has died.
        voice.tell(ask, &payload, &[voice.0.as_fd()]).ok();
        drop(voice);
        let mut next = None;
        wait_until(&format!("the next good connection is served: {role:?}"), || {
            next = Rig::asking(&nic).ok();
            next.is_some()
        });
        let mut next = next.unwrap();
        next.keep(1, 1);
        wait_until("its frame is taken", || next.waiting(1) == 0);
    }
}

/// Kicks, by `kick`, as often as there are frames; each is heard, if the descriptor is taken.
fn each_kick_is_heard(nic: &Nic, theirs: OwnedFd, kick: impl Fn() -> io::Result<usize>) {
    let mut rig = Rig::asking(nic).unwrap();
    if rig.voice.tell(Ask::SET_VRING_KICK, &1_u64.to_ne_bytes(), &[theirs.as_fd()]).is_err() {
        eprintln!("{}: refused", nic.name);
        return;
    }
    for number in 1..=1000 {
        rig.show(1, 1);
        if let Err(error) = kick() {
            // What was not heard fills it.
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "kick {number}");
        }
        wait_until(&format!("kick {number} of {} is heard", nic.name), || rig.waiting(1) == 0);
    }
}

#[test]
fn a_kick_that_is_a_socket_or_a_pipe_is_heard_each_time() {
    let mut stage = Stage::set();
    let names = ["stream", "datagrams", "pipe"].map(|name| stage.evil(name));
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    each_kick_is_heard(&names[0], theirs.into(), || (&ours).write(&[1; 8]));
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    each_kick_is_heard(&names[1], theirs.into(), || ours.send(&[1; 8]));
    let (theirs, ours) = pipe_with(PipeFlags::NONBLOCK).unwrap();
    each_kick_is_heard(&names[2], theirs, || Ok(rustix::io::write(&ours, &[1; 8])?));
}
