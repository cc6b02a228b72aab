//! A burst of lookups of random hosts, in ours and in a prefix trie.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]

use criterion::{Criterion, Throughput};
use ipnet::Ipv4Net;
use mvirt_net::{
    addr::MacAddr,
    dataplane::{
        forward::{
            FibBuilder,
            tables::{NextHop, PortId},
        },
        frame::BURST,
    },
};
use prefix_trie::PrefixMap;
use std::{hint::black_box, net::Ipv4Addr};

/// Host number `number` of those with routes.
fn host(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + number)
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("fib");
    group.throughput(Throughput::Elements(BURST as u64));
    for routes in [10, 10_000, 1_000_000] {
        let mut builder = FibBuilder::default();
        let mut trie = PrefixMap::new();
        for number in 0..routes {
            let port = PortId { slot: number, generation: 1 };
            let mac = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
            let next_hop =
                builder.next_hop(NextHop { port, reactor: 0, mtu: 1500, mac, vlan: None });
            builder.host_ipv4(host(number), next_hop);
            trie.insert(Ipv4Net::new(host(number), 32).unwrap(), number);
        }
        let fib = builder.build(7);
        let mut random = 1_u32;
        let mut destinations = || {
            [(); BURST].map(|()| {
                // Xorshift (Marsaglia 2003).
                random ^= random << 13;
                random ^= random >> 17;
                random ^= random << 5;
                host(((u64::from(random) * u64::from(routes)) >> 32) as u32)
            })
        };
        group.bench_function(format!("{routes} routes"), |bencher| {
            let look = |to: [Ipv4Addr; BURST]| to.map(|to| fib.lookup_ipv4(to));
            bencher.iter(|| black_box(look(destinations())));
        });
        group.bench_function(format!("{routes} routes, prefix trie"), |bencher| {
            let net = |to| Ipv4Net::new(to, 32).unwrap();
            let look =
                |to: [Ipv4Addr; BURST]| to.map(|to| trie.get_lpm(&net(to)).map(|hit| *hit.1));
            bencher.iter(|| black_box(look(destinations())));
        });
    }
    group.finish();
    criterion.final_summary();
}
