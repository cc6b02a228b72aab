//! Three ports on wires, as reactors take them, and the network they are in.

use mvirt_net::{
    addr::MacAddr,
    dataplane::{
        counters::PortCounters,
        forward::{
            Domain, FibBuilder, Network,
            switched::Switched,
            tables::{BridgePort, Member, NetworkKey, PortId, Role, Routed, Segment, Vnic},
        },
        frame::{Burst, FrameSet, Outgoing, verdict::Blocking},
        port::{Delivered, Port, PortFailure, Undelivered, Wakeup},
        reactor::{
            self, Hugepages,
            allowance::Allowance,
            pipeline::Pipeline,
            ports::{Attachment, Ports},
            ways::{Envelope, Ways},
        },
    },
    model::{
        L2Policy, PortRole,
        PortSecurity::{self, Strict},
        l2::{HasGateway, Members},
    },
    wire::checksum,
};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    time::{Duration, Instant},
};

pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);
pub(crate) const NETWORK: NetworkKey = NetworkKey(1);
pub(crate) const EVERYBODY: [u8; 6] = [0xff; 6];
/// A MAC that no vNIC has.
pub(crate) const STRANGER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];

/// A port whose frames come from a channel and go into another. It is looked at every millisecond.
pub(crate) struct Wire {
    sent: Receiver<Vec<u8>>,
    waiting: VecDeque<Vec<u8>>,
    received: Sender<Vec<u8>>,
    /// It takes nothing.
    is_full: bool,
}

impl Port for Wire {
    fn queues(&self) -> usize {
        1
    }
    fn runs(&self, _queue: usize) -> bool {
        true
    }
    fn wakeup(&self, _queue: usize) -> Option<Wakeup<'_>> {
        None
    }
    fn poll(&mut self, _queue: usize, burst: &mut Burst) -> Result<(), PortFailure> {
        self.waiting.extend(self.sent.try_iter());
        for octets in self.waiting.iter().take(64) {
            let (frame, _) = burst.push();
            frame.head[..octets.len()].copy_from_slice(octets);
            (frame.head_len, frame.len) = (octets.len(), octets.len());
            (frame.tail, frame.pieces) = Default::default();
        }
        Ok(())
    }
    fn complete(&mut self, _queue: usize, done: FrameSet) {
        // None waits for a receiver here: all are dealt with.
        self.waiting.drain(..done.leading());
    }
    fn arm(&mut self, _queue: usize) -> Result<bool, PortFailure> {
        Ok(false)
    }
    fn has_room(&mut self, _queue: usize) -> bool {
        !self.is_full
    }
    fn deliver(&mut self, frames: &[Outgoing<'_>], _queue: usize) -> Delivered {
        if self.is_full {
            return Delivered::none(Undelivered::Full);
        }
        for frame in frames {
            assert_eq!(frame.head.len(), frame.len, "the frames of this test are short");
            self.received.send(frame.head.to_vec()).unwrap();
        }
        Delivered::all(frames.len())
    }
}

pub(crate) struct Guest {
    pub(crate) mac: [u8; 6],
    pub(crate) send: Sender<Vec<u8>>,
    pub(crate) received: Receiver<Vec<u8>>,
    pub(crate) counters: Arc<PortCounters>,
}

impl Guest {
    /// Sends a frame from its own MAC, and returns it.
    pub(crate) fn sends(&self, to: [u8; 6], text: &str) -> Vec<u8> {
        self.sends_as(self.mac, to, text)
    }

    pub(crate) fn sends_as(&self, from: [u8; 6], to: [u8; 6], text: &str) -> Vec<u8> {
        // An EtherType for experiments (IEEE 802, clause 9.2.3): no packet that a gateway knows.
        let frame = [&to[..], &from, &[0x88, 0xb5], text.as_bytes()].concat();
        self.send.send(frame.clone()).unwrap();
        frame
    }

    #[track_caller]
    pub(crate) fn hears(&self, frame: &[u8]) {
        let heard = self.received.recv_timeout(TIMEOUT).unwrap();
        assert_eq!(heard, frame, "{} instead", String::from_utf8_lossy(&heard[14..]));
    }
}

pub(crate) fn port(at: usize) -> PortId {
    PortId { slot: at as u32, generation: 1 }
}

pub(crate) fn mac(at: usize) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 0, at as u8 + 1]
}

/// A switched network of three vNICs, each on the reactor of its number.
pub(crate) fn switched(on: [u16; 3], security: [PortSecurity; 3]) -> Arc<Network> {
    let member = |at: usize| {
        let mut vnic = Vnic::new(port(at), MacAddr(mac(at)), 1500);
        vnic.settings.port_security = security[at];
        Member { reactor: on[at], role: Role::Guest(Arc::new(vnic)) }
    };
    let members: Vec<_> = (0..3).map(member).collect();
    let rules = L2Policy::default().in_force(HasGateway::No, Members::Any);
    let domain = Domain::Switched(Switched::new(&members, rules));
    Arc::new(Network { key: NETWORK, members, domain })
}

/// A guest, and its port as a reactor takes it.
pub(crate) fn guest(at: usize, is_full: bool) -> (Guest, Attachment) {
    let (send, sent) = mpsc::channel();
    let (receives, received) = mpsc::channel();
    let wire = Wire { sent, waiting: VecDeque::new(), received: receives, is_full };
    let counters = Arc::new(PortCounters::default());
    let attachment = Attachment {
        id: port(at),
        network: NETWORK,
        port: Box::new(wire),
        counters: Arc::clone(&counters),
        allowance: Allowance::default(),
        on_failure: Box::new(|failure| panic!("{failure}")),
        on_gateway_event: Box::new(drop),
        on_blocking: Box::new(drop),
    };
    (Guest { mac: mac(at), send, received, counters }, attachment)
}

/// A gateway at 10.0.0.1, of 10.0.0.0/24.
pub(crate) fn gateway() -> Routed {
    Routed {
        ipv4_subnet: Some("10.0.0.0/24".parse().unwrap()),
        segment: Some(Segment { gateway_ipv4: Some([10, 0, 0, 1].into()), ..Default::default() }),
        ..Routed::new(FibBuilder::default().build(7))
    }
}

/// The ports of guests with nobody who looks after them but the test.
pub(crate) fn guests_alone() -> (Pipeline, Ports, [Guest; 3]) {
    let mut ports = Ports::default();
    let guests = [0, 1, 2].map(|at| {
        let (guest, attachment) = guest(at, false);
        ports.attach(attachment, Duration::ZERO);
        guest
    });
    (Pipeline::default(), ports, guests)
}

/// Takes what a port has to send. Returns how many frames that were.
pub(crate) fn run(pipeline: &mut Pipeline, ports: &mut Ports, at: usize, now: Instant) -> usize {
    let mut links = Links { room: 0, sent: Vec::new() };
    pipeline.run(ports, &mut links, (port(at), 0), now).unwrap()
}

/// A network as [`switched`], and its guests; `full` takes nothing.
pub(crate) fn network(
    on: [u16; 3],
    full: Option<usize>,
    security: [PortSecurity; 3],
) -> (Vec<reactor::Handle>, [Guest; 3]) {
    let settings = reactor::Settings { busy_poll: Duration::ZERO, hugepages: Hugepages::Off };
    let count = usize::from(on.into_iter().max().unwrap()) + 1;
    let reactors = reactor::start(count, &[], settings).unwrap();
    let guests = [0, 1, 2].map(|at| {
        let (guest, attachment) = guest(at, full == Some(at));
        reactors[usize::from(on[at])].attach(attachment);
        guest
    });
    let network = switched(on, security);
    reactors.iter().for_each(|reactor| reactor.publish(Arc::clone(&network)));
    // In force everywhere before the first frame.
    settle(&reactors);
    (reactors, guests)
}

/// Returns when each reactor has ended what it was doing.
pub(crate) fn settle(reactors: &[reactor::Handle]) {
    for reactor in reactors {
        let (answer, answered) = mpsc::channel();
        reactor.ask(move || answer.send(()).unwrap());
        answered.recv_timeout(TIMEOUT).unwrap();
    }
}

pub(crate) const STRICT: [PortSecurity; 3] = [Strict; 3];
/// All on one reactor, and each alone with one of both.
pub(crate) const PLACES: [[u16; 3]; 3] = [[0, 0, 0], [0, 1, 0], [0, 1, 1]];

/// Links to other reactors that take so many frames each.
pub(crate) struct Links {
    pub(crate) room: usize,
    pub(crate) sent: Vec<(u16, Envelope)>,
}

impl Ways for Links {
    fn here(&self) -> u16 {
        0
    }

    fn send(&mut self, reactor: u16, envelope: &Envelope, frames: &[Outgoing<'_>]) -> usize {
        self.sent.extend(frames.iter().take(self.room).map(|_| (reactor, *envelope)));
        frames.len().min(self.room)
    }
}

/// A packet to 239.1.1.1 in a frame from `from`: IGMP of version 2, or UDP.
pub(crate) fn to_group(from: [u8; 6], protocol: u8, kind: u8) -> Vec<u8> {
    group_packet(from, (protocol, kind), [239, 1, 1, 1], [239, 1, 1, 1])
}

/// Asks all hosts for the groups that they are in (RFC 2236 §2.4).
pub(crate) fn query(from: [u8; 6]) -> Vec<u8> {
    group_packet(from, (2, 0x11), [224, 0, 0, 1], [0; 4])
}

fn group_packet(from: [u8; 6], (protocol, kind): (u8, u8), to: [u8; 4], group: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 1, protocol, 0, 0, 10, 0, 0, 9];
    packet.extend(to);
    packet.extend([kind, 0, 0, 0]);
    packet.extend(group);
    for range in [0..20, 20..28] {
        let sum = checksum::checksum(&packet[range.clone()]);
        let at = if range.start == 0 { 10 } else { 22 };
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    [&[0x01, 0x00, 0x5e, to[1] & 0x7f, to[2], to[3]][..], &from, &[0x08, 0x00], &packet].concat()
}

/// Two ports of somebody else's switch, with a guest beside them; and what is said of them.
pub(crate) struct Looped {
    pub(crate) pipeline: Pipeline,
    pub(crate) ports: Ports,
    pub(crate) guests: [Guest; 3],
    pub(crate) said: Receiver<(usize, Option<Blocking>)>,
}

impl Looped {
    pub(crate) fn new(now: Instant) -> Self {
        let (mut pipeline, mut ports) = (Pipeline::default(), Ports::default());
        let (say, said) = mpsc::channel();
        let guests = [0, 1, 2].map(|at| {
            let (guest, mut attachment) = guest(at, false);
            let say = say.clone();
            attachment.on_blocking = Box::new(move |why| say.send((at, why)).unwrap());
            pipeline.attached(&attachment, now);
            ports.attach(attachment, Duration::ZERO);
            guest
        });
        let bridge = |at| Arc::new(BridgePort::new(port(at), PortRole::Uplink, 1500));
        let member = |at: usize| Member {
            reactor: 0,
            role: match at {
                2 => Role::Guest(Arc::new(Vnic::new(port(2), MacAddr(mac(2)), 1500))),
                _ => Role::Bridge(bridge(at)),
            },
        };
        let members: Vec<_> = [0, 1, 2].map(member).into();
        let rules = L2Policy::default().in_force(HasGateway::No, Members::Any);
        let domain = Domain::Switched(Switched::new(&members, rules));
        ports.publish(&Arc::new(Network { key: NETWORK, members, domain }));
        Self { pipeline, ports, guests, said }
    }

    pub(crate) fn sends(&mut self, at: usize, frame: &[u8], now: Instant) {
        self.guests[at].send.send(frame.to_vec()).unwrap();
        let mut links = Links { room: 0, sent: Vec::new() };
        assert_eq!(self.pipeline.run(&mut self.ports, &mut links, (port(at), 0), now), Ok(1));
    }

    /// Sends a broadcast from a port; returns who hears it.
    pub(crate) fn broadcasts(&mut self, at: usize, now: Instant) -> Vec<usize> {
        let frame = [&EVERYBODY[..], &mac(at), &[0x88, 0xb5]].concat();
        self.sends(at, &frame, now);
        let heard = |at: &usize| self.guests[*at].received.try_iter().any(|heard| heard == frame);
        [0, 1, 2].into_iter().filter(heard).collect()
    }
}
