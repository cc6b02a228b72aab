//! Any octets as the datagrams that a tunnel receives: a header is what RFC 7348 says, and a MAC is
//! behind whoever was heard with it last, until that is too long ago.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mvirt_net::{
    addr::MacAddr,
    dataplane::port::tunnel::remotes::Remotes,
    wire::vxlan::{HEADER_LEN, Header},
};
use std::{collections::HashMap, net::SocketAddr};

/// Seconds that a MAC is known.
const EXPIRE_TIME: u32 = 100;

/// Datagrams: from whom, how many seconds after the one before, and the octets.
type Datagrams<'a> = Vec<(u8, u8, &'a [u8])>;

fuzz_target!(|datagrams: Datagrams<'_>| {
    let mut remotes = Remotes::new(EXPIRE_TIME);
    let (mut heard, mut now) = (HashMap::<MacAddr, (SocketAddr, u32)>::new(), 0);
    for (from, seconds, octets) in datagrams {
        now += u32::from(seconds);
        let from = SocketAddr::from(([10, 0, 0, from], 4789));
        let parsed = Header::parse(octets);
        assert_eq!(parsed.is_some(), octets.len() >= HEADER_LEN);
        let Some((header, frame)) = parsed else { continue };
        assert_eq!(frame, &octets[HEADER_LEN..]);
        let vni = u32::from_be_bytes([0, octets[4], octets[5], octets[6]]);
        assert_eq!(header.vni(), (octets[0] & 8 != 0).then_some(vni));
        let is_plain = octets[..4] == [8, 0, 0, 0] && octets[7] == 0;
        assert_eq!(header == Header::new(vni), is_plain, "vxvde compares all of it");
        match frame.get(6..12) {
            Some(source) => {
                let source = MacAddr(source.try_into().expect("six octets"));
                remotes.learn(source, from, now);
                if !source.is_multicast() {
                    heard.insert(source, (from, now));
                }
            }
            // The goodbye of a cloud's member.
            None => {
                remotes.forget(from);
                heard.retain(|_, (address, _)| *address != from);
            }
        }
        for (mac, (address, seen)) in &heard {
            let known = (now - seen < EXPIRE_TIME).then_some(*address);
            assert_eq!(remotes.find(*mac, now), known);
        }
    }
});
