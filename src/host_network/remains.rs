//! What is left in the kernel once nobody needs it, or of an earlier process.

use super::{
    Claim, HostNetwork, HostNetworkError, Nfnetlink, Stale, Sysctls, is_privileged, link,
    netlink::Netlink, tables,
};
use crate::dataplane::Tun;
use ipnet::IpNet;
use std::{collections::BTreeSet, io};

impl HostNetwork {
    /// Makes this process the only one that leads packets through the host, if none is yet.
    pub fn claim(&mut self) -> Result<(), HostNetworkError> {
        if self.claim.is_none() {
            let claim = Claim::take().map_err(HostNetworkError::Rules)?;
            self.claim = Some(claim.ok_or(HostNetworkError::Claimed)?);
        }
        Ok(())
    }

    /// Removes all that an earlier process has made for a device of this name, which nobody has
    /// open any more. What is not there is no error.
    pub fn clean_up(device: &str) -> Result<(), HostNetworkError> {
        let mut host = Self::new(device, Sysctls::Told);
        host.claim()?;
        host.check_device()?;
        host.remove(&BTreeSet::new())
    }

    /// Likewise, at the start of a process that does not need it. A device that is not ours is left
    /// alone.
    pub fn clear(device: &str) -> Result<(), HostNetworkError> {
        let is_permitted = is_privileged().unwrap_or(false);
        if !is_left(device, is_permitted) {
            return Ok(());
        }
        if !is_permitted {
            return Err(HostNetworkError::Left { device: device.into() });
        }
        let mut host = Self::new(device, Sysctls::Told);
        host.claim()?;
        match host.check_device() {
            Err(HostNetworkError::NoTun { .. }) | Ok(()) => host.remove(&BTreeSet::new()),
            Err(error) => Err(error),
        }
    }

    /// Refuses a device that is another's, or in use.
    fn check_device(&self) -> Result<(), HostNetworkError> {
        let device = &self.device;
        if link(device).is_err() {
            return Ok(());
        }
        let of_device = |source| HostNetworkError::Device { device: device.clone(), source };
        Tun::open(device).map(drop).map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => {
                of_device(io::Error::other("it is in use: end the daemon first"))
            }
            io::ErrorKind::InvalidInput => HostNetworkError::NoTun { device: device.clone() },
            _ => of_device(error),
        })
    }

    /// Lets others lead packets through the host, where this process has not.
    pub fn give_up(&mut self) {
        self.forget_all();
        self.claim = None;
    }

    /// Removes all that [`HostNetwork::apply`] has made, and the device; flows of guests of these
    /// prefixes end. What is not there is no error, and what is of another kind is not ours.
    pub fn remove(&mut self, known: &BTreeSet<IpNet>) -> Result<(), HostNetworkError> {
        let made = self.forget_all();
        // Until all is gone. Where that fails, whoever tries it again takes it.
        let _claim = self.claim.take();
        let of_device = |source| HostNetworkError::Device { device: self.device.clone(), source };
        let mut netlink = Netlink::open().map_err(of_device)?;
        let routes = netlink.routes().map_err(of_device)?;
        let routed = routes.iter().map(|(prefix, _)| *prefix);
        let prefixes = routed.chain(made.prefixes).chain(known.iter().copied()).collect();
        // First, so that nothing passes without rules.
        match link(&self.device) {
            Ok(link) if netlink.device(link).map_err(of_device)?.is_tun => {
                netlink.delete_link(link).map_err(of_device)?;
            }
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => return Err(of_device(error)),
        }
        // Of another device, or of one that is not ours any more.
        for (prefix, link) in netlink.routes().map_err(of_device)? {
            netlink.delete_route(prefix, link).map_err(of_device)?;
        }
        super::replace_proxies(&mut netlink, &BTreeSet::new())?;
        // Not by nft: the program may have gone since.
        let netfilter = Nfnetlink::open().map_err(HostNetworkError::Rules)?;
        tables::remove(&netfilter).map_err(HostNetworkError::Rules)?;
        super::end_flows(&Stale::of_prefixes(prefixes));
        Ok(())
    }
}

/// Whether something is there that nobody has in use, as far as this process may see.
fn is_left(device: &str, is_permitted: bool) -> bool {
    let there = link(device);
    // The service may not talk to the kernel about routes, unless it leads packets by them.
    let Ok(mut netlink) = Netlink::open() else { return there.is_ok() };
    let device = there.ok().and_then(|link| netlink.device(link).ok());
    let is_tun = device.as_ref().is_some_and(|device| device.is_tun);
    if device.is_some_and(|device| device.is_tun && device.is_open) && !is_permitted {
        return false;
    }
    let has_tables = || {
        is_permitted && Nfnetlink::open().is_ok_and(|it| tables::are_there(&it).unwrap_or(false))
    };
    is_tun
        || netlink.routes().is_ok_and(|routes| !routes.is_empty())
        || netlink.proxies().is_ok_and(|proxies| !proxies.is_empty())
        || has_tables()
}
