//! What is asked of an interface of the host's, and what is set: netdevice(7).

#![expect(unsafe_code, reason = "interfaces are asked and set by ioctl(2)")]

use crate::addr::MacAddr;
use rustix::{
    io::Errno,
    ioctl::{Opcode, Updater, ioctl},
    net::{AddressFamily, SocketFlags, SocketType, netdevice::name_to_index, socket_with},
};
use std::{io, os::fd::OwnedFd};

/// SIOCBRADDIF (linux/sockios.h), which `libc` has for Android only.
const ADD_TO_BRIDGE: Opcode = 0x89a2;

/// An interface of a network namespace: that of who names it.
#[derive(Debug)]
pub struct Interface {
    /// Any socket: interfaces are asked by way of one.
    socket: OwnedFd,
    request: Request,
}

/// `struct ifreq`: a name, and a union whose longest member counts.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; 24],
}

impl Request {
    /// Returns one of an interface's name.
    pub(super) fn new(name: &str) -> io::Result<Self> {
        let mut request = Self { name: [0; libc::IFNAMSIZ], value: [0; 24] };
        // The last octet ends the name.
        let room = request.name[..libc::IFNAMSIZ - 1].get_mut(..name.len());
        room.ok_or(Errno::NAMETOOLONG)?.copy_from_slice(name.as_bytes());
        Ok(request)
    }

    /// Returns it with 16 bits in the union, as flags are.
    pub(super) fn with_flags(mut self, flags: i32) -> Self {
        self.value[..2].copy_from_slice(&(flags as u16).to_ne_bytes());
        self
    }

    /// Returns it with 32 bits in the union, as numbers are.
    fn with_number(mut self, number: u32) -> Self {
        self.value[..4].copy_from_slice(&number.to_ne_bytes());
        self
    }

    fn flags(&self) -> i32 {
        i32::from(u16::from_ne_bytes([self.value[0], self.value[1]]))
    }
}

impl Interface {
    /// Returns the interface of a name.
    pub fn named(name: &str) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
        Ok(Self { socket, request: Request::new(name)? })
    }

    fn ask<const OPCODE: Opcode>(&self, mut request: Request) -> io::Result<Request> {
        // SAFETY: each of the opcodes below reads an ifreq and writes no more than one.
        unsafe { ioctl(&self.socket, Updater::<OPCODE, Request>::new(&mut request)) }?;
        Ok(request)
    }

    /// Returns its number.
    pub fn index(&self) -> io::Result<u32> {
        let end = self.request.name.iter().position(|octet| *octet == 0);
        let name = &self.request.name[..end.unwrap_or(libc::IFNAMSIZ)];
        let name = std::str::from_utf8(name).map_err(io::Error::other)?;
        Ok(name_to_index(&self.socket, name)?)
    }

    /// Whether a request has its name.
    pub(super) fn is_named_in(&self, request: &Request) -> bool {
        self.request.name == request.name
    }

    /// Whether it is set up.
    pub fn is_up(&self) -> io::Result<bool> {
        let asked = self.ask::<{ libc::SIOCGIFFLAGS as Opcode }>(self.request)?;
        Ok(asked.flags() & libc::IFF_UP != 0)
    }

    /// Sets it up.
    pub fn set_up(&self) -> io::Result<()> {
        self.add_flags(libc::IFF_UP)
    }

    /// Lets it receive what is for any group.
    pub fn hear_all_groups(&self) -> io::Result<()> {
        self.add_flags(libc::IFF_ALLMULTI)
    }

    fn add_flags(&self, flags: i32) -> io::Result<()> {
        let set = self.ask::<{ libc::SIOCGIFFLAGS as Opcode }>(self.request)?.flags();
        self.ask::<{ libc::SIOCSIFFLAGS as Opcode }>(self.request.with_flags(set | flags))?;
        Ok(())
    }

    /// Gives it a MAC, where it has another.
    // Only then: what is right needs no right to change it. So for the MTU.
    pub fn set_mac(&self, mac: MacAddr) -> io::Result<()> {
        let mut request = self.ask::<{ libc::SIOCGIFHWADDR as Opcode }>(self.request)?;
        // A `sockaddr`: its family, and what a card of that has.
        let octets = &mut request.value[2..8];
        if *octets == mac.0 {
            return Ok(());
        }
        octets.copy_from_slice(&mac.0);
        self.ask::<{ libc::SIOCSIFHWADDR as Opcode }>(request).map(drop)
    }

    /// Sets its MTU, where it has another.
    pub fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        let request = self.request.with_number(mtu.into());
        let now = self.ask::<{ libc::SIOCGIFMTU as Opcode }>(self.request)?;
        if now.value[..4] == request.value[..4] {
            return Ok(());
        }
        self.ask::<{ libc::SIOCSIFMTU as Opcode }>(request).map(drop)
    }

    /// Makes it a port of a bridge of the host's.
    pub fn join(&self, bridge: &str) -> io::Result<()> {
        let request = Request::new(bridge)?.with_number(self.index()?);
        match self.ask::<{ ADD_TO_BRIDGE }>(request) {
            // It is one already; of this bridge, or who asks sees it at once.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
            outcome => outcome.map(drop),
        }
    }
}
