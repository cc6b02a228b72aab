//! What one process of the daemon gives another, and how that goes on with it.

use super::{Control, RestoreError, guest::Guest, ports::PortEntry};
use crate::{
    dataplane::{Exported, Exporter, Pulse, Standstill},
    proto,
};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use std::{os::fd::OwnedFd, sync::Arc};
use tokio::sync::oneshot;
use uuid::Uuid;

/// Everything that another process is to take over. Control waits for [`Quiesced::end`].
#[derive(Debug)]
pub struct Quiesced {
    /// vNICs, ports, and who is connected to these.
    pub served: Vec<QuiescedPort>,
    /// The way to the reactors.
    pub reactors: Pulse,
    /// The right to lead packets through the host, where this process has it.
    pub claim: Option<OwnedFd>,
    end: oneshot::Sender<Afterwards>,
}

/// One of [`Quiesced`].
#[derive(Debug)]
pub struct QuiescedPort {
    /// Whose it is.
    pub whose: Whose,
    /// The way to what it serves.
    pub exporter: Exporter,
}

/// Whose a port of the data plane is that another process takes over.
#[derive(Debug, Serialize, Deserialize)]
pub enum Whose {
    /// A vNIC's.
    Nic {
        /// Which.
        id: Uuid,
        /// What was seen of its guest: [`proto::GuestSeen`], encoded.
        guest: Vec<u8>,
    },
    /// A port's.
    Port {
        /// Which.
        id: Uuid,
    },
    /// That of the way out of public networks.
    Outside,
    /// Somebody's who is connected to a port.
    Client {
        /// Which port.
        port: Uuid,
        /// Who, as far as the connection says.
        remote: String,
        /// Since when.
        since: jiff::Timestamp,
        /// What it is called where its descriptors are kept.
        #[serde(default = "Uuid::new_v4")]
        kept_as: Uuid,
    },
}

/// What becomes of a Control that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// Nobody took over.
    Resume,
    /// Another process has.
    End,
}

impl Quiesced {
    /// Ends the wait.
    pub fn end(self, then: Afterwards) {
        // Control has ended only by a panic, which ends the daemon.
        self.end.send(then).ok();
    }
}

impl Control {
    /// Goes on with what another process of the daemon `exported`. What is not stored is let go.
    pub fn take_over(&mut self, whose: Whose, exported: Exported) -> Result<(), RestoreError> {
        // What waited for its device, or its place, may do so here: it is opened with those that
        // were not exported, and says why if that fails.
        let waited = exported.fds.is_empty();
        let taken = match whose {
            Whose::Nic { id, guest } => {
                let Some(nic) = self.nics.get_mut(&id) else { return Ok(()) };
                // One that cannot be read says nothing of the guest.
                nic.guest = Guest::of_before(proto::GuestSeen::decode(&*guest).unwrap_or_default());
                self.open_socket(id, Some(exported))
            }
            Whose::Port { id } => self.take_port_over(id, exported),
            Whose::Outside => self.take_outside_over(exported).map_err(RestoreError::Outside),
            Whose::Client { .. } => {
                self.take_client_over(whose, exported);
                Ok(())
            }
        };
        if waited { Ok(()) } else { taken }
    }

    /// Begins to take over. What waits in ports of switched networks stays there until
    /// [`Control::take_overs_are_done`].
    pub fn begin_take_overs(&mut self) -> Arc<Standstill> {
        self.dataplane.hold()
    }

    /// Publishes what was taken over, and has ports polled once all of it is attached.
    pub fn take_overs_are_done(&mut self, standstill: Arc<Standstill>) {
        // Who is connected to a port is in no table before.
        self.settle();
        drop(standstill);
    }

    /// Takes no more requests until [`Quiesced::end`]: another process is about to take over. Those
    /// that come meanwhile wait, and are refused if it does.
    pub fn quiesce(&mut self) -> Quiesced {
        let (end, ended) = oneshot::channel();
        self.quiesced = Some(ended);
        let nics = self.nics.iter().filter_map(|(id, nic)| {
            let exporter = nic.attached.as_ref()?.exporter();
            let guest = nic.guest.seen().encode_to_vec();
            Some(QuiescedPort { whose: Whose::Nic { id: *id, guest }, exporter })
        });
        let outside = self.egress.exportable().map(|attached| {
            let (whose, exporter) = (Whose::Outside, attached.exporter());
            QuiescedPort { whose, exporter }
        });
        let ports = self.ports.values().flat_map(PortEntry::quiesced);
        let served = nics.chain(ports).chain(outside).collect();
        Quiesced { served, reactors: self.dataplane.pulse(), claim: self.share_claim(), end }
    }
}
