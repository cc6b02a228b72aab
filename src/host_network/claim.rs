//! Who leads packets through the host: one process for each network namespace, since its tables,
//! routes and neighbours are known by their names alone.
//!
//! It is who owns a table of nftables: only privileged processes may, none takes it from another,
//! and it goes with the last copy of the socket that made it, however the process ends.

use super::{nfnetlink::Nfnetlink, tables};
use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

/// The table, in which there is nothing.
pub(super) const TABLE: &str = "mvirt_daemon";

/// The right to it. It is held until all copies are closed.
#[derive(Debug)]
pub(super) struct Claim {
    /// None where the kernel knows no such tables: then nobody is kept out.
    socket: Option<OwnedFd>,
}

impl Claim {
    /// Takes it; `None` where another process has it.
    pub(super) fn take() -> io::Result<Option<Self>> {
        let netfilter = Nfnetlink::open()?;
        // Whoever may not do this is refused here: what is denied below is so for the owner's sake.
        tables::generation(&netfilter)?;
        match tables::own(&netfilter, TABLE) {
            Ok(()) => {
                let socket = netfilter.into_socket().as_fd().try_clone_to_owned()?;
                Ok(Some(Self { socket: Some(socket) }))
            }
            Err(error) => match error.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::AlreadyExists => Ok(None),
                // Of Linux before 5.12.
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported => {
                    Ok(Some(Self { socket: None }))
                }
                _ => Err(error),
            },
        }
    }

    /// Goes on with that of another process.
    pub(super) fn of_another(socket: OwnedFd) -> Self {
        Self { socket: Some(socket) }
    }

    /// Returns a copy for another process.
    pub(super) fn share(&self) -> io::Result<Option<OwnedFd>> {
        self.socket.as_ref().map(OwnedFd::try_clone).transpose()
    }
}
