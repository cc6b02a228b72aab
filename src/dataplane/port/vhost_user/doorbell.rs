//! Waking a guest: a write to the descriptor that its VMM gave, and a way out if that blocks.
//!
//! An eventfd is made non-blocking when it arrives, but the flag belongs to the open file, which the VMM shares: it can take it
//! away again and fill the eventfd, so that the write waits for ever. Each thread says which bell it rings; [`Watch`] looks
//! now and then, empties a bell that is still being rung, and marks it blocked, for which its vNIC fails.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat},
    net::{SendFlags, send},
};
use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

/// All bells there are, and those that were.
static BELLS: Mutex<Vec<Weak<Bell>>> = Mutex::new(Vec::new());
/// All threads that ever rang one.
static RINGERS: Mutex<Vec<Weak<Ringer>>> = Mutex::new(Vec::new());

thread_local! {
    static RINGER: Arc<Ringer> = {
        let ringer = Arc::default();
        lock(&RINGERS).push(Arc::downgrade(&ringer));
        ringer
    };
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Bell {
    fd: OwnedFd,
    blocked: AtomicBool,
}

/// What a thread rings just now.
#[derive(Debug, Default)]
struct Ringer {
    /// The address of a [`Bell`]; 0: none.
    bell: AtomicUsize,
    /// How many it has rung.
    rung: AtomicU64,
}

/// A descriptor to wake a guest with.
#[derive(Debug, Clone)]
pub struct Doorbell {
    bell: Arc<Bell>,
    is_socket: bool,
}

impl Doorbell {
    /// Wraps a call descriptor: an eventfd or a socket.
    pub fn new(fd: OwnedFd) -> Self {
        let is_socket =
            fstat(&fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket);
        set_nonblocking(&fd);
        let bell = Arc::new(Bell { fd, blocked: AtomicBool::new(false) });
        let mut bells = lock(&BELLS);
        if bells.len() == bells.capacity() {
            bells.retain(|bell| bell.strong_count() > 0);
        }
        bells.push(Arc::downgrade(&bell));
        Self { bell, is_socket }
    }

    /// Its descriptor.
    pub fn fd(&self) -> &OwnedFd {
        &self.bell.fd
    }

    /// Whether it has blocked a thread that rang it.
    pub fn has_blocked(&self) -> bool {
        self.bell.blocked.load(Ordering::Relaxed)
    }

    /// Rings. A descriptor that takes no more was rung and not yet heard, which is as good; one that is broken is
    /// its owner's loss.
    pub fn ring(&self) {
        let one = 1_u64.to_ne_bytes();
        if self.is_socket {
            send(&self.bell.fd, &one, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).ok();
            return;
        }
        RINGER.with(|ringer| {
            ringer.bell.store(Arc::as_ptr(&self.bell) as usize, Ordering::Relaxed);
            rustix::io::write(&self.bell.fd, &one).ok();
            ringer.bell.store(0, Ordering::Relaxed);
            ringer.rung.store(ringer.rung.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        });
    }
}

fn set_nonblocking(fd: &OwnedFd) {
    if let Ok(flags) = fcntl_getfl(fd) {
        let set = fcntl_setfl(fd, flags | OFlags::NONBLOCK);
        tracing::trace!(?set, "call descriptor made non-blocking");
    }
}

/// Looks after those who ring.
#[derive(Debug, Default)]
pub struct Watch {
    /// What threads rang at the last look: their address, the bell's, and their count.
    seen: Vec<(usize, usize, u64)>,
}

impl Watch {
    /// Frees every thread that rings what it rang at the last look.
    pub fn look(&mut self) {
        let mut now = Vec::new();
        lock(&RINGERS).retain(|ringer| {
            let Some(ringer) = ringer.upgrade() else { return false };
            let bell = ringer.bell.load(Ordering::Relaxed);
            if bell != 0 {
                let rung = ringer.rung.load(Ordering::Relaxed);
                now.push((Arc::as_ptr(&ringer) as usize, bell, rung));
            }
            true
        });
        for stuck in now.iter().filter(|seen| self.seen.contains(seen)) {
            let bells = lock(&BELLS);
            if let Some(bell) = bells.iter().find(|bell| bell.as_ptr() as usize == stuck.1)
                && let Some(bell) = bell.upgrade()
            {
                free(bell);
            }
        }
        self.seen = now;
    }
}

/// Empties a bell, so that who rings it goes on, unless it is not full: then its ringer waits for a CPU only. The VMM may
/// empty it first and let us wait: hence a thread.
fn free(bell: Arc<Bell>) {
    let mut writable = [PollFd::new(&bell.fd, PollFlags::OUT)];
    if poll(&mut writable, Some(&Timespec::default())) != Ok(0) {
        return;
    }
    bell.blocked.store(true, Ordering::Relaxed);
    set_nonblocking(&bell.fd);
    let emptied = std::thread::Builder::new().name("doorbell".into()).spawn(move || {
        rustix::io::read(&bell.fd, &mut [0; 8]).ok();
    });
    if let Err(error) = emptied {
        tracing::error!(%error, "a VMM holds up a thread, and it cannot be freed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::time::{Duration, Instant};

    /// An eventfd that was filled, and is to block, as its VMM sees it; and ours.
    fn full() -> (OwnedFd, Doorbell) {
        let theirs = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let ours = Doorbell::new(theirs.try_clone().unwrap());
        rustix::io::write(&theirs, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        fcntl_setfl(&theirs, OFlags::empty()).unwrap();
        (theirs, ours)
    }

    #[test]
    fn a_bell_that_blocks_is_emptied() {
        let (_theirs, bell) = full();
        let ringing = bell.clone();
        let ringer = std::thread::spawn(move || ringing.ring());
        let mut watch = Watch::default();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !ringer.is_finished() {
            assert!(Instant::now() < deadline, "it still rings");
            watch.look();
            std::thread::park_timeout(Duration::from_millis(20));
        }
        assert!(bell.has_blocked());
    }

    #[test]
    fn who_only_waits_for_a_cpu_is_left_alone() {
        let bell = Doorbell::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        // As a thread looks that was stopped just before it writes.
        let ringer: Arc<Ringer> = Arc::default();
        lock(&RINGERS).push(Arc::downgrade(&ringer));
        ringer.bell.store(Arc::as_ptr(&bell.bell) as usize, Ordering::Relaxed);
        let mut watch = Watch::default();
        (0..3).for_each(|_| watch.look());
        assert!(!bell.has_blocked());
    }

    #[test]
    fn bells_that_ring_are_left_alone() {
        let theirs = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let bell = Doorbell::new(theirs.try_clone().unwrap());
        let mut watch = Watch::default();
        for _ in 0..100 {
            bell.ring();
            watch.look();
        }
        assert!(!bell.has_blocked());
        let mut count = [0; 8];
        rustix::io::read(&theirs, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 100);
    }
}
