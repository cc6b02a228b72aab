//! Stories of what a gateway serves beside addresses.

mod cloud_init;
mod forwarding;
mod metadata;
mod names;
mod over_tcp;
mod resolvers;

use crate::{
    daemon::Daemon,
    namespace::{Namespace, run},
};
use mvirt_net::proto::{Nic, SetNicMetadataRequest, Transport};

/// Makes a vNIC that is a TAP device, which is the only interface of a namespace.
fn container(daemon: &mut Daemon, network: &str, name: &str) -> (Nic, Namespace) {
    let nic = daemon.nic_with(network, name, |nic| {
        nic.transport = Transport::Tap.into();
        nic.tap_interface = name.into();
    });
    let container = Namespace::new();
    run(&format!("ip link set {name} address {}", nic.mac_address));
    run(&format!("ip link set {name} netns {}", container.0.id()));
    (nic, container)
}

/// Enters a container, and configures its interface as its guest would by DHCP.
fn settle(nic: &Nic, container: &Namespace) {
    container.enter();
    let name = &nic.name;
    // No wait for who else might have its address.
    std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_dad"), "0").unwrap();
    run("ip link set lo up");
    run(&format!("ip link set {name} up"));
    run(&format!("ip address add {}/32 dev {name}", nic.ipv4_address));
    run(&format!("ip route add 169.254.0.1 dev {name}"));
    run("ip route add default via 169.254.0.1");
    if !nic.ipv6_address.is_empty() {
        run(&format!("ip address add {}/128 dev {name}", nic.ipv6_address));
        run(&format!("ip -6 route replace default via fe80::1 dev {name}"));
    }
}

/// Has a vNIC's guest told this.
fn tell(daemon: &mut Daemon, nic: &str, change: impl FnOnce(&mut SetNicMetadataRequest)) -> Nic {
    let mut request = SetNicMetadataRequest { id: nic.into(), ..Default::default() };
    change(&mut request);
    daemon.call(async |client| client.set_nic_metadata(request).await).unwrap()
}

/// Runs `inside` on a thread of its own, which stays where it moves to.
fn apart<T: Send>(inside: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(inside).join().unwrap())
}

/// Why there can be no containers here, if there cannot.
fn no_containers() -> Option<&'static str> {
    let can = rustix::process::geteuid().is_root() && std::path::Path::new("/dev/net/tun").exists();
    (!can).then_some("only root can make a TAP device, where there is /dev/net/tun")
}
