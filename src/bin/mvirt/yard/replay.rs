//! `mvirt yard replay`: sends the frames of a capture as an endpoint.

use super::{Fabric, Failure, output, pcapng, units};
use clap::{Args, ValueHint};
use std::{path::PathBuf, time::Duration};
use tokio::time::{Instant, sleep_until};

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    fabric: Fabric,
    /// The endpoint's name
    #[arg(long, default_value = "replay")]
    name: String,
    /// How fast: 1 as it was, 2 twice as fast, or max
    #[arg(long, default_value = "1", value_parser = speed)]
    speed: Speed,
    /// A capture: pcapng or pcap
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Speed {
    Times(f64),
    Max,
}

fn speed(text: &str) -> Result<Speed, String> {
    let times = text.parse().ok().filter(|times| (0.001..=1e6).contains(times));
    match (text, times) {
        ("max", _) => Ok(Speed::Max),
        (_, Some(times)) => Ok(Speed::Times(times)),
        _ => Err("expected max, or a number like 1 or 0.5".into()),
    }
}

pub(super) async fn run(Flags { fabric, name, speed, file }: Flags) -> Result<(), Failure> {
    // All of it before anything is sent: no half of a file that is wrong further on.
    let frames = pcapng::read(&file)?;
    let mut member = fabric.join(&name, 0).await?;
    let first = frames.first().map_or(Duration::ZERO, |(time, _)| *time);
    let start = Instant::now();
    for (time, frame) in &frames {
        if let Speed::Times(times) = speed {
            // From the start, not from the last: what is late does not add up.
            sleep_until(start + time.saturating_sub(first).div_f64(times)).await;
        }
        member.send(frame).await?;
    }
    // Once this is answered, the fabric has had them all.
    member.client.lookup(&name).await?;
    let count = units::counted(frames.len() as u64, "frame");
    output::print(&format!("[{name}] sent {count} in {:.3} s\n", start.elapsed().as_secs_f64()))?;
    member.refused().map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_numbers_or_max() {
        assert_eq!(speed("max"), Ok(Speed::Max));
        assert_eq!(speed("0.5"), Ok(Speed::Times(0.5)));
        for wrong in ["", "0", "-1", "nan", "inf", "fast"] {
            assert!(speed(wrong).is_err(), "{wrong}");
        }
    }
}
