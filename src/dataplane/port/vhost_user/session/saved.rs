//! A session as one process of the daemon hands it to the next: data, and beside it the descriptors
//! in a fixed order (each ring's kick and call, the channel to the VMM, each ring's error).
//!
//! Another version of the daemon may read what this one wrote: fields may be added with a default,
//! and descriptors at the end; neither may change.

use super::{CallFd, Device, Kick, LastAvail, Protocol, Ring, RingAddresses, Session};
use crate::dataplane::foreign::Foreign;
use serde::{Deserialize, Serialize};
use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

/// Everything of a session but its descriptors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSession {
    features: Option<u64>,
    protocol: u64,
    rings: Vec<SavedRing>,
    has_backend_channel: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SavedRing {
    size: u32,
    addresses: Option<RingAddresses>,
    base: u16,
    /// Whether it was started, and if so, with a descriptor.
    kick: Option<bool>,
    has_call: bool,
    #[serde(default)]
    has_error: bool,
    enabled: Option<bool>,
}

/// What was saved does not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRestored {
    /// The vNIC has another number of rings.
    #[error("{saved} rings where the vNIC has {rings}")]
    Rings {
        /// Saved.
        saved: usize,
        /// There are.
        rings: usize,
    },
    /// Fewer descriptors than what was saved speaks of.
    #[error("too few descriptors")]
    Descriptors,
}

impl Session {
    /// What another process needs to go on, once the port has stopped. Appends copies of its
    /// descriptors to `fds`.
    pub fn save(&self, fds: &mut Vec<OwnedFd>) -> io::Result<SavedSession> {
        // Copies: this process goes on with its own if nobody takes over.
        let mut keep = |fd: &OwnedFd| fd.as_fd().try_clone_to_owned().map(|copy| fds.push(copy));
        let mut rings = Vec::with_capacity(self.rings.len());
        for ring in &self.rings {
            if let Kick::Eventfd(fd) = &ring.kick {
                keep(fd)?;
            }
            ring.call.iter().try_for_each(|call| keep(call.fd()))?;
            rings.push(SavedRing {
                size: ring.size,
                addresses: ring.addresses,
                // One number for both: to another process it is a told position, which memory may
                // correct.
                base: ring.position.get().unwrap_or(ring.base),
                kick: match ring.kick {
                    Kick::Stopped => None,
                    Kick::Polled => Some(false),
                    Kick::Eventfd(_) => Some(true),
                },
                has_call: ring.call.is_some(),
                has_error: ring.error.is_some(),
                enabled: ring.enabled,
            });
        }
        self.backend_channel.iter().try_for_each(|fd| keep(fd))?;
        // Last, where a version that does not know of them leaves them unread.
        self.rings.iter().filter_map(|ring| ring.error.as_ref()).try_for_each(|e| keep(e.fd()))?;
        Ok(SavedSession {
            features: self.features,
            protocol: self.protocol.bits(),
            rings,
            has_backend_channel: self.backend_channel.is_some(),
        })
    }

    /// The session that was saved, with its descriptors from `fds`.
    pub fn restore(
        device: Device,
        saved: SavedSession,
        fds: &mut impl Iterator<Item = Foreign<OwnedFd>>,
    ) -> Result<Self, NotRestored> {
        let mut session = Self::new(device);
        let (saved_rings, rings) = (saved.rings.len(), session.rings.len());
        // Where descriptors belong follows from the rings: with other rings none would be right.
        if saved_rings != rings {
            return Err(NotRestored::Rings { saved: saved_rings, rings });
        }
        let mut next = || fds.next().ok_or(NotRestored::Descriptors);
        for (ring, saved) in session.rings.iter_mut().zip(&saved.rings) {
            let kick = match saved.kick {
                Some(true) => Kick::Eventfd(Arc::new(next()?.into_inner())),
                Some(false) => Kick::Polled,
                None => Kick::Stopped,
            };
            *ring = Ring {
                size: saved.size,
                addresses: saved.addresses,
                base: saved.base,
                position: LastAvail::default(),
                kick,
                call: if saved.has_call { Some(CallFd::new(next()?)) } else { None },
                error: None,
                enabled: saved.enabled,
            };
        }
        session.backend_channel = if saved.has_backend_channel { Some(next()?) } else { None };
        for (ring, _) in session.rings.iter_mut().zip(&saved.rings).filter(|(_, s)| s.has_error) {
            ring.error = Some(CallFd::new(next()?));
        }
        session.features = saved.features;
        // Truncated: a newer version may have negotiated what this one does not know.
        session.protocol = Protocol::from_bits_truncate(saved.protocol);
        Ok(session)
    }

    /// Forgets where ports left the rings: another process may have gone on from there. The used
    /// index in memory decides then, as when a VMM comes back.
    pub fn forget_positions(&mut self) {
        for ring in &mut self.rings {
            ring.base = ring.position.get().unwrap_or(ring.base);
            ring.position = LastAvail::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        addr::MacAddr,
        dataplane::port::vhost_user::session::{features, message::Request},
    };

    fn eventfd() -> OwnedFd {
        rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap()
    }

    /// A session that was told something of everything.
    fn told() -> Session {
        let mac = MacAddr([2, 0, 0, 0, 0, 2]);
        let device = Device { features: features(1), queue_pairs: 1, mac, mtu: 1500 };
        let mut session = Session::new(device);
        let addresses = RingAddresses { descriptors: 0x1000, available: 0x2000, used: 0x3000 };
        for (request, fds) in [
            (Request::SetFeatures(features(1)), vec![]),
            (Request::SetProtocolFeatures(8), vec![]),
            (Request::SetBackendReqFd, vec![eventfd()]),
            (Request::SetVringNum { ring: 1, size: 256 }, vec![]),
            (Request::SetVringAddr { ring: 1, addresses }, vec![]),
            (Request::SetVringBase { ring: 1, base: 77 }, vec![]),
            (Request::SetVringKick { ring: 1, polled: false }, vec![eventfd()]),
            (Request::SetVringCall { ring: 1, polled: false }, vec![eventfd()]),
            (Request::SetVringErr { ring: 0, polled: false }, vec![eventfd()]),
            (Request::SetVringKick { ring: 0, polled: true }, vec![]),
            (Request::SetVringEnable { ring: 1, enabled: true }, vec![]),
        ] {
            session.handle(request, fds.into_iter().map(Foreign::from).collect()).unwrap();
        }
        session
    }

    #[test]
    fn a_session_survives_being_saved_as_text() {
        let session = told();
        let mut fds = Vec::new();
        let saved = session.save(&mut fds).unwrap();
        assert_eq!(fds.len(), 4);
        let text = serde_json::to_string(&saved).unwrap();
        let read: SavedSession = serde_json::from_str(&text).unwrap();
        assert_eq!(read, saved);
        let restored =
            Session::restore(session.device, read, &mut fds.into_iter().map(Foreign::from))
                .unwrap();
        assert_eq!(restored.save(&mut Vec::new()).unwrap(), saved);
        let configs = |session: &Session| {
            let (rx, tx) = session.plan().unwrap().pairs.remove(0);
            (rx.map(|ring| ring.config), tx.map(|ring| ring.config))
        };
        assert_eq!(configs(&restored), configs(&session));
        assert!(restored.acknowledges());
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let session = told();
        let mut fds = Vec::new();
        let saved = session.save(&mut fds).unwrap();
        let device = Device { queue_pairs: 2, ..session.device };
        let refused = Session::restore(device, saved.clone(), &mut std::iter::empty());
        assert_eq!(refused.unwrap_err(), NotRestored::Rings { saved: 2, rings: 4 });
        let refused = Session::restore(
            session.device,
            saved,
            &mut fds.into_iter().map(Foreign::from).take(3),
        );
        assert_eq!(refused.unwrap_err(), NotRestored::Descriptors);
    }
}
