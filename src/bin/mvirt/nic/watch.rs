//! `mvirt nic watch` and `mvirt nic wait`

use super::get;
use crate::{
    Failure, complete,
    connect::Client,
    output::Output,
    wait::Patience,
    watch::{Lines, Watched},
};
use clap::{Args, ValueEnum};
use mvirt_net::proto::{Nic, WatchNicsRequest};
use std::time::Duration;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum For {
    /// A VMM is connected and its queues run
    Active,
    /// Its guest has taken an address by DHCP
    Lease,
    /// No VMM is connected
    Unused,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mvirt nic wait vm1 --for lease --at-most 60")]
pub(crate) struct Wait {
    /// Name or id
    #[arg(add = complete::nics())]
    nic: String,
    /// What for
    #[arg(long = "for", value_name = "WHAT", default_value = "active")]
    what: For,
    #[command(flatten)]
    patience: Patience,
}

impl Wait {
    /// Returns the vNIC as soon as it is so.
    pub(super) async fn run(
        self,
        client: &mut Client,
        timeout: Option<Duration>,
    ) -> Result<Nic, Failure> {
        let (nic, what) = (self.nic, self.what);
        let look = async || get(client, nic.clone()).await;
        let said = (&*nic, &*what.name());
        self.patience.until(timeout, said, |nic| what.is_so(nic), look).await
    }
}

impl For {
    fn is_so(self, nic: &Nic) -> bool {
        let guest = nic.guest.as_ref();
        match self {
            Self::Active => nic.state().is_connected(),
            // Of one that is gone what it was told can still be seen.
            Self::Lease => {
                nic.state().is_connected()
                    && guest
                        .is_some_and(|g| !g.ipv4_lease_at.is_empty() || !g.ipv6_lease_at.is_empty())
            }
            Self::Unused => !nic.state().is_connected(),
        }
    }

    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// Prints the vNICs there are, and each change, until the server ends.
pub(super) async fn watch(
    client: &mut Client,
    network: String,
    out: &Output,
) -> Result<(), Failure> {
    let request = WatchNicsRequest { network_id: network, ..Default::default() };
    let mut events = Watched::of(client.watch_nics(request).await?)?;
    // `created` and `deleted`; the longest IPv4 address.
    let mut lines = Lines::begin(out, [("STATE", 7), ("IPV4", 15), ("IPV6", 0)])?;
    while let Some(event) = events.next().await? {
        let nic = event.nic.as_ref().map(|nic| {
            let (ipv4, ipv6) = (or_none(&nic.ipv4_address), or_none(&nic.ipv6_address));
            (&*nic.name, [nic.state().word(), ipv4, ipv6])
        });
        lines.event(&event, (event.timestamp, &event.nic_id), nic)?;
    }
    Ok(())
}

fn or_none(address: &str) -> &str {
    if address.is_empty() { "-" } else { address }
}
