//! cloud-init, as Debian ships it, finds itself in each family: in a container whose only interface
//! is a vNIC's, with folders of its own.

use super::{apart, container, no_containers, settle, tell};
use crate::{
    daemon::{Daemon, cannot_run},
    namespace::Namespace,
};
use mvirt_net::proto::{Nic, Toggle};
use std::{fs, path::Path, process::Command};

/// Runs cloud-init's first stages where its folders are a test's own, and shows what it has found.
/// $1: a folder.
const SCRIPT: &str = r#"
set -e
# It is of the network namespace that it was mounted in.
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /etc/cloud
cp "$1/cloud.cfg" /etc/cloud/
mkdir /etc/cloud/cloud.cfg.d /etc/cloud/templates
for folder in /var/lib/cloud /run/cloud-init; do
    mkdir -p $folder
    mount -t tmpfs tmpfs $folder
done
cloud-init init >"$1/log" 2>&1 || { cat "$1/log"; exit 1; }
cloud-init query --format '{{v1.instance_id}} {{v1.local_hostname}} {{v1.availability_zone}}'
echo
cloud-init query --format '{{v1.public_ssh_keys}}'
echo
cloud-init query userdata
cat /var/lib/cloud/instance/vendor-data.txt
"#;

/// What cloud-init is to look for, and nothing else: it changes nothing of this machine.
fn config(source: &str, options: &str) -> String {
    format!(
        "datasource_list: [{source}]\n\
         datasource:\n  {source}: {options}\n\
         network: {{config: disabled}}\n\
         disable_root: false\n\
         preserve_hostname: true\n\
         cloud_init_modules: []\n\
         cloud_config_modules: []\n\
         cloud_final_modules: []\n\
         def_log_file: /run/cloud-init/log\n\
         system_info:\n  distro: debian\n  paths:\n    cloud_dir: /var/lib/cloud/\n    \
         templates_dir: /etc/cloud/templates/\n"
    )
}

/// Returns what cloud-init has found by a source.
fn find(folder: &Path, source: &str, options: &str) -> String {
    fs::write(folder.join("cloud.cfg"), config(source, options)).unwrap();
    let mut init = Command::new("unshare");
    // It takes a machine for OpenStack's by its firmware, or by the environment of its first
    // process.
    init.env("product_name", "OpenStack Nova");
    init.args(["--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", SCRIPT, "sh"]).arg(folder);
    let ran = init.output().unwrap();
    let (said, errors) =
        (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{source}: {said}{errors}");
    said.into_owned()
}

fn cloud_init_finds_itself(namespace: &Namespace) {
    namespace.enter();
    let mut daemon = Daemon::start();
    daemon.network_with("prod", |request| {
        request.metadata = Toggle::On.into();
        request.domain = "corp.example".into();
    });
    let (nic, inside) = container(&mut daemon, "prod", "c1");
    tell(&mut daemon, "c1", |it| {
        it.user_data = b"#!/bin/sh\necho hello\n".into();
        it.vendor_data = b"#cloud-config\nlocale: C.UTF-8\n".into();
        it.public_keys = vec!["ssh-ed25519 AAAA me@host".into()];
        it.extra.insert("availability-zone".into(), "rack-1".into());
    });
    let folder = tempfile::tempdir().unwrap();
    apart(|| {
        settle(&nic, &inside);
        let service = "http://169.254.169.254";
        check(
            &nic,
            "nocloud",
            &find(folder.path(), "NoCloud", &format!("{{seedfrom: {service}/nocloud/}}")),
        );
        let urls = format!("metadata_urls: ['{service}'], timeout: 5, max_wait: 10");
        check(&nic, "ec2", &find(folder.path(), "Ec2", &format!("{{strict_id: false, {urls}}}")));
        check(&nic, "openstack", &find(folder.path(), "OpenStack", &format!("{{{urls}}}")));
    });
}

fn check(nic: &Nic, family: &str, found: &str) {
    let short = format!("i-{}", &nic.id.replace('-', "")[..17]);
    let id = if family == "ec2" { &short } else { &nic.id };
    let mut lines = found.lines().filter(|line| !line.is_empty());
    let first = lines.next().unwrap();
    assert!(first.starts_with(&format!("{id} c1 ")), "{family}: {found}");
    assert!(first.ends_with(" rack-1"), "{family}: {found}");
    assert!(lines.next().unwrap().contains("ssh-ed25519 AAAA me@host"), "{family}: {found}");
    assert!(found.contains("#!/bin/sh\necho hello\n"), "{family}: {found}");
    // EC2 has none.
    let has_vendor_data = found.contains("locale: C.UTF-8");
    assert_eq!(has_vendor_data, family != "ec2", "{family}: {found}");
}

#[test]
fn cloud_init_finds_its_vnic_in_each_family() {
    if let Some(why) = no_containers() {
        return cannot_run(why);
    }
    let namespace = Namespace::new();
    apart(|| cloud_init_finds_itself(&namespace));
}
