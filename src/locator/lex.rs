//! Quoting, as VDE has it: `'…'`, `"…"`, `\x` and `%HH` take the meaning from what they hold.

use std::fmt;

/// An octet of a locator, and whether it may divide one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Octet {
    value: u8,
    /// It was quoted: it is only what it is.
    literal: bool,
}

impl Octet {
    fn is(self, separator: u8) -> bool {
        !self.literal && self.value == separator
    }
}

/// What cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// A quotation mark or backslash after which something is missing.
    Unfinished,
    /// It has no place in a path, and none in a line of a log.
    ControlCharacter,
}

/// Returns the octets of `text`, without its quotes.
pub(super) fn lex(text: &str) -> Result<Vec<Octet>, Unreadable> {
    let (mut octets, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&value, after)) = rest.split_first() {
        rest = after;
        match value {
            b'\'' | b'"' => {
                let end = rest.iter().position(|octet| *octet == value);
                let (quoted, after) = rest.split_at(end.ok_or(Unreadable::Unfinished)?);
                octets.extend(quoted.iter().map(|&value| Octet { value, literal: true }));
                rest = &after[1..];
            }
            b'\\' => {
                let (&value, after) = rest.split_first().ok_or(Unreadable::Unfinished)?;
                octets.push(Octet { value, literal: true });
                rest = after;
            }
            b'%' => match hexadecimal(rest) {
                Some(value) => {
                    octets.push(Octet { value, literal: true });
                    rest = &rest[2..];
                }
                None => octets.push(Octet { value, literal: false }),
            },
            value => octets.push(Octet { value, literal: false }),
        }
    }
    match octets.iter().any(|octet| octet.value.is_ascii_control()) {
        true => Err(Unreadable::ControlCharacter),
        false => Ok(octets),
    }
}

/// Returns the octet that the first two digits of `text` are, if they are.
fn hexadecimal(text: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*text.get(at)?).to_digit(16);
    Some((digit(0)? << 4 | digit(1)?) as u8)
}

/// Returns what is before the first `separator`, and what is behind it.
pub(super) fn split_once(text: &[Octet], separator: u8) -> (&[Octet], Option<&[Octet]>) {
    match text.iter().position(|octet| octet.is(separator)) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// Returns what is between separators.
pub(super) fn split(text: &[Octet], separator: u8) -> impl Iterator<Item = &[Octet]> {
    text.split(move |octet| octet.is(separator))
}

/// Returns both sides of an arrow, `->`.
pub(super) fn split_at_arrow(text: &[Octet]) -> Option<(&[Octet], &[Octet])> {
    let at = text.windows(2).position(|pair| pair[0].is(b'-') && pair[1].is(b'>'))?;
    Some((&text[..at], &text[at + 2..]))
}

/// Returns what was meant.
pub(super) fn unquoted(text: &[Octet]) -> Vec<u8> {
    text.iter().map(|octet| octet.value).collect()
}

/// Octets as they are written in a locator, such that nothing in them divides it.
pub(super) struct Quoted<'a>(pub(super) &'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in self.0.utf8_chunks() {
            for c in piece.valid().chars() {
                match c {
                    '\'' | '"' | '\\' | '%' | '[' | ']' | '/' | '>' => write!(f, "\\{c}")?,
                    c if c.is_ascii_control() => write!(f, "%{:02x}", u32::from(c))?,
                    c => write!(f, "{c}")?,
                }
            }
            for octet in piece.invalid() {
                write!(f, "%{octet:02x}")?;
            }
        }
        Ok(())
    }
}

/// A path as it is written in a locator, where `/` divides nothing.
pub(super) struct QuotedPath<'a>(pub(super) &'a [u8]);

impl fmt::Display for QuotedPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.0.split(|octet| *octet == b'/').enumerate() {
            let slash = if at > 0 { "/" } else { "" };
            write!(f, "{slash}{}", Quoted(part))?;
        }
        Ok(())
    }
}
