//! `mvirt lease …`

use super::{
    Failure,
    connect::Client,
    network,
    nic::{self, InNetwork},
    output::{Output, Table},
    units,
};
use clap::Subcommand;
use mvirt_net::proto::{ListMacsRequest, Mac, NetworkKind, Nic};
use serde::Serialize;
use std::net::IpAddr;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show which addresses guests have taken by DHCP: those of vNICs, and what hosts behind ports
    /// have leased
    #[command(visible_alias = "ls", after_help = EXAMPLES)]
    List(InNetwork),
}

const EXAMPLES: &str = "\
Examples:
  mvirt lease list -n prod
  mvirt lease list -o wide     # with MACs, and which DHCP client asked";

/// An address that somebody has taken.
#[derive(Debug, Serialize, PartialEq)]
struct Lease {
    address: String,
    network: String,
    /// The vNIC or port.
    behind: String,
    mac: String,
    /// When it was taken or renewed last, of a vNIC's: those last for ever.
    taken_at: String,
    /// For how long it lasts still, of one behind a port.
    seconds_left: u32,
    hostname: String,
    client: String,
}

pub(crate) async fn run(
    Command::List(InNetwork { network }): Command,
    client: &mut Client,
    out: &Output,
) -> Result<(), Failure> {
    let networks = match network.is_empty() {
        true => network::all(client).await?,
        false => vec![network::get(client, network.clone()).await?],
    };
    let mut leases = Vec::new();
    for nic in nic::all(client, &network).await? {
        leases.extend(of_nic(&nic));
    }
    for network in networks.iter().filter(|it| it.kind() == NetworkKind::Switched) {
        let request = ListMacsRequest { network_id: network.id.clone() };
        let known = client.list_macs(request).await?.into_inner();
        leases.extend(known.macs.iter().flat_map(|mac| of_host(&network.name, mac)));
    }
    leases.sort_by_cached_key(|it| (it.network.clone(), it.address.parse::<IpAddr>().ok()));
    const HEADER: &[&str] =
        &["ADDRESS", "NETWORK", "BEHIND", "AGE", "LEFT", "HOSTNAME", "MAC", "CLIENT"];
    let mut table = Table::new(HEADER, 6);
    for lease in &leases {
        let left = match lease.seconds_left {
            0 => String::new(),
            seconds => units::lasting(seconds.into()),
        };
        let cells = vec![
            lease.address.as_str().into(),
            lease.network.as_str().into(),
            lease.behind.as_str().into(),
            units::age(&lease.taken_at).into(),
            left.into(),
            lease.hostname.as_str().into(),
            lease.mac.as_str().into(),
            lease.client.as_str().into(),
        ];
        table.row(&lease.address, cells);
    }
    out.list(&leases, &table)
}

fn of_nic(nic: &Nic) -> Vec<Lease> {
    let guest = nic.guest.clone().unwrap_or_default();
    let taken =
        [(&nic.ipv4_address, &guest.ipv4_lease_at), (&nic.ipv6_address, &guest.ipv6_lease_at)];
    let lease = |(address, at): (&String, &String)| Lease {
        address: address.clone(),
        network: nic.network_name.clone(),
        behind: nic.name.clone(),
        mac: nic.mac_address.clone(),
        taken_at: at.clone(),
        seconds_left: 0,
        hostname: guest.hostname.clone(),
        client: guest.vendor_class.clone(),
    };
    taken.into_iter().filter(|(_, at)| !at.is_empty()).map(lease).collect()
}

fn of_host(network: &str, mac: &Mac) -> Vec<Lease> {
    let addresses = [&mac.ipv4_address, &mac.ipv6_address];
    // The addresses of a vNIC are its own, which it has told of itself.
    let leased = addresses.into_iter().filter(|it| mac.lease_seconds > 0 && !it.is_empty());
    let lease = |address: &String| Lease {
        address: address.clone(),
        network: network.to_owned(),
        behind: if mac.port.is_empty() { mac.nic.clone() } else { mac.port.clone() },
        mac: mac.mac.clone(),
        taken_at: String::new(),
        seconds_left: mac.lease_seconds,
        hostname: mac.hostname.clone(),
        client: mac.vendor_class.clone(),
    };
    leased.map(lease).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mvirt_net::proto::GuestSeen;

    #[test]
    fn what_was_not_taken_is_no_lease() {
        let at = "2026-11-26T14:15:31Z".to_owned();
        let guest = GuestSeen { ipv6_lease_at: at.clone(), ..Default::default() };
        let nic = Nic {
            ipv4_address: "10.0.0.1".into(),
            ipv6_address: "fd00::1".into(),
            guest: Some(guest),
            ..Default::default()
        };
        let leases = of_nic(&nic);
        assert_eq!(leases.len(), 1);
        assert_eq!((&*leases[0].address, &leases[0].taken_at), ("fd00::1", &at));
        let mac = Mac { ipv4_address: "10.0.0.200".into(), port: "up".into(), ..Mac::default() };
        assert_eq!(of_host("lab", &mac), []);
        let leased = of_host("lab", &Mac { lease_seconds: 60, ..mac });
        assert_eq!((&*leased[0].behind, leased[0].seconds_left), ("up", 60));
    }
}
