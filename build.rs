//! Compiles `proto/net.proto` with protox, so that no system `protoc` is needed.

use prost::Message as _;
use std::{env, fs, path::PathBuf};

/// Fields that are enums, and what serializes each.
const ENUMS: &[(&str, &str)] = &[
    ("Nic.state", "nic_state_name"),
    ("Nic.addressing", "addressing_name"),
    ("Nic.ipv6_mode", "ipv6_mode_name"),
    ("Nic.transport", "transport_name"),
    ("Nic.port_security", "port_security_name"),
    ("Port.state", "port_state_name"),
    ("Port.role", "port_role_name"),
    ("Port.requested_role", "port_role_name"),
    ("Forward.protocol", "protocol_name"),
    ("BalancedPort.protocol", "protocol_name"),
    ("HealthCheck.kind", "health_kind_name"),
    ("Egress.mode", "egress_mode_name"),
    ("ExplainReply.verdict", "explain_verdict_name"),
    ("Network.kind", "network_kind_name"),
    ("Network.gateway", "toggle_name"),
    ("Network.dns_mode", "dns_mode_name"),
    ("Network.metadata", "toggle_name"),
    ("L2Policy.unknown_unicast", "unknown_unicast_name"),
    ("L2Policy.multicast_snooping", "toggle_name"),
    ("L2Policy.guest_vlans", "guest_vlans_name"),
    ("L2Policy.neighbour_proxy", "toggle_name"),
    ("L2Policy.dhcp_guard", "dhcp_guard_name"),
    ("L2Policy.reserved_groups", "reserved_groups_name"),
    ("L2Policy.loop_guard", "toggle_name"),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/net.proto");
    let descriptors = protox::compile(["net.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("net_descriptor.bin"), descriptors.encode_to_vec())?;
    let mut code = tonic_prost_build::configure()
        .build_transport(true)
        // In one order, so that equal messages are equal octets.
        .btree_map(".")
        // `mvirt -o json` prints the API objects with the field names of the proto.
        .type_attribute(".", "#[derive(serde::Serialize)]")
        // Of requests, which are not printed.
        .field_attribute(".mvirt.net.UpdateNetworkRequest.update_mask", "#[serde(skip)]")
        .field_attribute(".mvirt.net.UpdatePortRequest.update_mask", "#[serde(skip)]")
        .field_attribute(".mvirt.net.UpdateForwardRequest.update_mask", "#[serde(skip)]")
        .field_attribute(".mvirt.net.UpdateLoadBalancerRequest.update_mask", "#[serde(skip)]")
        .field_attribute(".mvirt.net.UpdateNicRequest.update_mask", "#[serde(skip)]")
        .field_attribute(".mvirt.net.SetNicLimitsRequest.update_mask", "#[serde(skip)]")
        .field_attribute(".mvirt.net.SetNicMetadataRequest.update_mask", "#[serde(skip)]");
    // Enums are named as in the proto; a field of one that is not listed would be a number.
    for (field, name) in ENUMS {
        let serialize = format!("#[serde(serialize_with = \"super::{name}\")]");
        code = code.field_attribute(field, serialize);
    }
    code.compile_fds(descriptors)?;
    Ok(())
}
