//! What people write alike behind `mvirt` and in the address of a browser: octets, and labels of
//! which objects are wanted. Whoever takes them says for which flag or field.

use crate::printable::printable;
use std::{collections::BTreeMap, str::FromStr};

/// Octets, written as hexadecimal digits; blanks and colons between them are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Octets(pub Vec<u8>);

/// Text is no octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected hexadecimal digits, two for each octet")]
pub struct MalformedOctets;

impl FromStr for Octets {
    type Err = MalformedOctets;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: Option<Vec<_>> = text
            .chars()
            .filter(|c| !c.is_whitespace() && *c != ':')
            .map(|c| c.to_digit(16).map(|digit| digit as u8))
            .collect();
        let (pairs, rest) = digits.as_deref().ok_or(MalformedOctets)?.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(MalformedOctets);
        }
        Ok(Self(pairs.iter().map(|[high, low]| high << 4 | low).collect()))
    }
}

/// No object has two values of this label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{:.63} is given twice", printable(.0))]
pub struct LabelTwice(String);

/// Reads labels as requests have them from `key=value`, or `key` for any value.
///
/// # Errors
///
/// One is given twice: the last would win silently, and who asks would see what is not wanted.
pub fn labels(all: Vec<String>) -> Result<BTreeMap<String, String>, LabelTwice> {
    let mut labels = BTreeMap::new();
    for label in all {
        let (key, value) = label.split_once('=').unwrap_or((&label, ""));
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(LabelTwice(key.to_owned()));
        }
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_written_with_blanks_and_colons_or_without() {
        let octets = Ok(Octets(vec![0x02, 0, 0xff]));
        for written in ["0200ff", "02 00 FF", "02:00:ff", "02\t00\nff"] {
            assert_eq!(written.parse(), octets, "{written}");
        }
        for bad in ["020", "0g", "0x02", "\u{e9}"] {
            assert!(bad.parse::<Octets>().is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_are_written_with_a_value_or_without_and_once() {
        let labels = |all: &[&str]| labels(all.iter().map(|label| (*label).to_owned()).collect());
        let read = labels(&["a=1=2", "b", "c="]).unwrap();
        let read: Vec<_> = read.iter().map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!(read, [("a", "1=2"), ("b", ""), ("c", "")]);
        let twice = labels(&["a\n=1", "b", "a\n"]).unwrap_err();
        assert_eq!(twice.to_string(), "a\\n is given twice");
    }
}
