//! Wires the daemon together, top to bottom, and takes it apart in reverse.

use crate::{
    access::{Access, AccessError},
    api::{self, Api, ListenError, Listener},
    config::{Config, Listen},
    control::{Control, Handle, Limits, Reachable, RestoreError},
    dataplane::{self, Dataplane, Reports, Settings},
    descriptor_store::{self, DescriptorStore},
    file_limit,
    handover::{self, HandOverError, Inherited, NewProcess, Shared},
    heartbeat::{self, Parts, tell_service_manager},
    lock::{DirLock, LockError},
    remains::Remains,
    services,
    signals::Orders,
    store::{StoreError, json::JsonStore},
    telemetry::Telemetry,
    way_out,
    web::{
        self, WebError,
        console::{Console, token::Token},
        metrics::Metrics,
    },
};
use sd_notify::NotifyState;
use std::{
    collections::HashMap,
    io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet};

/// How long requests in progress may take once the daemon is told to end.
// A second goes to VMMs that are slow to be disconnected; all is over within two (reliability.md).
const GRACE: Duration = Duration::from_millis(500);
/// In the sockets' folder. Those who may open sockets there cannot open it.
const SOCKET_LOCK: &str = ".lock";
/// Open files below which a host with many vNICs runs out of them.
// The hard limit of a kernel that nobody has told otherwise (INR_OPEN_MAX).
const FEW_FILES: u64 = 4096;

/// Why the daemon could not start, or go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory is not given and cannot be guessed.
    #[error("--{flag} is needed, like --{flag} {}: {variable} is not set", example.display())]
    NoDirectory {
        /// Its flag.
        flag: &'static str,
        /// What would tell.
        variable: &'static str,
        /// What may be given.
        example: PathBuf,
    },
    /// Sockets in a directory would have longer paths than sockets can have.
    #[error(
        "--socket-dir {}: {} octets; expected at most {longest}: the path of a socket in it is \
         longer than it can be",
        path.display(), path.as_os_str().len()
    )]
    LongDirectory {
        /// Which.
        path: PathBuf,
        /// Octets that fit.
        longest: usize,
    },
    /// A directory cannot be used.
    #[error("--{flag} {}: {source}", path.display())]
    Directory {
        /// Its flag.
        flag: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The sockets' folder cannot be used.
    #[error("--socket-dir: {0}")]
    SocketDir(#[from] LockError),
    /// The metadata cannot be used.
    #[error("--metadata-dir: {0}")]
    Store(#[from] StoreError),
    /// A flag asks for what this machine does not have.
    #[error("--{0}: {1}")]
    Flag(&'static str, #[source] dataplane::StartError),
    /// A reactor could not start.
    #[error("cannot start the data plane: {0}")]
    Dataplane(#[source] dataplane::StartError),
    /// What is stored cannot be served.
    #[error("{0}")]
    Restore(#[from] RestoreError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Metrics or the console cannot be served as the flags say.
    #[error(transparent)]
    Web(#[from] WebError),
    /// The daemon from which this one was to take over did not give what it serves.
    #[error("cannot take over: {0}")]
    HandOver(#[from] HandOverError),
    /// Nobody could be let in as the flags say.
    #[error("{0}")]
    Access(#[from] AccessError),
    /// Control panicked: a defect. What is stored is sound; the service manager starts the daemon
    /// again.
    #[error("internal error: control ended by a panic (see the log)")]
    Control,
    /// Something else of the system failed.
    #[error("{0}")]
    System(#[from] io::Error),
}

impl StartError {
    /// Whether the command line is to blame, rather than the machine's state.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Flag(..)
                | Self::NoDirectory { .. }
                | Self::LongDirectory { .. }
                | Self::Access(_)
                | Self::Web(WebError::Beyond(_) | WebError::Open(_) | WebError::Token(_))
        )
    }
}

impl From<dataplane::StartError> for StartError {
    fn from(error: dataplane::StartError) -> Self {
        match &error {
            dataplane::StartError::Cpu(..) => Self::Flag("cpus", error),
            dataplane::StartError::Hugepages(_) => Self::Flag("hugepages", error),
            _ => Self::Dataplane(error),
        }
    }
}

/// What keeps other daemons out of the folders, until all copies are closed.
struct Locks {
    metadata: OwnedFd,
    sockets: DirLock,
}

/// Runs until it is ordered to end, or until another process has taken over. `remains` always knows
/// what is to be taken away if the process has to be ended by force.
pub async fn run(
    config: Config,
    orders: Arc<Orders>,
    remains: Arc<Remains>,
) -> Result<(), StartError> {
    // Before anything that takes a share of the limit: the API's connections and vNICs' listeners.
    raise_file_limit();
    // Asked for now: once the file is replaced, /proc/self/exe says "(deleted)".
    let program = program()?;
    let (access, token, places) = checked(&config)?;
    let (socket_dir, metadata_dir) = directories(places)?;
    let settings = settings(&config);
    // Before the locks: in a hand-over, guests need not wait for reactors to start.
    let (dataplane, mut events) = Dataplane::start(&settings)?;
    let pulse = dataplane.pulse();
    let new_process = if config.take_over { Some(NewProcess::new()?) } else { None };
    let (store, sockets, claim, mut inherited) =
        take_folders(&metadata_dir, &socket_dir, new_process.as_ref()).await?;
    let locks = Locks { metadata: store.lock()?, sockets };
    // After the locks: only who has them may judge what else a corpse still holds.
    let holder_is_dead = locks.sockets.is_taken_from_a_corpse();
    let listeners = api::listen_all(&config, &access, &mut inherited, holder_is_dead).await?;
    let web = web::listen(&config, &mut inherited, holder_is_dead).await?;
    // Of addresses that the configuration no longer has.
    let left: Vec<Listen> = inherited.into_keys().filter_map(|name| name.parse().ok()).collect();
    let rebalance_above = f64::from(config.rebalance) / 100.0;
    // Tables are published here, and sockets opened below: the first frame of a guest finds its
    // way.
    let mut control = Control::restore(
        Box::new(store),
        dataplane,
        socket_dir.clone(),
        (limits(&config), reachable(&config, &socket_dir)),
        rebalance_above,
    )?;
    let telemetry = Telemetry::default();
    control.measure(telemetry.clone());
    control.lead_out(way_out::choose(&config), &config.egress_device);
    if let Some(claim) = claim {
        control.take_claim(claim);
    }
    let descriptors = service_managers_store();
    control.keep_in(descriptors.clone());
    control.keep_captures_in(metadata_dir.join("captures"));
    // Before sockets are opened: vNICs that are handed over, or were kept, bring their own.
    match &new_process {
        Some(new_process) => new_process.import(&mut control).await?,
        None => control.take_back(descriptor_store::taken().unwrap_or_else(|error| {
            tracing::warn!(%error, "what the service manager kept is lost");
            Vec::new()
        })),
    }
    control.open_sockets();
    control.begun(new_process.is_some());
    let mut services = services(&mut events, &control, &config);
    let (control, mut thread) = Handle::spawn(control, events)?;
    services.spawn(control.clone().dump_ring_when_told(Arc::clone(&orders)));
    let (stop, stopped) = watch::channel(());
    let addresses: Vec<String> = listeners.iter().map(Listener::shown).collect();
    let metrics = Metrics::new(control.clone(), telemetry.clone(), config.metrics_per_nic);
    let console = Console::new(control.clone(), token);
    let api = Api::new(access, control.clone(), telemetry);
    let pages = (metrics, console);
    let (mut servers, copies) = serve((listeners, api), (web, pages), &stopped)?;
    tracing::info!(addresses = addresses.join(" "), reactors = settings.reactors, "ready");
    match new_process {
        // The old process tells systemd who is the main one now: only that one may
        // (NotifyAccess=main).
        Some(new_process) => {
            new_process.serving().await;
            api::remove(&api::paths(&left));
        }
        None => tell_service_manager(&[NotifyState::Ready]),
    }
    let paths = api::paths(&config.listen);
    remains.are(&socket_dir, paths.clone());
    let is_handing_over = Arc::<AtomicBool>::default();
    heartbeat::start(Parts {
        pulse,
        control: control.clone(),
        store: control.store(),
        is_handing_over: Arc::clone(&is_handing_over),
    })?;
    let is_taken_over = loop {
        tokio::select! {
            () = orders.end.notified() => break false,
            () = thread.ended() => break false,
            Some(ended) = servers.join_next() => {
                tracing::error!(?ended, "a listener of the API ended");
                break false;
            }
            () = orders.hand_over.notified() => {}
        }
        is_handing_over.store(true, Relaxed);
        // An end in this state must not remove what the new process serves.
        remains.are_nothing();
        if hand_over(&program, &control, &locks, &copies).await {
            break true;
        }
        remains.are(&socket_dir, paths.clone());
        is_handing_over.store(false, Relaxed);
    };
    tracing::info!("{}", if is_taken_over { "another process goes on" } else { "shutting down" });
    // The listeners end when `stop` is dropped. A copy would keep their ports taken.
    drop((stop, copies));
    if !is_taken_over {
        control.shut_down().await;
        descriptors.flush();
    }
    drain(servers).await;
    let ended_well = thread.join().await;
    if !is_taken_over {
        api::remove(&paths);
    }
    if ended_well { Ok(()) } else { Err(StartError::Control) }
}

/// What serves, and copies of its listeners for a process that takes over.
type Serving = (JoinSet<Result<(), tonic::transport::Error>>, Vec<(String, OwnedFd)>);

/// Serves the API, and metrics and the console where they are wanted, until `stopped`.
fn serve(
    (listeners, api): (Vec<Listener>, Api),
    (web, pages): (Vec<web::Listener>, (Metrics, Console)),
    stopped: &watch::Receiver<()>,
) -> io::Result<Serving> {
    let copies = listeners.iter().filter_map(Listener::copy);
    let copies = copies.chain(web.iter().filter_map(web::Listener::copy));
    let copies = copies.collect::<io::Result<Vec<_>>>()?;
    let mut servers = JoinSet::new();
    for listener in listeners {
        servers.spawn(api.clone().serve(listener, stopped.clone()));
    }
    for listener in web {
        servers.spawn(listener.serve(pages.clone(), stopped.clone()));
    }
    Ok((servers, copies))
}

/// Has guests served what is served by TCP, for as long as what this returns is there.
fn services(events: &mut Reports, control: &Control, config: &Config) -> JoinSet<()> {
    let mut services = JoinSet::new();
    if let Some(punts) = events.take_punts() {
        let resolv_conf = config.resolv_conf.clone();
        services.spawn(services::serve(punts, control.guests(), resolv_conf));
    }
    services
}

/// Returns where descriptors are kept while no process of the daemon has them.
fn service_managers_store() -> DescriptorStore {
    DescriptorStore::of_service_manager().unwrap_or_else(|error| {
        tracing::warn!(%error, "no service manager to keep descriptors");
        DescriptorStore::default()
    })
}

/// Takes the folders for this process alone; from the old process, where this one takes over.
/// Returns the store, the lock of the sockets, and the claim of the way out and the API's listeners
/// that came with them.
async fn take_folders(
    metadata_dir: &Path,
    socket_dir: &Path,
    new_process: Option<&NewProcess>,
) -> Result<(JsonStore, DirLock, Option<OwnedFd>, HashMap<String, OwnedFd>), StartError> {
    let Some(new_process) = new_process else {
        let sockets = DirLock::take(socket_dir, SOCKET_LOCK)?;
        return Ok((JsonStore::open(metadata_dir)?, sockets, None, HashMap::new()));
    };
    let Inherited { lock, socket_lock, claim, listeners } = new_process.ready().await?;
    let sockets = match socket_lock {
        Some(lock) => DirLock::take_over(socket_dir, SOCKET_LOCK, lock)?,
        // An old process of an older version has none.
        None => DirLock::take(socket_dir, SOCKET_LOCK)?,
    };
    Ok((JsonStore::take_over(metadata_dir, lock)?, sockets, claim, listeners))
}

/// Waits for the API's connections to end, but not for long: watches never do by themselves.
async fn drain<T: 'static>(mut servers: JoinSet<T>) {
    let drained = async { while servers.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, drained).await.is_err() {
        servers.shutdown().await;
    }
}

fn settings(config: &Config) -> Settings {
    Settings {
        reactors: config.reactor_count(),
        cpus: config.cpus.clone().map(|cpus| cpus.0).unwrap_or_default(),
        busy_poll: Duration::from_micros(config.busy_poll),
        hugepages: config.hugepages.into(),
        guest_memory: config.max_guest_memory << 30,
        capture_ring: config.capture_ring.map(|size| size.0),
        socket_access: config.socket_access(),
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        networks: config.max_networks,
        nics: config.max_nics,
        routes: config.max_routes,
        ports: config.max_ports,
    }
}

/// What callers of the API may make ports of.
fn reachable(config: &Config, socket_dir: &Path) -> Reachable {
    let directories = match &config.port_dir[..] {
        // Where sockets for guests are, and where Debian's VDE has its switches.
        [] => vec![socket_dir.into(), "/run/vde".into()],
        given => given.to_vec(),
    };
    Reachable::Flags { directories, listen: config.port_listen.clone(), deny: config.denied() }
}

/// Where a new binary of the daemon will be: as it was called, if that is a path, since symbolic
/// links may change.
fn program() -> io::Result<PathBuf> {
    let called = std::env::args_os().next().map(PathBuf::from);
    called.filter(|path| path.is_absolute()).map_or_else(std::env::current_exe, Ok)
}

/// Hands all that is served over to a new process of `program`. Returns false where everything
/// stays as it is.
async fn hand_over(
    program: &Path,
    control: &Handle,
    locks: &Locks,
    listeners: &[(String, OwnedFd)],
) -> bool {
    tracing::info!(program = %program.display(), "handing over");
    // systemd takes the unit for reloading until READY=1, which is sent either way (sd_notify(3)).
    tell_service_manager(&[NotifyState::Reloading]);
    let copies = || {
        let copy = |(name, fd): &(String, OwnedFd)| Ok((name.clone(), fd.try_clone()?));
        Ok::<_, io::Error>(Shared {
            lock: locks.metadata.try_clone()?,
            socket_lock: locks.sockets.share()?,
            listeners: listeners.iter().map(copy).collect::<io::Result<Vec<_>>>()?,
        })
    };
    let given = match copies() {
        Ok(shared) => handover::hand_over(program, control, shared).await,
        Err(error) => Err(error.into()),
    };
    match given {
        Ok(pid) => {
            tracing::info!(pid, "handed over");
            tell_service_manager(&[NotifyState::MainPid(pid), NotifyState::Ready]);
            true
        }
        Err(error) => {
            tracing::error!(%error, "not handed over: this process goes on");
            tell_service_manager(&[NotifyState::Ready]);
            false
        }
    }
}

/// Raises the limit of open files, and warns where it is low all the same.
fn raise_file_limit() {
    let (files, nics) = (file_limit::raise(), dataplane::room_for_listeners());
    if files < FEW_FILES {
        tracing::warn!(
            files,
            nics,
            "few files may be open: there is room for so many vNICs (LimitNOFILE=, ulimit -n)"
        );
    }
}

/// Checks what can be without touching anything.
pub fn check(config: &Config) -> Result<(), StartError> {
    checked(config).map(|_| ())
}

/// Who is let in, what readers of the console have to know, and where sockets and metadata are to
/// be.
type Checked = (Access, Option<Token>, (PathBuf, PathBuf));

fn checked(config: &Config) -> Result<Checked, StartError> {
    let access = Access::new(config)?;
    let token = web::check(config)?;
    Ok((access, token, places(config)?))
}

/// Where sockets and metadata are to be.
fn places(config: &Config) -> Result<(PathBuf, PathBuf), StartError> {
    // Sockets are named UUID.sock.
    let longest = dataplane::longest_socket_path() - "/.sock".len() - uuid::fmt::Hyphenated::LENGTH;
    let asked = config.socket_dir().map(std::path::absolute).and_then(Result::ok);
    if let Some(path) = asked.filter(|path| path.as_os_str().len() > longest) {
        return Err(StartError::LongDirectory { path, longest });
    }
    let place = |flag: &'static str, variable, path: Option<PathBuf>| {
        let example = || crate::config::example_dir(flag);
        path.ok_or_else(|| StartError::NoDirectory { flag, variable, example: example() })
    };
    let socket_dir = place("socket-dir", "XDG_RUNTIME_DIR", config.socket_dir())?;
    Ok((socket_dir, place("metadata-dir", "HOME", config.metadata_dir())?))
}

/// Where sockets and metadata are, made if need be.
fn directories(
    (socket_dir, metadata_dir): (PathBuf, PathBuf),
) -> Result<(PathBuf, PathBuf), StartError> {
    // VMMs of other users pass through to the socket whose group they are of; nobody else sees
    // names.
    let (socket_dir, written) = directory("socket-dir", socket_dir, 0o751)?;
    written?;
    // A disk that takes no files is no reason to leave guests without network (R67).
    let (metadata_dir, written) = directory("metadata-dir", metadata_dir, 0o750)?;
    if let Err(error) = written {
        tracing::warn!(
            %error,
            "what is stored is served, and changes are refused until this disk takes files"
        );
    }
    Ok((socket_dir, metadata_dir))
}

/// Makes a directory with `mode`, unless it is there. Returns its absolute path, and whether it can
/// be written to: that is reported now rather than at the first change.
fn directory(
    flag: &'static str,
    path: PathBuf,
    mode: u32,
) -> Result<(PathBuf, Result<(), StartError>), StartError> {
    let refused = |source| StartError::Directory { flag, path: path.clone(), source };
    let path = std::path::absolute(&path).map_err(refused)?;
    let refused = |source| StartError::Directory { flag, path: path.clone(), source };
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(mode).create(&path).map_err(refused)?;
    // Tried, not asked: access(2) knows nothing of full disks and quotas.
    let probe = path.join(format!(".probe-{}", std::process::id()));
    let written = std::fs::write(&probe, b"").and_then(|()| std::fs::remove_file(&probe));
    let written = written.map_err(refused);
    Ok((path, written))
}
