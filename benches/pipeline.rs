//! The packet path from ring to ring on one core: hot, every line in its cache; with many routes;
//! with many vNICs.
//!
//! `cargo bench --bench pipeline` times it.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]

#[expect(dead_code, reason = "what counts instructions uses all of it")]
mod relay;

use criterion::{Criterion, Throughput};
use mvirt_net::dataplane::frame::BURST;
use relay::{Kind, Relay};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("pipeline");
    group.throughput(Throughput::Elements(BURST as u64));
    for len in [64, 512, 1500] {
        for (kind, name) in [(Kind::Routed(0), "routed"), (Kind::Switched, "switched")] {
            let mut relay = Relay::new(len, 2, kind);
            let name = format!("{len} octets, {name}");
            group.bench_function(name, |bencher| bencher.iter(|| relay.burst()));
        }
    }
    for routes in [10, 10_000, 1_000_000] {
        let mut relay = Relay::new(64, 2, Kind::Routed(routes));
        group.bench_function(format!("64 octets, {routes} routes"), |bencher| {
            bencher.iter(|| relay.burst_to_routes());
        });
    }
    for guests in [2, 16, 128, 1000] {
        let mut relay = Relay::new(64, guests, Kind::Routed(0));
        group.throughput(Throughput::Elements(BURST as u64 * u64::from(guests)));
        group.bench_function(format!("64 octets, {guests} vNICs send"), |bencher| {
            bencher.iter(|| relay.turn());
        });
    }
    group.finish();
    criterion.final_summary();
}
