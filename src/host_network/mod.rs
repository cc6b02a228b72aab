//! What the host's kernel is told of public networks, so that their guests reach the world by its
//! routing: which prefixes are behind the TUN device, how they are forwarded, and what of the world
//! is theirs.
//!
//! ```text
//! Wanted ── device up, MTU ── is any of it the host's own? ── nftables, as a whole ── routes,
//!           proxied neighbours ── stale flows end ── what is new is announced
//!   ├── a network or an address that the host does not take: left out, and the rest goes on
//!   └── any other error: all as it was before
//! ```
//! What is not ours is left alone: other routes, other tables, switches unless they may be set. One
//! process does this for a network namespace (`claim`), and looks whether all is still as it was
//! made when the kernel says that something has changed (`watch`).

mod announce;
mod balancers;
mod claim;
mod flows;
mod holders;
mod nat;
mod netlink;
mod nfnetlink;
mod nft;
mod obstacles;
mod remains;
mod rules;
mod served;
mod sysctls;
mod tables;
mod wanted;
mod watch;

pub use balancers::{Balanced, BalancerSpec, Place, WhenEmpty};
pub use holders::Holder;
pub use nat::{Forwarded, Nat};
pub use obstacles::{Obstacle, ObstacleKind};
pub use served::served;
pub use sysctls::Sysctls;
pub use wanted::{LeftOut, Wanted};
pub use watch::Watch;

use crate::dataplane::send_frames;
use balancers::There;
use claim::Claim;
use flows::Stale;
use ipnet::IpNet;
use netlink::{Ethernet, Link, Netlink, Proxy};
use nfnetlink::Nfnetlink;
use nft::Nft;
use obstacles::Obstacles;
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, netdevice::name_to_index, socket_with},
    thread::{CapabilitySet, capabilities},
};
use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

/// How often in a row rules may be made anew since others have changed theirs meanwhile.
const MAX_DOUBTS: u32 = 8;

/// Why the kernel does not know it.
#[derive(Debug, thiserror::Error)]
pub enum HostNetworkError {
    /// Another process leads packets through this host.
    #[error(
        "another mvirt-net leads packets through this host (nft list table inet {}): end the \
         daemon first",
        claim::TABLE
    )]
    Claimed,
    /// The device is something else.
    #[error("{device}: it is no TUN device")]
    NoTun {
        /// The device.
        device: String,
    },
    /// There is something of an earlier process that this one cannot remove.
    #[error("{device} is left of an earlier daemon: mvirt-net --cleanup removes it, as root")]
    Left {
        /// The device.
        device: String,
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
    obstacles: Obstacles,
    /// What the kernel has of balancers, where that is known.
    balancers: Option<There>,
    /// How many balancers it does not have yet.
    left: usize,
    claim: Option<Claim>,
    /// What the kernel has of the rest; what that is not is [`Self::left_out`].
    made: Wanted,
    left_out: LeftOut,
    /// What interfaces answer for by the word of others.
    answered: BTreeSet<Proxy>,
    /// Whether it has that, as far as is known.
    is_made: bool,
    /// Our rules of nftables, and up to which change of nftables they are known to be there.
    print: Option<u64>,
    generation: Arc<AtomicU32>,
    /// How often this process has changed nftables for what is wanted now.
    changes: u32,
    /// How often in a row others may have changed our rules while they were made.
    doubts: u32,
}

impl HostNetwork {
    /// Returns the way by a device of this name.
    pub fn new(device: &str, sysctls: Sysctls) -> Self {
        let root = PathBuf::from("/proc/sys");
        Self {
            device: device.into(),
            sysctls,
            root,
            obstacles: Obstacles::default(),
            balancers: None,
            left: 0,
            claim: None,
            made: Wanted::default(),
            left_out: LeftOut::default(),
            answered: BTreeSet::new(),
            is_made: false,
            print: None,
            generation: Arc::default(),
            changes: 0,
            doubts: 0,
        }
    }

    /// Returns the device's name.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Says why this process cannot lead packets through the host, if it cannot.
    pub fn possible() -> io::Result<()> {
        let device = Path::new("/dev/net/tun");
        if !device.exists() {
            return Err(io::Error::other("there is no /dev/net/tun (modprobe tun)"));
        }
        if !is_privileged()? {
            return Err(io::Error::other("the daemon has no CAP_NET_ADMIN"));
        }
        Nft::find().map(drop)
    }

    /// Makes the kernel know what is `wanted`, but for what is [`HostNetwork::left_out`], and
    /// nothing else. An error: it knows what it knew `before`. The device is there, and this
    /// process has the [`HostNetwork::claim`].
    pub fn apply(&mut self, wanted: &Wanted, before: &Wanted) -> Result<(), HostNetworkError> {
        let brought = self.bring_about(wanted, before);
        // At a start, what is left of an earlier one is better than nothing.
        if brought.is_err() && !before.prefixes.is_empty() {
            self.is_made = false;
            if let Err(error) = self.bring_about(before, before) {
                // What cannot be undone is undone by the next change, or at the next start.
                tracing::debug!(%error, "the host's routes and rules are not as they were");
                self.is_made = false;
            }
        }
        brought
    }

    /// Returns how many balancers the kernel does not know yet of those that were wanted last: the
    /// same, applied again, lets it know of more.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Returns what the host does not lead of what was wanted last: the same, applied again, tries
    /// that again.
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// Returns what hears of changes that others make.
    pub fn watch(&self) -> io::Result<Watch> {
        Watch::open(Arc::clone(&self.generation))
    }

    /// Returns a copy of the claim for a process that takes over.
    pub fn share_claim(&self) -> io::Result<Option<OwnedFd>> {
        self.claim.as_ref().map_or(Ok(None), Claim::share)
    }

    /// Goes on with the claim of another process.
    pub fn take_claim(&mut self, claim: OwnedFd) {
        self.claim = Some(Claim::of_another(claim));
    }

    /// Says what the kernel no longer has as it was made, or would have otherwise now, if there is
    /// such a thing.
    pub fn what_has_changed(&self) -> io::Result<Option<&'static str>> {
        if !self.is_made {
            return Ok(Some("all"));
        }
        let netfilter = Nfnetlink::open()?;
        // First: what comes after it is seen by the next look.
        let generation = tables::generation(&netfilter)?;
        if self.print.is_none() || tables::print(&netfilter)? != self.print {
            return Ok(Some("rules"));
        }
        let mut netlink = Netlink::open()?;
        let link = link(&self.device)?;
        let device = netlink.device(link)?;
        if !device.is_up || device.mtu != u32::from(self.made.mtu) {
            return Ok(Some("device"));
        }
        let own = netlink.addresses_but_of(link)?;
        if !self.made.own_addresses(&own).is_empty() {
            return Ok(Some("addresses"));
        }
        let is_led = |address: &IpAddr| !self.left_out.addresses.contains_key(address);
        let mut routes = self.made.routes(&own);
        routes.retain(|prefix| is_led(&prefix.addr()));
        let there = netlink.routes()?;
        let is_there = there.iter().all(|(prefix, at)| *at == link && routes.contains(prefix));
        if !is_there || there.len() != routes.len() {
            return Ok(Some("routes"));
        }
        let mut answering = self.made.answering(&own, &netlink.ethernets()?);
        answering.retain(|at, _| is_led(&at.address) && !self.answered.contains(at));
        if BTreeSet::from_iter(netlink.proxies()?) != answering.into_keys().collect() {
            return Ok(Some("neighbours"));
        }
        self.generation.store(generation, Relaxed);
        Ok(None)
    }

    /// Has all told anew with the next [`HostNetwork::apply`]: the kernel may have forgotten it.
    pub fn forget(&mut self) {
        (self.balancers, self.is_made) = (None, false);
    }

    /// Likewise, as if nothing had been told. Returns what was.
    fn forget_all(&mut self) -> Wanted {
        self.forget();
        (self.left, self.print, self.left_out) = (0, None, LeftOut::default());
        std::mem::take(&mut self.made)
    }

    fn bring_about(&mut self, wanted: &Wanted, before: &Wanted) -> Result<(), HostNetworkError> {
        let netfilter = Nfnetlink::open().map_err(HostNetworkError::Rules)?;
        let generation = tables::generation(&netfilter).map_err(HostNetworkError::Rules)?;
        self.changes = 0;
        // A backend that fails is nothing that routes and networks have to do with.
        let is_same = wanted.is_same_but_balancers(before);
        let is_whole = is_same && self.is_made && self.left_out.is_empty();
        if !is_whole {
            self.is_made = false;
            self.replace(wanted)?;
        }
        // A copy of all there is only where something is left out of it.
        let rest = (!self.left_out.is_empty()).then(|| wanted.without(&self.left_out));
        self.balance(rest.as_ref().unwrap_or(wanted))?;
        if self.print.is_none() {
            self.note_rules(&netfilter, generation).map_err(HostNetworkError::Rules)?;
        }
        self.is_made = true;
        Ok(())
    }

    /// Notes which rules there are now, after changes since a `generation`.
    fn note_rules(&mut self, netfilter: &Nfnetlink, generation: u32) -> io::Result<()> {
        let now = tables::generation(netfilter)?;
        self.print = tables::print(netfilter)?;
        // Each of ours is one. With those of others, it is not known whether they have left ours
        // alone: all is made once more, but not for ever beside one who never rests.
        let are_ours = now == generation.wrapping_add(self.changes);
        self.doubts = if are_ours { 0 } else { (self.doubts + 1) % MAX_DOUBTS };
        if self.doubts > 0 {
            self.print = None;
        }
        // Rules that are not known, or have gone already, are missed by the next look.
        self.generation.store(self.print.map_or(0, |_| now), Relaxed);
        Ok(())
    }

    /// Makes the kernel know of balancers, or of some more of them.
    fn balance(&mut self, wanted: &Wanted) -> Result<(), HostNetworkError> {
        let nft = Nft::find().map_err(HostNetworkError::Rules)?;
        let known = self.balancers.take();
        let is_known = known.is_some();
        let balanced = match self.balance_from(&nft, wanted, known) {
            // It is not what it was: others may have changed it.
            Err(_) if is_known => {
                let there = nft.balancers().ok().map(|it| There::read(&it));
                self.balance_from(&nft, wanted, there)
            }
            balanced => balanced,
        };
        balanced.map_err(HostNetworkError::Rules)
    }

    fn balance_from(&mut self, nft: &Nft, wanted: &Wanted, there: Option<There>) -> io::Result<()> {
        // At a start, that of an earlier process may be there. If not, there is nothing to read.
        let there = there.or_else(|| nft.balancers().ok().map(|it| There::read(&it)));
        let change = balancers::change(&wanted.balancers, there.as_ref());
        if !change.text.is_empty() {
            self.print = None;
            nft.change(&change.text)?;
            self.changes += 1;
        }
        if !change.new.is_empty() {
            end_flows(&Stale::past(&change.new));
        }
        (self.balancers, self.left) = (Some(change.there), change.left);
        Ok(())
    }

    /// Replaces all but balancers.
    fn replace(&mut self, wanted: &Wanted) -> Result<(), HostNetworkError> {
        // First: without it there is nothing to begin.
        let nft = Nft::find().map_err(HostNetworkError::Rules)?;
        let device = self.device.clone();
        let of_device = |source| HostNetworkError::Device { device: device.clone(), source };
        let mut netlink = Netlink::open().map_err(of_device)?;
        let link = link(&device).map_err(of_device)?;
        let own = netlink.addresses_but_of(link).map_err(of_device)?;
        let there = netlink.device(link).map_err(of_device)?;
        if !there.is_up || there.mtu != u32::from(wanted.mtu) {
            netlink.set_up(link, wanted.mtu).map_err(of_device)?;
        }
        self.print = None;
        let mut left_out = LeftOut::default();
        for (prefix, address) in wanted.own_addresses(&own) {
            let why = format!("{prefix} has an address of the host's: {address}");
            left_out.add(wanted, prefix, why);
        }
        let mut gone = BTreeSet::new();
        // Each round but the last one leaves out some network more.
        let rest = loop {
            let rest = wanted.without(&left_out);
            // Before packets can pass: none is forwarded as nobody has said.
            nft.change(&rules::table(&device, &rest.prefixes, &rest.nat))
                .map_err(HostNetworkError::Rules)?;
            self.changes += 1;
            let routed = route(&mut netlink, link, &rest.routes(&own)).map_err(of_device)?;
            gone.extend(routed.deleted);
            let before = left_out.networks.len();
            for (prefix, error) in routed.refused {
                let why = format!("the host cannot route {prefix} to {device}: {error}");
                left_out.add(&rest, prefix, why);
            }
            if left_out.networks.len() == before {
                break rest;
            }
        };
        let ethernets = netlink.ethernets().map_err(of_device)?;
        let answering = rest.answering(&own, &ethernets);
        let proxied = replace_proxies(&mut netlink, &answering.keys().copied().collect())?;
        left_out.addresses.extend(proxied.refused);
        self.answered = proxied.of_others;
        let before = std::mem::replace(&mut self.made, rest);
        self.see_to_obstacles(&answering);
        self.left_out = left_out;
        gone.extend(before.prefixes);
        gone.retain(|prefix| !self.made.prefixes.contains(prefix));
        end_flows(&Stale::new(&before.nat, &self.made.nat, gone));
        let known = before.nat.announced();
        let is_new = |at: &Proxy| proxied.added.contains(at) || !known.contains(&at.address);
        answering.iter().filter(|(at, _)| is_new(at)).for_each(announce);
        Ok(())
    }
}

/// Whether this process may change what the kernel does with packets.
fn is_privileged() -> io::Result<bool> {
    Ok(capabilities(None)?.effective.contains(CapabilitySet::NET_ADMIN))
}

/// Ends flows that are translated as they were, and no longer are.
fn end_flows(stale: &Stale) {
    match flows::end(stale) {
        Ok(0) => {}
        Ok(flows) => tracing::info!(flows, "ended: what they came by leads elsewhere now"),
        Err(error) => {
            tracing::warn!(%error, "flows may go on by what leads elsewhere now");
        }
    }
}

/// Returns the interface of a name.
fn link(name: &str) -> io::Result<Link> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    Ok(Link(name_to_index(&socket, name)?))
}

/// What has become of routes.
struct Routed {
    deleted: Vec<IpNet>,
    refused: Vec<(IpNet, String)>,
}

/// Routes these prefixes to an interface, and no others of ours, to whichever.
fn route(netlink: &mut Netlink, to: Link, wanted: &BTreeSet<IpNet>) -> io::Result<Routed> {
    let mut routed = Routed { deleted: Vec::new(), refused: Vec::new() };
    let mut there = BTreeSet::new();
    for (prefix, link) in netlink.routes()? {
        if link == to && wanted.contains(&prefix) {
            there.insert(prefix);
        } else {
            // Also those of a device that was called otherwise.
            netlink.delete_route(prefix, link)?;
            routed.deleted.push(prefix);
        }
    }
    for prefix in wanted.difference(&there) {
        if let Err(error) = netlink.add_route(*prefix, to) {
            let why = match (error.kind(), prefix) {
                (io::ErrorKind::AlreadyExists, _) => "it is routed elsewhere already".into(),
                (io::ErrorKind::PermissionDenied, IpNet::V6(_)) => {
                    "IPv6 is disabled there (net.ipv6.conf.*.disable_ipv6)".into()
                }
                _ => error.to_string(),
            };
            routed.refused.push((*prefix, why));
        }
    }
    Ok(routed)
}

/// What has become of proxied neighbours.
#[derive(Default)]
struct Proxied {
    added: BTreeSet<Proxy>,
    of_others: BTreeSet<Proxy>,
    refused: Vec<(IpAddr, String)>,
}

/// Has interfaces answer for these addresses, and for no others of ours.
fn replace_proxies(
    netlink: &mut Netlink,
    wanted: &BTreeSet<Proxy>,
) -> Result<Proxied, HostNetworkError> {
    let failed = |address| move |source| HostNetworkError::Proxy { address, source };
    let any = IpAddr::from([0; 4]);
    let there = BTreeSet::from_iter(netlink.proxies().map_err(failed(any))?);
    for proxy in there.difference(wanted) {
        netlink.delete_proxy(*proxy).map_err(failed(proxy.address))?;
    }
    let mut proxied = Proxied::default();
    for proxy in wanted.difference(&there) {
        let Proxy { address, .. } = *proxy;
        match netlink.add_proxy(*proxy) {
            Ok(true) => drop(proxied.added.insert(*proxy)),
            Ok(false) => drop(proxied.of_others.insert(*proxy)),
            Err(error) => {
                let why = format!("the host cannot answer for {address}: {error}");
                proxied.refused.push((address, why));
            }
        }
    }
    Ok(proxied)
}

/// Says on a link that an address is here now. Without that, others find it once they have
/// forgotten where it was.
fn announce((Proxy { address, .. }, ethernet): (&Proxy, &Ethernet)) {
    let frames = announce::frames(*address, ethernet.mac);
    if let Err(error) = send_frames(ethernet.link.0, &frames) {
        let interface = &ethernet.name;
        tracing::info!(%address, interface, %error, "neighbours are not told of it");
    }
}
