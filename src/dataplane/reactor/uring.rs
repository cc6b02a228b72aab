//! Sleeping until a descriptor is ready, by io_uring multishot polls.
//!
//! Takes descriptors with tokens and returns the tokens of those that became ready. A poll
//! stands until cancelled; nothing is ever read, an eventfd's every write wakes again.
#![expect(
    unsafe_code,
    reason = "io_uring submissions name descriptors by number: the caller's must be open"
)]

use crate::dataplane::port::Wakeup;
use io_uring::{IoUring, cqueue, opcode, register::Restriction, squeue, types};
use std::{io, os::fd::AsRawFd as _, time::Duration};

/// The token of completions nobody waits for.
const IGNORED: u64 = u64::MAX;
// Entries are submitted one at a time. What counts is the completion queue, which has twice as many
// (io_uring_setup(2)): so many queues may ring between two turns before a poll is ended.
const ENTRIES: u32 = 256;
/// IORING_ENTER_GETEVENTS.
const GET_EVENTS: u32 = 1;
// To poll such a descriptor again would complete at once, for ever.
const FAILED: u32 = (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) as u32;

/// One io_uring, used by the thread that made it.
pub(super) struct Uring {
    ring: IoUring,
}

/// A completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wake {
    /// Whose.
    pub(super) token: u64,
    /// The poll has ended though its descriptor is in order: it is to be started again.
    pub(super) ended: bool,
}

impl Uring {
    /// Sets up a ring for this thread, which can do nothing but poll, ever: seccomp does not see
    /// what a ring does. Kernels before 6.1 get one without deferred task work.
    pub(super) fn new() -> io::Result<Self> {
        // Deferred task work (Linux 6.1): a wake-up does not interrupt a reactor that polls. The
        // flag in shared memory says when there is some, so that a busy turn needs no system call
        // to find out.
        let best = IoUring::builder()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .build(ENTRIES);
        // Disabled at first: restrictions can be set before a ring is enabled, and never after
        // (io_uring_register(2)).
        let ring = best.or_else(|_| IoUring::builder().setup_r_disabled().build(ENTRIES))?;
        let allowed = [opcode::PollAdd::CODE, opcode::PollRemove::CODE];
        ring.submitter().register_restrictions(&mut allowed.map(Restriction::sqe_op))?;
        ring.submitter().register_enable_rings()?;
        Ok(Self { ring })
    }

    /// Polls a descriptor until cancelled. The kernel holds the file itself from the next
    /// submission on, which happens before this returns.
    pub(super) fn watch(&mut self, wakeup: Wakeup<'_>, token: u64) -> io::Result<()> {
        let (fd, events) = match wakeup {
            Wakeup::Read(fd) => (fd, libc::POLLIN),
            // Edges, not levels: one that can be written to wakes only when it could not be before.
            Wakeup::ReadOrWrite(fd) => (fd, libc::POLLIN | libc::POLLOUT),
        };
        let poll = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), events as u32);
        // Multishot: one submission for the life of a port, not one for each wake-up.
        self.submit(&poll.multi(true).build().user_data(token))
    }

    /// Ends the poll of `token`.
    pub(super) fn unwatch(&mut self, token: u64) -> io::Result<()> {
        self.submit(&opcode::PollRemove::new(token).build().user_data(IGNORED))
    }

    fn submit(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: the entry refers to no memory, and to a descriptor that is open while it is
        // submitted, below.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(|_| io::Error::other("the submission queue is full"))?;
        self.ring.submit().map(|_| ())
    }

    /// Whether [`Uring::wakes`] would return something: cheap enough for every turn of a busy loop.
    pub(super) fn has_wakes(&mut self) -> bool {
        if self.ring.submission().taskrun() {
            // SAFETY: submits nothing and waits for nothing: deferred work becomes completions. An
            // error shows again when sleeping.
            unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, 0, GET_EVENTS, None) }.ok();
        }
        !self.ring.completion().is_empty()
    }

    /// Sleeps until there is a completion, `timeout` has passed or a signal came.
    pub(super) fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let result = match timeout.map(types::Timespec::from) {
            Some(timespec) => {
                let args = types::SubmitArgs::new().timespec(&timespec);
                self.ring.submitter().submit_with_args(1, &args)
            }
            None => self.ring.submit_and_wait(1),
        };
        match result {
            Ok(_) => Ok(()),
            Err(error)
                // Time is up, a signal came, or the completion queue is full: in each case go on.
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The completions so far.
    pub(super) fn wakes(&mut self, wakes: &mut Vec<Wake>) {
        wakes.clear();
        for entry in self.ring.completion() {
            let (token, result) = (entry.user_data(), entry.result());
            // An error is that of a cancelled poll: whose port was detached, it wants no wake-up.
            if token == IGNORED || result < 0 {
                continue;
            }
            // IORING_CQE_F_MORE is missing from the last completion of a multishot poll.
            let ended = !cqueue::more(entry.flags()) && result as u32 & FAILED == 0;
            wakes.push(Wake { token, ended });
        }
    }
}

/// What this thread has had to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waits {
    /// How often it has slept of its own accord.
    pub(super) naps: u64,
    /// How many pages of memory it was the first to touch, for the kernel to find or to clear.
    pub(super) faults: u64,
}

/// What this thread has had to wait for: getrusage(2), `ru_nvcsw` and `ru_minflt`.
pub(super) fn waits() -> Waits {
    // SAFETY: all zeros is a valid rusage, and the kernel writes to a local that outlives the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage
    };
    Waits { naps: usage.ru_nvcsw as u64, faults: usage.ru_minflt as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::os::fd::AsFd as _;

    #[test]
    fn a_ring_polls_and_does_nothing_else() {
        let mut uring = Uring::new().unwrap();
        let event = eventfd(1, EventfdFlags::CLOEXEC).unwrap();
        uring.watch(Wakeup::Read(event.as_fd()), 7).unwrap();
        let mut wakes = Vec::new();
        uring.sleep(None).unwrap();
        uring.wakes(&mut wakes);
        assert_eq!(wakes, [Wake { token: 7, ended: false }]);
        for (entry, token) in
            [(opcode::Nop::new().build(), 8), (opcode::Close::new(types::Fd(1 << 20)).build(), 9)]
        {
            uring.submit(&entry.user_data(token)).unwrap();
            uring.sleep(None).unwrap();
            let refused = uring.ring.completion().map(|done| (done.user_data(), done.result()));
            assert_eq!(refused.collect::<Vec<_>>(), [(token, -libc::EACCES)]);
        }
    }
}
