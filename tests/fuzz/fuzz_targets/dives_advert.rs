//! Datagrams of the discovery group: whatever they are, peers stay few, and what is understood is
//! written the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mvirt_net::dives::{advert, peers::Peers};
use std::time::Instant;

fuzz_target!(|octets: &[u8]| {
    let Some((address, form)) = advert::parse(octets) else { return };
    assert_eq!(
        advert::parse(&advert::write(address, form)).map(|found| found.0.ip()),
        Some(address.ip())
    );
    let mut peers =
        Peers::new("10.0.0.1:3333".parse().unwrap(), vec!["10.0.0.0/8".parse().unwrap()]);
    peers.hear(address, Instant::now());
    assert!(peers.addresses().all(|peer| peer.port() > 0 && !peer.ip().is_multicast()));
});
