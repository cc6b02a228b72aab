//! The switch's side of a driver in the same process: its memory mapped and its rings planned as a
//! session does it, with no VMM between them.
#![allow(dead_code, reason = "each program that includes it uses its own part")]

use super::driver::{HEADER, Memory, Ring};
use mvirt_net::dataplane::{
    counters::PortCounters,
    forward::tables::{NetworkKey, PortId},
    frame::Outgoing,
    port::{
        Port,
        vhost_user::{
            Plan, RingPlan,
            memory::{GuestMemory, RegionRequest},
            queue::ring::{RingAddresses, RingConfig, Start},
        },
    },
    reactor::{
        allowance::Allowance,
        ports::Attachment,
        ways::{Envelope, Ways},
    },
};
use std::{os::fd::OwnedFd, sync::Arc};

/// All of a guest's memory.
pub(crate) fn map(memory: &Memory) -> Arc<GuestMemory> {
    let region = RegionRequest {
        guest_address: 0,
        len: memory.file.metadata().unwrap().len(),
        user_address: 0,
        offset: 0,
        fd: OwnedFd::from(memory.file.try_clone().unwrap()).into(),
    };
    Arc::new(GuestMemory::map(vec![region], u64::MAX).unwrap())
}

/// A ring from its beginning, with indirect descriptors.
pub(crate) fn config(ring: Ring) -> RingConfig {
    let Ring { size, descriptors, available, used, .. } = ring;
    RingConfig {
        size: size.into(),
        addresses: RingAddresses { descriptors, available, used },
        event_idx: false,
        indirect: true,
        start: Start::FromVmm(0),
    }
}

/// One pair of rings that nobody kicks and calls.
pub(crate) fn plan([rx, tx]: [RingConfig; 2]) -> Plan {
    let ring = |config| RingPlan {
        config,
        kick: None,
        call: None,
        enabled: true,
        position: Default::default(),
    };
    Plan {
        pairs: vec![(Some(ring(rx)), Some(ring(tx)))],
        mergeable: true,
        header_len: HEADER,
        logs: false,
        sends: Default::default(),
        accepts: Default::default(),
    }
}

/// A port of a network whose failure is a bug.
pub(crate) fn attachment(id: PortId, network: NetworkKey, port: impl Port + 'static) -> Attachment {
    Attachment {
        id,
        network,
        port: Box::new(port),
        allowance: Allowance::default(),
        counters: Arc::new(PortCounters::default()),
        on_failure: Box::new(|failure| panic!("{failure}")),
        on_gateway_event: Box::new(drop),
        on_blocking: Box::new(drop),
    }
}

/// A reactor that is alone.
pub(crate) struct NoLinks;

impl Ways for NoLinks {
    fn here(&self) -> u16 {
        0
    }

    fn send(&mut self, _: u16, _: &Envelope, _: &[Outgoing<'_>]) -> usize {
        0
    }
}
