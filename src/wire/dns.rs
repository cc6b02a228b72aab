//! DNS names as DHCP and router advertisements carry them: uncompressed labels (RFC 1035 §3.1).

use std::{
    fmt::{self, Write as _},
    str::FromStr,
};

/// A domain name of at most 255 octets, in wire form.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    octets: [u8; 255],
    len: u8,
}

/// The text is not a domain name of letters, digits and hyphens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected labels of 1-63 letters, digits and hyphens separated by dots, at most 253 characters \
     in all"
)]
pub struct MalformedName;

/// Whether `label` is 1-63 letters, digits and hyphens, with no hyphen at either end (RFC 1123
/// §2.1).
pub fn is_label(label: &str) -> bool {
    let octets = label.as_bytes();
    (1..=63).contains(&octets.len())
        && octets.iter().all(|o| o.is_ascii_alphanumeric() || *o == b'-')
        && octets.first() != Some(&b'-')
        && octets.last() != Some(&b'-')
}

impl Name {
    /// The labels, the empty one at the end included.
    pub fn octets(&self) -> &[u8] {
        self.octets.get(..usize::from(self.len)).unwrap_or(&[])
    }
}

impl FromStr for Name {
    type Err = MalformedName;

    fn from_str(text: &str) -> Result<Self, MalformedName> {
        let text = text.strip_suffix('.').unwrap_or(text);
        // A dot stands for a length octet; the first label's and the empty label at the end come on
        // top: 255 in wire form.
        if text.len() > 253 || !text.split('.').all(is_label) {
            return Err(MalformedName);
        }
        let mut octets = [0; 255];
        let mut writer = super::Writer::new(&mut octets);
        for label in text.split('.') {
            let len = u8::try_from(label.len()).map_err(|_| MalformedName)?;
            writer.push(&len).map_err(|_| MalformedName)?;
            writer.push_slice(label.as_bytes()).map_err(|_| MalformedName)?;
        }
        writer.push(&0_u8).map_err(|_| MalformedName)?;
        let len = u8::try_from(writer.len()).map_err(|_| MalformedName)?;
        Ok(Self { octets, len })
    }
}

/// Shows the labels of a name in wire form, up to its end or where it is cut, with dots between
/// them; an octet that is not ASCII is shown as `?`.
#[derive(Debug, Clone, Copy)]
pub struct Labels<'a>(pub &'a [u8]);

impl fmt::Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut dot = "";
        while let Some((len @ 1.., tail)) = rest.split_first() {
            let (label, after) = tail.split_at_checked(usize::from(*len)).unwrap_or((tail, &[]));
            f.write_str(dot)?;
            for octet in label {
                f.write_char(if octet.is_ascii() { char::from(*octet) } else { '?' })?;
            }
            (rest, dot) = (after, ".");
        }
        Ok(())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Labels(self.octets()), f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_wire_form_and_back() {
        let name: Name = "prod.internal.".parse().unwrap();
        assert_eq!(name.octets(), b"\x04prod\x08internal\x00");
        assert_eq!(name.to_string(), "prod.internal");
        let longest = format!("{}.{}", vec!["a".repeat(63); 3].join("."), "b".repeat(61));
        assert_eq!(longest.parse::<Name>().unwrap().octets().len(), 255);
    }

    #[test]
    fn junk_is_refused() {
        for junk in
            ["", ".", "a..b", "-a", "a-", "a b", "a_b", &"a".repeat(64), &["a"; 128].join(".")]
        {
            assert_eq!(junk.parse::<Name>(), Err(MalformedName), "{junk}");
        }
    }
}
