//! Writing one thing after the other into spans.

use super::Span;

/// Writes one thing after the other into spans, which have room for all of it.
#[derive(Debug, Clone, Copy)]
pub struct Scatter<'a> {
    spans: &'a [Span],
    at: usize,
    /// Octets of `spans[at]` already written.
    skipped: usize,
}

impl<'a> Scatter<'a> {
    /// Returns one that begins with the first of `spans`.
    pub fn new(spans: &'a [Span]) -> Self {
        Self { spans, at: 0, skipped: 0 }
    }

    fn room(&self) -> Option<Span> {
        self.spans.get(self.at).map(|span| span.skip(self.skipped))
    }

    /// Leaves out `octets`.
    pub fn skip(&mut self, octets: usize) {
        self.skipped += octets;
        // Also past empty spans: the next octet always has room where this ends.
        while let Some(span) = self.spans.get(self.at)
            && self.skipped >= span.len()
        {
            self.skipped -= span.len();
            self.at += 1;
        }
    }

    /// Writes `octets`, as far as there is room.
    pub fn put(&mut self, mut octets: &[u8]) {
        while !octets.is_empty()
            && let Some(room) = self.room()
        {
            let copied = room.copy_from_slice(octets);
            octets = &octets[copied..];
            self.skip(copied);
        }
    }

    /// Writes the octets of `from`, as far as there is room.
    pub fn put_span(&mut self, mut from: Span) {
        while !from.is_empty()
            && let Some(room) = self.room()
        {
            let copied = room.copy_from_span(from);
            from = from.skip(copied);
            self.skip(copied);
        }
    }
}
