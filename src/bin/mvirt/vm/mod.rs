//! `mvirt vm start`, and the arguments that connect each VMM to a vNIC.

pub(crate) mod args;
mod vmm;

use super::{Failure, complete, connect::Client, nic, output};
use args::{Machine, shell_line, strings};
use clap::{Args, Subcommand, ValueHint};
use mvirt_net::proto::{Nic, Transport};
use std::{
    env,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process,
    time::Duration,
};
use vhost::{
    Error::VhostUserProtocol,
    VhostBackend as _,
    vhost_user::{Error::SocketRetry, Frontend},
};
pub(crate) use vmm::Vmm;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a virtual machine in the foreground
    Start(Start),
}

const EXAMPLES: &str = "\
Examples:
  mvirt vm start vm1 --vmm uml --initramfs target/guests/uml.cpio.gz
  mvirt vm start vm1 --vmm qemu --kernel vmlinuz --initramfs initrd.img \
   --cmdline root=/dev/vda --disk disk.img
  mvirt vm start vm1 --nic vm1-eth0 --vmm qemu --disk disk.img -- -display gtk";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Start {
    /// Name of the virtual machine
    #[arg(add = complete::nics())]
    name: String,
    /// Its vNIC, by name or id [default: the one with the name of the machine]
    #[arg(long, add = complete::nics())]
    nic: Option<String>,
    #[command(flatten)]
    machine: Machine,
    /// Kernel image [uml: linux.uml; qemu: none where there is a disk]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    kernel: Option<PathBuf>,
    /// Initial RAM disk
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    initramfs: Option<PathBuf>,
    /// Disk image
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    disk: Option<PathBuf>,
    /// More of the kernel's command line
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    cmdline: String,
    /// Virtual CPUs [default: as many as the vNIC has queue pairs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cpus: Option<u32>,
    /// More of the VMM's own arguments
    #[arg(last = true, value_name = "ARG")]
    arguments: Vec<String>,
}

/// What to do about a vNIC that is in use.
const INSTEAD: &str = "name another with --nic, or stop that VM";

pub(crate) async fn run(command: Command, client: &mut Client) -> Result<(), Failure> {
    let Command::Start(start) = command;
    let vmm = start.machine.vmm();
    start.check(vmm)?;
    let key = start.nic.clone().unwrap_or_else(|| start.name.clone());
    let nic = match nic::get(client, key.clone()).await? {
        // They are in use whether or not there is a VMM.
        nic if matches!(nic.transport(), Transport::Dgram | Transport::Packet) => nic,
        _ => nic::unused(client, key, INSTEAD).await?,
    };
    let (program, args) = start.command(vmm, &nic)?;
    // Others than vhost-user answer nothing.
    if matches!(nic.transport(), Transport::Unspecified | Transport::VhostUser) {
        knock(&nic)?;
    }
    let mut command = process::Command::new(&program);
    command.args(&args);
    let mut line = format!("{program} {}", shell_line(&args));
    if vmm == Vmm::Uml {
        // Its memory is a file there, and mvirt-net takes none on a disk.
        command.env("TMPDIR", "/dev/shm");
        if let Some(preload) = uml_preload() {
            line = format!("LD_PRELOAD={} {line}", preload.display());
            command.env("LD_PRELOAD", preload);
        }
    }
    output::say(&line);
    // In its place: the terminal, signals and exit code are the VMM's. It returns only by failing.
    let source = command.exec();
    Err(Failure::Vmm { program, source, remedy: vmm.others() })
}

/// Asks at a vNIC's socket, as its VMM will. One that another VMM holds without using it yet hangs
/// up; no state shows that, and QEMU would come back to it without end.
fn knock(nic: &Nic) -> Result<(), Failure> {
    let socket = nic::dial(nic, "VMs")?;
    // A longer silence is the daemon's, which the VMM will wait for.
    let timeout = socket.set_read_timeout(Some(Duration::from_secs(1)));
    timeout.map_err(|error| Failure::Stopped(format!("{}: {error}", nic.socket_path)))?;
    match Frontend::from_stream(socket, 1).get_features() {
        // Late is not refused: the timeout of the socket is a retry to the frontend.
        Ok(_) | Err(VhostUserProtocol(SocketRetry(_))) => Ok(()),
        Err(_) => Err(nic::in_use(nic, INSTEAD)),
    }
}

/// What lets User-mode Linux run on CPUs whose state is larger than it knows (guests/uml-xstate.c),
/// where it was built or installed beside this program. It does nothing on other CPUs.
fn uml_preload() -> Option<PathBuf> {
    // The user has chosen already.
    if env::var_os("LD_PRELOAD").is_some_and(|preload| !preload.is_empty()) {
        return None;
    }
    let program = env::current_exe().ok()?;
    let prefix = program.parent().and_then(Path::parent)?;
    // As `make` builds it, and as it is installed.
    let places = ["guests/uml-xstate.so", "lib/mvirt/uml-xstate.so"];
    places.iter().map(|place| prefix.join(place)).find(|path| path.exists())
}

impl Start {
    /// Refuses what cannot boot.
    fn check(&self, vmm: Vmm) -> Result<(), Failure> {
        let lacks_boot = match vmm {
            Vmm::Libvirt => {
                return Err(Failure::Usage(
                    "libvirt starts its machines itself: put what `mvirt nic vmm-args --vmm \
                     libvirt` prints into the domain's XML, and run virsh start"
                        .into(),
                ));
            }
            Vmm::Firecracker => {
                return Err(Failure::Usage(
                    "Firecracker is configured by a file: put what `mvirt nic vmm-args --vmm \
                     firecracker` prints into it, and run firecracker --config-file FILE"
                        .into(),
                ));
            }
            Vmm::CloudHypervisor => self.kernel.is_none() && self.arguments.is_empty(),
            Vmm::Qemu => self.kernel.is_none() && self.disk.is_none() && self.arguments.is_empty(),
            Vmm::Uml => {
                self.initramfs.is_none()
                    && self.disk.is_none()
                    && self.arguments.is_empty()
                    && !self.names_root()
            }
            // It is a program by itself.
            Vmm::Dpdk => false,
        };
        if lacks_boot {
            let remedy = match vmm {
                Vmm::Uml => "--initramfs FILE, or a root file system in --cmdline",
                Vmm::Qemu => "--kernel FILE or --disk FILE",
                _ => "--kernel FILE",
            };
            let name = vmm.name();
            return Err(Failure::Usage(format!("{name} has nothing to boot: give {remedy}")));
        }
        self.check_files(vmm)
    }

    /// Whether the kernel's command line says where a root file system is.
    fn names_root(&self) -> bool {
        const ROOTS: &[&str] = &["root=", "rootfstype=", "initrd=", "ubd"];
        self.cmdline.split_whitespace().any(|word| ROOTS.iter().any(|root| word.starts_with(root)))
    }

    /// Refuses files that are not there: some VMMs boot into a panic without them.
    fn check_files(&self, vmm: Vmm) -> Result<(), Failure> {
        // User-mode Linux is a program, which may be one of PATH. What follows a comma or colon is
        // the VMM's own syntax.
        let is_program = |file: &Path| vmm == Vmm::Uml && which::which(file).is_ok();
        let is_plain = |file: &Path| !file.to_string_lossy().contains([',', ':']);
        let files = [
            ("--kernel", self.kernel.as_deref().filter(|file| !is_program(file))),
            ("--initramfs", self.initramfs.as_deref()),
            ("--disk", self.disk.as_deref().filter(|file| is_plain(file))),
        ];
        for (flag, file) in files {
            let Some(file) = file else { continue };
            std::fs::metadata(file)
                .map_err(|error| Failure::Usage(format!("{flag} {}: {error}", file.display())))?;
        }
        Ok(())
    }

    fn command(&self, vmm: Vmm, nic: &Nic) -> Result<(String, Vec<String>), Failure> {
        // A queue pair serves one CPU.
        let cpus = self.cpus.unwrap_or(nic.queue_pairs.max(1));
        let mut args = match vmm {
            Vmm::Uml => self.uml(),
            Vmm::Qemu => self.qemu(cpus),
            Vmm::CloudHypervisor => self.cloud_hypervisor(cpus),
            // A prefix for its files, so that several run on one host.
            Vmm::Dpdk | Vmm::Libvirt | Vmm::Firecracker => {
                strings(&["--no-pci", "--file-prefix", &self.name])
            }
        };
        args.extend(self.machine.network_args(vmm, nic)?);
        args.extend(self.arguments.iter().cloned());
        let mut program = vmm.program();
        match vmm {
            Vmm::Uml => {
                args.extend(self.cmdline.split_whitespace().map(str::to_owned));
                let kernel = self.kernel.as_ref().map(|kernel| kernel.display().to_string());
                program = kernel.unwrap_or(program);
            }
            Vmm::Dpdk => args.extend(strings(&["--", "--interactive"])),
            _ => {}
        }
        Ok((program, args))
    }

    fn file(&self, flag: &str, file: Option<&PathBuf>) -> Vec<String> {
        file.map(|file| strings(&[flag, &file.display().to_string()])).unwrap_or_default()
    }

    fn uml(&self) -> Vec<String> {
        let mut args = strings(&[
            &format!("mem={}", self.machine.memory),
            &format!("umid={}", self.name),
            // One console, on this terminal: others would open windows.
            "con=null",
            "con0=fd:0,fd:1",
        ]);
        args.extend(self.initramfs.iter().map(|file| format!("initrd={}", file.display())));
        args.extend(self.disk.iter().map(|file| format!("ubd0={}", file.display())));
        args
    }

    fn qemu(&self, cpus: u32) -> Vec<String> {
        let cpus = cpus.to_string();
        // `max` is what the accelerator can do; `host` needs KVM.
        let mut args = strings(&["-name", &self.name, "-cpu", "max", "-smp", &cpus]);
        args.extend(strings(&["-nographic", "-no-reboot"]));
        args.extend(self.file("-kernel", self.kernel.as_ref()));
        args.extend(self.file("-initrd", self.initramfs.as_ref()));
        // QEMU refuses -append without -kernel.
        if self.kernel.is_some() {
            let cmdline = format!("console=ttyS0 {}", self.cmdline);
            args.extend(strings(&["-append", cmdline.trim_end()]));
        }
        args.extend(
            self.disk.iter().flat_map(|file| {
                strings(&["-drive", &format!("file={},if=virtio", file.display())])
            }),
        );
        args
    }

    fn cloud_hypervisor(&self, cpus: u32) -> Vec<String> {
        let cpus = format!("boot={cpus}");
        let mut args = strings(&["--cpus", &cpus, "--serial", "tty", "--console", "off"]);
        let cmdline = format!("console=ttyS0 {}", self.cmdline);
        args.extend(strings(&["--cmdline", cmdline.trim_end()]));
        args.extend(self.file("--kernel", self.kernel.as_ref()));
        args.extend(self.file("--initramfs", self.initramfs.as_ref()));
        args.extend(
            self.disk
                .iter()
                .flat_map(|file| strings(&["--disk", &format!("path={}", file.display())])),
        );
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_through_a_shell_unharmed() {
        let args = strings(&["-append", "console=ttyS0 a='b'", "$HOME", "", "a=b,c:/d"]);
        let line = shell_line(&args);
        assert!(line.ends_with(" a=b,c:/d"), "nothing to quote: {line}");
        assert_eq!(shlex::split(&line), Some(args));
    }
}
