//! Bad lines on purpose, as flags of vNICs and ports.

use crate::mask::Mask;
use clap::Args;
use mvirt_net::proto::Impairments;

const HEADING: &str = "Bad lines on purpose";

// No documentation: that would be the commands'.
#[derive(Debug, Args)]
pub(crate) struct ImpairFlags {
    /// Share of frames that are lost, each way, like 1%
    #[arg(long, value_name = "SHARE", help_heading = HEADING)]
    loss: Option<String>,
    /// How long each is held, like 20ms
    #[arg(long, value_name = "TIME", help_heading = HEADING)]
    delay: Option<String>,
    /// How far that may differ
    #[arg(long, value_name = "TIME", help_heading = HEADING)]
    jitter: Option<String>,
    /// Share of frames that come twice
    #[arg(long, value_name = "SHARE", help_heading = HEADING)]
    dup: Option<String>,
    /// Share of frames that pass others which are held
    #[arg(long, value_name = "SHARE", help_heading = HEADING)]
    reorder: Option<String>,
    /// Share of octets of which one bit is changed, like 1e-6
    #[arg(long, value_name = "SHARE", help_heading = HEADING)]
    corrupt: Option<String>,
    /// More for frames from it alone, like burst=5,rate=10mbit,queue=256k,mtu=1400,seed=7,until=60s
    #[arg(long, value_name = "SPEC", help_heading = HEADING)]
    impair_from: Option<String>,
    /// More for frames to it alone, likewise
    #[arg(long, value_name = "SPEC", help_heading = HEADING)]
    impair_to: Option<String>,
}

impl ImpairFlags {
    /// Returns what is asked for, if anything is.
    pub(crate) fn asked(self) -> Option<Impairments> {
        let both = [
            ("loss", self.loss),
            ("delay", self.delay),
            ("jitter", self.jitter),
            ("dup", self.dup),
            ("reorder", self.reorder),
            ("corrupt", self.corrupt),
        ];
        let both = both.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?)));
        let both = both.collect::<Vec<_>>();
        if both.is_empty() && self.impair_from.is_none() && self.impair_to.is_none() {
            return None;
        }
        // The server reads them, and says which part is wrong.
        let line =
            |more: Option<String>| both.iter().cloned().chain(more).collect::<Vec<_>>().join(",");
        Some(Impairments { from: line(self.impair_from), to: line(self.impair_to) })
    }
}

// Other lines, or none.
// As above, no documentation.
#[derive(Debug, Args)]
pub(crate) struct NewImpairFlags {
    #[command(flatten)]
    flags: ImpairFlags,
    /// Make both lines good ones
    #[arg(
        long,
        conflicts_with_all = [
            "loss", "delay", "jitter", "dup", "reorder", "corrupt", "impair_from", "impair_to",
        ],
        help_heading = HEADING
    )]
    no_impairments: bool,
}

impl NewImpairFlags {
    /// Puts them into a request that changes something.
    pub(crate) fn put(self, mask: &mut Mask, place: &mut Option<Impairments>) {
        let none = self.no_impairments.then_some(None);
        mask.set("impairments", place, none.or_else(|| self.flags.asked().map(Some)));
    }
}

/// Returns what people see of lines: of what comes from somewhere, and of what goes there.
pub(crate) fn shown(lines: Option<&Impairments>) -> [&str; 2] {
    lines.map_or(["", ""], |lines| [&lines.from, &lines.to])
}
