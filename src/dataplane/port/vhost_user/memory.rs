//! A guest's memory: mappings of the descriptors its VMM sent, checked translation, and copies.
//!
//! Takes regions as vhost-user describes them and refuses what could hurt: files that shrink, block or overlap.
//! Gives [`Span`]s, whose only operation is a copy; nothing ever makes a reference or slice of guest memory. A copy
//! that meets memory which the VMM took away (SIGBUS) ends in zeros, and the mapping is marked dead.
#![expect(
    unsafe_code,
    reason = "guest memory is shared with another process: raw copies are the only way in"
)]

use super::{
    copy::{copy, prefetch, prefetch_write},
    message::{LogArea, Region},
};
use rustix::fs::{FileType, OFlags, SealFlags, fcntl_add_seals, fcntl_getfl, fstat, fstatfs};
use std::{
    fs::File,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
};
use vm_memory::{FileOffset, mmap::MmapRegionBuilder};

/// Regions a VMM may share. Told to VMMs; it must never shrink, or they refuse to reconnect.
pub const MAX_REGIONS: usize = 64;

const TMPFS_MAGIC: u64 = 0x0102_1994;
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// A range of checked, mapped guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    address: usize,
    len: u32,
}

impl Span {
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
    pub(super) fn address(self) -> usize {
        self.address
    }
}

/// One region of SET_MEM_TABLE or ADD_MEM_REG.
#[derive(Debug)]
pub struct RegionRequest {
    /// Where the guest sees it.
    pub guest_address: u64,
    /// Octets.
    pub len: u64,
    /// Where the VMM sees it; ring addresses are told in this space.
    pub user_address: u64,
    /// Where it starts in the file.
    pub offset: u64,
    /// What to map.
    pub fd: OwnedFd,
}

impl From<(Region, OwnedFd)> for RegionRequest {
    fn from((region, fd): (Region, OwnedFd)) -> Self {
        let Region { guest_address, len, user_address, offset } = region;
        Self { guest_address, len, user_address, offset, fd }
    }
}

/// Octets of guest memory for which one bit of a [`DirtyLog`] stands (vhost-user "Migration").
const LOG_PAGE: u64 = 4096;

/// Marks, shared with the VMM, of the pages of guest memory that were written while the guest migrates: a bit each, the
/// lowest of the first octet for the page at guest address 0.
#[derive(Debug)]
pub struct DirtyLog {
    area: LogArea,
    address: usize,
    mapping: Mapping,
}

impl DirtyLog {
    /// Maps the marks, of a file that must be as guest memory is.
    pub fn map(area: LogArea, fd: OwnedFd) -> Result<Self, MemoryError> {
        let refuse = |reason| MemoryError::Region { guest_address: 0, len: area.len, reason };
        let end = area.offset.checked_add(area.len).filter(|_| area.len > 0);
        let end = end.ok_or_else(|| refuse("a log of written pages cannot be there"))?;
        check_file(&fd, end).map_err(|problem| problem.into_error(refuse))?;
        let mapping = Mapping::new(fd, end)?;
        Ok(Self { area, address: mapping.address + area.offset as usize, mapping })
    }

    /// The marks, to be mapped by another process too.
    pub fn share(&self) -> std::io::Result<(LogArea, OwnedFd)> {
        Ok((self.area, self.mapping.share()?))
    }

    /// Whether the VMM has taken the marks away.
    pub fn is_dead(&self) -> bool {
        GUARDS[self.mapping.guard].dead.load(Ordering::Relaxed)
    }

    /// Marks the pages of `len` octets from the guest's `address` on, which were written before this is called: a VMM
    /// takes a mark away before it reads the page.
    fn mark(&self, address: u64, len: u64) {
        let Some(last) = address.checked_add(len.saturating_sub(1)) else { return };
        let pages = address / LOG_PAGE..=last / LOG_PAGE;
        // What the log has no bits for, the VMM does not want to know.
        for page in pages.take_while(|page| page / 8 < self.area.len) {
            let at = (self.address + (page / 8) as usize) as *mut u8;
            // SAFETY: inside the area that `map` checked and mapped writable; both sides change its octets atomically.
            unsafe { AtomicU8::from_ptr(at) }.fetch_or(1 << (page % 8), Ordering::SeqCst);
        }
    }
}

/// Why memory was refused.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Addresses or lengths make no sense.
    #[error("region of {len:#x} octets at {guest_address:#x}: {reason}")]
    Region {
        /// Where the guest sees it.
        guest_address: u64,
        /// Octets.
        len: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// The file cannot be asked or mapped.
    #[error("cannot {action} the region's file: {source}")]
    System {
        /// What failed.
        action: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Too many regions.
    #[error("more than {MAX_REGIONS} regions")]
    TooMany,
    /// No such region.
    #[error("no region of {len:#x} octets at {guest_address:#x} to remove")]
    Unknown {
        /// Where the guest sees it.
        guest_address: u64,
        /// Octets.
        len: u64,
    },
}

#[derive(Debug, Clone)]
struct Mapped {
    guest_address: u64,
    len: u64,
    user_address: u64,
    host_address: usize,
    mapping: Arc<Mapping>,
}

/// The memory a VMM has shared. Shared by the session and the port it builds; unmapped with the last of them, and the
/// session gives up its own only when the reactor has given back the port.
#[derive(Debug, Clone, Default)]
pub struct GuestMemory {
    regions: Vec<Mapped>,
}

impl GuestMemory {
    /// Maps a whole table.
    pub fn map(requests: Vec<RegionRequest>) -> Result<Self, MemoryError> {
        requests.into_iter().try_fold(Self::default(), Self::with)
    }

    /// This memory and one region more.
    pub fn with(mut self, request: RegionRequest) -> Result<Self, MemoryError> {
        let refuse = |reason| MemoryError::Region {
            guest_address: request.guest_address,
            len: request.len,
            reason,
        };
        if self.regions.len() >= MAX_REGIONS {
            return Err(MemoryError::TooMany);
        }
        let ends = [request.guest_address, request.user_address, request.offset]
            .map(|start| start.checked_add(request.len));
        let [Some(guest_end), Some(_), Some(file_end)] = ends else {
            return Err(refuse("its end is beyond the address space"));
        };
        if request.len == 0 {
            return Err(refuse("it is empty"));
        }
        if self
            .regions
            .iter()
            .any(|r| request.guest_address < r.guest_address + r.len && r.guest_address < guest_end)
        {
            return Err(refuse("it overlaps another"));
        }
        check_file(&request.fd, file_end).map_err(|problem| problem.into_error(refuse))?;
        let mapping = Mapping::new(request.fd, file_end)?;
        self.regions.push(Mapped {
            guest_address: request.guest_address,
            len: request.len,
            user_address: request.user_address,
            host_address: mapping.address + request.offset as usize,
            mapping: Arc::new(mapping),
        });
        Ok(self)
    }

    /// This memory without one region.
    pub fn without(mut self, guest_address: u64, len: u64) -> Result<Self, MemoryError> {
        let found =
            self.regions.iter().position(|r| (r.guest_address, r.len) == (guest_address, len));
        let at = found.ok_or(MemoryError::Unknown { guest_address, len })?;
        self.regions.remove(at);
        Ok(self)
    }

    /// The regions, to be mapped by another process too.
    pub fn share(&self) -> std::io::Result<Vec<(Region, OwnedFd)>> {
        let share = |region: &Mapped| {
            let shared = Region {
                guest_address: region.guest_address,
                len: region.len,
                user_address: region.user_address,
                offset: (region.host_address - region.mapping.address) as u64,
            };
            Ok((shared, region.mapping.share()?))
        };
        self.regions.iter().map(share).collect()
    }

    /// Whether there is no region.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// Whether a VMM has taken away memory that was in use.
    pub fn is_dead(&self) -> bool {
        self.regions.iter().any(|r| GUARDS[r.mapping.guard].dead.load(Ordering::Relaxed))
    }

    /// The span of `len` octets at the guest's `address`, which must lie in one region.
    #[inline]
    pub fn translate_whole(&self, address: u64, len: u32) -> Option<Span> {
        self.within(address, len, |region| region.guest_address)
    }

    /// Marks in `log` that `len` octets of this memory were written, from a span's `address` on.
    pub(super) fn mark(&self, log: &DirtyLog, address: usize, len: u32) {
        let within = |r: &&Mapped| (address.wrapping_sub(r.host_address) as u64) < r.len;
        if let Some(region) = self.regions.iter().find(within) {
            let offset = (address - region.host_address) as u64;
            log.mark(region.guest_address + offset, len.into());
        }
    }

    /// Appends the spans of `len` octets at `address` to `spans`: one, or more where regions touch. `None`, and
    /// nothing appended that may be used, unless all of it is mapped; an empty range must be mapped too.
    #[inline]
    pub fn translate(&self, mut address: u64, len: u32, spans: &mut Vec<Span>) -> Option<()> {
        let mut left = u64::from(len);
        loop {
            let region =
                self.regions.iter().find(|r| address.wrapping_sub(r.guest_address) < r.len)?;
            let offset = address - region.guest_address;
            let here = left.min(region.len - offset);
            if here > 0 {
                spans.push(Span {
                    address: region.host_address + offset as usize,
                    len: here as u32,
                });
            }
            left -= here;
            if left == 0 {
                return Some(());
            }
            address = address.checked_add(here)?;
        }
    }

    /// The span of `len` octets at the VMM's own `address`, which must lie in one region.
    pub fn translate_user(&self, address: u64, len: u32) -> Option<Span> {
        self.within(address, len, |region| region.user_address)
    }

    #[inline]
    fn within(&self, address: u64, len: u32, start: impl Fn(&Mapped) -> u64) -> Option<Span> {
        let region = self.regions.iter().find(|r| address.wrapping_sub(start(r)) < r.len)?;
        let offset = address - start(region);
        let fits = u64::from(len) <= region.len - offset;
        fits.then_some(Span { address: region.host_address + offset as usize, len })
    }
}

enum FileProblem {
    Unfit(&'static str),
    System(&'static str, std::io::Error),
}

impl FileProblem {
    fn into_error(self, refuse: impl FnOnce(&'static str) -> MemoryError) -> MemoryError {
        match self {
            Self::Unfit(reason) => refuse(reason),
            Self::System(action, source) => MemoryError::System { action, source },
        }
    }
}

/// Page faults on the file must neither block nor, as far as can be seen now, fail.
fn check_file(fd: &OwnedFd, end: u64) -> Result<(), FileProblem> {
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
struct Mapping {
    address: usize,
    guard: usize,
    /// Unmaps when dropped.
    region: vm_memory::MmapRegion,
}

impl Mapping {
    fn new(fd: OwnedFd, end: u64) -> Result<Self, MemoryError> {
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
        Ok(Self { address, guard, region })
    }
}

impl Mapping {
    /// Its file.
    fn share(&self) -> std::io::Result<OwnedFd> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    fn memfd(len: u64) -> OwnedFd {
        let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, len).unwrap();
        fd
    }

    fn request(guest_address: u64, len: u64) -> RegionRequest {
        let user_address = guest_address + 0x7000_0000_0000;
        RegionRequest { guest_address, len, user_address, offset: 0, fd: memfd(len) }
    }

    #[test]
    fn ranges_must_be_mapped_to_the_last_octet() {
        let memory = GuestMemory::map(vec![
            request(0x1000, 0x2000),
            request(0x3000, 0x1000),
            request(0x10000, 0x1000),
        ])
        .unwrap();
        let spans = |address, len| {
            let mut spans = Vec::new();
            memory
                .translate(address, len, &mut spans)
                .map(|()| spans.iter().map(|s| s.len()).collect::<Vec<_>>())
        };
        assert_eq!(spans(0x1000, 0x2000), Some(vec![0x2000]));
        assert_eq!(spans(0x2ff0, 0x20), Some(vec![0x10, 0x10]), "touching regions");
        assert_eq!(spans(0x3fff, 2), None, "a hole follows");
        assert_eq!(spans(0xfff, 1), None);
        assert_eq!(spans(0x10fff, 1), Some(vec![1]));
        assert_eq!(spans(0x10fff, 2), None);
        assert_eq!(spans(u64::MAX, u32::MAX), None);
        assert_eq!(spans(0x1000, 0), Some(vec![]));
        assert_eq!(spans(0x9000, 0), None, "an empty range at a bad address");
        assert!(memory.translate_whole(0x2ff0, 0x20).is_none());
        assert!(memory.translate_user(0x7000_0000_1000, 0x2000).is_some());
        assert!(memory.translate_user(0x7000_0000_1000, 0x2001).is_none());
    }

    #[test]
    fn bad_regions_are_refused_with_their_reason() {
        let refused = |request| GuestMemory::map(vec![request]).unwrap_err().to_string();
        assert!(refused(request(0x1000, 0)).contains("it is empty"));
        assert!(
            refused(RegionRequest { guest_address: u64::MAX - 10, ..request(0, 0x1000) })
                .contains("beyond")
        );
        assert!(refused(RegionRequest { offset: 1, ..request(0, 0x1000) }).contains("shorter"));
        let null = std::fs::File::open("/dev/null").unwrap().into();
        assert!(refused(RegionRequest { fd: null, ..request(0, 0x1000) }).contains("not a file"));
        let disk = std::fs::File::open("Cargo.toml").unwrap().into();
        assert!(refused(RegionRequest { fd: disk, ..request(0, 10) }).contains("tmpfs"));
        let both = GuestMemory::map(vec![request(0, 0x2000), request(0x1000, 0x1000)]);
        assert!(both.unwrap_err().to_string().contains("overlaps"));
        let many = (0..65).map(|n| request(n * 0x1000, 0x1000)).collect();
        assert!(matches!(GuestMemory::map(many), Err(MemoryError::TooMany)));
    }

    #[test]
    fn regions_come_and_go() {
        let memory = GuestMemory::map(vec![request(0, 0x1000)]).unwrap();
        let memory = memory.with(request(0x1000, 0x1000)).unwrap().without(0, 0x1000).unwrap();
        assert!(memory.translate_whole(0, 1).is_none());
        assert!(memory.translate_whole(0x1000, 1).is_some());
        assert!(matches!(memory.without(0, 0x1000), Err(MemoryError::Unknown { .. })));
    }

    /// Memory of four pages full of 7s, in a file that can be truncated (a memfd is sealed).
    fn fragile(name: &str) -> (std::fs::File, GuestMemory) {
        let path = format!("/dev/shm/mvirt-net-test-{name}-{}", std::process::id());
        let mut options = std::fs::File::options();
        let file = options.create_new(true).read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(0x4000).unwrap();
        let region = RegionRequest { fd: file.try_clone().unwrap().into(), ..request(0, 0x4000) };
        let memory = GuestMemory::map(vec![region]).unwrap();
        let whole = memory.translate_whole(0, 0x4000).unwrap();
        assert_eq!(whole.copy_from_slice(&[7; 0x4000]), 0x4000);
        (file, memory)
    }

    #[test]
    fn a_copy_that_meets_truncated_memory_ends_in_zeros_and_the_mapping_is_dead() {
        // Of every kernel: before and across the third page, which is taken away.
        for len in [1, 15, 60, 64, 100, 128, 1500, 0x1800] {
            let (file, memory) = fragile("read");
            let before = 0x2000_usize.saturating_sub(len / 2);
            let span = memory.translate_whole(before as u64, len as u32).unwrap();
            file.set_len(0x2000).unwrap();
            let mut octets = vec![1; len];
            assert_eq!(span.copy_to_slice(&mut octets), len);
            let left = octets.iter().take_while(|octet| **octet == 7).count();
            assert!(left <= len / 2 && octets[left..].iter().all(|octet| *octet == 0), "{len}");
            assert!(memory.is_dead());

            let (file, memory) = fragile("write");
            let span = memory.translate_whole(before as u64, len as u32).unwrap();
            file.set_len(0x2000).unwrap();
            assert_eq!(span.copy_from_slice(&vec![9; len]), len);
            assert!(memory.is_dead());
        }
    }

    proptest! {
        #[test]
        fn copies_are_exact(octets in proptest::collection::vec(any::<u8>(), 0..700), at in 0_usize..32) {
            let memory = GuestMemory::map(vec![request(0, 0x1000)]).unwrap();
            let span = memory.translate_whole(at as u64, octets.len() as u32).unwrap();
            prop_assert_eq!(span.copy_from_slice(&octets), octets.len());
            let mut back = vec![0; octets.len() + 2];
            prop_assert_eq!(span.copy_to_slice(&mut back), octets.len());
            prop_assert_eq!(&back[..octets.len()], &octets[..]);
            prop_assert_eq!(&back[octets.len()..], &[0, 0]);
        }
    }
}
