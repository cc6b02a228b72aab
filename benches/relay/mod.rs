//! Guests in this process, whose rings are driven by hand, and the packet path between them on this
//! thread: frames from one guest's transmit ring to the next one's receive ring, without a reactor
//! or sockets.

use mvirt_net::{
    addr::MacAddr,
    dataplane::{
        counters::PortCounters,
        forward::{
            Domain, FibBuilder, Network,
            limit::Limit,
            tables::{Addressing, Boot, GATEWAY_MAC, NetworkKey, NextHop, PortId, Routed, Vnic},
        },
        frame::{BURST, Outgoing, offload::Offloads},
        port::vhost_user::{
            Plan, RingPlan, VhostUserPort,
            memory::{GuestMemory, RegionRequest},
            queue::ring::{RingAddresses, RingConfig, Start},
        },
        reactor::{
            pipeline::Pipeline,
            ports::{Attachment, Ports},
            ways::{Envelope, Ways},
        },
    },
    wire::checksum::checksum,
};
use std::{
    fs::File,
    hint::black_box,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
    time::{Duration, Instant},
};
use vm_memory::{Bytes as _, FileOffset, GuestAddress, GuestMemoryMmap};

const SIZE: u16 = 256;
/// Where the parts of receive and transmit ring are, and from where on buffers of 2 KiB.
const RINGS: [u64; 2] = [0, 0x3000];
const BUFFERS: [u64; 2] = [0x6000, 0x8_6000];
const BUFFER: u64 = 2048;
const MEMORY: u64 = 0x11_0000;
const KEY: NetworkKey = NetworkKey(1);

/// What a driver's side of a guest is.
struct Guest {
    memory: GuestMemoryMmap,
    available: [u16; 2],
}

fn addresses(ring: usize) -> RingAddresses {
    let at = RINGS[ring];
    RingAddresses { descriptors: at, available: at + 0x1000, used: at + 0x2000 }
}

impl Guest {
    /// A guest whose transmit ring has `frame` in every buffer, and the port for it.
    fn new(frame: &[u8]) -> (Self, VhostUserPort) {
        let file =
            File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(MEMORY).unwrap();
        let offset = FileOffset::new(file.try_clone().unwrap(), 0);
        let region = (GuestAddress(0), MEMORY as usize, Some(offset));
        let memory = GuestMemoryMmap::from_ranges_with_files([region]).unwrap();
        let octets = [&[0; 12], frame].concat();
        for ring in 0..2 {
            let RingAddresses { descriptors, available, .. } = addresses(ring);
            for slot in 0..u64::from(SIZE) {
                let buffer = BUFFERS[ring] + slot * BUFFER;
                let (len, flags) = [(2048_u32, 2_u16), (octets.len() as u32, 0)][ring];
                let at = descriptors + 16 * slot;
                memory.write_obj(buffer, GuestAddress(at)).unwrap();
                memory.write_obj(len, GuestAddress(at + 8)).unwrap();
                memory.write_obj([flags, 0], GuestAddress(at + 12)).unwrap();
                memory.write_obj(slot as u16, GuestAddress(available + 4 + 2 * slot)).unwrap();
                memory.write_slice(&octets, GuestAddress(BUFFERS[1] + slot * BUFFER)).unwrap();
            }
        }
        let ours = GuestMemory::map(
            vec![RegionRequest {
                guest_address: 0,
                len: MEMORY,
                user_address: 0,
                offset: 0,
                fd: std::os::fd::OwnedFd::from(file).into(),
            }],
            u64::MAX,
        )
        .unwrap();
        let plan = |ring| RingPlan {
            config: RingConfig {
                size: SIZE.into(),
                addresses: addresses(ring),
                event_idx: false,
                indirect: true,
                start: Start::FromVmm(0),
            },
            kick: None,
            call: None,
            enabled: true,
            position: Default::default(),
        };
        let plan = Plan {
            pairs: vec![(Some(plan(0)), Some(plan(1)))],
            mergeable: true,
            header_len: 12,
            logs: false,
            sends: Default::default(),
            accepts: Offloads { checksum: true, ..Default::default() },
        };
        (
            Self { memory, available: [0; 2] },
            VhostUserPort::new(Arc::new(ours), None, plan).unwrap(),
        )
    }

    /// Makes `count` more chains of a ring available.
    fn post(&mut self, ring: usize, count: u16) {
        self.available[ring] = self.available[ring].wrapping_add(count);
        let at = GuestAddress(addresses(ring).available + 2);
        fence(Ordering::Release);
        self.memory.write_obj(self.available[ring], at).unwrap();
    }
}

struct NoLinks;

impl Ways for NoLinks {
    fn here(&self) -> u16 {
        0
    }

    fn send(&mut self, _: u16, _: &Envelope, _: &[Outgoing<'_>]) -> usize {
        0
    }
}

/// The packet path between guests.
pub(crate) struct Relay {
    guests: Vec<Guest>,
    ports: Ports,
    pipeline: Pipeline,
    now: Instant,
    routes: u32,
    random: u32,
}

fn port(slot: u32) -> PortId {
    PortId { slot, generation: 1 }
}

fn mac(slot: u32) -> MacAddr {
    let [_, _, high, low] = slot.to_be_bytes();
    MacAddr([0x52, 0x54, 0, 0, high, low])
}

fn ipv4(slot: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_000a + slot)
}

/// An address that is routed to vNIC 1.
fn route(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0b00_0000 + number)
}

/// A UDP datagram in a frame of `len` octets between two vNICs, by way of the gateway.
fn frame(from: u32, to: u32, len: usize) -> Vec<u8> {
    let mut header = [0; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&(len as u16 - 14).to_be_bytes());
    header[8] = 64;
    header[9] = 17;
    header[12..16].copy_from_slice(&ipv4(from).octets());
    header[16..20].copy_from_slice(&ipv4(to).octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [&GATEWAY_MAC.0[..], &mac(from).0, &[8, 0], &header].concat();
    frame.extend([0x04, 0xd2, 0x04, 0xd3]);
    frame.extend((len as u16 - 34).to_be_bytes());
    frame.resize(len, 0);
    frame
}

impl Relay {
    /// Between so many guests, each of which sends frames of `len` octets to the next; besides, so
    /// many addresses are routed to the second one.
    pub(crate) fn new(len: usize, guests: u32, routes: u32) -> Self {
        let now = Instant::now();
        let mut ports = Ports::default();
        let mut fib = FibBuilder::default();
        let mut vnics = Vec::new();
        let guest = |slot| {
            let (guest, vhost_user) = Guest::new(&frame(slot, (slot + 1) % guests, len));
            let next_hop =
                fib.next_hop(NextHop { port: port(slot), reactor: 0, mtu: 1500, mac: mac(slot) });
            fib.host_ipv4(ipv4(slot), next_hop);
            vnics.push(Arc::new(Vnic {
                port: port(slot),
                mac: mac(slot),
                ipv4: Some(ipv4(slot)),
                ipv6: None,
                routed_ipv4: Vec::new(),
                routed_ipv6: Vec::new(),
                slaac: None,
                from_guest: Limit::default(),
                to_guest: Limit::default(),
                mtu: 1500,
                addressing: Addressing::Host,
                hostname: None,
                boot: Boot::default(),
            }));
            let attachment = Attachment {
                id: port(slot),
                network: KEY,
                port: Box::new(vhost_user),
                allowance: mvirt_net::dataplane::reactor::allowance::Allowance::default(),
                counters: Arc::new(PortCounters::default()),
                on_failure: Box::new(|failure| panic!("{failure}")),
                on_gateway_event: Box::new(drop),
            };
            ports.attach(attachment, Duration::ZERO);
            if slot == 1 {
                (0..routes).for_each(|number| fib.host_ipv4(route(number), next_hop));
            }
            guest
        };
        let guests = (0..guests).map(guest).collect();
        let domain = Domain::Routed(Routed {
            ipv4_subnet: Some("10.0.0.0/24".parse().unwrap()),
            ipv4_broadcast: Some(Ipv4Addr::new(10, 0, 0, 255)),
            ipv6_prefix: None,
            dns_ipv4: Vec::new(),
            dns_ipv6: Vec::new(),
            ntp_ipv4: Vec::new(),
            ntp_ipv6: Vec::new(),
            domain: None,
            fib: fib.build(7),
        });
        ports.publish(&Arc::new(Network { key: KEY, vnics, domain }));
        Self { guests, ports, pipeline: Pipeline::default(), now, routes, random: 1 }
    }

    /// Carries one full burst, from the first guest to the second.
    pub(crate) fn burst(&mut self) {
        self.guests[0].post(1, BURST as u16);
        self.guests[1].post(0, BURST as u16);
        self.run(0);
        self.ports.publish_touched(self.now, &mut || None);
    }

    /// As [`Relay::burst`], with each frame addressed to a random one of the routes.
    pub(crate) fn burst_to_routes(&mut self) {
        let first = self.guests[0].available[1];
        for slot in (0..BURST as u16).map(|at| first.wrapping_add(at) % SIZE) {
            // Xorshift (Marsaglia 2003).
            self.random ^= self.random << 13;
            self.random ^= self.random >> 17;
            self.random ^= self.random << 5;
            let to = route(((u64::from(self.random) * u64::from(self.routes)) >> 32) as u32);
            let at = BUFFERS[1] + u64::from(slot) * BUFFER + 12 + 30;
            self.guests[0].memory.write_obj(to.octets(), GuestAddress(at)).unwrap();
        }
        self.burst();
    }

    /// Carries a full burst from every guest.
    pub(crate) fn turn(&mut self) {
        for guest in &mut self.guests {
            guest.post(1, BURST as u16);
            guest.post(0, BURST as u16);
        }
        (0..self.guests.len() as u32).for_each(|slot| self.run(slot));
        self.ports.publish_touched(self.now, &mut || None);
    }

    fn run(&mut self, slot: u32) {
        let polled = self.pipeline.run(&mut self.ports, &mut NoLinks, (port(slot), 0), self.now);
        assert_eq!(black_box(polled), Ok(BURST));
    }

    /// How many frames the second guest was given.
    pub(crate) fn delivered(&mut self) -> u64 {
        self.ports.get_mut(port(1)).unwrap().counters.egress_frames.get()
    }
}
