//! Memory of a port's own for the frames it has read and that wait: buffers of one size, whose
//! pages cost nothing until they are used.

#![expect(unsafe_code, reason = "whoever makes a span of a buffer promises that the slab lives on")]

use super::Span;
use std::{io, ops::Range};
use vm_memory::MmapRegion;

/// Some buffers.
#[derive(Debug)]
pub struct Slab {
    region: MmapRegion,
    /// Octets of each.
    each: usize,
}

impl Slab {
    /// Maps `count` buffers of `each` octets.
    pub fn new(count: usize, each: usize) -> io::Result<Self> {
        let region = MmapRegion::new(count * each).map_err(io::Error::other)?;
        Ok(Self { region, each })
    }

    fn start(&self, buffer: usize) -> *mut u8 {
        let start = buffer * self.each;
        assert!(start + self.each <= self.region.size(), "there is no buffer {buffer}");
        self.region.as_ptr().wrapping_add(start)
    }

    /// Returns a buffer, to be filled.
    pub fn buffer(&mut self, buffer: usize) -> &mut [u8] {
        self.buffers(buffer..buffer + 1)
    }

    /// Returns buffers that follow one another, to be filled.
    pub fn buffers(&mut self, buffers: Range<usize>) -> &mut [u8] {
        let (start, octets) = (self.start(buffers.start), self.each * buffers.len());
        assert!(self.each * buffers.end <= self.region.size(), "there are no buffers {buffers:?}");
        // SAFETY: these octets are mapped, and are this slab's alone, which is borrowed. Spans of
        // the buffers are no references: who copies one meanwhile gets some of either octets.
        unsafe { std::slice::from_raw_parts_mut(start, octets) }
    }

    /// Returns the octets `range` of a buffer.
    ///
    /// # Safety
    /// The span, or one made of it, is not used once the slab is dropped.
    pub unsafe fn span(&self, buffer: usize, range: Range<usize>) -> Span {
        assert!(range.start <= range.end && range.end <= self.each, "a part of a buffer");
        let address = self.start(buffer).expose_provenance() + range.start;
        // SAFETY: these octets are mapped, and the caller keeps them so.
        unsafe { Span::new(address, range.len() as u32) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_of_its_own_buffer() {
        let mut slab = Slab::new(3, 100).unwrap();
        for buffer in 0..3 {
            slab.buffer(buffer).fill(buffer as u8 + 1);
        }
        slab.buffer(1)[10] = 77;
        let mut octets = [0; 4];
        // SAFETY: the slab lives longer.
        let span = unsafe { slab.span(1, 9..13) };
        assert_eq!((span.copy_to_slice(&mut octets), octets), (4, [2, 77, 2, 2]));
        // SAFETY: as above.
        let last = unsafe { slab.span(2, 96..100) };
        assert_eq!((last.copy_to_slice(&mut octets), octets), (4, [3; 4]));
    }

    #[test]
    #[should_panic(expected = "there is no buffer 3")]
    fn there_are_no_more_buffers() {
        Slab::new(3, 100).unwrap().buffer(3);
    }
}
