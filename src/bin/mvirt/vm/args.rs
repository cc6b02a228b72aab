//! The arguments that connect each VMM to a vNIC, the memory that it must share included.

use super::vmm::{Accel, Version, Vmm};
use crate::Failure;
use clap::Args;
use mvirt_net::{
    locator::{Host, Locator},
    proto::{Nic, Transport},
};
use std::path::Path;

/// What a guest takes without being told.
const USUAL_MTU: u32 = 1500;

/// What the arguments of a VMM depend on, beside the vNIC.
#[derive(Debug, Clone, Args)]
pub(crate) struct Machine {
    /// Which VMM [default: cloud-hypervisor or qemu, which is installed]
    #[arg(long)]
    vmm: Option<Vmm>,
    /// Its version, like 7.2, where it is not the one installed here
    #[arg(long, value_name = "VERSION")]
    vmm_version: Option<Version>,
    /// The guest's memory, which is shared with mvirt-net
    #[arg(long, default_value = "512M", value_parser = memory)]
    pub(super) memory: String,
    /// What QEMU runs the guest on
    #[arg(long, default_value = "auto")]
    accel: Accel,
}

impl Machine {
    /// The VMM that is named, or one that is installed.
    pub(crate) fn vmm(&self) -> Vmm {
        self.vmm.unwrap_or_else(Vmm::installed)
    }

    /// The arguments of `vmm`; for libvirt, elements of XML.
    ///
    /// # Errors
    ///
    /// The vNIC's guest is reached in a way that this VMM does not have.
    pub(crate) fn network_args(&self, vmm: Vmm, nic: &Nic) -> Result<Vec<String>, Failure> {
        let mut args = self.device_args(vmm, nic)?;
        match (vmm, data_source(nic)) {
            (Vmm::Qemu, Some(source)) => {
                args.extend(strings(&["-smbios", &format!("type=1,serial={source}")]));
            }
            // All that it is given is the kernel's.
            (Vmm::Uml, Some(source)) => args.push(source),
            _ => {}
        }
        Ok(args)
    }

    fn device_args(&self, vmm: Vmm, nic: &Nic) -> Result<Vec<String>, Failure> {
        let (name, path, tap) = (&nic.name, &nic.socket_path, &nic.tap_interface);
        let qemu = |netdev: &str| Ok(self.qemu_backend_args(nic, netdev));
        let quoted = path.replace(',', ",,");
        match (nic.transport(), vmm) {
            (Transport::Packet, Vmm::Firecracker) => Ok(vec![firecracker(nic)]),
            (_, Vmm::Firecracker) => Err(Failure::Stopped(format!(
                "vNIC {name} is nothing that Firecracker connects to\n  It opens a TAP device: \
                 make a vNIC with --transport packet."
            ))),
            (Transport::Unspecified | Transport::VhostUser, _) => Ok(self.shared_args(vmm, nic)),
            (Transport::Stream | Transport::Dgram, Vmm::Qemu)
                if self.qemu_version().is_some_and(|version| version < Version::STREAM) =>
            {
                Err(Failure::Stopped(format!(
                    "vNIC {name} needs QEMU 7.2, which is the first with -netdev stream and \
                     dgram\n  Make a vNIC with --transport vhost-user or vde."
                )))
            }
            (Transport::Stream, Vmm::Qemu) => {
                qemu(&format!("stream,server=off,addr.type=unix,addr.path={quoted}"))
            }
            (Transport::Dgram, Vmm::Qemu) => qemu(&format!("dgram,{}", qemu_ends(nic)?)),
            (Transport::Vde, Vmm::Qemu) => qemu(&format!("vde,sock={quoted}")),
            (Transport::Vde, Vmm::Uml) => {
                Ok(strings(&[&format!("eth0=daemon,{},unix,{path}/ctl", nic.mac_address)]))
            }
            (Transport::Packet, Vmm::Qemu) => {
                qemu(&format!("tap,ifname={tap},script=no,downscript=no"))
            }
            (Transport::Packet, Vmm::CloudHypervisor) => Ok(strings(&[
                "--memory",
                &format!("size={}", self.memory),
                "--net",
                &format!("tap={tap},mac={}{}", nic.mac_address, option(nic, ",mtu=")),
            ])),
            (Transport::Stream, _) => Err(Failure::Stopped(format!(
                "vNIC {name} has the transport stream, which only QEMU speaks\n  Give --vmm qemu, \
                 or make a vNIC with --transport vhost-user."
            ))),
            (Transport::Dgram, _) => Err(Failure::Stopped(format!(
                "vNIC {name} has the transport dgram, which only QEMU speaks of the VMMs here\n  \
                 Give --vmm qemu; others are to use {}, from its right end.",
                nic.datagrams
            ))),
            (Transport::Seqpacket, _) => Err(Failure::Stopped(format!(
                "vNIC {name} has the transport seqpacket, which no VMM here speaks\n  Its socket \
                 is {path}; User-mode Linux takes vec0:transport=bess,dst=PATH.",
            ))),
            (Transport::Vde, _) => Err(Failure::Stopped(format!(
                "vNIC {name} has the transport vde, which of the VMMs here QEMU and User-mode \
                 Linux speak\n  Give --vmm qemu or uml; other programs use vde://{path}"
            ))),
            (Transport::Packet, _) => Err(Failure::Stopped(format!(
                "vNIC {name} is behind the TAP device {tap}, which its VMM opens\n  Give --vmm \
                 firecracker, qemu or cloud-hypervisor."
            ))),
            (Transport::Tap, _) => Err(Failure::Stopped(format!(
                "vNIC {name} is a TAP device, for a container\n  Move its interface: ip link set \
                 {tap} netns PID"
            ))),
        }
    }

    /// Returns the version to write for. One that is not known is taken for a recent one.
    fn qemu_version(&self) -> Option<Version> {
        self.vmm_version.or_else(Version::of_qemu)
    }

    /// Those of a VMM that shares its guest's memory.
    fn shared_args(&self, vmm: Vmm, nic: &Nic) -> Vec<String> {
        let (socket, mac, pairs, memory) =
            (&nic.socket_path, &nic.mac_address, nic.queue_pairs, &self.memory);
        match vmm {
            Vmm::CloudHypervisor => {
                // shared=on: mvirt-net maps the memory. num_queues counts both directions.
                let mtu = option(nic, ",mtu=");
                strings(&[
                    "--memory",
                    &format!("size={memory},shared=on"),
                    "--net",
                    &format!(
                        "vhost_user=true,socket={socket},mac={mac},num_queues={},\
                         queue_size=256{mtu}",
                        pairs * 2
                    ),
                ])
            }
            Vmm::Qemu => self.qemu_args(nic),
            // Its memory is shared in any case. 1 is the ID of a network device (virtio 1.2 §5).
            Vmm::Uml => strings(&[&format!("virtio_uml.device={socket}:1")]),
            Vmm::Dpdk => strings(&[
                "--vdev",
                &format!("net_virtio_user0,path={socket},queues={pairs},queue_size=256,mac={mac}"),
            ]),
            Vmm::Libvirt => libvirt(nic),
            Vmm::Firecracker => Vec::new(),
        }
    }

    /// QEMU without shared memory: with a network backend of its own, which is called `net0`.
    fn qemu_backend_args(&self, nic: &Nic, netdev: &str) -> Vec<String> {
        let (kind, options) = netdev.split_once(',').unwrap_or((netdev, ""));
        let vectors = if self.accel.is_tcg() { ",vectors=0" } else { "" };
        strings(&[
            "-accel",
            if self.accel.is_tcg() { "tcg" } else { "kvm" },
            "-m",
            &self.memory,
            "-netdev",
            &format!("{kind},id=net0,{options}"),
            "-device",
            &format!(
                "virtio-net-pci,netdev=net0,mac={}{vectors}{}",
                nic.mac_address,
                option(nic, ",host_mtu=")
            ),
        ])
    }

    fn qemu_args(&self, nic: &Nic) -> Vec<String> {
        let (pairs, memory) = (nic.queue_pairs, &self.memory);
        let (accel, vectors) = if self.accel.is_tcg() {
            // QEMU 7.2 crashes under TCG with interrupt vectors on a vhost-user device.
            ("tcg", ",vectors=0".to_owned())
        } else if pairs > 1 {
            // One a queue, one for the configuration and one for the control queue.
            ("kvm", format!(",vectors={}", pairs * 2 + 2))
        } else {
            ("kvm", String::new())
        };
        let (queues, multi) =
            if pairs > 1 { (format!(",queues={pairs}"), ",mq=on") } else { (String::new(), "") };
        let reconnect =
            if self.qemu_version().is_none_or(|version| version >= Version::RECONNECT_MS) {
                "reconnect-ms=1000"
            } else {
                "reconnect=1"
            };
        strings(&[
            "-accel",
            accel,
            "-m",
            memory,
            "-object",
            &format!("memory-backend-memfd,id=mem0,size={memory},share=on"),
            "-numa",
            "node,memdev=mem0",
            "-chardev",
            &format!("socket,id=net0,path={},{reconnect}", nic.socket_path),
            "-netdev",
            &format!("vhost-user,id=net0,chardev=net0{queues}"),
            "-device",
            &format!(
                "virtio-net-pci,netdev=net0,mac={}{multi}{vectors}{}",
                nic.mac_address,
                option(nic, ",host_mtu=")
            ),
        ])
    }
}

/// Returns where cloud-init finds what a guest is told by HTTP, where its network does that: as the
/// serial number of its machine, or an argument of its kernel.
pub(crate) fn data_source(nic: &Nic) -> Option<String> {
    let metadata = nic.metadata.as_ref()?;
    // NoCloud knows no tokens, and would be told nothing.
    if !metadata.served || metadata.token_required {
        return None;
    }
    let has_ipv4 = !nic.ipv4_address.is_empty();
    let host = if has_ipv4 { "169.254.169.254" } else { "[fd00:ec2::254]" };
    Some(format!("ds=nocloud-net;s=http://{host}/nocloud/"))
}

/// The MTU behind `flag`, where it has to be said.
fn option(nic: &Nic, flag: &str) -> String {
    if nic.mtu == USUAL_MTU { String::new() } else { format!("{flag}{}", nic.mtu) }
}

/// The ends of a vNIC's datagrams as QEMU has them, its own first.
fn qemu_ends(nic: &Nic) -> Result<String, Failure> {
    let unix = |end: &str, path: &Path| {
        format!("{end}.type=unix,{end}.path={}", path.display().to_string().replace(',', ",,"))
    };
    let inet = |end: &str, host: &str, port| {
        format!("{end}.type=inet,{end}.host={host},{end}.port={port}")
    };
    match nic.datagrams.parse() {
        Ok(Locator::Dgram(at)) => {
            Ok(format!("{},{}", unix("local", &at.remote), unix("remote", &at.local)))
        }
        Ok(Locator::Udp(udp)) => {
            let ours = udp.address.map_or("127.0.0.1".into(), |address| address.to_string());
            let theirs = match &udp.remote.host {
                Host::Address(address) => address.to_string(),
                Host::Name(name) => name.clone(),
            };
            let local = inet("local", &theirs, udp.remote.port);
            Ok(format!("{local},{}", inet("remote", &ours, udp.port)))
        }
        _ => Err(Failure::Stopped(format!(
            "vNIC {}: the daemon says nothing about its datagrams that this program knows",
            nic.name
        ))),
    }
}

/// The part of Firecracker's configuration file that has its network interfaces.
fn firecracker(nic: &Nic) -> String {
    let interface = serde_json::json!({
        "iface_id": "eth0",
        "guest_mac": nic.mac_address,
        "host_dev_name": nic.tap_interface,
    });
    format!("{:#}", serde_json::json!({ "network-interfaces": [interface] }))
}

/// A bridge that keeps hosts from hearing guests. It is never set up.
const DEAF: &str = "mv-nohost";

/// What prepares the TAP device that a VMM is to open, as root; nothing where it opens none.
pub(crate) fn preparation(nic: &Nic, user: &str) -> Vec<String> {
    if nic.transport() != Transport::Packet {
        return Vec::new();
    }
    let (tap, mtu) = (&nic.tap_interface, nic.mtu);
    vec![
        format!("ip tuntap add dev {tap} mode tap user {user}"),
        // The host is no member of the network: it is to say nothing there by itself.
        format!("sysctl -qw net.ipv6.conf.{tap}.disable_ipv6=1"),
        // Nor is it to hear what guests send. A bridge that is down takes that and drops it, behind
        // packet sockets, which have heard it before.
        format!("ip link show {DEAF} >/dev/null 2>&1 || ip link add {DEAF} type bridge"),
        format!("ip link set dev {tap} master {DEAF} mtu {mtu} up"),
    ]
}

/// The elements `memoryBacking` of a domain and `interface` of its devices. Of what is in them,
/// nothing is the user's choice but the folder of sockets.
fn libvirt(nic: &Nic) -> Vec<String> {
    let quoted =
        |text: &str| text.replace('&', "&amp;").replace('\'', "&apos;").replace('<', "&lt;");
    let mut interface = vec![
        "<interface type='vhostuser'>".to_owned(),
        format!("  <mac address='{}'/>", nic.mac_address),
        format!("  <source type='unix' path='{}' mode='client'>", quoted(&nic.socket_path)),
        "    <reconnect enabled='yes' timeout='1'/>".into(),
        "  </source>".into(),
        "  <model type='virtio'/>".into(),
    ];
    if nic.queue_pairs > 1 {
        interface.push(format!("  <driver queues='{}'/>", nic.queue_pairs));
    }
    if nic.mtu != USUAL_MTU {
        interface.push(format!("  <mtu size='{}'/>", nic.mtu));
    }
    interface.push("</interface>".into());
    let memory = [
        "<memoryBacking>",
        // memfd and shared, as mvirt-net has to map it.
        "  <source type='memfd'/>",
        "  <access mode='shared'/>",
        "</memoryBacking>",
    ];
    vec![memory.join("\n"), interface.join("\n")]
}

/// The arguments as a shell takes them. Those of VMMs need no quotes, so that `$(…)` takes them,
/// too.
pub(crate) fn shell_line(args: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,./:@%+".contains(c);
    let quoted = args.iter().map(|arg| match &**arg {
        plain_arg if !arg.is_empty() && arg.chars().all(plain) => plain_arg.into(),
        // No argument of a program has a NUL, which nothing could quote.
        other => shlex::try_quote(other).unwrap_or_else(|_| other.into()),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

fn memory(text: &str) -> Result<String, String> {
    // The units that all VMMs understand.
    let number = text.strip_suffix(['M', 'G']).unwrap_or("");
    match number.parse::<u32>() {
        Ok(1..) => Ok(text.into()),
        _ => Err("expected mebibytes or gibibytes, like 512M or 4G".into()),
    }
}

pub(super) fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(ToString::to_string).collect()
}
