//! `mvirt nic vmm-args` and `mvirt vm start`: what is printed for each VMM, for which version, and
//! by default.

use crate::{
    command::{mvirt, stderr, stdout},
    daemon::{Daemon, wait_until},
    guest::Guest,
    machine::artefact,
};
use mvirt_net::proto::{NicState, Transport};
use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixStream, process::CommandExt as _},
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

#[test]
fn every_vmm_gets_its_arguments() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic_with("prod", "vm1", |r| (r.queue_pairs, r.mtu) = (2, 9000));
    daemon.nic_with("prod", "stream", |nic| nic.transport = Transport::Stream.into());
    let (socket, mac) = (&nic.socket_path, &nic.mac_address);
    let args = |flags: &[&str]| {
        let common = ["nic", "vmm-args", "vm1", "--accel", "tcg", "--memory", "1G", "--vmm"];
        stdout(&mvirt(&daemon, &[&common, flags].concat()))
    };
    assert_eq!(
        args(&["cloud-hypervisor"]),
        format!(
            "--memory size=1G,shared=on --net vhost_user=true,socket={socket},mac={mac},\
             num_queues=4,queue_size=256,mtu=9000\n"
        )
    );
    let qemu = |reconnect: &str| {
        format!(
            "-accel tcg -m 1G -object memory-backend-memfd,id=mem0,size=1G,share=on \
             -numa node,memdev=mem0 -chardev socket,id=net0,path={socket},{reconnect} \
             -netdev vhost-user,id=net0,chardev=net0,queues=2 \
             -device virtio-net-pci,netdev=net0,mac={mac},mq=on,vectors=0,host_mtu=9000\n"
        )
    };
    assert_eq!(args(&["qemu", "--vmm-version", "7.2"]), qemu("reconnect=1"));
    assert_eq!(args(&["qemu", "--vmm-version", "9.1.2"]), qemu("reconnect=1"));
    assert_eq!(args(&["qemu", "--vmm-version", "9.2"]), qemu("reconnect-ms=1000"));
    assert_eq!(args(&["qemu", "--vmm-version", "10.2.1"]), qemu("reconnect-ms=1000"));
    assert_eq!(args(&["uml"]), format!("virtio_uml.device={socket}:1\n"));
    assert_eq!(
        args(&["dpdk"]),
        format!("--vdev net_virtio_user0,path={socket},queues=2,queue_size=256,mac={mac}\n")
    );
    assert_eq!(
        args(&["libvirt"]),
        format!(
            "<memoryBacking>\n  <source type='memfd'/>\n  <access mode='shared'/>\n\
             </memoryBacking>\n<interface type='vhostuser'>\n  <mac address='{mac}'/>\n  \
             <source type='unix' path='{socket}' mode='client'>\n    \
             <reconnect enabled='yes' timeout='1'/>\n  </source>\n  <model type='virtio'/>\n  \
             <driver queues='2'/>\n  <mtu size='9000'/>\n</interface>\n"
        )
    );
    let old = ["nic", "vmm-args", "stream", "--vmm", "qemu", "--vmm-version"];
    let refused = mvirt(&daemon, &[&old[..], &["7.1"]].concat());
    assert!(stderr(&refused, 1).contains("needs QEMU 7.2"));
    assert!(mvirt(&daemon, &[&old[..], &["7.2"]].concat()).status.success());
    let list: Vec<String> = serde_json::from_str(&args(&["uml", "-o", "json"])).unwrap();
    assert_eq!(list, [format!("virtio_uml.device={socket}:1")]);
}

/// Runs mvirt with no programs but `programs`, scripts that print their arguments.
fn among(daemon: &Daemon, programs: &[(&str, &str)], args: &[&str]) -> std::process::Output {
    let folder = tempfile::tempdir().unwrap();
    for (name, script) in programs {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
    command.env("MVIRT_NET_SERVER", daemon.address()).env("PATH", folder.path());
    command.args(args).output().unwrap()
}

#[test]
fn the_vmm_is_one_that_is_installed() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.nic_with("prod", "vm1", |r| r.queue_pairs = 4);
    let script = "[ $1 = --version ] && echo 'QEMU emulator version 10.2.0 (x)'\necho \"$@\"";
    let qemu = ("qemu-system-x86_64", script);
    let printed = stdout(&among(&daemon, &[qemu], &["nic", "vmm-args", "vm1", "--accel", "tcg"]));
    assert!(printed.contains("reconnect-ms=1000 "), "{printed}");
    let kernel = env!("CARGO_BIN_EXE_mvirt");
    let start = ["vm", "start", "vm1", "--kernel", kernel, "--accel", "tcg"];
    let started = stdout(&among(&daemon, &[qemu], &start));
    assert!(started.contains("-smp 4 ") && started.contains("-m 512M "), "{started}");
    let both = [qemu, ("cloud-hypervisor", "echo \"$@\"")];
    let started = stdout(&among(&daemon, &both, &start));
    assert!(started.starts_with("--cpus boot=4 "), "as many as the vNIC has pairs: {started}");
    let without = among(&daemon, &[qemu], &[&start[..], &["--vmm", "cloud-hypervisor"]].concat());
    let said = stderr(&without, 1);
    assert!(said.contains("cannot run cloud-hypervisor") && said.contains("--vmm qemu"), "{said}");
    let said = stderr(&among(&daemon, &[qemu], &["vm", "start", "vm1"]), 2);
    assert!(said.contains("--kernel FILE or --disk FILE"), "{said}");
    let said = stderr(&among(&daemon, &[qemu], &["vm", "start", "vm1", "--vmm", "libvirt"]), 2);
    assert!(said.contains("virsh start"), "{said}");
}

#[test]
fn a_machine_is_not_started_on_a_vnic_in_use() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    let nic = daemon.nic("prod", "vm1");
    let kernel = env!("CARGO_BIN_EXE_mvirt");
    let start = |daemon: &Daemon| {
        let args = ["vm", "start", "other", "--nic", "vm1", "--vmm", "qemu", "--kernel", kernel];
        among(daemon, &[("qemu-system-x86_64", "echo started")], &args)
    };
    let refuses = |daemon: &Daemon| {
        let refused = start(daemon);
        assert_eq!(refused.stdout, b"", "nothing is started");
        let said = stderr(&refused, 1);
        assert!(said.starts_with("mvirt: vNIC vm1: a VMM is connected to it: name"), "{said}");
    };
    let guest = Guest::connect(&nic);
    daemon.wait_for_state("vm1", NicState::Active);
    refuses(&daemon);
    drop(guest);
    daemon.wait_for_state("vm1", NicState::Created);
    // A VMM whose guest has no driver yet.
    let vmm = UnixStream::connect(&nic.socket_path).unwrap();
    wait_until("it is connected", || daemon.log().matches("VMM connected").count() == 2);
    refuses(&daemon);
    drop(vmm);
    wait_until("it is gone", || daemon.log().matches("VMM disconnected").count() == 2);
    assert_eq!(stdout(&start(&daemon)), "started\n");
    std::fs::remove_file(&nic.socket_path).unwrap();
    let said = stderr(&start(&daemon), 1);
    assert!(said.contains(&nic.socket_path) && said.contains("daemon's host"), "{said}");
}

#[test]
fn a_machine_without_what_it_boots_is_not_started() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.nic("prod", "vm1");
    let programs = [("linux.uml", "echo \"$@\""), ("qemu-system-x86_64", "echo \"$@\"")];
    let start = |line: &str| {
        let args = ["vm", "start", "vm1", "--vmm"].into_iter().chain(line.split(' '));
        among(&daemon, &programs, &args.collect::<Vec<_>>())
    };
    let there = env!("CARGO_BIN_EXE_mvirt");
    for (line, told) in [
        ("uml", "uml has nothing to boot: give --initramfs FILE, or a root file system"),
        ("uml --cmdline quiet", "uml has nothing to boot"),
        ("uml --initramfs /none", "--initramfs /none: No such file"),
        ("uml --disk /none", "--disk /none: No such file"),
        (&format!("uml --kernel /none --initramfs {there}"), "--kernel /none: No such file"),
        ("qemu --kernel /none", "--kernel /none: No such file"),
        (&format!("qemu --kernel {there} --disk /none"), "--disk /none: No such file"),
        (&format!("cloud-hypervisor --kernel {there} --initramfs /none"), "--initramfs /none"),
    ] {
        let refused = start(line);
        assert_eq!(refused.stdout, b"", "{line} starts nothing");
        let said = stderr(&refused, 2);
        assert!(said.contains(told), "{line}: {said}");
    }
    for line in [
        format!("uml --kernel linux.uml --initramfs {there}"),
        "uml --cmdline root=/dev/root".into(),
        "uml -- initrd=x".into(),
        "qemu --accel tcg --disk nbd://host/name".into(),
    ] {
        stdout(&start(&line));
    }
}

/// A machine that a shell has started, and its console; ended in any case.
pub(crate) struct Booting {
    process: Child,
    console: tempfile::NamedTempFile,
    _input: ChildStdin,
}

impl Booting {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let console = tempfile::NamedTempFile::new().unwrap();
        let open = || fs::File::options().append(true).open(console.path()).unwrap();
        command.stdin(Stdio::piped()).stdout(open()).stderr(open()).process_group(0);
        let mut process = command.spawn().unwrap();
        let input = process.stdin.take().unwrap();
        Self { process, console, _input: input }
    }

    /// Waits until its driver runs: a machine takes its time, and more where others are busy.
    pub(crate) fn wait_until_active(&self, daemon: &mut Daemon, nic: &str) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while daemon.get_nic(nic).state() != NicState::Active {
            let said = || String::from_utf8_lossy(&fs::read(&self.console).unwrap()).into_owned();
            assert!(Instant::now() < deadline, "{}", said());
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

impl Drop for Booting {
    fn drop(&mut self) {
        // User-mode Linux is many processes; all are in the group.
        let group = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        self.process.wait().ok();
    }
}

#[test]
fn the_printed_line_starts_a_machine_as_it_is() {
    let mut daemon = Daemon::start();
    daemon.network("prod");
    daemon.nic_with("prod", "vm1", |r| r.mtu = 1400);
    let args = ["nic", "vmm-args", "vm1", "--vmm", "qemu", "--accel", "tcg", "--memory", "192M"];
    let line = stdout(&mvirt(&daemon, &args));
    let file = |name: &str| artefact(name).display().to_string();
    let (kernel, initrd) = (file("vmlinuz"), file("qemu.cpio.gz"));
    let boot = format!(
        "exec qemu-system-x86_64 -nographic -kernel {kernel} -initrd {initrd} \
         -append console=ttyS0 {line}"
    );
    let mut command = Command::new("sh");
    let machine = Booting::spawn(command.args(["-c", &boot]));
    machine.wait_until_active(&mut daemon, "vm1");
}
