//! What the daemon and its helper `mvirt-egress` say to each other: JSON, one object a message,
//! over a SOCK_SEQPACKET. Takes and returns messages; refuses keys that are not known.
//!
//! ```text
//! daemon                                    mvirt-egress
//!   Configuration ──────────────────────▶   opens what it will need, locks itself in
//!                 ◀──────────────────────   {"ready":true,…}
//!   {"add":…}, {"remove":…}, {"tell":{}} ▶
//!                 ◀──────────────────────   {"stats":…} each second in which something was carried
//!                 ◀──────────────────────   {"failed":"forward",…}
//! ```
//! Packets go over a second SOCK_SEQPACKET as a TUN device with IFF_VNET_HDR has them: twelve
//! octets of virtio-net header (`wire/vnet.rs`), then an IP packet. Its field `num_buffers` has no
//! other use there: it is the tag of the vNIC that a packet is from, or for. By that, networks of
//! the same addresses stay apart.
//!
//! Of a [`Segment`], each message is an Ethernet frame, with nothing before it.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// The one that this file describes.
pub const VERSION: u32 = 1;
/// Octets of a message at most. Whoever has more vNICs or forwards than fit into the first one adds
/// the rest.
// A UNIX socket takes 208 KiB at once unless an administrator has changed that.
pub const MAX_LEN: usize = 65_536;

/// The first message: what there is to carry, and what must not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// [`VERSION`].
    pub version: u32,
    /// Whose packets are carried.
    #[serde(default)]
    pub nics: Vec<Nic>,
    /// What vNICs may reach although nobody may by default.
    #[serde(default)]
    pub allow: Vec<IpNet>,
    /// What they may not reach, whatever is allowed.
    #[serde(default)]
    pub deny: Vec<Denied>,
    /// An address that is, for vNICs, the loopback address of this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_loopback: Option<IpAddr>,
    /// How much a vNIC may have at once.
    #[serde(default)]
    pub limits: Limits,
    /// Where to listen for vNICs.
    #[serde(default)]
    pub forwards: Vec<Forward>,
    /// What the socket of packets leads to, where it is a whole segment: there are no `nics` then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<Box<Segment>>,
}

/// A segment of Ethernet, whose gateway the helper is. All of its hosts are as one vNIC, whose tag
/// is [`SEGMENT_TAG`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Its network of IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<SegmentIpv4>,
    /// Its network of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<SegmentIpv6>,
    /// What a host is called that leases an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The domain of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Octets of the longest packet.
    #[serde(default = "default_mtu")]
    pub mtu: u16,
    /// There is no way out but answers to what came by forwards.
    #[serde(default)]
    pub restricted: bool,
    /// The DNS server that hosts reach by the addresses `dns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolver: Option<SocketAddr>,
}

/// Of a [`Segment`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentIpv4 {
    /// The gateway's address and its subnet.
    pub gateway: Ipv4Net,
    /// The first address that is leased.
    pub dhcp: Ipv4Addr,
    /// Where hosts find a DNS server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Ipv4Addr>,
}

/// Of a [`Segment`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentIpv6 {
    /// The gateway's address and its prefix.
    pub gateway: Ipv6Net,
    /// Where hosts find a DNS server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Ipv6Addr>,
}

/// Of what hosts of a [`Segment`] send.
pub const SEGMENT_TAG: u16 = 0;

/// Whose packets are carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// In the header of its packets.
    pub tag: u16,
    /// An address it may send from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    /// An address it may send from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// What is routed to it: it may send from that, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<IpNet>,
    /// Octets of the longest packet that it takes.
    #[serde(default = "default_mtu")]
    pub mtu: u16,
}

const fn default_mtu() -> u16 {
    1500
}

/// What vNICs may not reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Denied {
    /// Every address in it.
    Network(IpNet),
    /// A port of an address. Of the unspecified one, `0.0.0.0:50051` or `[::]:50051`: of every
    /// address of this host, and of no other host.
    Port(SocketAddr),
}

/// How much a vNIC may have at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// TCP connections.
    pub connections: u32,
    /// UDP ports that it sends from, beside those that forwards lead to.
    pub udp: u32,
    /// Identifiers of echo requests.
    pub echo: u32,
    /// Octets on their way in sockets and buffers, of all vNICs together.
    pub memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 1024, udp: 256, echo: 64, memory: 256 << 20 }
    }
}

/// What a forward carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// A socket of this host that listens for a vNIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Of this host.
    pub listen: SocketAddr,
    /// What comes there.
    pub protocol: Protocol,
    /// Of the vNIC.
    pub tag: u16,
    /// Of the vNIC's address of the family of `listen`.
    pub port: u16,
    /// Whose port, of a [`Segment`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<IpAddr>,
}

/// What the daemon says after the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// There is more to carry.
    Add(Addition),
    /// Some of it is not carried any longer.
    Remove(Removal),
    /// The hosts of the segment reach another DNS server from now on.
    Resolver(SocketAddr),
    /// Say what was carried, whether or not that has changed: who says nothing has hung.
    Tell {},
}

/// Of [`Order::Add`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Addition {
    /// One whose tag is there replaces it; what it has from addresses that it no longer has ends.
    pub nics: Vec<Nic>,
    /// One whose socket is there replaces it: what has come by that ends. The same once more
    /// changes nothing.
    pub forwards: Vec<Forward>,
    /// What may not be reached any longer. Connections to there end.
    pub deny: Vec<IpNet>,
}

/// Of [`Order::Remove`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Removal {
    /// Tags. Forwards to them go as well.
    pub nics: Vec<u16>,
    /// By their sockets. What has come by them ends.
    pub forwards: Vec<Listening>,
    /// What may be reached again, as it was denied.
    pub deny: Vec<IpNet>,
}

/// Which forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listening {
    /// As it was given.
    pub listen: SocketAddr,
    /// As it was given.
    pub protocol: Protocol,
}

/// What the helper says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Report {
    /// It carries packets from now on.
    Ready {
        /// Always.
        ready: bool,
        /// Whether it may send echo requests (`net.ipv4.ping_group_range`).
        echo: bool,
        /// How many descriptors all flows together may have: what the hard limit leaves.
        flows: u64,
    },
    /// What was carried since it began, each second in which that changes.
    Stats {
        /// Of vNICs, and beside.
        stats: Stats,
    },
    /// Something that was asked for is not to be had.
    Failed(Failure),
}

/// What is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "failed", rename_all = "snake_case")]
pub enum Failure {
    /// A forward. The others stay.
    Forward {
        /// As it was given.
        listen: SocketAddr,
        /// As it was given.
        protocol: Protocol,
        /// Why not.
        error: String,
        /// As a number of errno(3), where it is of the kernel's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        errno: Option<i32>,
    },
    /// All of it: a message that means nothing, or a system that has not what is needed. The helper
    /// ends.
    Helper {
        /// Why not.
        error: String,
    },
}

/// What was carried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Those whose counters have changed since they were told. A report may be one of several.
    pub nics: Vec<NicStats>,
    /// Packets that no vNIC has sent, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<Dropped, u64>,
}

/// What was carried for a vNIC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicStats {
    /// Of the vNIC.
    pub tag: u16,
    /// Packets it has sent.
    pub packets_out: u64,
    /// Their octets.
    pub octets_out: u64,
    /// Packets it was sent.
    pub packets_in: u64,
    /// Their octets.
    pub octets_in: u64,
    /// Open TCP connections.
    pub connections: u32,
    /// Open UDP ports, without those of forwards.
    pub udp: u32,
    /// Identifiers of echo requests.
    pub echo: u32,
    /// Packets that went nowhere, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<Dropped, u64>,
}

/// Why a packet went nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dropped {
    /// No vNIC has its tag.
    UnknownTag,
    /// Its source is no address of the vNIC.
    SpoofedSource,
    /// Cut, inconsistent, or of a wrong checksum.
    Malformed,
    /// Neither TCP nor UDP nor an echo request.
    UnknownProtocol,
    /// What vNICs may not reach.
    EgressDenied,
    /// The vNIC has as much open as it may have, or all of them together.
    EgressLimit,
    /// The host has no way there, or refused.
    Unreachable,
    /// A segment of no connection, or that no connection takes.
    StrayTcp,
    /// A fragment that fits no other, came twice, or whose packet never became whole.
    Fragment,
    /// The host may not send echo requests.
    EchoNotAllowed,
    /// The host's socket took no more.
    HostFull,
    /// Nobody took it from the socket in time.
    GuestFull,
}

impl Dropped {
    /// Returns its name, as in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::UnknownTag => "unknown_tag",
            Self::SpoofedSource => "spoofed_source",
            Self::Malformed => "malformed",
            Self::UnknownProtocol => "unknown_protocol",
            Self::EgressDenied => "egress_denied",
            Self::EgressLimit => "egress_limit",
            Self::Unreachable => "unreachable",
            Self::StrayTcp => "stray_tcp",
            Self::Fragment => "fragment",
            Self::EchoNotAllowed => "echo_not_allowed",
            Self::HostFull => "host_full",
            Self::GuestFull => "guest_full",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_str, to_string};

    #[test]
    fn the_first_message_is_this_text() {
        let text = concat!(
            r#"{"version":1,"nics":[{"tag":7,"ipv4":"10.0.0.2","ipv6":"fd00::2"}],"#,
            r#""allow":["169.254.169.0/24"],"deny":["10.9.0.0/16","0.0.0.0:50051","[::1]:80"],"#,
            r#""limits":{"connections":9},"#,
            r#""forwards":[{"listen":"0.0.0.0:8080","protocol":"tcp","tag":7,"port":80}]}"#
        );
        let read = from_str::<Configuration>(text).unwrap();
        let nic = Nic {
            tag: 7,
            ipv4: Some([10, 0, 0, 2].into()),
            ipv6: Some("fd00::2".parse().unwrap()),
            prefixes: vec![],
            mtu: 1500,
        };
        assert_eq!(read.nics, [nic]);
        let denied = [
            Denied::Network("10.9.0.0/16".parse().unwrap()),
            Denied::Port("0.0.0.0:50051".parse().unwrap()),
            Denied::Port("[::1]:80".parse().unwrap()),
        ];
        assert_eq!(read.deny, denied);
        assert_eq!(read.limits, Limits { connections: 9, ..Limits::default() });
        assert_eq!(read.forwards[0].port, 80);
        assert_eq!(from_str::<Configuration>(&to_string(&read).unwrap()).unwrap(), read);
        for bad in [
            r#"{"nics":[]}"#,
            r#"{"version":1,"nic":[]}"#,
            r#"{"version":1,"deny":["10.0.0.1"]}"#,
            r#"{"version":1,"nics":[{"tag":65536}]}"#,
        ] {
            assert!(from_str::<Configuration>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_segment_is_this_text() {
        let text = concat!(
            r#"{"version":1,"segment":{"ipv4":{"gateway":"10.0.2.2/24","dhcp":"10.0.2.15","#,
            r#""dns":"10.0.2.3"},"ipv6":{"gateway":"fd00::2/64"},"resolver":"127.0.0.53:53"},"#,
            r#""forwards":[{"listen":"127.0.0.1:80","protocol":"tcp","tag":0,"port":80,"#,
            r#""host":"10.0.2.15"}]}"#
        );
        let read = from_str::<Configuration>(text).unwrap();
        let segment = read.segment.clone().unwrap();
        let ipv4 = segment.ipv4.unwrap();
        assert_eq!((ipv4.gateway.addr(), segment.mtu), ([10, 0, 2, 2].into(), 1500));
        assert_eq!(read.forwards[0].host, Some([10, 0, 2, 15].into()));
        assert_eq!(from_str::<Configuration>(&to_string(&read).unwrap()).unwrap(), read);
        assert!(from_str::<Configuration>(r#"{"version":1,"segment":{"tftp":"x"}}"#).is_err());
    }

    #[test]
    fn orders_are_these_texts() {
        let add = r#"{"add":{"nics":[{"tag":1,"ipv4":"10.0.0.9"}]}}"#;
        let Order::Add(added) = from_str(add).unwrap() else { panic!("{add}") };
        assert_eq!((added.nics[0].tag, added.forwards.len()), (1, 0));
        let remove =
            r#"{"remove":{"nics":[1],"forwards":[{"listen":"[::]:53","protocol":"udp"}]}}"#;
        let Order::Remove(removed) = from_str(remove).unwrap() else { panic!("{remove}") };
        let listening = Listening { listen: "[::]:53".parse().unwrap(), protocol: Protocol::Udp };
        assert_eq!((removed.nics, removed.forwards), (vec![1], vec![listening]));
        let resolver = from_str::<Order>(r#"{"resolver":"[::1]:53"}"#).unwrap();
        assert_eq!(resolver, Order::Resolver("[::1]:53".parse().unwrap()));
        assert_eq!(from_str::<Order>(r#"{"tell":{}}"#).unwrap(), Order::Tell {});
        let Order::Add(added) = from_str(r#"{"add":{"deny":["10.1.0.0/24"]}}"#).unwrap() else {
            panic!("it denies");
        };
        assert_eq!(added.deny, ["10.1.0.0/24".parse().unwrap()]);
        assert!(from_str::<Order>(r#"{"remove":{"nic":1}}"#).is_err());
    }

    #[test]
    fn reports_are_these_texts() {
        let ready = Report::Ready { ready: true, echo: false, flows: 1984 };
        let failure = Failure::Forward {
            listen: "0.0.0.0:80".parse().unwrap(),
            protocol: Protocol::Tcp,
            error: "Permission denied".into(),
            errno: Some(13),
        };
        let nic =
            NicStats { tag: 7, dropped: [(Dropped::EgressDenied, 2)].into(), ..Default::default() };
        let stats = Stats { nics: vec![nic], dropped: BTreeMap::new() };
        let texts = [
            (ready, r#"{"ready":true,"echo":false,"flows":1984}"#),
            (
                Report::Failed(failure),
                concat!(
                    r#"{"failed":"forward","listen":"0.0.0.0:80","protocol":"tcp","#,
                    r#""error":"Permission denied","errno":13}"#
                ),
            ),
            (
                Report::Failed(Failure::Helper { error: "no".into() }),
                r#"{"failed":"helper","error":"no"}"#,
            ),
            (
                Report::Stats { stats },
                concat!(
                    r#"{"stats":{"nics":[{"tag":7,"packets_out":0,"octets_out":0,"packets_in":0,"#,
                    r#""octets_in":0,"connections":0,"udp":0,"echo":0,"#,
                    r#""dropped":{"egress_denied":2}}]}}"#
                ),
            ),
        ];
        for (report, text) in texts {
            assert_eq!(to_string(&report).unwrap(), text);
            assert_eq!(from_str::<Report>(text).unwrap(), report);
        }
    }
}
