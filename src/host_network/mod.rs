//! What the host's kernel is told of public networks, so that their guests reach the world by its
//! routing: which prefixes are behind the TUN device, and how they are forwarded.
//!
//! ```text
//! Wanted ── device up, MTU ── is any of it the host's own? ── routes ── nftables, as a whole
//!                                        └── error: all as it was before
//! ```
//! What is not ours is left alone: other routes, other tables, switches unless they may be set.

mod netlink;
mod nft;
mod rules;
mod sysctls;

pub use sysctls::Sysctls;

use crate::dataplane::Tun;
use ipnet::IpNet;
use netlink::{Link, Netlink};
use nft::Nft;
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, netdevice::name_to_index, socket_with},
    thread::{CapabilitySet, capabilities},
};
use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

/// What the kernel is to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Octets of the longest packet to and from guests.
    pub mtu: u16,
    /// What is behind the device.
    pub prefixes: BTreeSet<IpNet>,
}

/// Why the kernel does not know it.
#[derive(Debug, thiserror::Error)]
pub enum HostNetworkError {
    /// The host has an address itself that would be a guest's.
    #[error("{prefix} has an address of the host's: {address}")]
    OwnAddress {
        /// What would be behind the device.
        prefix: IpNet,
        /// Whose address.
        address: IpAddr,
    },
    /// The kernel takes a route not.
    #[error("the host cannot route {prefix} to {device}: {source}")]
    Route {
        /// What would be behind the device.
        prefix: IpNet,
        /// The device.
        device: String,
        /// Why.
        source: io::Error,
    },
    /// nftables take the rules not.
    #[error("the rules for packets of guests cannot be set: {0}")]
    Rules(#[source] io::Error),
    /// Something else of the system failed.
    #[error("{device}: {source}")]
    Device {
        /// The device.
        device: String,
        /// Why.
        source: io::Error,
    },
}

/// The kernel's way to guests, by one device.
#[derive(Debug)]
pub struct HostNetwork {
    device: String,
    sysctls: Sysctls,
    /// Where switches are.
    root: PathBuf,
    /// Those that were told of.
    told: BTreeSet<String>,
}

impl HostNetwork {
    /// Returns the way by a device of this name.
    pub fn new(device: &str, sysctls: Sysctls) -> Self {
        let root = PathBuf::from("/proc/sys");
        Self { device: device.into(), sysctls, root, told: BTreeSet::new() }
    }

    /// Returns the device's name.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Whether the host has an address itself.
    pub fn has(&self, address: IpAddr) -> io::Result<bool> {
        // By its name: before there is a public network, the device is not there.
        let device = link(&self.device).unwrap_or(Link(0));
        Ok(Netlink::open()?.addresses_but_of(device)?.contains(&address))
    }

    /// Says why this process cannot lead packets through the host, if it cannot.
    pub fn possible() -> io::Result<()> {
        let device = Path::new("/dev/net/tun");
        if !device.exists() {
            return Err(io::Error::other("there is no /dev/net/tun (modprobe tun)"));
        }
        if !capabilities(None)?.effective.contains(CapabilitySet::NET_ADMIN) {
            return Err(io::Error::other("the daemon has no CAP_NET_ADMIN"));
        }
        Nft::find().map(drop)
    }

    /// Makes the kernel know what is `wanted`, and nothing else. An error: it knows what it knew
    /// `before`. The device is there.
    pub fn apply(&mut self, wanted: &Wanted, before: &Wanted) -> Result<(), HostNetworkError> {
        let replaced = self.replace(wanted);
        // At a start, what is left of an earlier one is better than nothing.
        let can_return = replaced.is_err() && !before.prefixes.is_empty();
        if can_return && let Err(error) = self.replace(before) {
            // What cannot be undone is undone by the next change, or at the next start.
            tracing::warn!(%error, "the host's routes and rules are not as they were");
        }
        replaced
    }

    fn replace(&mut self, wanted: &Wanted) -> Result<(), HostNetworkError> {
        // First: without it there is nothing to begin.
        let nft = Nft::find().map_err(HostNetworkError::Rules)?;
        let of_device = |source| HostNetworkError::Device { device: self.device.clone(), source };
        let mut netlink = Netlink::open().map_err(of_device)?;
        let link = link(&self.device).map_err(of_device)?;
        let own = netlink.addresses_but_of(link).map_err(of_device)?;
        if let Some((prefix, address)) = find_own(&own, &wanted.prefixes) {
            return Err(HostNetworkError::OwnAddress { prefix, address });
        }
        netlink.set_up(link, wanted.mtu).map_err(of_device)?;
        // Before packets can pass: none is forwarded as nobody has said.
        nft.change(&rules::table(&self.device, &wanted.prefixes))
            .map_err(HostNetworkError::Rules)?;
        let there = BTreeSet::from_iter(netlink.routes(link).map_err(of_device)?);
        let failed = |prefix| {
            let device = self.device.clone();
            move |source| HostNetworkError::Route { prefix, device, source }
        };
        for prefix in there.difference(&wanted.prefixes) {
            netlink.delete_route(*prefix, link).map_err(failed(*prefix))?;
        }
        for prefix in wanted.prefixes.difference(&there) {
            netlink.add_route(*prefix, link).map_err(failed(*prefix))?;
        }
        self.see_to_sysctls(wanted);
        self.see_to_others(&nft);
        Ok(())
    }

    /// Sets the kernel's switches, or says which are to be set.
    fn see_to_sysctls(&mut self, wanted: &Wanted) {
        let has = |family: fn(&IpNet) -> bool| wanted.prefixes.iter().any(family);
        let ipv4 = has(|net| matches!(net, IpNet::V4(_))).then_some(sysctls::FORWARD_IPV4);
        let ipv6 = has(|net| matches!(net, IpNet::V6(_))).then_some(sysctls::FORWARD_IPV6);
        for sysctl in ipv4.into_iter().chain(ipv6) {
            let why = match (sysctl.is_set(&self.root), self.sysctls) {
                (Ok(true), _) => continue,
                (Ok(false), Sysctls::Told) => "set it, or start with --egress-sysctl".into(),
                (Ok(false), Sysctls::Set) => match sysctl.set(&self.root) {
                    Ok(()) => {
                        tracing::info!(%sysctl, "set: the host forwards packets of guests");
                        continue;
                    }
                    Err(error) => error.to_string(),
                },
                (Err(error), _) => error.to_string(),
            };
            if self.told.insert(sysctl.to_string()) {
                tracing::warn!(%sysctl, why, "guests reach the host alone");
            }
        }
    }

    /// Says which chains of others drop what guests send.
    fn see_to_others(&mut self, nft: &Nft) {
        let chains = nft.chains().unwrap_or_default();
        for chain in rules::foreign_drops(&chains) {
            if self.told.insert(chain.clone()) {
                let device = &self.device;
                let [from, to] = ["iifname", "oifname"]
                    .map(|way| format!("nft insert rule {chain} {way} {device}"));
                let rules = format!("{from} accept; {to} ct state established,related accept");
                tracing::warn!(
                    chain,
                    rules,
                    "a firewall drops what it does not accept, and with it packets of guests"
                );
            }
        }
    }

    /// Removes all that an earlier process has made for a device of this name, which nobody has
    /// open any more. What is not there is no error.
    pub fn clean_up(device: &str) -> Result<(), HostNetworkError> {
        let of_device = |source| HostNetworkError::Device { device: device.into(), source };
        if link(device).is_ok() {
            let opened = Tun::open(device);
            opened.map(drop).map_err(|error| {
                of_device(match error.kind() {
                    io::ErrorKind::ResourceBusy => {
                        io::Error::other("it is in use: end the daemon first")
                    }
                    io::ErrorKind::InvalidInput => io::Error::other("it is no TUN device"),
                    _ => error,
                })
            })?;
        }
        Self::new(device, Sysctls::Told).remove()
    }

    /// Removes all that [`HostNetwork::apply`] has made, and the device. What is not there is no
    /// error.
    pub fn remove(&self) -> Result<(), HostNetworkError> {
        let of_device = |source| HostNetworkError::Device { device: self.device.clone(), source };
        // First, so that nothing passes without rules.
        match link(&self.device) {
            Ok(link) => {
                let deleted = Netlink::open().and_then(|mut netlink| netlink.delete_link(link));
                deleted.map_err(of_device)?;
            }
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => return Err(of_device(error)),
        }
        match Nft::find() {
            Ok(nft) => nft.change(&rules::removal()).map_err(HostNetworkError::Rules),
            // Without the program, it has made no rules.
            Err(_) => Ok(()),
        }
    }
}

/// Returns the interface of a name.
fn link(name: &str) -> io::Result<Link> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    Ok(Link(name_to_index(&socket, name)?))
}

/// Returns a prefix that would take an address of the host's own from it.
fn find_own(addresses: &[IpAddr], prefixes: &BTreeSet<IpNet>) -> Option<(IpNet, IpAddr)> {
    prefixes.iter().find_map(|prefix| {
        let address = addresses.iter().find(|address| prefix.contains(*address))?;
        Some((*prefix, *address))
    })
}
