//! What is asked of a line, as text: `loss=2%,delay=20ms,jitter=5ms` and so on.
//!
//! Parsing is validating: what is returned can be done.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, str::FromStr, time::Duration};

/// Octets that a slow line queues, where nothing is said.
const DEFAULT_QUEUE: usize = 256 << 10;
/// Longer waits nobody wants, and sums of times stay far from overflowing.
const MAX_TIME: Duration = Duration::from_secs(86_400);

/// How delays spread around their mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Distribution {
    /// Evenly, `jitter` to both sides.
    #[default]
    Uniform,
    /// As Gauß found it, with `jitter` as standard deviation.
    Normal,
}

/// What is to be done to frames; by default nothing. Stored as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Spec {
    /// Share of frames that are lost.
    pub loss: f64,
    /// How many are lost in a row, on average.
    pub burst: f64,
    /// Share of frames that are sent twice.
    pub dup: f64,
    /// Share of frames that are not delayed, and so pass others.
    pub reorder: f64,
    /// How long each is held.
    pub delay: Duration,
    /// How far that may differ.
    pub jitter: Duration,
    /// In which way it does.
    pub dist: Distribution,
    /// Share of octets of which one bit is changed.
    pub corrupt: f64,
    /// Bits a second; `None`: any.
    pub rate: Option<u64>,
    /// Octets that may wait for their turn at that rate.
    pub queue: usize,
    /// Octets of a frame at most, its Ethernet header included.
    pub mtu: Option<usize>,
    /// Where chance comes from.
    pub seed: Option<u64>,
    /// How long all of this holds.
    pub until: Option<Duration>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            loss: 0.0,
            burst: 1.0,
            dup: 0.0,
            reorder: 0.0,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            dist: Distribution::default(),
            corrupt: 0.0,
            rate: None,
            queue: DEFAULT_QUEUE,
            mtu: None,
            seed: None,
            until: None,
        }
    }
}

// What is parsed is a number.
impl Eq for Spec {}

impl From<Spec> for String {
    fn from(spec: Spec) -> Self {
        spec.to_string()
    }
}

impl TryFrom<String> for Spec {
    type Error = BadSpec;

    fn try_from(text: String) -> Result<Self, BadSpec> {
        text.parse()
    }
}

/// A part that means nothing, and what would.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part}: expected {expected}")]
pub struct BadSpec {
    part: String,
    expected: &'static str,
}

const KEYS: &str = "loss, burst, dup, reorder, delay, jitter, dist, corrupt, rate, queue, mtu, \
                    seed or until, and = and a value";
const SHARE: &str = "a share like 2%, 0.02 or 1e-6";
const TIME: &str = "a time of at most a day, like 20ms, 500us or 2s";
const RATE: &str = "bits a second, like 10mbit, 64kbit or 1gbit";
const OCTETS: &str = "a number of octets above 0, like 1500, 256k or 1m";

impl FromStr for Spec {
    type Err = BadSpec;

    fn from_str(text: &str) -> Result<Self, BadSpec> {
        let mut spec = Self::default();
        let mut keys = BTreeSet::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let bad = |expected| BadSpec { part: part.into(), expected };
            spec.set(part).map_err(bad)?;
            // The last one would win silently.
            if !keys.insert(part.split('=').next().map(str::trim)) {
                return Err(bad("each key once"));
            }
        }
        Ok(spec)
    }
}

impl Spec {
    fn set(&mut self, part: &str) -> Result<(), &'static str> {
        let (key, value) = part.split_once('=').ok_or(KEYS)?;
        match key.trim() {
            "loss" => self.loss = share(value)?,
            "burst" => {
                let burst = value.parse().ok().filter(|burst| (1.0..=1e6).contains(burst));
                self.burst = burst.ok_or("a number of frames from 1 on")?;
            }
            "dup" => self.dup = share(value)?,
            "reorder" => self.reorder = share(value)?,
            "delay" => self.delay = time(value)?,
            "jitter" => self.jitter = time(value)?,
            "dist" => {
                self.dist = match value {
                    "uniform" => Distribution::Uniform,
                    "normal" => Distribution::Normal,
                    _ => return Err("uniform or normal"),
                }
            }
            "corrupt" => self.corrupt = share(value)?,
            "rate" => self.rate = Some(rate(value)?),
            "queue" => self.queue = octets(value)?,
            "mtu" => self.mtu = Some(octets(value)?),
            "seed" => self.seed = Some(value.parse().map_err(|_| "a whole number")?),
            "until" => self.until = Some(time(value)?),
            _ => return Err(KEYS),
        }
        Ok(())
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let default = Self::default();
        for (key, value) in [
            ("loss", self.loss),
            ("dup", self.dup),
            ("reorder", self.reorder),
            ("corrupt", self.corrupt),
        ] {
            if value > 0.0 {
                parts.push(format!("{key}={value}"));
            }
        }
        if self.burst > 1.0 {
            parts.push(format!("burst={}", self.burst));
        }
        let times = [("delay", self.delay), ("jitter", self.jitter)].into_iter();
        let times = times.filter(|(_, time)| !time.is_zero());
        for (key, time) in times.chain(self.until.map(|time| ("until", time))) {
            parts.push(format!("{key}={}", written(time)));
        }
        if self.dist == Distribution::Normal {
            parts.push("dist=normal".into());
        }
        parts.extend(self.rate.map(|rate| format!("rate={rate}bit")));
        if self.queue != default.queue {
            parts.push(format!("queue={}", self.queue));
        }
        parts.extend(self.mtu.map(|mtu| format!("mtu={mtu}")));
        parts.extend(self.seed.map(|seed| format!("seed={seed}")));
        f.write_str(&parts.join(","))
    }
}

/// Returns a time in the largest unit that it is whole in.
fn written(time: Duration) -> String {
    match time.as_micros() {
        us if us % 1_000_000 == 0 => format!("{}s", us / 1_000_000),
        us if us % 1_000 == 0 => format!("{}ms", us / 1_000),
        us => format!("{us}us"),
    }
}

fn share(text: &str) -> Result<f64, &'static str> {
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.parse().map(|percent: f64| percent / 100.0),
        None => text.parse(),
    };
    share.ok().filter(|share| (0.0..=1.0).contains(share)).ok_or(SHARE)
}

/// A number and its unit.
fn measured(text: &str) -> Option<(f64, &str)> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit);
    // Not a number and infinite ones have letters.
    Some((number.parse().ok().filter(|number| *number >= 0.0)?, unit))
}

fn time(text: &str) -> Result<Duration, &'static str> {
    let (number, unit) = measured(text).ok_or(TIME)?;
    let unit = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(TIME),
    };
    // In whole microseconds, as it is written. What is too large is so still when it is cast.
    let time = Duration::from_micros((number * unit * 1e6).round() as u64);
    Some(time).filter(|time| *time <= MAX_TIME).ok_or(TIME)
}

fn rate(text: &str) -> Result<u64, &'static str> {
    let (number, unit) = measured(text).ok_or(RATE)?;
    // In any case, as limits are written: there are no rates in millibits.
    let unit = match &*unit.to_ascii_lowercase() {
        "bit" => 1.0,
        "kbit" => 1e3,
        "mbit" => 1e6,
        "gbit" => 1e9,
        _ => return Err(RATE),
    };
    let rate = number * unit;
    // From a bit a second, which is no reason to divide by zero, to more than there is.
    if (1.0..=1e12).contains(&rate) { Ok(rate as u64) } else { Err(RATE) }
}

fn octets(text: &str) -> Result<usize, &'static str> {
    let (number, unit) = measured(text).ok_or(OCTETS)?;
    let unit = match unit {
        "" => 1.0,
        "k" => 1024.0,
        "m" => 1024.0 * 1024.0,
        _ => return Err(OCTETS),
    };
    let octets = number * unit;
    if (1.0..=1e9).contains(&octets) { Ok(octets as usize) } else { Err(OCTETS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_asked_for_in_words_and_told_back() {
        let text = "loss=2%,burst=5,dup=0.1%,reorder=1%,delay=20ms,jitter=5ms,dist=normal,\
                    corrupt=1e-6,rate=10Mbit,queue=128k,mtu=1400,seed=7,until=60s";
        let spec: Spec = text.parse().unwrap();
        assert_eq!((spec.loss, spec.burst, spec.corrupt), (0.02, 5.0, 1e-6));
        assert_eq!((spec.rate, spec.queue, spec.mtu), (Some(10_000_000), 131_072, Some(1400)));
        assert_eq!((spec.delay, spec.jitter).0.as_millis(), 20);
        assert_eq!((spec.seed, spec.until), (Some(7), Some(Duration::from_secs(60))));
        assert_eq!(spec.to_string().parse::<Spec>().unwrap(), spec, "{spec}");
        assert_eq!("".parse::<Spec>().unwrap(), Spec::default());
        assert_eq!(Spec::default().to_string(), "");
        let short: Spec = "delay=0.4us,jitter=1.5us,until=123.4567ms".parse().unwrap();
        assert_eq!(short.to_string(), "jitter=2us,until=123457us");
        let stored = serde_json::to_string(&short).unwrap();
        assert_eq!(stored, r#""jitter=2us,until=123457us""#);
        assert_eq!(serde_json::from_str::<Spec>(&stored).unwrap(), short);
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_its_part() {
        for (text, said) in [
            ("loss", "loss: expected loss, burst,"),
            ("loss=1%,loss=2%", "loss=2%: expected each key once"),
            ("lag=1", "lag=1: expected loss, burst,"),
            ("loss=101%", "loss=101%: expected a share"),
            ("loss=-1", "loss=-1: expected a share"),
            ("loss=nan", "loss=nan: expected a share"),
            ("burst=0", "burst=0: expected a number of frames"),
            ("burst=inf", "burst=inf: expected a number of frames"),
            ("delay=20", "delay=20: expected a time"),
            ("delay=-1ms", "delay=-1ms: expected a time"),
            ("delay=25h", "delay=25h: expected a time"),
            ("dist=pareto", "dist=pareto: expected uniform or normal"),
            ("rate=0bit", "rate=0bit: expected bits"),
            ("rate=10", "rate=10: expected bits"),
            ("queue=0", "queue=0: expected a number of octets"),
            ("mtu=1g", "mtu=1g: expected a number of octets"),
            ("seed=x", "seed=x: expected a whole number"),
        ] {
            let refused = format!("dup=1%, {text}").parse::<Spec>().unwrap_err().to_string();
            assert!(refused.starts_with(said), "{refused}");
        }
    }
}
