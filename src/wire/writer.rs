//! Appends octets to a caller's buffer; refuses what does not fit.

use zerocopy::{Immutable, IntoBytes};

/// The buffer is too small for what was to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// An append-only view of a buffer, with patching of what was written.
#[derive(Debug)]
pub struct Writer<'a> {
    buffer: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    /// Starts at the beginning of `buffer`.
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, len: 0 }
    }

    /// Octets written so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a header.
    pub fn push<T: IntoBytes + Immutable>(&mut self, value: &T) -> Result<(), Full> {
        self.push_slice(value.as_bytes())
    }

    /// Appends octets.
    pub fn push_slice(&mut self, octets: &[u8]) -> Result<(), Full> {
        // All or nothing: an answer that is cut would be a wrong one.
        let end = self.len.checked_add(octets.len()).ok_or(Full)?;
        self.buffer.get_mut(self.len..end).ok_or(Full)?.copy_from_slice(octets);
        self.len = end;
        Ok(())
    }

    /// Appends `count` octets of zero.
    pub fn push_zeros(&mut self, count: usize) -> Result<(), Full> {
        let end = self.len.checked_add(count).ok_or(Full)?;
        self.buffer.get_mut(self.len..end).ok_or(Full)?.fill(0);
        self.len = end;
        Ok(())
    }

    /// What was written from `start` on.
    pub fn since(&self, start: usize) -> &[u8] {
        self.buffer.get(start..self.len).unwrap_or(&[])
    }

    /// Overwrites two octets at `at`, big endian.
    pub fn patch_u16(&mut self, at: usize, value: u16) {
        if let Some(slot) = self.buffer.get_mut(at..self.len).and_then(|s| s.get_mut(..2)) {
            slot.copy_from_slice(&value.to_be_bytes());
        }
    }
}
