//! One 2 MiB page of private memory: huge if there is one, else ordinary.
#![expect(unsafe_code, reason = "an anonymous mapping is memory that only raw pointers reach")]

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

/// Octets of a huge page.
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
    address: usize,
}

impl HugePage {
    /// Maps the page. With [`Hugepages::On`], fails where no huge page is free.
    pub(super) fn new(policy: Hugepages) -> io::Result<Self> {
        if policy == Hugepages::Off {
            return Self::map(0);
        }
        match Self::map(libc::MAP_HUGETLB | libc::MAP_POPULATE) {
            Err(error) if policy == Hugepages::Auto => {
                static WARNED: AtomicBool = AtomicBool::new(false);
                if !WARNED.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "no huge page for channels between reactors: using ordinary memory \
                        (reserve some in /proc/sys/vm/nr_hugepages, or run with --hugepages off)");
                }
                Self::map(0)
            }
            result => result,
        }
    }

    fn map(flags: libc::c_int) -> io::Result<Self> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping at an address the kernel chooses touches nothing that exists.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), LEN, prot, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { address: address as usize })
    }

    /// Where the page is.
    pub(super) fn pointer(&self) -> *mut u8 {
        self.address as *mut u8
    }
}

impl Drop for HugePage {
    fn drop(&mut self) {
        // SAFETY: unmaps what `map` mapped; whoever had the pointer borrowed this.
        let unmapped = unsafe { libc::munmap(self.address as *mut libc::c_void, LEN) };
        debug_assert_eq!(unmapped, 0, "a mapping of ours can be unmapped");
    }
}
