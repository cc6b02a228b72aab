//! How public networks reach the world: what the flags say, and what this machine lets it do.

use crate::{
    config::{Config, EgressFlag},
    control::{UserEgress, WayOut},
    egress::protocol::{self, Configuration},
    egress_process,
    host_network::{HostNetwork, Sysctls},
};

/// Returns how public networks reach the world, and says so.
pub fn choose(config: &Config) -> WayOut {
    let sysctls = if config.egress_sysctl { Sysctls::Set } else { Sysctls::Told };
    let tun = || WayOut::Tun(Box::new(HostNetwork::new(&config.egress_device, sysctls)));
    match (config.egress, HostNetwork::possible()) {
        (EgressFlag::Auto | EgressFlag::Tun, Ok(())) => {
            let device = &config.egress_device;
            tracing::info!(egress = "tun", device, "public networks reach the world by the host");
            tun()
        }
        (EgressFlag::Tun, Err(error)) => {
            // Networks that are not public are served all the same.
            tracing::warn!(egress = "tun", %error, "no network can become public");
            tun()
        }
        (EgressFlag::Auto, Err(no_tun)) => by_sockets(config, &format!("no tun: {no_tun}")),
        (EgressFlag::User, _) => by_sockets(config, "by --egress user"),
        (EgressFlag::Off, _) => WayOut::Off("by --egress off".into()),
    }
}

/// Returns the way by sockets of the host, which was chosen for that reason.
fn by_sockets(config: &Config, why: &str) -> WayOut {
    match egress_process::find() {
        Ok(program) => {
            let shown = program.display();
            tracing::info!(
                egress = "user",
                why,
                program = %shown,
                "public networks reach the world by sockets of the host"
            );
            let user = UserEgress::new(program, why.into(), egress_configuration(config));
            WayOut::User(Box::new(user))
        }
        Err(error) => {
            tracing::warn!(egress = "off", why, %error, "no network can be public");
            WayOut::Off(format!("{why}; {error}"))
        }
    }
}

/// Returns what guests may reach by sockets of the host, and what not.
fn egress_configuration(config: &Config) -> Configuration {
    Configuration {
        version: protocol::VERSION,
        nics: Vec::new(),
        allow: config.egress_allow.clone(),
        deny: config.denied(),
        host_loopback: config.egress_host_loopback,
        limits: protocol::Limits::default(),
        forwards: Vec::new(),
        segment: None,
    }
}
