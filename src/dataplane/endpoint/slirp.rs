//! The world as a port of a segment: a process `mvirt-egress` of its own, started again when it has
//! ended. Frames go to it and come from it over a packet socket.
//!
//! ```text
//! port ⇄ packet socket ⇄ mvirt-egress ⇄ sockets of this host
//! this task ── orders ──▶      │ reports
//! ```
//! In a hand-over the other process of the daemon starts its own: connections end with that.

use super::port_handle::{PortHandle, Signal};
use crate::{
    backoff::Backoff,
    dataplane::{
        PortState,
        port::{
            Port,
            datagram::{Datagrams, Peer},
            descriptor::DescriptorPort,
        },
    },
    egress::protocol::{Addition, Configuration, Denied, Failure, Order, Removal, Report},
    egress_process::{EgressProcess, Event, Events, find},
    log_limit::{LogLimit, Said},
    printable::printable,
    resolv_conf,
};
use ipnet::IpNet;
use rustix::io::ioctl_fionbio;
use std::{
    collections::BTreeSet,
    fs, io,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval, timeout},
};

/// How long a process may take to start, or to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked which DNS server the host has now.
// A laptop changes it with each network that it is in.
const LOOKED: Duration = Duration::from_secs(5);
const READ: Duration = Duration::from_secs(1);
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Prefixes that are told at once.
// Each takes 50 octets of a message at most.
const TOGETHER: usize = 512;

/// What the process is told.
#[derive(Debug)]
pub struct Spec {
    /// But for the DNS server, which is the host's.
    pub configuration: Configuration,
    /// What guests of public networks have: a segment is as another network to them.
    pub guests: watch::Receiver<BTreeSet<IpNet>>,
}

/// Where the process is started from.
#[derive(Debug)]
pub(super) struct Start {
    configuration: Configuration,
    guests: watch::Receiver<BTreeSet<IpNet>>,
    program: PathBuf,
    /// Where processes say something, and where that is heard.
    said: mpsc::Sender<(u64, Event)>,
    heard: mpsc::Receiver<(u64, Event)>,
    /// Which process speaks.
    generation: u64,
    /// It has not ended yet.
    is_there: bool,
}

/// A process that carries frames.
struct Running {
    process: EgressProcess,
    packets: OwnedFd,
    resolver: SocketAddr,
    guests: watch::Receiver<BTreeSet<IpNet>>,
    /// What it does not let hosts reach, since guests have it.
    denied: BTreeSet<IpNet>,
}

impl Running {
    /// Tells the process what guests have now. What is `always` denied stays so.
    fn deny(&mut self, always: &[Denied]) -> io::Result<()> {
        let mut wanted = self.guests.borrow_and_update().clone();
        wanted.retain(|network| !always.contains(&Denied::Network(*network)));
        let new: Vec<_> = wanted.difference(&self.denied).copied().collect();
        for deny in new.chunks(TOGETHER) {
            let deny = deny.into();
            self.process.order(&Order::Add(Addition { deny, ..Addition::default() }))?;
        }
        let gone: Vec<_> = self.denied.difference(&wanted).copied().collect();
        for deny in gone.chunks(TOGETHER) {
            let deny = deny.into();
            self.process.order(&Order::Remove(Removal { deny, ..Removal::default() }))?;
        }
        self.denied = wanted;
        Ok(())
    }
}

impl Start {
    /// Looks for the program, so that who asks for the port is told where it is not there.
    pub(super) fn new(spec: Spec) -> io::Result<Self> {
        let (program, (said, heard)) = (find()?, mpsc::channel(16));
        let Spec { configuration, guests } = spec;
        let (generation, is_there) = (0, false);
        Ok(Self { configuration, guests, program, said, heard, generation, is_there })
    }

    /// Starts the process, and returns once it carries frames.
    async fn start(&mut self) -> io::Result<Running> {
        let resolver = resolver().await.unwrap_or_else(|| first_server(""));
        if let Some(segment) = &mut self.configuration.segment {
            segment.resolver = Some(resolver);
        }
        self.generation += 1;
        let events = Events { to: self.said.clone(), generation: self.generation };
        let started = EgressProcess::start(&self.program, &self.configuration, events);
        let (process, packets) = started?;
        self.is_there = true;
        let (guests, denied) = (self.guests.clone(), BTreeSet::new());
        let mut running = Running { process, packets, resolver, guests, denied };
        // Before anything is carried.
        running.deny(&self.configuration.deny)?;
        let ready = async {
            loop {
                match self.next().await {
                    Event::Said(Report::Ready { .. }) => return Ok(()),
                    Event::Said(Report::Failed(failure)) => return Err(said(&failure)),
                    Event::Said(Report::Stats { .. }) => {}
                    Event::Ended(error) => return Err(error),
                }
            }
        };
        let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "mvirt-egress does not start"));
        match timeout(PATIENCE, ready).await.unwrap_or_else(late) {
            Ok(()) => Ok(running),
            Err(error) => {
                self.end(running).await;
                Err(error)
            }
        }
    }

    /// Returns what the process says next.
    async fn next(&mut self) -> Event {
        loop {
            // Never closed: one sender is our own.
            let Some((generation, event)) = self.heard.recv().await else {
                return std::future::pending().await;
            };
            // What one has said that was given up is of no interest.
            if generation == self.generation {
                self.is_there &= !matches!(event, Event::Ended(_));
                return event;
            }
        }
    }

    /// Returns why the process has ended, once it has.
    async fn end_of_process(&mut self) -> io::Error {
        loop {
            if let Event::Ended(error) = self.next().await {
                return error;
            }
        }
    }

    /// Ends the process, and returns when it is gone, and with it where it has listened.
    async fn end(&mut self, running: Running) {
        drop(running);
        self.wait_for_end().await;
    }

    /// Returns when a process is gone that nobody holds any more.
    async fn wait_for_end(&mut self) {
        let gone = async {
            while self.is_there {
                self.next().await;
            }
        };
        // One that does not go holds up nothing but its own ports.
        timeout(PATIENCE, gone).await.ok();
    }
}

/// Why a process did not become what it was to be.
fn said(failure: &Failure) -> io::Error {
    io::Error::other(match failure {
        Failure::Helper { error } => format!("mvirt-egress: {}", printable(error)),
        Failure::Forward { listen, protocol, error, .. } => {
            let option = format!("{protocol:?}fwd").to_lowercase();
            format!("{option}: cannot listen at {listen}: {}", printable(error))
        }
    })
}

/// Keeps the process running and attached until `stop`.
pub(super) async fn serve(mut start: Start, mut port: PortHandle, mut stop: oneshot::Receiver<()>) {
    let mut log = LogLimit::default();
    let mut backoff = Backoff::default();
    loop {
        let ended = tokio::select! {
            ended = try_once(&mut start, &mut backoff, &mut port) => ended,
            _ = &mut stop => {
                port.end().await;
                return start.wait_for_end().await;
            }
        };
        port.detach().await;
        let (state, why) = match ended {
            Ended::Before(error) => (PortState::Failed, error.to_string()),
            Ended::After(error) => (PortState::Idle, error.to_string()),
            // Nobody took over.
            Ended::Exported => {
                backoff = Backoff::default();
                continue;
            }
        };
        port.tell_why(state, &why);
        if let Some(Said { unsaid }) = log.failure(&why, Instant::now()) {
            tracing::warn!(port = port.name(), why, unsaid, "a port to the world is down");
        }
    }
}

enum Ended {
    /// It did not become ready.
    Before(io::Error),
    /// It has been ready.
    After(io::Error),
    /// It was ended for another process of the daemon, which did not go on.
    Exported,
}

/// Runs the process once, after a pause.
async fn try_once(start: &mut Start, backoff: &mut Backoff, port: &mut PortHandle) -> Ended {
    port.pause(backoff.next()).await;
    let mut running = match start.start().await {
        Ok(running) => running,
        Err(error) => return Ended::Before(error),
    };
    port.begin();
    port.connected();
    let since = Instant::now();
    let ended = keep(start, &mut running, port).await;
    backoff.worked(since.elapsed());
    let request = match ended {
        Stopped::Ended(error) => return Ended::After(error),
        Stopped::Failed(error) => {
            start.end(running).await;
            return Ended::After(error);
        }
        Stopped::Export(request) => request,
    };
    // Where it has listened the other one is to listen.
    start.end(running).await;
    port.export(request, Ok(Vec::new())).await;
    Ended::Exported
}

/// Why a process is of no use any more.
enum Stopped {
    /// It has ended.
    Ended(io::Error),
    /// The port has failed; the process runs still.
    Failed(io::Error),
    /// Another process of the daemon is to have its own.
    Export(super::export::ExportRequest),
}

/// Keeps the port of a process attached.
async fn keep(start: &mut Start, running: &mut Running, port: &mut PortHandle) -> Stopped {
    let mut looked = interval(LOOKED);
    looked.set_missed_tick_behavior(MissedTickBehavior::Delay);
    match make(&running.packets) {
        Ok(made) => port.attach(made, PortState::Active),
        Err(error) => return Stopped::Failed(error),
    }
    loop {
        tokio::select! {
            event = start.next() => match event {
                Event::Ended(error) => return Stopped::Ended(error),
                Event::Said(Report::Failed(failure)) => return Stopped::Failed(said(&failure)),
                Event::Said(Report::Ready { .. } | Report::Stats { .. }) => {}
            },
            // Of a command there is nobody who would say so.
            Ok(()) = running.guests.changed() => {
                if let Err(error) = running.deny(&start.configuration.deny) {
                    return Stopped::Failed(error);
                }
            }
            signal = port.next() => match signal {
                Signal::Moved => {
                    port.detach().await;
                    match make(&running.packets) {
                        Ok(made) => port.attach(made, PortState::Active),
                        Err(error) => return Stopped::Failed(error),
                    }
                }
                Signal::Export(request) => {
                    port.detach().await;
                    return Stopped::Export(request);
                }
                Signal::Failed(failure) => {
                    // Where the process has ended, that says more.
                    return match timeout(READ, start.end_of_process()).await {
                        Ok(error) => Stopped::Ended(error),
                        Err(_) => Stopped::Failed(io::Error::other(failure)),
                    };
                }
            },
            _ = looked.tick() => {
                if let Some(now) = resolver().await
                    && now != running.resolver
                {
                    running.resolver = now;
                    if let Err(error) = running.process.order(&Order::Resolver(now)) {
                        return Stopped::Failed(error);
                    }
                }
            }
        }
    }
}

/// Returns a port of the socket of packets: each is a frame.
fn make(packets: &OwnedFd) -> io::Result<Box<dyn Port>> {
    let socket = packets.try_clone()?;
    ioctl_fionbio(&socket, true)?;
    Ok(Box::new(DescriptorPort::new(Datagrams::new(socket, Peer::Session))?))
}

/// Returns the DNS server that this host asks first; none where that is not to be learned now.
async fn resolver() -> Option<SocketAddr> {
    // The file may be somewhere that does not answer.
    let read = tokio::task::spawn_blocking(|| fs::read_to_string(RESOLV_CONF));
    let read = timeout(READ, read).await.ok()?.ok()?;
    Some(first_server(&read.unwrap_or_default()))
}

/// Returns the first server that resolv.conf(5) names, or who is asked where it names none.
fn first_server(text: &str) -> SocketAddr {
    resolv_conf::servers(text)[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_could_not_have_is_told_in_words_of_the_locator() {
        let failure =
            r#"{"failed":"forward","listen":"127.0.0.1:80","protocol":"udp","error":"x"}"#;
        let failure = serde_json::from_str::<Failure>(failure).unwrap();
        assert_eq!(said(&failure).to_string(), "udpfwd: cannot listen at 127.0.0.1:80: x");
    }
}
