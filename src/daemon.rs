//! Wires the daemon together, top to bottom, and takes it apart in reverse.

use crate::{
    access::{Access, AccessError},
    config::{Config, Listen},
    control::{Control, Handle, Limits, RestoreError, service},
    dataplane::{self, Dataplane, Pulse, Settings},
    handover::{self, HandOverError, Service, Shared, Taker},
    lock::{self, DirLock, LockError},
    proto::{DESCRIPTORS, net_service_server::NetServiceServer},
    store::{StoreError, json::JsonStore},
};
use rustix::process::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::MissedTickBehavior,
};
use tokio_stream::{
    StreamExt as _,
    wrappers::{TcpListenerStream, UnixListenerStream},
};
use tonic::transport::{Server, ServerTlsConfig};

/// Octets of the longest request.
const MAX_REQUEST: usize = 1 << 20;
/// How long a request may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long requests in progress may take once the daemon is told to end.
const GRACE: Duration = Duration::from_millis(500);
/// In the sockets' folder. Those who may open sockets there cannot open it.
const SOCKET_LOCK: &str = ".lock";

/// Why the daemon could not start, or go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory is not given and cannot be guessed.
    #[error("--{0} is needed: neither root nor $XDG_RUNTIME_DIR or $HOME tell where it would be")]
    NoDirectory(&'static str),
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
    #[error("--listen {address}: {source}")]
    Listen {
        /// Which.
        address: Listen,
        /// Why.
        source: io::Error,
    },
    /// The daemon from which this one was to take over did not give what it serves.
    #[error("cannot take over: {0}")]
    HandOver(#[from] HandOverError),
    /// Nobody could be let in as the flags say.
    #[error("{0}")]
    Access(#[from] AccessError),
    /// Control panicked: a defect. What is stored is sound; the service manager starts the daemon again.
    #[error("internal error: control ended by a panic (see the log)")]
    Control,
    /// Something else of the system failed.
    #[error("{0}")]
    System(#[from] io::Error),
}

impl StartError {
    /// Whether the command line is to blame, rather than the machine's state.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Flag(..) | Self::NoDirectory(_) | Self::Access(_))
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

/// Runs until SIGTERM or SIGINT, or until SIGUSR2 and another process has taken over.
pub async fn run(config: Config) -> Result<(), StartError> {
    raise_file_limit();
    // From now on neither ends the process: it may be told to hand over before it is ready to, and a terminal may close.
    let mut upgrade = signal(SignalKind::user_defined2())?;
    let _hangup = signal(SignalKind::hangup())?;
    let program = program()?;
    let access = Access::new(&config)?;
    let (socket_dir, written) = directory("socket-dir", config.socket_dir())?;
    written?;
    let (metadata_dir, written) = directory("metadata-dir", config.metadata_dir())?;
    if let Err(error) = written {
        tracing::warn!(%error, "what is stored is served, and every change refused until this disk takes files");
    }
    let settings = Settings {
        reactors: config.reactor_count(),
        cpus: config.cpus.clone().map(|cpus| cpus.0).unwrap_or_default(),
        busy_poll: Duration::from_micros(config.busy_poll),
        hugepages: config.hugepages.into(),
        guest_memory: config.max_guest_memory << 30,
    };
    let limits =
        Limits { networks: config.max_networks, nics: config.max_nics, routes: config.max_routes };
    let (dataplane, events) = Dataplane::start(&settings)?;
    let pulse = dataplane.pulse();
    let taker = if config.take_over { Some(Taker::new()?) } else { None };
    let (store, socket_lock, mut inherited) = match &taker {
        None => {
            let socket_lock = DirLock::take(&socket_dir, SOCKET_LOCK)?;
            (JsonStore::open(&metadata_dir)?, socket_lock, HashMap::new())
        }
        Some(taker) => {
            let Service { lock, socket_lock, listeners } = taker.ready().await?;
            let socket_lock = match socket_lock {
                Some(lock) => DirLock::take_over(&socket_dir, SOCKET_LOCK, lock)?,
                None => DirLock::take(&socket_dir, SOCKET_LOCK)?,
            };
            (JsonStore::take_over(&metadata_dir, lock)?, socket_lock, listeners)
        }
    };
    let locks = Locks { metadata: store.lock()?, sockets: socket_lock.share()? };
    let listeners = listen_all(&config.listen, &access, &mut inherited).await?;
    let rebalance_above = f64::from(config.rebalance) / 100.0;
    let mut control =
        Control::restore(Box::new(store), dataplane, socket_dir, limits, rebalance_above)?;
    if let Some(taker) = &taker {
        taker.take(&mut control).await?;
    }
    control.open_sockets()?;
    let (control, mut thread) = Handle::spawn(control, events)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopped) = watch::channel(());
    let mut servers = JoinSet::new();
    let addresses: Vec<String> = listeners.iter().map(Listener::address).collect();
    let copies = listeners.iter().map(Listener::copy).collect::<io::Result<Vec<_>>>()?;
    for listener in listeners {
        servers.spawn(serve(listener, access.clone(), control.clone(), stopped.clone()));
    }
    tracing::info!(addresses = addresses.join(" "), reactors = settings.reactors, "ready");
    match taker {
        Some(taker) => taker.serving().await,
        None => tell_service_manager(&[NotifyState::Ready]),
    }
    let feeding = tokio::spawn(feed_watchdog(pulse));
    let taken_over = loop {
        tokio::select! {
            _ = terminate.recv() => break false,
            _ = interrupt.recv() => break false,
            () = thread.ended() => break false,
            Some(ended) = servers.join_next() => {
                tracing::error!(?ended, "a listener of the API ended");
                break false;
            }
            _ = upgrade.recv() => {}
        }
        if hand_over(&program, &control, &locks, &config.listen, &copies).await {
            break true;
        }
    };
    tracing::info!(taken_over, "shutting down");
    feeding.abort();
    drop((stop, copies));
    if !taken_over {
        let sockets = control.call(Control::shut_down).await.unwrap_or_default();
        for socket in sockets {
            socket.close().await;
        }
    }
    let drained = async { while servers.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, drained).await.is_err() {
        servers.shutdown().await;
    }
    let ended_well = thread.join().await;
    if !taken_over {
        remove_unix(&config.listen);
    }
    if ended_well { Ok(()) } else { Err(StartError::Control) }
}

/// What keeps other daemons out of the folders, until all copies are closed.
struct Locks {
    metadata: OwnedFd,
    sockets: OwnedFd,
}

/// Where a new binary of the daemon will be: as it was called, if that is a path, since symbolic links may change.
fn program() -> io::Result<PathBuf> {
    let called = std::env::args_os().next().map(PathBuf::from);
    called.filter(|path| path.is_absolute()).map_or_else(std::env::current_exe, Ok)
}

/// Gives all that is served to a new process of `program`; false where everything stays as it is.
async fn hand_over(
    program: &Path,
    control: &Handle,
    locks: &Locks,
    addresses: &[Listen],
    listeners: &[OwnedFd],
) -> bool {
    tracing::info!(program = %program.display(), "handing over");
    tell_service_manager(&[NotifyState::Reloading]);
    let copies = || {
        let named = addresses.iter().zip(listeners);
        let copy = |(address, fd): (&Listen, &OwnedFd)| Ok((address.to_string(), fd.try_clone()?));
        let listeners = named.map(copy).collect::<io::Result<Vec<_>>>()?;
        let (lock, socket_lock) = (locks.metadata.try_clone()?, locks.sockets.try_clone()?);
        Ok::<_, io::Error>(Shared { lock, socket_lock, listeners })
    };
    let given = match copies() {
        Ok(shared) => handover::give(program, control, shared).await,
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

fn tell_service_manager(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "no service manager to tell");
    }
}

/// Tells systemd that all reactors turn, for as long as they do and if its unit wants that (`WatchdogSec=`): a daemon that
/// stands still is started again.
async fn feed_watchdog(pulse: Pulse) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut looks = tokio::time::interval(limit / 4);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        match tokio::time::timeout(limit / 4, pulse.turn().over()).await {
            Ok(true) => tell_service_manager(&[NotifyState::Watchdog]),
            Ok(false) => return tracing::error!("a reactor has ended"),
            Err(_) => tracing::error!("a turn of a reactor takes longer than {:?}", limit / 4),
        }
    }
}

/// Thousands of vNICs need a few descriptors each; the soft limit is for programs that use select(2).
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// A directory that is there, and whether it can be written to.
fn directory(
    flag: &'static str,
    path: Option<PathBuf>,
) -> Result<(PathBuf, Result<(), StartError>), StartError> {
    let path = path.ok_or(StartError::NoDirectory(flag))?;
    let refused = |source| StartError::Directory { flag, path: path.clone(), source };
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o750).create(&path).map_err(refused)?;
    // Told now, not at the first change.
    let probe = path.join(format!(".probe-{}", std::process::id()));
    let written = std::fs::write(&probe, b"").and_then(|()| std::fs::remove_file(&probe));
    Ok((std::path::absolute(&path).map_err(refused)?, written.map_err(refused)))
}

enum Listener {
    Tcp(TcpListener, Option<ServerTlsConfig>),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    fn copy(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(listener, _) => listener.as_fd().try_clone_to_owned(),
            Self::Unix(listener, _) => listener.as_fd().try_clone_to_owned(),
        }
    }

    fn address(&self) -> String {
        match self {
            Self::Tcp(listener, _) => match listener.local_addr() {
                Ok(address) => address.to_string(),
                Err(error) => error.to_string(),
            },
            Self::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }
}

/// Listens on all addresses, by descriptors of another process where it gave one for an address.
async fn listen_all(
    addresses: &[Listen],
    access: &Access,
    inherited: &mut HashMap<String, OwnedFd>,
) -> Result<Vec<Listener>, StartError> {
    let mut listeners = Vec::new();
    for address in addresses {
        let inherited = inherited.remove(&address.to_string());
        let listener = match address {
            Listen::Tcp(to) => {
                let listener = match inherited {
                    Some(fd) => TcpListener::from_std(fd.into()),
                    None => TcpListener::bind(to).await,
                };
                listener.map(|listener| Listener::Tcp(listener, access.tls(address).cloned()))
            }
            Listen::Unix(path) => {
                let listener = match inherited {
                    Some(fd) => UnixListener::from_std(fd.into()),
                    None => listen_unix(path, access),
                };
                listener.map(|listener| Listener::Unix(listener, path.clone()))
            }
        };
        let address = address.clone();
        listeners.push(listener.map_err(|source| StartError::Listen { address, source })?);
    }
    Ok(listeners)
}

/// Replaces a socket that a daemon left behind, but not one that somebody listens on.
fn listen_unix(path: &Path, access: &Access) -> io::Result<UnixListener> {
    if let Ok(listening) = std::os::unix::net::UnixStream::connect(path) {
        // Who called listen(2). One that was killed may be kept from closing what it listens on.
        let listener = rustix::net::sockopt::socket_peercred(&listening)?;
        if !lock::is_dying(listener.pid) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
            std::fs::remove_file(path)?;
        }
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(access.socket_mode()))?;
    Ok(listener)
}

fn remove_unix(addresses: &[Listen]) {
    for address in addresses {
        if let Listen::Unix(path) = address
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove the API's socket");
        }
    }
}

fn is_admitted(access: &Access, peer: &UnixStream) -> bool {
    match peer.peer_cred() {
        Ok(peer) if access.admits(&peer) => true,
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), gid = peer.gid(), "turned away from the API");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "cannot tell who connects to the API");
            false
        }
    }
}

async fn serve(
    listener: Listener,
    access: Access,
    control: Handle,
    mut stopped: watch::Receiver<()>,
) -> Result<(), tonic::transport::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<NetServiceServer<service::Service>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let service = NetServiceServer::new(service::Service::new(control))
        .max_decoding_message_size(MAX_REQUEST);
    let mut server = Server::builder();
    if let Listener::Tcp(_, Some(tls)) = &listener {
        server = server.tls_config(tls.clone())?;
    }
    let router = server
        .timeout(DEADLINE)
        .max_concurrent_streams(64)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .add_service(service)
        .add_service(health_service)
        .add_service(reflection().build_v1().expect("our own descriptors are sound"))
        .add_service(reflection().build_v1alpha().expect("our own descriptors are sound"));
    // The sender is dropped, nothing is ever sent.
    let stopped = async move { drop(stopped.changed().await) };
    match listener {
        Listener::Tcp(listener, _) => {
            router.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopped).await
        }
        Listener::Unix(listener, _) => {
            let peers = UnixListenerStream::new(listener).filter(move |peer| match peer {
                Ok(peer) => is_admitted(&access, peer),
                Err(_) => true,
            });
            router.serve_with_incoming_shutdown(peers, stopped).await
        }
    }
}
