//! Descriptors whose lock their VMM holds in the kernel, in the middle of a copy from or to a page that never comes: who writes to
//! them or reads from them waits, and no signal ends that.

use super::{fuse::Waiting, rig::Rig, stage::Stage};
use crate::daemon::wait_until;
use mvirt_net::proto::Nic;
use rustix::pipe::pipe;
use std::{
    io::{self, Write as _},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    thread,
};
use vhost::vhost_user::message::FrontendReq as Ask;
use vm_memory::{
    GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, ReadVolatile as _, WriteVolatile as _,
};

/// Holds what writing to a descriptor locks.
fn write(page: GuestMemoryMmap, mut to: OwnedFd) {
    thread::spawn(move || {
        let page = page.get_slice(GuestAddress(0), 4096).unwrap();
        to.write_volatile(&page).map(drop)
    });
}

/// Holds what reading from a descriptor, which has something, locks.
fn read(page: GuestMemoryMmap, mut from: OwnedFd) {
    thread::spawn(move || {
        let mut page = page.get_slice(GuestAddress(0), 4096).unwrap();
        from.read_volatile(&mut page).map(drop)
    });
}

/// A descriptor of a kind, readable, whose lock is held; and its other end.
fn locked(page: GuestMemoryMmap, kind: &str) -> io::Result<(OwnedFd, OwnedFd)> {
    match kind {
        "tcp" => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let theirs = TcpStream::connect(listener.local_addr()?)?;
            let mut ours = listener.accept()?.0;
            ours.write_all(&[1; 8])?;
            write(page, theirs.try_clone()?.into());
            Ok((theirs.into(), ours.into()))
        }
        "unix" => {
            let (theirs, mut ours) = UnixStream::pair()?;
            ours.write_all(&[1; 8])?;
            read(page, theirs.try_clone()?.into());
            Ok((theirs.into(), ours.into()))
        }
        _ => {
            let (theirs, ours) = pipe()?;
            rustix::io::write(&ours, &[1; 8])?;
            write(page, ours.try_clone()?);
            Ok((theirs, ours))
        }
    }
}

/// Gives each vNIC what its name says.
fn attack(nics: &[Nic], waiting: &Waiting) -> io::Result<Vec<(Rig, OwnedFd)>> {
    let all = waiting.held() + nics.len();
    let ready = nics.iter().map(|nic| {
        let (kind, role) = nic.name.split_once('-').unwrap();
        let ask = match role {
            "call" => Ask::SET_VRING_CALL,
            "kick" => Ask::SET_VRING_KICK,
            _ => Ask::SET_VRING_ERR,
        };
        Ok((Rig::asking(nic)?, ask, locked(waiting.page(), kind)?))
    });
    let ready = ready.collect::<io::Result<Vec<_>>>()?;
    wait_until("their locks are held", || waiting.held() >= all);
    let given = ready.into_iter().map(|(rig, ask, (theirs, ours))| {
        for ring in 0..2_u64 {
            // Refused, it may be.
            rig.voice.tell(ask, &ring.to_ne_bytes(), &[theirs.as_fd()]).ok();
        }
        (rig, ours)
    });
    Ok(given.collect())
}

#[test]
fn descriptors_whose_lock_is_held_make_nobody_else_wait() {
    let mut stage = Stage::set();
    let names = ["tcp-call", "tcp-error", "tcp-kick", "unix-call", "unix-kick", "pipe-kick"];
    let nics = names.map(|name| stage.evil(name));
    let Some(waiting) = Waiting::mount(0) else { return };
    let mut attackers = Vec::new();
    let seen = stage.play(|| {
        if attackers.is_empty() {
            attackers = attack(&nics, &waiting).unwrap();
            // A broken ring, of which an error descriptor is to tell.
            attackers[1].0.post(1, u16::MAX);
        }
        for (rig, _) in &mut attackers {
            rig.keep(0, 256);
            rig.keep(1, 8);
        }
    });
    seen.assert_harmless();
    for (rig, _) in &mut attack(&nics, &waiting).unwrap() {
        rig.keep(1, 8);
    }
    stage.kill();
}
