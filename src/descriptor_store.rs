//! Descriptors that outlive the process: systemd keeps copies of them, and passes them to the next
//! process of the service (sd_notify(3), `FDSTORE=1`; sd_listen_fds(3)).
//!
//! ```text
//! endpoint ── Slot::keep, forget ──▶ a thread ── FDSTORE=1, FDSTOREREMOVE=1 ──▶ systemd
//! start:   systemd ── descriptors 3 … ──▶ gather ── exec(2) ──▶ taken ──▶ control
//! ```
//! What is kept of one port is as in a hand-over: its descriptors in order, called `NAME.1`,
//! `NAME.2` and so on, and before them `NAME.0`, a file that says whose they are.

use crate::descriptors;
use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::IoSlice,
    net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
        SocketFlags, SocketType, connect, sendmsg, socket_with, socketpair,
    },
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};
use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt as _, process::CommandExt as _},
    },
    process::Command,
    sync::mpsc,
    time::Duration,
};

/// Says that the standard input has what the service manager had kept: the process's own number,
/// so that those which it starts are not meant.
pub const GATHERED: &str = "MVIRT_NET_KEPT_FOR";
/// Descriptors of one message (SCM_MAX_FD).
const TOGETHER: usize = 253;
/// How long the last orders may take when the process ends.
// They are a system call each, and a service manager that is busy must not hold up an end.
const FLUSH: Duration = Duration::from_millis(300);
/// Octets of a file that says whose descriptors are: a line of JSON.
const MAX_WHOSE: u64 = 1 << 16;

/// What was kept of one port.
#[derive(Debug)]
pub struct Kept {
    /// What it is called.
    pub name: String,
    /// Whose it is, as it was said when it was kept.
    pub whose: Vec<u8>,
    /// Its descriptors.
    pub fds: Vec<OwnedFd>,
}

/// Starts this program anew, in this process, where the service manager has passed descriptors,
/// which then come by the standard input. Returns where it has passed none, or why that failed.
// A number proves nothing, and whoever makes a descriptor of it needs unsafe code. The kernel makes
// a copy of a descriptor by its number, and closes those with the numbers at exec(2).
pub fn gather() -> io::Result<()> {
    let numbers = sd_notify::listen_fds()?;
    if numbers.len() == 0 {
        return Ok(());
    }
    let process = pidfd_open(getpid(), PidfdFlags::empty())?;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let copy = |number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty());
    let copies = numbers.map(copy).collect::<Result<Vec<OwnedFd>, _>>()?;
    for some in copies.chunks(TOGETHER) {
        send(&ours, b"fds", some.iter().map(AsFd::as_fd))?;
    }
    drop((ours, copies));
    let mut own = env::args_os();
    let mut command = Command::new("/proc/self/exe");
    own.next().map(|name| command.arg0(name));
    command.args(own).stdin(theirs).env(GATHERED, std::process::id().to_string());
    Err(command.env_remove("LISTEN_PID").env_remove("LISTEN_FDS").exec())
}

/// Returns what the service manager had kept, as [`gather`] has passed it.
pub fn taken() -> io::Result<Vec<Kept>> {
    if env::var(GATHERED).is_ok_and(|process| process == std::process::id().to_string()) {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        return Ok(sorted(names.split(':').zip(received(io::stdin().as_fd())?)));
    }
    Ok(Vec::new())
}

fn received(from: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut fds = Vec::new();
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TOGETHER))];
        match descriptors::receive(from, &mut [0; 8], &mut space, &mut fds)? {
            (0, _) => return Ok(fds),
            (_, flags) if flags.contains(rustix::net::ReturnFlags::CTRUNC) => {
                return Err(io::Error::other("out of descriptors"));
            }
            _ => {}
        }
    }
}

/// Returns what belongs together. Of what has no file that says whose it is, nothing.
fn sorted<'a>(named: impl Iterator<Item = (&'a str, OwnedFd)>) -> Vec<Kept> {
    let mut ports = BTreeMap::<&str, BTreeMap<u32, OwnedFd>>::new();
    for (name, fd) in named {
        let numbered = name.rsplit_once('.').and_then(|(n, at)| Some((n, at.parse().ok()?)));
        if let Some((name, at)) = numbered {
            ports.entry(name).or_default().insert(at, fd);
        }
    }
    let kept = ports.into_iter().filter_map(|(name, mut fds)| {
        let mut file = File::from(fds.remove(&0)?);
        let mut whose = Vec::new();
        let read = file.rewind().and_then(|()| file.take(MAX_WHOSE).read_to_end(&mut whose));
        // One that cannot be read says nothing: its port is as any that was not kept.
        read.ok()?;
        Some(Kept { name: name.into(), whose, fds: fds.into_values().collect() })
    });
    kept.collect()
}

/// What the service manager is to do.
enum Order {
    Keep(String, OwnedFd),
    Forget(String),
    /// Say when all before is done.
    Flush(mpsc::Sender<()>),
}

/// The way to the service manager's store. By default, to none: nothing is kept.
#[derive(Debug, Clone, Default)]
pub struct DescriptorStore(Option<mpsc::Sender<Order>>);

impl DescriptorStore {
    /// Returns the way to the store of the service manager that has started this process.
    pub fn of_service_manager() -> io::Result<Self> {
        let Some(path) = env::var_os("NOTIFY_SOCKET") else { return Ok(Self::default()) };
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            path => SocketAddrUnix::new(path)?,
        };
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &address)?;
        let (orders, receiver) = mpsc::channel();
        // A thread of its own: a service manager that is busy makes who tells it wait.
        let work = move || receiver.into_iter().for_each(|order| carry_out(&socket, order));
        std::thread::Builder::new().name("descriptors".into()).spawn(work)?;
        Ok(Self(Some(orders)))
    }

    /// Returns the place of a port that is called `name`, of which `whose` says whose it is.
    pub fn slot(&self, name: String, whose: Vec<u8>) -> Slot {
        Slot { store: self.clone(), name, whose, count: 0 }
    }

    /// Returns when everything that was ordered is done, or a while has passed.
    pub fn flush(&self) {
        let (done, flushed) = mpsc::channel();
        self.order(Order::Flush(done));
        flushed.recv_timeout(FLUSH).ok();
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.0 {
            // The thread ends with the process.
            orders.send(order).ok();
        }
    }
}

fn carry_out(socket: &OwnedFd, order: Order) {
    let told = match order {
        Order::Keep(name, fd) => {
            send(socket, format!("FDSTORE=1\nFDNAME={name}").as_bytes(), [fd.as_fd()])
        }
        Order::Forget(name) => {
            send(socket, format!("FDSTOREREMOVE=1\nFDNAME={name}").as_bytes(), [])
        }
        Order::Flush(done) => {
            // Who asked may wait no more.
            done.send(()).ok();
            Ok(())
        }
    };
    if let Err(error) = told {
        tracing::debug!(%error, "no service manager to keep descriptors");
    }
}

fn send<'a>(
    socket: impl AsFd,
    text: &[u8],
    fds: impl IntoIterator<Item = BorrowedFd<'a>>,
) -> io::Result<()> {
    let fds = Vec::from_iter(fds);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TOGETHER))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    sendmsg(socket, &[IoSlice::new(text)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A port's place in the store. By default, of none.
#[derive(Debug, Default)]
pub struct Slot {
    store: DescriptorStore,
    name: String,
    whose: Vec<u8>,
    /// How many descriptors of it are kept.
    count: usize,
}

impl Slot {
    /// Keeps what `fds` returns, unless something of the port is kept already.
    pub fn keep(&mut self, fds: impl FnOnce() -> io::Result<Vec<OwnedFd>>) {
        if self.store.0.is_none() || self.count > 0 {
            return;
        }
        let all = self.file().and_then(|file| Ok((file, fds()?)));
        let (file, fds) = match all {
            Ok(all) => all,
            Err(error) => {
                return tracing::warn!(name = self.name, %error, "cannot keep a port's descriptors");
            }
        };
        for fd in [file].into_iter().chain(fds) {
            self.store.order(Order::Keep(format!("{}.{}", self.name, self.count), fd));
            self.count += 1;
        }
    }

    fn file(&self) -> io::Result<OwnedFd> {
        let mut file = File::from(memfd_create("whose", MemfdFlags::CLOEXEC)?);
        file.write_all(&self.whose)?;
        Ok(file.into())
    }

    /// Says that `count` descriptors of the port are kept since before.
    pub fn has(&mut self, count: usize) {
        // And the file before them.
        self.count = if count == 0 { 0 } else { count + 1 };
    }

    /// Keeps nothing of it any more.
    pub fn forget(&mut self) {
        for at in 0..std::mem::take(&mut self.count) {
            self.store.order(Order::Forget(format!("{}.{at}", self.name)));
        }
    }
}
