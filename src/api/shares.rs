//! How many connections there may be in all, and how many of them of one peer.

use crate::mutex::lock;
use rustix::process::{Resource, getrlimit};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex},
};

/// Connections in all, and at most a quarter of the files that may be open.
// The other three quarters are for guests: vNICs need descriptors for sockets, rings and memory.
const ALL: usize = 1024;
/// Of these, of one peer: others find room.
const EACH: usize = ALL / 4;

/// Who connects, for as much as can be told before anything is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Peer {
    /// A user of this host.
    User(u32),
    /// A host; of IPv6 its /64, in which one host may have as many addresses as it likes.
    Host(IpAddr),
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(user) => write!(f, "uid {user}"),
            Self::Host(address) => write!(f, "{address}"),
        }
    }
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        Self::Host(match address.to_canonical() {
            IpAddr::V6(address) if !address.is_loopback() => {
                // Interface identifiers have 64 bits (RFC 4291 §2.5.1), and a host chooses its own.
                IpAddr::V6((u128::from(address) >> 64 << 64).into())
            }
            address => address,
        })
    }
}

/// Counts connections.
#[derive(Debug)]
pub(super) struct Shares {
    all: usize,
    each: usize,
    taken: Mutex<HashMap<Peer, usize>>,
}

impl Default for Shares {
    fn default() -> Self {
        // After the daemon has raised it (`daemon::run`).
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        // At least four, and two for a peer: with few files, nothing could be changed otherwise.
        let all = ALL.min(usize::try_from(files / 4).unwrap_or(ALL)).max(4);
        Self { all, each: EACH.min(all / 2), taken: Mutex::default() }
    }
}

impl Shares {
    /// Room for one more of `peer`, until dropped; says what is used up where there is none.
    pub(super) fn take(self: &Arc<Self>, peer: Peer) -> Result<Share, String> {
        let mut taken = lock(&self.taken);
        if taken.values().sum::<usize>() >= self.all {
            return Err(format!("there are {} connections, the most there may be", self.all));
        }
        let count = taken.entry(peer).or_default();
        if *count >= self.each {
            return Err(format!("it has {count} connections, the most a peer may have"));
        }
        *count += 1;
        Ok(Share { shares: Arc::clone(self), peer })
    }
}

/// Room for one connection.
#[derive(Debug)]
pub(super) struct Share {
    shares: Arc<Shares>,
    peer: Peer,
}

impl Share {
    pub(super) fn peer(&self) -> Peer {
        self.peer
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = lock(&self.shares.taken);
        if let Some(count) = taken.get_mut(&self.peer) {
            *count -= 1;
            // Peers come and go: their entries must not add up.
            if *count == 0 {
                taken.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_its_share_and_others_find_room() {
        let shares = Arc::new(Shares { all: 5, each: 2, taken: Mutex::default() });
        let host = |text: &str| Peer::from(text.parse::<IpAddr>().unwrap());
        let first: Vec<_> = (0..2).map(|_| shares.take(host("2001:db8::1")).unwrap()).collect();
        let refused = shares.take(host("2001:db8::2")).unwrap_err();
        assert!(refused.contains("2 connections, the most a peer"), "{refused}");
        let _second = [host("2001:db8:0:1::1"), host("::1"), Peer::User(7)]
            .map(|peer| shares.take(peer).unwrap());
        let refused = shares.take(Peer::User(8)).unwrap_err();
        assert!(refused.contains("there are 5 connections"), "{refused}");
        drop(first);
        shares.take(Peer::User(8)).unwrap();
        assert_eq!(host("::ffff:192.0.2.1"), host("192.0.2.1"));
    }
}
