//! Rates as people write them: 1Gbit, 200kpps, 1Gbit/10Mbit.

use mvirt_net::proto::RateLimit;

/// Packets or bits a second, and a burst; zero: the server's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rate {
    Packets(u64, u64),
    Bits(u64, u64),
}

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed =
            || "expected a rate like 1Gbit, 500Mbit, 200kpps or 1Gbit/10Mbit".to_owned();
        let (rate, burst) = text.split_once('/').unwrap_or((text, ""));
        let amount = |text: &str, unit: &str| {
            let text = text.strip_suffix(unit).unwrap_or(text);
            let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            let factor = match &text[digits.len()..] {
                "" => Some(1),
                "k" => Some(1_000),
                "M" => Some(1_000_000),
                "G" => Some(1_000_000_000),
                _ => None,
            };
            let amount = digits.parse::<u64>().ok().filter(|amount| *amount > 0);
            amount.zip(factor).and_then(|(amount, factor)| amount.checked_mul(factor))
        };
        let both = |unit: &str| {
            let burst = if burst.is_empty() { Some(0) } else { amount(burst, unit) };
            amount(rate, unit).zip(burst).ok_or_else(malformed)
        };
        if rate.ends_with("pps") {
            return both("pps").map(|(rate, burst)| Self::Packets(rate, burst));
        }
        if rate.ends_with("bit") {
            return both("bit").map(|(rate, burst)| Self::Bits(rate, burst));
        }
        Err(malformed())
    }
}

/// The limit that several rates are.
pub(crate) fn limit(rates: &[Rate]) -> Option<RateLimit> {
    let mut limit = RateLimit::default();
    for rate in rates {
        match *rate {
            Rate::Packets(rate, burst) => {
                (limit.packets_per_second, limit.burst_packets) = (rate, burst);
            }
            Rate::Bits(rate, burst) => (limit.bits_per_second, limit.burst_bits) = (rate, burst),
        }
    }
    (!rates.is_empty()).then_some(limit)
}

/// A limit for people.
pub(crate) fn shown(limit: Option<RateLimit>) -> String {
    let Some(limit) = limit else { return String::new() };
    let rates = [
        (limit.packets_per_second, limit.burst_packets, "packets"),
        (limit.bits_per_second, limit.burst_bits, "bits"),
    ];
    let rates = rates.iter().filter(|(rate, ..)| *rate > 0);
    let rates = rates.map(|(rate, burst, unit)| format!("{rate} {unit}/s, {burst} at once"));
    rates.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_understood() {
        let parse = |text: &str| text.parse::<Rate>();
        assert_eq!(parse("1Gbit"), Ok(Rate::Bits(1_000_000_000, 0)));
        assert_eq!(parse("500kbit/8Mbit"), Ok(Rate::Bits(500_000, 8_000_000)));
        assert_eq!(parse("200kpps/1k"), Ok(Rate::Packets(200_000, 1_000)));
        for junk in [
            "",
            "1",
            "bit",
            "1Tbit",
            "0pps",
            "1.5Gbit",
            "-1bit",
            "1Gbit/",
            "1Gbit/x",
            "99999999999Gbit",
        ] {
            let refused = parse(junk);
            assert_eq!(refused.is_err(), junk != "1Gbit/", "{junk}: {refused:?}");
        }
    }
}
