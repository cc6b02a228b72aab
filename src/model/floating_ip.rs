//! Floating IPs: addresses of the world that are a vNIC's for a while.

use super::Labels;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use uuid::Uuid;

/// An address of the world that is a vNIC's until it is moved to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FloatingIp {
    /// Unique for ever.
    pub id: Uuid,
    /// Unique among floating IPs.
    pub address: IpAddr,
    /// Whose it is.
    pub nic_id: Uuid,
    /// The network of that.
    pub network_id: Uuid,
    /// Notes of clients.
    #[serde(default)]
    pub labels: Labels,
    /// A note for people.
    #[serde(default)]
    pub description: String,
    /// Tells the request that made it from others.
    pub asked: Uuid,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}
