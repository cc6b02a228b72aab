//! A TAP device: the other end is an interface of the host's, or of a container's or a VM's that
//! takes nothing else.
//!
//! Each read and write carries one frame behind a virtio-net header (tuntap.rst, "IFF_VNET_HDR"),
//! so that neither side finishes checksums nor cuts frames that the other takes as they are.

#![expect(unsafe_code, reason = "a TAP device is made by ioctl(2)")]

use super::{
    PortFailure, Undelivered,
    descriptor::{Inbox, Transport, read_frames, write_frame},
    interface::{Interface, Request},
};
use crate::{
    dataplane::frame::offload::{Offloads, Segmentation},
    wire::vnet::{self, Offload},
};
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    ioctl::{IntegerSetter, Setter, Updater, ioctl},
};
use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
};

/// One queue of a TAP device.
#[derive(Debug, Clone)]
pub struct Tap(Arc<OwnedFd>);

/// Whether a device may be there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// It is opened where it is there, and made where it is not.
    Unless,
    /// It must not be there.
    Always,
}

/// Whether a device outlives who has it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasts {
    /// It goes when it is closed.
    No,
    /// It stays, with its routes, until it is opened again.
    Yes,
}

impl Tap {
    /// Opens the device `name` of the caller's network namespace, and makes it where it is not
    /// there: that needs CAP_NET_ADMIN, as does one that belongs to another user.
    pub fn open(name: &str, make: Make) -> io::Result<Self> {
        let kind = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        let exclusive = if make == Make::Always { libc::IFF_TUN_EXCL } else { 0 };
        open_device("/dev/net/tun", Request::new(name)?.with_flags(kind | exclusive))
            .map(Self::from)
    }

    /// Opens the macvtap device of an interface of the caller's network namespace.
    pub fn open_macvtap(interface: &Interface) -> io::Result<Self> {
        // As udev makes it: the only name that it has (linux/drivers/net/macvtap.c).
        let path = format!("/dev/tap{}", interface.index()?);
        let kind = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
        // It takes no name: it is of one interface.
        let tap = open_device(&path, Request::new("")?.with_flags(kind)).map_err(named)?;
        let mut found = Request::new("")?;
        // SAFETY: it writes an ifreq (if_tun.h).
        unsafe { ioctl(&tap, Updater::<{ libc::TUNGETIFF as _ }, Request>::new(&mut found)) }?;
        // Interfaces of all namespaces have their files there, by numbers that are not theirs
        // alone.
        if !interface.is_named_in(&found) {
            let text = format!("{path} is of an interface elsewhere");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        // Else it takes only the groups that its own host has joined: guests' neighbour discovery
        // would end here.
        interface.hear_all_groups()?;
        Ok(Self::from(tap))
    }

    /// Returns the descriptor, to be given to another process.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }
}

impl From<OwnedFd> for Tap {
    /// Goes on with a device that [`Tap::open`] made ready.
    fn from(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }
}

/// Opens a device of this kernel driver's, which then says in front of each frame or packet what is
/// left to be done about it, and takes as much as [`ACCEPTS`].
pub(super) fn open_device(path: &str, request: Request) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = open(path, flags, Mode::empty())?;
    let header_len = vnet::HEADER_LEN as libc::c_int;
    let accepts = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    // SAFETY: each reads what its number says it is given (if_tun.h): an ifreq, two integers by
    // address, and one as it is.
    unsafe {
        ioctl(&fd, Setter::<{ libc::TUNSETIFF as _ }, _>::new(request))?;
        ioctl(&fd, Setter::<{ libc::TUNSETVNETHDRSZ as _ }, _>::new(header_len))?;
        ioctl(&fd, Setter::<{ libc::TUNSETVNETLE as _ }, _>::new(1 as libc::c_int))?;
        ioctl(&fd, IntegerSetter::<{ libc::TUNSETOFFLOAD as _ }>::new_usize(accepts as usize))?;
    }
    Ok(fd)
}

/// Lets a device be there without a process that has it open, or not any more.
pub(super) fn set_lasting(device: &OwnedFd, lasts: Lasts) -> io::Result<()> {
    let lasts = usize::from(lasts == Lasts::Yes);
    // SAFETY: it is given an integer as it is (if_tun.h).
    unsafe { ioctl(device, IntegerSetter::<{ libc::TUNSETPERSIST as _ }>::new_usize(lasts)) }?;
    Ok(())
}

/// What [`open_device`] lets a device take unfinished.
// Not UDP: Linux takes such frames from a device only since 6.2.
pub(super) const ACCEPTS: Offloads = Offloads {
    checksum: true,
    segmentation: Segmentation { tcp4: true, tcp6: true, ecn: true, udp: false },
};

fn gone(errno: Errno) -> PortFailure {
    PortFailure::Broken(format!("the TAP device is gone: {errno}"))
}

impl Transport for Tap {
    const ACCEPTS: Offloads = ACCEPTS;

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn receive(&mut self, inbox: &mut Inbox) -> Result<(), PortFailure> {
        read_frames(&*self.0, inbox).map_err(gone)
    }

    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), Undelivered> {
        match write_frame(&*self.0, frame, offload) {
            Ok(()) => Ok(()),
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => {
                Err(Undelivered::Full)
            }
            // The interface is down.
            Err(Errno::IO) => Err(Undelivered::NoGuest),
            Err(errno @ Errno::BADFD) => Err(Undelivered::Failed(gone(errno))),
            // It takes no such frame.
            Err(_) => Err(Undelivered::TooLarge),
        }
    }
}
