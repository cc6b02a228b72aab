//! What is installed of others' rights: every package that cargo links is named with its licence,
//! for people with its text, and for programs as CycloneDX has it.

use crate::command::stdout;
use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
};

/// Writes both files into a folder, as `make build` does.
pub(crate) fn write(folder: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/notice.py");
    stdout(&Command::new(script).arg(folder).output().unwrap());
}

/// `NAME VERSION` of each that cargo says it links, by another of its commands than the script's.
fn linked() -> BTreeSet<String> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none"]);
    let tree = stdout(&cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap());
    let name = |line: &str| {
        let (name, rest) = line.split_once(" v").unwrap();
        format!("{name} {}", rest.split(' ').next().unwrap())
    };
    // The first is ours.
    tree.lines().skip(1).map(name).collect()
}

/// A Python before 3.11, or none: what was built is all the same.
#[test]
fn a_build_ends_without_it_where_python_is_too_old() {
    let folder = tempfile::tempdir().unwrap();
    let python = folder.path().join("python3");
    fs::write(&python, "#!/bin/sh\nexit 1\n").unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    let mut make = Command::new("make");
    make.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("MAKEFLAGS");
    make.env("PATH", format!("{}:{}", folder.path().display(), env::var("PATH").unwrap()));
    make.env("CARGO_TARGET_DIR", folder.path()).args(["build", "CARGO=true", "CC=true"]);
    let said = stdout(&make.output().unwrap());
    assert!(said.contains("no NOTICE is made"), "{said}");
}

#[test]
fn every_linked_package_is_named_with_its_licence_and_text() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let (notice, sbom) = (read("NOTICE"), read("mvirt-net.cdx.json"));
    let mut texts = BTreeMap::new();
    for part in notice.split(&format!("\n{}\nOf ", "=".repeat(78))).skip(1) {
        let (names, text) = part.split_once(":\n\n").unwrap();
        texts.extend(names.split(", ").map(|name| (name.to_owned(), text)));
    }
    let sbom: serde_json::Value = serde_json::from_str(&sbom).unwrap();
    let components = sbom["components"].as_array().unwrap();
    let linked = linked();
    assert!(linked.len() > 100, "{linked:?}");
    for package in &linked {
        assert!(notice.contains(&format!("\n{package}: ")), "{package} is not named");
        let text = texts.get(package).unwrap_or_else(|| panic!("{package} has no text"));
        assert!(text.len() > 400, "{package}: {text}");
        let purl = format!("pkg:cargo/{}", package.replace(' ', "@"));
        let found = components.iter().find(|it| it["purl"] == *purl);
        let found = found.unwrap_or_else(|| panic!("{package} is no component"));
        assert!(found["licenses"][0]["expression"].is_string(), "{found}");
        assert_eq!(found["hashes"][0]["content"].as_str().unwrap().len(), 64, "{found}");
    }
    assert_eq!(sbom["metadata"]["component"]["name"], "mvirt-net");
    // What depends on what is told of each, and each is there.
    let refs: BTreeSet<_> = components.iter().map(|it| it["bom-ref"].as_str().unwrap()).collect();
    let depends = sbom["dependencies"].as_array().unwrap();
    assert_eq!(depends.len(), components.len() + 1);
    for to in depends.iter().flat_map(|it| it["dependsOn"].as_array().unwrap()) {
        assert!(refs.contains(to.as_str().unwrap()), "{to}");
    }
}
