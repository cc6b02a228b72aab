//! A folder belongs to one daemon at a time, and no daemon that cannot die keeps its successor out.

use crate::daemon::{Daemon, in_directory, wait_until};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

const DAEMON: &str = env!("CARGO_BIN_EXE_mvirt-net");

#[test]
fn a_second_daemon_on_the_same_sockets_is_refused() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "vm1");
    let other = tempfile::tempdir().unwrap();
    let refused: Output = Command::new(DAEMON)
        .args(["--listen", "[::1]:0", "--socket-dir"])
        .arg(daemon.path("s"))
        .arg("--metadata-dir")
        .arg(other.path())
        .output()
        .unwrap();
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{told}");
    let folder = daemon.path("s");
    let expected = format!("--socket-dir: {} is in use by another mvirt-net", folder.display());
    assert!(told.contains(&expected), "{told}");
    UnixStream::connect(&nic.socket_path).expect("the first one's sockets are as they were");
}

/// Holds everything that a daemon in `directory` would. Ends when dropped.
struct Corpse(Child);

impl Corpse {
    /// Listens on `socket`, too.
    fn start(directory: &Path, state: &str, socket: &str) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/corpse.c");
        let program = directory.join("corpse");
        let mut compiler = Command::new("cc");
        compiler.args(["-Wall", "-Werror", "-O1", "-pthread", "-o"]).arg(&program).arg(source);
        assert!(compiler.status().unwrap().success());
        let locks: Vec<PathBuf> = ["m/lock", "s/.lock"].map(|name| directory.join(name)).into();
        locks.iter().for_each(|lock| fs::create_dir_all(lock.parent().unwrap()).unwrap());
        let mut child = Command::new(program)
            .arg(state)
            .arg(directory.join(socket))
            .args(locks)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let stat = || fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        wait_until("it is as it is to be", || (state == "alive") != stat().contains(") Z "));
        Self(child)
    }
}

impl Drop for Corpse {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("it is ours");
    }
}

#[test]
fn a_daemon_that_cannot_die_does_not_keep_its_successor_out() {
    let mut corpse = None;
    let mut daemon = Daemon::start_with_environment(|directory| {
        corpse = Some(Corpse::start(directory, "dead", "elsewhere"));
        vec![]
    });
    daemon.network("prod");
    assert_eq!(daemon.log().matches("its lock is taken").count(), 2, "{}", daemon.log());
    // The corpse still holds the old files; the new ones keep others out, before and after it is
    // gone.
    for _ in 0..2 {
        let other = in_directory(DAEMON, daemon.path("m").parent().unwrap()).output().unwrap();
        let told = String::from_utf8(other.stderr).unwrap();
        assert!(told.contains("in use by another mvirt-net"), "{told}");
        corpse = None;
    }
    assert!(corpse.is_none());
    assert!(daemon.hand_over(), "the new locks are handed over like others");
    daemon.crash_and_restart();
    daemon.nic("prod", "vm1");
}

#[test]
fn of_two_successors_of_a_corpse_one_serves() {
    let directory = tempfile::tempdir().unwrap();
    let corpse = Corpse::start(directory.path(), "dead", "api");
    let start = || {
        let mut command = in_directory(DAEMON, directory.path());
        command.args(["--reactors", "1"]).stdin(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut both = [start(), start()];
    wait_until("one has ended", || both.iter_mut().any(|one| one.try_wait().unwrap().is_some()));
    let is_over = |one: &mut Child| one.try_wait().unwrap().is_some();
    let loser = both.iter_mut().position(is_over).unwrap();
    let [first, second] = both;
    let (loser, mut winner) = if loser == 0 { (first, second) } else { (second, first) };
    let told = String::from_utf8(loser.wait_with_output().unwrap().stderr).unwrap();
    assert!(told.contains("in use by another mvirt-net"), "{told}");
    let mut lines = BufReader::new(winner.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains(" ready ")), "it serves");
    winner.kill().unwrap();
    winner.wait().unwrap();
    drop(corpse);
}

#[test]
fn a_daemon_that_lives_keeps_its_locks() {
    let directory = tempfile::tempdir().unwrap();
    let _living = Corpse::start(directory.path(), "alive", "api");
    let refused = in_directory(DAEMON, directory.path()).output().unwrap();
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains("in use by another mvirt-net"), "{told}");
    assert_eq!(refused.status.code(), Some(1));
}
