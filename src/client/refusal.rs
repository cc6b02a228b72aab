//! What the daemon says when it refuses a request: the details of a status (`google.rpc.Status`) as
//! one value. `control::refusal` is the other side.

use crate::reason::{DOMAIN, Reason};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// An object that a refusal is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// What there is not, like `network`; or the field whose value is taken.
    pub kind: String,
    /// Its id or name, or that value.
    pub name: String,
    /// Who has it; empty where there is none.
    pub owner: String,
}

/// The daemon has refused a request, and changed nothing; with [`Reason::Unknown`] it may have been
/// somebody else, like a proxy, who does not know what was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct Refusal {
    /// The code of gRPC.
    pub code: Code,
    /// Why.
    pub reason: Reason,
    /// For people: it names the field and the value.
    pub message: String,
    /// The field of the request, of [`Reason::Invalid`] and [`Reason::Taken`].
    pub field: Option<String>,
    /// What it is about, of [`Reason::NotFound`] and [`Reason::Taken`].
    pub object: Option<Object>,
    /// What the object's etag is by now, of [`Reason::Changed`].
    pub etag: Option<String>,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        // Reasons of others, like proxies, are not ours.
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let told = |key: &str| info.and_then(|info| info.metadata.get(key).cloned());
        let object = details.resource_info().map(|it| Object {
            kind: it.resource_type.clone(),
            name: it.resource_name.clone(),
            owner: it.owner.clone(),
        });
        Self {
            code: status.code(),
            reason: info.map_or(Reason::Unknown, |info| Reason::of_name(&info.reason)),
            message: status.message().into(),
            field: told("field"),
            object,
            etag: told("etag"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tonic_types::ErrorDetails;

    #[test]
    fn a_status_becomes_one_value() {
        let mut details = ErrorDetails::new();
        details.set_resource_info("name", "prod", "network 1", "");
        let metadata = HashMap::from([("field".to_owned(), "name".to_owned())]);
        details.set_error_info("TAKEN", DOMAIN, metadata);
        let status = Status::with_error_details(Code::AlreadyExists, "it is taken", details);
        let refusal = Refusal::from(status);
        assert_eq!((refusal.code, refusal.reason), (Code::AlreadyExists, Reason::Taken));
        assert_eq!(refusal.field.as_deref(), Some("name"));
        assert_eq!(refusal.object.unwrap().owner, "network 1");
        assert_eq!(refusal.message, "it is taken");
    }

    #[test]
    fn what_others_say_has_no_reason_of_ours() {
        let mut details = ErrorDetails::new();
        details.set_error_info("TAKEN", "proxy.example", HashMap::new());
        for status in [
            Status::with_error_details(Code::Unavailable, "", details),
            Status::new(Code::Unavailable, "no details"),
        ] {
            assert_eq!(Refusal::from(status).reason, Reason::Unknown);
        }
    }
}
