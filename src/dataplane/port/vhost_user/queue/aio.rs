//! Adding to an eventfd by the kernel's own hand: an AIO request that asks for a notification
//! (io_submit(2), `IOCB_FLAG_RESFD`).
//!
//! A write(2) waits where the eventfd is full and blocking, and both are up to who shares it. A
//! notification never waits: the kernel adds what fits. The request itself reads nothing of an
//! empty file of ours, and is done when io_submit returns.
#![expect(unsafe_code, reason = "the AIO system calls have no safe wrapper")]

use rustix::fs::{MemfdFlags, memfd_create};
use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

/// Completions that the kernel has room for. They say nothing. They are taken away when half of the
/// room is used.
// It counts against fs.aio-max-nr, by default 65,536 for the whole machine. So many let 128 signals
// share one call of io_getevents.
const ROOM: usize = 256;
/// linux/aio_abi.h, which libc does not define.
const IOCB_CMD_PREAD: u16 = 0;
const IOCB_FLAG_RESFD: u32 = 1;

/// An AIO context, for one thread.
#[derive(Debug)]
pub(in crate::dataplane::port::vhost_user) struct Notifier {
    context: libc::c_ulong,
    /// An empty file, from which nothing is read.
    empty: OwnedFd,
    /// Completions that were not taken away.
    completed: usize,
}

/// io_getevents(2): `struct io_event`.
type Completion = [u64; 4];

impl Notifier {
    /// Sets up a context. Fails where the kernel lacks AIO, a filter forbids it, or fs.aio-max-nr
    /// is used up.
    pub(in crate::dataplane::port::vhost_user) fn new() -> io::Result<Self> {
        let empty = memfd_create("empty", MemfdFlags::CLOEXEC)?;
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes the context's number to a local that outlives the call.
        let set_up = unsafe { libc::syscall(libc::SYS_io_setup, ROOM, &raw mut context) };
        if set_up != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { context, empty, completed: 0 })
    }

    /// Adds one to an eventfd. It never waits.
    pub(in crate::dataplane::port::vhost_user) fn notify(
        &mut self,
        eventfd: BorrowedFd<'_>,
    ) -> io::Result<()> {
        // Long before the ring is full: then io_submit would refuse (EAGAIN).
        if self.completed >= ROOM / 2 {
            self.take_completions();
        }
        // SAFETY: all zeros is a valid iocb, which asks for nothing; the fields that matter are set
        // below.
        let mut request: libc::iocb = unsafe { std::mem::zeroed() };
        // A read of no octets of an empty file in memory: the least that completes at once.
        request.aio_lio_opcode = IOCB_CMD_PREAD;
        request.aio_fildes = self.empty.as_raw_fd() as u32;
        request.aio_flags = IOCB_FLAG_RESFD;
        request.aio_resfd = eventfd.as_raw_fd() as u32;
        let mut requests = [&raw mut request];
        // SAFETY: one request, which the kernel copies before it returns; it reads no octets, so it
        // touches no memory.
        let submitted =
            unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1, requests.as_mut_ptr()) };
        if submitted != 1 {
            return Err(io::Error::last_os_error());
        }
        self.completed += 1;
        Ok(())
    }

    fn take_completions(&mut self) {
        let mut completions: [Completion; ROOM] = [[0; 4]; ROOM];
        // None are asked for at least, so it does not wait, though it has no time-out.
        let (none, forever) = (0, std::ptr::null_mut::<libc::timespec>());
        // SAFETY: at least none and at most ROOM completions are written to a local with room for
        // so many.
        unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                none,
                ROOM,
                completions.as_mut_ptr(),
                forever,
            )
        };
        // Whatever it returned: there were at most ROOM, all of them complete.
        self.completed = 0;
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        // SAFETY: the context is this one's, and is not used again.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::{
        event::{EventfdFlags, eventfd},
        io::{read, write},
    };
    use std::os::fd::AsFd as _;

    fn value(eventfd: &OwnedFd) -> u64 {
        let mut value = [0; 8];
        read(eventfd, &mut value).unwrap();
        u64::from_ne_bytes(value)
    }

    #[test]
    fn every_notification_adds_one() {
        let mut notifier = Notifier::new().unwrap();
        let fd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        for _ in 0..10 * ROOM {
            notifier.notify(fd.as_fd()).unwrap();
        }
        assert_eq!(value(&fd), 10 * ROOM as u64);
    }

    #[test]
    fn a_full_eventfd_that_blocks_does_not_block() {
        let mut notifier = Notifier::new().unwrap();
        let fd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        for _ in 0..3 {
            notifier.notify(fd.as_fd()).unwrap();
        }
        assert_eq!(value(&fd), u64::MAX, "as full as can be");
        assert!(notifier.notify(notifier.empty.try_clone().unwrap().as_fd()).is_err());
    }
}
