//! What is done in a network namespace of its own.

use super::{daemon::cannot_run, namespace::Namespace};
use std::{path::Path, thread};

/// Does something in a namespace of its own, on a thread of its own, which stays there.
pub(crate) fn inside(what: impl FnOnce() + Send) {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
        return cannot_run("only root can make a TAP device, where there is /dev/net/tun");
    }
    let namespace = Namespace::new();
    thread::scope(|scope| {
        let run = || {
            namespace.enter();
            what();
        };
        scope.spawn(run).join().unwrap();
    });
}
