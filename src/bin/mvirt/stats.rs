//! What a vNIC or port has carried: all of it, or at intervals what comes to it.

use crate::{
    Failure,
    connect::Client,
    output::{Cell, Output},
    units::{ago, counted, octets, seconds},
    watch::Watched,
};
use clap::Args;
use mvirt_net::proto::{EgressFlows, GetNicStatsRequest, NicStats, StatsUpdate, WatchStatsRequest};
use std::time::Duration;

/// From and to whom something is carried, as people call that.
pub(crate) type Ways = (&'static str, &'static str);

/// Lines after which their columns are named again.
// Those of the least of screens.
const PAGE: usize = 22;

// No documentation: that would be the commands'.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Print rates instead, a line each so many seconds, until Ctrl-C [default: 1]
    #[arg(
        short,
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "1",
        value_parser = seconds
    )]
    watch: Option<Duration>,
}

impl Watch {
    /// Prints what `name` has carried, or what it carries.
    pub(crate) async fn run(
        self,
        client: &mut Client,
        (name, id): (&str, String),
        ways: Ways,
        out: &Output,
    ) -> Result<(), Failure> {
        if let Some(interval) = self.watch {
            let interval_ms = u32::try_from(interval.as_millis()).unwrap_or(u32::MAX).max(1);
            return watch(client, WatchStatsRequest { interval_ms, targets: vec![id] }, out).await;
        }
        let stats = client.get_nic_stats(GetNicStatsRequest { id }).await?.into_inner();
        let mut rows = carried(ways, &stats);
        rows.extend(details(&stats));
        rows.extend(stats.outside.iter().flat_map(flows));
        out.object(&stats, name, &rows)
    }
}

/// Prints rates until the server ends, or Ctrl-C.
async fn watch(
    client: &mut Client,
    request: WatchStatsRequest,
    out: &Output,
) -> Result<(), Failure> {
    let mut updates = Watched::of(client.watch_stats(request).await?)?;
    let mut lines = 0;
    while let Some(update) = updates.next().await? {
        if out.is_document() {
            out.event(&update)?;
            continue;
        }
        // The first has what was carried before.
        if update.elapsed_ns == 0 {
            continue;
        }
        if lines % PAGE == 0 {
            out.header(&columns(["TIME", "FROM/S", "BIT/S", "TO/S", "BIT/S", "DROPPED/S", "WHY"]))?;
        }
        lines += 1;
        let cells = rates(&update);
        out.line(&columns(cells.each_ref().map(String::as_str)))?;
    }
    Ok(())
}

fn columns(cells: [&str; 7]) -> [(&str, usize); 7] {
    let widths = [8, 8, 8, 8, 8, 9, 0];
    std::array::from_fn(|at| (cells[at], widths[at]))
}

/// Returns what an update comes to in a second.
fn rates(update: &StatsUpdate) -> [String; 7] {
    // Nothing has changed where none is told.
    let stats = update.stats.first().cloned().unwrap_or_default();
    let per_second = |count: u64| scaled(count as f64 * 1e9 / update.elapsed_ns as f64);
    let dropped = stats.drops.iter().map(|drop| drop.frames).sum();
    let mut drops = stats.drops.iter().collect::<Vec<_>>();
    drops.sort_by_key(|drop| std::cmp::Reverse(drop.frames));
    let why = drops.iter().map(|drop| drop.reason.as_str()).collect::<Vec<_>>().join(" ");
    [
        time_of_day(&update.time),
        per_second(stats.ingress_frames),
        per_second(stats.ingress_octets.saturating_mul(8)),
        per_second(stats.egress_frames),
        per_second(stats.egress_octets.saturating_mul(8)),
        per_second(dropped),
        why,
    ]
}

fn time_of_day(time: &str) -> String {
    let at = time.parse::<jiff::Timestamp>().unwrap_or_default();
    crate::units::time_of_day(at.as_millisecond())
}

/// A rate: `0`, `950`, `1.2k`, `13.5M`.
pub(crate) fn scaled(mut rate: f64) -> String {
    for prefix in ["", "k", "M", "G"] {
        // As of octets.
        if rate < 999.95 {
            let digits = usize::from(!prefix.is_empty() && rate < 99.95);
            return format!("{rate:.digits$}{prefix}");
        }
        rate /= 1000.0;
    }
    format!("{rate:.0}T")
}

/// Returns what is open outside, by sockets of the host.
pub(crate) fn flows(flows: &EgressFlows) -> Vec<(&'static str, Cell)> {
    let EgressFlows { connections, udp_ports, pings, drops } = flows;
    let open = [(*connections, "TCP connection"), (*udp_ports, "UDP port"), (*pings, "ping")];
    let open = open.map(|(count, noun)| counted(count.into(), noun)).join(", ");
    let dropped = drops.iter().map(|drop| {
        let text = format!("{}: {}", counted(drop.frames, "packet"), drop.reason);
        ("  dropped", Cell::from(text))
    });
    [("outside", open.into())].into_iter().chain(dropped).collect()
}

/// Returns what was carried from and to somewhere, by these names.
pub(crate) fn carried((from, to): Ways, stats: &NicStats) -> Vec<(&'static str, Cell)> {
    let frames = |count| counted(count, "frame");
    let both = |count, size| format!("{}, {}", frames(count), octets(size));
    let mut rows = vec![
        (from, both(stats.ingress_frames, stats.ingress_octets).into()),
        ("  forwarded", frames(stats.ingress_forwarded).into()),
        ("  answered", frames(stats.ingress_answered).into()),
        (to, both(stats.egress_frames, stats.egress_octets).into()),
    ];
    let drops = stats.drops.iter();
    rows.extend(
        drops.map(|drop| {
            ("dropped", Cell::from(format!("{}: {}", frames(drop.frames), drop.reason)))
        }),
    );
    rows
}

/// Returns what else was counted, as far as it was.
fn details(stats: &NicStats) -> Vec<(&'static str, Cell)> {
    let answers = stats.answers.iter().map(|answer| format!("{} {}", answer.frames, answer.kind));
    let some = |parts: &[(u64, &str)]| {
        let parts = parts.iter().filter(|(count, _)| *count > 0);
        parts.map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
    };
    let longest = Duration::from_nanos(stats.longest_stall_ns);
    let stalls = match stats.receive_stalls {
        0 => String::new(),
        count => format!("{}, {longest:.1?} at most", counted(count, "time")),
    };
    let error = match &*stats.last_error {
        "" => String::new(),
        error => format!("{}: {error}", ago(&stats.last_error_at)),
    };
    let rings = stats.ring_sizes.iter().map(ToString::to_string);
    let rows = [
        ("told", answers.collect::<Vec<_>>().join(", ")),
        (
            "flooded",
            some(&[
                (stats.ingress_flooded, "frames"),
                (stats.ingress_broadcast, "broadcast"),
                (stats.ingress_multicast, "multicast"),
                (stats.flooded_copies, "copies"),
            ]),
        ),
        (
            "macs",
            some(&[
                (stats.macs_learned, "learned"),
                (stats.macs_moved, "moved"),
                (stats.macs_not_learned, "not learned"),
                (stats.groups_not_learned, "groups not learned"),
            ]),
        ),
        (
            "finished",
            some(&[
                (stats.checksums_completed, "checksums"),
                (stats.frames_cut, "frames cut"),
                (stats.segments_made, "segments"),
            ]),
        ),
        (
            "wake-ups",
            some(&[
                (stats.kicks, "by it"),
                (stats.calls, "of it"),
                (stats.calls_suppressed, "not wanted"),
            ]),
        ),
        ("queues", some(&[(stats.queue_empty, "times empty"), (stats.queue_full, "times full")])),
        ("stalled", stalls),
        (
            "system calls",
            some(&[
                (stats.io_calls, "made"),
                (stats.io_again, "in vain"),
                (stats.io_partial, "cut short"),
            ]),
        ),
        ("connected", some(&[(stats.connections, "times")])),
        ("features", stats.features.join(" ")),
        ("ring sizes", rings.collect::<Vec<_>>().join(" ")),
        ("last error", error),
    ];
    rows.map(|(name, text)| (name, text.into())).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mvirt_net::proto::DropCount;

    #[test]
    fn an_update_is_told_as_rates() {
        let drop = |reason: &str, frames| DropCount { reason: reason.into(), frames };
        let stats = NicStats {
            ingress_frames: 3_000,
            ingress_octets: 750_000,
            drops: vec![drop("hop_limit_exceeded", 1), drop("no_route", 9)],
            ..Default::default()
        };
        let elapsed_ns = 2_000_000_000;
        let update = StatsUpdate { elapsed_ns, stats: vec![stats], ..Default::default() };
        let [_, rest @ ..] = rates(&update);
        assert_eq!(rest, ["1.5k", "3.0M", "0", "0", "5", "no_route hop_limit_exceeded"]);
        let silent = StatsUpdate { elapsed_ns, ..Default::default() };
        assert_eq!(rates(&silent)[1..], ["0", "0", "0", "0", "0", ""]);
    }

    #[test]
    fn only_what_was_counted_is_shown() {
        let shown = |stats: &NicStats| details(stats).len();
        assert_eq!(shown(&NicStats::default()), 12);
        assert_eq!(scaled(999.96), "1.0k");
        assert_eq!(scaled(0.4), "0");
    }
}
