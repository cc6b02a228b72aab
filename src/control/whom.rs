//! Whose frames a request is about: somebody's by name, those of a network, or everybody's.

use super::{Control, refusal::Refusal};
use uuid::Uuid;

/// vNICs and ports that may be named.
const MAX_TARGETS: usize = 1024;

/// Whose frames.
#[derive(Debug, Clone)]
pub(super) enum Whom {
    /// Nobody is named.
    All,
    /// Of all vNICs and ports of a network.
    Network(Uuid),
    /// Of these vNICs and ports.
    These(Vec<Uuid>),
}

impl Control {
    /// Returns whom a request names.
    pub(super) fn whom(&self, network: &str, targets: &[String]) -> Result<Whom, Refusal> {
        match (network, targets) {
            ("", []) => Ok(Whom::All),
            ("", targets) if targets.len() > MAX_TARGETS => {
                let expected = format!("expected at most {MAX_TARGETS}; a network has any number");
                Err(Refusal::invalid("targets", targets.len(), expected))
            }
            ("", targets) => {
                let ids = targets.iter().map(|key| self.find_nic_or_port(key));
                Ok(Whom::These(ids.collect::<Result<_, _>>()?))
            }
            (network, []) => Ok(Whom::Network(self.find_network(network)?)),
            _ => {
                let expected = "expected either targets or a network";
                Err(Refusal::invalid("network_id", network, expected))
            }
        }
    }

    fn find_nic_or_port(&self, key: &str) -> Result<Uuid, Refusal> {
        let missing = |_| Refusal::not_found("vNIC or port", key);
        self.find_nic(key).or_else(|_| self.find_port(key)).map_err(missing)
    }
}
