//! `mvirt trace --drops`: which frames were dropped lately, and why.

use crate::{
    Failure,
    connect::Client,
    described::described,
    output::{self, Output, Table},
    units,
    watch::Watched,
};
use jiff::Timestamp;
use mvirt_net::{
    printable::printable,
    proto::{CapturePoint, DroppedFrame, DropsUpdate, WatchDropsRequest},
};
use std::collections::{BTreeMap, BTreeSet};

/// Frames of one flow that were dropped for one reason, on their way from a guest or to it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Group {
    pub(crate) reason: String,
    pub(crate) text: String,
    pub(crate) nic: String,
    network: String,
    pub(crate) direction: &'static str,
    pub(crate) flow: String,
    pub(crate) count: u64,
    first: String,
    pub(crate) last: String,
    pub(crate) example: String,
}

/// All of them, as documents tell it.
#[derive(Debug, serde::Serialize)]
struct Groups {
    drops: Vec<Group>,
    unseen: u64,
}

/// Prints what was dropped lately, and with `follow` also what comes, until Ctrl-C.
pub(crate) async fn run(
    (targets, network, follow): (Vec<String>, Option<String>, bool),
    client: &mut Client,
    out: &Output,
) -> Result<(), Failure> {
    let request = WatchDropsRequest { targets, network_id: network.unwrap_or_default() };
    let mut updates = Watched::of(client.watch_drops(request).await?)?;
    if !follow {
        return summary(updates.next().await?.unwrap_or_default(), out);
    }
    let mut explained = BTreeSet::new();
    out.header(&widths(["TIME", "NIC", "WAY", "FRAMES", "REASON", "FLOW"]))?;
    while let Some(update) = updates.next().await? {
        let mut groups = grouped(update.frames);
        groups.sort_by(|one, other| one.last.cmp(&other.last));
        for group in groups {
            line(&group, &mut explained, out)?;
        }
    }
    Ok(())
}

/// Prints what there is, and what each reason means.
fn summary(update: DropsUpdate, out: &Output) -> Result<(), Failure> {
    let groups = Groups { drops: grouped(update.frames), unseen: update.unseen };
    let header = &["REASON", "NIC", "WAY", "FRAMES", "FLOW", "FIRST", "LAST", "EXAMPLE"];
    let mut table = Table::new(header, 7);
    for group in &groups.drops {
        let (first, last) = (units::ago(&group.first), units::ago(&group.last));
        let cells = vec![
            (*group.reason).into(),
            (*group.nic).into(),
            group.direction.into(),
            group.count.into(),
            (*group.flow).into(),
            first.into(),
            last.into(),
            (*group.example).into(),
        ];
        table.row(&group.reason, cells);
    }
    out.list(&groups, &table)?;
    if !out.is_for_people() {
        return Ok(());
    }
    let texts: BTreeMap<_, _> =
        groups.drops.iter().map(|group| (&*group.reason, &*group.text)).collect();
    for (reason, text) in &texts {
        output::print(&format!("\n{}: {}\n", printable(reason), printable(text)))?;
    }
    if groups.unseen > 0 {
        let frames = units::counted(groups.unseen, "frame");
        output::say(&format!(
            "{frames} more, of all vNICs since the daemon started: too many at a time to be kept \
             (mvirt nic stats counts all)"
        ));
    }
    Ok(())
}

/// Prints what has come of a flow, and once what its reason means.
fn line(group: &Group, explained: &mut BTreeSet<String>, out: &Output) -> Result<(), Failure> {
    if out.is_document() {
        return out.event(group);
    }
    let at = group.last.parse::<Timestamp>().unwrap_or_default();
    let time = units::time_of_day(at.as_millisecond());
    let count = group.count.to_string();
    let cells = [&*time, &*group.nic, group.direction, &*count, &*group.reason, &*group.flow];
    out.line(&widths(cells))?;
    if explained.insert(group.reason.clone()) {
        out.line(&[("", 8), (&*format!("{}: {}", group.reason, group.text), 0)])?;
    }
    Ok(())
}

fn widths(cells: [&str; 6]) -> [(&str, usize); 6] {
    // `spoofed_source_ipv4`, and longer ones are rare; what is told last needs none.
    let widths = [8, 15, 4, 6, 19, 0];
    std::array::from_fn(|at| (cells[at], widths[at]))
}

/// Adds a frame to its group, which has what its frames have in common for a key.
pub(crate) fn add(groups: &mut BTreeMap<String, Group>, frame: DroppedFrame) {
    let direction = match frame.point() {
        CapturePoint::ToGuest => "to",
        _ => "from",
    };
    let key = [&frame.reason, &frame.name, direction, &frame.flow].join("\n");
    let group = groups.entry(key).or_insert_with(|| Group {
        example: described(&frame.head, frame.length as usize),
        reason: frame.reason,
        text: frame.text,
        nic: frame.name,
        network: frame.network,
        direction,
        flow: frame.flow,
        count: 0,
        first: frame.time.clone(),
        last: String::new(),
    });
    group.count += 1;
    // They come in order.
    group.last = frame.time;
}

/// Returns frames by reason and flow, the largest group first.
fn grouped(frames: Vec<DroppedFrame>) -> Vec<Group> {
    let mut groups = BTreeMap::new();
    frames.into_iter().for_each(|frame| add(&mut groups, frame));
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_alike_are_told_together() {
        let frame = |reason: &str, flow: &str, second: u32| DroppedFrame {
            time: format!("2026-11-27T18:30:{second:02}Z"),
            reason: reason.into(),
            name: "vm1".into(),
            flow: flow.into(),
            length: 60,
            ..Default::default()
        };
        let frames = vec![
            frame("no_route", "icmp a > b", 1),
            frame("no_guest", "icmp a > c", 2),
            frame("no_guest", "icmp a > c", 3),
            frame("no_route", "icmp a > c", 4),
        ];
        let groups = grouped(frames);
        let told: Vec<_> = groups
            .iter()
            .map(|group| (&*group.reason, &*group.flow, group.count, &group.last[17..19]))
            .collect();
        let expected = [
            ("no_guest", "icmp a > c", 2, "03"),
            ("no_route", "icmp a > b", 1, "01"),
            ("no_route", "icmp a > c", 1, "04"),
        ];
        assert_eq!(told, expected);
        assert_eq!((groups[0].direction, &groups[0].first[17..19]), ("from", "02"));
    }
}
