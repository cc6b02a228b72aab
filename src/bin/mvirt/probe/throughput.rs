//! One TCP connection between two probes, each with smoltcp as its IP stack: how much the switch
//! carries of it.
//!
//! Both stacks run in this thread, so the figure says what two small guests on one CPU get, not
//! what the switch can do.

use super::guest::Guest;
use crate::Failure;
use mvirt_net::{addr::MacAddr, wire::ethernet};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{DeviceCapabilities, Medium, RxToken, TxToken},
    socket::tcp::{Socket, SocketBuffer},
    time::Instant as Clock,
    wire::{HardwareAddress, IpAddress, IpCidr},
};
use std::{
    net::IpAddr,
    pin::pin,
    time::{Duration, Instant},
};
use zerocopy::{IntoBytes as _, big_endian::U16};

// iperf3's, which those who look at traces know.
const PORT: u16 = 5201;
/// Packets on the way at most. Fewer than a ring holds: smoltcp recovers slowly from a loss.
const WINDOW: usize = 128;
/// How long a connection may take to come about.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was carried.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Carried {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) octets: u64,
    pub(crate) seconds: f64,
    pub(crate) gbit_per_second: f64,
}

impl Carried {
    fn after(&mut self, time: Duration) {
        self.seconds = time.as_secs_f64();
        self.gbit_per_second = self.octets as f64 * 8.0 / self.seconds / 1e9;
    }
}

/// A device as smoltcp sees it: packets of its vNIC's MTU, to and from the gateway.
struct Link {
    guest: Guest,
    gateway: MacAddr,
    ether_type: u16,
    mtu: usize,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut Link);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let header = ethernet::Header {
            destination: self.0.gateway,
            source: self.0.guest.mac,
            ether_type: U16::new(self.0.ether_type),
        };
        let mut frame = vec![0; ethernet::HEADER_LEN + len];
        let (head, packet) = frame.split_at_mut(ethernet::HEADER_LEN);
        head.copy_from_slice(header.as_bytes());
        let result = f(packet);
        // What finds no room is lost, as on any wire; TCP sends it again.
        self.0.guest.device.send(&frame);
        result
    }
}

impl smoltcp::phy::Device for Link {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Clock) -> Option<(Received, Sending<'_>)> {
        loop {
            let mut frame = self.guest.device.receive()?;
            let header = ethernet::Header::parse(&frame);
            if header.is_some_and(|(header, _)| header.ether_type.get() == self.ether_type) {
                frame.drain(..ethernet::HEADER_LEN);
                return Some((Received(frame), Sending(self)));
            }
        }
    }

    fn transmit(&mut self, _: Clock) -> Option<Sending<'_>> {
        self.guest.device.has_room().then_some(Sending(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

/// A guest with an IP stack and one TCP socket.
struct Host {
    link: Link,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    address: IpAddr,
    started: Instant,
}

impl Host {
    async fn new(mut guest: Guest, mtu: u32, ipv4: bool) -> Result<Self, Failure> {
        let address = if ipv4 { guest.ipv4.map(IpAddr::from) } else { guest.ipv6.map(Into::into) };
        let none = || Failure::Probe("the vNICs have no family in common".into());
        let address = address.ok_or_else(none)?;
        let gateway = guest.gateway(ipv4).await?;
        let ether_type = if ipv4 { ethernet::IPV4 } else { ethernet::IPV6 };
        let mut link = Link { guest, gateway, ether_type, mtu: mtu as usize };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = u64::from(std::process::id());
        let mut interface = Interface::new(config, &mut link, Clock::ZERO);
        // No neighbours on the link: everything goes to the gateway.
        let own = IpCidr::new(address.into(), if ipv4 { 32 } else { 128 });
        interface.update_ip_addrs(|addresses| addresses.extend([own]));
        // The buffer bounds the window, and so the packets on the way.
        let buffer = || SocketBuffer::new(vec![0; WINDOW * mtu as usize]);
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(Socket::new(buffer(), buffer()));
        Ok(Self { link, interface, sockets, socket, address, started: Instant::now() })
    }

    /// Takes what has come and sends what there is to send.
    fn turn(&mut self) -> Result<(), Failure> {
        let now = Clock::from_micros(self.started.elapsed().as_micros() as i64);
        self.interface.poll(now, &mut self.link, &mut self.sockets);
        self.link.guest.device.check()
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.socket)
    }
}

/// Sends from one to the other for `duration`, or until Ctrl-C; `each_second` hears of the octets
/// so far.
pub(crate) async fn throughput(
    (sender, sender_mtu): (Guest, u32),
    (receiver, receiver_mtu): (Guest, u32),
    duration: Duration,
    mut each_second: impl FnMut(&Carried),
) -> Result<Carried, Failure> {
    let ipv4 = sender.ipv4.is_some() && receiver.ipv4.is_some();
    // smoltcp does not discover the MTU of a path.
    let mtu = sender_mtu.min(receiver_mtu);
    let mut sender = Host::new(sender, mtu, ipv4).await?;
    let mut receiver = Host::new(receiver, mtu, ipv4).await?;
    connect(&mut sender, &mut receiver)?;
    let mut interrupt = pin!(tokio::signal::ctrl_c());
    let (payload, started) = ([0x5a; 65_536], Instant::now());
    let (from, to) = (sender.address.to_string(), receiver.address.to_string());
    let mut carried = Carried { from, to, octets: 0, seconds: 0.0, gbit_per_second: 0.0 };
    let mut told = Duration::ZERO;
    while started.elapsed() < duration {
        // Always full: what is measured is never the lack of something to send.
        while sender.socket().send_slice(&payload).is_ok_and(|sent| sent > 0) {}
        sender.turn()?;
        receiver.turn()?;
        // Counted where they arrive: what is lost on the way was not carried.
        while let Ok(received @ 1..) = receiver.socket().recv(|data| (data.len(), data.len())) {
            carried.octets += received as u64;
        }
        carried.after(started.elapsed());
        if started.elapsed() >= told + Duration::from_secs(1) {
            told = started.elapsed();
            each_second(&carried);
        }
        tokio::select! {
            biased;
            _ = &mut interrupt => break,
            // Back to the runtime, which shares this thread and would never see a signal.
            () = tokio::task::yield_now() => {}
        }
    }
    // What is on its way when the receiver leaves would count as dropped.
    let patient = Instant::now() + PATIENCE;
    while sender.link.guest.device.in_flight() > 0 && Instant::now() < patient {
        receiver.turn()?;
    }
    Ok(carried)
}

/// Opens the connection.
fn connect(sender: &mut Host, receiver: &mut Host) -> Result<(), Failure> {
    let failed = |what: &str| Failure::Probe(what.into());
    receiver.socket().listen(PORT).map_err(|e| failed(&e.to_string()))?;
    let (to, from) = (IpAddress::from(receiver.address), IpAddress::from(sender.address));
    // Not by `socket()`, which would borrow the interface as well.
    let socket = sender.sockets.get_mut::<Socket<'_>>(sender.socket);
    socket
        .connect(sender.interface.context(), (to, PORT), (from, 49_152))
        .map_err(|e| failed(&e.to_string()))?;
    let patient = Instant::now() + PATIENCE;
    while !sender.socket().may_send() {
        if Instant::now() > patient {
            return Err(failed(&format!("no TCP connection to {to} within {PATIENCE:?}")));
        }
        sender.turn()?;
        receiver.turn()?;
    }
    Ok(())
}
