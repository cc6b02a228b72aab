//! Datagrams that were received and are not dealt with yet. The kernel gives those of one sender
//! that follow one another and are of one length together (`UDP_GRO`, udp(7)), as they were sent
//! together or as a network card has received them.

use super::super::mmsg::{self, Datagram, Named};
use crate::dataplane::frame::{BURST, BURST_OCTETS};
use arrayvec::ArrayVec;
use rustix::{io::Errno, net::SocketAddrAny};
use std::{net::SocketAddr, os::fd::AsFd};

/// Octets for what is received at a time: no packet is longer.
const LONGEST: usize = 1 << 16;

/// What was received and waits.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// As many places as there may be packets. Its pages cost nothing until they are used.
    octets: Vec<u8>,
    packets: ArrayVec<Datagram, BURST>,
    /// The packet that is next, and how many octets of it are dealt with.
    next: usize,
    done: usize,
    /// Octets of the longest packet that was received last.
    longest: usize,
}

impl Batch {
    /// Receives some more where nothing waits. Returns whether there may be more still.
    pub(super) fn receive(&mut self, socket: impl AsFd) -> Result<bool, Errno> {
        self.octets.resize(BURST * LONGEST, 0);
        let asked = (BURST_OCTETS / self.longest.max(1)).clamp(1, BURST);
        let buffers = self.octets.chunks_exact_mut(LONGEST).take(asked);
        self.packets.clear();
        (self.next, self.done) = (0, 0);
        self.packets = mmsg::receive(socket, buffers, Named::Yes)?;
        self.longest = self.packets.iter().map(|packet| packet.len).max().unwrap_or(0);
        Ok(self.packets.len() == asked)
    }

    /// Returns the datagram that waits for longest, and who has sent it where that is known.
    pub(super) fn first(&self) -> Option<(&[u8], Option<SocketAddr>)> {
        let packet = self.packets.get(self.next)?;
        let from = packet.from.clone().and_then(|from: SocketAddrAny| from.try_into().ok());
        let octets = &self.octets[self.next * LONGEST..][..packet.len.min(LONGEST)];
        let octets = &octets[self.done..];
        Some((&octets[..self.len_of(packet).min(octets.len())], from))
    }

    /// Goes on to the next one.
    pub(super) fn advance(&mut self) {
        let Some(packet) = self.packets.get(self.next) else { return };
        self.done += self.len_of(packet);
        if self.done >= packet.len {
            (self.next, self.done) = (self.next + 1, 0);
        }
    }

    /// Returns how many octets each datagram of a packet has, but for the last.
    fn len_of(&self, packet: &Datagram) -> usize {
        packet.joined.map_or(packet.len, usize::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn datagrams_come_as_they_were_sent_however_the_kernel_gives_them() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        mmsg::join_received(&receiver).unwrap();
        let to = SocketAddrAny::from(receiver.local_addr().unwrap());
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let joined: Vec<u8> = (0..250).collect();
        let datagrams = [(&joined[..], Some(100)), (&joined[..3], None), (&[][..], None)];
        assert_eq!(mmsg::send_cut(&sender, datagrams.into_iter(), Some(&to)), Ok(3));
        let mut batch = Batch::default();
        let mut seen = Vec::new();
        while batch.receive(&receiver).is_ok() {
            assert!(
                batch.packets.iter().any(|packet| packet.joined == Some(100)) || !seen.is_empty()
            );
            while let Some((octets, from)) = batch.first() {
                assert_eq!(from, Some(sender.local_addr().unwrap()));
                seen.push(octets.to_vec());
                batch.advance();
            }
        }
        let expected: [&[u8]; 5] =
            [&joined[..100], &joined[100..200], &joined[200..], &joined[..3], &[]];
        assert_eq!(seen, expected);
    }
}
