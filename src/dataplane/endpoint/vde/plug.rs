//! A client of somebody's VDE switch, as libvdeplug is one: connected again whenever the switch is
//! there.

use super::{SocketFile, TIMEOUT, connect_named, datagram_socket, unplugged};
use crate::{
    dataplane::{
        PortState,
        endpoint::{
            connection::{self, Own},
            export::Exported,
            folder::{Roots, opened},
            listener::Access,
            port_handle::PortHandle,
        },
        port::{
            Port,
            datagram::{Datagrams, Peer},
            descriptor::DescriptorPort,
        },
    },
    wire::{
        Writer,
        vde::{self, Request, SocketName, WantedPort},
    },
};
use rustix::{
    fs::{OFlags, stat},
    io::Errno,
    net::sockopt::socket_peercred,
    process::{geteuid, getpid},
};
use std::{
    convert::Infallible,
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::oneshot,
    time::timeout,
};

/// How long until a switch that is not there is looked for again: longer each time.
const RETRY: Duration = Duration::from_millis(100);
/// The longest of those.
const MAX_RETRY: Duration = Duration::from_secs(5);
/// A connection that lasted as long was one: the next try is as after the first.
const LASTING: Duration = Duration::from_secs(1);
/// Who may use the client's socket, where nobody has said.
const MODE: u16 = 0o700;
/// Where it is, when it may not be in the switch's directory, as libvdeplug has it.
const FALLBACKS: [&str; 3] = ["/var/run", "/var/tmp", "/tmp"];

/// Which port of a switch is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwitchPort {
    /// Any.
    Any,
    /// By its number; 0 is the management's.
    Number(u32),
    /// Any of a group, which has a control socket of its name.
    Group(String),
}

/// A switch that is to be connected to.
#[derive(Debug)]
pub struct Spec {
    /// Its directory.
    pub directory: PathBuf,
    /// Which of its ports.
    pub port: SwitchPort,
    /// Who may use the client's own socket.
    pub access: Access,
    /// How the client describes itself.
    pub description: String,
}

/// A connection to a switch.
pub(in crate::dataplane::endpoint) struct Plugged {
    control: UnixStream,
    port: Box<dyn Port>,
}

impl Plugged {
    fn new(control: UnixStream, data: OwnedFd, frames: &[Vec<u8>]) -> io::Result<Self> {
        let data = Datagrams::new(data, Peer::Unix);
        Ok(Self { control, port: Box::new(DescriptorPort::with_frames(data, frames)?) })
    }

    /// Goes on with what another process of the daemon `exported`, if that was a connection.
    pub(in crate::dataplane::endpoint) fn import(exported: Exported) -> io::Result<Option<Self>> {
        let Some((fds, rest)) = connection::saved(exported.fds, 2)? else { return Ok(None) };
        let mut fds = fds.into_iter();
        let (Some(control), Some(data)) = (fds.next(), fds.next()) else { return Ok(None) };
        Self::new(UnixStream::from_std(control.into())?, data, &rest.frames).map(Some)
    }
}

/// Keeps a port of the switch attached until `stop`, whenever the switch is there.
pub(in crate::dataplane::endpoint) async fn serve(
    spec: Spec,
    mut plugged: Option<Plugged>,
    roots: Roots,
    mut port: PortHandle,
    mut stop: oneshot::Receiver<()>,
) {
    let mut retry = RETRY;
    if plugged.is_some() {
        port.goes_on();
    }
    loop {
        let begun = tokio::time::Instant::now();
        let ended = tokio::select! {
            ended = keep(&spec, plugged.take(), &roots, &mut port) => ended,
            _ = &mut stop => return port.end().await,
        };
        port.end().await;
        let Err(error) = ended;
        port.tell_why(PortState::Idle, &error.to_string());
        retry = if begun.elapsed() > LASTING { RETRY } else { (retry * 2).min(MAX_RETRY) };
        tokio::select! {
            () = port.pause(retry) => {}
            _ = &mut stop => return,
        }
    }
}

/// Connects, and keeps the port attached until the connection ends.
async fn keep(
    spec: &Spec,
    plugged: Option<Plugged>,
    roots: &Roots,
    port: &mut PortHandle,
) -> io::Result<Infallible> {
    let Plugged { control, port: made } = match plugged {
        Some(plugged) => plugged,
        None => plug(spec, roots).await?,
    };
    port.begin();
    port.connected();
    let own = Own { fds: &[control.as_fd()], ..Own::default() };
    tokio::select! {
        () = unplugged(&control) => {
            Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the switch is gone"))
        }
        failure = connection::keep(made, port, own) => Err(io::Error::other(failure)),
    }
}

/// Returns a connection to the switch.
async fn plug(spec: &Spec, roots: &Roots) -> io::Result<Plugged> {
    // The switch has another working directory.
    let directory = fs::read_link(opened(&roots.open(&spec.directory, OFlags::DIRECTORY)?))?;
    let (mut control, control_path, wanted) = dial(&spec.directory, &spec.port, roots).await?;
    let data = datagram_socket()?;
    let file = bind_near(&data, &directory)?;
    share(&file.0, &control_path, &control, spec.access)?;
    let socket = SocketName::at_path(file.0.as_os_str().as_bytes());
    let socket = socket.ok_or(io::ErrorKind::InvalidFilename)?;
    let description = spec.description.as_bytes();
    let mut octets = [0; vde::MAX_REQUEST];
    let mut writer = Writer::new(&mut octets);
    let written = Request { port: wanted, socket, description }.write(&mut writer);
    written.map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut reply = [0; vde::REPLY_LEN];
    timeout(TIMEOUT, async {
        // In one piece: switches read once.
        control.write_all(writer.since(0)).await?;
        control.read_exact(&mut reply).await
    })
    .await?
    .map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            io::Error::new(io::ErrorKind::ConnectionRefused, "the switch has refused the request")
        }
        _ => error,
    })?;
    let name = vde::parse_reply(&reply).ok_or(io::ErrorKind::InvalidData)?;
    connect_named(&data, &name, &control)?;
    // The file goes: who is connected needs no name.
    drop(file);
    Plugged::new(control, data, &[])
}

/// Returns a control connection, its socket, and what is to be asked for by it.
async fn dial(
    directory: &Path,
    port: &SwitchPort,
    roots: &Roots,
) -> io::Result<(UnixStream, PathBuf, WantedPort)> {
    let wanted = match port {
        SwitchPort::Number(0) => WantedPort::Management,
        SwitchPort::Number(number) => WantedPort::Number(*number),
        SwitchPort::Any | SwitchPort::Group(_) => WantedPort::Any,
    };
    let connect = async |path: &Path| {
        let file = roots.open(path, OFlags::empty())?;
        timeout(TIMEOUT, UnixStream::connect(opened(&file))).await?
    };
    if let SwitchPort::Group(group) = port {
        let path = directory.join(group);
        if let Ok(control) = connect(&path).await {
            return Ok((control, path, wanted));
        }
    }
    let path = directory.join("ctl");
    Ok((connect(&path).await?, path, wanted))
}

/// Binds `socket` in the switch's directory, or where everybody may.
fn bind_near(socket: &OwnedFd, directory: &Path) -> io::Result<SocketFile> {
    // Several plugs of this process are told apart.
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let (process, number) = (getpid().as_raw_nonzero(), NUMBER.fetch_add(1, Relaxed));
    let within = directory.join(format!(".{process:05}-{number:05}"));
    let others = FALLBACKS.map(|place| format!("{place}/vde.{process:05}-{number:05}").into());
    let mut outcome = Err(io::ErrorKind::NotFound.into());
    for path in [within].into_iter().chain(others) {
        outcome = SocketFile::bind(socket, path);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Lets the switch send to the socket at `path`.
fn share(path: &Path, control_path: &Path, control: &UnixStream, access: Access) -> io::Result<()> {
    let switch = socket_peercred(control)?.uid;
    let is_known = switch.is_root() || switch == geteuid();
    let asked = Access { mode: Some(access.mode.unwrap_or(MODE)), ..access };
    if is_known || access.group.is_some() || asked.mode.is_some_and(|mode| mode & 0o077 != 0) {
        return asked.apply(path);
    }
    if geteuid().is_root() {
        return Access { owner: Some(switch.as_raw()), ..asked }.apply(path);
    }
    // By the group of the switch, if we are in it; else by all: only the switch can send to it once
    // it is connected.
    let group = stat(control_path).map_or(None, |found| Some(found.st_gid));
    let by_group = Access { group, mode: Some(MODE | 0o070), ..asked };
    match by_group.apply(path) {
        Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
            Access { mode: Some(MODE | 0o077), ..asked }.apply(path)
        }
        outcome => outcome,
    }
}
