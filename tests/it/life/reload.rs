//! SIGUSR2 after the file of flags has changed: the new process does what it says by then; where it
//! says nothing sound, the old one goes on, and says why.

use crate::{
    command::stdout,
    daemon::{Daemon, wait_until},
    guest::pair,
};
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid,
};
use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A daemon with a file of flags that says this; and where that is.
fn started(text: &str) -> (Daemon, PathBuf) {
    let mut path = PathBuf::new();
    let daemon = Daemon::start_with_environment(|directory| {
        path = directory.join("net.toml");
        fs::write(&path, text).unwrap();
        vec![("MVIRT_NET_CONFIG", path.clone())]
    });
    (daemon, path)
}

#[test]
fn a_reload_puts_the_file_in_force_while_guests_stay() {
    let (mut daemon, file) = started("max-nics = 2\n");
    let (_, [mut a, mut b]) = pair(&mut daemon);
    a.lease();
    let refused = daemon.try_nic_with("prod", "c", |_| {}).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
    fs::write(&file, "max-nics = 3\nmax-networks = 1\n").unwrap();
    assert!(daemon.hand_over());
    daemon.nic("prod", "c");
    assert!(b.answers(&mut a, "10.0.0.2"), "over the connections that there were");
    fs::remove_file(&file).unwrap();
    assert!(!daemon.hand_over(), "a file that was named has to be there");
    fs::write(&file, "# As it comes.\n").unwrap();
    assert!(daemon.hand_over());
    daemon.nic("prod", "d");
    assert!(b.answers(&mut a, "10.0.0.2"));
}

#[test]
fn a_wrong_file_refuses_the_reload_and_the_old_process_says_why() {
    let (mut daemon, file) = started("");
    let (_, [mut a, mut b]) = pair(&mut daemon);
    let pid = daemon.pid();
    for (text, why) in [
        ("\nmax-nics = \"many\"\n", ":2: max-nics: expected a whole number, got \"many\""),
        ("listen = [\n", ":1: unclosed array"),
        // What only the new process can know.
        ("cpus = [1023]\n", "--cpus: "),
        ("tls-cert = \"/a\"\ntls-key = \"/b\"\ntls-client-ca = \"/c\"\n", "--tls-cert /a: No such"),
    ] {
        fs::write(&file, text).unwrap();
        let heard = daemon.log().len();
        assert!(!daemon.hand_over());
        let told = daemon.log()[heard..].to_owned();
        let line = told.lines().find(|line| line.contains("not handed over: this process goes on"));
        let line = line.unwrap();
        assert!(line.contains("the other process cannot take over: "), "{told}");
        assert!(line.contains(why), "{told}");
        assert_eq!(daemon.pid(), pid);
        assert!(b.answers(&mut a, "10.0.0.2"));
    }
}

#[test]
fn the_folders_of_another_daemon_are_not_taken_over() {
    let mut daemon = Daemon::start();
    let (_, [mut a, mut b]) = pair(&mut daemon);
    for folder in ["m", "s"] {
        let (path, aside) = (daemon.path(folder), daemon.path("aside"));
        fs::rename(&path, &aside).unwrap();
        assert!(!daemon.hand_over());
        let told = "is not the directory of the daemon that hands over: another one is taken at a \
                    restart only";
        assert!(daemon.log().contains(&format!("{} {told}", path.display())), "{}", daemon.log());
        fs::remove_dir_all(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
        assert!(b.answers(&mut a, "10.0.0.2"));
    }
    assert!(daemon.hand_over());
}

/// A daemon whose addresses are in its file.
struct Listening {
    directory: tempfile::TempDir,
    first: Child,
}

impl Listening {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Makes the file say that it listens there.
    fn listens(directory: &Path, names: &[&str]) {
        let address = |name: &&str| format!("\"unix:{}\"", directory.join(name).display());
        let addresses: Vec<_> = names.iter().map(address).collect();
        let text = format!("listen = [{}]\n", addresses.join(", "));
        fs::write(directory.join("net.toml"), text).unwrap();
    }

    fn start(names: &[&str]) -> Self {
        set_child_subreaper(Some(getpid())).unwrap();
        let directory = tempfile::tempdir().unwrap();
        Self::listens(directory.path(), names);
        let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt-net"));
        command.arg("--config").arg(directory.path().join("net.toml"));
        command.arg("--socket-dir").arg(directory.path().join("s"));
        command.arg("--metadata-dir").arg(directory.path().join("m")).args(["--reactors", "1"]);
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let first = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
        Self { directory, first }
    }

    /// All that have served, the last one last.
    fn processes(&self) -> Vec<Pid> {
        let log = fs::read_to_string(self.path("log")).unwrap();
        let pid = |line: &str| Pid::from_raw(line.split_once("handed over pid=")?.1.parse().ok()?);
        [Pid::from_child(&self.first)].into_iter().chain(log.lines().filter_map(pid)).collect()
    }

    fn pid(&self) -> Pid {
        *self.processes().last().unwrap()
    }

    /// Has the file say this from now on, and the daemon read it.
    fn reload(&self, names: &[&str]) {
        Self::listens(self.directory.path(), names);
        let before = self.pid();
        kill_process(before, Signal::USR2).unwrap();
        wait_until("another process goes on", || self.pid() != before);
    }

    fn answers_at(&self, name: &str) {
        let address = format!("unix:{}", self.path(name).display());
        wait_until("it listens", || UnixStream::connect(self.path(name)).is_ok());
        let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
        command.env("MVIRT_NET_SERVER", address).args(["network", "list"]);
        stdout(&command.output().unwrap());
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        for process in self.processes().into_iter().rev() {
            kill_process(process, Signal::KILL).ok();
            waitpid(Some(process), WaitOptions::empty()).ok();
        }
    }
}

#[test]
fn addresses_come_and_go_with_the_file() {
    let daemon = Listening::start(&["api"]);
    daemon.answers_at("api");
    daemon.reload(&["api", "second"]);
    daemon.answers_at("second");
    daemon.answers_at("api");
    daemon.reload(&["second"]);
    daemon.answers_at("second");
    wait_until("the first is gone", || !daemon.path("api").exists());
}
