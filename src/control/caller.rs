//! Who asks for a change, and what the log says of it: one line for each request that may change
//! something, whatever comes of it, also where its client does not wait for that.
//!
//! What `api/` refuses, as there is no place for it or it is no message, has none: it comes nowhere
//! near Control.

use super::Caller;
use crate::{printable::printable, proto, telemetry::code_name};
use std::time::Instant;
use tonic::{Code, Request, Status};

/// A request that may change something.
pub(super) trait Asked: Send + 'static {
    /// What is asked for.
    const METHOD: &'static str;
    /// Whether it is about what is there: it must say of what.
    const NEEDS_ID: bool;
    /// What it is about: its name, else its id, as the caller has given it.
    fn object(&self) -> &str;
    /// Whether it is to be checked only.
    fn is_dry(&self) -> bool;
}

macro_rules! asked {
    ($(NEEDS_ID = $needs_id:literal {
        $($request:ident: $method:literal { $($key:ident),+ })*
    })*) => {$($(
        impl Asked for proto::$request {
            const METHOD: &'static str = $method;
            const NEEDS_ID: bool = $needs_id;

            fn object(&self) -> &str {
                let keys = [$(&*self.$key),+];
                keys.into_iter().find(|key| !key.is_empty()).unwrap_or_default()
            }

            fn is_dry(&self) -> bool {
                self.validate_only
            }
        }
    )*)*};
}

asked! {
    NEEDS_ID = false {
        CreateNetworkRequest: "CreateNetwork" { name, id }
        CreateNicRequest: "CreateNic" { name, id, network_id }
        CreatePortRequest: "CreatePort" { name, id, network_id }
        CreateForwardRequest: "CreateForward" { name, id, nic_id }
        CreateFloatingIpRequest: "CreateFloatingIp" { address, id }
        CreateLoadBalancerRequest: "CreateLoadBalancer" { name, id, address }
    }
    NEEDS_ID = true {
        UpdateNetworkRequest: "UpdateNetwork" { id }
        DeleteNetworkRequest: "DeleteNetwork" { id }
        UpdateNicRequest: "UpdateNic" { id }
        SetNicLimitsRequest: "SetNicLimits" { id }
        SetNicMetadataRequest: "SetNicMetadata" { id }
        DeleteNicRequest: "DeleteNic" { id }
        UpdatePortRequest: "UpdatePort" { id }
        DeletePortRequest: "DeletePort" { id }
        UpdateForwardRequest: "UpdateForward" { id }
        DeleteForwardRequest: "DeleteForward" { id }
        UpdateFloatingIpRequest: "UpdateFloatingIp" { id }
        DeleteFloatingIpRequest: "DeleteFloatingIp" { id }
        UpdateLoadBalancerRequest: "UpdateLoadBalancer" { id }
        DeleteLoadBalancerRequest: "DeleteLoadBalancer" { id }
    }
}

/// Octets of a name that are told: longer ones are refused anyway.
const MAX_OBJECT: usize = 128;

/// A request, of which the log is told when this is dropped.
// Not where its outcome is known: the client may be gone by then, and this with the task, while
// Control carries the change out all the same.
#[derive(Debug)]
pub(super) struct Told {
    caller: Caller,
    method: &'static str,
    object: String,
    is_dry: bool,
    began: Instant,
    outcome: Code,
    why: Option<String>,
}

impl Told {
    /// One that has just come.
    pub(super) fn new<R: Asked>(request: &Request<R>) -> Self {
        let caller = request.extensions().get::<Caller>().cloned().unwrap_or_default();
        let request = request.get_ref();
        let object = request.object();
        let end = object.floor_char_boundary(MAX_OBJECT);
        let (object, is_dry) = (printable(&object[..end]), request.is_dry());
        let (method, began) = (R::METHOD, Instant::now());
        Self { caller, method, object, is_dry, began, outcome: Code::Cancelled, why: None }
    }

    /// Returns what has become of it, for its client.
    pub(super) fn over<T>(mut self, outcome: Result<T, Status>) -> Result<T, Status> {
        let refused = outcome.as_ref().err();
        self.outcome = refused.map_or(Code::Ok, Status::code);
        // It quotes what the caller has said, escaped and cut.
        self.why = refused.map(|status| status.message().into());
        outcome
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let Self { caller, method, object, is_dry, began, outcome, why } = self;
        tracing::info!(
            who = caller.0,
            method,
            object,
            dry_run = is_dry.then_some(true),
            result = code_name(*outcome),
            why,
            ms = began.elapsed().as_millis() as u64,
            "asked of the API"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_told_on_one_line_and_not_at_any_length() {
        let request = |name: &str| proto::CreateNicRequest {
            name: name.into(),
            network_id: "prod".into(),
            validate_only: true,
            ..Default::default()
        };
        let object = |name: &str| Told::new(&Request::new(request(name))).object.clone();
        assert_eq!(object(""), "prod");
        assert_eq!(object("a\n\x1b[2J"), "a\\n\\u{1b}[2J");
        assert_eq!(object(&"ä".repeat(1000)), "ä".repeat(64));
        const { assert!(proto::UpdateNicRequest::NEEDS_ID && !proto::CreateNicRequest::NEEDS_ID) };
    }
}
