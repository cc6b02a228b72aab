//! `bursts COUNT LEN KIND` carries bursts of frames of LEN octets from ring to ring, in a network
//! that is `routed` or `switched`, and nothing else: for `scripts/instructions.sh` to count.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]

#[expect(dead_code, reason = "the benchmark of the pipeline uses all of it")]
mod relay;

use mvirt_net::dataplane::frame::BURST;
use relay::{Kind, Relay};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, count, len, kind] = &args[..] else { panic!("bursts COUNT LEN KIND") };
    let count: usize = count.parse().unwrap();
    let kind = match &kind[..] {
        "switched" => Kind::Switched,
        _ => Kind::Routed(0),
    };
    let mut relay = Relay::new(len.parse().unwrap(), 2, kind);
    (0..count).for_each(|_| relay.burst());
    assert_eq!(relay.delivered(), (count * BURST) as u64);
}
