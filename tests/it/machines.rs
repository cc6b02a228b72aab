//! Real Linux kernels: User-mode Linux and QEMU, with their own virtio-net driver, IP stack and
//! DHCP clients.
//!
//! `make test` builds their initial RAM disks (guests/build.sh).

use super::{
    daemon::{Daemon, wait_until},
    migration::{ask, hear},
};
use mvirt_net::proto::Nic;
use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

pub(crate) fn artefact(name: &str) -> PathBuf {
    let target =
        PathBuf::from(env!("CARGO_BIN_EXE_mvirt")).parent().unwrap().parent().unwrap().to_owned();
    let path = target.join("guests").join(name);
    assert!(path.exists(), "{} is missing: run guests/build.sh, or make test", path.display());
    path
}

/// A booted kernel with a shell on its console (guests/init).
pub(crate) struct Machine {
    process: Child,
    input: ChildStdin,
    output: mpsc::Receiver<String>,
    _directory: tempfile::TempDir,
}

impl Machine {
    fn boot(daemon: &Daemon, nic: &Nic, vmm: &[&str]) -> Self {
        let mut machine = Self::spawn(daemon, nic, vmm);
        machine.answer("boot", 120);
        machine
    }

    fn spawn(daemon: &Daemon, nic: &Nic, vmm: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mvirt"));
        command
            .env("MVIRT_NET_SERVER", daemon.address())
            .env("HOME", directory.path())
            .env("TMPDIR", "/dev/shm")
            .args(["vm", "start", &nic.name, "--nic", &nic.name])
            .args(vmm)
            .stderr(Stdio::null())
            .env(
                "LD_PRELOAD",
                if vmm.contains(&"uml") { artefact("uml-xstate.so") } else { PathBuf::new() },
            );
        Self::on_console(&mut command, directory)
    }

    /// One whose console is a program's input and output.
    fn on_console(command: &mut Command, directory: tempfile::TempDir) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut process = command.spawn().unwrap();
        let input = process.stdin.take().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).split(b'\n');
        let (sender, output) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { process, input, output, _directory: directory }
    }

    pub(crate) fn uml(daemon: &Daemon, nic: &Nic) -> Self {
        let initrd = artefact("uml.cpio.gz").display().to_string();
        Self::boot(
            daemon,
            nic,
            &["--vmm", "uml", "--memory", "128M", "--initramfs", &initrd, "--cmdline", "quiet"],
        )
    }

    /// A Debian with DHCP clients, whose /out is the host's folder `out`.
    pub(crate) fn debian(daemon: &Daemon, nic: &Nic, out: &Path) -> Self {
        let root = artefact("debian").display().to_string();
        let out = out.display();
        let cmdline = format!("quiet rootfstype=hostfs rootflags={root} ro init=/init out={out}");
        Self::boot(daemon, nic, &["--vmm", "uml", "--memory", "256M", "--cmdline", &cmdline])
    }

    /// One of QEMU, with more of its own arguments.
    pub(crate) fn qemu(daemon: &Daemon, nic: &Nic, arguments: &[&str]) -> Self {
        let mut machine = Self::spawn_qemu(daemon, nic, arguments);
        machine.answer("boot", 120);
        machine
    }

    /// As [`Machine::qemu`], not waiting for a kernel to boot.
    pub(crate) fn spawn_qemu(daemon: &Daemon, nic: &Nic, arguments: &[&str]) -> Self {
        let (kernel, initrd) = (
            artefact("vmlinuz").display().to_string(),
            artefact("qemu.cpio.gz").display().to_string(),
        );
        let vmm = ["--vmm", "qemu", "--accel", "tcg", "--memory", "192M", "--kernel", &kernel];
        let guest = ["--initramfs", &initrd, "--cmdline", "quiet", "--"];
        Self::spawn(daemon, nic, &[&vmm[..], &guest, arguments].concat())
    }

    /// One that libvirt starts in namespaces of its own (tests/it/libvirt.sh), with these elements
    /// and devices.
    pub(crate) fn libvirt(elements: &str, devices: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        // libvirt makes the files of a domain its own.
        for name in ["vmlinuz", "qemu.cpio.gz"] {
            std::fs::copy(artefact(name), path(name)).unwrap();
        }
        let (kernel, initrd, console) = (path("vmlinuz"), path("qemu.cpio.gz"), path("console"));
        let domain = format!(
            "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
            <name>vm</name><memory unit='MiB'>192</memory><vcpu>1</vcpu>{elements}
            <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{kernel}</kernel>
            <initrd>{initrd}</initrd><cmdline>console=ttyS0 quiet</cmdline></os>
            <devices>{devices}<serial type='pipe'><source path='{console}'/></serial></devices>
            </domain>"
        );
        std::fs::write(path("domain.xml"), domain).unwrap();
        let passable = std::fs::Permissions::from_mode(0o711);
        std::fs::set_permissions(directory.path(), passable).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child"]);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/libvirt.sh"));
        let mut machine = Self::on_console(command.arg(directory.path()), directory);
        machine.answer("boot", 180);
        machine
    }

    /// Begins a command; what it says is among [`Machine::lines`].
    pub(crate) fn begin(&mut self, command: &str) {
        writeln!(self.input, "{command}").unwrap();
    }

    /// What the console has said by now.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        self.output.try_iter()
    }

    /// The lines up to the end of a command, and its status.
    fn answer(&mut self, what: &str, seconds: u64) -> (String, i32) {
        let mut text = String::new();
        loop {
            let line = self.output.recv_timeout(Duration::from_secs(seconds));
            let line =
                line.unwrap_or_else(|_| panic!("{what}: no end within {seconds} s:\n{text}"));
            // A serial console may have put control sequences before it.
            match line.split_once("@@ ") {
                Some((_, status)) => return (text, status.parse().unwrap_or(0)),
                None => text += &(line + "\n"),
            }
        }
    }

    pub(crate) fn run(&mut self, command: &str) -> (String, i32) {
        self.begin(command);
        self.answer(command, 120)
    }

    /// Runs a command that must succeed.
    pub(crate) fn succeed(&mut self, command: &str) -> String {
        let (text, status) = self.run(command);
        assert_eq!(status, 0, "{command}:\n{text}");
        text
    }

    /// Takes both leases as a distribution would, and checks them.
    pub(crate) fn lease(&mut self, nic: &Nic) {
        let lease = self.succeed("lease4");
        for line in [
            format!("address {}/32", nic.ipv4_address),
            "gateway 169.254.0.1".into(),
            "routes 169.254.0.1/32 0.0.0.0 0.0.0.0/0 169.254.0.1".into(),
            "dns 1.1.1.1".into(),
        ] {
            assert!(lease.lines().any(|l| l == line), "{line:?} is not in\n{lease}");
        }
        let lease = self.succeed("lease6");
        for line in [
            format!("address {}/128", nic.ipv6_address),
            "gateway fe80::1".into(),
            "dns fd00::53".into(),
        ] {
            assert!(lease.lines().any(|l| l == line), "{line:?} is not in\n{lease}");
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // User-mode Linux is many processes; all are in the group.
        if let Some(group) = rustix::process::Pid::from_raw(self.process.id() as i32) {
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        }
        self.process.wait().ok();
    }
}

pub(crate) fn prod(daemon: &mut Daemon) -> (Nic, Nic) {
    daemon.network_with("prod", |r| {
        r.dns_servers = vec!["1.1.1.1".into(), "fd00::53".into()];
        r.domain = "prod.internal".into();
    });
    (daemon.nic("prod", "vm1"), daemon.nic("prod", "vm2"))
}

/// Pings and a TCP transfer between two machines with leases.
pub(crate) fn converse(a: &mut Machine, to: &Nic, b: &mut Machine, from: &Nic) {
    a.succeed(&format!("ping -c 3 -i 0.2 -W 5 {}", to.ipv4_address));
    b.succeed(&format!("ping -c 3 -i 0.2 -W 5 {}", from.ipv6_address));
    a.succeed("ping -c 1 -W 5 169.254.0.1 && ping -c 1 -W 5 fe80::1%eth0");
    b.succeed("iperf3 -s -D --logfile /dev/null && usleep 500000");
    let report = a.succeed(&format!("iperf3 -c {} -n 16M -f m", to.ipv4_address));
    assert!(report.contains("receiver"), "{report}");
    let report = a.succeed(&format!("iperf3 -c {} -n 16M -f m", to.ipv6_address));
    assert!(report.contains("receiver"), "{report}");
}

#[test]
fn user_mode_linux_guests_find_their_network_and_each_other() {
    let mut daemon = Daemon::start();
    let (one, two) = prod(&mut daemon);
    let (mut a, mut b) = (Machine::uml(&daemon, &one), Machine::uml(&daemon, &two));
    a.lease(&one);
    b.lease(&two);
    converse(&mut a, &two, &mut b, &one);
    let stats = daemon.stats("vm1");
    for reason in [
        "bad_vnet_header",
        "malformed_ipv4",
        "malformed_ipv6",
        "spoofed_source_ipv4",
        "spoofed_source_ipv6",
        "bad_checksum",
    ] {
        assert!(stats.drops.iter().all(|drop| drop.reason != reason), "an honest guest: {stats:?}");
    }
}

#[test]
fn a_qemu_guest_talks_to_one_of_user_mode_linux_across_hand_overs_and_a_crash() {
    let mut daemon = Daemon::start();
    let (one, two) = prod(&mut daemon);
    let (mut a, mut b) = (Machine::qemu(&daemon, &one, &[]), Machine::uml(&daemon, &two));
    a.lease(&one);
    b.lease(&two);
    converse(&mut a, &two, &mut b, &one);
    // The VMMs see nothing of a hand-over: User-mode Linux could not connect again. Nor does a TCP
    // connection end.
    let to = &two.ipv4_address;
    a.succeed(&format!("iperf3 -c {to} -t 5 -f m >/tmp/report & usleep 1000000"));
    for _ in 0..3 {
        assert!(daemon.hand_over());
    }
    let report = a.succeed("wait $! && cat /tmp/report");
    assert!(report.contains("receiver"), "{report}");
    b.succeed("ping -c 2 -W 2 169.254.0.1");
    daemon.crash_and_restart();
    // QEMU dials again within a second; the lease and the rings are as they were.
    let (text, _) = a.run("n=0; until ping -c 1 -W 1 169.254.0.1 >/dev/null || [ $n -gt 30 ]; do n=$((n+1)); usleep 200000; done; ping -c 2 -W 2 169.254.0.1");
    assert!(text.contains(" 0% packet loss"), "{text}");
}

/// Until QEMU has so many regions of memory beside the first.
fn wait_for_regions(monitor: &mut UnixStream, wanted: usize) {
    wait_until(&format!("there are {wanted} more regions of memory"), || {
        ask(monitor, "info memory-devices").matches("Memory device").count() == wanted
    });
}

/// Debian 12's QEMU sends ADD_MEM_REG and REM_MEM_REG once for each queue pair (those before 8.0
/// do).
#[test]
fn a_qemu_guest_uses_four_queues_while_its_memory_grows_and_shrinks() {
    const PAIRS: u32 = 4;
    let mut daemon = Daemon::start();
    let (peer, _) = prod(&mut daemon);
    let nic = daemon.nic_with("prod", "many", |r| r.queue_pairs = PAIRS);
    let directory = tempfile::tempdir().unwrap();
    let monitor_at = directory.path().join("monitor");
    let monitor = format!("unix:{},server,nowait", monitor_at.display());
    let arguments = ["-smp", "4", "-m", "192M,slots=1,maxmem=512M", "-monitor", &monitor];
    let mut a = Machine::qemu(&daemon, &nic, &arguments);
    let mut b = Machine::uml(&daemon, &peer);
    a.lease(&nic);
    b.lease(&peer);
    // Each CPU sends by a queue of its own.
    let from_each_cpu = |a: &mut Machine| {
        for cpu in 0..PAIRS {
            let ping = format!("ping -c 3 -i 0.2 -W 5 {}", peer.ipv4_address);
            a.succeed(&format!("taskset {:x} {ping}", 1 << cpu));
        }
    };
    from_each_cpu(&mut a);
    let counted = a.succeed("ethtool -S eth0");
    for queue in 0..PAIRS {
        let counter = format!("tx_queue_{queue}_packets: ");
        let line = counted.lines().find_map(|line| line.trim().strip_prefix(&counter));
        let packets: u64 = line.unwrap().parse().unwrap();
        assert!(packets > 0, "{counted}");
    }

    let mut monitor = UnixStream::connect(monitor_at).unwrap();
    hear(&mut monitor);
    ask(&mut monitor, "object_add memory-backend-memfd,id=more,size=128M,share=on");
    ask(&mut monitor, "device_add pc-dimm,id=dimm,memdev=more");
    from_each_cpu(&mut a);
    wait_for_regions(&mut monitor, 1);
    // The guest gives it back, for it has not begun to use it.
    ask(&mut monitor, "device_del dimm");
    wait_for_regions(&mut monitor, 0);
    from_each_cpu(&mut a);
    assert!(!daemon.log().contains("broke the protocol"), "{}", daemon.log());
}
