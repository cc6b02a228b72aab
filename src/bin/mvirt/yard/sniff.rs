//! `mvirt yard sniff`: every frame of a fabric, a line each.

use super::{Fabric, Failure, output, pcapng::Writer};
use crate::described::described;
use clap::{Args, ValueHint};
use jiff::Zoned;
use mvirt_net::switchyard::{expression::Expression, protocol::PROMISC};
use std::{path::PathBuf, time::SystemTime};

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    fabric: Fabric,
    /// The endpoint's name [default: sniffer- and a number]
    #[arg(long)]
    name: Option<String>,
    /// Only these, as pcap-filter(7): `udp port 7007 and not host 10.0.0.9`
    #[arg(long, value_name = "EXPR")]
    filter: Option<Expression>,
    /// Write them to a file instead, as pcapng
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    write: Option<PathBuf>,
    /// End after so many frames
    #[arg(short, long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

pub(super) async fn run(flags: Flags) -> Result<(), Failure> {
    // Many may sniff at once.
    let name = flags.name.unwrap_or_else(|| format!("sniffer-{}", std::process::id()));
    let mut file = flags.write.as_deref().map(Writer::create).transpose()?;
    let mut member = flags.fabric.join(&name, PROMISC).await?;
    output::say(&format!("[{name}] hears every frame of the fabric"));
    let mut frames = 0;
    while flags.count.is_none_or(|count| frames < count) {
        let (_, frame) = member.frames.frame().await?;
        if flags.filter.as_ref().is_some_and(|filter| !filter.matches(&frame)) {
            continue;
        }
        frames += 1;
        if let Some(file) = &mut file {
            let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            file.frame("fabric", now, frame.len(), &frame, None)?;
            // At once: it ends when it is interrupted.
            file.flush()?;
            continue;
        }
        let now = Zoned::now().strftime("%H:%M:%S%.6f");
        output::print(&format!("{now} {}\n", described(&frame, frame.len())))?;
    }
    Ok(())
}
