//! What the host's kernel is told of public networks, so that their guests reach the world by its
//! routing: which prefixes are behind the TUN device, how they are forwarded, and what of the world
//! is theirs.
//!
//! ```text
//! Wanted ── device up, MTU ── is any of it the host's own? ── nftables, as a whole ── routes,
//!           proxied neighbours ── stale flows end ── what is new is announced
//!                                        └── error: all as it was before
//! ```
//! What is not ours is left alone: other routes, other tables, switches unless they may be set.

mod announce;
mod balancers;
mod flows;
mod nat;
mod netlink;
mod nft;
mod rules;
mod sysctls;

pub use balancers::{Balanced, BalancerSpec, Place, WhenEmpty};
pub use nat::{Forwarded, Nat};
pub use sysctls::Sysctls;

use crate::dataplane::{Tun, send_frames};
use balancers::There;
use flows::Stale;
use ipnet::IpNet;
use netlink::{Ethernet, Link, Netlink, Own, Proxy};
use nft::Nft;
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, netdevice::name_to_index, socket_with},
    thread::{CapabilitySet, capabilities},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};
use uuid::Uuid;

/// What the kernel is to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Octets of the longest packet to and from guests.
    pub mtu: u16,
    /// What is behind the device.
    pub prefixes: BTreeSet<IpNet>,
    /// What of the world is a guest's.
    pub nat: Nat,
    /// Load balancers whose backends are behind it.
    pub balancers: BTreeMap<Uuid, Arc<Balanced>>,
}

impl Wanted {
    /// Returns what is routed to the device, where the host has these addresses itself.
    fn routes(&self, own: &[Own]) -> BTreeSet<IpNet> {
        let announced = self.announced(own).into_iter().map(IpNet::from);
        self.prefixes.iter().copied().chain(announced).collect()
    }

    /// Returns addresses of the world that lead to guests. Those of the host do so anyway.
    fn announced(&self, own: &[Own]) -> BTreeSet<IpAddr> {
        let mut announced = self.nat.announced();
        announced.retain(|address| !own.iter().any(|own| own.address == *address));
        announced
    }
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
    /// An interface does not answer for an address.
    #[error("the host cannot answer for {address}: {source}")]
    Proxy {
        /// What leads to a guest.
        address: IpAddr,
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
    /// What the kernel has of balancers, where that is known.
    balancers: Option<There>,
    /// How many balancers it does not have yet.
    left: usize,
}

impl HostNetwork {
    /// Returns the way by a device of this name.
    pub fn new(device: &str, sysctls: Sysctls) -> Self {
        let root = PathBuf::from("/proc/sys");
        Self {
            device: device.into(),
            sysctls,
            root,
            told: BTreeSet::new(),
            balancers: None,
            left: 0,
        }
    }

    /// Returns the device's name.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Whether the host has an address itself.
    pub fn has(&self, address: IpAddr) -> io::Result<bool> {
        // By its name: before there is a public network, the device is not there.
        let device = link(&self.device).unwrap_or(Link(0));
        let own = Netlink::open()?.addresses_but_of(device)?;
        Ok(own.iter().any(|own| own.address == address))
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
        let replaced = self.bring_about(wanted, before);
        // At a start, what is left of an earlier one is better than nothing.
        let can_return = replaced.is_err() && !before.prefixes.is_empty();
        if can_return && let Err(error) = self.replace(before).and_then(|_| self.balance(before)) {
            // What cannot be undone is undone by the next change, or at the next start.
            tracing::warn!(%error, "the host's routes and rules are not as they were");
        }
        replaced
    }

    /// Returns how many balancers the kernel does not know yet of those that were wanted last: the
    /// same, applied again, lets it know of more.
    pub fn left(&self) -> usize {
        self.left
    }

    fn bring_about(&mut self, wanted: &Wanted, before: &Wanted) -> Result<(), HostNetworkError> {
        let rest = |wanted: &Wanted| Wanted { balancers: BTreeMap::new(), ..wanted.clone() };
        // A backend that fails is nothing that routes and networks have to do with.
        if rest(wanted) != rest(before) {
            let announced = self.replace(wanted)?;
            self.end_flows(&before.nat, &wanted.nat);
            let known = before.nat.announced();
            announced.iter().filter(|(it, _)| !known.contains(&it.address)).for_each(announce);
        }
        self.balance(wanted)
    }

    /// Makes the kernel know of balancers, or of some more of them.
    fn balance(&mut self, wanted: &Wanted) -> Result<(), HostNetworkError> {
        let nft = Nft::find().map_err(HostNetworkError::Rules)?;
        // At a start, that of an earlier process may be there. If not, there is nothing to read.
        let there =
            self.balancers.take().or_else(|| nft.balancers().ok().map(|it| There::read(&it)));
        let change = balancers::change(&wanted.balancers, there.as_ref());
        if !change.text.is_empty() {
            nft.change(&change.text).map_err(HostNetworkError::Rules)?;
        }
        (self.balancers, self.left) = (Some(change.there), change.left);
        Ok(())
    }

    /// Returns which interfaces answer for which addresses now.
    fn replace(&mut self, wanted: &Wanted) -> Result<Vec<(Proxy, Ethernet)>, HostNetworkError> {
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
        nft.change(&rules::table(&self.device, &wanted.prefixes, &wanted.nat))
            .map_err(HostNetworkError::Rules)?;
        let routes = wanted.routes(&own);
        let there = BTreeSet::from_iter(netlink.routes(link).map_err(of_device)?);
        let failed = |prefix| {
            let device = self.device.clone();
            move |source| HostNetworkError::Route { prefix, device, source }
        };
        for prefix in there.difference(&routes) {
            netlink.delete_route(*prefix, link).map_err(failed(*prefix))?;
        }
        for prefix in routes.difference(&there) {
            netlink.add_route(*prefix, link).map_err(failed(*prefix))?;
        }
        let ethernets = netlink.ethernets().map_err(of_device)?;
        let answering = answering(&wanted.announced(&own), &own, &ethernets);
        let proxies = answering.iter().map(|(proxy, _)| *proxy).collect();
        replace_proxies(&mut netlink, &proxies)?;
        self.see_to_sysctls(wanted, &answering);
        self.see_to_others(&nft);
        Ok(answering)
    }

    /// Ends flows that are translated as they were, and no longer are.
    fn end_flows(&self, before: &Nat, now: &Nat) {
        match flows::end(&Stale::new(before, now)) {
            Ok(0) => {}
            Ok(flows) => tracing::info!(flows, "ended: what they came by leads elsewhere now"),
            Err(error) => {
                tracing::warn!(%error, "flows may go on by what leads elsewhere now");
            }
        }
    }

    /// Sets the kernel's switches, or says which are to be set.
    fn see_to_sysctls(&mut self, wanted: &Wanted, answering: &[(Proxy, Ethernet)]) {
        let has = |family: fn(&IpNet) -> bool| wanted.prefixes.iter().any(family);
        let ipv4 = has(|net| matches!(net, IpNet::V4(_))).then_some(sysctls::FORWARD_IPV4);
        let ipv6 = has(|net| matches!(net, IpNet::V6(_))).then_some(sysctls::FORWARD_IPV6);
        let forwarding = ipv4.into_iter().chain(ipv6);
        let lost = "guests reach the host alone";
        let forwarding = forwarding.map(|sysctl| (sysctl, lost.to_owned()));
        let of_ipv6 = answering.iter().filter(|(proxy, _)| proxy.address.is_ipv6());
        let proxied = of_ipv6.map(|(proxy, ethernet)| {
            let lost = format!("neighbours do not find {}", proxy.address);
            (sysctls::proxy_ndp(&ethernet.name), lost)
        });
        for (sysctl, lost) in forwarding.chain(proxied) {
            let why = match (sysctl.is_set(&self.root), self.sysctls) {
                (Ok(true), _) => continue,
                (Ok(false), Sysctls::Told) => "set it, or start with --egress-sysctl".into(),
                (Ok(false), Sysctls::Set) => match sysctl.set(&self.root) {
                    Ok(()) => {
                        tracing::info!(%sysctl, "set, for guests of public networks");
                        continue;
                    }
                    Err(error) => error.to_string(),
                },
                (Err(error), _) => error.to_string(),
            };
            if self.told.insert(sysctl.to_string()) {
                tracing::warn!(%sysctl, why, "{lost}");
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
    pub fn remove(&mut self) -> Result<(), HostNetworkError> {
        // Even where it fails halfway: what is there then is read.
        (self.balancers, self.left) = (None, 0);
        let of_device = |source| HostNetworkError::Device { device: self.device.clone(), source };
        // First, so that nothing passes without rules.
        let mut netlink = Netlink::open().map_err(of_device)?;
        match link(&self.device) {
            Ok(link) => netlink.delete_link(link).map_err(of_device)?,
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => return Err(of_device(error)),
        }
        replace_proxies(&mut netlink, &BTreeSet::new())?;
        match Nft::find() {
            Ok(nft) => nft
                .change(&(rules::removal() + &balancers::removal()))
                .map_err(HostNetworkError::Rules),
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

/// Returns which interfaces are to answer for which addresses: those whose neighbours look for them
/// on their link.
fn answering(
    announced: &BTreeSet<IpAddr>,
    own: &[Own],
    ethernets: &[Ethernet],
) -> Vec<(Proxy, Ethernet)> {
    let mut found = BTreeMap::new();
    for address in announced {
        for own in own.iter().filter(|own| own.subnet.contains(address)) {
            let ethernet = ethernets.iter().find(|ethernet| ethernet.link == own.link);
            let proxy = Proxy { link: own.link, address: *address };
            found.extend(ethernet.map(|ethernet| (proxy, ethernet.clone())));
        }
    }
    found.into_iter().collect()
}

/// Has interfaces answer for these addresses, and for no others of ours.
fn replace_proxies(
    netlink: &mut Netlink,
    wanted: &BTreeSet<Proxy>,
) -> Result<(), HostNetworkError> {
    let failed = |address| move |source| HostNetworkError::Proxy { address, source };
    let any = IpAddr::from([0; 4]);
    let there = BTreeSet::from_iter(netlink.proxies().map_err(failed(any))?);
    for proxy in there.difference(wanted) {
        netlink.delete_proxy(*proxy).map_err(failed(proxy.address))?;
    }
    for proxy in wanted.difference(&there) {
        netlink.add_proxy(*proxy).map_err(failed(proxy.address))?;
    }
    Ok(())
}

/// Says on a link that an address is here now. Without that, others find it once they have
/// forgotten where it was.
fn announce((Proxy { address, .. }, ethernet): &(Proxy, Ethernet)) {
    let frames = announce::frames(*address, ethernet.mac);
    if let Err(error) = send_frames(ethernet.link.0, &frames) {
        let interface = &ethernet.name;
        tracing::info!(%address, interface, %error, "neighbours are not told of it");
    }
}

/// Returns a prefix that would take an address of the host's own from it.
fn find_own(own: &[Own], prefixes: &BTreeSet<IpNet>) -> Option<(IpNet, IpAddr)> {
    prefixes.iter().find_map(|prefix| {
        let own = own.iter().find(|own| prefix.contains(&own.address))?;
        Some((*prefix, own.address))
    })
}
