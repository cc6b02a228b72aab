//! The network that an address of this host is in, as the kernel's table of routes has it
//! (`/proc/net/route` of proc(5)).

use ipnet::{IpNet, Ipv4Net};
use std::net::Ipv4Addr;

/// Returns the smallest network without a gateway that `address` is in, by the text of the table.
pub fn find(table: &str, address: Ipv4Addr) -> Option<IpNet> {
    if address.is_loopback() {
        // Its routes are in a table of their own.
        return Ipv4Net::new(Ipv4Addr::new(127, 0, 0, 0), 8).ok().map(IpNet::V4);
    }
    let networks = table.lines().skip(1).filter_map(network);
    let around = networks.filter(|net| net.contains(&address) && net.prefix_len() > 0);
    around.max_by_key(Ipv4Net::prefix_len).map(IpNet::V4)
}

/// Reads a line: interface, destination, gateway, …, mask, each address as the number that its
/// octets are in memory.
fn network(line: &str) -> Option<Ipv4Net> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address = |at: usize| {
        let number = u32::from_str_radix(fields.get(at)?, 16).ok()?;
        Some(Ipv4Addr::from(number.to_ne_bytes()))
    };
    let (destination, gateway, mask) = (address(1)?, address(2)?, address(7)?);
    if !gateway.is_unspecified() {
        return None;
    }
    Ipv4Net::with_netmask(destination, mask).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000000A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
eth1\t0001000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth2\t0002000A\t0100000A\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0
junk
";

    #[test]
    fn the_smallest_network_without_a_gateway_is_found() {
        let find = |address: &str| find(TABLE, address.parse().unwrap()).map(|net| net.to_string());
        assert_eq!(find("10.0.1.7").as_deref(), Some("10.0.1.0/24"));
        assert_eq!(find("10.0.2.7").as_deref(), Some("10.0.0.0/16"));
        assert_eq!(find("192.0.2.1"), None, "behind a gateway is not beside");
        assert_eq!(find("127.0.0.1").as_deref(), Some("127.0.0.0/8"));
    }
}
