//! Guests in this process, whose rings are driven by hand, and the packet path between them on this
//! thread: frames from one guest's transmit ring to the next one's receive ring, without a reactor
//! or sockets.

#[path = "../../tests/support/backend.rs"]
mod backend;
#[path = "../../tests/support/driver.rs"]
mod driver;
#[path = "../../tests/support/frames/mod.rs"]
#[expect(dead_code, reason = "the tests use all of it")]
mod frames;

use backend::{NoLinks, attachment, config, map, plan};
use driver::{HEADER, Memory, Ring, WRITE};
use frames::Udp4;
use mvirt_net::{
    addr::MacAddr,
    dataplane::{
        forward::{
            Domain, FibBuilder, Network,
            switched::Switched,
            tables::{Member, NetworkKey, PortId, Role, Routed, Vnic},
        },
        frame::{BURST, offload::Offloads},
        port::vhost_user::{Plan, VhostUserPort},
        reactor::{pipeline::Pipeline, ports::Ports},
    },
    model::l2::{HasGateway, L2Policy, Members},
    wire::{ethernet, ipv4, udp},
};
use std::{
    hint::black_box,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

const SIZE: u16 = 256;
const RX: Ring = Ring::at(0, SIZE, 0x6000);
const TX: Ring = Ring::at(0x3000, SIZE, 0x8_6000);
const MEMORY: u64 = 0x11_0000;
const KEY: NetworkKey = NetworkKey(1);
/// Where a buffer has the destination of its frame: it is the last field of the IPv4 header.
const DESTINATION: u64 = (HEADER + ethernet::HEADER_LEN + ipv4::HEADER_LEN - 4) as u64;

struct Guest {
    memory: Memory,
    /// Chains shown so far.
    received: u16,
    sent: u16,
}

impl Guest {
    /// A guest whose transmit ring has `frame` in every buffer, and the port for it.
    fn new(frame: &[u8]) -> (Self, VhostUserPort) {
        let memory = Memory::new(MEMORY);
        let octets = [&[0; HEADER], frame].concat();
        memory.fill(RX, driver::BUFFER, WRITE);
        memory.fill(TX, octets.len() as u32, 0);
        (0..SIZE).for_each(|slot| memory.write(TX.buffer(slot), &octets));
        let plan = Plan {
            accepts: Offloads { checksum: true, ..Default::default() },
            ..plan([config(RX), config(TX)])
        };
        let port = VhostUserPort::new(map(&memory), None, plan).unwrap();
        (Self { memory, received: 0, sent: 0 }, port)
    }

    /// Sends one burst more.
    fn send(&mut self) {
        self.sent = self.sent.wrapping_add(BURST as u16);
        self.memory.show(TX, self.sent);
    }

    /// Has room for one burst more.
    fn receive(&mut self) {
        self.received = self.received.wrapping_add(BURST as u16);
        self.memory.show(RX, self.received);
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

/// A UDP datagram in a frame of `len` octets between two vNICs: to the gateway's MAC, or the
/// receiver's own.
fn frame(from: u32, to: u32, len: usize, kind: Kind) -> Vec<u8> {
    let addresses = [from, to].map(|slot| ipv4(slot).to_string());
    let payload = vec![0; len - (ethernet::HEADER_LEN + ipv4::HEADER_LEN + udp::HEADER_LEN)];
    let mut frame = Udp4::new(mac(from).0, &addresses[0], &addresses[1], &payload).frame();
    if kind == Kind::Switched {
        frame[..6].copy_from_slice(&mac(to).0);
    }
    frame
}

/// What the guests' network is.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// A routed one, in which so many addresses are routed to the second guest besides.
    Routed(u32),
    Switched,
}

impl Relay {
    /// Between so many guests, each of which sends frames of `len` octets to the next.
    pub(crate) fn new(len: usize, guests: u32, kind: Kind) -> Self {
        let routes = if let Kind::Routed(routes) = kind { routes } else { 0 };
        let now = Instant::now();
        let mut ports = Ports::default();
        let mut fib = FibBuilder::default();
        let mut members = Vec::new();
        let guest = |slot| {
            let (guest, vhost_user) = Guest::new(&frame(slot, (slot + 1) % guests, len, kind));
            let vnic = Vnic::new(port(slot), mac(slot), 1500);
            let vnic = Arc::new(Vnic { ipv4: Some(ipv4(slot)), ..vnic });
            let member = Member { reactor: 0, role: Role::Guest(vnic) };
            let next_hop = fib.next_hop(member.next_hop());
            fib.host_ipv4(ipv4(slot), next_hop);
            members.push(member);
            ports.attach(attachment(port(slot), KEY, vhost_user), Duration::ZERO);
            if slot == 1 {
                (0..routes).for_each(|number| fib.host_ipv4(route(number), next_hop));
            }
            guest
        };
        let guests = (0..guests).map(guest).collect();
        let domain = match kind {
            Kind::Routed(_) => Domain::Routed(Routed {
                ipv4_subnet: Some("10.0.0.0/24".parse().unwrap()),
                ipv4_broadcast: Some(Ipv4Addr::new(10, 0, 0, 255)),
                ..Routed::new(fib.build(7))
            }),
            Kind::Switched => {
                let rules = L2Policy::default().in_force(HasGateway::No, Members::AllStrict);
                Domain::Switched(Switched::new(&members, rules))
            }
        };
        ports.publish(&Arc::new(Network { key: KEY, members, domain }));
        Self { guests, ports, pipeline: Pipeline::default(), now, routes, random: 1 }
    }

    /// Carries one full burst, from the first guest to the second.
    pub(crate) fn burst(&mut self) {
        self.guests[0].send();
        self.guests[1].receive();
        self.run(0);
        self.ports.publish_touched(self.now, &mut || None);
    }

    /// As [`Relay::burst`], with each frame addressed to a random one of the routes.
    pub(crate) fn burst_to_routes(&mut self) {
        let first = self.guests[0].sent;
        for slot in (0..BURST as u16).map(|at| first.wrapping_add(at) % SIZE) {
            // Xorshift (Marsaglia 2003).
            self.random ^= self.random << 13;
            self.random ^= self.random >> 17;
            self.random ^= self.random << 5;
            let to = route(((u64::from(self.random) * u64::from(self.routes)) >> 32) as u32);
            self.guests[0].memory.write(TX.buffer(slot) + DESTINATION, &to.octets());
        }
        self.burst();
    }

    /// Carries a full burst from every guest.
    pub(crate) fn turn(&mut self) {
        for guest in &mut self.guests {
            guest.send();
            guest.receive();
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
