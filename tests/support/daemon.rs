//! The daemon under test: the real binary on temporary directories, and a client of its API.

#[path = "not_run.rs"]
mod not_run;

use hyper_util::rt::TokioIo;
use mvirt_net::proto::{
    CreateNetworkRequest, CreateNicRequest, GetNicRequest, GetNicStatsRequest, ListNicsRequest,
    ListReactorsRequest, Network, Nic, NicState, NicStats, Reactor, get_nic_request::Identifier,
    net_service_client::NetServiceClient,
};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, set_child_subreaper, waitpid,
};
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{net::UnixStream, runtime::Runtime};
use tonic::transport::{Channel, Endpoint};

/// How long anything may take that is bound to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `what` is so.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// See [`not_run::cannot_run`].
pub(crate) fn cannot_run(why: &str) {
    not_run::cannot_run(why);
}

pub(crate) type Client = NetServiceClient<Channel>;

/// What is started.
struct Binary {
    path: PathBuf,
    flags: Vec<String>,
    environment: Vec<(&'static str, PathBuf)>,
}

pub(crate) struct Daemon {
    process: Pid,
    directory: TempDir,
    command: Binary,
    runtime: Runtime,
    client: Client,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::start_with(&["--reactors", "1"])
    }

    pub(crate) fn start_with(flags: &[&str]) -> Self {
        Self::start_binary(Path::new(env!("CARGO_BIN_EXE_mvirt-net")), flags)
    }

    pub(crate) fn start_binary(binary: &Path, flags: &[&str]) -> Self {
        Self::start_in(binary, flags, |_| vec![])
    }

    /// With variables of its environment, which may name its directory.
    pub(crate) fn start_with_environment(
        environment: impl FnOnce(&Path) -> Vec<(&'static str, PathBuf)>,
    ) -> Self {
        let binary = Path::new(env!("CARGO_BIN_EXE_mvirt-net"));
        Self::start_in(binary, &["--reactors", "1"], environment)
    }

    /// With flags, and variables of its environment, which may name its directory.
    pub(crate) fn start_in(
        binary: &Path,
        flags: &[&str],
        environment: impl FnOnce(&Path) -> Vec<(&'static str, PathBuf)>,
    ) -> Self {
        // Those that take over from our child are to be ours, too.
        set_child_subreaper(Some(getpid())).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let command = Binary {
            path: binary.to_owned(),
            flags: flags.iter().map(ToString::to_string).collect(),
            environment: environment(directory.path()),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let process = spawn(&command, &directory);
        let client = connect(&runtime, &directory);
        Self { process, directory, command, runtime, client }
    }

    /// A daemon, and two vNICs of its network `prod` on different reactors.
    pub(crate) fn with_nics_apart() -> (Self, Nic, Nic) {
        let mut daemon = Self::start_with(&["--reactors", "2", "--hugepages", "off"]);
        daemon.network("prod");
        let a = daemon.nic("prod", "a");
        for n in 0..mvirt_net::dataplane::VNICS_TOGETHER - 1 {
            daemon.nic("prod", &format!("filler{n}"));
        }
        let b = daemon.nic("prod", "b");
        (daemon, a, b)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn address(&self) -> String {
        format!("unix:{}", self.path("api").display())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_raw_nonzero().get() as u32
    }

    /// How many descriptors the daemon has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// What the daemon has logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap()
    }

    /// Waits until the daemon has logged this: what it reports may be seen a moment before.
    pub(crate) fn says(&self, text: &str) {
        wait_until(&format!("the log has {text:?}"), || self.log().contains(text));
    }

    /// kill -9, then the same daemon again.
    pub(crate) fn crash_and_restart(&mut self) {
        kill_process(self.process, Signal::KILL).unwrap();
        wait(self.process);
        self.start_again();
    }

    /// The same daemon again, once it has ended by itself.
    pub(crate) fn start_again_after_its_end(&mut self) {
        wait(self.process);
        self.start_again();
    }

    /// Another binary from the next start on.
    pub(crate) fn run_instead(&mut self, binary: PathBuf) {
        self.command.path = binary;
    }

    /// Other flags from the next start on.
    pub(crate) fn use_flags(&mut self, flags: &[&str]) {
        self.command.flags = flags.iter().map(ToString::to_string).collect();
    }

    /// The same daemon again, after it has ended.
    pub(crate) fn start_again(&mut self) {
        self.process = spawn(&self.command, &self.directory);
        self.client = connect(&self.runtime, &self.directory);
    }

    /// SIGUSR2; the process that serves then, which is the same one if it could not hand over.
    /// Gives whether it could.
    pub(crate) fn hand_over(&mut self) -> bool {
        let heard = self.log().len();
        kill_process(self.process, Signal::USR2).unwrap();
        let mut outcome = None;
        wait_until("there is an end of the hand-over", || {
            outcome = self.log()[heard..].lines().find_map(|line| {
                let pid = line.split_once("handed over pid=").map(|(_, pid)| pid.parse().unwrap());
                (pid.is_some() || line.contains("not handed over")).then_some(pid)
            });
            outcome.is_some()
        });
        let Some(Some(pid)) = outcome else { return false };
        assert!(wait(self.process).exit_status() == Some(0), "it ends well");
        self.process = Pid::from_raw(pid).unwrap();
        self.client = connect(&self.runtime, &self.directory);
        true
    }

    /// The process that is taking over, if there is one.
    pub(crate) fn successor(&self) -> Option<Pid> {
        let of = |task: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.ok()?.path().join("children")).ok()
        };
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).ok()?;
        let children: String = tasks.filter_map(of).collect();
        Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
    }

    /// The process that serves now, after a hand-over that may have ended anyhow: of two, it is the
    /// one that lives. None if both have ended.
    pub(crate) fn settle(&mut self, successor: Option<Pid>) -> bool {
        let ended = |pid| !matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(None));
        if ended(self.process) {
            let Some(successor) = successor else { return false };
            self.process = successor;
            if ended(successor) {
                return false;
            }
        }
        self.client = connect(&self.runtime, &self.directory);
        true
    }

    /// kill -9, not waited for.
    pub(crate) fn kill(&mut self) {
        kill_process(self.process, Signal::KILL).unwrap();
    }

    /// SIGTERM; gives how it ended.
    pub(crate) fn terminate(&mut self) -> WaitStatus {
        kill_process(self.process, Signal::TERM).unwrap();
        wait(self.process)
    }

    /// A signal that it goes on after.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.process, signal).unwrap();
    }

    /// A signal; how it ended, if it did within `patience`.
    pub(crate) fn end_within(&self, signal: Signal, patience: Duration) -> Option<WaitStatus> {
        kill_process(self.process, signal).unwrap();
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some((_, ended)) = waitpid(Some(self.process), WaitOptions::NOHANG).unwrap() {
                return Some(ended);
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        None
    }

    /// Another client of its API.
    pub(crate) fn another_client(&self) -> (Runtime, Client) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = connect(&runtime, &self.directory);
        (runtime, client)
    }

    pub(crate) fn call<T>(
        &mut self,
        request: impl AsyncFnOnce(&mut Client) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<T, tonic::Status> {
        self.runtime.block_on(request(&mut self.client)).map(tonic::Response::into_inner)
    }

    pub(crate) fn block_on<T>(&mut self, work: impl AsyncFnOnce(&mut Client) -> T) -> T {
        self.runtime.block_on(work(&mut self.client))
    }

    /// A dual-stack network 10.0.0.0/24 and fd00::/64.
    pub(crate) fn network(&mut self, name: &str) -> Network {
        self.network_with(name, |_| {})
    }

    pub(crate) fn network_with(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut CreateNetworkRequest),
    ) -> Network {
        let mut request = CreateNetworkRequest {
            name: name.into(),
            ipv4_subnet: "10.0.0.0/24".into(),
            ipv6_prefix: "fd00::/64".into(),
            ..Default::default()
        };
        change(&mut request);
        self.call(async |client| client.create_network(request).await).unwrap()
    }

    pub(crate) fn nic(&mut self, network: &str, name: &str) -> Nic {
        self.nic_with(network, name, |_| {})
    }

    pub(crate) fn nic_with(
        &mut self,
        network: &str,
        name: &str,
        change: impl FnOnce(&mut CreateNicRequest),
    ) -> Nic {
        self.try_nic_with(network, name, change).unwrap()
    }

    pub(crate) fn try_nic_with(
        &mut self,
        network: &str,
        name: &str,
        change: impl FnOnce(&mut CreateNicRequest),
    ) -> Result<Nic, tonic::Status> {
        let mut request = CreateNicRequest {
            network_id: network.into(),
            name: name.into(),
            ..Default::default()
        };
        change(&mut request);
        self.call(async |client| client.create_nic(request).await)
    }

    pub(crate) fn get_nic(&mut self, name: &str) -> Nic {
        let request = GetNicRequest { identifier: Some(Identifier::Name(name.into())) };
        self.call(async |client| client.get_nic(request).await).unwrap()
    }

    /// vNICs with a VMM whose queues run.
    pub(crate) fn count_connected(&mut self) -> usize {
        let request = ListNicsRequest::default();
        let found = self.call(async |client| client.list_nics(request).await).unwrap().nics;
        found.iter().filter(|nic| nic.state() == NicState::Active).count()
    }

    pub(crate) fn stats(&mut self, name: &str) -> NicStats {
        let request = GetNicStatsRequest { id: name.into() };
        self.call(async |client| client.get_nic_stats(request).await).unwrap()
    }

    pub(crate) fn reactors(&mut self) -> Vec<Reactor> {
        let listed = self.call(async |client| client.list_reactors(ListReactorsRequest {}).await);
        listed.unwrap().reactors
    }

    /// How often frames of a vNIC were dropped for a reason.
    pub(crate) fn drops(&mut self, name: &str, reason: &str) -> u64 {
        let stats = self.stats(name);
        stats.drops.iter().find(|drop| drop.reason == reason).map_or(0, |drop| drop.frames)
    }

    pub(crate) fn wait_for_state(&mut self, name: &str, state: NicState) {
        wait_until(&format!("{name} is {state:?}"), || self.get_nic(name).state() == state);
    }

    /// User and system time the daemon has used.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log ---\n{}", self.log());
        }
        let successor = self.successor();
        for process in [Some(self.process), successor].into_iter().flatten() {
            kill_process(process, Signal::KILL).ok();
            waitpid(Some(process), WaitOptions::empty()).ok();
        }
    }
}

fn wait(process: Pid) -> WaitStatus {
    waitpid(Some(process), WaitOptions::empty()).unwrap().unwrap().1
}

/// A library of ours that changes what the system does to a daemon (tests/support/NAME.c).
pub(crate) fn preload(name: &str) -> PathBuf {
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.so"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/support/{name}.c"));
    let mut compiler = Command::new("cc");
    compiler.args(["-Wall", "-Werror", "-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source);
    assert!(compiler.status().unwrap().success());
    library
}

/// The command that runs a daemon with everything below `directory`.
pub(crate) fn in_directory(binary: impl AsRef<OsStr>, directory: &Path) -> Command {
    let mut command = Command::new(binary);
    command.arg("--listen").arg(format!("unix:{}", directory.join("api").display()));
    command.arg("--socket-dir").arg(directory.join("s"));
    command.arg("--metadata-dir").arg(directory.join("m"));
    // What this host's service is told is none of ours.
    command.env("MVIRT_NET_CONFIG", "/dev/null");
    command
}

/// A daemon on the directory, not yet waited for.
#[expect(
    clippy::zombie_processes,
    reason = "it is waited for by its id, as those are that take over"
)]
fn spawn(command: &Binary, directory: &TempDir) -> Pid {
    let log = directory.path().join("log");
    let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
    let child = in_directory(&command.path, directory.path())
        .args(&command.flags)
        .envs(command.environment.iter().cloned())
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    Pid::from_child(&child)
}

/// A client of its own connection to the API at `path`, if somebody listens.
pub(crate) async fn client(path: &Path) -> Option<Client> {
    channel(path).await.map(NetServiceClient::new)
}

/// A connection to the API at `path`.
pub(crate) async fn channel(path: &Path) -> Option<Channel> {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint.connect_with_connector(connector).await.ok()
}

fn connect(runtime: &Runtime, directory: &TempDir) -> Client {
    let path = directory.path().join("api");
    let mut connected = None;
    wait_until("the daemon listens", || {
        let connecting =
            async { tokio::time::timeout(Duration::from_secs(1), client(&path)).await };
        connected = runtime.block_on(connecting).ok().flatten();
        connected.is_some()
    });
    connected.unwrap()
}
