//! What those see who look at all of it now and then: which networks, vNICs and ports there are,
//! and where their counters are. These are read elsewhere.

use super::{Control, Gone, Handle};
use crate::{
    dataplane::{
        MacCounts, Monitor,
        counters::{PortCounters, ReactorCounters},
        forward::tables::NetworkKey,
    },
    model::{Name, NetworkKind},
    proto,
};
use std::{collections::HashMap, sync::Arc};
use uuid::Uuid;

/// All that there is.
#[derive(Debug, Default)]
pub struct Observed {
    /// By name.
    pub networks: Vec<Network>,
    /// vNICs by name, then ports.
    pub members: Vec<Member>,
    /// The data plane's threads.
    pub reactors: Vec<ReactorTotals>,
    /// The way out of public networks, while there is one.
    pub outside: Option<Monitor>,
    macs: MacCounts,
}

/// A network.
#[derive(Debug)]
pub struct Network {
    /// Its name.
    pub name: Name,
    /// What vNICs and ports have carried that are gone.
    pub gone: Arc<PortCounters>,
    /// How many MACs were learned; none in a routed one.
    pub macs: Option<usize>,
    key: NetworkKey,
}

/// A vNIC or port.
#[derive(Debug)]
pub struct Member {
    /// Its name.
    pub name: Name,
    /// Its id.
    pub id: Uuid,
    /// Which of [`Observed::networks`] it is in, or is counted in where it is in several.
    pub network: usize,
    /// What it is.
    pub what: What,
    /// Where its counters are: of a listening port also those of who is connected to it.
    pub monitors: Vec<Monitor>,
}

/// What a member is.
#[derive(Debug)]
pub enum What {
    /// A vNIC.
    Nic {
        /// Its MAC.
        mac: String,
        /// Its state.
        state: proto::NicState,
    },
    /// A port.
    Port {
        /// What it is made of.
        locator: String,
        /// Its state.
        state: proto::PortState,
    },
}

/// What a reactor has done.
#[derive(Debug, Clone, Copy)]
pub struct ReactorTotals {
    /// vNICs that are placed on it.
    pub nics: usize,
    /// Frames it took from guests and from other reactors.
    pub frames: u64,
    /// Turns that carried frames.
    pub turns: u64,
    /// Nanoseconds of those.
    pub busy_ns: u64,
    /// Nanoseconds of turns that found nothing.
    pub polling_ns: u64,
    /// How often it slept.
    pub sleeps: u64,
}

impl ReactorTotals {
    fn new((nics, counters): (usize, &ReactorCounters)) -> Self {
        Self {
            nics,
            frames: counters.frames.get(),
            turns: counters.busy_turns.get(),
            busy_ns: counters.busy_ns.get(),
            polling_ns: counters.polling_ns.get(),
            sleeps: counters.sleeps.get(),
        }
    }
}

impl Handle {
    /// Returns all that there is.
    pub async fn observe(&self) -> Result<Observed, Gone> {
        let mut observed = self.call(Control::observe).await?;
        let macs = std::mem::take(&mut observed.macs).collected().await;
        for network in &mut observed.networks {
            if let Some(count) = &mut network.macs {
                *count = macs.get(&network.key).copied().unwrap_or(0);
            }
        }
        Ok(observed)
    }
}

impl Control {
    fn observe(&mut self) -> Observed {
        let networks = self.network_names.values().filter_map(|id| self.networks.get(id));
        let networks: Vec<_> = networks.collect();
        let ids = networks.iter().map(|network| network.model.id).enumerate();
        let places: HashMap<Uuid, usize> = ids.map(|(at, id)| (id, at)).collect();
        let networks = networks.into_iter().map(|network| Network {
            name: network.model.name.clone(),
            gone: Arc::clone(&network.gone),
            macs: (network.model.kind == NetworkKind::Switched).then_some(0),
            key: network.key,
        });
        let nics = self.nic_names.values().filter_map(|id| self.nics.get(id));
        let nics = nics.filter_map(|nic| {
            Some(Member {
                name: nic.model.name.clone(),
                id: nic.model.id,
                network: *places.get(&nic.model.network_id)?,
                what: What::Nic { mac: nic.model.mac.to_string(), state: nic.state },
                monitors: nic.attached.iter().map(|it| it.monitor().clone()).collect(),
            })
        });
        let ports = self.port_names.values().filter_map(|id| self.ports.get(id));
        let ports = ports.filter_map(|port| {
            let locator = port.model.locator.to_string();
            Some(Member {
                name: port.model.name.clone(),
                id: port.model.id,
                network: *places.get(&port.model.network_id)?,
                what: What::Port { locator, state: port.state },
                monitors: port.monitors(),
            })
        });
        Observed {
            networks: networks.collect(),
            members: nics.chain(ports).collect(),
            reactors: self.dataplane.reactors().map(ReactorTotals::new).collect(),
            outside: self.egress.attached().map(|attached| attached.monitor().clone()),
            macs: self.dataplane.count_macs(),
        }
    }
}
