//! Messages to the kernel's netfilter and from it, as octets (nfnetlink, `nfnetlink.h`): a request
//! in, what the kernel answers out.

use super::netlink::messages;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use std::io;

pub(super) const REQUEST: u16 = 1;
pub(super) const ACK: u16 = 4;
pub(super) const DUMP: u16 = 0x300;
pub(super) const CREATE: u16 = 0x400;
pub(super) const EXCLUSIVE: u16 = 0x200;
/// What ends an answer (netlink(7)).
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Octets of the headers of netlink, and of netfilter behind it.
const HEADER_LEN: usize = 16;
const HEADERS_LEN: usize = HEADER_LEN + 4;
/// What encloses a transaction.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// nftables among the subsystems (NFNL_SUBSYS_NFTABLES).
pub(super) const NFTABLES: u16 = 10;
/// Bits of an attribute's type that say how it is written.
const TYPE_MASK: u16 = 0x3fff;

/// A socket to netfilter, of the network namespace that it was opened in.
#[derive(Debug)]
pub(super) struct Nfnetlink(Socket);

impl Nfnetlink {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Asks the kernel, and passes what is behind the headers of each answer on.
    pub(super) fn ask(&self, request: &[u8], mut answer: impl FnMut(&[u8])) -> io::Result<()> {
        self.0.send(request, 0)?;
        loop {
            let (datagram, _) = self.0.recv_from_full()?;
            for (kind, message) in messages(&datagram) {
                match kind {
                    DONE => return Ok(()),
                    ERROR => {
                        let code = message.get(HEADER_LEN..).and_then(|rest| rest.first_chunk());
                        return match code.map(|code| i32::from_ne_bytes(*code)) {
                            Some(0) | None => Ok(()),
                            Some(code) => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    _ => answer(message.get(HEADERS_LEN..).unwrap_or(&[])),
                }
            }
        }
    }

    /// Carries a message out that changes nftables, and asks for an answer.
    pub(super) fn change(&self, message: &[u8]) -> io::Result<()> {
        let [begin, end] = [BATCH_BEGIN, BATCH_END].map(|kind| {
            // Of whom the transaction is, in the place of a resource.
            let mut bound = self::message(kind, REQUEST, 0, &[]);
            bound[HEADER_LEN + 2..].copy_from_slice(&NFTABLES.to_be_bytes());
            bound
        });
        self.ask(&[&begin, message, &end].concat(), |_| {})
    }

    /// Returns the socket itself.
    pub(super) fn into_socket(self) -> Socket {
        self.0
    }
}

/// Returns a message: headers, and attributes behind them.
pub(super) fn message(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let len = (HEADERS_LEN + attributes.len()) as u32;
    // Neither a number nor a port of ours: one request waits for its answer at a time.
    let header = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]];
    // Version 0, and no resource.
    [&header.concat()[..], &[family, 0, 0, 0], attributes].concat()
}

/// Returns an attribute.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = (4 + value.len()) as u16;
    let mut octets = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    // Each begins at a multiple of four octets.
    octets.resize(octets.len().next_multiple_of(4), 0);
    octets
}

/// Attributes: the type, and what is in it, with how it was written.
pub(super) fn attributes(octets: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
    let mut rest = octets;
    std::iter::from_fn(move || {
        let [a, b, c, d] = *rest.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([a, b]));
        let whole = rest.get(..len)?;
        let value = whole.get(4..)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((u16::from_ne_bytes([c, d]) & TYPE_MASK, value, whole))
    })
}

/// Returns what is in the attribute of a type.
pub(super) fn find(octets: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(octets).find(|(kind, ..)| *kind == wanted).map(|(_, value, _)| value)
}
