//! What the owner of a vNIC has its guest told.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// What the metadata service has for a vNIC's guest, beside what follows from the vNIC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestData {
    /// Of the guest's owner: a script, or what cloud-init is to do.
    #[serde(default, skip_serializing_if = "Octets::is_empty")]
    pub user_data: Octets,
    /// Of who made its image.
    #[serde(default, skip_serializing_if = "Octets::is_empty")]
    pub vendor_data: Octets,
    /// Lines of `authorized_keys`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub public_keys: Vec<String>,
    /// What else is to be known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, String>,
    /// Whether whoever asks must have a token.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub token_required: bool,
    /// How many hops a token may make; absent: one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_hop_limit: Option<u8>,
}

/// Any octets. In files they are base64 (RFC 4648 §4).
// Shared: a vNIC is copied with each change of it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Octets(Arc<[u8]>);

impl Octets {
    /// Returns them.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<u8>> for Octets {
    fn from(octets: Vec<u8>) -> Self {
        Self(octets.into())
    }
}

// How many: what is in them is not for a log.
impl fmt::Debug for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} octets", self.0.len())
    }
}

impl Serialize for Octets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        BASE64_STANDARD.decode(text.as_bytes()).map(Self::from).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_text_in_files() {
        let data = GuestData {
            user_data: vec![0x1f, 0x8b, 0, 0xff].into(),
            public_keys: vec!["ssh-ed25519 AAAA me".into()],
            ..GuestData::default()
        };
        let stored = serde_json::json!({
            "user_data": "H4sA/w==",
            "public_keys": ["ssh-ed25519 AAAA me"],
        });
        assert_eq!(serde_json::to_value(&data).unwrap(), stored);
        assert_eq!(serde_json::from_value::<GuestData>(stored).unwrap(), data);
        assert!(serde_json::from_str::<GuestData>(r#"{"user_data":"?"}"#).is_err());
        assert_eq!(format!("{:?}", data.user_data), "4 octets");
    }
}
