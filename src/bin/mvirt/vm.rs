//! `mvirt vm start`, and the arguments that connect each VMM to a vNIC.

use super::{Failure, connect::Client, nic};
use clap::{Args, Subcommand, ValueEnum};
use mvirt_net::proto::Nic;
use std::{os::unix::process::CommandExt as _, path::PathBuf, process};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a virtual machine in the foreground
    Start(Start),
}

/// A program that runs virtual machines, or plays one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Vmm {
    CloudHypervisor,
    Qemu,
    Uml,
    /// A DPDK application with a virtio-user port
    Dpdk,
}

/// What QEMU runs guests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    /// kvm where /dev/kvm can be used, else tcg
    Auto,
    Kvm,
    Tcg,
}

/// What the arguments of a VMM depend on, beside the vNIC.
#[derive(Debug, Clone, Args)]
pub(crate) struct Machine {
    /// Which VMM
    #[arg(long, default_value = "cloud-hypervisor")]
    vmm: Vmm,
    /// The guest's memory, which is shared with mvirt-net
    #[arg(long, default_value = "512M", value_parser = memory)]
    memory: String,
    /// What QEMU runs the guest on
    #[arg(long, default_value = "auto")]
    accel: Accel,
}

#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Name of the virtual machine
    name: String,
    /// Its vNIC, by name or id
    #[arg(long)]
    nic: String,
    #[command(flatten)]
    machine: Machine,
    /// Kernel image [uml: linux.uml]
    #[arg(long, value_name = "FILE", required_if_eq_any = [("vmm", "qemu"), ("vmm", "cloud-hypervisor")])]
    kernel: Option<PathBuf>,
    /// Initial RAM disk
    #[arg(long, value_name = "FILE")]
    initramfs: Option<PathBuf>,
    /// Disk image
    #[arg(long, value_name = "FILE")]
    disk: Option<PathBuf>,
    /// More of the kernel's command line
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    cmdline: String,
    /// Virtual CPUs
    #[arg(long, value_name = "N", default_value = "1")]
    cpus: u32,
    /// More of the VMM's own arguments
    #[arg(last = true, value_name = "ARG")]
    arguments: Vec<String>,
}

fn memory(text: &str) -> Result<String, String> {
    let number = text.strip_suffix(['M', 'G']).unwrap_or("");
    match number.parse::<u32>() {
        Ok(1..) => Ok(text.into()),
        _ => Err("expected mebibytes or gibibytes, like 512M or 4G".into()),
    }
}

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(ToString::to_string).collect()
}

impl Machine {
    /// The arguments that connect the VMM to the vNIC, memory that it must share included.
    pub(crate) fn network_args(&self, nic: &Nic) -> Vec<String> {
        let (socket, mac, pairs, memory) =
            (&nic.socket_path, &nic.mac_address, nic.queue_pairs, &self.memory);
        match self.vmm {
            Vmm::CloudHypervisor => strings(&[
                "--memory",
                &format!("size={memory},shared=on"),
                "--net",
                &format!(
                    "vhost_user=true,socket={socket},mac={mac},num_queues={},queue_size=256",
                    pairs * 2
                ),
            ]),
            Vmm::Qemu => {
                let (queues, device) = match (pairs, self.tcg()) {
                    (1, true) => (String::new(), ",vectors=0".to_owned()),
                    (1, false) => (String::new(), String::new()),
                    (_, true) => (format!(",queues={pairs}"), ",mq=on,vectors=0".to_owned()),
                    (_, false) => {
                        (format!(",queues={pairs}"), format!(",mq=on,vectors={}", pairs * 2 + 2))
                    }
                };
                strings(&[
                    "-object",
                    &format!("memory-backend-memfd,id=mem0,size={memory},share=on"),
                    "-numa",
                    "node,memdev=mem0",
                    "-chardev",
                    &format!("socket,id=net0,path={socket},reconnect=1"),
                    "-netdev",
                    &format!("vhost-user,id=net0,chardev=net0{queues}"),
                    "-device",
                    &format!("virtio-net-pci,netdev=net0,mac={mac}{device}"),
                ])
            }
            Vmm::Uml => strings(&[&format!("virtio_uml.device={socket}:1")]),
            Vmm::Dpdk => strings(&[
                "--vdev",
                &format!("net_virtio_user0,path={socket},queues={pairs},queue_size=256,mac={mac}"),
            ]),
        }
    }

    /// QEMU 7.2 crashes under TCG with interrupt vectors on a vhost-user device.
    fn tcg(&self) -> bool {
        match self.accel {
            Accel::Kvm => false,
            Accel::Tcg => true,
            Accel::Auto => {
                std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err()
            }
        }
    }
}

/// The arguments as a shell takes them.
pub(crate) fn shell_line(args: &[String]) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_=,./:@%+".contains(c);
    let quoted = args.iter().map(|arg| {
        if !arg.is_empty() && arg.chars().all(safe) {
            arg.clone()
        } else {
            format!("'{}'", arg.replace('\'', r"'\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

pub(crate) async fn run(command: Command, client: &mut Client) -> Result<(), Failure> {
    let Command::Start(start) = command;
    let nic = nic::get(client, start.nic.clone()).await?;
    let (program, args) = start.command(&nic);
    eprintln!("{} {}", program, shell_line(&args));
    let source = process::Command::new(&program).args(&args).exec();
    Err(Failure::Vmm { program, source })
}

impl Start {
    fn command(&self, nic: &Nic) -> (String, Vec<String>) {
        let mut args = match self.machine.vmm {
            Vmm::Uml => self.uml(),
            Vmm::Qemu => self.qemu(),
            Vmm::CloudHypervisor => self.cloud_hypervisor(),
            Vmm::Dpdk => strings(&["--no-pci", "--file-prefix", &self.name]),
        };
        args.extend(self.machine.network_args(nic));
        args.extend(self.arguments.iter().cloned());
        match self.machine.vmm {
            Vmm::Uml => {
                args.extend(self.cmdline.split_whitespace().map(str::to_owned));
                let kernel = self.kernel.as_ref().map(|kernel| kernel.display().to_string());
                (kernel.unwrap_or_else(|| "linux.uml".into()), args)
            }
            Vmm::Qemu => ("qemu-system-x86_64".into(), args),
            Vmm::CloudHypervisor => ("cloud-hypervisor".into(), args),
            Vmm::Dpdk => {
                args.extend(strings(&["--", "--interactive"]));
                ("dpdk-testpmd".into(), args)
            }
        }
    }

    fn file(&self, flag: &str, file: Option<&PathBuf>) -> Vec<String> {
        file.map(|file| strings(&[flag, &file.display().to_string()])).unwrap_or_default()
    }

    fn uml(&self) -> Vec<String> {
        let mut args = strings(&[
            &format!("mem={}", self.machine.memory),
            &format!("umid={}", self.name),
            "con=null",
            "con0=fd:0,fd:1",
        ]);
        args.extend(self.initramfs.iter().map(|file| format!("initrd={}", file.display())));
        args.extend(self.disk.iter().map(|file| format!("ubd0={}", file.display())));
        args
    }

    fn qemu(&self) -> Vec<String> {
        let accel = if self.machine.tcg() { "tcg" } else { "kvm" };
        let mut args = strings(&[
            "-name",
            &self.name,
            "-accel",
            accel,
            "-cpu",
            "max",
            "-smp",
            &self.cpus.to_string(),
            "-m",
            &self.machine.memory,
            "-nographic",
            "-no-reboot",
            "-append",
            &format!("console=ttyS0 {}", self.cmdline),
        ]);
        args.extend(self.file("-kernel", self.kernel.as_ref()));
        args.extend(self.file("-initrd", self.initramfs.as_ref()));
        args.extend(
            self.disk.iter().flat_map(|file| {
                strings(&["-drive", &format!("file={},if=virtio", file.display())])
            }),
        );
        args
    }

    fn cloud_hypervisor(&self) -> Vec<String> {
        let mut args = strings(&[
            "--cpus",
            &format!("boot={}", self.cpus),
            "--serial",
            "tty",
            "--console",
            "off",
            "--cmdline",
            &format!("console=ttyS0 {}", self.cmdline),
        ]);
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
