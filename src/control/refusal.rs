//! Why a request is refused: a variant for each way a caller can react, and its gRPC code.

use crate::store::StoreError;
use std::fmt;
use tonic::{Code, Status};

/// A refused request, which has changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A value is malformed or impossible.
    #[error("{field}: {value:?}: {expected}")]
    Invalid {
        /// The field of the request.
        field: &'static str,
        /// What it was.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// A name, id, MAC, address or prefix is taken.
    #[error("{field}: {value:?} is taken by {owner}")]
    Taken {
        /// The field of the request.
        field: &'static str,
        /// What it was.
        value: String,
        /// Who has it.
        owner: String,
    },
    /// There is no such object.
    #[error("{what} {key:?} does not exist")]
    NotFound {
        /// A kind of object.
        what: &'static str,
        /// Its id or name.
        key: String,
    },
    /// The network still has vNICs.
    #[error("network {name:?} still has {nics} vNICs: delete them first, or set force")]
    NotEmpty {
        /// The network.
        name: String,
        /// How many.
        nics: usize,
    },
    /// Nothing is left to give.
    #[error("{0}")]
    Exhausted(String),
    /// Reserved for a later version.
    #[error("{0}")]
    Unimplemented(&'static str),
    /// The change could not be made durable.
    #[error("the change could not be stored: {0}")]
    Store(#[from] StoreError),
    /// The vNIC's socket could not be made.
    #[error("the socket could not be made: {0}")]
    Socket(#[source] std::io::Error),
}

impl Refusal {
    /// A malformed or impossible value.
    pub(super) fn invalid(
        field: &'static str,
        value: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> Self {
        Self::Invalid { field, value: value.to_string(), expected: expected.to_string() }
    }

    /// A value that another object has.
    pub(super) fn taken(
        field: &'static str,
        value: impl fmt::Display,
        owner: impl fmt::Display,
    ) -> Self {
        Self::Taken { field, value: value.to_string(), owner: owner.to_string() }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Invalid { .. } => Code::InvalidArgument,
            Refusal::Taken { .. } => Code::AlreadyExists,
            Refusal::NotFound { .. } => Code::NotFound,
            Refusal::NotEmpty { .. } => Code::FailedPrecondition,
            Refusal::Exhausted(_) => Code::ResourceExhausted,
            Refusal::Unimplemented(_) => Code::Unimplemented,
            Refusal::Store(_) | Refusal::Socket(_) => Code::Internal,
        };
        Self::new(code, refusal.to_string())
    }
}
