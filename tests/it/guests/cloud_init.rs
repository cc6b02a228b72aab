//! cloud-init as Debian ships it, in a guest of its own that `mvirt vm start` has started: it finds
//! itself by each family, and does what its user data says.

use crate::{
    daemon::Daemon,
    machine::{Machine, artefact},
};
use mvirt_net::proto::{SetNicMetadataRequest, Toggle};
use std::fs;

/// What the guest is to do.
const USER_DATA: &str = "#cloud-config\n\
    write_files:\n- {path: /run/written, content: hello}\n\
    runcmd:\n- [sh, -c, 'hostname >/run/ran']\n";

/// A first boot with a source of data: what comes before the network, cloud-init's two stages that
/// read data and do what it says, and what has become of the guest. $1: the source.
// Where it is, the source has to find out by itself: NoCloud by the kernel's command line, the
// others by the address that all clouds have.
const FIRST_BOOT: &str = r#"
cat >/etc/cloud/cloud.cfg <<END
datasource_list: [$1]
datasource: {Ec2: {strict_id: false}}
network: {config: disabled}
cloud_init_modules: [write-files, set_hostname]
cloud_config_modules: []
cloud_final_modules: [runcmd, scripts-user]
system_info: {distro: debian}
END
rm -rf /etc/cloud/cloud.cfg.d /var/lib/cloud /run/cloud-init /run/written /run/ran
hostname none
{ cloud-init init && cloud-init modules --mode final; } >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }
echo "hostname $(hostname)"
echo "written $(cat /run/written)"
echo "ran $(cat /run/ran)"
sed -n 's/^ *"\(instance_id\|availability_zone\|subplatform\)": "\(.*\)",*/\1 \2/p' \
    /run/cloud-init/instance-data.json
"#;

#[test]
fn a_guest_with_cloud_init_becomes_what_its_vnic_is() {
    let mut daemon = Daemon::start();
    daemon.network_with("prod", |request| request.metadata = Toggle::On.into());
    let nic = daemon.nic("prod", "vm1");
    let mut request = SetNicMetadataRequest { id: "vm1".into(), ..Default::default() };
    request.user_data = USER_DATA.into();
    request.extra.insert("availability-zone".into(), "rack-1".into());
    daemon.call(async |client| client.set_nic_metadata(request).await).unwrap();
    let out = artefact("debian").parent().unwrap().join("cloud-init");
    fs::create_dir_all(&out).unwrap();
    fs::write(out.join("first-boot"), FIRST_BOOT).unwrap();
    // What a machine of OpenStack's has in its firmware, containers of it have in the environment
    // of their first process.
    let openstack = "product_name=\"OpenStack Nova\"";
    let mut guest = Machine::debian_with(&daemon, &nic, &out, openstack);
    guest.succeed("client udhcpc up");
    let short = format!("i-{}", &nic.id.replace('-', "")[..17]);
    for (source, id, place) in [
        ("NoCloud", &nic.id, "seed-dir (cmdline,http://169.254.169.254/nocloud/)"),
        ("Ec2", &short, "metadata (http://169.254.169.254)"),
        ("OpenStack", &nic.id, "metadata (http://169.254.169.254)"),
    ] {
        let found = guest.succeed(&format!("bash /out/first-boot {source}"));
        for line in [
            "hostname vm1",
            "written hello",
            "ran vm1",
            "availability_zone rack-1",
            &format!("instance_id {id}"),
            &format!("subplatform {place}"),
        ] {
            assert!(found.lines().any(|told| told == line), "{source}: {line}: {found}");
        }
    }
}
