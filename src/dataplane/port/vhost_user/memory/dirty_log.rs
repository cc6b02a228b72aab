//! Marks of the pages that are written while a guest migrates (vhost-user "Migration"), shared with
//! its VMM.

use super::{
    GuestMemory, MemoryError,
    mapping::{Mapping, check_file},
    room::{Amount, Room},
};
use crate::dataplane::foreign::Foreign;
use serde::{Deserialize, Serialize};
use std::{os::fd::OwnedFd, sync::atomic::Ordering};

/// Octets of guest memory for which one bit of a [`DirtyLog`] stands (vhost-user "Migration").
const LOG_PAGE: u64 = 4096;
/// Octets of the largest file with marks: enough for a guest of 32 TiB.
const MAX_LOG: u64 = 1 << 30;

/// Where in its file the marks of written pages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogArea {
    /// Octets.
    pub len: u64,
    /// Where they start in the file.
    pub offset: u64,
}

/// Marks, shared with the VMM, of the pages of guest memory that were written while the guest
/// migrates: a bit each, the lowest of the first octet for the page at guest address 0.
#[derive(Debug)]
pub struct DirtyLog {
    area: LogArea,
    mapping: Foreign<Mapping>,
}

impl DirtyLog {
    /// Maps the marks, of a file that must be as guest memory is.
    pub fn map(area: LogArea, fd: Foreign<OwnedFd>) -> Result<Self, MemoryError> {
        let refuse = |reason| MemoryError::Region { guest_address: 0, len: area.len, reason };
        // Checked: in DPDK this sum could wrap, and less was mapped than was marked
        // (CVE-2020-10722).
        let end = area.offset.checked_add(area.len).filter(|end| area.len > 0 && *end <= MAX_LOG);
        let end = end.ok_or_else(|| refuse("a log of written pages is empty or above 1 GiB"))?;
        check_file(&fd, end, refuse)?;
        // Apart from guest memory: 1 GiB in one mapping is always within a share of its own.
        let room = Room::take(Amount::default(), end).ok_or(MemoryError::NoRoom)?;
        Ok(Self { area, mapping: fd.try_map(|fd| Mapping::new(fd, end, room))? })
    }

    /// The marks, to be mapped by another process too.
    pub fn share(&self) -> std::io::Result<(LogArea, OwnedFd)> {
        Ok((self.area, self.mapping.share()?))
    }

    /// Whether the VMM has taken the marks away.
    pub fn is_dead(&self) -> bool {
        self.mapping.is_dead()
    }

    /// Marks the pages of `len` octets of `memory`, mapped at `address`. Call this after they were
    /// written: a VMM takes a mark away before it reads the page.
    pub(in crate::dataplane::port::vhost_user) fn mark(
        &self,
        memory: &GuestMemory,
        address: usize,
        len: u64,
    ) {
        let Some(address) = memory.guest_address(address) else { return };
        let Some(last) = address.checked_add(len.saturating_sub(1)) else { return };
        let pages = address / LOG_PAGE..=last / LOG_PAGE;
        // What the log has no bits for, the VMM does not want to know.
        for page in pages.take_while(|page| page / 8 < self.area.len) {
            if let Some(octet) = self.mapping.octet((self.area.offset + page / 8) as usize) {
                // Atomic: the VMM takes bits of the same octet away meanwhile, and a lost mark is a
                // page that the guest finds old on its new host.
                octet.fetch_or(1 << (page % 8), Ordering::SeqCst);
            }
        }
    }
}
