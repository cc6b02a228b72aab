//! What `slirp://` comes to: the segment whose gateway `mvirt-egress` is, with the numbers of slirp
//! where nothing is said. Refuses numbers that do not fit together.

use crate::{
    dataplane::slirp::Spec,
    egress::protocol::{
        Configuration, Forward, Protocol, SEGMENT_TAG, Segment, SegmentIpv4, SegmentIpv6, VERSION,
    },
    locator::{self, Slirp},
};
use ipnet::{Ipv4Net, Ipv6Net};
use std::{
    collections::BTreeSet,
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr},
};
use tokio::sync::watch;

// As slirp has them (libvdeslirp: vdeslirp_init).
const GATEWAY: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 2, 2), 24);
const GATEWAY6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2), 64);
const HOSTNAME: &str = "slirp";
/// Of these within their subnet.
const DNS: u8 = 3;
const FIRST_LEASE: u32 = 15;
const MTU: u16 = 1500;
/// The least that a link may carry (RFC 8200 §5).
const MIN_MTU_IPV6: u16 = 1280;

/// Returns what the data plane makes of it.
pub(super) fn spec(slirp: &Slirp) -> io::Result<Spec> {
    // Either alone is the only one.
    let (v4, v6) = (slirp.v4 || !slirp.v6, slirp.v6 || !slirp.v4);
    let mtu = slirp.mtu.unwrap_or(MTU);
    if v6 && mtu < MIN_MTU_IPV6 {
        return Err(wrong("mtu", mtu, "at least 1280, or IPv4 alone, as /v4"));
    }
    let ipv4 = v4.then(|| ipv4(slirp)).transpose()?;
    let ipv6 = v6.then(|| ipv6(slirp)).transpose()?;
    for (option, needs) in [
        ("host", slirp.host.is_some() && !v4),
        ("dhcp", slirp.dhcp.is_some() && !v4),
        ("vnameserver", slirp.nameserver.is_some() && !v4),
        ("host6", slirp.host6.is_some() && !v6),
        ("vnameserver6", slirp.nameserver6.is_some() && !v6),
    ] {
        if needs {
            return Err(wrong(option, "", "none, since its family is switched off"));
        }
    }
    let forwards = [
        ("tcpfwd", Protocol::Tcp, &slirp.tcp_forwards),
        ("udpfwd", Protocol::Udp, &slirp.udp_forwards),
    ];
    let forwards = forwards.into_iter().flat_map(|(option, protocol, forwards)| {
        forwards.iter().map(move |it| forward(option, protocol, it, ipv4))
    });
    let forwards = forwards.collect::<io::Result<Vec<_>>>()?;
    Ok(Spec {
        configuration: Configuration {
            version: VERSION,
            nics: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            host_loopback: ipv4.filter(|_| slirp.loopback).map(|it| it.gateway.addr().into()),
            limits: Segment::limits(),
            forwards,
            segment: Some(Box::new(Segment {
                ipv4,
                ipv6,
                hostname: Some(slirp.hostname.clone().unwrap_or_else(|| HOSTNAME.into())),
                domain: slirp.domain.clone(),
                mtu,
                restricted: slirp.restricted,
                resolver: None,
            })),
        },
        // Whoever has public networks says so.
        guests: watch::channel(BTreeSet::new()).1,
    })
}

fn wrong(option: &str, value: impl fmt::Display, expected: &str) -> io::Error {
    let why = format!("{option} `{value}`: expected {expected}");
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

fn ipv4(slirp: &Slirp) -> io::Result<SegmentIpv4> {
    let gateway = slirp.host.unwrap_or(GATEWAY);
    if !(8..=30).contains(&gateway.prefix_len()) || !is_host(gateway, gateway.addr()) {
        let expected = "the address of a host in a subnet of /8 to /30, as 10.0.2.2\\/24";
        return Err(wrong("host", gateway, expected));
    }
    let network = u32::from(gateway.network());
    let within = |option, asked: Option<Ipv4Addr>, number: u32| {
        let address = asked.unwrap_or(Ipv4Addr::from(network | number));
        if is_host(gateway, address) && address != gateway.addr() {
            return Ok(address);
        }
        let expected = format!("another host's address in {}", gateway.trunc());
        Err(wrong(option, address, &expected))
    };
    let dns = within("vnameserver", slirp.nameserver, DNS.into())?;
    let dhcp = within("dhcp", slirp.dhcp, FIRST_LEASE)?;
    Ok(SegmentIpv4 { gateway, dhcp, dns: Some(dns) })
}

fn is_host(subnet: Ipv4Net, address: Ipv4Addr) -> bool {
    subnet.contains(&address) && address != subnet.network() && address != subnet.broadcast()
}

fn ipv6(slirp: &Slirp) -> io::Result<SegmentIpv6> {
    let gateway = slirp.host6.unwrap_or(GATEWAY6);
    let is_usable = |address: Ipv6Addr| {
        gateway.contains(&address) && address != gateway.network() && !address.is_multicast()
    };
    let address = gateway.addr();
    let is_link = address.is_unicast_link_local() || address.is_loopback();
    if !(16..=124).contains(&gateway.prefix_len()) || !is_usable(address) || is_link {
        let expected = "the address of a host in a prefix of /16 to /124, as fd00::2\\/64";
        return Err(wrong("host6", gateway, expected));
    }
    let dns = Ipv6Addr::from(u128::from(gateway.network()) | u128::from(DNS));
    let dns = slirp.nameserver6.unwrap_or(dns);
    if !is_usable(dns) || dns == address {
        let expected = format!("another host's address in {}", gateway.trunc());
        return Err(wrong("vnameserver6", dns, &expected));
    }
    Ok(SegmentIpv6 { gateway, dns: Some(dns) })
}

fn forward(
    option: &str,
    protocol: Protocol,
    forward: &locator::Forward,
    ipv4: Option<SegmentIpv4>,
) -> io::Result<Forward> {
    let (address, port) = forward.guest;
    let is_guest = ipv4.is_some_and(|it| {
        is_host(it.gateway, address) && address != it.gateway.addr() && Some(address) != it.dns
    });
    if !is_guest || port == 0 || forward.host.port() == 0 {
        let expected = "ports from 1 on, and the address of a guest in the subnet";
        return Err(wrong(option, forward, expected));
    }
    Ok(Forward {
        listen: forward.host,
        protocol,
        tag: SEGMENT_TAG,
        port,
        host: Some(address.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locator::Locator;

    fn made(text: &str) -> io::Result<Configuration> {
        let Locator::Slirp(slirp) = text.parse().unwrap() else { panic!("{text}") };
        spec(&slirp).map(|spec| spec.configuration)
    }

    #[test]
    fn numbers_are_those_of_slirp_or_follow_from_what_is_said() {
        let segment = made("slirp://").unwrap().segment.unwrap();
        let (ipv4, ipv6) = (segment.ipv4.unwrap(), segment.ipv6.unwrap());
        assert_eq!(
            (ipv4.gateway.to_string(), ipv4.dhcp),
            ("10.0.2.2/24".into(), [10, 0, 2, 15].into())
        );
        assert_eq!(ipv4.dns, Some([10, 0, 2, 3].into()));
        assert_eq!(
            (ipv6.gateway.to_string(), ipv6.dns.unwrap().to_string()),
            ("fd00::2/64".into(), "fd00::3".into())
        );
        assert_eq!((segment.mtu, segment.hostname.as_deref()), (1500, Some("slirp")));
        let all = concat!(
            "slirp:///v4/host=192.168.7.1\\/16/tcpfwd=10.0.0.1:80:192.168.7.9:8080/mtu=9000",
            "/disable_host_loopback=off"
        );
        let made = made(all).unwrap();
        let ipv4 = made.segment.clone().unwrap().ipv4.unwrap();
        assert_eq!(
            (ipv4.dhcp, ipv4.dns),
            ([192, 168, 0, 15].into(), Some([192, 168, 0, 3].into()))
        );
        assert!(made.segment.unwrap().ipv6.is_none());
        assert_eq!(made.host_loopback, Some([192, 168, 7, 1].into()));
        let forward = made.forwards[0];
        assert_eq!((forward.listen.to_string(), forward.port), ("10.0.0.1:80".into(), 8080));
        assert_eq!(forward.host, Some([192, 168, 7, 9].into()));
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused_by_name() {
        for (text, said) in [
            ("slirp:///host=10.0.2.0\\/24", "host `10.0.2.0/24`: expected"),
            ("slirp:///host=10.0.2.2\\/31", "host `10.0.2.2/31`"),
            (
                "slirp:///dhcp=10.0.3.1",
                "dhcp `10.0.3.1`: expected another host's address in 10.0.2.0/24",
            ),
            ("slirp:///vnameserver=10.0.2.2", "vnameserver `10.0.2.2`"),
            ("slirp:///host=10.0.2.1\\/28/vnameserver=10.0.2.2", "dhcp `10.0.2.15`"),
            ("slirp:///host6=fe80::2\\/64", "host6 `fe80::2/64`"),
            ("slirp:///vnameserver6=fd00::2", "vnameserver6 `fd00::2`"),
            ("slirp:///v6/dhcp=10.0.2.20", "dhcp ``: expected none"),
            ("slirp:///v6/tcpfwd=80:10.0.2.15:80", "tcpfwd `127.0.0.1:80:10.0.2.15:80`"),
            ("slirp:///udpfwd=80:10.0.2.3:80", "udpfwd `127.0.0.1:80:10.0.2.3:80`"),
            ("slirp:///tcpfwd=0:10.0.2.15:80", "tcpfwd `127.0.0.1:0:10.0.2.15:80`"),
            ("slirp:///mtu=576", "mtu `576`: expected at least 1280"),
        ] {
            let error = made(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
        assert!(made("slirp:///mtu=576/v4").is_ok());
    }
}
