//! The VMM's side of vhost-user, by the `vhost` crate: what it tells the switch of a driver's
//! memory and rings.

use super::driver::{Memory, Ring};
use std::os::fd::AsRawFd as _;
use vhost::{VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData, vhost_user::Frontend};
use vm_memory::{GuestAddress, GuestMemoryBackend as _};
use vmm_sys_util::eventfd::EventFd;

/// Where the VMM sees an address of the guest.
fn user_address(memory: &Memory, address: u64) -> u64 {
    memory.get_host_address(GuestAddress(address)).unwrap() as u64
}

/// All of a guest's memory.
pub(crate) fn region(memory: &Memory) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: 0,
        memory_size: memory.last_addr().0 + 1,
        userspace_addr: user_address(memory, 0),
        mmap_offset: 0,
        mmap_handle: memory.file.as_raw_fd(),
    }
}

/// Tells of a ring, from position `base` on; does not enable it.
pub(crate) fn start_ring(
    frontend: &Frontend,
    (index, ring): (usize, Ring),
    base: u16,
    memory: &Memory,
    (kick, call): (&EventFd, &EventFd),
) -> Result<(), vhost::Error> {
    let data = VringConfigData {
        queue_max_size: ring.size,
        queue_size: ring.size,
        flags: 0,
        desc_table_addr: user_address(memory, ring.descriptors),
        used_ring_addr: user_address(memory, ring.used),
        avail_ring_addr: user_address(memory, ring.available),
        log_addr: None,
    };
    frontend.set_vring_num(index, ring.size)?;
    frontend.set_vring_addr(index, &data)?;
    frontend.set_vring_base(index, base)?;
    frontend.set_vring_call(index, call)?;
    frontend.set_vring_kick(index, kick)
}
