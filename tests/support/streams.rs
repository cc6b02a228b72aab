//! Clients that speak QEMU's stream protocol: a length of 32 bits in network order before each
//! frame.

use super::daemon::{PATIENCE, wait_until};
use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::Duration,
};

pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];
/// Local experiments (IEEE 802): of frames, and of those by which clients meet.
const FRAME: [u8; 2] = [0x88, 0xb5];
const MEETING: [u8; 2] = [0x88, 0xb6];

/// Ports of all addresses that nobody has, for now.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    // Held all at once, so that none is given twice.
    let listeners = [(); N].map(|()| TcpListener::bind("[::]:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// One end of a connection: as a VM's network card.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    number: u8,
}

pub(crate) fn mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, number]
}

pub(crate) fn frame(to: [u8; 6], from: u8, text: &str) -> Vec<u8> {
    [&to[..], &mac(from), &FRAME, text.as_bytes()].concat()
}

impl Client {
    /// Connects as `connect=:PORT` does: to this host.
    pub(crate) fn new(port: u16, number: u8) -> Self {
        let stream = TcpStream::connect(("localhost", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, number }
    }

    pub(crate) fn send(&mut self, frame: &[u8]) {
        let length = u32::try_from(frame.len()).unwrap().to_be_bytes();
        self.stream.write_all(&[&length[..], frame].concat()).unwrap();
    }

    pub(crate) fn say(&mut self, to: [u8; 6], text: &str) {
        self.send(&frame(to, self.number, text));
    }

    /// The next frame; none if none comes within the read timeout.
    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return None;
            }
            read => read.unwrap(),
        }
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        self.stream.read_exact(&mut frame).unwrap();
        Some(frame)
    }

    /// The text of the next frame that is of a test.
    pub(crate) fn hear(&mut self) -> String {
        loop {
            let frame = self.receive().expect("a frame comes");
            if frame[12..14] == FRAME {
                return String::from_utf8(frame[14..].to_vec()).unwrap();
            }
        }
    }

    /// Whether the meeting of another one is heard within a moment.
    fn hears_meeting(&mut self, from: u8) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let met = loop {
            match self.receive() {
                Some(frame) if frame[12..14] == MEETING && frame[6..12] == mac(from) => break true,
                Some(_) => {}
                None => break false,
            }
        };
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        met
    }

    /// Returns when the other end has closed the connection.
    pub(crate) fn wait_for_the_end(&mut self) {
        let ended = |error: &std::io::Error| error.kind() == ErrorKind::ConnectionReset;
        loop {
            match self.stream.read(&mut [0; 4096]) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => return assert!(ended(&error), "{error}"),
            }
        }
    }
}

/// Returns when all hear each other, and so are members of their VLAN.
pub(crate) fn meet(clients: &mut [&mut Client]) {
    for at in 0..clients.len() {
        for other in (0..clients.len()).filter(|other| *other != at) {
            let number = clients[at].number;
            let meeting = [&BROADCAST[..], &mac(number), &MEETING].concat();
            wait_until("two clients meet", || {
                clients[at].send(&meeting);
                clients[other].hears_meeting(number)
            });
        }
    }
}
