//! A range of octets that is only ever copied: of a guest's memory, which no Rust reference may
//! ever be made of.

#![expect(unsafe_code, reason = "whoever makes a span promises that its octets are mapped")]

use super::copy::{copy, prefetch, prefetch_write};

/// A range of checked, mapped guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    address: usize,
    // As wide as a descriptor's length (virtio 1.2 §2.7.5).
    len: u32,
}

impl Span {
    /// Makes a span of `len` octets at `address`.
    ///
    /// # Safety
    /// They are mapped, readable and writable, for as long as this span, or one made of it, is
    /// used.
    #[inline]
    pub unsafe fn new(address: usize, len: u32) -> Self {
        Self { address, len }
    }

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
        // Lengths come from guests: one that is too long ends the span instead of leaving it.
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
        // Not beyond the end, though that could not fault: such lines would be fetched for nothing.
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
        // SAFETY: `N` octets are mapped at `address` while the span is used (see `Span::new`), and
        // `octets` is ours.
        unsafe { copy(self.address as *const u8, octets.as_mut_ptr(), N) };
        Some(octets)
    }

    /// Copies `octets` to the beginning, if there is room; returns what is behind them.
    #[inline]
    pub fn write<const N: usize>(self, octets: &[u8; N]) -> Option<Self> {
        if self.len() < N {
            return None;
        }
        // SAFETY: `N` octets are mapped writable at `address` while the span is used, and `octets`
        // is ours.
        unsafe { copy(octets.as_ptr(), self.address as *mut u8, N) };
        Some(self.skip(N))
    }

    /// Copies into private memory; returns how many octets: the shorter of both.
    #[inline]
    pub fn copy_to_slice(self, to: &mut [u8]) -> usize {
        let len = self.len().min(to.len());
        // SAFETY: `len` octets are mapped at `address` while the span is used (see `Span::new`),
        // and `to` is ours.
        unsafe { copy(self.address as *const u8, to.as_mut_ptr(), len) };
        len
    }

    /// Copies from private memory; returns how many octets: the shorter of both.
    #[inline]
    pub fn copy_from_slice(self, from: &[u8]) -> usize {
        let len = self.len().min(from.len());
        // SAFETY: `len` octets are mapped writable at `address` while the span is used, and `from`
        // is ours.
        unsafe { copy(from.as_ptr(), self.address as *mut u8, len) };
        len
    }

    /// Copies from another span; returns how many octets: the shorter of both.
    #[inline]
    pub fn copy_from_span(self, from: Self) -> usize {
        let len = self.len().min(from.len());
        // A frame that fits its head has an empty tail: the usual case of small ones.
        if len == 0 {
            return 0;
        }
        // SAFETY: both are mapped while they are used; where a guest makes them overlap, it garbles
        // its own data.
        unsafe { copy(from.address as *const u8, self.address as *mut u8, len) };
        len
    }

    /// Fills `to` from spans one after the other; what they lack becomes zero.
    pub fn gather(spans: &[Self], mut to: &mut [u8]) {
        for span in spans {
            let copied = span.copy_to_slice(to);
            to = &mut to[copied..];
        }
        // Else what the buffer held before would go out: octets of another guest, perhaps.
        to.fill(0);
    }

    /// The address, for rings, which keep their own discipline.
    pub fn address(self) -> usize {
        self.address
    }
}
