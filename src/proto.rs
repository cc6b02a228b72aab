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
            Self::Blocked => "blocked",
        }
    }

    /// Whether a VMM is connected.
    pub fn is_connected(self) -> bool {
        matches!(self, Self::Active | Self::Blocked)
    }
}

impl PortState {
    /// In one word, for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "unknown",
            Self::Down => "down",
            Self::Listening => "listening",
            Self::Up => "up",
            Self::Blocked => "blocked",
            Self::Error => "error",
        }
    }
}

impl Severity {
    /// In one word, for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "unknown",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl Protocol {
    /// In one word, for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "unknown",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// How enums are named in JSON, alone and in lists. A newer daemon may send a value that this
/// client does not know: it is shown as unspecified.
macro_rules! names {
    () => {};
    ($function:ident: $type:ident [] $($rest:tt)*) => {
        fn $function<S: serde::Serializer>(
            values: &[i32],
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            let known = values.iter().map(|value| $type::try_from(*value).unwrap_or_default());
            serializer.collect_seq(known.map(|value| value.as_str_name()))
        }
        names! { $($rest)* }
    };
    ($function:ident: $type:ident $($rest:tt)*) => {
        fn $function<S: serde::Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
            let value = $type::try_from(*value).unwrap_or_default();
            serializer.serialize_str(value.as_str_name())
        }
        names! { $($rest)* }
    };
}

include!(concat!(env!("OUT_DIR"), "/names.rs"));
