//! A port that needs nothing opened: a socket that is there already, or none at all.

use super::{connection, export::Exported, port_handle::PortHandle, socket::Framing};
use crate::dataplane::port::{Port, descriptor::DescriptorPort, null::Null, tap::Lasts, tun::Tun};
use std::{io, os::fd::OwnedFd};
use tokio::sync::oneshot;

/// What is there.
#[derive(Debug)]
pub enum Spec {
    /// Nothing: every frame is taken, and none comes.
    Null,
    /// The TUN device of a name, which is made where it is not there and outlives this process.
    Tun(String),
    /// The socket of packets of `mvirt-egress`, until that ends.
    Egress(OwnedFd),
    /// A connected socket, until its other end is closed.
    Socket(OwnedFd, Framing),
}

impl Spec {
    /// Returns a port of it, or goes on with what another process of the daemon `exported`.
    pub(super) fn port(self, exported: Option<Exported>) -> io::Result<Box<dyn Port>> {
        match self {
            Self::Null => Ok(Box::new(Null)),
            Self::Tun(name) => {
                let given = exported.and_then(|exported| exported.fds.into_iter().next());
                let tun = given.map_or_else(|| Tun::open(&name), |fd| Ok(Tun::from(fd)))?;
                tun.set_lasting(Lasts::Yes)?;
                Ok(Box::new(DescriptorPort::new(tun)?))
            }
            Self::Egress(socket) => Ok(Box::new(DescriptorPort::new(Tun::tagged(socket))?)),
            Self::Socket(socket, framing) => {
                let given = exported.and_then(|exported| exported.fds.into_iter().next());
                framing.port(given.unwrap_or(socket))
            }
        }
    }
}

/// Keeps it attached until its other end is closed or `stop`.
pub(super) async fn serve(made: Box<dyn Port>, mut port: PortHandle, stop: oneshot::Receiver<()>) {
    port.begin();
    port.connected();
    connection::serve(made, port, stop).await;
}
