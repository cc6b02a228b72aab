//! Compiles `proto/net.proto` with protox, so that no system `protoc` is needed.

use prost::Message as _;
use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/net.proto");
    let descriptors = protox::compile(["net.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("net_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_transport(true)
        // In one order, so that equal messages are equal octets.
        .btree_map(".")
        // `mvirt -o json` prints the API objects with the field names of the proto.
        .type_attribute(".", "#[derive(serde::Serialize)]")
        // Of requests, which are not printed.
        .field_attribute(".mvirt.net.UpdateNetworkRequest.update_mask", "#[serde(skip)]")
        .field_attribute(".mvirt.net.UpdateNicRequest.update_mask", "#[serde(skip)]")
        .field_attribute(".mvirt.net.SetNicLimitsRequest.update_mask", "#[serde(skip)]")
        .field_attribute("Nic.state", "#[serde(serialize_with = \"super::nic_state_name\")]")
        .field_attribute("Nic.addressing", "#[serde(serialize_with = \"super::addressing_name\")]")
        .field_attribute("Nic.ipv6_mode", "#[serde(serialize_with = \"super::ipv6_mode_name\")]")
        .compile_fds(descriptors)?;
    Ok(())
}
