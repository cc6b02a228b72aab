//! Which MACs a switched network knows: those of vNICs, and what reactors have learned.

use super::{Control, Gone, Handle, Owner, refusal::Refusal};
use crate::{
    dataplane::{Macs, forward::LearnedMac},
    model::{NetworkKind, PortSecurity},
    proto,
};
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

    /// Returns what was learned, and vNICs' own, as far as those are still there.
    fn macs(&self, network: Uuid, learned: Vec<LearnedMac>) -> Vec<proto::Mac> {
        let members = self.networks.get(&network).into_iter().flat_map(|it| it.members.values());
        let fixed = members.filter_map(|member| {
            let vnic = member.entry.vnic()?;
            let is_fixed = vnic.settings.port_security != PortSecurity::Off;
            is_fixed.then(|| proto::Mac {
                mac: vnic.mac.to_string(),
                nic: self
                    .nics
                    .get(&member.id)
                    .map_or_else(String::new, |it| it.model.name.to_string()),
                r#static: true,
                ..Default::default()
            })
        });
        let learned = learned.into_iter().filter_map(|learned| self.learned_mac(network, &learned));
        let mut macs: Vec<_> = fixed.chain(learned).collect();
        macs.sort_by(|a, b| (&a.mac, a.vid).cmp(&(&b.mac, b.vid)));
        macs
    }

    /// Returns a MAC with who is behind it; none where that has left.
    fn learned_mac(&self, network: Uuid, learned: &LearnedMac) -> Option<proto::Mac> {
        let mac = proto::Mac {
            mac: learned.mac.to_string(),
            vid: learned.vid.into(),
            age_seconds: u32::try_from(learned.age.as_secs()).unwrap_or(u32::MAX),
            ..Default::default()
        };
        match *self.by_port.get(&learned.port)? {
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
