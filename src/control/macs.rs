//! Which MACs a switched network knows: those of vNICs, and what reactors have learned.

use super::{Control, Gone, Handle, Owner, hosts::Host, refusal::Refusal, view::string};
use crate::{
    addr::MacAddr,
    dataplane::{
        Macs,
        forward::{LEASE, LearnedMac, tables::PortId},
    },
    model::{NetworkKind, PortSecurity},
    proto,
};
use std::time::{Duration, Instant};
use uuid::Uuid;

impl Handle {
    /// Returns the MACs of a network, in order.
    // In two turns on Control's thread: reactors answer in between.
    pub async fn list_macs(
        &self,
        request: proto::ListMacsRequest,
    ) -> Result<Result<proto::ListMacsResponse, Refusal>, Gone> {
        let asked = self.call(move |control| control.ask_macs(&request.network_id)).await?;
        let (network, asked) = match asked {
            Ok(asked) => asked,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let learned = asked.collected().await;
        let macs = self.call(move |control| control.macs(network, learned)).await?;
        Ok(Ok(proto::ListMacsResponse { macs }))
    }
}

impl Control {
    /// Asks all reactors what they have learned.
    fn ask_macs(&self, key: &str) -> Result<(Uuid, Macs), Refusal> {
        let id = self.find_network(key)?;
        let network = &self.networks[&id];
        if network.model.kind == NetworkKind::Routed {
            let expected = "frames of a routed network go by their addresses: see mvirt nic list";
            return Err(Refusal::invalid("network_id", key, expected));
        }
        Ok((id, self.dataplane.macs(network.key)))
    }

    /// Returns what was learned, vNICs' own, and hosts' that lease an address, as far as those are
    /// still there.
    fn macs(&self, id: Uuid, learned: Vec<LearnedMac>) -> Vec<proto::Mac> {
        let Some(network) = self.networks.get(&id) else { return Vec::new() };
        let mut hosts = network.hosts.leasing(Instant::now());
        let fixed = network.members.values().filter_map(|member| {
            let vnic = member.entry.vnic()?;
            let is_fixed = vnic.settings.port_security != PortSecurity::Off;
            is_fixed.then(|| proto::Mac {
                mac: vnic.mac.to_string(),
                nic: self
                    .nics
                    .get(&member.id)
                    .map_or_else(String::new, |it| it.model.name.to_string()),
                r#static: true,
                ipv4_address: string(vnic.ipv4),
                ipv6_address: string(vnic.ipv6),
                ..Default::default()
            })
        });
        let mut macs: Vec<_> = fixed.collect();
        for learned in learned {
            // In a VLAN of guests' own nothing is leased.
            let host = if learned.vid == 0 { hosts.remove(&learned.mac) } else { None };
            let mac = proto::Mac {
                vid: learned.vid.into(),
                age_seconds: seconds(learned.age),
                ..leased(learned.mac, host.unwrap_or_default())
            };
            macs.extend(self.behind(id, learned.port, mac));
        }
        // They have been silent for long, and have their addresses all the same.
        for (mac, host) in hosts {
            let (port, silent) = (host.port, LEASE.saturating_sub(host.left));
            let mac = proto::Mac { age_seconds: seconds(silent), ..leased(mac, host) };
            let behind = port.and_then(|port| self.behind(id, port, mac.clone()));
            macs.push(behind.unwrap_or(mac));
        }
        macs.sort_by(|a, b| (&a.mac, a.vid).cmp(&(&b.mac, b.vid)));
        macs
    }

    /// Returns a MAC with who is behind it; none where that has left.
    fn behind(&self, network: Uuid, port: PortId, mac: proto::Mac) -> Option<proto::Mac> {
        match *self.by_port.get(&port)? {
            // It is a member of no segment.
            Owner::Outside => None,
            Owner::Nic(id) => {
                let nic = self.nics.get(&id)?.model.name.to_string();
                Some(proto::Mac { nic, ..mac })
            }
            Owner::Port(id) => {
                let port = &self.ports.get(&id)?.model;
                let port_vid = port.vlan_in(network).map_or(0, |vid| vid.get().into());
                Some(proto::Mac { port: port.name.to_string(), port_vid, ..mac })
            }
            Owner::Client { port, slot } => {
                let entry = self.ports.get(&port)?;
                let remote = entry.clients.get(&slot)?.remote.clone();
                let port_vid = entry.model.vlan_in(network).map_or(0, |vid| vid.get().into());
                Some(proto::Mac { port: entry.model.name.to_string(), remote, port_vid, ..mac })
            }
        }
    }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// Returns a MAC with what it leases.
fn leased(mac: MacAddr, host: Host) -> proto::Mac {
    let [ipv4, ipv6] = host.addresses;
    proto::Mac {
        mac: mac.to_string(),
        ipv4_address: string(ipv4),
        ipv6_address: string(ipv6),
        lease_seconds: seconds(host.left),
        hostname: host.client.hostname,
        vendor_class: host.client.vendor_class,
        ..Default::default()
    }
}
