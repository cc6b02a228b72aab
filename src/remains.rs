//! What a daemon that is to end, and stands still, takes away before it leaves.
//!
//! A thread that waits where no signal reaches it keeps its process, and all that this has open:
//! VMMs would stay connected to a corpse, and a port would stay taken. So connections and listeners
//! are shut down first, which no other thread can hold up; the files that name them are removed by
//! a thread that may be left behind.

use crate::mutex::lock;
use rustix::{
    io::Errno,
    net::{AddressFamily, Shutdown, shutdown, sockopt},
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};
use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Mutex, mpsc},
    time::Duration,
};

/// How long files may take to be removed.
// With the 4.2 s before (`signals::DEADLINE`) and the log's last lines, less than five seconds.
const FILES: Duration = Duration::from_millis(300);

/// Files that name what the process serves.
#[derive(Debug, Default, Clone)]
struct Served {
    socket_dir: PathBuf,
    api: Vec<PathBuf>,
}

/// What is to be taken away; nothing while another process may be serving it.
#[derive(Debug, Default)]
pub struct Remains(Mutex<Option<Served>>);

impl Remains {
    /// This process alone serves the sockets in `socket_dir`, and the API on those of `api`.
    pub fn are(&self, socket_dir: &Path, api: Vec<PathBuf>) {
        *lock(&self.0) = Some(Served { socket_dir: socket_dir.into(), api });
    }

    /// Another process has taken over, or may be about to.
    pub fn are_nothing(&self) {
        lock(&self.0).take();
    }

    /// Takes everything away. Waits for nobody but, for a moment, a disk.
    pub fn take_away(&self) {
        let Some(served) = lock(&self.0).take() else { return };
        disconnect();
        let (done, removed) = mpsc::channel();
        // A thread of its own: a file system may wait for ever.
        let remover = std::thread::Builder::new().name("remover".into()).spawn(move || {
            let sockets = fs::read_dir(&served.socket_dir).into_iter().flatten().flatten();
            let sockets = sockets.map(|entry| entry.path());
            let sockets = sockets.filter(|path| path.extension().is_some_and(|e| e == "sock"));
            // The next daemon replaces what stays.
            sockets.chain(served.api).for_each(|path| drop(fs::remove_file(path)));
            done.send(()).ok();
        });
        if remover.is_ok() {
            removed.recv_timeout(FILES).ok();
        }
    }
}

/// Shuts down all UNIX sockets and listeners of this process. Other TCP sockets are left alone:
/// another thread may keep such a one locked, and whoever touches it waits.
fn disconnect() {
    let Ok(this) = pidfd_open(getpid(), PidfdFlags::empty()) else { return };
    let found = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    for entry in found {
        // Only its name is looked at before it is known to be a socket: a file may wait for who
        // serves it.
        let is_socket = fs::read_link(entry.path())
            .is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        let number = entry.file_name().to_string_lossy().parse::<i32>();
        // Not stderr, which may be a socket of the journal: last lines are still to be written.
        let Some(number) = number.ok().filter(|number| is_socket && *number > 2) else { continue };
        if let Err(error) = end(this.as_fd(), number) {
            tracing::debug!(%error, number, "a socket stays open");
        }
    }
}

fn end(process: impl AsFd, number: i32) -> Result<(), Errno> {
    // A copy of our own descriptor: its owner may close the number at any time, and this needs no
    // unsafe code.
    let socket: OwnedFd = pidfd_getfd(process, number, PidfdGetfdFlags::empty())?;
    let is_local = sockopt::socket_domain(&socket)? == AddressFamily::UNIX;
    if is_local || sockopt::socket_acceptconn(&socket)? {
        match shutdown(&socket, Shutdown::Both) {
            Err(Errno::NOTCONN) => {}
            ended => ended?,
        }
    }
    Ok(())
}
