//! The DNS servers of the host, as resolv.conf(5) has them.

use crate::wire::dns_message::PORT;
use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV6},
    path::Path,
};

/// Servers that the host asks (MAXNS of resolv.h).
const MOST: usize = 3;

/// Returns the servers that such a text names, in its order; the host itself where it names none.
pub(crate) fn servers(text: &str) -> Vec<SocketAddr> {
    servers_with(text, scope)
}

/// As [`servers`], where `scope` returns the number of an interface.
fn servers_with(text: &str, scope: impl Fn(&str) -> io::Result<u32>) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    let servers = servers.filter_map(|server| match server.split_once('%') {
        None => Some(SocketAddr::new(server.parse().ok()?, PORT)),
        Some((address, interface)) => {
            let scope = interface.parse().or_else(|_| scope(interface)).ok()?;
            Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope).into())
        }
    });
    let mut found: Vec<_> = servers.take(MOST).collect();
    if found.is_empty() {
        // It says that there is one here.
        found.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
    }
    found
}

/// Returns the number of an interface.
fn scope(interface: &str) -> io::Result<u32> {
    // A part of a path, and no way to another.
    if interface.contains(['/', '.']) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let text = fs::read_to_string(Path::new("/sys/class/net").join(interface).join("ifindex"))?;
    text.trim().parse().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_the_hosts_resolver_reads_them() {
        let named = |name: &str| match name {
            "eth0" => Ok(7),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        let read = |text: &str| -> Vec<_> {
            servers_with(text, named).iter().map(ToString::to_string).collect()
        };
        let text = "# nameserver 192.0.2.9\n; nameserver 192.0.2.8\nsearch a.example\n\
            options edns0\nnameserver 127.0.0.53\nnameserver\tfe80::1%eth0 # mine\n\
            nameserver x\n nameserver fe80::2%4\nnameserver 192.0.2.4\n";
        assert_eq!(read(text), ["127.0.0.53:53", "[fe80::1%7]:53", "[fe80::2%4]:53"]);
        assert_eq!(read("nameserver fe80::1%eth9\nnameserver ::1"), ["[::1]:53"]);
        assert_eq!(read("nameserver\n;nameserver 1.1.1.1\n"), ["127.0.0.1:53"]);
        assert!(scope("../..").is_err());
        assert_eq!(scope("lo").ok(), Some(1));
    }
}
