//! Why a request is refused: a variant for each way a caller can react, its gRPC code, and its
//! details for programs (`google.rpc.Status`: BadRequest, ErrorInfo, ResourceInfo).

use crate::{
    reason::{DOMAIN, Reason},
    store::StoreError,
};
use std::{collections::HashMap, fmt};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Octets of a value that are said back: grpc-message is a header, and clients bound those (8 or 16
/// KiB).
// gRPC escapes what is not ASCII once more, at three characters an octet.
const MAX_ECHO: usize = 200;

/// A refused request, which has changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A value is malformed or impossible.
    #[error("{field}: \"{value}\": {expected}")]
    Invalid {
        /// The field of the request.
        field: &'static str,
        /// What it was.
        value: Echo,
        /// What would be right.
        expected: String,
    },
    /// A name, id, MAC, address or prefix is taken.
    #[error("{field}: \"{value}\" is taken by {owner}")]
    Taken {
        /// The field of the request.
        field: &'static str,
        /// What it was.
        value: Echo,
        /// Who has it.
        owner: String,
    },
    /// There is no such object.
    #[error("{what} \"{key}\" does not exist")]
    NotFound {
        /// A kind of object.
        what: &'static str,
        /// Its id or name.
        key: Echo,
    },
    /// The network still has vNICs or ports, or the vNIC what depends on it.
    #[error("{what} {name:?} still has {has}: delete them first, or set force")]
    NotEmpty {
        /// A kind of object.
        what: &'static str,
        /// Its name.
        name: String,
        /// What it has.
        has: String,
    },
    /// A VMM is connected that the change would disturb.
    #[error("vNIC {name:?} is active: {what}; stop its VM first, or {remedy}")]
    Connected {
        /// The vNIC.
        name: String,
        /// What its VMM or guest would suffer.
        what: String,
        /// How to do it all the same.
        remedy: &'static str,
    },
    /// The vNIC is there, but is not served.
    #[error("vNIC {name:?} is not served: {reason}")]
    NotServed {
        /// The vNIC.
        name: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The object has changed since the caller read it.
    #[error("{what} {name:?} has the etag \"{now}\" by now, not \"{etag}\": read it again")]
    Changed {
        /// A kind of object.
        what: &'static str,
        /// Its name.
        name: String,
        /// What the request expects.
        etag: Echo,
        /// What it is.
        now: String,
    },
    /// The daemon lacks the rights.
    #[error("{what}: {source}; {remedy}")]
    NotPermitted {
        /// What was tried.
        what: String,
        /// What would help.
        remedy: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The flags do not allow it to callers of the API, or the daemon lacks a capability.
    #[error("{0}")]
    Forbidden(String),
    /// A path, address or device is in use.
    #[error("{0}")]
    InUse(String),
    /// What a port is to be made of is not there.
    #[error("{0}")]
    Unready(String),
    /// Nothing is left to give.
    #[error("{0}")]
    Exhausted(String),
    /// The change could not be made durable.
    #[error("the change could not be stored: {0}")]
    Store(#[from] StoreError),
    /// The vNIC's socket could not be made.
    #[error("the socket could not be made: {0}")]
    Socket(#[source] std::io::Error),
}

/// What a client has said, for a message: escaped, and cut where it is long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Echo(String);

impl Echo {
    fn new(value: impl fmt::Display) -> Self {
        let value = value.to_string();
        let mut said = String::new();
        for character in value.chars() {
            // Cut between characters: half an escape would read as another one.
            let escaped = character.escape_debug();
            if said.len() + escaped.clone().map(char::len_utf8).sum::<usize>() > MAX_ECHO {
                said.push_str(&format!("… ({} octets)", value.len()));
                break;
            }
            said.extend(escaped);
        }
        Self(said)
    }
}

impl fmt::Display for Echo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns `1 port`, `2 ports`.
pub(super) fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

impl Refusal {
    /// A malformed or impossible value.
    pub(super) fn invalid(
        field: &'static str,
        value: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> Self {
        Self::Invalid { field, value: Echo::new(value), expected: expected.to_string() }
    }

    /// A value that another object has.
    pub(super) fn taken(
        field: &'static str,
        value: impl fmt::Display,
        owner: impl fmt::Display,
    ) -> Self {
        Self::Taken { field, value: Echo::new(value), owner: owner.to_string() }
    }

    /// No object of a kind has this id or name.
    pub(super) fn not_found(what: &'static str, key: &str) -> Self {
        Self::NotFound { what, key: Echo::new(key) }
    }

    /// Refuses a change of an object that has another etag than the caller knows, if it says one.
    pub(super) fn unless_etag(
        what: &'static str,
        name: impl fmt::Display,
        expected: &str,
        now: String,
    ) -> Result<(), Self> {
        if expected.is_empty() || expected == now {
            return Ok(());
        }
        Err(Self::Changed { what, name: name.to_string(), etag: Echo::new(expected), now })
    }

    /// Refuses a field with more than `most` values.
    pub(super) fn unless_at_most(
        most: usize,
        field: &'static str,
        count: usize,
        what: &str,
    ) -> Result<(), Self> {
        if count <= most {
            return Ok(());
        }
        Err(Self::invalid(field, format!("{count} {what}"), format!("expected at most {most}")))
    }

    /// Refuses to delete what still has others, each kind, in the singular, with how many.
    pub(super) fn unless_empty(
        what: &'static str,
        name: impl fmt::Display,
        counts: &[(usize, &str)],
    ) -> Result<(), Self> {
        let there = counts.iter().filter(|(count, _)| *count > 0);
        let there: Vec<_> = there.map(|(count, what)| counted(*count, what)).collect();
        if there.is_empty() {
            return Ok(());
        }
        Err(Self::NotEmpty { what, name: name.to_string(), has: there.join(" and ") })
    }

    /// The gRPC code, and the reason for programs.
    fn code(&self) -> (Code, Reason) {
        match self {
            Self::Invalid { .. } => (Code::InvalidArgument, Reason::Invalid),
            Self::Taken { .. } => (Code::AlreadyExists, Reason::Taken),
            Self::NotFound { .. } => (Code::NotFound, Reason::NotFound),
            Self::NotEmpty { .. } => (Code::FailedPrecondition, Reason::NotEmpty),
            Self::Connected { .. } => (Code::FailedPrecondition, Reason::Connected),
            Self::NotServed { .. } => (Code::FailedPrecondition, Reason::NotServed),
            // AIP-154: read again, then retry.
            Self::Changed { .. } => (Code::Aborted, Reason::Changed),
            // Not PERMISSION_DENIED, which says that the caller lacks the rights.
            Self::NotPermitted { .. } => (Code::FailedPrecondition, Reason::NotPermitted),
            Self::Forbidden(_) => (Code::PermissionDenied, Reason::Forbidden),
            Self::Unready(_) => (Code::FailedPrecondition, Reason::NotReady),
            Self::InUse(_) => (Code::FailedPrecondition, Reason::InUse),
            Self::Exhausted(_) => (Code::ResourceExhausted, Reason::Exhausted),
            Self::Store(_) => (Code::Internal, Reason::NotStored),
            Self::Socket(_) => (Code::Internal, Reason::Socket),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let (code, reason) = refusal.code();
        let mut details = ErrorDetails::new();
        let mut metadata = HashMap::new();
        match &refusal {
            Refusal::Invalid { field, value, expected } => {
                details.add_bad_request_violation(*field, format!("\"{value}\": {expected}"));
                metadata.insert("field".to_owned(), (*field).to_owned());
            }
            Refusal::Taken { field, value, owner } => {
                details.set_resource_info(*field, value.to_string(), owner.clone(), "");
                metadata.insert("field".to_owned(), (*field).to_owned());
            }
            Refusal::NotFound { what, key } => {
                details.set_resource_info(*what, key.to_string(), "", refusal.to_string());
            }
            Refusal::Changed { now, .. } => {
                metadata.insert("etag".to_owned(), now.clone());
            }
            _ => {}
        }
        details.set_error_info(reason.name(), DOMAIN, metadata);
        Self::with_error_details(code, refusal.to_string(), details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_back_is_escaped_and_short() {
        assert_eq!(Echo::new("a\x1b[31m\"").to_string(), "a\\u{1b}[31m\\\"");
        let long = Echo::new("ä".repeat(20_000)).to_string();
        assert_eq!(long, format!("{}… (40000 octets)", "ä".repeat(100)));
        assert_eq!(Echo::new("x".repeat(200)).to_string(), "x".repeat(200));
    }
}
