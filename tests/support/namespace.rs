//! Network namespaces of a test's own.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::File,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    process::{Child, Command, Stdio},
    thread,
};

/// A network namespace, until dropped.
pub(crate) struct Namespace(pub(crate) Child);

impl Namespace {
    pub(crate) fn new() -> Self {
        let mut holder = Command::new("unshare");
        // It ends with its input, and so with this process.
        let holder = holder.args(["--net", "sh", "-c", "echo; cat"]);
        let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        Self(holder)
    }

    /// Moves this thread into it, and what it starts from now on.
    pub(crate) fn enter(&self) {
        let file = File::open(format!("/proc/{}/ns/net", self.0.id())).unwrap();
        let own = std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        assert_ne!(file.metadata().unwrap().ino(), own);
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// Returns what a thread inside returns.
    pub(crate) fn within<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = || {
                self.enter();
                what()
            };
            scope.spawn(inside).join().unwrap()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

/// Runs a command of words, which must succeed. Returns what it says.
pub(crate) fn run(command: &str) -> String {
    let words: Vec<_> = command.split(' ').collect();
    let ran = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(ran.status.success(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8_lossy(&ran.stdout).into_owned()
}
