//! When interfaces of the host's change: set up or down, made, gone (rtnetlink(7)).

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, recv, socket_with},
};
use std::io;
use tokio::{io::Interest, net::UnixStream};

/// The group of changes of interfaces (`RTMGRP_LINK`).
const LINKS: u32 = 1;

/// Hears of changes of any interface in a network namespace.
#[derive(Debug)]
// Of whatever family: it is waited for, and no more.
pub(super) struct Links(UnixStream);

impl Links {
    /// Returns one for this thread's network namespace.
    pub(super) fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let family = AddressFamily::NETLINK;
        // Without a protocol: NETLINK_ROUTE is 0.
        let socket = socket_with(family, SocketType::RAW, flags, None)?;
        bind(&socket, &netlink::SocketAddrNetlink::new(0, LINKS))?;
        UnixStream::from_std(socket.into()).map(Self)
    }

    /// Returns when something has changed: which one and how is asked of the interface itself.
    pub(super) async fn changed(&self) -> io::Result<()> {
        self.0.readable().await?;
        let mut message = [0; 4096];
        loop {
            let received = self.0.try_io(Interest::READABLE, || {
                Ok(recv(&self.0, &mut message, RecvFlags::DONTWAIT)?)
            });
            match received {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // More has changed than fits: that is all that is to be known.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
