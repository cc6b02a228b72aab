//! One async task a connection: keeps its port attached until it ends.

use super::port_handle::{PortHandle, Signal};
use crate::dataplane::{
    PortState,
    port::{Port, PortFailure, rest::Rest},
};
use rustix::fs::{MemfdFlags, memfd_create};
use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::fd::{BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};
use tokio::sync::oneshot;

/// Keeps `made` attached until it fails or `stop`, and says then that who was connected has left.
/// Returns why.
pub(super) async fn serve(
    made: Box<dyn Port>,
    mut port: PortHandle,
    mut stop: oneshot::Receiver<()>,
) -> String {
    let ended = tokio::select! {
        failure = keep(made, &mut port, Own::default()) => failure.to_string(),
        _ = &mut stop => String::new(),
    };
    port.end().await;
    port.tell_why(PortState::Left, &ended);
    ended
}

/// What an endpoint has beside its port.
#[derive(Default)]
pub(super) struct Own<'a> {
    /// Descriptors that are handed over in front of those of the port.
    pub(super) fds: &'a [BorrowedFd<'a>],
    /// Set while another process may be going on with them.
    pub(super) is_given: Option<&'a AtomicBool>,
}

impl Own<'_> {
    fn give(&self, given: bool) {
        if let Some(is_given) = self.is_given {
            is_given.store(given, Relaxed);
        }
    }
}

/// Returns descriptors of its endpoint's, those of a detached port, and behind them a file with
/// what is in none of them.
pub(super) fn save(own: &[BorrowedFd<'_>], made: Option<&dyn Port>) -> io::Result<Vec<OwnedFd>> {
    let own = own.iter().map(|own| own.try_clone_to_owned());
    let mut fds = own.collect::<io::Result<Vec<_>>>()?;
    let Some(made) = made else { return Ok(fds) };
    let (port, rest) = made.save()?;
    fds.extend(port);
    let mut file = File::from(memfd_create("rest", MemfdFlags::CLOEXEC)?);
    file.write_all(&rest.write())?;
    fds.push(file.into());
    Ok(fds)
}

/// Returns what was saved of a port that had `count` descriptors. None where there was no port.
pub(super) fn saved(
    mut fds: Vec<OwnedFd>,
    count: usize,
) -> io::Result<Option<(Vec<OwnedFd>, Rest)>> {
    // Without that file, nothing was connected.
    let Some(file) = (fds.len() > count).then(|| fds.remove(count)) else { return Ok(None) };
    let mut file = File::from(file);
    file.rewind()?;
    let mut octets = Vec::new();
    file.read_to_end(&mut octets)?;
    let rest = Rest::read(&octets).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some((fds, rest)))
}

/// Keeps `made` attached until it fails. What the service manager keeps of it is not forgotten
/// then: that is for who calls.
pub(super) async fn keep(
    mut made: Box<dyn Port>,
    port: &mut PortHandle,
    own: Own<'_>,
) -> PortFailure {
    if made.is_of_messages() {
        port.keep(|| save(own.fds, Some(&*made)));
    }
    loop {
        port.attach(made, PortState::Active);
        let signal = port.next().await;
        let back = port.detach().await;
        match signal {
            Signal::Failed(failure) => return failure,
            Signal::Moved => {}
            Signal::Export(request) => {
                own.give(true);
                port.export(request, save(own.fds, back.as_deref())).await;
                own.give(false);
            }
        }
        made = match back {
            Some(made) => made,
            // It ends with the reactors.
            None => std::future::pending().await,
        };
    }
}
