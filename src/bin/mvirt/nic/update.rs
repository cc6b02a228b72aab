//! `mvirt nic update`

use super::{
    by_family,
    create::{AddressingFlag, Socket},
    get,
};
use crate::{
    Failure, complete,
    connect::Client,
    impair::NewImpairFlags,
    l2::Security,
    mask::{Mask, NewNotes, Now, Places},
};
use clap::Args;
use ipnet::IpNet;
use mvirt_net::proto::{Addressing, Nic, PortSecurity, UpdateNicRequest};

const EXAMPLES: &str = "\
Examples:
  mvirt nic update vm1 --route 10.8.0.0/16,fd08::/64
  mvirt nic update vm1 --add-route 10.9.0.0/16 --remove-route 10.8.0.0/16
  mvirt nic update vm1 --ipv4 10.0.0.20 --force
  mvirt nic update vm1 --label owner=me --description \"build machine\"";

/// What says which prefixes there are to be.
const ROUTES: [&str; 2] = ["route", "clear_routes"];

/// What is not named stays as it is.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Update {
    /// Name or id
    #[arg(add = complete::nics())]
    nic: String,
    /// A new name
    #[arg(short, long)]
    name: Option<String>,
    /// Another MAC; an empty one: a new one is chosen
    #[arg(long)]
    mac: Option<String>,
    /// Another address; an empty one: the lowest free one
    #[arg(long, value_name = "ADDRESS")]
    ipv4: Option<String>,
    /// Another address; an empty one: the lowest free one
    #[arg(long, value_name = "ADDRESS")]
    ipv6: Option<String>,
    /// Prefixes, in place of those there were, with commas between; may be given several times
    #[arg(long, value_name = "PREFIX", value_delimiter = ',')]
    route: Vec<String>,
    /// Prefixes beside those there are, likewise
    #[arg(long, value_name = "PREFIX", value_delimiter = ',', conflicts_with_all = ROUTES)]
    add_route: Vec<String>,
    /// Prefixes less, likewise
    #[arg(long, value_name = "PREFIX", value_delimiter = ',', conflicts_with_all = ROUTES)]
    remove_route: Vec<String>,
    /// Remove all prefixes
    #[arg(long, conflicts_with = "route")]
    clear_routes: bool,
    /// How the guest sees the network's subnets
    #[arg(long)]
    addressing: Option<AddressingFlag>,
    /// Octets of an IP packet, 1280-65535; 0: the network's
    #[arg(long)]
    mtu: Option<u32>,
    /// Queue pairs offered to the VMM
    #[arg(long, value_name = "N")]
    queues: Option<u32>,
    /// In a switched network, what its guest may send from
    #[arg(long)]
    port_security: Option<Security>,
    /// MACs that are learned behind it; 0: as --port-security has it
    #[arg(long, value_name = "COUNT")]
    mac_limit: Option<u32>,
    #[command(flatten)]
    socket: Socket,
    #[command(flatten)]
    impair: NewImpairFlags,
    #[command(flatten)]
    notes: NewNotes,
    /// Also what disturbs a VM that uses it
    #[arg(short, long)]
    force: bool,
    /// Check only: change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl Update {
    /// Changes the vNIC, and returns it as it is then.
    pub(super) async fn run(self, client: &mut Client) -> Result<Nic, Failure> {
        let now = get(client, self.nic).await?;
        let mut request = UpdateNicRequest {
            id: now.id,
            force: self.force,
            validate_only: self.dry_run,
            ..Default::default()
        };
        let mut mask = Mask::default();
        mask.set("name", &mut request.name, self.name);
        mask.set("mac_address", &mut request.mac_address, self.mac);
        mask.set("ipv4_address", &mut request.ipv4_address, self.ipv4);
        mask.set("ipv6_address", &mut request.ipv6_address, self.ipv6);
        let there = [now.routed_ipv4_prefixes, now.routed_ipv6_prefixes].concat();
        let is_in_part = !self.add_route.is_empty() || !self.remove_route.is_empty();
        let routes = match is_in_part {
            true => {
                // What another client has added meanwhile must not be lost.
                request.etag.clone_from(&now.etag);
                Some(changed(there, self.add_route, &self.remove_route)?)
            }
            false => (self.clear_routes || !self.route.is_empty()).then_some(self.route),
        };
        if let Some(routes) = routes {
            // Both families: these are all prefixes that there are to be.
            let (ipv4, ipv6) = by_family(routes);
            mask.set("routed_ipv4_prefixes", &mut request.routed_ipv4_prefixes, Some(ipv4));
            mask.set("routed_ipv6_prefixes", &mut request.routed_ipv6_prefixes, Some(ipv6));
        }
        let addressing = self.addressing.map(|flag| Addressing::from(flag).into());
        mask.set("addressing", &mut request.addressing, addressing);
        mask.set("mtu", &mut request.mtu, self.mtu);
        mask.set("queue_pairs", &mut request.queue_pairs, self.queues);
        let security = self.port_security.map(|to| PortSecurity::from(to).into());
        mask.set("port_security", &mut request.port_security, security);
        mask.set("mac_limit", &mut request.mac_limit, self.mac_limit);
        mask.set("socket_owner", &mut request.socket_owner, self.socket.socket_owner);
        mask.set("socket_group", &mut request.socket_group, self.socket.socket_group);
        mask.set("socket_mode", &mut request.socket_mode, self.socket.socket_mode);
        self.impair.put(&mut mask, &mut request.impairments);
        let places = Places {
            labels: &mut request.labels,
            description: &mut request.description,
            boot: &mut request.boot,
            etag: &mut request.etag,
        };
        let now = Now { labels: now.labels, boot: now.boot, etag: now.etag };
        self.notes.put(now, &mut mask, places)?;
        request.update_mask = mask.into_paths("--route, --clear-routes, --mtu, --ipv4")?;
        Ok(client.update_nic(request).await?.into_inner())
    }
}

/// Returns the prefixes that there are with some more and without some others.
///
/// # Errors
///
/// One that is to go is not there.
fn changed(
    there: Vec<String>,
    add: Vec<String>,
    remove: &[String],
) -> Result<Vec<String>, Failure> {
    let mut routes = there;
    for prefix in remove {
        let at = routes.iter().position(|there| is_same(there, prefix));
        let at = at.ok_or_else(|| {
            let there = if routes.is_empty() { "none".into() } else { routes.join(", ") };
            Failure::Usage(format!(
                "--remove-route: {prefix}: expected one of those there are: {there}"
            ))
        })?;
        routes.remove(at);
    }
    for prefix in add {
        // What is so already is done.
        if !routes.iter().any(|there| is_same(there, &prefix)) {
            routes.push(prefix);
        }
    }
    Ok(routes)
}

/// Whether two prefixes are the same, however they are written.
fn is_same(a: &str, b: &str) -> bool {
    match (a.parse::<IpNet>(), b.parse::<IpNet>()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_come_and_go_beside_others() {
        let owned = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        let there = || owned(&["10.7.0.0/16", "fd07::/64"]);
        let changed = |add: &[&str], remove: &[&str]| changed(there(), owned(add), &owned(remove));
        assert_eq!(
            changed(&["10.8.0.0/16"], &["fd07:0::/64"]).unwrap(),
            ["10.7.0.0/16", "10.8.0.0/16"]
        );
        assert_eq!(changed(&["fd07:0::/64"], &[]).unwrap(), there());
        let refused = changed(&[], &["10.9.0.0/16"]).unwrap_err().to_string();
        assert!(refused.contains("10.9.0.0/16") && refused.contains("10.7.0.0/16"), "{refused}");
    }
}
