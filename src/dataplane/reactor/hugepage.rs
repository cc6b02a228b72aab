//! One 2 MiB page of private memory: huge if there is one, else ordinary.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};
use vm_memory::{
    MmapRegion,
    mmap::{MmapRegionBuilder, MmapRegionError},
};

/// Octets of a huge page.
// The size of a huge page of x86-64, and of arm64 with pages of 4 KiB: one entry of the TLB.
pub(super) const LEN: usize = 2 << 20;

/// Whether channels between reactors are backed by huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hugepages {
    /// If there are any; else one warning.
    Auto,
    /// Or not at all.
    On,
    /// Never.
    Off,
}

/// [`LEN`] octets that live until dropped.
#[derive(Debug)]
pub(super) struct HugePage {
    region: MmapRegion,
}

impl HugePage {
    /// Maps the page. With [`Hugepages::On`], fails where no huge page is free.
    pub(super) fn new(policy: Hugepages) -> io::Result<Self> {
        if policy == Hugepages::Off {
            return Self::map(0);
        }
        match Self::map(libc::MAP_HUGETLB | libc::MAP_POPULATE) {
            Err(error) if policy == Hugepages::Auto => {
                // Links are made one by one, and lack of pages is the same news each time.
                static WARNED: AtomicBool = AtomicBool::new(false);
                if !WARNED.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        %error,
                        "no huge page for channels between reactors: using ordinary memory \
                         (reserve some in /proc/sys/vm/nr_hugepages, or run with --hugepages off)"
                    );
                }
                Self::map(0)
            }
            result => result,
        }
    }

    fn map(flags: libc::c_int) -> io::Result<Self> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // Private: threads of one process share it all the same, and a hand-over passes no frames
        // on.
        let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let region =
            MmapRegionBuilder::new(LEN).with_mmap_prot(prot).with_mmap_flags(flags).build();
        let region = region.map_err(|error| match error {
            MmapRegionError::Mmap(error) => error,
            other => io::Error::other(other),
        })?;
        Ok(Self { region })
    }

    /// Where the page is.
    pub(super) fn pointer(&self) -> *mut u8 {
        self.region.as_ptr()
    }
}
