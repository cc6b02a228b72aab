//! DHCPv4 with slirp's numbers (RFC 2131): addresses from 10.0.2.15 on, for a day.
//!
//! Takes clients' messages and the time, returns answers. Nothing of it outlives the process: who
//! renews an address that nobody else has keeps it.

use crate::{
    addr::MacAddr,
    egress::protocol::SegmentIpv4,
    wire::{
        Full, Writer,
        dhcpv4::{Header, MIN_LEN, kind, option},
        options::{Budget, Layout, Options, Unreadable},
    },
};
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// Addresses that are leased at most, as many as hosts are known.
const MOST: u32 = super::neighbours::MOST as u32;
/// How long an address is leased (libslirp: LEASE_TIME).
const LEASE: Duration = Duration::from_secs(24 * 3600);
/// How long one is kept that was offered, and one that somebody else was found to have.
const OFFERED: Duration = Duration::from_secs(60);
const DECLINED: Duration = Duration::from_secs(600);
/// Octets of an answer at most: what every client takes (RFC 2131 §2), less IP and UDP.
const MAX_LEN: usize = 576 - 28;

/// What clients are told, and who has which address.
#[derive(Debug)]
pub(super) struct Server {
    network: SegmentIpv4,
    names: Names,
    first: u32,
    last: u32,
    leases: BTreeMap<u32, Lease>,
}

/// What clients are told beside addresses.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    pub(super) hostname: Option<String>,
    pub(super) domain: Option<String>,
    pub(super) mtu: u16,
    /// There is no way out, and so no router and no DNS.
    pub(super) restricted: bool,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    /// None: somebody who has not asked.
    mac: Option<MacAddr>,
    until: Instant,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) payload: Vec<u8>,
    /// To all; else to who has asked.
    pub(super) is_broadcast: bool,
}

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Answer(Answer),
    /// The client says that it has an address no longer.
    Released(Ipv4Addr),
}

/// What a client says.
#[derive(Debug, Default)]
struct Request {
    kind: u8,
    wanted: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

impl Request {
    fn parse(options: &[u8]) -> Result<Self, Unreadable> {
        let (mut request, budget) = (Self::default(), Budget::new());
        for item in Options::new(Layout::Dhcpv4, options, &budget) {
            let item = item?;
            let address = || <[u8; 4]>::try_from(item.value).ok().map(Ipv4Addr::from);
            match u8::try_from(item.code) {
                Ok(option::MESSAGE_TYPE) => {
                    request.kind = item.value.first().copied().unwrap_or(0);
                }
                Ok(option::REQUESTED_ADDRESS) => request.wanted = address(),
                Ok(option::SERVER) => request.server = address(),
                _ => {}
            }
        }
        Ok(request)
    }
}

impl Server {
    pub(super) fn new(network: SegmentIpv4, names: Names) -> Self {
        let first = u32::from(network.dhcp);
        // The last address of a subnet is its broadcast.
        let end = u32::from(network.gateway.broadcast());
        let last = end.min(first.saturating_add(MOST)).saturating_sub(1);
        Self { network, names, first, last, leases: BTreeMap::new() }
    }

    /// Answers a message of a client whose frames come from `mac`. What others have according to
    /// `is_taken` nobody is offered.
    pub(super) fn answer(
        &mut self,
        message: &[u8],
        mac: MacAddr,
        is_taken: impl Fn(Ipv4Addr) -> bool,
        now: Instant,
    ) -> Option<Outcome> {
        let (header, options) = Header::parse(message)?;
        let request = Request::parse(options).ok()?;
        // It would lease in another's name.
        if header.mac() != mac {
            return None;
        }
        let own = self.network.gateway.addr();
        if request.server.is_some_and(|server| server != own) {
            return None;
        }
        let client = Some(header.client()).filter(|client| !client.is_unspecified());
        let wanted = request.wanted.or(client);
        let (kind, yours) = match request.kind {
            kind::DISCOVER => (kind::OFFER, self.offer(mac, wanted, &is_taken, now)?),
            kind::REQUEST if is_taken(wanted?) => (kind::NAK, Ipv4Addr::UNSPECIFIED),
            kind::REQUEST => match self.take(mac, wanted?, now) {
                Some(address) => (kind::ACK, address),
                None => (kind::NAK, Ipv4Addr::UNSPECIFIED),
            },
            kind::INFORM => (kind::ACK, Ipv4Addr::UNSPECIFIED),
            kind::RELEASE => {
                self.end(mac, client?, Lease { mac: Some(mac), until: now });
                return client.map(Outcome::Released);
            }
            kind::DECLINE => {
                self.end(mac, wanted?, Lease { mac: None, until: now + DECLINED });
                return None;
            }
            _ => return None,
        };
        let payload = self.write(header, kind, yours, request.kind == kind::INFORM).ok()?;
        let is_broadcast = header.wants_broadcast() || kind == kind::NAK;
        Some(Outcome::Answer(Answer { payload, is_broadcast }))
    }

    fn is_leased(&self, number: u32) -> bool {
        let own = [Some(self.network.gateway.addr()), self.network.dns];
        let is_own = own.into_iter().flatten().any(|own| u32::from(own) == number);
        (self.first..=self.last).contains(&number) && !is_own
    }

    /// Whether nobody but `mac` has an address now.
    fn is_free(&self, number: u32, mac: MacAddr, now: Instant) -> bool {
        let lease = self.leases.get(&number);
        lease.is_none_or(|lease| lease.mac == Some(mac) || lease.until <= now)
    }

    /// Returns an address for a client: the one that it had, or wants; else the first that nobody
    /// has had; else the one that has been free for longest.
    fn offer(
        &mut self,
        mac: MacAddr,
        wanted: Option<Ipv4Addr>,
        is_taken: impl Fn(Ipv4Addr) -> bool,
        now: Instant,
    ) -> Option<Ipv4Addr> {
        let may = |number: &u32| self.is_leased(*number) && !is_taken((*number).into());
        let had = self.leases.iter().find(|(_, lease)| lease.mac == Some(mac));
        let had = had.map(|(number, _)| *number).filter(may);
        let wanted = wanted.map(u32::from).filter(|it| may(it) && self.is_free(*it, mac, now));
        let mut numbers = self.first..=self.last;
        let mut new = || numbers.find(|number| may(number) && !self.leases.contains_key(number));
        let free = || {
            let free =
                self.leases.iter().filter(|(number, lease)| lease.until <= now && may(number));
            free.min_by_key(|(_, lease)| lease.until).map(|(number, _)| *number)
        };
        let number = had.or(wanted).or_else(&mut new).or_else(free)?;
        let before = self.leases.get(&number).filter(|lease| lease.mac == Some(mac));
        let until = before.map_or(now, |lease| lease.until).max(now + OFFERED);
        self.leases.insert(number, Lease { mac: Some(mac), until });
        Some(number.into())
    }

    /// Leases an address to who has chosen it, unless that is another's.
    fn take(&mut self, mac: MacAddr, wanted: Ipv4Addr, now: Instant) -> Option<Ipv4Addr> {
        let number = u32::from(wanted);
        if !self.is_leased(number) || !self.is_free(number, mac, now) {
            return None;
        }
        // A host has one.
        self.leases.retain(|other, lease| *other == number || lease.mac != Some(mac));
        self.leases.insert(number, Lease { mac: Some(mac), until: now + LEASE });
        Some(wanted)
    }

    /// A client has its address no longer.
    fn end(&mut self, mac: MacAddr, address: Ipv4Addr, lease: Lease) {
        if let Some(held) = self.leases.get_mut(&u32::from(address))
            && held.mac == Some(mac)
        {
            *held = lease;
        }
    }

    fn write(
        &self,
        header: &Header,
        kind: u8,
        yours: Ipv4Addr,
        is_inform: bool,
    ) -> Result<Vec<u8>, Full> {
        let own = self.network.gateway.addr();
        let mut buffer = [0; MAX_LEN];
        let mut writer = Writer::new(&mut buffer);
        header.write_reply(&mut writer, yours, own)?;
        let mut push = |code, value: &[u8]| {
            writer.push_slice(&[code, value.len() as u8])?;
            writer.push_slice(value)
        };
        push(option::MESSAGE_TYPE, &[kind])?;
        push(option::SERVER, &own.octets())?;
        if kind == kind::NAK {
            push(option::MESSAGE, b"that address is not to be had")?;
        } else {
            push(option::SUBNET_MASK, &self.network.gateway.netmask().octets())?;
            if !self.names.restricted {
                push(option::ROUTER, &own.octets())?;
                if let Some(dns) = self.network.dns {
                    push(option::DNS, &dns.octets())?;
                }
            }
            if !is_inform {
                push(option::LEASE_TIME, &(LEASE.as_secs() as u32).to_be_bytes())?;
            }
            if self.names.mtu != 1500 {
                push(option::MTU, &self.names.mtu.to_be_bytes())?;
            }
            for (code, name) in [
                (option::HOST_NAME, &self.names.hostname),
                (option::DOMAIN_NAME, &self.names.domain),
            ] {
                // Longer ones have no place in one option.
                if let Some(name) = name.as_ref().filter(|name| (1..=128).contains(&name.len())) {
                    push(code, name.as_bytes())?;
                }
            }
        }
        writer.push_slice(&[option::END])?;
        let len = writer.len().max(MIN_LEN);
        Ok(buffer[..len].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn server(gateway: &str, dhcp: [u8; 4]) -> Server {
        let network = SegmentIpv4 {
            gateway: gateway.parse().unwrap(),
            dhcp: dhcp.into(),
            dns: Some([10, 0, 2, 3].into()),
        };
        let hostname = Some("slirp".into());
        Server::new(network, Names { hostname, mtu: 1500, ..Names::default() })
    }

    fn mac(number: u16) -> MacAddr {
        let [a, b] = number.to_be_bytes();
        MacAddr([2, 0, 0, 0, a, b])
    }

    fn message(from: u16, client: [u8; 4], options: &[u8]) -> Vec<u8> {
        let mut message = vec![1, 1, 6, 0, 9, 9, 9, 9, 0, 0, 0, 0];
        message.extend(client);
        message.extend([0; 12]);
        message.extend(mac(from).0);
        message.extend([0; 10 + 192]);
        message.extend([99, 130, 83, 99]);
        message.extend(options);
        message.push(255);
        message
    }

    /// The type of an answer and the address in it.
    fn said(outcome: Option<Outcome>) -> Option<(u8, [u8; 4])> {
        let Outcome::Answer(Answer { payload, .. }) = outcome? else { return None };
        assert_eq!(payload[240..242], [53, 1]);
        Some((payload[242], payload[16..20].try_into().unwrap()))
    }

    fn ask(server: &mut Server, from: u16, options: &[u8], now: Instant) -> Option<(u8, [u8; 4])> {
        said(server.answer(&message(from, [0; 4], options), mac(from), |_| false, now))
    }

    #[test]
    fn the_first_host_gets_what_slirp_gives() {
        let (mut server, now) = (server("10.0.2.2/24", [10, 0, 2, 15]), Instant::now());
        let discover = message(1, [0; 4], &[53, 1, 1]);
        let outcome = server.answer(&discover, mac(1), |_| false, now);
        let Some(Outcome::Answer(answer)) = outcome else { panic!("{outcome:?}") };
        let options = [
            53, 1, 2, 54, 4, 10, 0, 2, 2, 1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 2, 2, 6, 4, 10, 0,
            2, 3, 51, 4, 0, 1, 0x51, 0x80, 12, 5, b's', b'l', b'i', b'r', b'p', 255,
        ];
        assert_eq!(answer.payload[240..][..options.len()], options);
        assert_eq!((answer.payload.len(), answer.is_broadcast), (300, false));
        assert_eq!(said(Some(Outcome::Answer(answer))), Some((2, [10, 0, 2, 15])));
        let request = [53, 1, 3, 50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2];
        assert_eq!(ask(&mut server, 1, &request, now), Some((5, [10, 0, 2, 15])));
        assert_eq!(ask(&mut server, 2, &[53, 1, 1], now), Some((2, [10, 0, 2, 16])));
        assert_eq!(ask(&mut server, 1, &[53, 1, 1], now), Some((2, [10, 0, 2, 15])), "as before");
    }

    #[test]
    fn an_address_is_of_one_host_until_it_is_given_back_or_over() {
        let (mut server, now) = (server("10.0.2.2/24", [10, 0, 2, 15]), Instant::now());
        let want = [53, 1, 3, 50, 4, 10, 0, 2, 20];
        assert_eq!(ask(&mut server, 1, &want, now), Some((5, [10, 0, 2, 20])));
        assert_eq!(ask(&mut server, 2, &want, now), Some((6, [0; 4])), "refused");
        let later = now + LEASE + Duration::from_secs(1);
        assert_eq!(ask(&mut server, 2, &want, later), Some((5, [10, 0, 2, 20])));
        let release = message(2, [10, 0, 2, 20], &[53, 1, 7]);
        let released = Some(Outcome::Released([10, 0, 2, 20].into()));
        assert_eq!(server.answer(&release, mac(2), |_| false, later), released);
        assert_eq!(ask(&mut server, 1, &want, later), Some((5, [10, 0, 2, 20])));
        assert_eq!(ask(&mut server, 1, &[53, 1, 4, 50, 4, 10, 0, 2, 20], later), None);
        assert_eq!(ask(&mut server, 1, &want, later), Some((6, [0; 4])), "somebody has it");
        // Who renews names it as its own.
        let renewal = message(3, [10, 0, 2, 33], &[53, 1, 3]);
        assert_eq!(
            said(server.answer(&renewal, mac(3), |_| false, now)),
            Some((5, [10, 0, 2, 33]))
        );
    }

    #[test]
    fn what_somebody_has_without_a_lease_nobody_is_offered() {
        // As after a restart, which forgets leases, while their hosts speak.
        let (mut server, now) = (server("10.0.2.2/24", [10, 0, 2, 15]), Instant::now());
        let taken = |address: Ipv4Addr| address.octets() == [10, 0, 2, 15];
        let mut say =
            |options: &[u8]| said(server.answer(&message(2, [0; 4], options), mac(2), taken, now));
        assert_eq!(say(&[53, 1, 1]), Some((2, [10, 0, 2, 16])));
        assert_eq!(say(&[53, 1, 3, 50, 4, 10, 0, 2, 15]), Some((6, [0; 4])));
        assert_eq!(say(&[53, 1, 3, 50, 4, 10, 0, 2, 16]), Some((5, [10, 0, 2, 16])));
    }

    #[test]
    fn what_is_not_for_it_or_nobodys_to_lease_is_not_answered_or_refused() {
        let (mut server, now) = (server("10.0.2.2/24", [10, 0, 2, 15]), Instant::now());
        for options in
            [&[53, 1, 3, 54, 4, 10, 0, 2, 9][..], &[53, 1, 3], &[53, 9, 1], &[53, 0], &[]]
        {
            assert_eq!(ask(&mut server, 1, options, now), None, "{options:?}");
        }
        let another = server.answer(&message(1, [0; 4], &[53, 1, 1]), mac(2), |_| false, now);
        assert_eq!(another, None, "in another's name");
        for address in [[10, 0, 2, 2], [10, 0, 2, 14], [10, 0, 2, 255], [192, 168, 0, 1]] {
            let want = [&[53, 1, 3, 50, 4][..], &address].concat();
            assert_eq!(ask(&mut server, 1, &want, now), Some((6, [0; 4])), "{address:?}");
        }
    }

    #[test]
    fn where_all_are_leased_the_one_that_is_over_for_longest_comes_next() {
        // 10.0.2.1 to 10.0.2.6, of which two are its own.
        let (mut server, now) = (server("10.0.2.2/29", [10, 0, 2, 1]), Instant::now());
        for host in 0..4 {
            let offered = ask(&mut server, host, &[53, 1, 1], now).unwrap().1;
            let request = [&[53, 1, 3, 50, 4][..], &offered].concat();
            let at = now + Duration::from_secs((9 - host).into());
            assert_eq!(ask(&mut server, host, &request, at), Some((5, offered)));
        }
        assert_eq!(ask(&mut server, 9, &[53, 1, 1], now), None);
        let later = now + LEASE + Duration::from_secs(20);
        assert_eq!(ask(&mut server, 9, &[53, 1, 1], later), Some((2, [10, 0, 2, 6])));
    }

    proptest! {
        #[test]
        fn no_two_hosts_have_one_address(
            messages in prop::collection::vec((0u16..40, 1u8..9, 10u8..30, 0u64..40_000), 0..200)
        ) {
            let (mut server, mut now) = (server("10.0.2.2/27", [10, 0, 2, 15]), Instant::now());
            let mut held: BTreeMap<[u8; 4], (u16, Instant)> = BTreeMap::new();
            for (host, kind, last, seconds) in messages {
                now += Duration::from_secs(seconds);
                let options = [53, 1, kind, 50, 4, 10, 0, 2, last];
                match ask(&mut server, host, &options, now) {
                    Some((kind::ACK, address)) if kind == kind::REQUEST => {
                        if let Some((other, until)) = held.get(&address) {
                            prop_assert!(*other == host || *until <= now, "{address:?}");
                        }
                        held.retain(|_, (other, _)| *other != host);
                        held.insert(address, (host, now + LEASE));
                    }
                    _ if kind == kind::DECLINE => held.retain(|at, (other, _)| {
                        *other != host || *at != [10, 0, 2, last]
                    }),
                    _ => {}
                }
            }
            prop_assert!(server.leases.len() <= 17);
        }
    }
}
