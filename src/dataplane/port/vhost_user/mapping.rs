//! One file of a VMM in our address space: what may be mapped, and what happens when it is taken away.
//!
//! An access to memory that the VMM truncated raises SIGBUS: the handler here puts zeros in the place of the whole mapping and marks
//! it dead, so that the access goes on and its vNIC alone is lost.
#![expect(unsafe_code, reason = "mmap, a signal handler, and octets shared with another process")]

use super::memory::MemoryError;
use rustix::fs::{FileType, OFlags, SealFlags, fcntl_add_seals, fcntl_getfl, fstat, fstatfs};
use std::{
    fs::File,
    os::fd::OwnedFd,
    sync::{
        Mutex, Once, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
};
use vm_memory::{FileOffset, mmap::MmapRegionBuilder};

const TMPFS_MAGIC: u64 = 0x0102_1994;
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// Why a file cannot be mapped.
pub(super) enum FileProblem {
    Unfit(&'static str),
    System(&'static str, std::io::Error),
}

impl FileProblem {
    /// As an error of the memory that was to be in it.
    pub(super) fn into_error(
        self,
        refuse: impl FnOnce(&'static str) -> MemoryError,
    ) -> MemoryError {
        match self {
            Self::Unfit(reason) => refuse(reason),
            Self::System(action, source) => MemoryError::System { action, source },
        }
    }
}

/// Page faults on the file must neither block nor, as far as can be seen now, fail.
pub(super) fn check_file(fd: &OwnedFd, end: u64) -> Result<(), FileProblem> {
    let system = |action| move |e: rustix::io::Errno| FileProblem::System(action, e.into());
    let stat = fstat(fd).map_err(system("look at"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(FileProblem::Unfit("its descriptor is not a file"));
    }
    let kind = fstatfs(fd).map_err(system("look at"))?.f_type as u64;
    if kind != TMPFS_MAGIC && kind != HUGETLBFS_MAGIC {
        return Err(FileProblem::Unfit(
            "its file is neither in tmpfs nor in hugetlbfs (use a memfd)",
        ));
    }
    if u64::try_from(stat.st_size).unwrap_or(0) < end {
        return Err(FileProblem::Unfit("its file is shorter"));
    }
    let mode = fcntl_getfl(fd).map_err(system("look at"))?;
    if mode & OFlags::ACCMODE != OFlags::RDWR {
        return Err(FileProblem::Unfit("its file is not open for reading and writing"));
    }
    // Not every file can be sealed; those that cannot are watched by the SIGBUS handler alone.
    if let Err(error) = fcntl_add_seals(fd, SealFlags::SHRINK) {
        tracing::trace!(%error, "memory is not sealed against shrinking");
    }
    Ok(())
}

/// One mmap, from the file's beginning, and its place in the guard table.
#[derive(Debug)]
pub(super) struct Mapping {
    address: usize,
    len: usize,
    guard: usize,
    /// Unmaps when dropped.
    region: vm_memory::MmapRegion,
}

impl Mapping {
    /// Maps a file up to `end`, which [`check_file`] has found to be there.
    pub(super) fn new(fd: OwnedFd, end: u64) -> Result<Self, MemoryError> {
        let system = |action, source| MemoryError::System { action, source };
        let page = fstatfs(&fd).map_err(|e| system("look at", e.into()))?.f_bsize as u64;
        let len = usize::try_from(end.next_multiple_of(page.max(4096)))
            .map_err(|_| system("map", std::io::ErrorKind::OutOfMemory.into()))?;
        let region = MmapRegionBuilder::new(len)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
            .with_file_offset(FileOffset::new(File::from(fd), 0))
            .build()
            .map_err(|e| system("map", std::io::Error::other(e)))?;
        let address = region.as_ptr() as usize;
        // SAFETY: the range was mapped just now; a core dump must not contain guests (and a refusal changes nothing).
        let advised = unsafe { libc::madvise(region.as_ptr().cast(), len, libc::MADV_DONTDUMP) };
        tracing::trace!(advised, len, "guest memory mapped");
        let guard = claim_guard(address, len).ok_or_else(|| {
            system("map", std::io::Error::other("too many mappings in the daemon"))
        })?;
        Ok(Self { address, len, guard, region })
    }
}

impl Mapping {
    /// Where it is.
    pub(super) fn address(&self) -> usize {
        self.address
    }

    /// Octets.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether its memory was taken away while it was in use.
    pub(super) fn is_dead(&self) -> bool {
        GUARDS[self.guard].dead.load(Ordering::Relaxed)
    }

    /// One octet that both sides change atomically.
    pub(super) fn octet(&self, at: usize) -> Option<&AtomicU8> {
        // SAFETY: `at` is inside the mapping, which lives as long as the reference and is only accessed atomically there.
        (at < self.len).then(|| unsafe { AtomicU8::from_ptr((self.address + at) as *mut u8) })
    }

    /// Its file.
    pub(super) fn share(&self) -> std::io::Result<OwnedFd> {
        let file = self.region.file_offset().expect("every mapping is of a file").file();
        file.try_clone().map(OwnedFd::from)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        GUARDS[self.guard].len.store(0, Ordering::Release);
        free_guards().push(self.guard);
    }
}

/// What the SIGBUS handler knows of one mapping: only atomics, it runs in the middle of anything.
struct Guard {
    start: AtomicUsize,
    /// 0: the entry is free.
    len: AtomicUsize,
    dead: AtomicBool,
}

static GUARDS: [Guard; 1 << 15] = [const {
    Guard { start: AtomicUsize::new(0), len: AtomicUsize::new(0), dead: AtomicBool::new(false) }
}; 1 << 15];
/// Entries from here on were never used.
static GUARDS_END: AtomicUsize = AtomicUsize::new(0);
static GUARDS_FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());

fn free_guards() -> std::sync::MutexGuard<'static, Vec<usize>> {
    GUARDS_FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn claim_guard(start: usize, len: usize) -> Option<usize> {
    install_handler();
    let mut free = free_guards();
    let at = match free.pop() {
        Some(at) => at,
        None => {
            let at = GUARDS_END.load(Ordering::Relaxed);
            GUARDS.get(at)?;
            GUARDS_END.store(at + 1, Ordering::Release);
            at
        }
    };
    GUARDS[at].dead.store(false, Ordering::Relaxed);
    GUARDS[at].start.store(start, Ordering::Relaxed);
    GUARDS[at].len.store(len, Ordering::Release);
    Some(at)
}

fn install_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: all zeros is a valid sigaction; the fields that matter are set below.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: `on_sigbus` only touches atomics and makes system calls that are async-signal-safe.
        let set = unsafe { libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) };
        assert_eq!(set, 0, "SIGBUS can be handled on Linux");
    });
}

/// A VMM truncated memory it shares: put anonymous memory in place of the whole mapping, and mark it dead, so that
/// only its own vNIC is lost. Any other fault ends the process as it would have.
extern "C" fn on_sigbus(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel gives a valid siginfo to a SA_SIGINFO handler.
    let fault = unsafe { (*info).si_addr() } as usize;
    let end = GUARDS_END.load(Ordering::Acquire);
    for guard in &GUARDS[..end] {
        let len = guard.len.load(Ordering::Acquire);
        let start = guard.start.load(Ordering::Relaxed);
        if fault.wrapping_sub(start) >= len {
            continue;
        }
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        );
        // SAFETY: replaces exactly one mapping that is in use and ours.
        let mapped = unsafe { libc::mmap(start as *mut libc::c_void, len, prot, flags, -1, 0) };
        if mapped != libc::MAP_FAILED {
            guard.dead.store(true, Ordering::Release);
            return;
        }
    }
    // SAFETY: restores the default action; the instruction faults again and the process ends with a core.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}
