//! What ports of the world are told of guests of public networks: behind such a port is a segment,
//! which is as another network to them. Takes what the kernel is to lead to guests.

use super::{Control, Egress, WayOut};
use crate::host_network::Wanted;
use ipnet::IpNet;
use std::collections::BTreeSet;
use tokio::sync::watch;

impl Egress {
    /// Returns what guests have, and will have.
    pub(in crate::control) fn guests(&self) -> watch::Receiver<BTreeSet<IpNet>> {
        self.guests.subscribe()
    }
}

impl Control {
    /// Tells ports of the world what guests have by now.
    pub(super) fn tell_segments(&self, wanted: &Wanted) {
        // By sockets nobody of the host reaches a guest but by forwards.
        let none = BTreeSet::new();
        let guests = match &self.egress.way {
            WayOut::Tun(_) => &wanted.prefixes,
            WayOut::Off(_) | WayOut::User(_) => &none,
        };
        self.egress.guests.send_if_modified(|told| {
            let is_news = *told != *guests;
            if is_news {
                told.clone_from(guests);
            }
            is_news
        });
    }
}
