//! Frames that say their number, so that who hears them knows what was lost or came twice.

use super::{frames::Udp4, guest::Guest};

/// A frame from guest a to guest b that says its number.
pub(crate) fn numbered(mac: [u8; 6], number: u64) -> Vec<u8> {
    let payload = [number.to_be_bytes(), (!number).to_be_bytes()].concat();
    Udp4::new(mac, "10.0.0.1", "10.0.0.2", &payload).frame()
}

/// Numbers of frames as they arrive.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) sent: u64,
    pub(crate) last: u64,
    pub(crate) lost: u64,
    pub(crate) again: u64,
}

impl Heard {
    pub(crate) fn listen(&mut self, guest: &mut Guest) {
        for frame in guest.drain() {
            let Some((_, payload)) = frame.split_at_checked(42) else { continue };
            let Ok(octets) = <[u8; 16]>::try_from(payload) else { continue };
            let (number, check) = octets.split_at(8);
            let number = u64::from_be_bytes(number.try_into().unwrap());
            assert_eq!(check, (!number).to_be_bytes(), "a frame that was never sent");
            match number.checked_sub(self.last + 1) {
                Some(missing) => {
                    self.lost += missing;
                    self.last = number;
                }
                None => self.again += 1,
            }
        }
    }
}
