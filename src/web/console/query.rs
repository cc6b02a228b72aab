//! What is asked for behind a path, as forms write it: `network=prod&page_size=10`.

use super::super::answer::Refused;
use crate::printable::printable;
use std::{fmt::Display, ops::RangeInclusive, str::FromStr};

/// Pairs that there may be.
// A capture names at most 1024 vNICs and ports; the head of a request bounds it before.
const MOST: usize = 1100;

/// The pairs that nobody has taken yet.
#[derive(Debug)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl Query {
    /// Reads them.
    pub(super) fn of(text: &str) -> Result<Self, Refused> {
        let pairs: Vec<_> = form_urlencoded::parse(text.as_bytes()).take(MOST + 1).collect();
        if pairs.len() > MOST {
            return Err(Refused::bad(format!("expected at most {MOST} fields")));
        }
        let pairs = pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Ok(Self { pairs, known: Vec::new() })
    }

    /// Takes all values of a field.
    pub(super) fn all(&mut self, name: &'static str) -> Vec<String> {
        self.known.push(name);
        let taken = self.pairs.extract_if(.., |pair| pair.0 == name);
        taken.map(|(_, value)| value).collect()
    }

    /// Takes its value; empty, where there is none.
    pub(super) fn text(&mut self, name: &'static str) -> Result<String, Refused> {
        let mut all = self.all(name);
        if all.len() > 1 {
            return Err(Refused::bad(format!("{name}: expected once")));
        }
        Ok(all.pop().unwrap_or_default())
    }

    /// Takes its value as a number of that range; `default`, where there is none.
    pub(super) fn number<T: FromStr + PartialOrd + Display>(
        &mut self,
        name: &'static str,
        default: T,
        range: RangeInclusive<T>,
    ) -> Result<T, Refused> {
        let text = self.text(name)?;
        if text.is_empty() {
            return Ok(default);
        }
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let (text, least, most) = (printable(&text), range.start(), range.end());
            Refused::bad(format!("{name}: \"{text:.60}\": expected {least} to {most}"))
        })
    }

    /// Refuses what nobody has taken.
    pub(super) fn end(self) -> Result<(), Refused> {
        let Some((name, _)) = self.pairs.first() else { return Ok(()) };
        let name = printable(name);
        let expected = match &self.known[..] {
            [] => "no fields".into(),
            known => known.join(", "),
        };
        Err(Refused::bad(format!("{name:.60}: no such field: expected {expected}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_taken_by_name_and_what_is_none_is_named() {
        let mut query = Query::of("target=a&n=7&target=b%26c&filter=tcp+port+80").unwrap();
        assert_eq!(query.all("target"), ["a", "b&c"]);
        assert_eq!(query.text("filter").unwrap(), "tcp port 80");
        assert_eq!(query.number("n", 1, 1..=9).unwrap(), 7);
        assert_eq!(query.number("m", 1, 1..=9).unwrap(), 1);
        query.end().unwrap();
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        let why = |refused: Refused| refused.1;
        let mut query = Query::of("n=ten&n2=10&twice=1&twice=2&odd%0a=1").unwrap();
        let number = query.number("n", 1, 1..=9).map_err(why);
        assert_eq!(number.unwrap_err(), "n: \"ten\": expected 1 to 9");
        assert!(query.number("n2", 1, 1..=9).is_err());
        assert_eq!(query.text("twice").map_err(why).unwrap_err(), "twice: expected once");
        let left = query.end().map_err(why).unwrap_err();
        assert_eq!(left, "odd\\n: no such field: expected n, n2, twice");
        assert!(Query::of(&"x&".repeat(2000)).is_err());
    }
}
