//! A tunnel to other hosts (`port/tunnel`): its sockets are opened, and stay.

use super::{
    export::Exported,
    port_handle::{PortHandle, Signal},
};
use crate::{
    dataplane::{
        PortState,
        port::{
            descriptor::DescriptorPort,
            own::OwnPort,
            tunnel::{Rules, Sockets, Tunnel},
        },
    },
    locator::{self, Vxlan, Vxvde, unspecified},
    wire::vxlan::Header,
};
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrAny, SocketFlags, SocketType, bind, getsockname,
    netdevice::name_to_index,
    sendto, socket_with,
    sockopt::{
        set_ip_add_membership_with_ifindex, set_ip_multicast_if_with_ifindex,
        set_ip_multicast_loop, set_ip_multicast_ttl, set_ip_ttl, set_ipv6_add_membership,
        set_ipv6_multicast_hops, set_ipv6_multicast_if, set_ipv6_multicast_loop,
        set_ipv6_unicast_hops, set_ipv6_v6only, set_socket_recv_buffer_size, set_socket_reuseaddr,
    },
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    time::Duration,
};
use tokio::sync::oneshot;
use zerocopy::IntoBytes as _;

/// Octets that may wait in a socket.
// Some milliseconds of 1 Gbit/s. The kernel gives what net.core.rmem_max allows.
const RECEIVE_BUFFER: u32 = 1 << 20;
/// Networks that a datagram may cross: it stays on the link (libvdeplug_vxvde).
const TTL: u8 = 1;
/// Seconds after which who has a MAC is forgotten (libvdeplug_vxvde).
const EXPIRE_TIME: u32 = 128;

/// A tunnel that is to be opened.
#[derive(Debug, Clone)]
pub enum Spec {
    /// A cloud of VDE's.
    Vxvde {
        /// What was asked for.
        cloud: Vxvde,
        /// The number of the users' group that changes the multicast group.
        user_group: Option<u32>,
    },
    /// One of VXLAN.
    Vxlan(Vxlan),
}

/// A tunnel that is open.
#[derive(Debug)]
pub(super) struct Open {
    rules: Rules,
    vni: u32,
    own: OwnedFd,
    group: Option<OwnedFd>,
    floods: Vec<SocketAddr>,
    expire_time: u32,
}

impl Spec {
    /// Opens it, or goes on with what another process of the daemon `exported`.
    pub(super) fn open(&self, exported: Option<Exported>) -> io::Result<Open> {
        let mut given = exported.into_iter().flat_map(|exported| exported.fds);
        let given = (given.next(), given.next());
        match self {
            Self::Vxvde { cloud, user_group } => open_vxvde(cloud, *user_group, given),
            Self::Vxlan(vxlan) => open_vxlan(vxlan, given.0),
        }
    }
}

fn at(error: impl Into<io::Error>, what: impl std::fmt::Display) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn udp(like: IpAddr) -> io::Result<OwnedFd> {
    let family = if like.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
    if like.is_ipv6() {
        // Both families may have a tunnel each.
        set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}

/// Sets how far what `socket` sends goes, by which interface, and whether this host hears it.
fn set_sending(
    socket: &OwnedFd,
    group: IpAddr,
    tunnel: &locator::Tunnel,
    interface: u32,
    is_heard_here: bool,
) -> io::Result<()> {
    let hops = u32::from(tunnel.ttl.unwrap_or(TTL));
    match group {
        IpAddr::V4(group) => {
            // Zero is no TTL of a packet to one host.
            set_ip_ttl(socket, hops.max(1))?;
            set_ip_multicast_ttl(socket, hops)?;
            set_ip_multicast_loop(socket, is_heard_here)?;
            if interface != 0 {
                let any = Ipv4Addr::UNSPECIFIED;
                set_ip_multicast_if_with_ifindex(socket, &group, &any, interface)?;
            }
        }
        IpAddr::V6(_) => {
            set_ipv6_unicast_hops(socket, Some(hops.max(1) as u8))?;
            set_ipv6_multicast_hops(socket, hops)?;
            set_ipv6_multicast_loop(socket, is_heard_here)?;
            set_ipv6_multicast_if(socket, interface)?;
        }
    }
    let octets = tunnel.receive_buffer.unwrap_or(RECEIVE_BUFFER);
    Ok(set_socket_recv_buffer_size(socket, octets as usize)?)
}

/// Has `socket` hear what is sent to `group`.
fn join(socket: &OwnedFd, group: IpAddr, interface: u32) -> io::Result<()> {
    let joined = match group {
        IpAddr::V4(group) => {
            set_ip_add_membership_with_ifindex(socket, &group, &Ipv4Addr::UNSPECIFIED, interface)
        }
        IpAddr::V6(group) => set_ipv6_add_membership(socket, &group, interface),
    };
    joined.map_err(|errno| at(errno, format_args!("cannot join {group}")))
}

fn index(socket: &OwnedFd, tunnel: &locator::Tunnel) -> io::Result<u32> {
    let Some(name) = &tunnel.interface else { return Ok(0) };
    name_to_index(socket, name).map_err(|errno| at(errno, name))
}

/// Returns the multicast group of a group of users: its number takes the last three octets.
fn of_users(group: IpAddr, number: u32) -> IpAddr {
    let [_, number @ ..] = number.to_be_bytes();
    match group {
        IpAddr::V4(group) => {
            let mut octets = group.octets();
            octets[1..].copy_from_slice(&number);
            octets.into()
        }
        IpAddr::V6(group) => {
            let mut octets = group.octets();
            octets[13..].copy_from_slice(&number);
            octets.into()
        }
    }
}

fn open_vxvde(
    cloud: &Vxvde,
    user_group: Option<u32>,
    given: (Option<OwnedFd>, Option<OwnedFd>),
) -> io::Result<Open> {
    let address = user_group.map_or(cloud.group, |number| of_users(cloud.group, number));
    let to_all = SocketAddr::new(address, cloud.port);
    let (own, group) = match given {
        (Some(own), Some(group)) => (own, group),
        _ => vxvde_sockets(cloud, to_all)?,
    };
    let port = SocketAddr::try_from(getsockname(&own)?)?.port();
    // The lowest 24 bits, as vde_plug has it.
    let vni = cloud.vni.or(user_group).unwrap_or(1);
    let expire_time = cloud.tunnel.expire_time.unwrap_or(EXPIRE_TIME);
    let (rules, floods) = (Rules::Vxvde { own: OwnPort::new(port) }, vec![to_all]);
    Ok(Open { rules, vni, own, group: Some(group), floods, expire_time })
}

/// Returns what frames are sent from, and what hears the group.
fn vxvde_sockets(cloud: &Vxvde, to_all: SocketAddr) -> io::Result<(OwnedFd, OwnedFd)> {
    let address = to_all.ip();
    let group = udp(address)?;
    // Others on this host may be in the cloud, too.
    set_socket_reuseaddr(&group, true)?;
    bind(&group, &to_all).map_err(|errno| at(errno, to_all))?;
    let interface = index(&group, &cloud.tunnel)?;
    join(&group, address, interface)?;
    let octets = cloud.tunnel.receive_buffer.unwrap_or(RECEIVE_BUFFER);
    set_socket_recv_buffer_size(&group, octets as usize)?;
    let own = udp(address)?;
    let bound = SocketAddr::new(cloud.bind.unwrap_or(unspecified(address)), 0);
    bind(&own, &bound).map_err(|errno| at(errno, bound))?;
    set_sending(&own, address, &cloud.tunnel, interface, true)?;
    Ok((own, group))
}

fn open_vxlan(vxlan: &Vxlan, given: Option<OwnedFd>) -> io::Result<Open> {
    let listed = vxlan.remote.first().copied();
    let address = listed.unwrap_or(vxlan.group);
    let mut others = vxlan.remote.iter().chain(&vxlan.local);
    if others.any(|other| other.is_ipv4() != address.is_ipv4()) {
        let text = "addresses of both families: a tunnel has one";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let own = given.map_or_else(|| vxlan_socket(vxlan, address), Ok)?;
    let floods = if listed.is_some() { vxlan.remote.clone() } else { vec![address] };
    let floods = floods.into_iter().map(|to| SocketAddr::new(to, vxlan.port)).collect();
    // Those of a list are members, whoever else is allowed.
    let members = vxlan.remote.iter().map(|remote| (*remote).into());
    let allow = members.chain(vxlan.allow.iter().copied()).collect();
    let rules = Rules::Vxlan { port: vxlan.port, learn: vxlan.learn, allow };
    let expire_time = vxlan.tunnel.expire_time.unwrap_or(EXPIRE_TIME);
    Ok(Open { rules, vni: vxlan.vni, own, group: None, floods, expire_time })
}

fn vxlan_socket(vxlan: &Vxlan, address: IpAddr) -> io::Result<OwnedFd> {
    let own = udp(address)?;
    let bound = vxlan.bound();
    bind(&own, &bound).map_err(|errno| {
        at(errno, format_args!("{bound} (Linux's own VXLAN devices may have it)"))
    })?;
    let interface = index(&own, &vxlan.tunnel)?;
    if vxlan.remote.is_empty() {
        join(&own, address, interface)?;
    }
    set_sending(&own, address, &vxlan.tunnel, interface, false)?;
    Ok(own)
}

impl Open {
    /// Returns a port of it. It knows nobody yet.
    fn port(&self) -> io::Result<Box<DescriptorPort<Tunnel>>> {
        let sockets = Sockets {
            own: self.own.try_clone()?,
            group: self.group.as_ref().map(OwnedFd::try_clone).transpose()?,
        };
        let (rules, floods) = (self.rules.clone(), self.floods.clone());
        let tunnel = Tunnel::new(rules, self.vni, sockets, floods, self.expire_time)?;
        Ok(Box::new(DescriptorPort::new(tunnel)?))
    }

    /// Tells the others of a cloud that one is no more.
    fn say_goodbye(&self) {
        if let (Rules::Vxvde { .. }, [to_all]) = (&self.rules, &self.floods[..]) {
            let header = Header::new(self.vni);
            let to = SocketAddrAny::from(*to_all);
            // Who does not hear it forgets in time.
            sendto(&self.own, header.as_bytes(), SendFlags::DONTWAIT, &to).ok();
        }
    }
}

/// Keeps the tunnel attached until `stop`.
pub(super) async fn serve(open: Open, mut port: PortHandle, mut stop: oneshot::Receiver<()>) {
    tokio::select! {
        why = keep(&open, &mut port) => {
            port.detach().await;
            port.tell_why(PortState::Failed, &why.to_string());
            // The error stays until it is closed; another process of the daemon begins anew.
            tokio::select! {
                () = port.pause(Duration::MAX) => {}
                _ = &mut stop => {}
            }
        }
        _ = &mut stop => drop(port.detach().await),
    }
    open.say_goodbye();
}

/// Keeps a port of it attached. Returns why that cannot go on.
async fn keep(open: &Open, port: &mut PortHandle) -> io::Error {
    port.begin();
    port.connected();
    loop {
        match open.port() {
            Ok(made) => port.attach(made, PortState::Active),
            Err(error) => return error,
        }
        match port.next().await {
            Signal::Moved => drop(port.detach().await),
            Signal::Export(request) => {
                // Another process goes on with the sockets: nobody is told that this one goes.
                drop(port.detach().await);
                let fds = [Some(&open.own), open.group.as_ref()].into_iter().flatten();
                let fds = fds.map(OwnedFd::try_clone).collect::<io::Result<_>>();
                port.export(request, fds).await;
            }
            Signal::Failed(failure) => return io::Error::other(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_of_users_takes_the_last_three_octets_of_the_group() {
        let of = |group: &str, number| of_users(group.parse().unwrap(), number).to_string();
        assert_eq!(of("239.0.0.1", 1000), "239.0.3.232");
        assert_eq!(of("239.9.9.9", 0xff01_0203), "239.1.2.3");
        assert_eq!(of("ff05:56de::1", 1000), "ff05:56de::3e8");
    }
}
