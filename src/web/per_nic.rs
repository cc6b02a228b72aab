//! Of which vNICs and ports there are series of their own: many series cost who keeps them more
//! than they tell.

use std::str::FromStr;

/// vNICs and ports up to which all have some, where nobody says.
const FEW: usize = 2_000;
/// How many have some beyond that.
const TOP: usize = 200;

/// As `--metrics-per-nic` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PerNic {
    /// All.
    All,
    /// None: networks are told as a whole.
    None,
    /// So many, those that have carried most.
    Top(usize),
}

impl FromStr for PerNic {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "expected all, none or top:N, where N is 1-16384";
        match text {
            "all" => Ok(Self::All),
            "none" => Ok(Self::None),
            _ => {
                let count = text.strip_prefix("top:").and_then(|count| count.parse().ok());
                count.filter(|count| (1..=16_384).contains(count)).map(Self::Top).ok_or(expected)
            }
        }
    }
}

impl PerNic {
    /// Returns how many of so many have series of their own, where this is said, or not.
    pub fn of(asked: Option<Self>, there: usize) -> usize {
        match asked {
            Some(Self::All) => there,
            Some(Self::None) => 0,
            Some(Self::Top(count)) => count.min(there),
            None if there <= FEW => there,
            None => TOP,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_have_none_of_their_own_unless_that_is_asked_for() {
        for (asked, there, expected) in [
            (None, 2_000, 2_000),
            (None, 2_001, 200),
            (Some("all"), 10_000, 10_000),
            (Some("none"), 5, 0),
            (Some("top:7"), 5, 5),
            (Some("top:7"), 50, 7),
        ] {
            let asked = asked.map(|text| text.parse().unwrap());
            assert_eq!(PerNic::of(asked, there), expected, "{asked:?} {there}");
        }
        for junk in ["", "top", "top:", "top:0", "top:16385", "top:-1", "ALL", "some"] {
            assert!(junk.parse::<PerNic>().is_err(), "{junk}");
        }
    }
}
