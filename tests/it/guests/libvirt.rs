//! A domain of libvirt's, whose QEMU runs as another user than the daemon: what
//! `mvirt nic vmm-args --vmm libvirt` prints is its XML, and `--socket-group` lets it in.

use crate::{
    command::{mvirt, stdout},
    daemon::Daemon,
    machine::{Machine, converse, prod},
};
use std::{fs, os::unix::fs::PermissionsExt as _};

/// QEMU 7.2 without KVM delivers no interrupts of its own vectors (docs/operations.md, libvirt).
const OVERRIDE: &str = "<qemu:override><qemu:device alias='net0'><qemu:frontend>
    <qemu:property name='vectors' type='unsigned' value='0'/>
    </qemu:frontend></qemu:device></qemu:override>";

#[test]
fn a_domain_of_another_user_finds_its_network() {
    let mut daemon = Daemon::start_with(&["--reactors", "1", "--socket-group", "kvm"]);
    let (one, two) = prod(&mut daemon);
    // Its user is to pass through where the socket is.
    fs::set_permissions(daemon.path(""), fs::Permissions::from_mode(0o711)).unwrap();
    let printed = stdout(&mvirt(&daemon, &["nic", "vmm-args", "vm1", "--vmm", "libvirt"]));
    let (memory, interface) = printed.split_at(printed.find("<interface").unwrap());
    let mut a = Machine::libvirt(&format!("{memory}{OVERRIDE}"), interface);
    let mut b = Machine::uml(&daemon, &two);
    a.lease(&one);
    b.lease(&two);
    converse(&mut a, &two, &mut b, &one);
    daemon.crash_and_restart();
    // libvirt has QEMU dial again within a second.
    a.run(
        "n=0; until ping -c 1 -W 1 169.254.0.1 || [ $n -gt 30 ]; do n=$((n+1)); usleep 200000; \
         done",
    );
    a.succeed("ping -c 2 -W 2 169.254.0.1");
    assert!(!daemon.log().contains("broke the protocol"), "{}", daemon.log());
}
