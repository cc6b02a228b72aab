//! The socket by which the daemon says what to carry.

use mvirt_net::egress::protocol::{Configuration, MAX_LEN, Order, Report, VERSION};
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};
use serde::de::DeserializeOwned;
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Control {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

/// What the daemon has said.
#[derive(Debug)]
pub(crate) enum Said {
    Nothing,
    /// It will say no more.
    Goodbye,
    Order(Order),
}

impl Control {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, buffer: vec![0; MAX_LEN + 1] }
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Waits for the first message. Returns none where there is none.
    pub(crate) fn configuration(&mut self) -> io::Result<Option<Configuration>> {
        let (len, _) = recv(&self.socket, &mut self.buffer[..], RecvFlags::empty())?;
        if len == 0 {
            return Ok(None);
        }
        let configuration = self.parse::<Configuration>(len)?;
        match configuration.version {
            VERSION => Ok(Some(configuration)),
            version => Err(io::Error::other(format!("version {version} is not known"))),
        }
    }

    /// Takes a message, without waiting.
    pub(crate) fn receive(&mut self) -> io::Result<Said> {
        match recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) | Err(Errno::CONNRESET) => Ok(Said::Goodbye),
            Ok((len, _)) => Ok(Said::Order(self.parse(len)?)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Said::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    fn parse<T: DeserializeOwned>(&self, len: usize) -> io::Result<T> {
        if len > MAX_LEN {
            return Err(io::Error::other("a message is too long"));
        }
        serde_json::from_slice(&self.buffer[..len]).map_err(io::Error::from)
    }

    /// Says something, unless the daemon does not listen just now. Returns whether it was taken.
    // Counters are told again. Of the rest there is little, and a daemon that reads nothing of it
    // has hung.
    pub(crate) fn send(&self, report: &Report) -> bool {
        let Ok(text) = serde_json::to_vec(report) else { return false };
        send(&self.socket, &text, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok()
    }
}
