//! Sockets of which each message is a frame, with nothing before it: UNIX packet sockets, datagram
//! sockets, and UDP (unix(7), udp(7)).
//!
//! No header says what is left to be done about a frame: all that leave are finished, and those
//! that come in are taken as they are.

use super::{
    PortFailure, Undelivered,
    descriptor::{Inbox, Received, Transport},
    mmsg::{self, Named},
    own::OwnPort,
    rest::Rest,
};
use crate::{
    dataplane::frame::{BURST, MAX_FRAME_LEN, offload::Offloads},
    wire::vnet::Offload,
};
use rustix::{io::Errno, net::SocketAddrAny};
use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

/// Octets of frames that wait to be sent together.
// A burst of frames of an Ethernet's MTU, and any single frame.
const TOGETHER: usize = 4 * (MAX_FRAME_LEN + 1);
/// How many errors that say nothing of this frame are passed over.
// Each is of a packet sent before, as that its receiver's port is closed: there are never many.
const RETRIES: usize = 4;

/// Where the messages of a socket come from and go to.
#[derive(Debug)]
pub enum Peer {
    /// To the other end of a packet socket, until it closes that.
    Session,
    /// To the UNIX socket that it is connected to.
    Unix,
    /// To a UNIX socket: any may send.
    UnixAt {
        /// Its file, opened to name it.
        file: OwnedFd,
        /// Its address, which is valid for as long as the file is open.
        address: SocketAddrAny,
    },
    /// To a host that it is connected to.
    Host,
    /// To all in a multicast group that the socket is bound to.
    Group {
        /// The socket that frames are sent by.
        // With a port of its own: from that of the group others on this host may send, too.
        sender: OwnedFd,
        /// The group.
        group: SocketAddrAny,
        /// What comes from there was sent here.
        own: OwnPort,
    },
}

/// A socket of messages.
#[derive(Debug)]
pub struct Datagrams {
    socket: OwnedFd,
    peer: Peer,
    /// Octets of the longest message that was received last.
    longest: usize,
    /// Frames to be sent: their octets, and where each ends.
    taken: Vec<u8>,
    ends: Vec<usize>,
    /// How many frames could not be sent since the last that could, and why.
    refused: Option<(usize, Undelivered)>,
}

impl Datagrams {
    /// Returns the transport of a socket, which must not block.
    pub fn new(socket: OwnedFd, peer: Peer) -> Self {
        Self {
            socket,
            peer,
            longest: 1,
            taken: Vec::with_capacity(TOGETHER),
            ends: Vec::with_capacity(BURST),
            refused: None,
        }
    }

    /// Returns what a failed call says of the port; none where that is nothing.
    fn failure(&self, errno: Errno) -> Option<PortFailure> {
        match errno {
            Errno::AGAIN | Errno::INTR => None,
            // UDP: some packet before found nobody, or no way. Others may.
            _ if matches!(self.peer, Peer::Host | Peer::Group { .. }) => None,
            errno => Some(PortFailure::Broken(format!("the other end is gone: {errno}"))),
        }
    }

    fn receive_some(&mut self, inbox: &mut Inbox) -> Result<usize, Errno> {
        let is_session = matches!(self.peer, Peer::Session);
        let buffers = inbox.buffers(self.longest);
        let asked = buffers.len();
        let mut own = match &mut self.peer {
            Peer::Group { own, .. } => Some(own),
            _ => None,
        };
        let named = if own.is_some() { Named::Yes } else { Named::No };
        let datagrams = mmsg::receive(&self.socket, buffers, named)?;
        self.longest = datagrams.iter().map(|datagram| datagram.len).max().unwrap_or(1);
        let mut own_heard = 0;
        for datagram in &datagrams {
            let from = datagram.from.clone().and_then(|from| SocketAddr::try_from(from).ok());
            if let (Some(own), Some(from)) = (&mut own, from)
                && own.has_sent(from)
            {
                own_heard += 1;
                continue;
            }
            // No frame is empty: the other end was closed.
            if datagram.len == 0 && is_session {
                return Err(Errno::PIPE);
            }
            // Of what is too long for the buffer the rest is lost: it shows by its length.
            let octets = 0..datagram.len.min(MAX_FRAME_LEN + 1);
            inbox.push_from(own_heard, Received::plain(octets));
        }
        // Fewer than were asked for: those were all.
        Ok(if datagrams.len() < asked { 0 } else { datagrams.len() })
    }

    /// Sends what was taken.
    fn send_now(&mut self) {
        let mut first = 0;
        let mut retries = 0;
        while first < self.ends.len() {
            let start = |at: usize| if at == 0 { 0 } else { self.ends[at - 1] };
            let frames = (first..self.ends.len()).map(|at| &self.taken[start(at)..self.ends[at]]);
            let (from, to) = match &self.peer {
                Peer::UnixAt { address, .. } => (&self.socket, Some(address)),
                Peer::Group { sender, group, .. } => (sender, Some(group)),
                Peer::Session | Peer::Unix | Peer::Host => (&self.socket, None),
            };
            let why = match mmsg::send(from, frames, to) {
                Ok(sent) => {
                    first += sent;
                    continue;
                }
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Undelivered::Full,
                // Longer than the buffers of either end.
                Err(Errno::MSGSIZE) => Undelivered::TooLarge,
                Err(errno) => match self.failure(errno) {
                    Some(failure) => Undelivered::Failed(failure),
                    // The error of one before is told instead of this one being sent (udp(7)).
                    None if retries < RETRIES => {
                        retries += 1;
                        continue;
                    }
                    None => Undelivered::NoGuest,
                },
            };
            self.refused = Some((self.ends.len() - first, why));
            break;
        }
        self.taken.clear();
        self.ends.clear();
    }
}

impl Transport for Datagrams {
    const ACCEPTS: Offloads = Offloads::NONE;

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn save(&self, _rest: &mut Rest) -> io::Result<Vec<OwnedFd>> {
        let mut fds = vec![self.socket.try_clone()?];
        if let Peer::Group { sender, .. } = &self.peer {
            fds.push(sender.try_clone()?);
        }
        Ok(fds)
    }

    fn receive(&mut self, inbox: &mut Inbox) -> Result<(), PortFailure> {
        let mut retries = 0;
        while !inbox.is_full() {
            match self.receive_some(inbox) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(()),
                Ok(_) => {}
                Err(errno) => match self.failure(errno) {
                    // Told once each: what has come is behind it.
                    None if retries < RETRIES => retries += 1,
                    None => return Ok(()),
                    Some(_) if errno == Errno::PIPE => {
                        return Err(PortFailure::Broken("the connection was closed".into()));
                    }
                    Some(failure) => return Err(failure),
                },
            }
        }
        Ok(())
    }

    fn send(&mut self, frame: &[u8], _offload: Offload) -> Result<(), Undelivered> {
        if self.ends.len() == BURST || self.taken.len() + frame.len() > TOGETHER {
            self.send_now();
        }
        match &mut self.refused {
            // In order: those behind one that waits wait, too.
            Some((unsent, _)) => *unsent += 1,
            None => {
                self.taken.extend_from_slice(frame);
                self.ends.push(self.taken.len());
            }
        }
        Ok(())
    }

    fn send_taken(&mut self) -> Result<(), (usize, Undelivered)> {
        if self.refused.is_none() {
            self.send_now();
        }
        self.refused.take().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::{
        frame::{Burst, FrameSet, Outgoing},
        port::{Delivered, Port, descriptor::DescriptorPort},
    };
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};

    fn pair(kind: SocketType, peer: Peer) -> (DescriptorPort<Datagrams>, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) = socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
        (DescriptorPort::new(Datagrams::new(one, peer)).unwrap(), other)
    }

    fn frame(number: usize, len: usize) -> Vec<u8> {
        (0..len).map(|at| (number * 31 + at) as u8).collect()
    }

    #[test]
    fn a_burst_is_sent_in_order_up_to_what_the_other_end_holds() {
        let (mut port, other) = pair(SocketType::SEQPACKET, Peer::Session);
        let octets: Vec<_> = (0..64).map(|at| frame(at, 14 + at * 20)).collect();
        let frames: Vec<_> =
            octets.iter().map(|octets| Outgoing::private(octets, Offload::None)).collect();
        let mut sent = 0;
        let refused = loop {
            let Delivered { taken, refused } = port.deliver(&frames, 0);
            sent += taken;
            if refused.is_some() {
                break refused;
            }
        };
        assert_eq!(refused, Some(Undelivered::Full));
        assert!(sent > 64, "a burst fits");
        assert!(!port.has_room(0));
        let mut buffer = vec![0; 2000];
        for number in 0..sent {
            let (len, _) = recv(&other, &mut *buffer, RecvFlags::empty()).unwrap();
            assert_eq!(buffer[..len], octets[number % 64], "{number}");
        }
        assert_eq!(
            recv(&other, &mut *buffer, RecvFlags::empty()).unwrap_err(),
            Errno::AGAIN,
            "what was refused was not sent"
        );
        assert!(port.has_room(0), "it is found out without a wake-up");
        // One that is too long is by itself refused, and those behind it are not sent for it.
        let long = vec![1; 300_000];
        let sound = [Outgoing::private(&octets[0], Offload::None)];
        let refused =
            Datagrams::send(&mut Datagrams::new(other, Peer::Session), &long, Offload::None);
        assert_eq!(refused, Ok(()), "told when it is sent");
        assert_eq!(
            port.deliver(&sound, 0).refused.map(|why| why.reason().name()),
            Some("no_guest")
        );
    }

    #[test]
    fn frames_are_read_a_burst_at_a_time_and_stay_until_they_are_dealt_with() {
        let (mut port, other) = pair(SocketType::DGRAM, Peer::Unix);
        let mut sender = Datagrams::new(other, Peer::Unix);
        for number in 0..70 {
            sender.send(&frame(number, 14 + number), Offload::None).unwrap();
        }
        // Of those, as many as a socket holds.
        let held = match sender.send_taken() {
            Ok(()) => 70,
            Err((unsent, why)) => {
                assert_eq!(why, Undelivered::Full);
                70 - unsent
            }
        };
        let mut burst = Burst::default();
        let mut heard = 0;
        while heard < held {
            burst.clear(0);
            port.poll(0, &mut burst).unwrap();
            assert!(burst.len() == (held - heard).min(64), "{} at {heard}", burst.len());
            let mut whole = vec![0; 70_000];
            for at in 0..burst.len() {
                let expected = frame(heard + at, 14 + heard + at);
                assert_eq!(burst.linearise(at, &mut whole), expected);
            }
            // All but one: it is first the next time.
            let done: FrameSet = (0..burst.len().div_ceil(2)).collect();
            heard += burst.len().div_ceil(2);
            port.complete(0, done);
        }
        assert_eq!(port.arm(0), Ok(false));
    }
}
