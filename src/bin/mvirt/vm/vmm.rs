//! Which VMMs there are, which of them are installed, and what theirs can do.

use clap::ValueEnum;
use kvm_ioctls::Kvm;
use std::{env::consts::ARCH, process::Command};

/// A program that runs virtual machines, or plays one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Vmm {
    CloudHypervisor,
    Qemu,
    /// User-mode Linux
    Uml,
    /// A DPDK application with a virtio-user port
    Dpdk,
    /// Elements of a domain's XML
    Libvirt,
    /// A part of its configuration file
    Firecracker,
}

/// What QEMU runs guests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    /// kvm where a virtual machine can be made with it, else tcg
    Auto,
    Kvm,
    Tcg,
}

impl Vmm {
    // Without those that `vm start` does not run.
    const ALL: [Self; 4] = [Self::CloudHypervisor, Self::Qemu, Self::Uml, Self::Dpdk];

    /// The one to use where none is named: what is installed of those that run any guest.
    pub(super) fn installed() -> Self {
        let wanted = [Self::CloudHypervisor, Self::Qemu];
        // Where none is, the message about the missing program says what to install.
        wanted.into_iter().find(|vmm| vmm.is_installed()).unwrap_or(Self::CloudHypervisor)
    }

    /// The program's file.
    pub(super) fn program(self) -> String {
        match self {
            Self::CloudHypervisor => "cloud-hypervisor".into(),
            Self::Qemu => format!("qemu-system-{ARCH}"),
            Self::Uml => "linux.uml".into(),
            Self::Dpdk => "dpdk-testpmd".into(),
            Self::Libvirt => "virsh".into(),
            Self::Firecracker => "firecracker".into(),
        }
    }

    /// As `--vmm` takes it.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether its arguments are those of a program, on one line.
    pub(crate) fn is_pasted_into_a_shell(self) -> bool {
        !matches!(self, Self::Libvirt | Self::Firecracker)
    }

    fn is_installed(self) -> bool {
        which::which(self.program()).is_ok()
    }

    /// What to do where it cannot be run.
    pub(super) fn others(self) -> String {
        let others = Self::ALL.into_iter().filter(|vmm| *vmm != self && vmm.is_installed());
        let others = others.map(|vmm| format!("--vmm {}", vmm.name())).collect::<Vec<_>>();
        if others.is_empty() {
            "Is it installed? No other VMM is.".into()
        } else {
            format!("Is it installed? Here is {}.", others.join(", "))
        }
    }
}

/// A version's first two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32);

impl Version {
    /// The first QEMU with `reconnect-ms`; `reconnect` is gone since 10.2.
    pub(super) const RECONNECT_MS: Self = Self(9, 2);
    /// The first QEMU with `-netdev stream` and `dgram`.
    pub(super) const STREAM: Self = Self(7, 2);

    /// That of the QEMU that is installed, if one is.
    pub(super) fn of_qemu() -> Option<Self> {
        let output = Command::new(Vmm::Qemu.program()).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_once("version ")?.1.split_whitespace().next()?.parse().ok()
    }
}

impl std::str::FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut numbers = text.split('.').map(|number| number.parse::<u32>().ok());
        let major = numbers.next().flatten().ok_or("expected a version, like 9.2")?;
        // A second number that is missing or odd counts as zero.
        Ok(Self(major, numbers.next().flatten().unwrap_or(0)))
    }
}

impl Accel {
    /// Whether QEMU runs guests without KVM.
    pub(super) fn is_tcg(self) -> bool {
        match self {
            Self::Kvm => false,
            Self::Tcg => true,
            // That the device opens says little: in a container or a nested machine what follows
            // may be refused.
            Self::Auto => {
                let vm = Kvm::new().and_then(|kvm| kvm.create_vm());
                vm.and_then(|vm| vm.create_vcpu(0)).is_err()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        let version = |text: &str| text.parse::<Version>();
        assert_eq!(version("7.2.22"), Ok(Version(7, 2)));
        assert!(version("10.0").unwrap() > Version::RECONNECT_MS);
        assert!(version("9.1.50").unwrap() < Version::RECONNECT_MS);
        assert_eq!(version("11"), Ok(Version(11, 0)));
        assert!(version("new").is_err());
    }
}
