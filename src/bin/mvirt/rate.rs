//! Rates as people write them: `1Gbit`, `1.5Gbit/10Mbit`, `200kpps`. What is printed can be typed.

use mvirt_net::proto::RateLimit;
use std::fmt;

/// What a rate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Bits,
    Packets,
}

/// So much a second, and at once after a pause; a burst of zero is the server's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    unit: Unit,
    per_second: u64,
    burst: u64,
}

/// Prefixes of the decimal system, the largest first.
// In this order, so that `scaled` finds the largest that fits.
const PREFIXES: [(u32, char); 4] = [(12, 'T'), (9, 'G'), (6, 'M'), (3, 'k')];
const EXPECTED: &str =
    "expected a rate like 1Gbit, 1.5Gbit, 200kpps or 1Gbit/10Mbit (with a burst)";

const NO_LIMIT: &str = "a rate is above zero: --clear-from-guest and --clear-to-guest of \
                        `mvirt nic limit`, and --clear-limit-from and --clear-limit-to of \
                        `mvirt port update`, remove limits; what is new has none";

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut digits = text.chars().filter(char::is_ascii_digit).peekable();
        let is_zero = digits.peek().is_some() && digits.all(|digit| digit == '0');
        // What people write for no limit: the answer says how to have none.
        if is_zero || matches!(&*text.to_ascii_lowercase(), "none" | "no" | "off" | "unlimited") {
            return Err(NO_LIMIT.into());
        }
        // Gbit/s is how many write it; the burst comes after a slash, too.
        let text = text.replace("bit/s", "bit");
        let (rate, burst) = match text.split_once('/') {
            Some((rate, burst)) => (rate, Some(burst)),
            None => (&*text, None),
        };
        let (per_second, unit) = amount(rate).ok_or(EXPECTED)?;
        let unit = unit_of(unit)?.ok_or(EXPECTED)?;
        let burst = match burst {
            None => 0,
            Some(burst) => {
                let (burst, its_unit) = amount(burst).ok_or(EXPECTED)?;
                let same = unit_of(its_unit)?.is_none_or(|its_unit| its_unit == unit);
                same.then_some(burst).ok_or("a rate and its burst have one unit")?
            }
        };
        Ok(Self { unit, per_second, burst })
    }
}

/// The number in front of a unit, above zero, with its prefix; and that unit.
fn amount(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let prefixed = rest.chars().next().and_then(|first| {
        // In any case: there are no rates in millibits.
        let is = |(_, prefix): &(u32, char)| prefix.eq_ignore_ascii_case(&first);
        PREFIXES.into_iter().find(is).map(|(exponent, _)| (exponent, &rest[1..]))
    });
    let (exponent, unit) = prefixed.unwrap_or((0, rest));
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return None,
        None => (number, ""),
    };
    // Exact, so that nothing printed comes back as another number.
    // Digits beyond the unit are refused, not rounded.
    let places = exponent.checked_sub(u32::try_from(fraction.len()).ok()?)?;
    let fraction = if fraction.is_empty() { 0 } else { fraction.parse::<u64>().ok()? };
    let whole = whole.parse::<u64>().ok()?.checked_mul(10_u64.checked_pow(exponent)?)?;
    let amount = whole.checked_add(fraction.checked_mul(10_u64.checked_pow(places)?)?)?;
    (amount > 0).then_some((amount, unit))
}

/// The unit that a word is; none where there is no word.
fn unit_of(word: &str) -> Result<Option<Unit>, String> {
    // Only the capital: a small b is a bit. Taken for bits it would be an eighth of what was meant.
    if matches!(word, "B" | "Bps" | "B/s") || word.to_ascii_lowercase().starts_with("byte") {
        return Err("rates are in bits, of which a byte has 8: 8Gbit for 1 GB a second".into());
    }
    match &*word.to_ascii_lowercase() {
        "" => Ok(None),
        "bit" | "bits" | "bps" | "b" => Ok(Some(Unit::Bits)),
        "pps" => Ok(Some(Unit::Packets)),
        _ => Err(EXPECTED.into()),
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Bits => "bit",
            Unit::Packets => "pps",
        };
        write!(f, "{}{unit}", scaled(self.per_second))?;
        if self.burst > 0 { write!(f, "/{}{unit}", scaled(self.burst)) } else { Ok(()) }
    }
}

/// A number with the largest prefix that leaves it at least 1, and all its digits.
fn scaled(amount: u64) -> String {
    for (exponent, prefix) in PREFIXES {
        let unit = 10_u64.pow(exponent);
        if amount >= unit {
            let number = format!("{}.{:0w$}", amount / unit, amount % unit, w = exponent as usize);
            return format!("{}{prefix}", number.trim_end_matches('0').trim_end_matches('.'));
        }
    }
    amount.to_string()
}

/// The limit `now` with `rates` in place of those of their units.
///
/// # Errors
///
/// Two rates of one unit.
pub(crate) fn limit(now: Option<RateLimit>, rates: &[Rate]) -> Result<Option<RateLimit>, String> {
    let mut limit = now.unwrap_or_default();
    for (at, rate) in rates.iter().enumerate() {
        // The last one would win silently.
        if let Some(other) = rates[..at].iter().find(|other| other.unit == rate.unit) {
            return Err(format!("{other} and {rate}: there is one rate of a kind in a direction"));
        }
        let Rate { unit, per_second, burst } = *rate;
        match unit {
            Unit::Packets => {
                (limit.packets_per_second, limit.burst_packets) = (per_second, burst);
            }
            Unit::Bits => (limit.bits_per_second, limit.burst_bits) = (per_second, burst),
        }
    }
    Ok((limit.packets_per_second > 0 || limit.bits_per_second > 0).then_some(limit))
}

/// A limit for people, as `--from-guest` and `--to-guest` take it; empty where there is none.
pub(crate) fn shown(limit: Option<RateLimit>) -> String {
    let limit = limit.unwrap_or_default();
    let rates = [
        (Unit::Bits, limit.bits_per_second, limit.burst_bits),
        (Unit::Packets, limit.packets_per_second, limit.burst_packets),
    ];
    let rates = rates.into_iter().filter(|(_, per_second, _)| *per_second > 0);
    let rates = rates.map(|(unit, per_second, burst)| Rate { unit, per_second, burst }.to_string());
    rates.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Rate, String> {
        text.parse()
    }

    fn rate(unit: Unit, per_second: u64, burst: u64) -> Result<Rate, String> {
        Ok(Rate { unit, per_second, burst })
    }

    #[test]
    fn rates_are_understood_as_people_write_them() {
        for text in [
            "1Gbit",
            "1gbit",
            "1GBIT",
            "1Gb",
            "1gbps",
            "1Gbit/s",
            "1000Mbit",
            "1000000k\
                     bit",
        ] {
            assert_eq!(parse(text), rate(Unit::Bits, 1_000_000_000, 0), "{text}");
        }
        assert_eq!(parse("1.5Gbit"), rate(Unit::Bits, 1_500_000_000, 0));
        assert_eq!(parse("0.25kbit"), rate(Unit::Bits, 250, 0));
        assert_eq!(parse("500kbit/8Mbit"), rate(Unit::Bits, 500_000, 8_000_000));
        assert_eq!(parse("200kpps/1k"), rate(Unit::Packets, 200_000, 1_000));
        assert_eq!(parse("200KPPS"), rate(Unit::Packets, 200_000, 0));
        for junk in [
            "",
            "1",
            "1G",
            "bit",
            "1Xbit",
            "0pps",
            "-1bit",
            "1.Gbit",
            ".5Gbit",
            "1.5bit",
            "1.2.3Gbit",
            "1Gbit/",
            "1Gbit/x",
            "1Gbit/5kpps",
            "99999999999Gbit",
            "1e9bit",
            "1 Gbit",
        ] {
            assert!(parse(junk).is_err(), "{junk}: {:?}", parse(junk));
        }
        for none in ["0", "none"] {
            let refused = parse(none).unwrap_err();
            assert!(refused.contains("--clear-limit-from"), "{refused}");
            assert!(refused.contains("--clear-from-guest"), "{refused}");
        }
        for octets in ["1GB", "1GBps", "1Gbyte"] {
            assert!(parse(octets).unwrap_err().contains("in bits"), "{octets}");
        }
    }

    #[test]
    fn what_is_printed_can_be_typed() {
        let rates = [1, 999, 1_000, 1_500, 1_048_576, 1_000_000_007, 1_500_000_000, u64::MAX];
        for unit in [Unit::Bits, Unit::Packets] {
            for (per_second, burst) in rates.into_iter().flat_map(|a| rates.map(|b| (a, b))) {
                for burst in [0, burst] {
                    let rate = Rate { unit, per_second, burst };
                    assert_eq!(parse(&rate.to_string()), Ok(rate), "{rate}");
                }
            }
        }
        let limit = RateLimit {
            packets_per_second: 200_000,
            bits_per_second: 1_500_000_000,
            burst_packets: 20_000,
            burst_bits: 0,
        };
        assert_eq!(shown(Some(limit)), "1.5Gbit,200kpps/20kpps");
        assert_eq!(shown(None), "");
    }

    #[test]
    fn a_rate_replaces_the_one_of_its_unit() {
        let rates = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<_>>();
        let both = limit(None, &rates(&["1Gbit", "200kpps"])).unwrap();
        let changed = limit(both, &rates(&["2Gbit/1Mbit"])).unwrap();
        assert_eq!(shown(changed), "2Gbit/1Mbit,200kpps");
        assert_eq!(limit(None, &[]), Ok(None));
        let twice = limit(None, &rates(&["1Gbit", "2Gbit"])).unwrap_err();
        assert!(twice.starts_with("1Gbit and 2Gbit: "), "{twice}");
    }
}
