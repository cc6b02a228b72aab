//! Neighbour discovery and router advertisements of a segment (RFC 4861, RFC 4862, RFC 8106): hosts
//! choose addresses of the prefix themselves.

use super::{Dropped, Front, MacAddr, ROUTER, SegmentIpv6, Writer, icmpv6};
use crate::wire::ndp::{
    OVERRIDE, PrefixUse, ROUTER_LIFETIME_SECONDS, RouterAdvertisement, SOLICITED,
    is_solicited_node, target, tells_source, write_neighbour_advertisement,
};
use std::{
    net::Ipv6Addr,
    time::{Duration, Instant},
};

/// The gateway's address on the link (libslirp: LINKLOCAL_ADDR).
pub(super) const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// So many advertisements come soon after each other at first, and the others in this time (RFC
/// 4861 §6.2.1, §6.2.4).
const FIRST: u8 = 3;
const FIRST_INTERVAL: Duration = Duration::from_secs(16);
const INTERVAL: Duration = Duration::from_secs(400);
/// Who asks gets an answer, and all others hear of it: not more often than this (RFC 4861 §6.2.6:
/// MIN_DELAY_BETWEEN_RAS is three seconds, for those to all).
const MOST_OFTEN: Duration = Duration::from_secs(3);
/// Hop limit 64, no DHCPv6.
const WORD: u32 = 64 << 24;

/// When the router says by itself that it is there.
#[derive(Debug)]
pub(super) struct Advertisements {
    next: Option<Instant>,
    said: u8,
    to_all: Option<Instant>,
}

impl Advertisements {
    pub(super) fn new(wanted: bool, now: Instant) -> Self {
        Self { next: wanted.then_some(now), said: 0, to_all: None }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.next
    }

    /// Whether one is due; the next one comes later.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let is_due = self.next.is_some_and(|next| next <= now);
        if is_due {
            self.said = self.said.saturating_add(1);
            self.next = Some(now + if self.said < FIRST { FIRST_INTERVAL } else { INTERVAL });
            self.to_all = Some(now);
        }
        is_due
    }

    /// Whether all may be told now that somebody has asked.
    fn may_tell_all(&mut self, now: Instant) -> bool {
        let may = self.to_all.is_none_or(|last| now.duration_since(last) >= MOST_OFTEN);
        if may {
            self.to_all = Some(now);
        }
        may
    }
}

impl Front {
    /// Takes a message of neighbour discovery, which came from this link.
    pub(super) fn discovery(
        &mut self,
        from: MacAddr,
        (source, destination): (Ipv6Addr, Ipv6Addr),
        message: &[u8],
        now: Instant,
    ) -> Result<(), Dropped> {
        if !icmpv6::checksum_is_right(source, destination, message) || message.get(1) != Some(&0) {
            return Err(Dropped::Malformed);
        }
        let Some(network) = self.segment.ipv6 else { return Ok(()) };
        let is_host = |address: Ipv6Addr| {
            address.is_unicast_link_local() || network.gateway.contains(&address)
        };
        let has_source = !source.is_unspecified();
        if has_source && !is_host(source) {
            return Err(Dropped::SpoofedSource);
        }
        let check = |options: &[u8]| match tells_source(options) {
            // Without an address it must not (RFC 4861 §6.1.1, §7.1.1).
            Ok(tells) if has_source || !tells => Ok(()),
            _ => Err(Dropped::Malformed),
        };
        match message.first().copied().unwrap_or_default() {
            icmpv6::ROUTER_SOLICITATION => {
                check(message.get(icmpv6::HEADER_LEN..).ok_or(Dropped::Malformed)?)?;
                if has_source {
                    self.learn(source.into(), from, now);
                    self.advertise(Some((source, from)));
                } else if self.advertisements.may_tell_all(now) {
                    self.advertise(None);
                }
            }
            icmpv6::NEIGHBOUR_SOLICITATION => {
                let (target, options) = target(message).ok_or(Dropped::Malformed)?;
                check(options)?;
                if !has_source && !is_solicited_node(destination) {
                    return Err(Dropped::Malformed);
                }
                if has_source {
                    self.learn(source.into(), from, now);
                }
                if self.is_own(target.into()) {
                    self.say_where(network, target, has_source.then_some((source, from)));
                }
            }
            icmpv6::NEIGHBOUR_ADVERTISEMENT => {
                let (target, options) = target(message).ok_or(Dropped::Malformed)?;
                tells_source(options).map_err(|_| Dropped::Malformed)?;
                if self.is_own(target.into()) || !is_host(target) {
                    return Err(Dropped::SpoofedSource);
                }
                self.learn(target.into(), from, now);
            }
            // Another router's; hosts hear it all the same.
            _ => {}
        }
        Ok(())
    }

    /// Answers who asks for an address of ours; all, where that has none itself.
    fn say_where(
        &mut self,
        network: SegmentIpv6,
        target: Ipv6Addr,
        asker: Option<(Ipv6Addr, MacAddr)>,
    ) {
        let is_router = Some(target) != network.dns;
        let flags = OVERRIDE | if is_router { ROUTER } else { 0 };
        let (to, flags) = match asker {
            Some(asker) => (asker, flags | SOLICITED),
            None => ((ALL_NODES, MacAddr::ipv6_multicast(ALL_NODES)), flags),
        };
        let (mac, mut body) = (self.mac, [0; 24]);
        if write_neighbour_advertisement(&mut Writer::new(&mut body), target, mac).is_ok() {
            self.say_icmpv6(target, to, (icmpv6::NEIGHBOUR_ADVERTISEMENT, 0, flags), &body);
        }
    }

    /// Advertises the router to who has asked, or to all.
    pub(super) fn advertise(&mut self, asker: Option<(Ipv6Addr, MacAddr)>) {
        let Some(network) = self.segment.ipv6 else { return };
        let restricted = self.segment.restricted;
        let dns = network.dns.filter(|_| !restricted);
        // Addresses of other lengths no host can choose (RFC 4862 §5.5.3 d, RFC 7421).
        let usage = match network.gateway.prefix_len() {
            64 => PrefixUse::OnLinkAutonomous,
            _ => PrefixUse::OnLink,
        };
        let mut body = [0; 256];
        let mut options = Writer::new(&mut body);
        let advertisement = RouterAdvertisement {
            mac: self.mac,
            mtu: self.segment.mtu.into(),
            prefixes: &[(network.gateway, usage)],
            dns: dns.as_slice(),
            domain: None,
        };
        if advertisement.write(&mut options).is_err() {
            return;
        }
        let len = options.len();
        let lifetime = if restricted { 0 } else { ROUTER_LIFETIME_SECONDS };
        let words = (icmpv6::ROUTER_ADVERTISEMENT, 0, WORD | u32::from(lifetime));
        let to = asker.unwrap_or((ALL_NODES, MacAddr::ipv6_multicast(ALL_NODES)));
        self.say_icmpv6(LINK_LOCAL, to, words, &body[..len]);
    }
}
