//! Compiles `proto/net.proto` with protox, so that no system `protoc` is needed.

use prost::Message as _;
use prost_types::{
    FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use std::{collections::BTreeSet, env, fs, path::PathBuf};

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
        .field_attribute(".mvirt.net.UpdateFloatingIpRequest.update_mask", "#[serde(skip)]")
        .field_attribute(".mvirt.net.UpdateLoadBalancerRequest.update_mask", "#[serde(skip)]")
        .field_attribute(".mvirt.net.UpdateNicRequest.update_mask", "#[serde(skip)]")
        .field_attribute(".mvirt.net.SetNicLimitsRequest.update_mask", "#[serde(skip)]")
        .field_attribute(".mvirt.net.SetNicMetadataRequest.update_mask", "#[serde(skip)]");
    // Enums are named as in the proto, each by a function that `src/proto.rs` makes of this list.
    let mut lines = BTreeSet::new();
    for (message, field) in enum_fields(&descriptors) {
        let name = field.type_name().rsplit('.').next().unwrap_or_default();
        let (list, many) = match field.label() {
            Label::Repeated => ("[]", "s"),
            Label::Optional | Label::Required => ("", ""),
        };
        let function = format!("{}_name{many}", snake(name));
        let serialize = format!("#[serde(serialize_with = \"super::{function}\")]");
        code = code.field_attribute(format!("{message}.{}", field.name()), serialize);
        lines.insert(format!("{function}: {name}{list}\n"));
    }
    fs::write(out.join("names.rs"), format!("names! {{\n{}}}\n", String::from_iter(lines)))?;
    code.compile_fds(descriptors)?;
    Ok(())
}

/// Returns the fields that are enums, with the names of their messages.
fn enum_fields(files: &FileDescriptorSet) -> Vec<(String, FieldDescriptorProto)> {
    let ours = files.file.iter().filter(|file| file.package() == "mvirt.net");
    let messages = ours.flat_map(|file| &file.message_type);
    let fields = messages
        .flat_map(|message| message.field.iter().map(|it| (message.name().to_owned(), it.clone())));
    fields.filter(|(_, field)| field.r#type() == Type::Enum).collect()
}

/// Returns a name of words in capitals as one of words in small letters: `NicState`, `nic_state`.
fn snake(name: &str) -> String {
    let mut snake = String::new();
    for (at, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && at > 0 {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}
