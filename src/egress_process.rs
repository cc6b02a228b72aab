//! The process `mvirt-egress`, as the daemon has it: started, told what to carry, heard, and ended.
//!
//! ```text
//! start ─▶ packets (a port of the data plane)
//!       └▶ orders ──▶ Configuration, Order … │ Report … ──▶ events ─▶ Control
//! ```
//! It ends when its orders do, also where the daemon is killed.

use crate::egress::protocol::{Configuration, Limits, MAX_LEN, Order, Report};
use rustix::{
    io::ioctl_fionbio,
    net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair, sockopt},
};
use serde::Serialize;
use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Once},
    time::Duration,
};
use tokio::{net::UnixStream, sync::mpsc, time::timeout};

const PROGRAM: &str = "mvirt-egress";
/// Octets of packets on their way to it: as many as an administrator allows (net.core.wmem_max).
const BUFFER: usize = 4 << 20;
/// How long it may take until it takes an order.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may say nothing until it is asked for something.
const SILENCE: Duration = Duration::from_secs(5);
/// How often that is, and how long it may take to answer each time.
// More than once: after a pause of the whole machine, times are over before it could say a word.
const ASKED: u32 = 2;
const ANSWERED: Duration = Duration::from_secs(3);

/// What it has said, or what has become of it.
#[derive(Debug)]
pub enum Event {
    /// It says this.
    Said(Report),
    /// It has ended, or is of no use any more.
    Ended(io::Error),
}

/// Where what a process says goes.
#[derive(Debug, Clone)]
pub struct Events {
    /// With its number.
    pub to: mpsc::Sender<(u64, Event)>,
    /// Tells it from those before.
    pub generation: u64,
}

/// The running process. Ends when this is dropped.
#[derive(Debug)]
pub struct EgressProcess {
    control: Arc<UnixStream>,
    orders: mpsc::UnboundedSender<Vec<u8>>,
}

/// Finds the program: beside the one that runs, else where the shell would.
pub fn find() -> io::Result<PathBuf> {
    // Once the file is replaced, its name says so, and still is in the same folder.
    let own = std::env::current_exe()?;
    let beside = own.with_file_name(PROGRAM);
    if beside.is_file() {
        return Ok(beside);
    }
    which::which(PROGRAM).map_err(|_| {
        let text = format!("{PROGRAM} is neither beside {} nor in PATH", own.display());
        io::Error::new(io::ErrorKind::NotFound, text)
    })
}

impl EgressProcess {
    /// Starts `program`, within a runtime of tokio. Returns it, and the socket of its packets. What
    /// it says comes to `events`.
    pub fn start(
        program: &Path,
        configuration: &Configuration,
        events: Events,
    ) -> io::Result<(Self, OwnedFd)> {
        let (packets, its_packets) = pair()?;
        let (control, its_control) = pair()?;
        sockopt::set_socket_send_buffer_size(&packets, BUFFER)?;
        let control = Arc::new(UnixStream::from_std(control.into())?);
        // Its standard input and output: these need no fork of a process with the memory of all
        // guests.
        let child = Command::new(program)
            .stdin(Stdio::from(its_packets))
            .stdout(Stdio::from(its_control))
            .spawn()
            .map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", program.display()))
            })?;
        let (orders, waiting) = mpsc::unbounded_channel();
        let tell = (orders.clone(), serde_json::to_vec(&Order::Tell {})?);
        tokio::spawn(listen(Arc::clone(&control), tell, child, events));
        tokio::spawn(speak(Arc::clone(&control), waiting));
        let process = Self { control, orders };
        process.say(configuration)?;
        Ok((process, packets))
    }

    /// Tells it what is to be carried, or is no more: after what it was told before, and soon.
    pub fn order(&self, order: &Order) -> io::Result<()> {
        self.say(order)
    }

    fn say(&self, message: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        if text.len() > MAX_LEN {
            return Err(io::Error::other("an order is too long"));
        }
        // One that has ended says so by itself.
        self.orders.send(text).ok();
        Ok(())
    }
}

impl Drop for EgressProcess {
    fn drop(&mut self) {
        // Both ends see that as the end, and whoever listens sees to the process.
        shutdown(&self.control, Shutdown::Both).ok();
    }
}

/// Returns both ends of a connection that keeps messages apart. Ours does not block.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// Passes orders on, as fast as the process takes them.
async fn speak(control: Arc<UnixStream>, mut orders: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(order) = orders.recv().await {
        let sent = timeout(PATIENCE, async {
            loop {
                control.writable().await?;
                match control.try_write(&order) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    sent => return sent,
                }
            }
        });
        if !matches!(sent.await, Ok(Ok(_))) {
            // It hangs, or has gone: of no use either way.
            shutdown(&control, Shutdown::Both).ok();
            return;
        }
    }
}

/// Passes on what the process says, until it ends. One that says nothing is asked for something.
async fn listen(
    control: Arc<UnixStream>,
    (orders, tell): (mpsc::UnboundedSender<Vec<u8>>, Vec<u8>),
    mut child: Child,
    Events { to, generation }: Events,
) {
    let mut buffer = vec![0; MAX_LEN + 1];
    let mut asked = 0;
    let end = loop {
        let patience = if asked == 0 { SILENCE } else { ANSWERED };
        let Ok(heard) = timeout(patience, hear(&control, &mut buffer)).await else {
            if asked == ASKED {
                let text = format!("{PROGRAM} does not answer");
                break Some(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            asked += 1;
            // One that takes no orders any more has ended, and says so.
            orders.send(tell.clone()).ok();
            continue;
        };
        asked = 0;
        match heard {
            Ok(Some(report)) => {
                warn_of_few(&report);
                // Nobody listens: the daemon ends.
                if to.send((generation, Event::Said(report))).await.is_err() {
                    break None;
                }
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    // One that has closed its orders ends by itself; one that says what nobody understands does
    // not.
    let reaped = tokio::task::spawn_blocking(move || {
        child.kill()?;
        child.wait()
    });
    let status = match reaped.await {
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    let error = end.unwrap_or_else(|| io::Error::other(format!("{PROGRAM} has ended: {status}")));
    to.send((generation, Event::Ended(error))).await.ok();
}

/// Warns, once, of a limit of open files that leaves less than one vNIC may have.
fn warn_of_few(report: &Report) {
    static WARNED: Once = Once::new();
    let Report::Ready { flows, .. } = report else { return };
    let Limits { connections, udp, echo, .. } = Limits::default();
    if *flows < u64::from(connections + udp + echo) {
        WARNED.call_once(|| {
            tracing::warn!(
                flows,
                "the limit of open files leaves few to mvirt-egress: guests have no more \
                 connections, UDP ports and pings at once, all together; raise the hard limit \
                 (LimitNOFILE=, ulimit -Hn)"
            );
        });
    }
}

/// Returns what the process says next; none at its end.
async fn hear(control: &UnixStream, buffer: &mut [u8]) -> io::Result<Option<Report>> {
    loop {
        control.readable().await?;
        match control.try_read(buffer) {
            Ok(0) => return Ok(None),
            // A read is a message, as the socket keeps them apart.
            Ok(len) => {
                let octets = buffer.get(..len).unwrap_or_default();
                return Ok(Some(serde_json::from_slice(octets)?));
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => {}
                io::ErrorKind::ConnectionReset => return Ok(None),
                _ => return Err(error),
            },
        }
    }
}
