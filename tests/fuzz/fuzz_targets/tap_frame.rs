//! Any octets as frames from a TAP device, each behind its virtio-net header, in a switched network
//! by any of its policies: nothing panics, each frame is counted once, nobody hears one from a
//! vNIC's MAC, and what is left to be done about a frame fits it.
//!
//! The first four octets are the policies. Then each frame follows two octets: its length in the
//! lower 13 bits; from whom it comes and whether time passes before it, in the others.
#![no_main]

#[path = "../../support/backend.rs"]
mod backend;
#[path = "../../support/driver.rs"]
mod driver;

use backend::{NoLinks, attachment};
use libfuzzer_sys::fuzz_target;
use mvirt_net::{
    addr::MacAddr,
    dataplane::{
        counters::PortCounters,
        forward::{
            Domain, FibBuilder, Network,
            switched::Switched,
            tables::{BridgePort, Member, NetworkKey, PortId, Role, Routed, Segment, Vnic},
        },
        port::{
            datagram::{Datagrams, Peer},
            descriptor::DescriptorPort,
            tap::Tap,
        },
        reactor::{
            pipeline::Pipeline,
            ports::{Attachment, Ports},
        },
    },
    model::{
        L2Policy, PortRole, PortSecurity,
        l2::{DhcpGuard, GuestVlans, HasGateway, Members, ReservedGroups, UnknownUnicast},
    },
    wire::vnet::{HEADER_LEN, Header, Offload},
};
use rustix::{
    io::{read, write},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
};
use std::{
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

const KEY: NetworkKey = NetworkKey(1);
/// The vNIC that says nothing.
const INNOCENT: usize = 1;

fn port(slot: usize) -> PortId {
    PortId { slot: slot as u32, generation: 1 }
}

fn mac(slot: usize) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, 0, slot as u8 + 1])
}

fn vnic(slot: usize, security: PortSecurity) -> Role {
    let mut vnic = Vnic::new(port(slot), mac(slot), 1500);
    vnic.ipv4 = Some([10, 0, 0, slot as u8 + 2].into());
    vnic.ipv6 = Some(format!("fd00::{}", slot + 2).parse().expect("it is one"));
    vnic.settings.port_security = security;
    Role::Guest(Arc::new(vnic))
}

fn bridge(slot: usize, choices: u8) -> Role {
    let roles = [PortRole::Access, PortRole::Uplink, PortRole::Peer];
    let role = roles[usize::from(choices) % roles.len()];
    let port = BridgePort::new(port(slot), role, 1500);
    let (protected, hub) = (choices & 4 != 0, choices & 8 != 0);
    Role::Bridge(Arc::new(BridgePort { protected, hub, mac_limit: 4, ..port }))
}

/// Returns the network that these octets ask for: an attacker, an innocent vNIC, and a bridge.
fn network([rules, more, attacker, other]: [u8; 4]) -> Network {
    let bit = |octet: u8, n: u8| octet >> n & 1 != 0;
    let toggle = |n| Some(bit(rules, n));
    let policy = L2Policy {
        mac_table_size: Some(10),
        unknown_unicast: Some(if bit(rules, 0) {
            UnknownUnicast::Drop
        } else {
            UnknownUnicast::Flood
        }),
        multicast_snooping: toggle(1),
        neighbour_proxy: toggle(2),
        loop_guard: toggle(3),
        guest_vlans: Some(if bit(rules, 4) { GuestVlans::Pass } else { GuestVlans::Drop }),
        dhcp_guard: Some(if bit(rules, 5) { DhcpGuard::On } else { DhcpGuard::Off }),
        reserved_groups: Some(match bit(rules, 6) {
            true => ReservedGroups::Forward,
            false => ReservedGroups::Drop,
        }),
        storm_pps: bit(rules, 7).then_some(2),
        ..L2Policy::default()
    };
    let security = [PortSecurity::Strict, PortSecurity::MacOnly, PortSecurity::Off];
    let first = match usize::from(attacker) {
        kind @ 0..3 => vnic(0, security[kind]),
        _ => bridge(0, attacker >> 2),
    };
    let roles = [first, vnic(INNOCENT, PortSecurity::Strict), bridge(2, other)];
    let members = roles.map(|role| Member { reactor: 0, role });
    let has_gateway = if bit(more, 0) { HasGateway::Yes } else { HasGateway::No };
    let mut table = Switched::new(&members, policy.in_force(has_gateway, Members::Any));
    if has_gateway == HasGateway::Yes {
        let mut fib = FibBuilder::default();
        for member in &members {
            let next_hop = fib.next_hop(member.next_hop());
            if let Some(vnic) = member.vnic() {
                vnic.ipv4.iter().for_each(|address| fib.host_ipv4(*address, next_hop));
                vnic.ipv6.iter().for_each(|address| fib.host_ipv6(*address, next_hop));
            }
        }
        table = table.with_gateway(Routed {
            ipv4_subnet: "10.0.0.0/24".parse().ok(),
            ipv4_broadcast: Some([10, 0, 0, 255].into()),
            ipv6_prefix: "fd00::/64".parse().ok(),
            dns_ipv4: vec![[1, 1, 1, 1].into()],
            segment: Some(Segment {
                gateway_ipv4: Some([10, 0, 0, 1].into()),
                ..Segment::default()
            }),
            ..Routed::new(fib.build(7))
        });
    }
    Network { key: KEY, members: members.into(), domain: Domain::Switched(table) }
}

/// Judges a frame that somebody hears: it is not from who says nothing, and what is left to be done
/// about it is within it.
fn judge(frame: &[u8], offload: Offload) {
    // In answers for neighbours the switch speaks for a vNIC.
    let is_answer = matches!(frame[12..14], [0x08, 0x06] | [0x86, 0xdd]);
    assert!(frame[6..12] != mac(INNOCENT).0 || is_answer, "from a MAC of another's");
    if let Offload::Checksum { start, offset } | Offload::Segmentation { start, offset, .. } =
        offload
    {
        assert!(usize::from(start) + usize::from(offset) + 2 <= frame.len(), "beyond the frame");
    }
}

/// What is behind the ports: the first two take a header before each frame, as TAP devices do.
struct Wires {
    ends: [OwnedFd; 3],
    counters: [Arc<PortCounters>; 3],
    buffer: Vec<u8>,
}

impl Wires {
    fn attach(ports: &mut Ports) -> Self {
        let counters = [(); 3].map(|()| Arc::new(PortCounters::default()));
        let mut slot = 0;
        let ends = [(); 3].map(|()| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
            let (own, end) = pair.expect("there are descriptors");
            let attachment = if slot < 2 {
                let tap = DescriptorPort::new(Tap::from(own)).expect("there is memory");
                attachment(port(slot), KEY, tap)
            } else {
                let packets = Datagrams::new(own, Peer::Session);
                let packets = DescriptorPort::new(packets).expect("there is memory");
                attachment(port(slot), KEY, packets)
            };
            let attachment = Attachment { counters: Arc::clone(&counters[slot]), ..attachment };
            ports.attach(attachment, Duration::ZERO);
            slot += 1;
            end
        });
        Self { ends, counters, buffer: vec![0; 1 << 17] }
    }

    /// Judges all that has come.
    fn hear(&mut self) {
        for (end, header_len) in self.ends.iter().zip([HEADER_LEN, HEADER_LEN, 0]) {
            while let Ok(len) = read(end, &mut self.buffer[..]) {
                let (header, frame) = self.buffer[..len].split_at(header_len);
                let offload = header
                    .first_chunk()
                    .map_or(Ok(Offload::None), |header| Header::from(*header).offload());
                judge(frame, offload.expect("it is one of ours"));
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((policies, mut rest)) = input.split_first_chunk() else { return };
    let network = Arc::new(network(*policies));
    let (mut pipeline, mut ports, mut now) =
        (Pipeline::default(), Ports::default(), Instant::now());
    let mut wires = Wires::attach(&mut ports);
    pipeline.published(&network, now);
    ports.publish(&network);
    while let Some(([high, low], octets)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([high & 0x1f, *low]));
        let frame;
        (frame, rest) = octets.split_at(len.min(octets.len()));
        let from = if high & 0x80 == 0 { 0 } else { 2 };
        if high & 0x40 != 0 {
            now += Duration::from_secs(100);
            pipeline.handle_timeouts(&mut ports, now);
        }
        // A device has no message without octets: that is its end.
        if !frame.is_empty() {
            write(&wires.ends[from], frame).expect("there is room");
        }
        pipeline.run(&mut ports, &mut NoLinks, (port(from), 0), now).expect("it goes on");
        ports.publish_touched(now, &mut || None);
        wires.hear();
    }
    for counted in &wires.counters {
        let dropped: u64 = counted.drops().map(|(_, frames)| frames).sum();
        let told = counted.ingress_forwarded.get() + counted.ingress_answered.get();
        // What a receiver has no room for is counted there, too.
        assert!(counted.ingress_frames.get() <= told + dropped, "each frame is counted");
    }
});
