//! Waking a guest by the call descriptor that its VMM gave: never waits, whatever the VMM does with
//! it.
//!
//! An eventfd is notified by the kernel (`aio.rs`); a UNIX socket (User-mode Linux) gets a message
//! if it has room. One that has no room was signalled and not yet heard, which is as good.

//! A signal walks all that wait for the descriptor, and its owner may have millions wait: one that
//! took much of the CPU is made by its vNIC's own thread for a while.

use super::aio::Notifier;
use crate::dataplane::{
    foreign::{Foreign, Kind},
    port::MAX_VISIT,
};
use rustix::{
    net::{SendFlags, send},
    time::{ClockId, clock_gettime},
};
use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How long signals are made by another thread after one took much of the CPU.
// Then one is made here again: those that waited for the descriptor may be gone.
const APART: Duration = Duration::from_secs(60);

thread_local! {
    // One a thread: no two wait for each other in the kernel, and no lock is needed.
    static NOTIFIER: RefCell<Option<Notifier>> = const { RefCell::new(None) };
    static TIMED: Cell<bool> = const { Cell::new(false) };
}

/// Makes this thread ready to signal: what could fail, fails here.
pub fn prepare() -> io::Result<()> {
    NOTIFIER.with_borrow_mut(|notifier| {
        if notifier.is_none() {
            *notifier = Some(Notifier::new()?);
        }
        Ok(())
    })
}

/// Whether this thread is to time its signals from now on: it was held up, perhaps by one.
pub fn time(timed: bool) {
    TIMED.set(timed);
}

/// A descriptor to wake a guest with.
#[derive(Debug, Clone)]
pub struct CallFd(Arc<Call>);

#[derive(Debug)]
struct Call {
    /// An eventfd, or a UNIX socket, in which other descriptors may be travelling.
    fd: Foreign<OwnedFd>,
    is_socket: bool,
    /// Until when signals are made apart, in milliseconds of [`clock`]. 0: they are not.
    apart_until: AtomicU64,
    /// The vNIC's own thread is to make one, and has not begun.
    pending: AtomicBool,
}

/// Milliseconds since it was first asked for.
fn clock() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    // A number, since an `Instant` fits no atomic.
    BEGAN.elapsed().as_millis() as u64
}

/// How long this thread has run.
// Nothing here sleeps. By the clock on the wall, a guest would pay for a minute for the CPU having
// been somebody else's during one signal, as on a busy host.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

impl CallFd {
    /// Wraps a call or error descriptor: an eventfd, or a UNIX socket.
    pub fn new(fd: Foreign<OwnedFd>) -> Self {
        let is_socket = Kind::of(&*fd) != Kind::Eventfd;
        let (apart_until, pending) = (AtomicU64::new(0), AtomicBool::new(false));
        Self(Arc::new(Call { fd, is_socket, apart_until, pending }))
    }

    /// Its descriptor.
    pub fn fd(&self) -> &OwnedFd {
        &self.0.fd
    }

    /// Whether it is a socket.
    pub fn is_socket(&self) -> bool {
        self.0.is_socket
    }

    /// Signals it. Where the descriptor is broken, that is its owner's loss.
    pub fn signal(&self) {
        // Relaxed: it guards nothing, and an old value costs one slow signal. The clock is not read
        // while it is 0.
        if self.0.apart_until.load(Ordering::Relaxed) != 0 && self.is_apart() {
            return self.signal_apart();
        }
        // The clock is read twice only where something is known to be slow.
        if !TIMED.get() {
            return self.0.signal();
        }
        let began = cpu_time();
        self.0.signal();
        if cpu_time() - began > MAX_VISIT {
            self.0.apart_until.store(clock() + APART.as_millis() as u64, Ordering::Relaxed);
        }
    }

    /// Whether signals are still to be made apart.
    #[cold]
    fn is_apart(&self) -> bool {
        let apart = clock() < self.0.apart_until.load(Ordering::Relaxed);
        if !apart {
            self.0.apart_until.store(0, Ordering::Relaxed);
        }
        apart
    }

    /// Has the vNIC's own thread signal it, once for all calls until that happens.
    #[cold]
    fn signal_apart(&self) {
        if self.0.pending.swap(true, Ordering::SeqCst) {
            return;
        }
        let call = Arc::clone(&self.0);
        self.0.fd.apart(move || {
            // Before the signal: what comes while that is made needs another.
            call.pending.store(false, Ordering::SeqCst);
            call.signal();
        });
    }
}

impl Call {
    fn signal(&self) {
        if self.is_socket {
            // As many octets as an eventfd has: User-mode Linux reads its call descriptor by eight.
            let one = 1_u64.to_ne_bytes();
            // DONTWAIT, not O_NONBLOCK: that flag is shared with the VMM, which may clear it.
            send(&*self.fd, &one, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).ok();
            return;
        }
        NOTIFIER.with_borrow_mut(|notifier| {
            // Reactors are prepared; another thread signals errors, which VMMs can do without, and
            // what is made apart.
            if notifier.is_none() {
                *notifier = Notifier::new().ok();
            }
            if let Some(notifier) = notifier {
                notifier.notify(self.fd.as_fd()).ok();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::{
        event::{EventfdFlags, eventfd},
        fs::{OFlags, fcntl_setfl},
        net::{AddressFamily, SocketFlags, SocketType, socketpair},
    };

    #[test]
    fn a_full_eventfd_or_socket_holds_nobody_up() {
        let theirs = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let call = CallFd::new(theirs.try_clone().unwrap().into());
        call.signal();
        rustix::io::write(&theirs, &(u64::MAX - 2).to_ne_bytes()).unwrap();
        fcntl_setfl(&theirs, OFlags::empty()).unwrap();
        (0..3).for_each(|_| call.signal());

        let flags = SocketFlags::CLOEXEC;
        let (ours, _theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        let call = CallFd::new(ours.into());
        (0..10_000).for_each(|_| call.signal());
    }

    #[test]
    fn a_signal_during_which_the_cpu_is_anothers_has_not_taken_long() {
        let began = (cpu_time(), Instant::now());
        while began.1.elapsed() < 2 * MAX_VISIT {
            std::thread::park_timeout(2 * MAX_VISIT);
        }
        assert!(cpu_time() - began.0 < MAX_VISIT);
        let busy = Instant::now();
        while cpu_time() - began.0 < MAX_VISIT {
            assert!(busy.elapsed() < Duration::from_secs(60), "it runs all the same");
        }
    }

    #[test]
    fn what_is_made_apart_arrives() {
        let theirs = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let call = CallFd::new(theirs.try_clone().unwrap().into());
        call.0.apart_until.store(clock() + 3_600_000, Ordering::Relaxed);
        for _ in 0..3 {
            call.signal();
            // Waits until it is there.
            assert_eq!(rustix::io::read(&theirs, &mut [0; 8]), Ok(8));
        }
        call.0.apart_until.store(1, Ordering::Relaxed);
        while clock() < 1 {
            std::thread::yield_now();
        }
        call.signal();
        assert_eq!(rustix::io::read(&theirs, &mut [0; 8]), Ok(8));
        assert_eq!(call.0.apart_until.load(Ordering::Relaxed), 0, "it is over");
    }
}
