//! What becomes of a frame that is not forwarded: a [`Verdict`], perhaps with a [`DropReason`] with
//! a name, a counter and a line in `docs/operations.md`.

use crate::addr::MacAddr;

/// Names a next hop of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHopId(pub(in crate::dataplane) u32);

impl NextHopId {
    /// Names no next hop.
    // A value instead of `Option`: a burst's list of 64 takes half the octets.
    pub const NONE: Self = Self(u32::MAX);
}

/// The decision about a frame from a guest that is not to be forwarded as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// To the gateway's responders.
    Gateway,
    /// To nobody: it asks for a neighbour, who is known to be at this MAC.
    Neighbour(MacAddr),
    /// On to a next hop, in fragments.
    Fragment(NextHopId),
    /// On to all ports of its network but its own.
    Flood(Flood),
    /// Nowhere, and the sender is told by an ICMP error.
    Reject(DropReason, Rejection),
    /// Nowhere, and its port is blocked for a while.
    Block(Blocking),
    /// Nowhere, silently.
    Drop(DropReason),
}

impl From<DropReason> for Verdict {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

/// Why a frame goes to several ports. It says what that is charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// It is for a group, or for somebody whom nobody knows.
    Ordinary,
    /// It asks for a neighbour, a router or an address.
    Discovery,
    /// It is from a hub, or for one.
    Hub,
    /// It is for a group whose listeners are known.
    Listeners(GroupId),
    /// It says who listens to a group.
    Report,
}

/// Why a port is blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocking {
    /// What another port has sent came back by it.
    Loop,
    /// A MAC is behind it and behind others in turn.
    Flap,
}

impl Blocking {
    /// Returns the reason in words.
    pub const fn why(self) -> &'static str {
        match self {
            Self::Loop => "loop_detected: what another port has sent came back by this one",
            Self::Flap => "mac_flap: a MAC is behind this port and behind others in turn",
        }
    }
}

/// Names a group of one network whose listeners are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupId(pub(in crate::dataplane) u32);

/// Whom a frame is for that goes to several ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// All.
    All,
    /// Who listens to a group, and routers.
    Group(GroupId),
    /// Routers: they alone ask who listens.
    Routers,
}

impl Flood {
    /// Returns whom it is for.
    pub fn audience(self) -> Audience {
        match self {
            Self::Ordinary | Self::Discovery | Self::Hub => Audience::All,
            Self::Listeners(group) => Audience::Group(group),
            Self::Report => Audience::Routers,
        }
    }
}

/// Which ICMP error a sender gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// No route to the destination.
    NoRoute,
    /// The destination is in the network's subnet, but nobody has it.
    NoHost,
    /// The packet is from a link-local address, which means nothing beyond its link.
    BeyondScope,
    /// The gateway serves no such protocol or port.
    NotServed,
    /// The hop limit ran out.
    TimeExceeded,
    /// The packet exceeds the next hop's MTU, in octets.
    TooBig(u16),
}

/// Where on its way a frame is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// What the port has got.
    Sender,
    /// What it is.
    Frame,
    /// Whether it may be sent.
    Guard,
    /// What the gateway says to it.
    Gateway,
    /// Who has its destination.
    Route,
    /// Whether it may go on once more.
    HopLimit,
    /// Whether it fits its next hop.
    Mtu,
    /// How much its sender may send.
    Limit,
    /// The way to another reactor.
    Link,
    /// Whether its receiver takes it.
    Receiver,
}

impl Stage {
    /// Returns its name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Frame => "frame",
            Self::Guard => "guard",
            Self::Gateway => "gateway",
            Self::Route => "route",
            Self::HopLimit => "hop limit",
            Self::Mtu => "mtu",
            Self::Limit => "limit",
            Self::Link => "link",
            Self::Receiver => "receiver",
        }
    }
}

impl DropReason {
    /// Returns where on its way a frame is dropped for it.
    pub const fn stage(self) -> Stage {
        match self {
            Self::QueueDisabled
            | Self::PortBlocked
            | Self::ChainTooLong
            | Self::ImpairedLoss
            | Self::ImpairedQueue
            | Self::UnknownVtep
            | Self::UnknownVni => Stage::Sender,
            Self::FrameTooShort
            | Self::FrameTooLong
            | Self::BadVnetHeader
            | Self::UnexpectedSegmentation
            | Self::BadSegmentation
            | Self::UnknownEtherType
            | Self::VlanTagged
            | Self::VlanNotAllowed
            | Self::MalformedArp
            | Self::MalformedIpv4
            | Self::MalformedIpv6
            | Self::HeadersInFragments
            | Self::RefusedFragment => Stage::Frame,
            Self::SpoofedMac
            | Self::InvalidSourceMac
            | Self::MacLimit
            | Self::SpoofedArp
            | Self::SpoofedIpv4
            | Self::SpoofedIpv6
            | Self::SpoofedNeighbour
            | Self::RogueRouter
            | Self::RogueDhcpServer
            | Self::ForeignMac
            | Self::BadProbe => Stage::Guard,
            Self::MalformedMessage
            | Self::MessageTooLong
            | Self::TooManyOptions
            | Self::BadChecksum
            | Self::NotServed
            | Self::Absorbed
            | Self::ReplyLimit
            | Self::NoLease => Stage::Gateway,
            Self::Broadcast
            | Self::Multicast
            | Self::ReservedGroup
            | Self::Hairpin
            | Self::UnknownUnicast
            | Self::ProtectedPort
            | Self::SplitHorizon
            | Self::NoRoute => Stage::Route,
            Self::HopLimit => Stage::HopLimit,
            Self::ExceedsMtu => Stage::Mtu,
            Self::StormLimited | Self::RateLimited => Stage::Limit,
            Self::LinkFull => Stage::Link,
            Self::NoGuest | Self::RxRingFull | Self::RxBufferTooSmall => Stage::Receiver,
        }
    }
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal),+ $(,)?) => {
        /// Why a frame was dropped: the error type of the packet path.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant),+
        }

        impl DropReason {
            // A counter is found by the discriminant, and named by the place in this list.
            /// Every reason, in the order of its discriminant.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in the API, the CLI and the documentation.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }

            /// What it means, in a sentence or two, as the documentation says it.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii_start()),+
                }
            }
        }
    };
}

drop_reasons! {
    /// The frame has less than an Ethernet header.
    FrameTooShort = "frame_too_short",
    /// The frame is longer than 65549 octets (64 KiB packet and Ethernet header).
    FrameTooLong = "frame_too_long",
    /// The frame's descriptor chain loops, or is longer than its ring or than 1024.
    ChainTooLong = "chain_too_long",
    /// The virtio-net header asks for a checksum outside the transport header, or of an unknown
    /// protocol.
    BadVnetHeader = "bad_vnet_header",
    /// The virtio-net header asks for segmentation that was not negotiated, or unknown.
    UnexpectedSegmentation = "unexpected_segmentation",
    /// The virtio-net header asks for segmentation that does not fit the packet, or into too many
    /// segments.
    BadSegmentation = "bad_segmentation",
    /// The guest sent on a queue that its VMM has disabled.
    QueueDisabled = "queue_disabled",
    /// The EtherType is none of ARP, IPv4 and IPv6.
    UnknownEtherType = "unknown_ethertype",
    /// The frame carries a VLAN tag.
    VlanTagged = "vlan_tagged",
    /// The frame has no tag, or a VLAN's, that its trunk does not list; or one of its sender's own
    /// that it would leave a trunk with as if it were of that VLAN.
    VlanNotAllowed = "vlan_not_allowed",
    /// The ARP packet is cut or not of Ethernet and IPv4.
    MalformedArp = "malformed_arp",
    /// The IPv4 header is cut or its lengths disagree.
    MalformedIpv4 = "malformed_ipv4",
    /// The IPv6 header is cut, its length disagrees, or its extension headers go beyond the packet.
    MalformedIpv6 = "malformed_ipv6",
    /// A first fragment does not hold all headers of its packet.
    HeadersInFragments = "headers_in_fragments",
    /// A later fragment of a packet whose first fragment was refused.
    RefusedFragment = "refused_fragment",
    /// A message to the gateway is malformed.
    MalformedMessage = "malformed_message",
    /// A message to the gateway is longer than the MTU, or than any real one.
    MessageTooLong = "message_too_long",
    /// A message to the gateway has more than 64 options.
    TooManyOptions = "too_many_options",
    /// An IPv4 header, or a message to the gateway, has a wrong checksum.
    BadChecksum = "bad_checksum",
    /// The source MAC is not the vNIC's; behind a bridge's port, it is a vNIC's.
    SpoofedMac = "spoofed_source_mac",
    /// The source MAC is a group's, or zero: a broken sender.
    InvalidSourceMac = "invalid_source_mac",
    /// More MACs than may be behind the port: raise its `mac_limit` if a bridge is there.
    MacLimit = "mac_limit",
    /// The ARP sender is not the vNIC, or behind another port it is one.
    SpoofedArp = "spoofed_arp_sender",
    /// The IPv4 source is neither the vNIC's address nor in its routed prefixes; of what comes from
    /// outside, it is inside, or nobody's.
    SpoofedIpv4 = "spoofed_source_ipv4",
    /// The IPv6 source is neither the vNIC's address nor in its routed prefixes; of what comes from
    /// outside, it is inside, or nobody's.
    SpoofedIpv6 = "spoofed_source_ipv6",
    /// Neighbour discovery tells where an address is that is not the vNIC's, or is another one's.
    SpoofedNeighbour = "spoofed_neighbour",
    /// A router advertisement or redirect from a guest, or a port that is to have no router.
    RogueRouter = "rogue_router",
    /// A DHCP server's message from a guest, or a port that is to have no server.
    RogueDhcpServer = "rogue_dhcp_server",
    /// The destination MAC is neither the gateway's nor a group's.
    ForeignMac = "foreign_destination_mac",
    /// A broadcast that is not for the gateway.
    Broadcast = "broadcast",
    /// A multicast that is not for the gateway.
    Multicast = "multicast",
    /// The frame is for the next bridge only (STP, LLDP, pause); see `reserved_groups`.
    ReservedGroup = "reserved_group",
    /// The destination is behind the port that the frame came from: look for a loop or a hub there.
    Hairpin = "hairpin",
    /// Nobody is known to have the destination's MAC, and the network does not flood.
    UnknownUnicast = "unknown_unicast",
    /// The port sends more frames to several receivers than `storm_pps`, or than become 200,000
    /// copies a second.
    StormLimited = "storm_limited",
    /// From one protected port to another.
    ProtectedPort = "protected_port",
    /// From one peer of a full mesh to another, which has got the frame from its sender.
    SplitHorizon = "split_horizon",
    /// The port is blocked for a while, since it is in a loop.
    PortBlocked = "port_blocked",
    /// A probe for loops that the daemon has not made: somebody forges them.
    BadProbe = "bad_probe",
    /// No vNIC of the network has the destination.
    NoRoute = "no_route",
    /// The TTL or hop limit ran out.
    HopLimit = "hop_limit_exceeded",
    /// The packet is longer than the MTU.
    ExceedsMtu = "exceeds_mtu",
    /// The destination vNIC has no running guest, or nobody is at the other end of the destination
    /// port.
    NoGuest = "no_guest",
    /// The destination guest posts no receive buffers fast enough.
    RxRingFull = "rx_ring_full",
    /// The frame does not fit the destination guest's receive buffers.
    RxBufferTooSmall = "rx_buffer_too_small",
    /// The vNIC that sends, or the one that receives, carries as much as it may.
    RateLimited = "rate_limited",
    /// The channel to another reactor is full.
    LinkFull = "link_full",
    /// The gateway serves no such protocol or port.
    NotServed = "not_served",
    /// The gateway took the message and owes no answer.
    Absorbed = "absorbed",
    /// The guest asked the gateway more than 1000 times in a second, or hosts behind the port asked
    /// for new addresses more than 20 times; or too many of its frames wait for a service.
    ReplyLimit = "reply_limit",
    /// A host behind a port is leased no address: none of `dhcp_pool` is free, or the port has one
    /// for each MAC that may be behind it.
    NoLease = "no_lease",
    /// A tunnel's packet came from a host that is none of its members: it is to be in `remote=` or
    /// `allow=` of the port's locator.
    UnknownVtep = "unknown_vtep",
    /// A tunnel's packet was for another network: the members have different numbers (`vni=`), or
    /// somebody else uses the UDP port.
    UnknownVni = "unknown_vni",
    /// Lost on purpose: the port has `impairments`; `--no-impairments` of `mvirt port update` or
    /// `mvirt nic update` ends them. Counted at that port, whichever way the frame went.
    ImpairedLoss = "impaired_loss",
    /// A line that is slow on purpose held as much as it may: `queue=`, 4 MiB each way, 16 MiB for
    /// all such ports of a reactor. Counted at that port.
    ImpairedQueue = "impaired_queue",
}
