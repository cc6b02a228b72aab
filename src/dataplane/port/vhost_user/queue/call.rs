//! Waking a guest by the call descriptor that its VMM gave: never waits, whatever the VMM does with it.
//!
//! An eventfd is notified by the kernel (`aio.rs`); a UNIX socket (User-mode Linux) gets a message if it has room.
//! One that has no room was signalled and not yet heard, which is as good.

use super::aio::Notifier;
use crate::dataplane::foreign::{Foreign, Kind};
use rustix::net::{SendFlags, send};
use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

thread_local! {
    static NOTIFIER: RefCell<Option<Notifier>> = const { RefCell::new(None) };
}

/// Makes this thread ready to ring: what could fail, fails here.
pub fn prepare() -> io::Result<()> {
    NOTIFIER.with_borrow_mut(|notifier| {
        if notifier.is_none() {
            *notifier = Some(Notifier::new()?);
        }
        Ok(())
    })
}

/// A descriptor to wake a guest with.
#[derive(Debug, Clone)]
pub enum Doorbell {
    /// An eventfd.
    Eventfd(Arc<OwnedFd>),
    /// A UNIX socket, in which other descriptors may be travelling.
    Socket(Arc<Foreign<OwnedFd>>),
}

impl Doorbell {
    /// Wraps a call or error descriptor: an eventfd, or a UNIX socket.
    pub fn new(fd: Foreign<OwnedFd>) -> Self {
        match Kind::of(&*fd) {
            Kind::Eventfd => Self::Eventfd(Arc::new(fd.into_inner())),
            _ => Self::Socket(Arc::new(fd)),
        }
    }

    /// Its descriptor.
    pub fn fd(&self) -> &OwnedFd {
        match self {
            Self::Eventfd(fd) => fd,
            Self::Socket(fd) => fd,
        }
    }

    /// Rings. A descriptor that is broken is its owner's loss.
    pub fn ring(&self) {
        let fd = match self {
            Self::Eventfd(fd) => fd.as_fd(),
            Self::Socket(fd) => {
                let one = 1_u64.to_ne_bytes();
                send(&***fd, &one, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).ok();
                return;
            }
        };
        NOTIFIER.with_borrow_mut(|notifier| {
            // Reactors are prepared; another thread rings for errors only, which VMMs can do without.
            if notifier.is_none() {
                *notifier = Notifier::new().ok();
            }
            if let Some(notifier) = notifier {
                notifier.notify(fd).ok();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::{
        event::{EventfdFlags, eventfd},
        fs::{OFlags, fcntl_setfl},
        net::{AddressFamily, SocketFlags, SocketType, socketpair},
    };

    #[test]
    fn a_full_eventfd_or_socket_holds_nobody_up() {
        let theirs = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let bell = Doorbell::new(theirs.try_clone().unwrap().into());
        bell.ring();
        rustix::io::write(&theirs, &(u64::MAX - 2).to_ne_bytes()).unwrap();
        fcntl_setfl(&theirs, OFlags::empty()).unwrap();
        (0..3).for_each(|_| bell.ring());

        let flags = SocketFlags::CLOEXEC;
        let (ours, _theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        let bell = Doorbell::new(ours.into());
        (0..10_000).for_each(|_| bell.ring());
    }
}
