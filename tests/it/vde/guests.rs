//! Whoever else speaks VDE: virtual machines, programs on its library, namespaces.

use super::{
    plug::Joined,
    stock::{ALL, Plug, frame, mac},
    switches::{lab, serve, wait_for_clients},
};
use crate::{
    daemon::{cannot_run, wait_until},
    machine::Machine,
};
use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

// seed H.5.4, H.5.8
#[test]
fn a_program_on_libvdeplug_talks_by_our_switch() {
    let mut daemon = lab();
    let directory = serve(&mut daemon, "switch", "");
    let folder = tempfile::tempdir().unwrap();
    let program = built(folder.path(), "libvdeplug.c", "-lvdeplug");
    let mut a = Plug::stock(&directory.display().to_string());
    let mut child = Command::new(&program);
    let mut child = child.arg(&directory).stdin(Stdio::piped()).spawn().unwrap();
    wait_for_clients(&mut daemon, 2);
    for len in [60, 1514, 9018] {
        a.sends(&frame(ALL, 1, len));
        let answer = a.hears();
        assert!(answer[..12] == [mac(1), mac(7)].concat() && answer.len() == len, "{len}");
    }
    // `wait` closes its input.
    assert!(child.wait().unwrap().success());
    wait_for_clients(&mut daemon, 1);
}

/// Builds a program of C in `folder`, on a library that scripts/install.sh has installed.
fn built(folder: &Path, source: &str, library: &str) -> PathBuf {
    let program = folder.join("program");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/vde").join(source);
    let mut compiler = Command::new("cc");
    let compiler = compiler.arg("-o").arg(&program).arg(source).arg(library);
    assert!(compiler.status().unwrap().success(), "scripts/install.sh installs {library}");
    program
}

/// Runs a program that has two stacks at our switch, which must hear each other.
fn two_stacks(source: &str, library: &str) {
    let mut daemon = lab();
    let directory = serve(&mut daemon, "switch", "");
    let folder = tempfile::tempdir().unwrap();
    let mut program = Command::new(built(folder.path(), source, library));
    assert!(program.arg(&directory).status().unwrap().success());
    wait_for_clients(&mut daemon, 0);
}

// seed H.5.5
#[test]
fn stacks_of_lwipv6_reach_each_other_by_our_switch() {
    two_stacks("lwipv6.c", "-llwipv6");
}

// seed H.5.7
#[test]
fn stacks_of_libvdestack_reach_each_other_by_our_switch() {
    if !rustix::process::geteuid().is_root() {
        return cannot_run("libvdestack makes network namespaces, as root may");
    }
    two_stacks("libvdestack.c", "-lvdestack");
}

// seed H.5.1, H.5.2, H.5.3
#[test]
fn guests_of_qemu_and_user_mode_linux_ping_each_other_by_our_switch() {
    let mut daemon = lab();
    let directory = serve(&mut daemon, "switch", "").display().to_string();
    let netdev = format!("vde,id=vde0,sock={directory}");
    let device = "virtio-net-pci,netdev=vde0,mac=02:00:00:00:00:11,vectors=0";
    let mut qemu = Machine::alone_qemu(&["-netdev", &netdev, "-device", device]);
    let mut by_plug = Machine::alone_uml(&[&format!("eth0=vde,{directory},02:00:00:00:00:12")]);
    let own = format!("eth0=daemon,02:00:00:00:00:13,unix,{directory}/ctl");
    let mut by_daemon = Machine::alone_uml(&[&own]);
    wait_for_clients(&mut daemon, 3);
    let machines = [&mut qemu, &mut by_plug, &mut by_daemon];
    for (at, machine) in machines.into_iter().enumerate() {
        let address = format!("ip addr add 10.60.0.{}/24 dev eth0", at + 1);
        machine.succeed(&format!("ip link set eth0 up && {address}"));
    }
    for (machine, peers) in [(&mut qemu, [2, 3]), (&mut by_plug, [1, 3]), (&mut by_daemon, [1, 2])]
    {
        for peer in peers {
            machine.succeed(&format!("ping -c 3 -W 5 10.60.0.{peer}"));
        }
    }
}

// seed H.5.6
#[test]
fn a_namespace_of_vdens_is_a_member() {
    if !rustix::process::geteuid().is_root() {
        return cannot_run("user namespaces may be forbidden");
    }
    let mut daemon = lab();
    let directory = serve(&mut daemon, "switch", "");
    let mut namespace = Command::new("vdens");
    namespace.arg(&directory).args(["sh", "-c"]);
    namespace.arg("ip link set vde0 up; ip addr add 10.60.0.1/24 dev vde0; sleep 60");
    let namespace = namespace.stdin(Stdio::null()).process_group(0).spawn().unwrap();
    let _namespace = Joined(namespace);
    let mut a = Plug::stock(&directory.display().to_string());
    wait_for_clients(&mut daemon, 2);
    // ARP for its address (RFC 826).
    let mut request = frame(ALL, 1, 14);
    request[12..14].copy_from_slice(&[8, 6]);
    request.extend([&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac(1), &[10, 60, 0, 9]].concat());
    request.extend([&[0; 6][..], &[10, 60, 0, 1]].concat());
    wait_until("it answers", || {
        a.sends(&request);
        a.hears_within(200).is_some_and(|heard| heard[12..14] == [8, 6] && heard[21] == 2)
    });
}
