//! One file of a VMM in our address space: what may be mapped, how its octets are reached, and what happens when it is
//! taken away.
//!
//! Ranges ([`Span`]) are copied by machine code that the compiler cannot see into: guest memory is outside its memory model.
//! Octets that are copied twice, because the last step overlaps the one before, end with one of the values they had.
//!
//! An access to memory that the VMM truncated raises SIGBUS: the handler here puts zeros in the place of the page and marks
//! the mapping dead, so that the access goes on and its vNIC alone is lost.
#![expect(
    unsafe_code,
    reason = "mmap, a signal handler, and octets shared with another process: reached by raw copies and atomics"
)]

use super::{MemoryError, room::Room};
use rustix::fs::{FileType, OFlags, SealFlags, fcntl_add_seals, fcntl_getfl, fstat, fstatfs};
use std::{
    fs::File,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{
        Mutex, Once, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
};
use vm_memory::{FileOffset, mmap::MmapRegionBuilder};

const TMPFS_MAGIC: u64 = 0x0102_1994;
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// Why a file cannot be mapped.
pub(in crate::dataplane::port::vhost_user) enum FileProblem {
    Unfit(&'static str),
    System(&'static str, std::io::Error),
}

impl FileProblem {
    /// As an error of the memory that was to be in it.
    pub(in crate::dataplane::port::vhost_user) fn into_error(
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
pub(in crate::dataplane::port::vhost_user) fn check_file(
    fd: &OwnedFd,
    end: u64,
) -> Result<(), FileProblem> {
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
pub(in crate::dataplane::port::vhost_user) struct Mapping {
    address: usize,
    len: usize,
    guard: usize,
    /// Unmaps when dropped.
    region: vm_memory::MmapRegion,
    /// What it takes of all there is, given back when dropped.
    _room: Room,
}

impl Mapping {
    /// Maps a file up to `end`, which [`check_file`] has found to be there.
    pub(in crate::dataplane::port::vhost_user) fn new(
        fd: OwnedFd,
        end: u64,
        room: Room,
    ) -> Result<Self, MemoryError> {
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
        let guard = claim_guard(address, len, page.max(4096) as usize).ok_or_else(|| {
            system("map", std::io::Error::other("too many mappings in the daemon"))
        })?;
        Ok(Self { address, len, guard, region, _room: room })
    }
}

impl Mapping {
    /// Where it is.
    pub(in crate::dataplane::port::vhost_user) fn address(&self) -> usize {
        self.address
    }

    /// Octets.
    pub(in crate::dataplane::port::vhost_user) fn len(&self) -> usize {
        self.len
    }

    /// Octets of a page of its file.
    pub(in crate::dataplane::port::vhost_user) fn page(&self) -> usize {
        GUARDS[self.guard].page.load(Ordering::Relaxed)
    }

    /// Whether its memory was taken away while it was in use.
    pub(in crate::dataplane::port::vhost_user) fn is_dead(&self) -> bool {
        GUARDS[self.guard].dead.load(Ordering::Relaxed)
    }

    /// One octet that both sides change atomically.
    pub(in crate::dataplane::port::vhost_user) fn octet(&self, at: usize) -> Option<&AtomicU8> {
        // SAFETY: `at` is inside the mapping, which lives as long as the reference and is only accessed atomically there.
        (at < self.len).then(|| unsafe { AtomicU8::from_ptr((self.address + at) as *mut u8) })
    }

    /// Whether it is of that file, by whatever descriptor.
    pub(in crate::dataplane::port::vhost_user) fn is_of(&self, fd: &OwnedFd) -> bool {
        let identity = |fd: BorrowedFd<'_>| fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino));
        let file = self.region.file_offset().expect("every mapping is of a file").file();
        identity(fd.as_fd()).is_some_and(|other| identity(file.as_fd()) == Some(other))
    }

    /// Its file.
    pub(in crate::dataplane::port::vhost_user) fn share(&self) -> std::io::Result<OwnedFd> {
        let file = self.region.file_offset().expect("every mapping is of a file").file();
        file.try_clone().map(OwnedFd::from)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        GUARDS[self.guard].set(0, 0, 0);
        free_guards().push(self.guard);
    }
}

/// What the SIGBUS handler knows of one mapping: only atomics, it runs in the middle of anything.
struct Guard {
    /// Odd while the next three change: who reads them meanwhile knows that they do not belong together.
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
        self.version.fetch_add(1, Ordering::SeqCst);
        self.dead.store(false, Ordering::SeqCst);
        self.start.store(start, Ordering::SeqCst);
        self.len.store(len, Ordering::SeqCst);
        self.page.store(page, Ordering::SeqCst);
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    /// What is to be replaced for the page at `address`, and that page, each as address and octets, if it is of this
    /// mapping. A mapping that is being accessed does not change.
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
        let chunk = CHUNK.max(page);
        let begin = offset / chunk * chunk;
        Some([(start + begin, chunk.min(len - begin)), (address & !(page - 1), page)])
    }
}

/// Octets that are replaced at once where memory was taken away. Each replacement may cost two of the mappings that a
/// process can have (vm.max_map_count), and a frame may have a thousand pieces: by the page, a few guests could use them
/// up, which ends the process.
const CHUNK: usize = 64 << 20;

/// As many as there is [`Room`] for.
const MAPPINGS: usize = 3 << 14;
static GUARDS: [Guard; MAPPINGS] = [const { Guard::new() }; MAPPINGS];
/// Entries from here on were never used.
static GUARDS_END: AtomicUsize = AtomicUsize::new(0);
static GUARDS_FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());

fn free_guards() -> std::sync::MutexGuard<'static, Vec<usize>> {
    GUARDS_FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn claim_guard(start: usize, len: usize, page: usize) -> Option<usize> {
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
    GUARDS[at].set(start, len, page);
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

/// A VMM truncated memory it shares: put anonymous memory in its place, and mark the mapping dead, so that only its own
/// vNIC is lost. Where the kernel does not overcommit, there may be no room for more than the page. Any other fault ends
/// the process as it would have.
extern "C" fn on_sigbus(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel gives a valid siginfo to a SA_SIGINFO handler.
    let fault = unsafe { (*info).si_addr() } as usize;
    let end = GUARDS_END.load(Ordering::Acquire);
    for guard in &GUARDS[..end] {
        let Some(parts) = guard.parts_of(fault) else { continue };
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        );
        for (at, len) in parts {
            // SAFETY: replaces a part of a mapping that is in use and ours.
            let mapped = unsafe { libc::mmap(at as *mut libc::c_void, len, prot, flags, -1, 0) };
            if mapped != libc::MAP_FAILED {
                guard.dead.store(true, Ordering::Release);
                return;
            }
        }
    }
    // SAFETY: restores the default action; the instruction faults again and the process ends with a core.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}

/// A range of checked, mapped guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    address: usize,
    len: u32,
}

impl Span {
    /// Of `len` octets that are mapped at `address`: `memory` alone makes these, of ranges that it has checked.
    #[inline]
    pub(in crate::dataplane::port::vhost_user) fn new(address: usize, len: u32) -> Self {
        Self { address, len }
    }

    /// Octets.
    #[inline]
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// Whether there are no octets.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The span without its first `octets`.
    #[inline]
    pub fn skip(self, octets: usize) -> Self {
        let octets = octets.min(self.len());
        Self { address: self.address + octets, len: self.len - octets as u32 }
    }

    /// The first `octets` of the span.
    #[inline]
    pub fn first(self, octets: usize) -> Self {
        Self { address: self.address, len: octets.min(self.len()) as u32 }
    }

    /// Fetches the first three cache lines ahead, to be read.
    #[inline]
    pub fn prefetch(self) {
        let last = self.len().saturating_sub(1);
        prefetch(self.address);
        prefetch(self.address + last.min(64));
        prefetch(self.address + last.min(128));
    }

    /// Fetches the first two cache lines ahead, to be written.
    #[inline]
    pub fn prefetch_write(self) {
        let last = self.len().saturating_sub(1);
        prefetch_write(self.address);
        prefetch_write(self.address + last.min(64));
    }

    /// Copies the first `N` octets into private memory, if there are so many.
    #[inline]
    pub fn read<const N: usize>(self) -> Option<[u8; N]> {
        let mut octets = [0; N];
        if self.len() < N {
            return None;
        }
        // SAFETY: `N` octets are mapped at `address` while the span is used (see `GuestMemory`), and `octets` is ours.
        unsafe { copy(self.address as *const u8, octets.as_mut_ptr(), N) };
        Some(octets)
    }

    /// Copies `octets` to the beginning, if there is room; gives what is behind them.
    #[inline]
    pub fn write<const N: usize>(self, octets: &[u8; N]) -> Option<Self> {
        if self.len() < N {
            return None;
        }
        // SAFETY: `N` octets are mapped writable at `address` while the span is used, and `octets` is ours.
        unsafe { copy(octets.as_ptr(), self.address as *mut u8, N) };
        Some(self.skip(N))
    }

    /// Copies into private memory; gives how many octets: the shorter of both.
    #[inline]
    pub fn copy_to_slice(self, to: &mut [u8]) -> usize {
        let len = self.len().min(to.len());
        // SAFETY: `len` octets are mapped at `address` while the span is used (see `GuestMemory`), and `to` is ours.
        unsafe { copy(self.address as *const u8, to.as_mut_ptr(), len) };
        len
    }

    /// Copies from private memory; gives how many octets: the shorter of both.
    #[inline]
    pub fn copy_from_slice(self, from: &[u8]) -> usize {
        let len = self.len().min(from.len());
        // SAFETY: `len` octets are mapped writable at `address` while the span is used, and `from` is ours.
        unsafe { copy(from.as_ptr(), self.address as *mut u8, len) };
        len
    }

    /// Copies from another span; gives how many octets: the shorter of both.
    #[inline]
    pub fn copy_from_span(self, from: Self) -> usize {
        let len = self.len().min(from.len());
        if len == 0 {
            return 0;
        }
        // SAFETY: both are mapped while they are used; where a guest makes them overlap, it garbles its own data.
        unsafe { copy(from.address as *const u8, self.address as *mut u8, len) };
        len
    }

    /// Fills `to` from spans one after the other; what they lack becomes zero.
    pub fn gather(spans: &[Self], mut to: &mut [u8]) {
        for span in spans {
            let copied = span.copy_to_slice(to);
            to = &mut to[copied..];
        }
        to.fill(0);
    }

    /// The address, for rings, which keep their own discipline.
    pub(in crate::dataplane::port::vhost_user) fn address(self) -> usize {
        self.address
    }
}

/// Asks for the cache line at `address` ahead of a read. Any address will do.
#[inline]
pub(in crate::dataplane::port::vhost_user) fn prefetch(address: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch has no effect on memory and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address as *const i8) };
    }
}

/// Asks for the cache line at `address` ahead of a write. Any address will do.
#[inline]
pub(in crate::dataplane::port::vhost_user) fn prefetch_write(address: usize) {
    // The intrinsic becomes a prefetch for reading where the compiler may not assume PREFETCHW, which every x86-64 CPU
    // takes, if only as a hint that it ignores.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect on memory and never faults.
    unsafe {
        std::arch::asm!("prefetchw [{at}]", at = in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

/// Copies octets that another process may change meanwhile: not through the compiler's memory model.
///
/// # Safety
/// `len` octets are readable at `from` and writable at `to`.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(in crate::dataplane::port::vhost_user) unsafe fn copy(
    from: *const u8,
    to: *mut u8,
    len: usize,
) {
    // SAFETY (all below): the caller's promise; each step touches no more than `len` octets.
    match len {
        // SAFETY: as above.
        64.. if std::arch::is_x86_feature_detected!("avx512f") => unsafe {
            copy_512(from, to, len)
        },
        // SAFETY: as above.
        64.. if std::arch::is_x86_feature_detected!("avx2") => unsafe { copy_256(from, to, len) },
        // SAFETY: as above.
        16.. => unsafe { copy_128(from, to, len) },
        // SAFETY: as above.
        _ => unsafe { copy_few(from, to, len) },
    }
}

/// As [`copy`], by 64 octets.
///
/// # Safety
/// As [`copy`]; `len` is 64 or more, the CPU has AVX-512.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn copy_512(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the first 64 octets, steps of 64 while more than that are left, then the last 64: all within what the
    // caller promised. Registers from 16 on have no lower halves that code without AVX would wait for, and no such code
    // uses them.
    unsafe {
        std::arch::asm!(
            "vmovdqu64 zmm16, [{from}]",
            "vmovdqu64 zmm17, [{from} + {left} - 64]",
            "vmovdqu64 [{to}], zmm16",
            "cmp {left}, 128",
            "jbe 3f",
            "2:",
            "add {from}, 64",
            "add {to}, 64",
            "sub {left}, 64",
            "vmovdqu64 zmm16, [{from}]",
            "vmovdqu64 [{to}], zmm16",
            "cmp {left}, 128",
            "ja 2b",
            "3:",
            "vmovdqu64 [{to} + {left} - 64], zmm17",
            from = inout(reg) from => _, to = inout(reg) to => _, left = inout(reg) len => _,
            options(nostack),
        );
    }
}

/// As [`copy`], by 32 octets.
///
/// # Safety
/// As [`copy`]; `len` is 32 or more, the CPU has AVX2.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn copy_256(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: as `copy_512`, by 32.
    unsafe {
        std::arch::asm!(
            "cmp {left}, 32",
            "jbe 3f",
            "2:",
            "vmovdqu ymm0, [{from}]",
            "vmovdqu [{to}], ymm0",
            "add {from}, 32",
            "add {to}, 32",
            "sub {left}, 32",
            "cmp {left}, 32",
            "ja 2b",
            "3:",
            "vmovdqu ymm0, [{from} + {left} - 32]",
            "vmovdqu [{to} + {left} - 32], ymm0",
            "vzeroupper",
            from = inout(reg) from => _, to = inout(reg) to => _, left = inout(reg) len => _,
            out("xmm0") _, options(nostack),
        );
    }
}

/// As [`copy`], by 16 octets.
///
/// # Safety
/// As [`copy`]; `len` is 16 or more.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn copy_128(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: as `copy_512`, by 16.
    unsafe {
        std::arch::asm!(
            "cmp {left}, 16",
            "jbe 3f",
            "2:",
            "movups {octets}, [{from}]",
            "movups [{to}], {octets}",
            "add {from}, 16",
            "add {to}, 16",
            "sub {left}, 16",
            "cmp {left}, 16",
            "ja 2b",
            "3:",
            "movups {octets}, [{from} + {left} - 16]",
            "movups [{to} + {left} - 16], {octets}",
            octets = out(xmm_reg) _,
            from = inout(reg) from => _, to = inout(reg) to => _, left = inout(reg) len => _,
            options(nostack),
        );
    }
}

/// As [`copy`], by 8, 4, 2 and 1 octets.
///
/// # Safety
/// As [`copy`]; `len` is less than 16.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn copy_few(mut from: *const u8, mut to: *mut u8, len: usize) {
    macro_rules! step {
        ($size:literal, $class:ident, $form:literal) => {
            if len & $size != 0 {
                // SAFETY: the steps taken are the bits of `len`: together what the caller promised.
                unsafe {
                    std::arch::asm!(concat!("mov {r", $form, "}, [{from}]"), concat!("mov [{to}], {r", $form, "}"),
                        r = out($class) _, from = in(reg) from, to = in(reg) to, options(nostack, preserves_flags));
                }
                from = from.wrapping_add($size);
                to = to.wrapping_add($size);
            }
        };
    }
    step!(8, reg, ":r");
    step!(4, reg, ":e");
    step!(2, reg, ":x");
    if len & 1 != 0 {
        // SAFETY: one octet is left of what the caller promised.
        unsafe {
            std::arch::asm!("mov {r}, byte ptr [{from}]", "mov byte ptr [{to}], {r}", r = out(reg_byte) _,
                from = in(reg) from, to = in(reg) to, options(nostack, preserves_flags));
        }
    }
}

/// Copies octets that another process may change meanwhile: not through the compiler's memory model.
///
/// # Safety
/// `len` octets are readable at `from` and writable at `to`.
#[cfg(not(target_arch = "x86_64"))]
pub(in crate::dataplane::port::vhost_user) unsafe fn copy(
    from: *const u8,
    to: *mut u8,
    len: usize,
) {
    for at in 0..len {
        // SAFETY: the caller's promise; volatile, so that nothing is assumed about the octets.
        unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    type Kernel = unsafe fn(*const u8, *mut u8, usize);

    #[test]
    fn every_kernel_copies_exactly_what_it_is_told() {
        let kernels: [(Kernel, usize, usize, bool); 5] = [
            (copy, 0, 700, true),
            (copy_few, 0, 15, true),
            (copy_128, 16, 700, true),
            (copy_256, 32, 700, std::arch::is_x86_feature_detected!("avx2")),
            (copy_512, 64, 700, std::arch::is_x86_feature_detected!("avx512f")),
        ];
        let from: Vec<u8> = (0..800_u32).map(|n| ((n * 31) >> 3) as u8 | 1).collect();
        for (kernel, shortest, longest, _) in kernels.into_iter().filter(|(.., has)| *has) {
            for len in shortest..=longest {
                let mut to = vec![0; 800];
                // SAFETY: both have 800 octets, more than `len` and the offset of 3; the CPU has what the kernel needs.
                unsafe { kernel(from.as_ptr().add(3), to.as_mut_ptr().add(3), len) };
                assert_eq!(to[3..3 + len], from[3..3 + len], "{len}");
                assert!(to[..3].iter().chain(&to[3 + len..]).all(|octet| *octet == 0), "{len}");
            }
        }
    }
}
