//! The TCP of one vNIC's gateway: frames in, frames out, and between them a stream for each
//! connection, which a service has the other end of.
//!
//! ```text
//! frames ──▶ Link ─ smoltcp ─ sockets ─ pump ─ streams ──▶ http │ dns
//! ```
//! What a guest can have of it is bounded: connections, octets in either direction, and the time
//! that a connection may stand still.

use super::{
    asker::{Asker, Common},
    dns, http,
};
use crate::{
    addr::MacAddr,
    dataplane::{
        Punted, Way,
        forward::tables::{GATEWAY_MAC, NetworkKey, PortId},
    },
    token_bucket::TokenBucket,
    wire::{dns_message, ethernet, vnet::Offload},
};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{DeviceCapabilities, Medium, RxToken, TxToken},
    socket::tcp::{Socket, SocketBuffer, State},
    time::Instant as Clock,
    wire::{
        HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint, Ipv4Packet, Ipv6Packet,
        TcpPacket,
    },
};
use std::{
    collections::VecDeque,
    future::Future,
    hash::{BuildHasher as _, RandomState},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, DuplexStream, ReadBuf, duplex},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, Sleep, sleep_until},
};
use zerocopy::{IntoBytes as _, big_endian::U16};

/// How long a stack without a connection is kept.
const IDLE: Duration = Duration::from_secs(60);
/// How long a connection may stand still, whoever does not go on.
const STALLED: Duration = Duration::from_secs(30);
/// Connections of a vNIC. What is beyond asks again.
const MOST_CONNECTIONS: usize = 16;
/// Octets that wait on their way from a guest, and to it.
const FROM_GUEST: usize = 8 * 1024;
const TO_GUEST: usize = 32 * 1024;
/// Hops that systems let their packets make: one that has made some was routed.
const INITIAL_HOPS: [u8; 3] = [64, 128, 255];
/// Requests that a vNIC may make in a second, and at once.
const REQUESTS: f64 = 100.0;

/// Packets between a vNIC and smoltcp.
#[derive(Debug)]
struct Link {
    incoming: VecDeque<Vec<u8>>,
    outgoing: Vec<Vec<u8>>,
    mtu: usize,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}

impl smoltcp::phy::Device for Link {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Clock) -> Option<(Received, Sending<'_>)> {
        let packet = self.incoming.pop_front()?;
        Some((Received(packet), Sending(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Clock) -> Option<Sending<'_>> {
        Some(Sending(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

/// The TCP of one vNIC. Completes when nobody has asked for a while.
pub(super) struct Stack {
    asker: Asker,
    frames: mpsc::Receiver<(Way, Punted)>,
    /// Where the guest is, as its latest frame has it.
    guest: Option<(Way, MacAddr)>,
    link: Link,
    interface: Interface,
    sockets: SocketSet<'static>,
    connections: Vec<Connection>,
    services: JoinSet<()>,
    started: Instant,
    /// When a frame came last.
    heard: Instant,
    timer: Pin<Box<Sleep>>,
}

/// A connection.
struct Connection {
    socket: SocketHandle,
    /// Of the guest and of the gateway.
    ends: (IpEndpoint, IpEndpoint),
    /// What a service has the other end of.
    stream: DuplexStream,
    hop_limit: Arc<AtomicU8>,
    /// When octets went either way last.
    moved: Instant,
}

/// What a segment says that may begin a connection.
struct Segment {
    from: IpEndpoint,
    to: IpEndpoint,
    hops: u8,
    is_first: bool,
}

impl Stack {
    /// Returns the stack of a vNIC, whose frames come from `frames`.
    pub(super) fn new(
        whose: (PortId, NetworkKey),
        common: Arc<Common>,
        frames: mpsc::Receiver<(Way, Punted)>,
    ) -> Self {
        let mut link = Link { incoming: VecDeque::new(), outgoing: Vec::new(), mtu: 1280 };
        let mut config = Config::new(HardwareAddress::Ip);
        // Of it sequence numbers are made, which others must not guess (RFC 9293 §3.4.1).
        config.random_seed = RandomState::new().hash_one(0);
        let interface = Interface::new(config, &mut link, Clock::ZERO);
        let now = Instant::now();
        let requests = Arc::new(Mutex::new(TokenBucket::new(REQUESTS, REQUESTS)));
        let (is_routed, hop_limit) = (false, Arc::default());
        Self {
            asker: Asker { common, whose, is_routed, hop_limit, requests },
            frames,
            guest: None,
            link,
            interface,
            sockets: SocketSet::new(Vec::new()),
            connections: Vec::new(),
            services: JoinSet::new(),
            started: now,
            heard: now,
            timer: Box::pin(sleep_until(now + IDLE)),
        }
    }

    fn clock(&self, now: Instant) -> Clock {
        Clock::from_micros((now - self.started).as_micros() as i64)
    }

    /// Takes the frames that have come.
    fn hear(&mut self, cx: &mut Context<'_>, now: Instant) {
        while let Poll::Ready(Some((way, punted))) = self.frames.poll_recv(cx) {
            self.heard = now;
            self.link.mtu = punted.mtu.into();
            self.guest = Some((way, punted.mac));
            let mut packet = punted.frame.get(ethernet::HEADER_LEN..).unwrap_or(&[]).to_vec();
            let Some(segment) = read(&mut packet, punted.offload) else { continue };
            if segment.is_first && !self.accept(&segment, now) {
                continue;
            }
            self.link.incoming.push_back(packet);
        }
    }

    /// Makes room for a connection that begins, unless it has begun already. Returns whether there
    /// is any.
    fn accept(&mut self, segment: &Segment, now: Instant) -> bool {
        let ends = (segment.from, segment.to);
        if self.connections.iter().any(|connection| connection.ends == ends) {
            return true;
        }
        let IpEndpoint { addr, port } = segment.to;
        let own = IpCidr::new(addr, if matches!(addr, IpAddress::Ipv4(_)) { 32 } else { 128 });
        let mut has_address = self.connections.len() < MOST_CONNECTIONS;
        self.interface.update_ip_addrs(|addresses| {
            has_address = has_address && (addresses.contains(&own) || addresses.push(own).is_ok());
        });
        let buffer = |octets| SocketBuffer::new(vec![0; octets]);
        let mut socket = Socket::new(buffer(FROM_GUEST), buffer(TO_GUEST));
        // An answer is one write: nothing more comes that could fill the last segment.
        socket.set_nagle_enabled(false);
        if !has_address || socket.listen(IpListenEndpoint { addr: Some(addr), port }).is_err() {
            return false;
        }
        let (stream, other) = duplex(FROM_GUEST);
        let hop_limit = Arc::<AtomicU8>::default();
        let asker = Asker {
            is_routed: !INITIAL_HOPS.contains(&segment.hops),
            hop_limit: Arc::clone(&hop_limit),
            ..self.asker.clone()
        };
        self.services.spawn(async move {
            if port == dns_message::PORT {
                // It ends by what its client does.
                dns::serve(other, &asker.common, asker.whose).await.ok();
            } else {
                http::serve(other, asker).await;
            }
        });
        let socket = self.sockets.add(socket);
        self.connections.push(Connection { socket, ends, stream, hop_limit, moved: now });
        true
    }

    /// Takes what has come and sends what there is to send, until nothing moves.
    fn run(&mut self, cx: &mut Context<'_>, now: Instant) {
        let is_stalled = |it: &&Connection| now - it.moved >= STALLED;
        for connection in self.connections.iter().filter(is_stalled) {
            self.sockets.get_mut::<Socket<'_>>(connection.socket).abort();
        }
        loop {
            let clock = self.clock(now);
            self.interface.poll(clock, &mut self.link, &mut self.sockets);
            let mut has_moved = false;
            for connection in &mut self.connections {
                let socket = self.sockets.get_mut::<Socket<'_>>(connection.socket);
                if connection.pump(socket, cx) {
                    connection.moved = now;
                    has_moved = true;
                }
            }
            self.say();
            if !has_moved {
                break;
            }
        }
        let sockets = &mut self.sockets;
        self.connections.retain(|connection| {
            let state = sockets.get::<Socket<'_>>(connection.socket).state();
            // Nothing is lost by not waiting: a late segment is told that there is nobody.
            let is_over = matches!(state, State::Closed | State::TimeWait);
            if is_over {
                sockets.remove(connection.socket);
            }
            !is_over
        });
    }

    /// Sends what is on its way to the guest.
    fn say(&mut self) {
        let Some((way, mac)) = &self.guest else { return };
        for packet in self.link.outgoing.drain(..) {
            let is_ipv6 = packet.first().is_some_and(|octet| octet >> 4 == 6);
            let ether_type = if is_ipv6 { ethernet::IPV6 } else { ethernet::IPV4 };
            let header = ethernet::Header {
                destination: *mac,
                source: GATEWAY_MAC,
                ether_type: U16::new(ether_type),
            };
            way.say([header.as_bytes(), &packet].concat().into());
        }
    }

    /// Returns when something is to be done that nobody brings about.
    fn deadline(&mut self, now: Instant) -> Instant {
        let clock = self.clock(now);
        let tcp = self
            .interface
            .poll_at(clock, &self.sockets)
            .map(|due| now + Duration::from_micros((due - clock).total_micros()));
        let stalled = self.connections.iter().map(|connection| connection.moved + STALLED);
        let idle = self.connections.is_empty().then_some(self.heard + IDLE);
        tcp.into_iter().chain(stalled).chain(idle).min().unwrap_or(now + IDLE)
    }
}

impl Future for Stack {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        // Those that have ended are of no interest, and a panic ends its connection alone.
        while let Poll::Ready(Some(ended)) = this.services.poll_join_next(cx) {
            if let Err(error) = ended {
                tracing::error!(%error, "a service of a guest ended by a panic");
            }
        }
        loop {
            let now = Instant::now();
            this.hear(cx, now);
            this.run(cx, now);
            if this.connections.is_empty() && now - this.heard >= IDLE {
                return Poll::Ready(());
            }
            let deadline = this.deadline(now);
            this.timer.as_mut().reset(deadline);
            if this.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Connection {
    /// Moves what can be moved between its socket and its service. Returns whether anything could.
    fn pump(&mut self, socket: &mut Socket<'_>, cx: &mut Context<'_>) -> bool {
        let mut has_moved = false;
        let stream = &mut self.stream;
        if socket.can_recv() {
            let taken = socket.recv(|octets| match Pin::new(&mut *stream).poll_write(cx, octets) {
                Poll::Ready(Ok(taken)) => (taken, taken > 0),
                // Its service has ended: nobody is to hear it.
                Poll::Ready(Err(_)) => (octets.len(), true),
                Poll::Pending => (0, false),
            });
            has_moved = taken.unwrap_or(false);
        } else if matches!(socket.state(), State::CloseWait | State::LastAck | State::Closing) {
            // Again and again: to be told once more is nothing to it.
            let told = Pin::new(&mut *stream).poll_shutdown(cx);
            debug_assert!(told.is_ready(), "a pipe in memory is closed at once");
        }
        let mut is_over = false;
        if socket.can_send() {
            let sent = socket.send(|room| {
                let mut octets = ReadBuf::new(room);
                match Pin::new(&mut *stream).poll_read(cx, &mut octets) {
                    Poll::Ready(Ok(())) => {
                        let sent = octets.filled().len();
                        is_over = sent == 0;
                        (sent, sent > 0)
                    }
                    Poll::Ready(Err(_)) => {
                        is_over = true;
                        (0, false)
                    }
                    Poll::Pending => (0, false),
                }
            });
            has_moved |= sent.unwrap_or(false);
        }
        match self.hop_limit.load(Relaxed) {
            0 => {}
            hops => socket.set_hop_limit(Some(hops)),
        }
        if is_over {
            socket.close();
        }
        has_moved
    }
}

/// Returns what the segment in a packet says, and finishes a checksum that its sender left.
fn read(packet: &mut [u8], offload: Offload) -> Option<Segment> {
    let version = packet.first()? >> 4;
    let (from, to, hops, at): (IpAddress, IpAddress, _, _) = if version == 6 {
        let header = Ipv6Packet::new_checked(&*packet).ok()?;
        let (from, to) = (header.src_addr().into(), header.dst_addr().into());
        (from, to, header.hop_limit(), header.header_len())
    } else {
        let header = Ipv4Packet::new_checked(&*packet).ok()?;
        let (from, to) = (header.src_addr().into(), header.dst_addr().into());
        (from, to, header.hop_limit(), header.header_len().into())
    };
    let mut segment = TcpPacket::new_checked(packet.get_mut(at..)?).ok()?;
    if offload != Offload::None {
        segment.fill_checksum(&from, &to);
    }
    Some(Segment {
        from: IpEndpoint { addr: from, port: segment.src_port() },
        to: IpEndpoint { addr: to, port: segment.dst_port() },
        hops,
        is_first: segment.syn() && !segment.ack(),
    })
}
