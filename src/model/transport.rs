//! How guests are reached.

use crate::locator::Locator;
use serde::{Deserialize, Serialize};

/// How a vNIC's guest is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// By a VMM that shares the guest's memory.
    #[default]
    VhostUser,
    /// By a stream with each frame's length before it.
    Stream,
    /// By a packet socket.
    Seqpacket,
    /// By a TAP device with this interface.
    Tap(String),
    /// By datagrams: at its own socket, or where this says.
    #[serde(with = "text")]
    Dgram(Option<Locator>),
    /// By a VDE client, in a directory of its own.
    Vde,
    /// By a packet socket on this interface.
    Packet(String),
}

impl Transport {
    /// Whether it is [`Transport::VhostUser`].
    pub fn is_vhost_user(&self) -> bool {
        *self == Self::VhostUser
    }
}

/// Locators are stored as they are written; where there is none, as an empty text.
mod text {
    use crate::locator::Locator;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(
        locator: &Option<Locator>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match locator {
            None => to.serialize_str(""),
            Some(locator) => to.collect_str(locator),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Locator>, D::Error> {
        match &*String::deserialize(from)? {
            "" => Ok(None),
            given => given.parse().map(Some).map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_are_stored_with_what_they_need() {
        let udp = "udp://127.0.0.1:4000->127.0.0.1:4001";
        for (transport, stored) in [
            (Transport::Stream, serde_json::json!("stream")),
            (Transport::Vde, serde_json::json!("vde")),
            (Transport::Tap("mv-1".into()), serde_json::json!({ "tap": "mv-1" })),
            (Transport::Packet("mv-1".into()), serde_json::json!({ "packet": "mv-1" })),
            (Transport::Dgram(None), serde_json::json!({ "dgram": "" })),
            (Transport::Dgram(Some(udp.parse().unwrap())), serde_json::json!({ "dgram": udp })),
        ] {
            assert_eq!(serde_json::to_value(&transport).unwrap(), stored);
            assert_eq!(serde_json::from_value::<Transport>(stored).unwrap(), transport);
        }
    }
}
