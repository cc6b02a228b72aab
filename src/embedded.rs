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
    model::L2Policy,
    proto::{self, CreateNetworkRequest},
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

/// Returns a request for a network that is a plain switch: it adds nothing and hides nothing.
pub fn plain_network(name: &str) -> CreateNetworkRequest {
    CreateNetworkRequest {
        name: name.into(),
        kind: proto::NetworkKind::Switched.into(),
        l2: Some(proto::L2Policy::from(&L2Policy::plain())),
        ..Default::default()
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
            capture_ring: None,
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
    use crate::proto::{CreateNicRequest, CreatePortRequest, ListNetworksRequest};
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketType, recv, send, socket,
        sockopt::{self, Timeout},
    };
    use std::os::fd::OwnedFd;

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
    /// A daemon with a network whose ports are of these kinds.
    async fn plain(ports: &[String]) -> Embedded {
        let daemon = Embedded::start(Settings { reactors: 1, networks: 1 }).unwrap();
        daemon.change(|control| control.create_network(&plain_network("lan"))).await.unwrap();
        for locator in ports {
            let (network_id, locator) = ("lan".into(), locator.clone());
            let port = CreatePortRequest { network_id, locator, ..Default::default() };
            daemon.change(move |control| control.create_port(&port)).await.unwrap();
        }
        daemon
    }

    /// Connects to a port that takes packets.
    fn connect(path: &std::path::Path) -> OwnedFd {
        let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        let address = rustix::net::SocketAddrUnix::new(path).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(10))).unwrap();
        socket
    }

    // seed H.3.1, H.3.21
    #[tokio::test(flavor = "multi_thread")]
    async fn networks_of_two_daemons_are_one_by_a_mesh() {
        let folder = tempfile::tempdir().unwrap();
        let ports: Vec<u16> = (0..3).map(|_| free_udp_port()).collect();
        let (mut daemons, mut clients) = (Vec::new(), Vec::new());
        for port in &ports[..2] {
            let path = folder.path().join(port.to_string());
            let group = format!("dives://239.13.13.13:{}", ports[2]);
            let mesh = format!("{group}/host=127.0.0.1/port={port}/vlan=5/advert=text");
            let listener = format!("seqpacket-listen://{}", path.display());
            daemons.push(plain(&[mesh, listener]).await);
            clients.push(connect(&path));
        }
        let frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[0x88, 0xb5], b"hello"].concat();
        // What is sent before both know each other is lost.
        let hear = |client: &OwnedFd| {
            let mut heard = [0; 2048];
            let len = recv(client, &mut heard[..], RecvFlags::empty()).unwrap().0;
            heard[..len].to_vec()
        };
        let peers = |daemon: &Embedded| {
            let peers = |control: &mut Control| {
                let switches = control.meshes().switches();
                switches.iter().flat_map(|switch| switch.peers()).count()
            };
            let control = daemon.control().clone();
            async move { control.call(peers).await.unwrap() }
        };
        let began = std::time::Instant::now();
        while peers(&daemons[0]).await + peers(&daemons[1]).await < 2 {
            assert!(began.elapsed() < Duration::from_secs(10), "they find each other");
            tokio::task::yield_now().await;
        }
        send(&clients[0], &frame, SendFlags::empty()).unwrap();
        assert_eq!(hear(&clients[1]), frame);
        let answer = [&[2, 0, 0, 0, 0, 1][..], &[2, 0, 0, 0, 0, 2], &[0x88, 0xb5], b"yes"].concat();
        send(&clients[1], &answer, SendFlags::empty()).unwrap();
        assert_eq!(hear(&clients[0]), answer);
        for daemon in daemons {
            assert!(daemon.stop().await);
        }
    }

    fn free_udp_port() -> u16 {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap().port()
    }
}
