//! vNICs that are stored, but whose network is not there since its file is damaged. They are listed
//! with the state ERROR, keep their names, can be deleted, and are served again when a network with
//! that id is made or its file comes back.

use super::{Control, NicState, addresses, refusal::Refusal, view};
use crate::{model::Nic, proto};
use std::{
    io,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long a daemon that has died may still hold what it was bound to: io_uring lets go of sockets
/// after their process has ended.
pub(super) const LATE_END: Duration = Duration::from_secs(1);
/// How often that is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Control {
    /// Keeps a stored vNIC that has no network.
    pub(super) fn keep_orphan(&mut self, nic: Nic) {
        tracing::error!(
            nic = %nic.name, id = %nic.id, network = %nic.network_id,
            "vNIC not served: its network is not there"
        );
        self.nic_names.insert(nic.name.clone(), nic.id);
        self.orphans.insert(nic.id, nic);
        self.health.set_orphans(self.orphans.len());
    }

    /// Takes an orphan out of the state; `None` where it is none.
    pub(super) fn forget_orphan(&mut self, id: Uuid) -> Option<Nic> {
        let nic = self.orphans.remove(&id)?;
        self.nic_names.remove(&nic.name);
        self.health.set_orphans(self.orphans.len());
        Some(nic)
    }

    pub(super) fn orphan_view(&self, nic: &Nic) -> proto::Nic {
        let view = view::nic(None, nic, &self.socket_path(nic), proto::NicState::Error);
        proto::Nic { error: reason(nic), ..view }
    }

    /// Refuses what an orphan cannot do.
    pub(super) fn refuse_orphan(&self, id: Uuid) -> Result<(), Refusal> {
        match self.orphans.get(&id) {
            None => Ok(()),
            Some(nic) => {
                Err(Refusal::NotServed { name: nic.name.to_string(), reason: reason(nic) })
            }
        }
    }

    /// Serves the orphans of a network that is there again, as far as their addresses are in it.
    pub(super) fn adopt_orphans(&mut self, network: Uuid) {
        let theirs = self.orphans.values().filter(|nic| nic.network_id == network);
        let mut theirs: Vec<_> = theirs.map(|nic| (nic.created_at, nic.id)).collect();
        // The eldest first: where two want one address, it stays with whoever had it before.
        theirs.sort();
        for (_, id) in theirs {
            // A copy: one that does not fit stays an orphan as it was.
            let mut nic = self.orphans[&id].clone();
            if let Err(refusal) = addresses::choose_again(&self.networks[&network], &mut nic, None)
            {
                tracing::warn!(
                    nic = %nic.name, %id, %refusal,
                    "vNIC not served: it does not fit its network"
                );
                continue;
            }
            self.forget_orphan(id);
            self.adopt_nic(nic);
            self.open_socket_or_say(id);
            self.unpublished.insert(network);
            tracing::info!(nic = %self.nics[&id].model.name, %id, "vNIC served again");
            self.tell_nic(id);
        }
    }

    /// Makes the socket of a vNIC; where that fails, the vNIC says so, and all others are served.
    pub(super) fn open_socket_or_say(&mut self, id: Uuid) {
        self.open_socket_by(Instant::now(), id);
    }

    /// Likewise; until `deadline`, others may let go of its address.
    pub(super) fn open_socket_by(&mut self, deadline: Instant, id: Uuid) {
        let mut opened = self.listen(id, None);
        let is_in_use = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
        while opened.as_ref().is_err_and(is_in_use) && Instant::now() < deadline {
            // Nothing tells when that is.
            std::thread::park_timeout(LOOK_AGAIN);
            opened = self.listen(id, None);
        }
        let Err(error) = opened else { return };
        let Some(nic) = self.nics.get_mut(&id) else { return };
        tracing::error!(
            nic = %nic.model.name, %id, %error,
            "vNIC not served: its socket cannot be made"
        );
        set_error(nic, format!("its socket cannot be made: {error}"));
    }
}

/// Records why a vNIC cannot be served. An empty reason: it can again.
pub(super) fn set_error(nic: &mut NicState, reason: String) {
    let error = !reason.is_empty();
    nic.state = if error { proto::NicState::Error } else { proto::NicState::Created };
    (nic.error, nic.blocked, nic.view) = (reason, None, None);
}

fn reason(nic: &Nic) -> String {
    let network = nic.network_id;
    format!(
        "the file of its network {network} is damaged: create the network again with this id and \
         its subnets, or put a sound file in its place and restart the daemon"
    )
}
