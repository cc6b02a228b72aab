//! Frames on standard streams, as VDE has them: behind their lengths, 16 bits, big-endian.
//!
//! Streams may be anything that has an end: two threads carry frames between them and a socket that
//! is a port.

use rustix::{
    io::{Errno, ioctl_fionread},
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
};
use std::{
    io::{self, BufRead as _, BufReader, Read, Write},
    os::fd::OwnedFd,
    thread,
    time::Duration,
};
use tokio::sync::mpsc;

/// The longest frame that VDE's programs send and take (libvdeplug, VDE_ETHBUFSIZE less its
/// header): who says more speaks something else.
const LONGEST: usize = 9236;

/// Octets that are read at a time.
// Some bursts of frames: a pipe holds no more (pipe(7)).
const READ: usize = 64 << 10;

/// Frames on their way from one pair of streams.
pub(super) struct Relay {
    /// The port's end.
    pub(super) socket: OwnedFd,
    /// Another descriptor of that.
    waiting: OwnedFd,
    ended: mpsc::UnboundedReceiver<Result<(), String>>,
}

impl Relay {
    /// Begins to carry frames.
    pub(super) fn start(
        input: impl Read + Send + 'static,
        output: impl Write + Send + 'static,
    ) -> io::Result<Self> {
        let kind = SocketType::SEQPACKET;
        let (ours, socket) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        let (end, ended) = mpsc::unbounded_channel();
        let (other, other_end) = (ours.try_clone()?, end.clone());
        // They end with the program, if not before: a read cannot be called off. Nobody listens
        // once the port is gone.
        thread::Builder::new()
            .name("from stream".into())
            .spawn(move || drop(end.send(from_stream(input, &ours))))?;
        thread::Builder::new()
            .name("to stream".into())
            .spawn(move || drop(other_end.send(to_stream(&other, output))))?;
        Ok(Self { waiting: socket.try_clone()?, socket, ended })
    }

    /// Returns the port's end, and what says when the streams have ended.
    pub(super) fn split(self) -> (OwnedFd, Ended) {
        (self.socket, Ended { waiting: self.waiting, ended: self.ended })
    }
}

/// Says when streams have ended.
pub(super) struct Ended {
    waiting: OwnedFd,
    ended: mpsc::UnboundedReceiver<Result<(), String>>,
}

impl Ended {
    /// Returns why, once they have and the port has taken what came before.
    pub(super) async fn wait(&mut self) -> Result<(), String> {
        let ended = self.ended.recv().await.unwrap_or(Ok(()));
        // Rarely, and not for long: a pipe was closed right after its last frame.
        while ended.is_ok() && ioctl_fionread(&self.waiting).is_ok_and(|octets| octets > 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        ended
    }
}

/// Takes a stream apart until its end.
fn from_stream(input: impl Read, socket: &OwnedFd) -> Result<(), String> {
    let mut input = BufReader::with_capacity(READ, input);
    let (mut length, mut frame) = ([0; 2], [0; LONGEST]);
    loop {
        if input.fill_buf().map_err(unreadable)?.is_empty() {
            return Ok(());
        }
        input.read_exact(&mut length).map_err(unreadable)?;
        let len = usize::from(u16::from_be_bytes(length));
        let Some(frame) = frame.get_mut(..len) else {
            return Err(format!("length {len}: not a VDE stream"));
        };
        input.read_exact(frame).map_err(unreadable)?;
        // Nothing is no message to a packet socket, but its end.
        if len > 0 && send(socket, frame, SendFlags::NOSIGNAL).is_err() {
            // The port is gone: why, is said by the other end of the cable.
            return Ok(());
        }
    }
}

fn unreadable(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the stream ends within a frame".into(),
        _ => format!("cannot read: {error}"),
    }
}

/// Puts a stream together until nobody takes it.
fn to_stream(socket: &OwnedFd, mut output: impl Write) -> Result<(), String> {
    let mut octets = vec![0; 2 + usize::from(u16::MAX)];
    loop {
        match recv(socket, &mut octets[2..], RecvFlags::TRUNC) {
            Ok((_, 0)) => return Ok(()),
            Ok((_, len)) => {
                // Longer than the prefix can say: no member of a VDE network takes it.
                let Ok(length) = u16::try_from(len) else { continue };
                octets[..2].copy_from_slice(&length.to_be_bytes());
                let written = output.write_all(&octets[..2 + len]).and_then(|()| output.flush());
                if written.is_err() {
                    return Ok(());
                }
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(format!("cannot receive: {errno}")),
        }
    }
}
