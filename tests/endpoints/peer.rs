//! What is at the other end of a port: a socket, and how it carries frames.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect,
        recv, send, socket_with,
    },
};
use std::{net::SocketAddr, os::fd::OwnedFd, path::Path, time::Duration};

pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Each message is a frame.
    Messages,
    /// The length of each frame stands before it in 32 bits.
    Stream,
}

pub(crate) struct Peer {
    pub(crate) socket: OwnedFd,
    how: How,
}

impl Peer {
    pub(crate) fn new(socket: impl Into<OwnedFd>, how: How) -> Self {
        Self { socket: socket.into(), how }
    }

    /// Connects to a socket that listens.
    pub(crate) fn connect(path: &Path, how: How) -> Self {
        let kind = match how {
            How::Messages => SocketType::SEQPACKET,
            How::Stream => SocketType::STREAM,
        };
        let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        Self { socket, how }
    }

    pub(crate) fn connect_tcp(address: SocketAddr) -> Self {
        Self::new(std::net::TcpStream::connect(address).unwrap(), How::Stream)
    }

    pub(crate) fn sends(&self, frame: &[u8]) {
        let length = (frame.len() as u32).to_be_bytes();
        match self.how {
            How::Messages => self.writes(frame),
            How::Stream => self.writes(&[&length[..], frame].concat()),
        }
    }

    /// Writes octets, whatever they are.
    pub(crate) fn writes(&self, mut octets: &[u8]) {
        while !octets.is_empty() {
            let sent = send(&self.socket, octets, SendFlags::NOSIGNAL).unwrap();
            octets = &octets[sent..];
        }
    }

    /// The next frame; empty at the end of the connection.
    pub(crate) fn hears(&self) -> Vec<u8> {
        match self.how {
            How::Messages => self.reads(70_000),
            How::Stream => {
                let length = self.reads_all(4);
                let length = length.try_into().map_or(0, u32::from_be_bytes);
                self.reads_all(length as usize)
            }
        }
    }

    /// Whether it hears something soon.
    pub(crate) fn hears_soon(&self) -> bool {
        let soon = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&soon)).unwrap() == 1
    }

    /// So many octets, or fewer at the end of the connection.
    fn reads_all(&self, len: usize) -> Vec<u8> {
        let mut octets = Vec::new();
        while octets.len() < len {
            let more = self.reads(len - octets.len());
            if more.is_empty() {
                break;
            }
            octets.extend(more);
        }
        octets
    }

    /// What one call returns, of at most `len` octets.
    fn reads(&self, len: usize) -> Vec<u8> {
        let timeout = Timespec::try_from(TIMEOUT).unwrap();
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&timeout)).unwrap(), 1, "nothing comes");
        let mut octets = vec![0; len];
        // A connection that was reset has ended, too.
        let (len, _) = recv(&self.socket, &mut *octets, RecvFlags::empty()).unwrap_or((0, 0));
        octets.truncate(len);
        octets
    }
}

pub(crate) fn mac(number: u8) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 0, number]
}

/// A frame of an EtherType for experiments (IEEE 802, clause 9.2.3).
pub(crate) fn frame(to: u8, from: u8, payload: &[u8]) -> Vec<u8> {
    [&mac(to)[..], &mac(from), &[0x88, 0xb5], payload].concat()
}
