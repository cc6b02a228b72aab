//! Numbers and times as people read and write them.

use jiff::{
    SignedDuration, Timestamp, Unit,
    fmt::friendly::{Designator, Spacing, SpanPrinter},
    tz::TimeZone,
};
use std::time::Duration;

/// `1 frame`, `2 frames`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Octets: `999 B`, `1.5 kB`, `12 MB`.
pub(crate) fn octets(count: u64) -> String {
    let mut value = count as f64;
    for prefix in ["", "k", "M", "G", "T", "P"] {
        // 999.95 would be printed as 1000.0.
        if value < 999.95 {
            // Three figures at most: more say nothing to people.
            let digits = usize::from(!prefix.is_empty() && value < 99.95);
            return format!("{value:.digits$} {prefix}B");
        }
        value /= 1000.0;
    }
    format!("{value:.0} EB")
}

/// A time of the API, in the time zone of who reads it: `2026-11-26 14:15:31 CET`.
pub(crate) fn local(at: &str) -> String {
    let Ok(at) = at.parse::<Timestamp>() else { return at.into() };
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

/// The time of day of an event, from Unix milliseconds: `14:15:31`.
pub(crate) fn time_of_day(milliseconds: i64) -> String {
    let at = Timestamp::from_millisecond(milliseconds).unwrap_or_default();
    at.to_zoned(TimeZone::system()).strftime("%H:%M:%S").to_string()
}

/// How long ago a time of the API was: `3m 12s ago`; empty for none.
pub(crate) fn ago(at: &str) -> String {
    let Ok(at) = at.parse::<Timestamp>() else { return String::new() };
    // Clocks of the two hosts may differ: nothing was in the future.
    let passed = Timestamp::now().duration_since(at).max(SignedDuration::ZERO);
    format!("{} ago", duration(passed))
}

/// As [`ago`], for a table: `3m12s`.
pub(crate) fn age(at: &str) -> String {
    // Whoever cuts columns takes blanks for their ends.
    ago(at).trim_end_matches(" ago").replace(' ', "")
}

/// How long something lasts, for a table: `58m3s`.
pub(crate) fn lasting(seconds: i64) -> String {
    duration(SignedDuration::from_secs(seconds)).replace(' ', "")
}

/// A duration in its two largest units.
fn duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    let smallest = match seconds {
        0..3_600 => Unit::Second,
        3_600..86_400 => Unit::Minute,
        _ => Unit::Hour,
    };
    let days = jiff::SpanRound::new().largest(Unit::Day).smallest(smallest);
    // No time zone is known, so a day has 24 hours. Cut off, as a clock would show it.
    let days = days.mode(jiff::RoundMode::Trunc).days_are_24_hours();
    let span = jiff::Span::try_from(SignedDuration::from_secs(seconds));
    let span = span.and_then(|span| span.round(days));
    let printer = SpanPrinter::new().designator(Designator::Compact);
    let printer = printer.spacing(Spacing::BetweenUnits);
    span.map_or_else(|_| format!("{seconds}s"), |span| printer.span_to_string(&span))
}

/// A time to wait: a number of seconds, or with a unit, like `500ms`.
///
/// # Errors
///
/// Anything else.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    time(text, 1.0)
}

/// A time to wait: a number of milliseconds, or with a unit, like `2s`.
///
/// # Errors
///
/// Anything else.
pub(crate) fn milliseconds(text: &str) -> Result<Duration, String> {
    time(text, 0.001)
}

fn time(text: &str, unit: f64) -> Result<Duration, String> {
    let expected = "expected a time above zero and at most a day, like 10, 500ms or 2s";
    let time = match text.parse::<f64>() {
        // Not a number, infinite and negative are refused here.
        Ok(number) => Duration::try_from_secs_f64(number * unit).ok(),
        Err(_) => {
            text.parse::<SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok())
        }
    };
    // A day: deadlines are added to a clock, which must not overflow.
    let sound = time.filter(|time| !time.is_zero() && *time <= Duration::from_secs(86_400));
    sound.ok_or_else(|| expected.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_scaled_and_agree_with_their_nouns() {
        assert_eq!(
            (counted(1, "frame"), counted(0, "frame")),
            ("1 frame".into(), "0 frames".into())
        );
        for (count, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_550, "1.6 kB"),
            (99_960, "100 kB"),
            (999_960, "1.0 MB"),
            (12_345_678, "12.3 MB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(octets(count), shown);
        }
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, shown) in [
            (0, "0s"),
            (59, "59s"),
            (192, "3m 12s"),
            (3_600, "1h"),
            (7_379, "2h 2m"),
            (86_400, "1d"),
            (180_000, "2d 2h"),
            (40_000_000, "462d 23h"),
        ] {
            assert_eq!(duration(SignedDuration::from_secs(seconds)), shown);
        }
        assert_eq!((ago(""), local("")), (String::new(), String::new()));
        assert_eq!((age(""), lasting(192)), (String::new(), "3m12s".into()));
        assert!(age("2000-01-01T00:00:00Z").ends_with('h'));
    }

    #[test]
    fn times_to_wait_have_a_unit_or_their_flags() {
        let ms = |n| Ok(Duration::from_millis(n));
        assert_eq!(
            (seconds("10"), seconds("0.5"), seconds("500ms")),
            (ms(10_000), ms(500), ms(500))
        );
        assert_eq!((milliseconds("200"), milliseconds("2s")), (ms(200), ms(2_000)));
        for junk in ["", "0", "-1", "soon", "nan", "inf", "1e9", "0s", "-2s"] {
            assert!(seconds(junk).is_err(), "{junk}");
        }
    }
}
