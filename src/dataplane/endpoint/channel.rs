//! The connection to a VMM: its messages, octets and descriptors, off its socket.
//!
//! Descriptors come in wrapped: whatever becomes of the message, none of them is closed where
//! others would wait.

use crate::{
    dataplane::{
        foreign::Foreign,
        port::vhost_user::session::message::{self, Header, MAX_FDS, Malformed},
    },
    descriptors,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::ReturnFlags,
};
use std::{io, mem::MaybeUninit, os::fd::OwnedFd, time::Duration};
use tokio::{
    io::{AsyncWriteExt as _, Interest},
    net::UnixStream,
    time::timeout,
};

/// How long the rest of a message may take once it has begun, and a reply to be taken.
// A VMM sends a message in one go: one that takes longer is hung or hostile, and its vNIC must be
// free for another, and for a hand-over.
const MESSAGE_DEADLINE: Duration = Duration::from_secs(2);

/// Why no message could be had.
#[derive(Debug, thiserror::Error)]
pub(in crate::dataplane) enum Unreadable {
    #[error("malformed message {request}: {source}")]
    Malformed { request: u32, source: Malformed },
    #[error("the VMM sent more than {MAX_FDS} descriptors with a message")]
    TooManyFds,
    #[error("the VMM took longer than {MESSAGE_DEADLINE:?} for a message")]
    Slow,
    #[error("the socket failed: {0}")]
    Io(#[from] io::Error),
}

/// The connection to a VMM.
#[derive(Debug)]
pub(in crate::dataplane) struct Channel {
    pub(in crate::dataplane) stream: Foreign<UnixStream>,
}

/// The beginning of a message: some of its header, and all descriptors so far.
#[derive(Default)]
pub(in crate::dataplane) struct Begun {
    octets: [u8; message::HEADER_LEN],
    filled: usize,
    fds: Vec<Foreign<OwnedFd>>,
}

impl Channel {
    /// Whether the VMM has hung up, though what it said before may still wait to be read.
    pub(in crate::dataplane) fn is_hung_up(&self) -> bool {
        let mut polled = [PollFd::new(&*self.stream, PollFlags::empty())];
        // POLLHUP is told unasked.
        poll(&mut polled, Some(&Timespec::default())).is_ok()
            && polled[0].revents().contains(PollFlags::HUP)
    }

    /// Begins with the next message; `None`: the VMM has left. Dropping this loses nothing: it
    /// either takes octets and ends, or has taken none.
    pub(in crate::dataplane) async fn begin(&self) -> Result<Option<Begun>, Unreadable> {
        let mut begun = Begun::default();
        // One read, and no deadline: a VMM may be silent for days.
        begun.filled = self.receive_some(&mut begun.octets, &mut begun.fds).await?;
        Ok((begun.filled > 0).then_some(begun))
    }

    /// The whole of a message that has begun.
    pub(in crate::dataplane) async fn receive(
        &self,
        mut begun: Begun,
    ) -> Result<(Header, Vec<u8>, Vec<Foreign<OwnedFd>>), Unreadable> {
        let rest = async {
            // Octets may come one by one, and descriptors with any of them: all of one message
            // count.
            self.fill(&mut begun.octets[begun.filled..], &mut begun.fds).await?;
            let [a, b, c, d, ..] = begun.octets;
            // Before anything is checked, so that the log can name what was malformed.
            let request = u32::from_ne_bytes([a, b, c, d]);
            let header = Header::parse(begun.octets)
                .map_err(|source| Unreadable::Malformed { request, source })?;
            let mut payload = vec![0; header.size as usize];
            self.fill(&mut payload, &mut begun.fds).await?;
            Ok((header, payload, begun.fds))
        };
        timeout(MESSAGE_DEADLINE, rest).await.map_err(|_| Unreadable::Slow)?
    }

    /// Sends a whole reply.
    pub(in crate::dataplane) async fn send(&mut self, reply: &[u8]) -> Result<(), Unreadable> {
        let sent = timeout(MESSAGE_DEADLINE, self.stream.write_all(reply)).await;
        Ok(sent.map_err(|_| Unreadable::Slow)??)
    }

    /// Fills `octets`.
    async fn fill(
        &self,
        octets: &mut [u8],
        fds: &mut Vec<Foreign<OwnedFd>>,
    ) -> Result<(), Unreadable> {
        let mut filled = 0;
        while filled < octets.len() {
            match self.receive_some(&mut octets[filled..], fds).await? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                received => filled += received,
            }
        }
        Ok(())
    }

    /// Octets and the descriptors that came with them.
    async fn receive_some(
        &self,
        octets: &mut [u8],
        fds: &mut Vec<Foreign<OwnedFd>>,
    ) -> Result<usize, Unreadable> {
        let stream: &UnixStream = &self.stream;
        loop {
            stream.readable().await?;
            let mut came = Vec::new();
            // Not `read`: descriptors come beside the octets, and only recvmsg(2) takes both.
            let received = stream.try_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
                let (count, flags) = descriptors::receive(stream, octets, &mut space, &mut came)?;
                Ok((count, flags.contains(ReturnFlags::CTRUNC)))
            });
            // Whatever else came of it: what has no owner yet would be closed right here.
            fds.extend(came.into_iter().map(|fd| self.stream.own(fd)));
            match received {
                // The kernel has closed those without room (MSG_CTRUNC, recvmsg(2)): which, nobody
                // knows.
                Ok((_, true)) => return Err(Unreadable::TooManyFds),
                Ok(_) if fds.len() > MAX_FDS => return Err(Unreadable::TooManyFds),
                Ok((count, false)) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A VMM that was killed.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(0),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
