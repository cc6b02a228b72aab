//! A service manager, as far as descriptors are concerned: it keeps what a service gives it, and
//! passes that to the service's next process (sd_notify(3), sd_listen_fds(3)).

use super::daemon::Daemon;
use rustix::{
    io::{FdFlags, IoSliceMut, fcntl_dupfd_cloexec, fcntl_setfd},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
};
use std::{
    fmt::Write as _,
    fs,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{fs::PermissionsExt as _, net::UnixDatagram},
    },
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

/// Numbers that the service does not get.
const ABOVE: i32 = 500;

pub(crate) struct ServiceManager(Arc<Mutex<Vec<(String, OwnedFd)>>>);

impl ServiceManager {
    /// One that services tell at `path`.
    pub(crate) fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        let kept = Arc::<Mutex<Vec<(String, OwnedFd)>>>::default();
        let of_thread = Arc::clone(&kept);
        // It ends with the process.
        thread::spawn(move || {
            loop {
                let (text, fds) = receive(&socket);
                let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
                let name = name.unwrap_or("stored");
                let mut kept = of_thread.lock().unwrap();
                if text.lines().any(|line| line == "FDSTORE=1") {
                    assert!(name.len() <= 255 && !name.contains(':'), "{name}");
                    kept.extend(fds.into_iter().map(|fd| (name.to_owned(), fd)));
                } else if text.lines().any(|line| line == "FDSTOREREMOVE=1") {
                    kept.retain(|(other, _)| other != name);
                }
            }
        });
        Self(kept)
    }

    /// What is kept, without the numbers of a port's descriptors.
    pub(crate) fn names(&self) -> Vec<String> {
        let kept = self.0.lock().unwrap();
        let mut names: Vec<_> =
            kept.iter().map(|(name, _)| name.rsplit_once('.').unwrap().0.to_owned()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Lets go of everything, as one that keeps nothing.
    pub(crate) fn lose_all(&self) {
        self.0.lock().unwrap().clear();
    }

    /// Starts a daemon again that has ended, and passes it what is kept.
    pub(crate) fn start_again(&self, daemon: &mut Daemon) {
        let mut script = "#!/bin/bash\n".to_owned();
        let mut names = Vec::new();
        let passed: Vec<OwnedFd> = {
            let kept = self.0.lock().unwrap();
            // In no order that the service could rely on.
            let passed = kept.iter().rev().enumerate().map(|(at, (name, fd))| {
                let raised = fcntl_dupfd_cloexec(fd, ABOVE).unwrap();
                let number = raised.as_raw_fd();
                writeln!(script, "exec {}<&{number} {number}<&-", at + 3).unwrap();
                names.push(name.clone());
                fcntl_setfd(&raised, FdFlags::empty()).unwrap();
                raised
            });
            passed.collect()
        };
        write!(
            script,
            "export LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={}\nexec {} \"$@\"\n",
            names.len(),
            names.join(":"),
            env!("CARGO_BIN_EXE_mvirt-net")
        )
        .unwrap();
        let path = daemon.path("started");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        daemon.run_instead(path);
        daemon.start_again_after_its_end();
        drop(passed);
    }
}

fn receive(socket: &UnixDatagram) -> (String, Vec<OwnedFd>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; 4096];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut control, flags).unwrap();
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let fds = rights.flatten().collect();
    (String::from_utf8(text[..received.bytes].to_vec()).unwrap(), fds)
}
