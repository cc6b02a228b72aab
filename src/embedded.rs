//! The daemon within another program: Control and the data plane, without gRPC, without a folder,
//! and without privileges.
//!
//! ```text
//! front end ── requests of proto ──▶ Control ── publish, attach ──▶ data plane
//!                                       └ store/memory: nothing outlives the process
//! ```
//! What it carries is networks and their ports. vNICs have sockets in a folder, and so they are for
//! the daemon proper.

use crate::{
    config,
    control::{
        Control, ControlThread, Decided, Gone, Handle, Limits, Reachable, RestoreError,
        refusal::Refusal,
    },
    dataplane::{self, Access, Dataplane, Hugepages},
    file_limit,
    store::memory::MemoryStore,
};
use std::{io, path::PathBuf, time::Duration};

/// How it runs.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Threads of the data plane.
    pub reactors: usize,
    /// Networks there may be.
    pub networks: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { reactors: config::auto_reactors(), networks: config::DEFAULT_MAX_NETWORKS }
    }
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A reactor could not.
    #[error("cannot start the data plane: {0}")]
    Dataplane(#[from] dataplane::StartError),
    /// Control could not.
    #[error("{0}")]
    Restore(#[from] RestoreError),
    /// Something else of the system failed.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It is refused, and has changed nothing.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// Control has ended.
    #[error("{0}")]
    Gone(#[from] Gone),
}

/// A running daemon. Without [`Embedded::stop`] its ports go when the process ends.
#[derive(Debug)]
pub struct Embedded {
    control: Handle,
    thread: ControlThread,
}

impl Embedded {
    /// Starts it, on the current runtime of tokio.
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        // Each port needs a descriptor or two.
        file_limit::raise();
        let (dataplane, reports) = Dataplane::start(&dataplane::Settings {
            reactors: settings.reactors,
            cpus: Vec::new(),
            busy_poll: Duration::from_micros(config::DEFAULT_BUSY_POLL),
            // Those that a host reserves are for its VMs.
            hugepages: Hugepages::Off,
            // Nobody can share memory with it, and nobody open a socket: there are no vNICs.
            guest_memory: 0,
            socket_access: Access::default(),
        })?;
        let limits = Limits {
            networks: settings.networks,
            nics: 0,
            routes: 0,
            ports: config::DEFAULT_MAX_PORTS,
        };
        let rebalance_above = f64::from(config::DEFAULT_REBALANCE) / 100.0;
        let store = Box::new(MemoryStore);
        let control = {
            let may = (limits, Reachable::Everything);
            Control::restore(store, dataplane, PathBuf::new(), may, rebalance_above)?
        };
        let (control, thread) = Handle::spawn(control, reports)?;
        Ok(Self { control, thread })
    }

    /// The way to Control, for any task.
    pub fn control(&self) -> &Handle {
        &self.control
    }

    /// Carries out a change, as [`Handle::change`] does. Returns its answer when it is in force.
    pub async fn change<T: Send + 'static>(
        &self,
        decide: impl Fn(&Control) -> Result<Decided<T>, Refusal> + Send + 'static,
    ) -> Result<T, RequestError> {
        Ok(self.control.change(decide).await??)
    }

    /// Completes when Control ends, which it does by itself only by a panic.
    pub async fn ended(&mut self) {
        self.thread.ended().await;
    }

    /// Closes all ports and ends the threads. Returns false if Control had ended by a panic.
    pub async fn stop(self) -> bool {
        self.control.shut_down().await;
        self.thread.join().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Accounts;
    use crate::proto::{CreateNetworkRequest, CreateNicRequest, ListNetworksRequest};

    fn request(name: &str) -> CreateNetworkRequest {
        CreateNetworkRequest {
            name: name.into(),
            ipv4_subnet: "10.0.0.0/24".into(),
            ..Default::default()
        }
    }

    async fn names(daemon: &Embedded) -> Vec<String> {
        let list = |control: &mut Control| control.list_networks(&ListNetworksRequest::default());
        let list = daemon.control().call(list).await.unwrap().unwrap();
        list.networks.into_iter().map(|network| network.name).collect()
    }

    #[tokio::test]
    async fn it_takes_requests_keeps_nothing_and_stops() {
        for _ in 0..2 {
            let daemon = Embedded::start(Settings { reactors: 2, networks: 2 }).unwrap();
            assert!(names(&daemon).await.is_empty(), "nothing is left of the one before");
            for name in ["red", "blue"] {
                let made = daemon.change(move |control| control.create_network(&request(name)));
                assert_eq!(made.await.unwrap().name, name);
            }
            let more = daemon.change(|control| control.create_network(&request("green"))).await;
            assert!(matches!(more, Err(RequestError::Refused(Refusal::Exhausted(_)))), "{more:?}");
            assert_eq!(names(&daemon).await, ["blue", "red"]);
            let handle = daemon.control().clone();
            assert!(daemon.stop().await);
            assert_eq!(handle.call(|_| ()).await, Err(Gone));
        }
    }

    #[tokio::test]
    async fn a_vnic_is_refused_for_want_of_a_folder() {
        let daemon = Embedded::start(Settings { reactors: 1, networks: 1 }).unwrap();
        daemon.change(|control| control.create_network(&request("red"))).await.unwrap();
        let nic = CreateNicRequest { network_id: "red".into(), ..Default::default() };
        let made = daemon.change(move |control| control.create_nic(&nic, &Accounts::default()));
        assert!(matches!(made.await, Err(RequestError::Refused(Refusal::Exhausted(_)))));
        assert!(daemon.stop().await);
    }
}
