//! `mvirt nic watch` and `mvirt nic wait`

use super::get;
use crate::{Failure, complete, connect::Client, output::Output, units, watch::Lines};
use clap::{Args, ValueEnum};
use mvirt_net::proto::{Nic, WatchNicsRequest};
use std::time::{Duration, Instant};

/// Between two looks at what no event tells of.
// Leases make no events. Ten small requests a second are no load, and nobody feels the delay.
const LOOK: Duration = Duration::from_millis(100);

/// How long it is waited, where nobody says.
const AT_MOST: Duration = Duration::from_secs(60);

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
    /// How long: seconds, or like 2m [default: as --timeout says, else 60]
    #[arg(long, value_name = "TIME", value_parser = units::seconds)]
    at_most: Option<Duration>,
}

impl Wait {
    /// Returns the vNIC as soon as it is so.
    pub(super) async fn run(
        self,
        client: &mut Client,
        timeout: Option<Duration>,
    ) -> Result<Nic, Failure> {
        let at_most = self.at_most.or(timeout).unwrap_or(AT_MOST);
        let deadline = Instant::now() + at_most;
        loop {
            // Before the deadline is looked at: what is so already needs no time.
            let nic = get(client, self.nic.clone()).await?;
            if self.what.is_so(&nic) {
                return Ok(nic);
            }
            if Instant::now() >= deadline {
                let (nic, what) = (self.nic, self.what.name());
                return Err(Failure::Stopped(format!("{nic}: not {what} within {at_most:?}")));
            }
            tokio::time::sleep(LOOK).await;
        }
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
    let mut events = client.watch_nics(request).await?.into_inner();
    // `created` and `deleted`; the longest IPv4 address.
    let mut lines = Lines::begin(out, [("STATE", 7), ("IPV4", 15), ("IPV6", 0)])?;
    while let Some(event) = events.message().await? {
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
