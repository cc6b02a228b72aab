//! What a shell offers for TAB: names of networks, vNICs, ports, forwards and load balancers, and
//! floating IPs, as the server knows them at that moment.

use super::connect::{Client, Connection};
use clap_complete::{
    CompletionCandidate,
    engine::{ArgValueCompleter, ValueCompleter},
};
use mvirt_net::proto::{
    ListFloatingIpsRequest, ListForwardsRequest, ListLoadBalancersRequest, ListNetworksRequest,
    ListNicsRequest, ListPortsRequest,
};
use std::{ffi::OsStr, time::Duration};

/// Longer would be felt.
const TIMEOUT: Duration = Duration::from_secs(1);

/// What is named.
#[derive(Debug, Clone, Copy)]
enum Named {
    Networks,
    Nics,
    Ports,
    Forwards,
    FloatingIps,
    LoadBalancers,
}

/// Offers the names of networks.
pub(crate) fn networks() -> ArgValueCompleter {
    ArgValueCompleter::new(Named::Networks)
}

/// Offers the names of vNICs.
pub(crate) fn nics() -> ArgValueCompleter {
    ArgValueCompleter::new(Named::Nics)
}

/// Offers the names of ports.
pub(crate) fn ports() -> ArgValueCompleter {
    ArgValueCompleter::new(Named::Ports)
}

/// Offers the names of forwards.
pub(crate) fn forwards() -> ArgValueCompleter {
    ArgValueCompleter::new(Named::Forwards)
}

/// Offers the addresses of floating IPs.
pub(crate) fn floating_ips() -> ArgValueCompleter {
    ArgValueCompleter::new(Named::FloatingIps)
}

/// Offers the names of load balancers.
pub(crate) fn load_balancers() -> ArgValueCompleter {
    ArgValueCompleter::new(Named::LoadBalancers)
}

impl ValueCompleter for Named {
    fn complete(&self, current: &OsStr) -> Vec<CompletionCandidate> {
        let begun = current.to_string_lossy();
        let names = self.names(&begun).unwrap_or_default().into_iter();
        // A server that does not know name_prefix returns all names.
        names.filter(|name| name.starts_with(&*begun)).map(CompletionCandidate::new).collect()
    }
}

impl Named {
    /// The names there are; none without a server, as there is nobody to tell of an error.
    fn names(self, begun: &str) -> Option<Vec<String>> {
        // While a line is typed, clap has parsed no flags: what the words say must do.
        let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
        let words: Vec<String> = words.collect();
        let connection = Connection::of_words(&words, TIMEOUT).ok()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        runtime.block_on(async { self.ask(&mut connection.connect().await.ok()?, begun).await })
    }

    /// Those that begin so, at most a page of them: more are no help.
    async fn ask(self, client: &mut Client, begun: &str) -> Option<Vec<String>> {
        // As many as a page may have.
        let (page_size, name_prefix) = (1000, begun.to_owned());
        Some(match self {
            Self::Networks => {
                let request = ListNetworksRequest { page_size, name_prefix, ..Default::default() };
                let response = client.list_networks(request).await.ok()?.into_inner();
                response.networks.into_iter().map(|network| network.name).collect()
            }
            Self::Nics => {
                let request = ListNicsRequest { page_size, name_prefix, ..Default::default() };
                let response = client.list_nics(request).await.ok()?.into_inner();
                response.nics.into_iter().map(|nic| nic.name).collect()
            }
            Self::Ports => {
                let request = ListPortsRequest { page_size, name_prefix, ..Default::default() };
                let response = client.list_ports(request).await.ok()?.into_inner();
                response.ports.into_iter().map(|port| port.name).collect()
            }
            Self::Forwards => {
                let request = ListForwardsRequest { page_size, name_prefix, ..Default::default() };
                let response = client.list_forwards(request).await.ok()?.into_inner();
                response.forwards.into_iter().map(|forward| forward.name).collect()
            }
            Self::LoadBalancers => {
                let request =
                    ListLoadBalancersRequest { page_size, name_prefix, ..Default::default() };
                let response = client.list_load_balancers(request).await.ok()?.into_inner();
                response.load_balancers.into_iter().map(|balancer| balancer.name).collect()
            }
            Self::FloatingIps => {
                let request = ListFloatingIpsRequest { page_size, ..Default::default() };
                let response = client.list_floating_ips(request).await.ok()?.into_inner();
                let addresses = response.floating_ips.into_iter();
                addresses.map(|floating_ip| floating_ip.address).collect()
            }
        })
    }
}
