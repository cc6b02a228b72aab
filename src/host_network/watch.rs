//! Whether others may have changed what the kernel was told: links, addresses and routes by
//! rtnetlink(7), which says so, and nftables by the number of their last change.

use super::{
    netlink::{OUR_PROTOCOL, messages},
    nfnetlink::Nfnetlink,
    tables,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

/// Of links, and addresses and routes of both families (RTMGRP_*).
const GROUPS: u32 = 0x1 | 0x10 | 0x100 | 0x40 | 0x400;
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const DELETE_ROUTE: u16 = 25;
/// Where a message says of a link which of its flags have changed, and of a route whose it is.
const CHANGED_FLAGS: usize = 16 + 12;
const PROTOCOL: usize = 16 + 5;

/// Hears of changes. Its descriptor can be read when there are some.
// There is no such message for rules that would not cost one for each place of each balancer.
#[derive(Debug)]
pub struct Watch {
    routes: Socket,
    netfilter: Nfnetlink,
    /// The change of nftables up to which all is known.
    known: Arc<AtomicU32>,
}

impl Watch {
    pub(super) fn open(known: Arc<AtomicU32>) -> io::Result<Self> {
        let mut routes = Socket::new(NETLINK_ROUTE)?;
        routes.bind(&SocketAddr::new(0, GROUPS))?;
        routes.set_non_blocking(true)?;
        Ok(Self { routes, netfilter: Nfnetlink::open()?, known })
    }

    /// Takes all that is said. Returns whether some of it may concern what was told.
    pub fn hear(&self) -> bool {
        let mut is_of_concern = false;
        loop {
            match self.routes.recv_from_full() {
                Ok((datagram, _)) => is_of_concern |= messages(&datagram).any(is_ours),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return is_of_concern,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // More was said than there is room for: anything may have been.
                Err(_) => return true,
            }
        }
    }

    /// Whether nftables have changed since what is known of them.
    pub fn have_rules_changed(&self) -> bool {
        // A kernel that does not tell says nothing of a change.
        tables::generation(&self.netfilter).is_ok_and(|now| now != self.known.load(Relaxed))
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.routes.as_raw_fd()
    }
}

/// Whether a message is of interest: of a busy router most are not.
fn is_ours((kind, message): (u16, &[u8])) -> bool {
    match kind {
        DELETE_LINK | NEW_ADDRESS | DELETE_ADDRESS => true,
        // Up or down: routes of IPv4 and neighbours that are answered for go without a word.
        NEW_LINK => {
            let changed = message.get(CHANGED_FLAGS..).and_then(|rest| rest.first_chunk());
            let is_up_or_down = |flags| u32::from_ne_bytes(flags) & libc::IFF_UP as u32 != 0;
            changed.copied().is_some_and(is_up_or_down)
        }
        DELETE_ROUTE => message.get(PROTOCOL) == Some(&OUR_PROTOCOL),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, at: usize, octet: u8) -> Vec<u8> {
        let mut message = vec![0; 32];
        message[0] = 32;
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message[at] = octet;
        message
    }

    #[test]
    fn only_what_may_undo_what_was_told_is_of_interest() {
        let datagram = [
            message(NEW_LINK, CHANGED_FLAGS, 1),
            message(NEW_LINK, CHANGED_FLAGS, 0x40),
            message(DELETE_ROUTE, PROTOCOL, 109),
            message(DELETE_ROUTE, PROTOCOL, 3),
            message(24, PROTOCOL, 109),
            message(NEW_ADDRESS, 20, 0),
        ]
        .concat();
        let heard: Vec<_> = messages(&datagram).map(is_ours).collect();
        assert_eq!(heard, [true, false, true, false, false, true]);
        assert_eq!(messages(&[0; 64]).count(), 0);
    }
}
