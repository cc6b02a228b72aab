//! What is seen of a vNIC's guest: the one whose VMM is connected, or was last. What an earlier
//! guest was told says nothing of it. Nor does a lease of an address that the vNIC no longer has.

use crate::{
    dataplane::{Client, GatewayEvent},
    model::Nic,
    proto,
};

/// The guest of a VMM.
#[derive(Debug, Default)]
pub(super) struct Guest {
    seen: proto::GuestSeen,
    /// Which of its vNIC's connections the VMM's is.
    connection: u64,
}

impl Guest {
    /// One that another process of the daemon has seen, whose connection goes on.
    pub(super) fn of_before(seen: proto::GuestSeen) -> Self {
        Self { seen, connection: 0 }
    }

    /// As the API shows it.
    pub(super) fn seen(&self) -> &proto::GuestSeen {
        &self.seen
    }

    /// Begins anew where the connection is a later one.
    pub(super) fn of(&mut self, connection: u64) {
        // An event of an earlier connection may come late: it begins nothing.
        if connection > self.connection {
            *self = Self { seen: proto::GuestSeen::default(), connection };
        }
    }

    /// Forgets what is not so any more when `old` becomes `new`.
    pub(super) fn outlives(&mut self, old: &Nic, new: &Nic) {
        // A guest takes another MAC only where its VMM connects anew.
        if old.mac != new.mac {
            self.seen = proto::GuestSeen::default();
        }
        if old.ipv4 != new.ipv4 {
            self.seen.ipv4_lease_at.clear();
        }
        if old.ipv6 != new.ipv6 {
            self.seen.ipv6_lease_at.clear();
        }
    }

    /// Notes what the guest of a connection was told just now. Returns whether it is a lease that
    /// it did not have.
    pub(super) fn note(&mut self, connection: u64, told: GatewayEvent) -> bool {
        // It may have been under way while another VMM came.
        if connection != self.connection {
            return false;
        }
        let guest = &mut self.seen;
        let client = match &told {
            GatewayEvent::Lease4(client) | GatewayEvent::Lease6(client) => client.clone(),
            _ => Client::default(),
        };
        let is_lease = matches!(told, GatewayEvent::Lease4(_) | GatewayEvent::Lease6(_));
        let at = match told {
            GatewayEvent::Neighbour4 => &mut guest.ipv4_neighbour_at,
            GatewayEvent::Neighbour6 => &mut guest.ipv6_neighbour_at,
            GatewayEvent::Router => &mut guest.router_at,
            GatewayEvent::Lease4(_) => &mut guest.ipv4_lease_at,
            GatewayEvent::Lease6(_) => &mut guest.ipv6_lease_at,
            GatewayEvent::Asked(_)
            | GatewayEvent::Punted(_)
            | GatewayEvent::Foreign
            | GatewayEvent::Other => return false,
        };
        let is_new = is_lease && at.is_empty();
        *at = jiff::Timestamp::now().to_string();
        // What one family's client does not say, the other's may have said.
        if !client.hostname.is_empty() {
            guest.hostname = client.hostname;
        }
        if !client.vendor_class.is_empty() {
            guest.vendor_class = client.vendor_class;
        }
        is_new
    }
}
