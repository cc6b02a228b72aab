//! Call descriptors that are full and made to block, and VMMs that let nobody empty them (R63).

use super::{
    rig::{BUFFERS, Rig, Shape, words},
    stage::{Stage, Stop, TICK},
};
use crate::{
    frames::Echo,
    guest::{PLAIN, parse_mac},
};
use mvirt_net::proto::Nic;
use rustix::{
    fs::{OFlags, fcntl_setfl},
    io::{read, write},
};
use std::{
    os::fd::OwnedFd,
    thread::{self, JoinHandle},
};
use vhost::vhost_user::message::FrontendReq as Ask;

const FULL: u64 = u64::MAX - 1;

/// Rings that run on every pair, with questions to be answered on each.
fn rig(nic: &Nic, pairs: usize) -> Rig {
    let mut rig = Rig::up(nic, &Shape { pairs, ..Shape::new(PLAIN) }).unwrap();
    rig.swallow();
    let from = nic.ipv4_address.parse().unwrap();
    let request = Echo::request(from, "169.254.0.1".parse().unwrap());
    let request = rig.put(BUFFERS, [0; 12], &request.frame(parse_mac(&nic.mac_address)));
    (0..pairs).for_each(|queue| rig.chain(2 * queue + 1, &[request]));
    rig
}

/// Fills a bell, and makes it block: the flag is of the open file, which the daemon shares.
fn jam(bell: &OwnedFd) {
    read(bell, &mut [0; 8]).ok();
    write(bell, &FULL.to_ne_bytes()).unwrap();
    fcntl_setfl(bell, OFlags::empty()).unwrap();
}

/// Threads that fill a bell again whenever somebody empties it.
struct Fillers {
    stop: Stop,
    bell: OwnedFd,
    threads: Vec<JoinHandle<()>>,
}

impl Fillers {
    fn of(bell: &OwnedFd, count: usize) -> Self {
        let stop = Stop::default();
        let fill = |_| {
            let (bell, stop) = (bell.try_clone().unwrap(), stop.clone());
            thread::spawn(move || {
                while !stop.is_set() {
                    if write(&bell, &FULL.to_ne_bytes()).is_err() {
                        // It does not block any more.
                        thread::park_timeout(TICK);
                    }
                }
            })
        };
        let threads = (0..count).map(fill).collect();
        Self { stop, bell: bell.try_clone().unwrap(), threads }
    }
}

impl Drop for Fillers {
    fn drop(&mut self) {
        self.stop.set();
        fcntl_setfl(&self.bell, OFlags::NONBLOCK).unwrap();
        // Each time one of those that wait goes on.
        while !self.threads.iter().all(JoinHandle::is_finished) {
            read(&self.bell, &mut [0; 8]).ok();
            thread::yield_now();
        }
    }
}

/// Makes all bells of a vNIC block, and `fillers` threads for each fill them again.
fn bells(pairs: usize, fillers: usize) {
    let mut stage = Stage::set();
    let nic = stage.evil_with("evil", |request| request.queue_pairs = pairs as u32);
    let mut rig = rig(&nic, pairs);
    let threads = stage.threads();
    let mut filling = Vec::new();
    let mut is_jammed = false;
    let seen = stage.play_and(
        || {
            if !std::mem::replace(&mut is_jammed, true) {
                rig.calls.iter().for_each(jam);
                filling.extend(rig.calls.iter().map(|call| Fillers::of(call, fillers)));
            }
            for queue in 0..pairs {
                rig.keep(2 * queue, 256);
                rig.keep(2 * queue + 1, 8);
            }
        },
        |stage| stage.wait_for_threads(threads),
    );
    seen.assert_harmless();
}

#[test]
fn bells_of_eight_pairs_that_block_cost_their_vnic_only() {
    bells(8, 0);
}

#[test]
fn bells_that_twenty_threads_fill_again_cost_their_vnic_only() {
    bells(8, 2);
}

#[test]
fn a_bell_that_two_hundred_threads_fill_again_costs_its_vnic_only() {
    bells(1, 100);
}

#[test]
fn bells_that_a_session_rings_cost_their_vnic_only() {
    let mut stage = Stage::set();
    let nic = stage.evil_with("evil", |request| request.queue_pairs = 8);
    let rig = rig(&nic, 8);
    let threads = stage.threads();
    let mut filling = Vec::new();
    let seen = stage.play_and(
        || {
            if filling.is_empty() {
                rig.calls.iter().for_each(jam);
                filling.extend(rig.calls.iter().map(|call| Fillers::of(call, 4)));
            }
            // Whose answer may not come.
            rig.voice.say(Ask::SET_VRING_ENABLE, &words([0, 1]), &[]).ok();
        },
        |stage| stage.wait_for_threads(threads),
    );
    seen.assert_harmless();
}
