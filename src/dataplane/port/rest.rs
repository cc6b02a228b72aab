//! What a port holds that is in none of its descriptors: frames that wait, and parts of a stream.
//! Another process of the daemon goes on with it.
//!
//! As octets: what was read, what is to be written, and each frame, all with their length before
//! them in 32 bits, big-endian. Both processes are of this program, maybe of two versions.

/// Octets that were read and not dealt with, or taken and not written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rest {
    /// Frames that wait for their receivers, the oldest first.
    pub frames: Vec<Vec<u8>>,
    /// Octets of a stream that hold no whole frame yet.
    pub read: Vec<u8>,
    /// Octets of a stream that are to be written, maybe from the middle of a frame on.
    pub unwritten: Vec<u8>,
}

impl Rest {
    /// Writes it.
    pub fn write(&self) -> Vec<u8> {
        let mut octets = Vec::new();
        for part in [&self.read, &self.unwritten].into_iter().chain(&self.frames) {
            octets.extend_from_slice(&(part.len() as u32).to_be_bytes());
            octets.extend_from_slice(part);
        }
        octets
    }

    /// Reads what was written. None where that was something else.
    pub fn read(octets: &[u8]) -> Option<Self> {
        let mut octets = octets;
        let mut next = || {
            let (length, after) = octets.split_first_chunk()?;
            let (part, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            octets = after;
            Some(part.to_vec())
        };
        let (read, unwritten) = (next()?, next()?);
        let frames = std::iter::from_fn(&mut next).collect();
        octets.is_empty().then_some(Self { frames, read, unwritten })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #[test]
        fn what_is_written_is_read(
            frames in vec(vec(any::<u8>(), 0..50), 0..5),
            read in vec(any::<u8>(), 0..50),
            unwritten in vec(any::<u8>(), 0..50),
        ) {
            let rest = Rest { frames, read, unwritten };
            let written = rest.write();
            prop_assert_eq!(Rest::read(&written), Some(rest));
            prop_assert_eq!(Rest::read(&written[..written.len() - 1]), None);
        }
    }
}
