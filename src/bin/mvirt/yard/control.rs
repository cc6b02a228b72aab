//! `mvirt yard stats`, `capture`, `impair` and `filter`: what a fabric does beyond carrying frames.

use super::{Fabric, Failure, output, pcapng::Writer};
use crate::output::{Cell, Output, Table};
use clap::{ArgGroup, Args, ValueHint};
use mvirt_net::{
    impair::Spec,
    switchyard::{
        Client,
        body::{CaptureStart, EndpointStats, Hello, ImpairSet, LineStats},
        filter::{Filter, RuleList},
    },
};
use std::{fs, path::PathBuf, time::Duration};

#[derive(Debug, Args)]
pub(crate) struct StatsFlags {
    #[command(flatten)]
    fabric: Fabric,
}

#[derive(Debug, Args)]
pub(crate) struct CaptureFlags {
    #[command(flatten)]
    fabric: Fabric,
    /// The file, as pcapng
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    write: PathBuf,
    /// Where the fabric keeps no frames yet, let it begin to keep so many megabytes of them
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u16).range(1..=64))]
    start: Option<u16>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true))]
pub(crate) struct ImpairFlags {
    #[command(flatten)]
    fabric: Fabric,
    /// The endpoint's name
    name: String,
    /// The line that it sends by, like loss=2%,delay=20ms,jitter=5ms,rate=10mbit
    #[arg(long, value_name = "SPEC", group = "what")]
    from: Option<Spec>,
    /// The line that it hears by
    #[arg(long, value_name = "SPEC", group = "what")]
    to: Option<Spec>,
    /// Make both lines good ones again
    #[arg(long, group = "what", conflicts_with_all = ["from", "to"])]
    clear: bool,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("rules").required(true))]
pub(crate) struct FilterFlags {
    #[command(flatten)]
    fabric: Fabric,
    /// Rules, as TOML (docs/switchyard.md); they take the place of those in force
    #[arg(group = "rules", value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// Put none in force
    #[arg(long, group = "rules")]
    clear: bool,
}

impl Fabric {
    /// Connects to a fabric that has an extension.
    async fn extended(&self, extension: &str) -> Result<Client, Failure> {
        let hello = Hello { client_name: "mvirt".into(), extensions: vec![extension.into()] };
        let (client, _) = self.hello(&hello).await?;
        if !client.has(extension) {
            let said = format!("the fabric at {} has no extension {extension}", self.address());
            return Err(Failure::Stopped(said));
        }
        Ok(client)
    }
}

pub(super) async fn stats(flags: StatsFlags, out: &Output) -> Result<(), Failure> {
    let client = flags.fabric.extended("stats").await?;
    let mut all = client.stats(0).await?;
    while all.more {
        let after = all.endpoints.last().map_or(0, |endpoint| endpoint.endpoint_id);
        let page = client.stats(after).await?;
        all.more = page.more;
        all.endpoints.extend(page.endpoints);
    }
    let mut table =
        Table::new(&["NAME", "ID", "MAC", "SENT", "HEARD", "LOST", "LINE-FROM", "LINE-TO"], 8);
    for endpoint in &all.endpoints {
        table.row(&endpoint.name, row(endpoint));
    }
    out.list(&all, &table)?;
    if out.is_document() || all.rules.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["RULE", "FROM", "MATCH", "ACTION", "FRAMES"], 5);
    for stats in &all.rules {
        let rule = &stats.rule;
        let text = |text: &Option<String>| Cell::from(text.clone().unwrap_or_default());
        let action = format!("{:?}", rule.action).to_lowercase();
        let (name, from, expression) = (text(&rule.name), text(&rule.from), text(&rule.expression));
        table.row("rule", vec![name, from, expression, action.into(), stats.frames.into()]);
    }
    output::print("\n")?;
    out.list(&all, &table)
}

fn row(endpoint: &EndpointStats) -> Vec<Cell> {
    let line = |line: &Option<LineStats>| {
        let Some(LineStats { spec, counters, .. }) = line else { return String::new() };
        let dropped = counters.impaired_loss + counters.impaired_queue + counters.exceeds_mtu;
        format!("{spec} dropped={dropped}")
    };
    let counters = endpoint.counters;
    vec![
        endpoint.name.as_str().into(),
        endpoint.endpoint_id.into(),
        endpoint.mac.to_string().into(),
        counters.sent.into(),
        counters.heard.into(),
        counters.lost.into(),
        line(&endpoint.from).into(),
        line(&endpoint.to).into(),
    ]
}

pub(super) async fn capture(flags: CaptureFlags) -> Result<(), Failure> {
    let client = flags.fabric.extended("capture").await?;
    let megabytes = flags.start.map(usize::from);
    let mut asked = CaptureStart { from: 0, megabytes };
    let (mut page, mut frames, mut lost) = (client.captured(&asked).await?, 0, 0);
    // Only now: what is refused leaves no file.
    let mut file = Writer::create(&flags.write)?;
    while !page.frames.is_empty() {
        for captured in &page.frames {
            let octets = captured.frame().unwrap_or_default();
            let time = Duration::new(captured.seconds, captured.nanos);
            let comment = Some(captured.verdict.as_str());
            file.frame(&captured.name, time, captured.len, &octets, comment)?;
        }
        frames += page.frames.len();
        // The oldest that the ring no longer had when it was asked first are not missing.
        lost += if asked.from == 0 { 0 } else { page.lost };
        asked.from = page.next;
        page = client.captured(&asked).await?;
    }
    file.flush()?;
    let lost = if lost == 0 { String::new() } else { format!(", and lost {lost} meanwhile") };
    let count = super::units::counted(frames as u64, "frame");
    output::say(&format!("wrote {count} to {}{lost}", flags.write.display()));
    Ok(())
}

pub(super) async fn impair(flags: ImpairFlags) -> Result<(), Failure> {
    let client = flags.fabric.extended("impair").await?;
    let text = |spec: Option<Spec>| {
        spec.map(|spec| spec.to_string()).or_else(|| flags.clear.then(String::new))
    };
    let lines = ImpairSet { name: flags.name, from: text(flags.from), to: text(flags.to) };
    Ok(client.impair(&lines).await?)
}

pub(super) async fn filter(flags: FilterFlags) -> Result<(), Failure> {
    let mut rules = RuleList::default();
    if let Some(path) = &flags.file {
        let wrong =
            |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| wrong(&error))?;
        // Whether the rules are sound is seen here too, where they have a file.
        let filter = Filter::from_toml(&text).map_err(|error| wrong(&error))?;
        rules.rules = filter.rules().map(|(rule, _)| rule.clone()).collect();
    }
    let client = flags.fabric.extended("filter").await?;
    client.set_filter(&rules).await?;
    let count = super::units::counted(rules.rules.len() as u64, "rule");
    output::say(&format!("{count} in force"));
    Ok(())
}
