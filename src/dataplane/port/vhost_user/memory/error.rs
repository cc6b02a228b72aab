//! Why memory that a VMM shares is refused.

/// Regions a VMM may share. Told to VMMs; it must never shrink, or they refuse to reconnect.
pub const MAX_REGIONS: usize = 64;

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
    /// Too much memory.
    #[error("more than {limit} octets of files (see --max-guest-memory)")]
    TooMuch {
        /// What is allowed.
        limit: u64,
    },
    /// Others have mapped all there is.
    #[error(
        "all VMMs together have mapped as much as the daemon can; no more than 4 GiB in 2 regions \
         can be had now"
    )]
    NoRoom,
    /// No such region.
    #[error("no region of {len:#x} octets at {guest_address:#x} to remove")]
    Unknown {
        /// Where the guest sees it.
        guest_address: u64,
        /// Octets.
        len: u64,
    },
}
