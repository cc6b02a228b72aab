//! Whom to ask: the servers of a network, or of the host as resolv.conf(5) has them; and what is
//! known of each.

use crate::{mutex::lock, resolv_conf, wire::dns_message::PORT};
use std::{
    collections::HashMap,
    fs::{self, Metadata},
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// How long one that was silent is asked last.
const SILENT: Duration = Duration::from_secs(30);
/// How long what it does not know is not tried again.
const LACKING: Duration = Duration::from_secs(3600);
/// Servers of which anything is known.
// Networks have few, and of another kind anything may be found out again.
const MOST_KNOWN: usize = 1024;

/// Whom a network asks for names of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// The servers of the host.
    Host,
    /// These.
    These(Arc<[SocketAddr]>),
}

impl Upstream {
    /// Those of a network that has these.
    pub fn of(servers: &[IpAddr]) -> Self {
        if servers.is_empty() {
            return Self::Host;
        }
        Self::These(servers.iter().map(|address| SocketAddr::new(*address, PORT)).collect())
    }
}

/// The servers of the host.
#[derive(Debug)]
pub(super) struct HostServers {
    path: PathBuf,
    read: Mutex<Option<(Version, Arc<[SocketAddr]>)>>,
}

/// Which state of a file it is; none where there is no such file.
type Version = Option<(u64, u64, i64, i64)>;

impl HostServers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, read: Mutex::default() }
    }

    /// Returns them as they are now: the file is read where it has changed.
    // It is small and of the host's own file system: nobody waits for it.
    pub(super) fn now(&self) -> Arc<[SocketAddr]> {
        let version = fs::metadata(&self.path).ok().as_ref().map(version);
        let mut read = lock(&self.read);
        match &*read {
            Some((known, servers)) if *known == version => Arc::clone(servers),
            _ => {
                let text = fs::read_to_string(&self.path).unwrap_or_default();
                let servers: Arc<[_]> = resolv_conf::servers(&text).into();
                tracing::debug!(path = %self.path.display(), ?servers, "names of others");
                *read = Some((version, Arc::clone(&servers)));
                servers
            }
        }
    }
}

fn version(file: &Metadata) -> (u64, u64, i64, i64) {
    (file.ino(), file.len(), file.mtime(), file.mtime_nsec())
}

/// What a server does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Lack {
    /// To answer at all.
    Answers,
    /// To repeat a question as it was written.
    Case,
    /// To read what EDNS adds.
    Edns,
}

/// What is known of servers.
#[derive(Debug, Default)]
pub(super) struct Habits(HashMap<(SocketAddr, Lack), Instant>);

impl Habits {
    /// A server lacks something.
    pub(super) fn note(&mut self, server: SocketAddr, lack: Lack, now: Instant) {
        if self.0.len() >= MOST_KNOWN {
            self.0.clear();
        }
        let lasts = if lack == Lack::Answers { SILENT } else { LACKING };
        self.0.insert((server, lack), now + lasts);
    }

    /// It has it after all.
    pub(super) fn forget(&mut self, server: SocketAddr, lack: Lack) {
        self.0.remove(&(server, lack));
    }

    /// Whether it lacks something, as far as is known.
    pub(super) fn lacks(&self, server: SocketAddr, lack: Lack, now: Instant) -> bool {
        self.0.get(&(server, lack)).is_some_and(|until| now < *until)
    }

    /// Returns servers in the order in which to ask them: as they are, those last that were silent.
    pub(super) fn order(&self, servers: &[SocketAddr], now: Instant) -> Vec<SocketAddr> {
        let mut servers = servers.to_vec();
        servers.sort_by_key(|server| self.lacks(*server, Lack::Answers, now));
        servers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_file_is_read_again_when_it_has_changed() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let servers = HostServers::new(file.path().to_owned());
        assert_eq!(*servers.now(), [at("127.0.0.1:53")]);
        file.write_all(b"nameserver 192.0.2.1\n").unwrap();
        assert_eq!(*servers.now(), [at("192.0.2.1:53")]);
        let first = servers.now();
        assert!(Arc::ptr_eq(&first, &servers.now()));
        // By another file in its place, as of as many octets, and by none.
        let other = tempfile::NamedTempFile::new().unwrap();
        fs::write(other.path(), "nameserver 192.0.2.2\n").unwrap();
        fs::rename(other.path(), file.path()).unwrap();
        assert_eq!(*servers.now(), [at("192.0.2.2:53")]);
        fs::remove_file(file.path()).unwrap();
        assert_eq!(*servers.now(), [at("127.0.0.1:53")]);
        assert_eq!(Upstream::of(&[]), Upstream::Host);
        let these = Upstream::of(&["2001:db8::1".parse().unwrap()]);
        assert_eq!(these, Upstream::These([at("[2001:db8::1]:53")].into()));
    }

    #[test]
    fn who_was_silent_is_asked_last_for_a_while() {
        let (mut habits, now) = (Habits::default(), Instant::now());
        let servers = ["192.0.2.1:53", "192.0.2.2:53"].map(at);
        habits.note(servers[0], Lack::Answers, now);
        assert_eq!(habits.order(&servers, now), [servers[1], servers[0]]);
        assert_eq!(habits.order(&servers, now + SILENT), servers);
        habits.note(servers[1], Lack::Answers, now);
        assert_eq!(habits.order(&servers, now), servers, "all were");
        habits.forget(servers[1], Lack::Answers);
        assert_eq!(habits.order(&servers, now), [servers[1], servers[0]]);
        habits.note(servers[1], Lack::Case, now);
        assert!(habits.lacks(servers[1], Lack::Case, now + SILENT));
        assert!(!habits.lacks(servers[1], Lack::Edns, now));
        assert!(!habits.lacks(servers[1], Lack::Case, now + LACKING));
        (0..u8::MAX).for_each(|n| {
            (0..8).for_each(|port| {
                habits.note(SocketAddr::new([192, 0, 2, n].into(), port), Lack::Case, now);
            });
        });
        assert!(habits.0.len() <= MOST_KNOWN);
    }
}
