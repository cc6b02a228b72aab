//! A guest's memory: mappings of the descriptors its VMM sent, checked translation, and copies.
//!
//! Takes regions as vhost-user describes them and refuses what could hurt: files that shrink, block
//! or overlap. Returns [`Span`]s, whose only operation is a copy; nothing ever makes a reference or
//! slice of guest memory. A copy that meets memory which the VMM took away ends in zeros
//! (`fault.rs`).
#![expect(
    unsafe_code,
    reason = "spans do not know how long their memory is mapped: who asks for one has to"
)]

pub mod dirty_log;
mod error;
mod fault;
mod mapping;
mod room;

pub use error::{MAX_REGIONS, MemoryError};

use crate::dataplane::{foreign::Foreign, frame::Span};
use mapping::{Mapping, check_file};
use room::{Amount, Room};
use serde::{Deserialize, Serialize};
use std::{os::fd::OwnedFd, sync::Arc};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Octets of the smallest region: one page, so that a buffer cannot be spread over more regions
/// than it has pages.
const MIN_REGION: u64 = 4096;

/// A memory region without its descriptor.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Serialize,
    Deserialize,
)]
#[repr(C)]
pub struct Region {
    /// Where the guest sees it.
    pub guest_address: u64,
    /// Octets.
    pub len: u64,
    /// Where the VMM sees it.
    pub user_address: u64,
    /// Where it starts in its file.
    pub offset: u64,
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
    pub fd: Foreign<OwnedFd>,
}

impl From<(Region, Foreign<OwnedFd>)> for RegionRequest {
    fn from((region, fd): (Region, Foreign<OwnedFd>)) -> Self {
        let Region { guest_address, len, user_address, offset } = region;
        Self { guest_address, len, user_address, offset, fd }
    }
}

#[derive(Debug, Clone)]
struct Mapped {
    guest_address: u64,
    len: u64,
    user_address: u64,
    host_address: usize,
    mapping: Arc<Foreign<Mapping>>,
}

impl Mapped {
    /// Whether a range of the guest's addresses has some in common with this region.
    fn overlaps(&self, guest_address: u64, len: u64) -> bool {
        guest_address < self.guest_address + self.len
            // Saturating: what a VMM asks to remove was not checked for its end.
            && self.guest_address < guest_address.saturating_add(len)
    }

    /// Where it starts in its file.
    fn offset(&self) -> u64 {
        (self.host_address - self.mapping.address()) as u64
    }

    /// Whether a VMM asks for exactly what this region is.
    fn is(&self, request: &RegionRequest) -> bool {
        let RegionRequest { guest_address, len, user_address, offset, ref fd } = *request;
        (guest_address, len, user_address, offset)
            == (self.guest_address, self.len, self.user_address, self.offset())
            && self.mapping.is_of(fd)
    }
}

/// The memory a VMM has shared. The session and the port it builds both hold it, and it is unmapped
/// with the last of them. The session lets go only when the reactor has given back the port.
#[derive(Debug, Clone, Default)]
pub struct GuestMemory {
    regions: Vec<Mapped>,
}

impl GuestMemory {
    /// Maps a whole table, of `limit` octets at most.
    pub fn map(requests: Vec<RegionRequest>, limit: u64) -> Result<Self, MemoryError> {
        requests.into_iter().try_fold(Self::default(), |memory, request| memory.and(request, limit))
    }

    /// This memory and one region more, `limit` octets altogether at most. One that is there
    /// already, of the same file, is not mapped again: QEMU before 8.0 adds each region once for
    /// every queue pair.
    pub fn with(self, request: RegionRequest, limit: u64) -> Result<Self, MemoryError> {
        // Before the limits: what is there already takes no more of them.
        if self.regions.iter().any(|region| region.is(&request)) {
            return Ok(self);
        }
        self.and(request, limit)
    }

    fn and(mut self, request: RegionRequest, limit: u64) -> Result<Self, MemoryError> {
        let refuse = |reason| MemoryError::Region {
            guest_address: request.guest_address,
            len: request.len,
            reason,
        };
        if self.regions.len() >= MAX_REGIONS {
            return Err(MemoryError::TooMany);
        }
        // Sums of a VMM's numbers: no later comparison is right where one of them has wrapped.
        let ends = [request.guest_address, request.user_address, request.offset]
            .map(|start| start.checked_add(request.len));
        let [Some(_), Some(_), Some(file_end)] = ends else {
            return Err(refuse("its end is beyond the address space"));
        };
        if request.len < MIN_REGION {
            return Err(refuse("it is smaller than a page of 4096 octets"));
        }
        if self.regions.iter().any(|r| r.overlaps(request.guest_address, request.len)) {
            return Err(refuse("it overlaps another"));
        }
        check_file(&request.fd, file_end, refuse)?;
        // Files are mapped from their beginning, so that is what counts.
        let mapped = Amount {
            octets: self.regions.iter().map(|r| r.mapping.len() as u64).sum(),
            mappings: self.regions.len() as u64,
        };
        if mapped.octets.saturating_add(file_end) > limit {
            return Err(MemoryError::TooMuch { limit });
        }
        // Last of the checks, since it takes something that others could have.
        let room = Room::take(mapped, file_end).ok_or(MemoryError::NoRoom)?;
        let mapping = request.fd.try_map(|fd| Mapping::new(fd, file_end, room))?;
        self.regions.push(Mapped {
            guest_address: request.guest_address,
            len: request.len,
            user_address: request.user_address,
            // It cannot overflow: the mapping goes from the file's beginning to the region's end.
            host_address: mapping.address() + request.offset as usize,
            mapping: Arc::new(mapping),
        });
        Ok(self)
    }

    /// Whether pages of it are larger than the smallest (hugetlbfs).
    pub fn has_large_pages(&self) -> bool {
        self.regions.iter().any(|region| region.mapping.page() > 4096)
    }

    /// This memory without one region. Where nothing of it is mapped it is gone already: QEMU
    /// before 8.0 removes each region once for every queue pair.
    pub fn without(mut self, guest_address: u64, len: u64) -> Result<Self, MemoryError> {
        let found =
            self.regions.iter().position(|r| (r.guest_address, r.len) == (guest_address, len));
        match found {
            Some(at) => drop(self.regions.remove(at)),
            // A part of a region cannot be unmapped, and to say that it was would be a promise not
            // kept.
            None if self.regions.iter().any(|r| r.overlaps(guest_address, len)) => {
                return Err(MemoryError::Unknown { guest_address, len });
            }
            None => {}
        }
        Ok(self)
    }

    /// The regions, to be mapped by another process too.
    pub fn share(&self) -> std::io::Result<Vec<(Region, OwnedFd)>> {
        let share = |region: &Mapped| {
            let shared = Region {
                guest_address: region.guest_address,
                len: region.len,
                user_address: region.user_address,
                offset: region.offset(),
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
        self.regions.iter().any(|r| r.mapping.is_dead())
    }

    /// The span of `len` octets at the guest's `address`, which must lie in one region.
    ///
    /// # Safety
    /// The memory is mapped, by this or by a clone of it, for as long as a span that is returned,
    /// or one made of it, is used.
    #[inline]
    pub unsafe fn translate_whole(&self, address: u64, len: u32) -> Option<Span> {
        // SAFETY: the caller's promise.
        unsafe { self.within(address, len, |region| region.guest_address) }
    }

    /// Where the guest sees what is mapped at `address`.
    pub(in crate::dataplane::port::vhost_user) fn guest_address(
        &self,
        address: usize,
    ) -> Option<u64> {
        // One comparison for both ends: below the region the difference wraps to a huge one.
        let within = |r: &&Mapped| (address.wrapping_sub(r.host_address) as u64) < r.len;
        let region = self.regions.iter().find(within)?;
        Some(region.guest_address + (address - region.host_address) as u64)
    }

    /// Appends the spans of `len` octets at `address` to `spans`: one, or more where regions touch.
    /// Returns `None` unless all of it is mapped: then what was appended must not be used. The
    /// address of an empty range must be mapped, too.
    ///
    /// # Safety
    /// The memory is mapped, by this or by a clone of it, for as long as a span that is returned,
    /// or one made of it, is used.
    #[inline]
    pub unsafe fn translate(
        &self,
        mut address: u64,
        len: u32,
        spans: &mut Vec<Span>,
    ) -> Option<()> {
        let mut left = u64::from(len);
        loop {
            let region =
                self.regions.iter().find(|r| address.wrapping_sub(r.guest_address) < r.len)?;
            let offset = address - region.guest_address;
            // Regions may touch. A guest knows nothing of them, and its buffers cross over.
            let here = left.min(region.len - offset);
            if here > 0 {
                // SAFETY: inside the region, which is mapped at `host_address`; for how long is the
                // caller's promise.
                spans
                    .push(unsafe { Span::new(region.host_address + offset as usize, here as u32) });
            }
            left -= here;
            if left == 0 {
                return Some(());
            }
            address = address.checked_add(here)?;
        }
    }

    /// The span of `len` octets at the VMM's own `address`, which must lie in one region.
    ///
    /// # Safety
    /// The memory is mapped, by this or by a clone of it, for as long as a span that is returned,
    /// or one made of it, is used.
    pub unsafe fn translate_user(&self, address: u64, len: u32) -> Option<Span> {
        // SAFETY: the caller's promise.
        unsafe { self.within(address, len, |region| region.user_address) }
    }

    /// # Safety
    /// As of [`GuestMemory::translate`].
    #[inline]
    unsafe fn within(
        &self,
        address: u64,
        len: u32,
        start: impl Fn(&Mapped) -> u64,
    ) -> Option<Span> {
        let region = self.regions.iter().find(|r| address.wrapping_sub(start(r)) < r.len)?;
        let offset = address - start(region);
        let fits = u64::from(len) <= region.len - offset;
        // SAFETY: inside the region, which is mapped at `host_address`; for how long is the
        // caller's promise.
        fits.then(|| unsafe { Span::new(region.host_address + offset as usize, len) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    /// The whole of a range, of memory that the test keeps for as long as it uses that.
    fn whole(memory: &GuestMemory, address: u64, len: u32) -> Option<Span> {
        // SAFETY: see above.
        unsafe { memory.translate_whole(address, len) }
    }

    fn memfd(len: u64) -> Foreign<OwnedFd> {
        let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, len).unwrap();
        fd.into()
    }

    fn request(guest_address: u64, len: u64) -> RegionRequest {
        let user_address = guest_address + 0x7000_0000_0000;
        RegionRequest { guest_address, len, user_address, offset: 0, fd: memfd(len) }
    }

    #[test]
    fn ranges_must_be_mapped_to_the_last_octet() {
        let memory = GuestMemory::map(
            vec![request(0x1000, 0x2000), request(0x3000, 0x1000), request(0x10000, 0x1000)],
            u64::MAX,
        )
        .unwrap();
        let spans = |address, len| {
            let mut spans = Vec::new();
            // SAFETY: none of them is used.
            unsafe { memory.translate(address, len, &mut spans) }
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
        assert!(whole(&memory, 0x2ff0, 0x20).is_none());
        // SAFETY: none of them is used.
        let user = |address, len| unsafe { memory.translate_user(address, len) };
        assert!(user(0x7000_0000_1000, 0x2000).is_some());
        assert!(user(0x7000_0000_1000, 0x2001).is_none());
    }

    #[test]
    fn bad_regions_are_refused_with_their_reason() {
        let refused = |request| GuestMemory::map(vec![request], u64::MAX).unwrap_err().to_string();
        assert!(refused(request(0x1000, 0)).contains("smaller than a page"));
        assert!(
            refused(RegionRequest { guest_address: u64::MAX - 10, ..request(0, 0x1000) })
                .contains("beyond")
        );
        assert!(refused(RegionRequest { offset: 1, ..request(0, 0x1000) }).contains("shorter"));
        let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap()).into();
        assert!(refused(RegionRequest { fd: null, ..request(0, 0x1000) }).contains("not a file"));
        let disk = OwnedFd::from(std::fs::File::open("Cargo.toml").unwrap()).into();
        assert!(refused(RegionRequest { fd: disk, ..request(0, 4096) }).contains("tmpfs"));
        let both = GuestMemory::map(vec![request(0, 0x2000), request(0x1000, 0x1000)], u64::MAX);
        assert!(both.unwrap_err().to_string().contains("overlaps"));
        let both = || vec![request(0, 0x2000), request(0x2000, 0x1000)];
        assert!(GuestMemory::map(both(), 0x3000).is_ok());
        assert!(GuestMemory::map(both(), 0x2fff).unwrap_err().to_string().contains("12287 octets"));
        let many = (0..65).map(|n| request(n * 0x1000, 0x1000)).collect();
        assert!(matches!(GuestMemory::map(many, u64::MAX), Err(MemoryError::TooMany)));
    }

    #[test]
    fn regions_come_and_go() {
        let memory = GuestMemory::map(vec![request(0, 0x1000)], u64::MAX).unwrap();
        let memory =
            memory.with(request(0x1000, 0x1000), u64::MAX).unwrap().without(0, 0x1000).unwrap();
        assert!(whole(&memory, 0, 1).is_none());
        assert!(whole(&memory, 0x1000, 1).is_some());
        let memory = memory.without(0, 0x1000).unwrap();
        for (start, len) in [(0, 0x2000), (0x1800, 0x1000), (0x1000, 0x800), (0x1400, 1)] {
            let refused = memory.clone().without(start, len).unwrap_err();
            assert!(matches!(refused, MemoryError::Unknown { .. }), "{start:#x} is there in part");
        }
        assert!(
            memory.without(0x1000, 0x1000).unwrap().without(0x1000, 0x1000).unwrap().is_empty()
        );
    }

    #[test]
    fn exactly_the_region_that_is_there_may_be_added_again() {
        let file = memfd(0x3000);
        let again = |change: fn(&mut RegionRequest)| {
            let fd = file.try_clone().unwrap();
            let mut region =
                RegionRequest { offset: 0x1000, fd: fd.into(), ..request(0x1000, 0x1000) };
            change(&mut region);
            region
        };
        let memory = GuestMemory::default().with(again(|_| {}), 0x2000).unwrap();
        let memory = memory.with(again(|_| {}), 0x2000).unwrap();
        assert_eq!(memory.regions.len(), 1, "it is not mapped twice");
        let changes: [fn(&mut RegionRequest); 5] = [
            |region| region.guest_address += 0x800,
            |region| region.len += 0x1000,
            |region| region.user_address += 0x1000,
            |region| region.offset += 0x1000,
            |region| region.fd = memfd(0x3000),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let refused = memory.clone().with(again(change), u64::MAX).unwrap_err();
            assert!(refused.to_string().contains("overlaps"), "{number}: {refused}");
        }
        let table = vec![again(|_| {}), again(|_| {})];
        let refused = GuestMemory::map(table, u64::MAX).unwrap_err();
        assert!(refused.to_string().contains("overlaps"), "one table with it twice: {refused}");
        let mut full = GuestMemory::map(vec![again(|_| {})], u64::MAX).unwrap();
        for number in 1..MAX_REGIONS as u64 {
            full = full.with(request(number << 20, 0x1000), u64::MAX).unwrap();
        }
        assert!(full.clone().with(again(|_| {}), u64::MAX).is_ok(), "however many there are");
        assert!(full.with(request(1 << 40, 0x1000), u64::MAX).is_err());
    }

    /// Memory of four pages full of 7s, in a file that can be truncated (a memfd is sealed).
    fn fragile(name: &str) -> (std::fs::File, GuestMemory) {
        let path = format!("/dev/shm/mvirt-net-test-{name}-{}", std::process::id());
        let mut options = std::fs::File::options();
        let file = options.create_new(true).read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(0x4000).unwrap();
        let fd = OwnedFd::from(file.try_clone().unwrap()).into();
        let region = RegionRequest { fd, ..request(0, 0x4000) };
        let memory = GuestMemory::map(vec![region], u64::MAX).unwrap();
        let all = whole(&memory, 0, 0x4000).unwrap();
        assert_eq!(all.copy_from_slice(&[7; 0x4000]), 0x4000);
        (file, memory)
    }

    #[test]
    fn a_copy_that_meets_truncated_memory_ends_in_zeros_and_the_mapping_is_dead() {
        // Of every kernel: before and across the third page, which is taken away.
        for len in [1, 15, 60, 64, 100, 128, 1500, 0x1800] {
            let (file, memory) = fragile("read");
            let before = 0x2000_usize.saturating_sub(len / 2);
            let span = whole(&memory, before as u64, len as u32).unwrap();
            file.set_len(0x2000).unwrap();
            let mut octets = vec![1; len];
            assert_eq!(span.copy_to_slice(&mut octets), len);
            let left = octets.iter().take_while(|octet| **octet == 7).count();
            assert!(left <= len / 2 && octets[left..].iter().all(|octet| *octet == 0), "{len}");
            assert!(memory.is_dead());

            let (file, memory) = fragile("write");
            let span = whole(&memory, before as u64, len as u32).unwrap();
            file.set_len(0x2000).unwrap();
            assert_eq!(span.copy_from_slice(&vec![9; len]), len);
            assert!(memory.is_dead());
        }
    }

    #[test]
    fn truncated_memory_that_is_touched_everywhere_takes_few_mappings_of_the_process() {
        const LEN: u64 = 256 << 20;
        let (file, _) = fragile("wide");
        file.set_len(LEN).unwrap();
        let fd = OwnedFd::from(file.try_clone().unwrap()).into();
        let memory = GuestMemory::map(vec![RegionRequest { fd, ..request(0, LEN) }], u64::MAX);
        let memory = memory.unwrap();
        let start = whole(&memory, 0, 1).unwrap().address();
        file.set_len(0).unwrap();
        for at in (0..LEN).step_by(64 << 10) {
            assert_eq!(whole(&memory, at, 8).unwrap().read::<8>(), Some([0; 8]));
        }
        assert!(memory.is_dead());
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let begins =
            maps.lines().filter_map(|line| usize::from_str_radix(line.split('-').next()?, 16).ok());
        let within = begins.filter(|begin| (start..start + LEN as usize).contains(begin)).count();
        assert!(within <= 8, "{within} of 4096 places");
    }

    proptest! {
        #[test]
        fn copies_are_exact(
            octets in proptest::collection::vec(any::<u8>(), 0..700),
            at in 0_usize..32,
        ) {
            let memory = GuestMemory::map(vec![request(0, 0x1000)], u64::MAX).unwrap();
            let span = whole(&memory, at as u64, octets.len() as u32).unwrap();
            prop_assert_eq!(span.copy_from_slice(&octets), octets.len());
            let mut back = vec![0; octets.len() + 2];
            prop_assert_eq!(span.copy_to_slice(&mut back), octets.len());
            prop_assert_eq!(&back[..octets.len()], &octets[..]);
            prop_assert_eq!(&back[octets.len()..], &[0, 0]);
        }
    }
}
