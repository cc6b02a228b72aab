//! The packet path from ring to ring, hot: every line in this core's cache.
//!
//! `cargo bench --bench pipeline` times it; `-- --bursts N LEN` carries N bursts of frames of LEN octets and nothing
//! else, for `scripts/instructions.sh` to count.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]

mod relay;

use criterion::{Criterion, Throughput};
use mvirt_net::dataplane::frame::BURST;
use relay::Relay;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == "--bursts") {
        let number = |at: usize| args[at].parse::<usize>().unwrap();
        let mut relay = Relay::new(number(at + 2));
        (0..number(at + 1)).for_each(|_| relay.burst());
        assert_eq!(relay.delivered(), (number(at + 1) * BURST) as u64);
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("pipeline");
    group.throughput(Throughput::Elements(BURST as u64));
    for len in [64, 512, 1500] {
        let mut relay = Relay::new(len);
        group.bench_function(format!("{len} octets"), |bencher| bencher.iter(|| relay.burst()));
    }
    group.finish();
    criterion.final_summary();
}
