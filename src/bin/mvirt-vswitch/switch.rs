//! The VLANs: plain switched networks of the embedded daemon, each with one port that listens for
//! QEMU's streams.

use super::{
    flags::VlanPort,
    stats::{Client, Frames, Mac, Stats, VlanStats},
};
use mvirt_net::{
    control::{Control, Gone, Handle},
    embedded::{self, Embedded, RequestError, Settings, StartError},
    locator::{Listen, Locator, StreamListen},
    proto::{self, Attachment, CreatePortRequest, ListMacsRequest},
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

/// Why nothing is switched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SwitchError {
    #[error("{0}")]
    Start(#[from] StartError),
    #[error("port {port}: {source}")]
    Port { port: VlanPort, source: RequestError },
}

/// The VLANs of a switch that runs.
#[derive(Debug, Clone)]
pub(crate) struct Vlans {
    control: Handle,
    /// In the order of their numbers.
    vlans: Arc<[Vlan]>,
}

#[derive(Debug)]
struct Vlan {
    port: VlanPort,
    /// Names of the ports of its network that listen: one of each family.
    ports: Vec<String>,
}

/// Starts a switch, whose ports listen when this returns. What is refused leaves none open.
pub(crate) async fn start(ports: &[VlanPort]) -> Result<(Embedded, Vlans), SwitchError> {
    let daemon = Embedded::start(Settings { networks: ports.len(), ..Settings::default() })?;
    let vlans = match open_all(&daemon, ports).await {
        Ok(vlans) => vlans,
        Err(error) => {
            daemon.stop().await;
            return Err(error);
        }
    };
    // Once: what it says holds for all of them.
    if let Some(port) = ports.iter().find(|port| port.is_exposed()) {
        tracing::warn!(
            %port,
            "others than this host reach this, and the protocol has no authentication"
        );
    }
    let vlans = Vlans { control: daemon.control().clone(), vlans: vlans.into() };
    Ok((daemon, vlans))
}

async fn open_all(daemon: &Embedded, ports: &[VlanPort]) -> Result<Vec<Vlan>, SwitchError> {
    let mut vlans = Vec::new();
    for (number, port) in (1..).zip(ports) {
        let failed = |source| SwitchError::Port { port: *port, source };
        let ports = open(daemon, number, port).await.map_err(failed)?;
        tracing::info!(vlan = number, %port, "listening");
        vlans.push(Vlan { port: *port, ports });
    }
    Ok(vlans)
}

fn network_name(vlan: usize) -> String {
    format!("vlan{vlan}")
}

/// Whether this host has IPv6: all addresses are those of IPv4 otherwise.
fn has_ipv6() -> bool {
    std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok()
}

/// Makes a VLAN, whose ports listen then. Returns their names.
async fn open(
    daemon: &Embedded,
    vlan: usize,
    port: &VlanPort,
) -> Result<Vec<String>, RequestError> {
    let network = embedded::plain_network(&network_name(vlan));
    daemon.change(move |control| control.create_network(&network)).await?;
    let addresses: Vec<IpAddr> = match port.address {
        Some(address) => vec![address],
        // A port of the daemon listens in one family.
        None if has_ipv6() => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        None => vec![Ipv4Addr::UNSPECIFIED.into()],
    };
    let mut names = Vec::new();
    for address in addresses {
        let address = SocketAddr::new(address, port.port);
        let listen = Listen::Tcp { address, insecure: port.is_exposed() };
        let locator = Locator::StreamListen(StreamListen { listen, max: None });
        let request = CreatePortRequest {
            network_id: network_name(vlan),
            locator: locator.to_string(),
            ..Default::default()
        };
        names.push(daemon.change(move |control| control.create_port(&request)).await?.name);
    }
    Ok(names)
}

impl Vlans {
    /// What they carry.
    pub(crate) async fn stats(&self) -> Result<Stats, Gone> {
        let mut vlans = Vec::new();
        for (number, vlan) in (1..).zip(self.vlans.iter()) {
            vlans.push(self.stats_of(number, vlan).await?);
        }
        Ok(Stats { vlans })
    }

    async fn stats_of(&self, number: usize, vlan: &Vlan) -> Result<VlanStats, Gone> {
        let ports = vlan.ports.clone();
        let of_ports = move |control: &mut Control| {
            let (mut clients, mut frames) = (Vec::new(), Frames::default());
            for port in ports {
                // They are there for as long as the daemon is.
                let found = control.get_port(&port).map(|port| port.attachments);
                let carried = control.nic_stats(&port).unwrap_or_default();
                clients.extend(found.unwrap_or_default());
                frames.received += carried.ingress_frames;
                frames.forwarded += carried.ingress_forwarded;
                frames.dropped += carried.drops.iter().map(|drop| drop.frames).sum::<u64>();
                frames.sent += carried.egress_frames;
            }
            (clients, frames)
        };
        let (clients, frames) = self.control.call(of_ports).await?;
        let request = ListMacsRequest { network_id: network_name(number) };
        let macs = self.control.list_macs(request).await?.unwrap_or_default().macs;
        let client = |found: Attachment| Client { remote: found.remote, since: found.since };
        let mac = |found: proto::Mac| Mac {
            mac: found.mac,
            client: found.remote,
            age_seconds: found.age_seconds,
        };
        Ok(VlanStats {
            vlan: number,
            port: vlan.port.to_string(),
            clients: clients.into_iter().map(client).collect(),
            macs: macs.into_iter().map(mac).collect(),
            frames,
        })
    }
}
