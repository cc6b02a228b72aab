//! Who asks for a change, and what the log says of it: one line for each request that may change
//! something, whatever comes of it.

use super::{Caller, refusal::Refusal};
use crate::{printable::printable, proto, telemetry::code_name};
use std::time::Instant;
use tonic::{Code, Request, Status};

/// A request that may change something.
pub(super) trait Asked: Send + 'static {
    /// What is asked for.
    const METHOD: &'static str;
    /// Whether it is about what is there: it must say of what.
    fn is_of_id() -> bool {
        !Self::METHOD.starts_with("Create")
    }
    /// What it is about: its name, else its id, as the caller has given it.
    fn object(&self) -> &str;
    /// Whether it is to be checked only.
    fn is_dry(&self) -> bool;
}

macro_rules! asked {
    ($($request:ident: $method:literal { $($key:ident),+ })*) => {$(
        impl Asked for proto::$request {
            const METHOD: &'static str = $method;

            fn object(&self) -> &str {
                let keys = [$(&*self.$key),+];
                keys.into_iter().find(|key| !key.is_empty()).unwrap_or_default()
            }

            fn is_dry(&self) -> bool {
                self.validate_only
            }
        }
    )*};
}

asked! {
    CreateNetworkRequest: "CreateNetwork" { name, id }
    UpdateNetworkRequest: "UpdateNetwork" { id }
    DeleteNetworkRequest: "DeleteNetwork" { id }
    CreateNicRequest: "CreateNic" { name, id, network_id }
    UpdateNicRequest: "UpdateNic" { id }
    SetNicLimitsRequest: "SetNicLimits" { id }
    SetNicMetadataRequest: "SetNicMetadata" { id }
    DeleteNicRequest: "DeleteNic" { id }
    CreatePortRequest: "CreatePort" { name, id, network_id }
    UpdatePortRequest: "UpdatePort" { id }
    DeletePortRequest: "DeletePort" { id }
    CreateForwardRequest: "CreateForward" { name, id, nic_id }
    UpdateForwardRequest: "UpdateForward" { id }
    DeleteForwardRequest: "DeleteForward" { id }
    CreateFloatingIpRequest: "CreateFloatingIp" { address, id }
    UpdateFloatingIpRequest: "UpdateFloatingIp" { id }
    DeleteFloatingIpRequest: "DeleteFloatingIp" { id }
    CreateLoadBalancerRequest: "CreateLoadBalancer" { name, id, address }
    UpdateLoadBalancerRequest: "UpdateLoadBalancer" { id }
    DeleteLoadBalancerRequest: "DeleteLoadBalancer" { id }
}

/// Octets of a name that are told: longer ones are refused anyway.
const MAX_OBJECT: usize = 128;

/// A request, as the log is told of it once it is over.
#[derive(Debug)]
pub(super) struct Told {
    caller: Caller,
    method: &'static str,
    object: String,
    is_dry: bool,
    began: Instant,
}

impl Told {
    /// One that has just come.
    pub(super) fn new<R: Asked>(request: &Request<R>) -> Self {
        let caller = request.extensions().get::<Caller>().cloned().unwrap_or_default();
        let request = request.get_ref();
        let object = request.object();
        let end = object.floor_char_boundary(MAX_OBJECT);
        let (object, is_dry) = (printable(&object[..end]), request.is_dry());
        Self { caller, method: R::METHOD, object, is_dry, began: Instant::now() }
    }

    /// Tells the log what became of it.
    pub(super) fn tell(&self, refused: Option<&Status>) {
        let Self { caller, method, object, is_dry, began } = self;
        let result = code_name(refused.map_or(Code::Ok, Status::code));
        tracing::info!(
            who = caller.0,
            method,
            object,
            dry_run = is_dry.then_some(true),
            result,
            // It quotes what the caller has said, escaped and cut.
            why = refused.map(Status::message),
            ms = began.elapsed().as_millis() as u64,
            "asked of the API"
        );
    }

    /// Refuses it.
    pub(super) fn refuse<T>(&self, refusal: Refusal) -> Result<T, Status> {
        let status = Status::from(refusal);
        self.tell(Some(&status));
        Err(status)
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
        let object = |name: &str| Told::new(&Request::new(request(name))).object;
        assert_eq!(object(""), "prod");
        assert_eq!(object("a\n\x1b[2J"), "a\\n\\u{1b}[2J");
        assert_eq!(object(&"ä".repeat(1000)), "ä".repeat(64));
        assert!(proto::UpdateNicRequest::is_of_id() && !proto::CreateNicRequest::is_of_id());
    }
}
