//! Machines that boot a real kernel, or firmware, and QEMU's monitor.

use super::daemon::Daemon;
use mvirt_net::proto::Nic;
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
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
        Self::debian_with(daemon, nic, out, "")
    }

    /// Likewise, whose kernel is told more: what it does not know is in the environment of the
    /// guest's first process.
    pub(crate) fn debian_with(daemon: &Daemon, nic: &Nic, out: &Path, more: &str) -> Self {
        let root = artefact("debian").display().to_string();
        let out = out.display();
        let cmdline =
            format!("quiet rootfstype=hostfs rootflags={root} ro init=/init out={out} {more}");
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

    /// One of QEMU that is on no network of the daemon's but by these arguments.
    pub(crate) fn alone_qemu(arguments: &[&str]) -> Self {
        Self::qemu_by(Command::new("qemu-system-x86_64"), arguments)
    }

    /// Likewise, by a command that starts QEMU somewhere.
    pub(crate) fn qemu_by(mut command: Command, arguments: &[&str]) -> Self {
        command.args(["-accel", "tcg", "-m", "192M", "-nographic", "-no-reboot", "-nodefaults"]);
        command.arg("-kernel").arg(artefact("vmlinuz"));
        command.arg("-initrd").arg(artefact("qemu.cpio.gz"));
        command.args(["-serial", "stdio", "-append", "console=ttyS0 quiet"]).args(arguments);
        let mut machine = Self::on_console(&mut command, tempfile::tempdir().unwrap());
        machine.answer("boot", 180);
        machine
    }

    /// Likewise, of User-mode Linux.
    pub(crate) fn alone_uml(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("linux.uml");
        command.env("HOME", directory.path()).env("TMPDIR", "/dev/shm");
        command.env("LD_PRELOAD", artefact("uml-xstate.so"));
        command.arg("mem=128M").arg(format!("initrd={}", artefact("uml.cpio.gz").display()));
        command.args(["con=null", "con0=fd:0,fd:1", "quiet"]).args(arguments);
        let mut machine = Self::on_console(command.stderr(Stdio::null()), directory);
        machine.answer("boot", 120);
        machine
    }

    /// One that libvirt starts in namespaces of its own (tests/support/libvirt.sh), with these
    /// elements and devices.
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
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/libvirt.sh"));
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

/// Sends a command to QEMU's monitor; gives what it says.
pub(crate) fn ask(monitor: &mut UnixStream, command: &str) -> String {
    writeln!(monitor, "{command}").unwrap();
    hear(monitor)
}

/// What it says up to its prompt.
pub(crate) fn hear(monitor: &mut UnixStream) -> String {
    let (mut said, mut octet) = (Vec::new(), [0]);
    while !said.ends_with(b"(qemu) ") {
        monitor.read_exact(&mut octet).unwrap();
        said.push(octet[0]);
    }
    String::from_utf8_lossy(&said).into_owned()
}
