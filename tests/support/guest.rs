//! A VM in the test process: the `vhost` crate's frontend, a driver of our own for the rings, and
//! smoltcp as its IP stack. None of the switch's code judges the switch.

use super::{
    daemon::{Daemon, PATIENCE, wait_until},
    driver::{BUFFER, HEADER, Memory, NUM_BUFFERS, Ring, WRITE},
    frames::{Echo, IcmpError},
    frontend,
};
use mvirt_net::proto::Nic;
use smoltcp::{
    iface::{Config, Interface, SocketSet},
    phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    socket::dhcpv4,
    time::Instant as SmolInstant,
    wire::{EthernetAddress, HardwareAddress},
};
use std::{
    net::IpAddr,
    os::unix::net::UnixStream,
    path::Path,
    sync::atomic::{Ordering, fence},
    time::{Duration, Instant},
};
use vhost::{
    VhostBackend as _, VhostUserMemoryRegionInfo,
    vhost_user::{
        Frontend, VhostUserFrontend as _,
        message::{VhostUserHeaderFlag, VhostUserProtocolFeatures},
    },
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub(crate) const PROTOCOL_FEATURES: u64 = 1 << 30;
pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const CSUM: u64 = 1;
pub(crate) const GUEST_CSUM: u64 = 1 << 1;
pub(crate) const MRG_RXBUF: u64 = 1 << 15;
pub(crate) const EVENT_IDX: u64 = 1 << 29;
pub(crate) const PLAIN: u64 = VERSION_1 | PROTOCOL_FEATURES;

pub(crate) const QUEUE: u16 = 128;
pub(crate) const MEMORY: u64 = 4 << 20;
pub(crate) const RX: Ring = Ring::at(0, QUEUE, 0x10_0000);
pub(crate) const TX: Ring = Ring::at(0x4000, QUEUE, 0x20_0000);

/// Why a driver could not start: the daemon hung up, or is not there.
pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// The rings and memory of a device: a driver.
pub(crate) struct Driver {
    pub(crate) memory: Memory,
    pub(crate) frontend: Frontend,
    pub(crate) kicks: [EventFd; 2],
    pub(crate) calls: [EventFd; 2],
    pub(crate) features: u64,
    buffer: u32,
    rx_posted: u16,
    rx_seen: u16,
    tx_posted: u16,
}

impl Driver {
    /// Connects and starts the device, in the order of Cloud Hypervisor.
    pub(crate) fn connect(socket: &Path, features: u64, buffer: u32) -> Self {
        let mut driver = Self::memory_only(socket, features, buffer);
        driver.negotiate();
        driver.start_rings(0);
        driver.post_all();
        driver
    }

    pub(crate) fn post_all(&mut self) {
        for _ in 0..QUEUE {
            self.post();
        }
    }

    /// As [`Driver::connect`], where the daemon may hang up at any moment.
    pub(crate) fn try_connect(socket: &Path, features: u64, buffer: u32) -> Result<Self, Failed> {
        let mut driver = Self::try_memory_only(socket, features, buffer)?;
        driver.try_negotiate()?;
        driver.try_start_rings(0)?;
        driver.post_all();
        Ok(driver)
    }

    pub(crate) fn memory_only(socket: &Path, features: u64, buffer: u32) -> Self {
        Self::with_frontend(dial(socket), features, buffer)
    }

    pub(crate) fn try_memory_only(
        socket: &Path,
        features: u64,
        buffer: u32,
    ) -> Result<Self, Failed> {
        let frontend = Frontend::from_stream(UnixStream::connect(socket)?, 2);
        Ok(Self::with_frontend(frontend, features, buffer))
    }

    fn with_frontend(frontend: Frontend, features: u64, buffer: u32) -> Self {
        let eventfd = || EventFd::new(EFD_NONBLOCK).unwrap();
        Self {
            memory: Memory::new(MEMORY),
            frontend,
            kicks: [eventfd(), eventfd()],
            calls: [eventfd(), eventfd()],
            features,
            buffer,
            rx_posted: 0,
            rx_seen: 0,
            tx_posted: 0,
        }
    }

    /// Up to the memory table.
    pub(crate) fn negotiate(&mut self) {
        self.try_negotiate().unwrap();
    }

    /// As [`Driver::negotiate`], where the daemon may hang up at any moment.
    pub(crate) fn try_negotiate(&mut self) -> Result<(), Failed> {
        self.frontend.set_owner()?;
        let offered = self.frontend.get_features()?;
        assert_eq!(offered & self.features, self.features, "features are offered");
        let protocol = self.frontend.get_protocol_features()?;
        let wanted = VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::LOG_SHMFD;
        assert!(protocol.contains(wanted));
        self.frontend.set_protocol_features(wanted)?;
        self.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        self.frontend.set_features(self.features)?;
        self.frontend.set_mem_table(&[self.region()])?;
        Ok(())
    }

    pub(crate) fn region(&self) -> VhostUserMemoryRegionInfo {
        frontend::region(&self.memory)
    }

    pub(crate) fn start_rings(&mut self, base: u16) {
        self.try_start_rings(base).unwrap();
    }

    /// As [`Self::start_rings`], where the daemon may refuse them and hang up.
    pub(crate) fn try_start_rings(&mut self, base: u16) -> Result<(), vhost::Error> {
        for (index, ring) in [RX, TX].into_iter().enumerate() {
            let descriptors = (&self.kicks[index], &self.calls[index]);
            let place = (index, ring);
            frontend::start_ring(&self.frontend, place, base, &self.memory, descriptors)?;
        }
        for index in 0..2 {
            self.frontend.set_vring_enable(index, true)?;
        }
        Ok(())
    }

    /// As a VMM does when the daemon has come back: the same memory and rings, position `base`.
    pub(crate) fn reconnect(&mut self, socket: &Path, base: u16) {
        self.frontend = dial(socket);
        self.negotiate();
        self.start_rings(base);
    }

    /// Posts one receive buffer.
    fn post(&mut self) {
        let slot = self.rx_posted % QUEUE;
        self.memory.describe(RX, slot, (RX.buffer(slot), self.buffer), WRITE, 0);
        self.memory.offer(RX, self.rx_posted, slot);
        self.rx_posted = self.rx_posted.wrapping_add(1);
    }

    pub(crate) fn tx_used(&self) -> u16 {
        self.memory.used(TX)
    }

    /// Sends a frame with its virtio-net header.
    pub(crate) fn send_with(&mut self, header: [u8; HEADER], frame: &[u8]) {
        self.put(header, frame);
        self.kick(1);
    }

    /// Sends a frame, and rings only if the device wants that (virtio 1.2 §2.7.10). Says whether.
    pub(crate) fn send_quietly(&mut self, frame: &[u8]) -> bool {
        let old = self.tx_posted;
        self.put([0; HEADER], frame);
        let wanted = if self.features & EVENT_IDX != 0 {
            let event = self.memory.avail_event(TX);
            self.tx_posted.wrapping_sub(event).wrapping_sub(1) < self.tx_posted.wrapping_sub(old)
        } else {
            self.memory.wants_kicks(TX)
        };
        if wanted {
            self.kick(1);
        }
        wanted
    }

    /// Frames sent that the device has not taken yet.
    pub(crate) fn in_flight(&self) -> u16 {
        self.tx_posted.wrapping_sub(self.tx_used())
    }

    /// Whether a frame can be sent at once.
    pub(crate) fn has_room(&self) -> bool {
        self.in_flight() < QUEUE
    }

    /// Octets of the header in front of each frame: a legacy driver that merges no buffers has no
    /// `num_buffers`.
    fn header_len(&self) -> usize {
        if self.features & (VERSION_1 | MRG_RXBUF) == 0 { HEADER - 2 } else { HEADER }
    }

    fn put(&mut self, header: [u8; HEADER], frame: &[u8]) {
        wait_until("the transmit ring has room", || self.has_room());
        let slot = self.tx_posted % QUEUE;
        let octets = [&header[..self.header_len()], frame].concat();
        self.memory.write(TX.buffer(slot), &octets);
        self.memory.describe(TX, slot, (TX.buffer(slot), octets.len() as u32), 0, 0);
        self.memory.offer(TX, self.tx_posted, slot);
        self.tx_posted = self.tx_posted.wrapping_add(1);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn kick(&self, ring: usize) {
        self.kicks[ring].write(1).unwrap();
    }

    /// The next frame received, with its header, if one is there. Its buffers are posted again.
    pub(crate) fn receive_with_header(&mut self) -> Option<Vec<u8>> {
        if self.memory.used(RX) == self.rx_seen {
            return None;
        }
        let mut octets = self.take_buffer();
        let buffers = match self.header_len() {
            HEADER => u16::from_le_bytes(octets[NUM_BUFFERS].try_into().unwrap()),
            _ => 1,
        };
        for _ in 1..buffers {
            octets.extend(self.take_buffer());
        }
        Some(octets)
    }

    fn take_buffer(&mut self) -> Vec<u8> {
        let (head, len) = self.memory.used_entry(RX, self.rx_seen);
        assert_eq!(head, self.rx_seen % QUEUE, "buffers are used in order");
        let octets = self.memory.read(RX.buffer(head), len as usize);
        self.rx_seen = self.rx_seen.wrapping_add(1);
        self.post();
        octets
    }

    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        let header_len = self.header_len();
        self.receive_with_header().map(|mut octets| octets.split_off(header_len))
    }
}

fn dial(socket: &Path) -> Frontend {
    let mut stream = None;
    wait_until("the socket accepts", || {
        stream = UnixStream::connect(socket).ok();
        stream.is_some()
    });
    Frontend::from_stream(stream.unwrap(), 2)
}

/// Two guests of a new network `prod`, a and b, and their vNICs.
pub(crate) fn pair(daemon: &mut Daemon) -> ([Nic; 2], [Guest; 2]) {
    daemon.network("prod");
    let nics = [daemon.nic("prod", "a"), daemon.nic("prod", "b")];
    let guests = nics.each_ref().map(Guest::connect);
    (nics, guests)
}

/// A guest with an IP stack.
pub(crate) struct Guest {
    pub(crate) driver: Driver,
    interface: Interface,
    sockets: SocketSet<'static>,
    pub(crate) mac: [u8; 6],
    ipv4: String,
    ipv6: String,
    started: Instant,
}

impl Guest {
    pub(crate) fn connect(nic: &Nic) -> Self {
        Self::connect_with(nic, PLAIN, BUFFER)
    }

    pub(crate) fn connect_with(nic: &Nic, features: u64, buffer: u32) -> Self {
        let mut driver = Driver::connect(Path::new(&nic.socket_path), features, buffer);
        let mac = parse_mac(&nic.mac_address);
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        config.random_seed = 7;
        let interface = Interface::new(config, &mut driver, SmolInstant::ZERO);
        Self {
            driver,
            interface,
            sockets: SocketSet::new(vec![]),
            mac,
            ipv4: nic.ipv4_address.clone(),
            ipv6: nic.ipv6_address.clone(),
            started: Instant::now(),
        }
    }

    /// Its IPv4 address.
    pub(crate) fn address(&self) -> &str {
        &self.ipv4
    }

    pub(crate) fn send(&mut self, frame: &[u8]) {
        self.driver.send_with([0; HEADER], frame);
    }

    /// The next frame for which `wanted` holds; others are dropped.
    pub(crate) fn expect(&mut self, what: &str, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut found = None;
        wait_until(what, || {
            found = self.driver.receive().filter(|frame| wanted(frame));
            found.is_some()
        });
        found.unwrap()
    }

    /// Sends a frame that is to be answered by an ICMP error; gives that.
    pub(crate) fn provoke(&mut self, frame: &[u8]) -> IcmpError {
        self.send(frame);
        let is_error = |frame: &[u8]| IcmpError::parse(frame).is_some();
        IcmpError::parse(&self.expect("an ICMP error comes", is_error)).unwrap()
    }

    /// Everything received so far.
    pub(crate) fn drain(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.driver.receive()).collect()
    }

    fn now(&self) -> SmolInstant {
        SmolInstant::from_micros(self.started.elapsed().as_micros() as i64)
    }

    fn turn(&mut self) {
        let now = self.now();
        self.interface.poll(now, &mut self.driver, &mut self.sockets);
    }

    /// Takes a DHCPv4 lease with smoltcp's client; gives its address and router.
    pub(crate) fn lease(&mut self) -> (String, String) {
        let handle = self.sockets.add(dhcpv4::Socket::new());
        let mut lease = None;
        wait_until("there is a lease", || {
            self.turn();
            let event = self.sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll();
            if let Some(dhcpv4::Event::Configured(config)) = event {
                lease = Some((config.address.to_string(), config.router.unwrap().to_string()));
            }
            lease.is_some()
        });
        self.sockets.remove(handle);
        lease.unwrap()
    }

    /// Pings `address` through the gateway; whether it answers within `patience`.
    pub(crate) fn ping_within(&mut self, address: &str, patience: Duration) -> bool {
        self.ping_while(address, patience, || {})
    }

    pub(crate) fn ping(&mut self, address: &str) -> bool {
        self.ping_within(address, PATIENCE)
    }

    /// Whether `other` can ping this guest, which answers.
    pub(crate) fn answers(&mut self, other: &mut Guest, address: &str) -> bool {
        other.ping_while(address, PATIENCE, || self.answer_echoes())
    }

    /// Answers every echo request that has come, for as long as `wanted`.
    pub(crate) fn answer_echoes_while(&mut self, mut wanted: impl FnMut() -> bool) {
        wait_until("echoes are answered", || {
            self.answer_echoes();
            !wanted()
        });
    }

    pub(crate) fn answer_echoes(&mut self) {
        let echoes = self.drain().into_iter().filter_map(|frame| Echo::parse(&frame));
        for request in echoes.filter(|echo| echo.is_request) {
            self.send(&request.reply().frame(self.mac));
        }
    }

    fn ping_while(
        &mut self,
        address: &str,
        patience: Duration,
        mut meanwhile: impl FnMut(),
    ) -> bool {
        let to: IpAddr = address.parse().unwrap();
        let own = match to {
            IpAddr::V4(_) => &self.ipv4,
            // Link-local addresses are asked from one.
            IpAddr::V6(to) if to.is_unicast_link_local() => "fe80::99",
            IpAddr::V6(_) => &self.ipv6,
        };
        let request = Echo::request(own.parse().unwrap(), to);
        self.send(&request.frame(self.mac));
        let reply = request.reply();
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            meanwhile();
            if self.drain().iter().any(|frame| Echo::parse(frame).as_ref() == Some(&reply)) {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }
}

pub(crate) fn parse_mac(text: &str) -> [u8; 6] {
    let octets: Vec<u8> =
        text.split(':').map(|part| u8::from_str_radix(part, 16).unwrap()).collect();
    octets.try_into().unwrap()
}

pub(crate) struct Received(Vec<u8>);
pub(crate) struct Sending<'a>(&'a mut Driver);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.send_with([0; HEADER], &frame);
        result
    }
}

impl Device for Driver {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Received, Sending<'_>)> {
        let frame = Driver::receive(self)?;
        Some((Received(frame), Sending(self)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Sending<'_>> {
        Some(Sending(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        // Every checksum of the switch is verified.
        capabilities.checksum.ipv4 = Checksum::Both;
        capabilities
    }
}
