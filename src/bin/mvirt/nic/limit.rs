//! `mvirt nic limit`

use super::get;
use crate::{
    Failure, complete,
    connect::Client,
    mask::Mask,
    output::Output,
    rate::{self, Rate},
};
use clap::Args;
use mvirt_net::proto::{Nic, RateLimit, SetNicLimitsRequest};

const EXAMPLES: &str = "\
Examples:
  mvirt nic limit vm1                                     # shows what is in force
  mvirt nic limit vm1 --from-guest 1Gbit/10Mbit,200kpps   # changes one direction
  mvirt nic limit vm1 --clear-to-guest";

/// What is not named stays as it is.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Limit {
    /// Name or id
    #[arg(add = complete::nics())]
    nic: String,
    /// What its guest may send, like 1Gbit, 200kpps or both, with /BURST if wanted
    #[arg(long, value_name = "RATE", value_delimiter = ',')]
    from_guest: Vec<Rate>,
    /// What its guest may get, likewise
    #[arg(long, value_name = "RATE", value_delimiter = ',')]
    to_guest: Vec<Rate>,
    /// First remove what limits what its guest may send
    #[arg(long)]
    clear_from_guest: bool,
    /// First remove what limits what its guest may get
    #[arg(long)]
    clear_to_guest: bool,
    /// Check only: change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Limit {
    pub(super) async fn run(self, client: &mut Client, out: &Output) -> Result<(), Failure> {
        let now = get(client, self.nic.clone()).await?;
        let changes = !self.from_guest.is_empty() || !self.to_guest.is_empty();
        if !changes && !self.clear_from_guest && !self.clear_to_guest {
            return show(&now, out);
        }
        let new = |flag: &str, now: Option<RateLimit>, clear: bool, rates: &[Rate]| {
            if !clear && rates.is_empty() {
                return Ok(None);
            }
            // The server replaces a direction as a whole: a rate that is not named is sent along.
            let limit = rate::limit(now.filter(|_| !clear), rates);
            limit.map(Some).map_err(|why| Failure::Usage(format!("{flag}: {why}")))
        };
        let (from, to) = (now.limit_from_guest, now.limit_to_guest);
        let from = new("--from-guest", from, self.clear_from_guest, &self.from_guest)?;
        let to = new("--to-guest", to, self.clear_to_guest, &self.to_guest)?;
        // One of two rates of a direction may have been kept: nobody may have changed it meanwhile.
        let (id, etag) = (now.id, now.etag);
        let mut request = SetNicLimitsRequest { id, etag, ..Default::default() };
        let mut mask = Mask::default();
        mask.set("from_guest", &mut request.from_guest, from);
        mask.set("to_guest", &mut request.to_guest, to);
        request.update_mask = mask.into_paths("--from-guest, --to-guest")?;
        request.validate_only = self.dry_run;
        show(&client.set_nic_limits(request).await?.into_inner(), out)?;
        if self.dry_run {
            out.dry_run();
        }
        Ok(())
    }
}

fn show(nic: &Nic, out: &Output) -> Result<(), Failure> {
    let shown = |limit| {
        let shown = rate::shown(limit);
        if shown.is_empty() { "no limit".into() } else { shown }
    };
    let rows = [
        ("from guest", shown(nic.limit_from_guest_in_force).into()),
        ("to guest", shown(nic.limit_to_guest_in_force).into()),
    ];
    out.object(nic, &nic.name, &rows)
}
