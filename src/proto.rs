//! The types and services that `proto/net.proto` generates, and how its enums are named in JSON.
#![allow(
    missing_docs,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "generated code; the proto's comments are its documentation"
)]

mod generated {
    tonic::include_proto!("mvirt.net");
}

pub use generated::*;

/// For server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/net_descriptor.bin"));

impl NicState {
    /// In one word, for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "unknown",
            Self::Created => "created",
            Self::Active => "active",
            Self::Error => "error",
        }
    }
}

fn nic_state_name<S: serde::Serializer>(state: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    // A newer daemon may send a state that this client does not know: it is shown as unspecified.
    serializer.serialize_str(NicState::try_from(*state).unwrap_or_default().as_str_name())
}

fn ipv6_mode_name<S: serde::Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(Ipv6Mode::try_from(*value).unwrap_or_default().as_str_name())
}

fn addressing_name<S: serde::Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(Addressing::try_from(*value).unwrap_or_default().as_str_name())
}
