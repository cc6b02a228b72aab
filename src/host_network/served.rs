//! Ports that processes of the host serve (proc_pid_net(5), `/proc/net/tcp` and its like), which a
//! forward would take from them.

use crate::model::{Forward, Protocol};
use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

/// States of sockets that wait for whoever comes (`include/net/tcp_states.h`): TCP's LISTEN, and
/// CLOSE, which is UDP's of one that is not connected.
const LISTEN: &str = "0A";
const UNCONNECTED: &str = "07";

/// Returns where a process of the host listens that a forward takes the callers from, if one does.
pub fn served(forward: &Forward) -> io::Result<Option<SocketAddr>> {
    // What comes to an address that the host does not have reaches none of its processes.
    if !forward.listen.is_unspecified() && UdpSocket::bind((forward.listen, 0)).is_err() {
        return Ok(None);
    }
    let name = forward.protocol.name();
    // One of IPv6 may hear those of IPv4, too.
    let tables = [format!("/proc/net/{name}"), format!("/proc/net/{name}6")];
    for table in tables {
        let text = match fs::read_to_string(table) {
            // Without IPv6, there is none of it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text?,
        };
        let found = listeners(&text, forward.protocol).find(|at| is_taken(forward, *at));
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Returns where the sockets of a table listen.
fn listeners(table: &str, protocol: Protocol) -> impl Iterator<Item = SocketAddr> {
    let wanted = match protocol {
        Protocol::Tcp => LISTEN,
        Protocol::Udp => UNCONNECTED,
    };
    table.lines().skip(1).filter_map(move |line| {
        let mut words = line.split_ascii_whitespace();
        let (address, port) = words.nth(1)?.split_once(':')?;
        // Behind the other end's address.
        let state = words.nth(1)?;
        let at = SocketAddr::new(parse(address)?, u16::from_str_radix(port, 16).ok()?);
        (state == wanted).then_some(at)
    })
}

/// Reads an address as the kernel writes it: words of 32 bits, each as a number of this machine.
fn parse(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = text.get(at * 8..at * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    match text.len() {
        8 => word(0).map(|octets| Ipv4Addr::from(octets).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let octets: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(octets).to_canonical())
        }
        _ => None,
    }
}

/// Whether a forward takes callers from what listens there.
fn is_taken(forward: &Forward, at: SocketAddr) -> bool {
    let (listen, address) = (forward.listen, at.ip());
    let is_in_reach = match address {
        // It hears those of IPv4, too, unless it is told not to, which is not seen.
        IpAddr::V6(address) if address.is_unspecified() => true,
        // Those who call by loopback addresses reach the process as before.
        _ if address.is_loopback() || address.is_ipv4() != listen.is_ipv4() => false,
        _ => address.is_unspecified() || listen.is_unspecified() || address == listen,
    };
    is_in_reach && forward.listen_ports.ranges().iter().any(|range| range.contains(&at.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 010200C0:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1
   2: 010200C0:C001 020200C0:01BB 01 00000000:00000000 00:00000000 00000000     0        0 3 1
";
    const TCP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue
   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 00000000:0
   1: B80D0120000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:0
";

    #[test]
    fn listeners_are_told_from_connections_and_from_what_a_forward_leaves_them() {
        let of = |table: &str| listeners(table, Protocol::Tcp).collect::<Vec<_>>();
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        // As a machine of this order writes them.
        if cfg!(target_endian = "little") {
            assert_eq!(of(TCP), [at("127.0.0.1:22"), at("192.0.2.1:80")]);
            assert_eq!(of(TCP6), [at("[::]:22"), at("[2001:db8::1]:80")]);
        }
        assert_eq!(listeners(TCP, Protocol::Udp).next(), None);
        for (listen, listener, expected) in [
            ("0.0.0.0", "192.0.2.1:80", true),
            ("0.0.0.0", "0.0.0.0:81", true),
            ("0.0.0.0", "[::]:80", true),
            ("0.0.0.0", "[2001:db8::1]:80", false),
            ("0.0.0.0", "127.0.0.1:80", false),
            ("0.0.0.0", "0.0.0.0:82", false),
            ("192.0.2.1", "0.0.0.0:80", true),
            ("192.0.2.1", "192.0.2.9:80", false),
            ("::", "[2001:db8::1]:80", true),
            ("::", "0.0.0.0:80", false),
        ] {
            let forward: Forward = serde_json::from_value(serde_json::json!({
                "id": uuid::Uuid::nil(), "name": "f", "network_id": uuid::Uuid::nil(),
                "listen": listen, "protocol": "tcp", "listen_ports": "80-81",
                "nic_id": uuid::Uuid::nil(), "asked": uuid::Uuid::nil(),
                "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
            }))
            .unwrap();
            assert_eq!(is_taken(&forward, at(listener)), expected, "{listen} {listener}");
        }
    }
}
