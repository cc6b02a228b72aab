//! Any octets as messages from a VMM: the session takes them in any order, and what it plans is
//! consistent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mvirt_net::{
    addr::MacAddr,
    dataplane::{
        Device, features,
        foreign::Foreign,
        port::vhost_user::session::{
            Reply, Session,
            message::{HEADER_LEN, Header, Request},
        },
    },
};
use std::{fs::File, os::fd::OwnedFd};

fuzz_target!(|octets: &[u8]| {
    let device = Device {
        features: features(2),
        queue_pairs: 2,
        mac: MacAddr([0x52, 0x54, 0, 0, 0, 1]),
        mtu: 1500,
    };
    let mut session = Session::new(device);
    let mut rest = octets;
    while let Some((header, tail)) = rest.split_first_chunk::<HEADER_LEN>() {
        let Ok(header) = Header::parse(*header) else { return };
        // Mostly small requests: the size only says where the next begins.
        let size = (header.size as usize % 128).min(tail.len());
        let (payload, tail) = tail.split_at(size);
        rest = tail;
        let Ok(request) = Request::parse(header.request % 48, payload) else { continue };
        let fds: Vec<OwnedFd> =
            (0..size % 3).map(|_| File::open("/dev/null").unwrap().into()).collect();
        if let Ok(effect) = session.handle(request, fds.into_iter().map(Foreign::from).collect()) {
            if let Reply::Payload(reply) = effect.reply {
                assert!(reply.len() <= 4096);
            }
        }
        let mut fds = Vec::new();
        let saved = session.save(&mut fds).unwrap();
        let restored =
            Session::restore(device, saved.clone(), &mut fds.into_iter().map(Foreign::from))
                .unwrap();
        assert_eq!(restored.save(&mut Vec::new()).unwrap(), saved, "another process knows as much");
        if let Some(plan) = session.plan() {
            assert!(plan.pairs.len() == 2);
            for ring in plan.pairs.iter().flat_map(|(rx, tx)| [rx, tx]).flatten() {
                assert!(ring.config.size.is_power_of_two() && ring.config.size <= 32768);
            }
        }
    }
});
