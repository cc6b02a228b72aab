//! `mvirt egress`

use super::{Failure, connect::Client, output::Output, stats};
use mvirt_net::proto::{Egress, EgressMode, GetEgressRequest, Obstacle};

pub(crate) async fn run(client: &mut Client, out: &Output) -> Result<(), Failure> {
    let egress = get(client).await?;
    let mut rows = vec![("egress", text(&egress).into())];
    if !egress.error.is_empty() {
        rows.push(("error", egress.error.as_str().into()));
    }
    let carried = egress.stats.clone().unwrap_or_default();
    rows.extend(egress.obstacles.iter().map(|it| ("in the way", line(it).into())));
    rows.extend(stats::carried(("from outside", "to the outside"), &carried));
    rows.extend(egress.flows.iter().flat_map(stats::flows));
    out.object(&egress, "egress", &rows)
}

fn line(Obstacle { text, remedy, .. }: &Obstacle) -> String {
    format!("{text} → {remedy}")
}

/// Returns what of the host is in the way of guests of public networks, each with what to do.
pub(crate) async fn in_the_way(client: &mut Client) -> Result<Vec<String>, Failure> {
    Ok(get(client).await?.obstacles.iter().map(line).collect())
}

pub(crate) async fn get(client: &mut Client) -> Result<Egress, Failure> {
    Ok(client.get_egress(GetEgressRequest::default()).await?.into_inner())
}

/// Returns how public networks reach what is outside, in words.
pub(crate) async fn way(client: &mut Client) -> Result<String, Failure> {
    let egress = get(client).await?;
    let obstacles: String =
        egress.obstacles.iter().map(|obstacle| format!("; {}", obstacle.text)).collect();
    Ok(format!("yes, by {}{obstacles}", text(&egress)))
}

fn text(egress: &Egress) -> String {
    match egress.mode() {
        EgressMode::Unspecified | EgressMode::Off => format!("off: {}", egress.reason),
        EgressMode::Tun => format!("tun ({})", egress.device),
        EgressMode::User => format!("user ({})", egress.reason),
    }
}
