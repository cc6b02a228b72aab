//! One file of a VMM in our address space: what may be mapped, and what it is. `fault.rs` has what
//! happens when it is taken away.
#![expect(unsafe_code, reason = "mmap, and octets shared with another process")]

use super::{MemoryError, fault, room::Room};
use rustix::fs::{FileType, OFlags, SealFlags, fcntl_add_seals, fcntl_getfl, fstat, fstatfs};
use std::{
    fs::File,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::atomic::AtomicU8,
};
use vm_memory::{FileOffset, mmap::MmapRegionBuilder};

// statfs(2). A memfd is a file of one or the other.
const TMPFS_MAGIC: u64 = 0x0102_1994;
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// Page faults on the file must neither block nor, as far as can be seen now, fail.
pub(in crate::dataplane::port::vhost_user) fn check_file(
    fd: &OwnedFd,
    end: u64,
    refuse: impl Fn(&'static str) -> MemoryError,
) -> Result<(), MemoryError> {
    let system =
        |action| move |e: rustix::io::Errno| MemoryError::System { action, source: e.into() };
    let stat = fstat(fd).map_err(system("look at"))?;
    // Devices can be mapped, too, and then it is up to their drivers what an access does.
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(refuse("its descriptor is not a file"));
    }
    let kind = fstatfs(fd).map_err(system("look at"))?.f_type as u64;
    // A page of any other file may have to come from a disk, a network or a FUSE server.
    if kind != TMPFS_MAGIC && kind != HUGETLBFS_MAGIC {
        return Err(refuse("its file is neither in tmpfs nor in hugetlbfs (use a memfd)"));
    }
    if u64::try_from(stat.st_size).unwrap_or(0) < end {
        return Err(refuse("its file is shorter"));
    }
    let mode = fcntl_getfl(fd).map_err(system("look at"))?;
    // What mmap(2) requires for a shared mapping that is written to.
    if mode & OFlags::ACCMODE != OFlags::RDWR {
        return Err(refuse("its file is not open for reading and writing"));
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
    /// Dropped before the region is unmapped.
    // Else the address could be another mapping's already, while this entry still claims it.
    guard: fault::Claim,
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
        // munmap(2) takes whole pages only, and those of hugetlbfs are large. Nobody is given an
        // address beyond `end`.
        let len = usize::try_from(end.next_multiple_of(page.max(4096)))
            .map_err(|_| system("map", std::io::ErrorKind::OutOfMemory.into()))?;
        let region = MmapRegionBuilder::new(len)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
            // From 0: an offset must be a multiple of the file's page (mmap(2)), a region's need
            // not.
            .with_file_offset(FileOffset::new(File::from(fd), 0))
            .build()
            .map_err(|e| system("map", std::io::Error::other(e)))?;
        let address = region.as_ptr() as usize;
        // SAFETY: the range was mapped just now; a core dump must not contain guests (and a refusal
        // changes nothing).
        let advised = unsafe { libc::madvise(region.as_ptr().cast(), len, libc::MADV_DONTDUMP) };
        tracing::trace!(advised, len, "guest memory mapped");
        let guard = fault::claim(address, len, page.max(4096) as usize).ok_or_else(|| {
            system("map", std::io::Error::other("too many mappings in the daemon"))
        })?;
        Ok(Self { guard, region, _room: room })
    }

    /// Where it is.
    pub(in crate::dataplane::port::vhost_user) fn address(&self) -> usize {
        self.region.as_ptr() as usize
    }

    /// Octets.
    pub(in crate::dataplane::port::vhost_user) fn len(&self) -> usize {
        self.region.size()
    }

    /// Octets of a page of its file.
    pub(in crate::dataplane::port::vhost_user) fn page(&self) -> usize {
        self.guard.page()
    }

    /// Whether its memory was taken away while it was in use.
    pub(in crate::dataplane::port::vhost_user) fn is_dead(&self) -> bool {
        self.guard.is_dead()
    }

    /// One octet that both sides change atomically.
    pub(in crate::dataplane::port::vhost_user) fn octet(&self, at: usize) -> Option<&AtomicU8> {
        // SAFETY: `at` is inside the mapping, which lives as long as the reference and is only
        // accessed atomically there.
        (at < self.len()).then(|| unsafe { AtomicU8::from_ptr((self.address() + at) as *mut u8) })
    }

    /// Whether it is of that file, by whatever descriptor.
    pub(in crate::dataplane::port::vhost_user) fn is_of(&self, fd: &OwnedFd) -> bool {
        // By its inode: each message brings a descriptor of its own for the same file.
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
