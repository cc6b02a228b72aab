//! What happens when memory that a VMM shares is taken away: its access raises SIGBUS, and the
//! handler here puts zeros in its place and marks the mapping dead, so that the access goes on and
//! its vNIC alone is lost.
#![expect(unsafe_code, reason = "a signal handler, and mmap")]

use std::sync::{
    Mutex, Once, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// What the SIGBUS handler knows of one mapping: only atomics, it runs in the middle of anything.
struct Guard {
    /// Odd while the next three change: who reads them meanwhile knows that they do not belong
    /// together.
    version: AtomicUsize,
    start: AtomicUsize,
    /// 0: the entry is free.
    len: AtomicUsize,
    /// Octets of a page of its file.
    page: AtomicUsize,
    dead: AtomicBool,
}

impl Guard {
    const fn new() -> Self {
        Self {
            version: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            page: AtomicUsize::new(0),
            dead: AtomicBool::new(false),
        }
    }

    /// By the one thread that has claimed it.
    fn set(&self, start: usize, len: usize, page: usize) {
        // The handler may run on another thread right now, and can wait for nobody: it sees an odd
        // or changed version instead.
        self.version.fetch_add(1, Ordering::SeqCst);
        self.dead.store(false, Ordering::SeqCst);
        self.start.store(start, Ordering::SeqCst);
        self.len.store(len, Ordering::SeqCst);
        self.page.store(page, Ordering::SeqCst);
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    /// Returns what to replace for a fault at `address`: the chunk around it, and its page alone,
    /// each as address and octets. `None`: the address is not of this mapping, or the entry is just
    /// being changed, which that of a mapping in use never is.
    fn parts_of(&self, address: usize) -> Option<[(usize, usize); 2]> {
        let before = self.version.load(Ordering::SeqCst);
        let (start, len) = (self.start.load(Ordering::SeqCst), self.len.load(Ordering::SeqCst));
        let page = self.page.load(Ordering::SeqCst);
        let sound = before.is_multiple_of(2) && self.version.load(Ordering::SeqCst) == before;
        let offset = address.wrapping_sub(start);
        if !sound || offset >= len {
            return None;
        }
        // Mappings begin at a multiple of their page.
        // Never less than a page: inside a page of hugetlbfs nothing can be replaced.
        let chunk = CHUNK.max(page);
        let begin = offset / chunk * chunk;
        Some([(start + begin, chunk.min(len - begin)), (address & !(page - 1), page)])
    }
}

/// Octets that are replaced at once where memory was taken away. Each replacement may cost two of
/// the mappings that a process can have (vm.max_map_count), and a frame may have a thousand pieces:
/// by the page, a few guests could use them up, which ends the process.
const CHUNK: usize = 64 << 20;

/// As many as there is room for (`room.rs`).
const MAPPINGS: usize = 3 << 14;
// Static, and not allocated: a signal handler may neither allocate nor lock. Two megabytes of
// zeros, which take no memory until they are used.
static GUARDS: [Guard; MAPPINGS] = [const { Guard::new() }; MAPPINGS];
/// Entries from here on were never used.
static GUARDS_END: AtomicUsize = AtomicUsize::new(0);
static GUARDS_FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());

fn free_guards() -> std::sync::MutexGuard<'static, Vec<usize>> {
    GUARDS_FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One mapping's place in the table, which is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Claim(usize);

impl Claim {
    /// Whether its memory was taken away while it was in use.
    pub(super) fn is_dead(&self) -> bool {
        // Relaxed: the handler ran in the middle of a copy, on the thread of the reactor that asks.
        GUARDS[self.0].dead.load(Ordering::Relaxed)
    }

    /// Octets of a page of its file.
    pub(super) fn page(&self) -> usize {
        GUARDS[self.0].page.load(Ordering::Relaxed)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        GUARDS[self.0].set(0, 0, 0);
        free_guards().push(self.0);
    }
}

/// Guards `len` octets from `start` on, of a file whose pages have `page`. Returns nothing where
/// the table is full.
pub(super) fn claim(start: usize, len: usize, page: usize) -> Option<Claim> {
    install_handler();
    // A lock, which the handler never takes: it reads the table alone.
    let mut free = free_guards();
    let at = match free.pop() {
        Some(at) => at,
        None => {
            let at = GUARDS_END.load(Ordering::Relaxed);
            GUARDS.get(at)?;
            // Before the entry is filled in: until then its length is 0, and no address is within
            // it.
            GUARDS_END.store(at + 1, Ordering::Release);
            at
        }
    };
    GUARDS[at].set(start, len, page);
    Some(Claim(at))
}

fn install_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: all zeros is a valid sigaction; the fields that matter are set below.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: `on_sigbus` only touches atomics and makes system calls that are
        // async-signal-safe.
        let set = unsafe { libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) };
        assert_eq!(set, 0, "SIGBUS can be handled on Linux");
    });
}

/// A VMM truncated memory it shares: put anonymous memory in its place, and mark the mapping dead,
/// so that only its own vNIC is lost. Where the kernel does not overcommit, there may be no room
/// for more than the page. Any other fault ends the process as it would have.
extern "C" fn on_sigbus(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel gives a valid siginfo to a SA_SIGINFO handler.
    let fault = unsafe { (*info).si_addr() } as usize;
    // One after the other: faults are few, and to keep a table sorted would take a lock.
    let end = GUARDS_END.load(Ordering::Acquire);
    for guard in &GUARDS[..end] {
        let Some(parts) = guard.parts_of(fault) else { continue };
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        );
        // The large part first. What other data it held is lost with its vNIC anyway.
        for (at, len) in parts {
            // SAFETY: replaces a part of a mapping that is in use and ours.
            let mapped = unsafe { libc::mmap(at as *mut libc::c_void, len, prot, flags, -1, 0) };
            if mapped != libc::MAP_FAILED {
                guard.dead.store(true, Ordering::Release);
                return;
            }
        }
    }
    // SAFETY: restores the default action; the instruction faults again and the process ends with a
    // core.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}
