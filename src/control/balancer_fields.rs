//! Fields of load balancers: of requests, valid or refused; and as the API shows them.

use super::{choices::PROTOCOLS, refusal::Refusal};
use crate::{
    balancing::can_ping,
    model::{Backend, BackendTarget, BalancedPort, HealthCheck, HealthKind, LoadBalancer},
    proto,
};
use std::num::{NonZeroU16, NonZeroU32};

/// Services of a balancer.
const MAX_PORTS: usize = 16;
/// Backends of a balancer: as the table of Maglev has places enough for.
const MAX_BACKENDS: usize = 64;
/// What the heaviest backend may weigh beside the lightest.
const MAX_WEIGHT: u32 = 100;
/// Seconds between checks.
const MAX_INTERVAL: u32 = 3600;
/// Seconds that one may take.
// As long as it lasts it holds a socket, and a turn that others wait for.
pub(super) const MAX_TIMEOUT: u32 = 60;
/// Checks that change what is thought of a backend.
const MAX_IN_A_ROW: u32 = 100;
/// Octets of the path of a check.
const MAX_PATH: usize = 1024;
/// What is meant where a check says nothing: seconds, and checks in a row.
const INTERVAL: NonZeroU32 = NonZeroU32::new(5).expect("it is not zero");
const TIMEOUT: NonZeroU32 = NonZeroU32::new(2).expect("it is not zero");
const RISE: NonZeroU32 = NonZeroU32::new(2).expect("it is not zero");
const FALL: NonZeroU32 = NonZeroU32::new(3).expect("it is not zero");

fn port(field: &'static str, number: u32) -> Result<NonZeroU16, Refusal> {
    let port = u16::try_from(number).ok().and_then(NonZeroU16::new);
    port.ok_or_else(|| Refusal::invalid(field, number, "expected a port from 1 to 65535"))
}

/// Returns the services that a request names, in order.
pub(super) fn ports(asked: &[proto::BalancedPort]) -> Result<Vec<BalancedPort>, Refusal> {
    if asked.is_empty() {
        return Err(Refusal::invalid("ports", "", "required: at least one"));
    }
    Refusal::unless_at_most(MAX_PORTS, "ports", asked.len(), "ports")?;
    let one = |asked: &proto::BalancedPort| {
        let protocol = PROTOCOLS.chosen("ports.protocol", asked.protocol)?.ok_or_else(|| {
            let expected = "required: PROTOCOL_TCP or PROTOCOL_UDP";
            Refusal::invalid("ports.protocol", "", expected)
        })?;
        let listen = port("ports.port", asked.port)?;
        let target_port = match asked.target_port {
            0 => listen,
            target => port("ports.target_port", target)?,
        };
        Ok(BalancedPort { protocol, port: listen, target_port })
    };
    let ports: Vec<_> = asked.iter().map(one).collect::<Result<_, Refusal>>()?;
    for (at, one) in ports.iter().enumerate() {
        if ports[..at].iter().any(|it| (it.protocol, it.port) == (one.protocol, one.port)) {
            let value = format!("{}:{}", one.protocol.name(), one.port);
            return Err(Refusal::invalid("ports", value, "it is given twice"));
        }
    }
    Ok(ports)
}

/// Returns the backends that a request names; `find` finds vNICs of the network by id or name, and
/// looks whether it may have an address.
pub(super) fn backends(
    asked: &[proto::Backend],
    find: impl Fn(&proto::Backend) -> Result<BackendTarget, Refusal>,
) -> Result<Vec<Backend>, Refusal> {
    Refusal::unless_at_most(MAX_BACKENDS, "backends", asked.len(), "backends")?;
    let one = |asked: &proto::Backend| {
        let target = match (&*asked.nic_id, &*asked.address) {
            ("", "") => {
                let expected = "each has either nic_id or address: neither is given";
                return Err(Refusal::invalid("backends", "", expected));
            }
            (_, "") | ("", _) => find(asked)?,
            (_, address) => {
                let expected = "each has either nic_id or address: both are given";
                return Err(Refusal::invalid("backends", address, expected));
            }
        };
        let weight = match asked.weight {
            0 => NonZeroU16::MIN,
            weight => {
                let number = u16::try_from(weight).ok().and_then(NonZeroU16::new);
                number.filter(|_| weight <= MAX_WEIGHT).ok_or_else(|| {
                    let expected = format!("expected 1 to {MAX_WEIGHT}");
                    Refusal::invalid("backends.weight", weight, expected)
                })?
            }
        };
        Ok(Backend { target, weight, drained: asked.drained })
    };
    let backends: Vec<_> = asked.iter().map(one).collect::<Result<_, Refusal>>()?;
    for (at, (backend, asked)) in backends.iter().zip(asked).enumerate() {
        if backends[..at].iter().any(|other| other.target == backend.target) {
            let value = if asked.nic_id.is_empty() { &asked.address } else { &asked.nic_id };
            return Err(Refusal::invalid("backends", value, "it is given twice"));
        }
    }
    Ok(backends)
}

fn number(
    field: &'static str,
    asked: u32,
    default: NonZeroU32,
    most: u32,
) -> Result<NonZeroU32, Refusal> {
    let number = NonZeroU32::new(asked).unwrap_or(default);
    if number.get() <= most {
        return Ok(number);
    }
    Err(Refusal::invalid(field, asked, format!("expected 1 to {most}")))
}

/// Returns how backends are to be checked, and what is to be checked of them.
pub(super) fn health(asked: Option<&proto::HealthCheck>) -> Result<Option<HealthCheck>, Refusal> {
    let Some(asked) = asked else { return Ok(None) };
    let kind = proto::HealthKind::try_from(asked.kind).map_err(|_| {
        let expected = "expected HEALTH_KIND_NONE, _TCP, _HTTP or _ICMP";
        Refusal::invalid("health.kind", asked.kind, expected)
    })?;
    let kind = match kind {
        proto::HealthKind::Unspecified | proto::HealthKind::None => {
            let rest = proto::HealthCheck { kind: 0, ..asked.clone() };
            if rest != proto::HealthCheck::default() {
                let expected = "required: what is to be checked, as HEALTH_KIND_TCP";
                return Err(Refusal::invalid("health.kind", "", expected));
            }
            return Ok(None);
        }
        proto::HealthKind::Tcp => HealthKind::Tcp,
        proto::HealthKind::Http => HealthKind::Http { path: path(&asked.path)? },
        proto::HealthKind::Icmp => HealthKind::Icmp,
    };
    if !asked.path.is_empty() && !matches!(kind, HealthKind::Http { .. }) {
        let expected = "only a check of HEALTH_KIND_HTTP has a path";
        return Err(Refusal::invalid("health.path", &asked.path, expected));
    }
    if asked.port != 0 && kind == HealthKind::Icmp {
        let expected = "a check of HEALTH_KIND_ICMP has no port";
        return Err(Refusal::invalid("health.port", asked.port, expected));
    }
    let port = match asked.port {
        0 => None,
        number => Some(port("health.port", number)?),
    };
    let interval_s = number("health.interval_s", asked.interval_s, INTERVAL, MAX_INTERVAL)?;
    // Of short intervals, the usual one would be longer than these.
    let timeout_s =
        number("health.timeout_s", asked.timeout_s, TIMEOUT.min(interval_s), MAX_TIMEOUT)?;
    if timeout_s > interval_s {
        let expected = format!("expected at most the interval, which is {interval_s}");
        return Err(Refusal::invalid("health.timeout_s", timeout_s, expected));
    }
    Ok(Some(HealthCheck {
        kind,
        port,
        interval_s,
        timeout_s,
        rise: number("health.rise", asked.rise, RISE, MAX_IN_A_ROW)?,
        fall: number("health.fall", asked.fall, FALL, MAX_IN_A_ROW)?,
    }))
}

/// Returns what is asked for by HTTP (RFC 9110 §7.1, origin-form).
fn path(text: &str) -> Result<String, Refusal> {
    let text = if text.is_empty() { "/" } else { text };
    let is_clean = text.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'#');
    if text.starts_with('/') && is_clean && text.len() <= MAX_PATH {
        return Ok(text.into());
    }
    let expected = format!("expected a path like /healthz, of at most {MAX_PATH} octets");
    Err(Refusal::invalid("health.path", text, expected))
}

/// Refuses a check that this daemon cannot make, or that finds no port.
pub(super) fn check_health(balancer: &LoadBalancer) -> Result<(), Refusal> {
    match balancer.health.as_ref().map(|health| &health.kind) {
        None => Ok(()),
        Some(HealthKind::Icmp) => can_ping(balancer.address.is_ipv4()).map_err(|error| {
            Refusal::Unready(format!(
                "health.kind: the daemon cannot send echo requests ({error}): its group must be in \
                 net.ipv4.ping_group_range"
            ))
        }),
        Some(_) if balancer.checked_port().is_some() => Ok(()),
        Some(_) => {
            let expected = "required: no port of the balancer is of TCP";
            Err(Refusal::invalid("health.port", "", expected))
        }
    }
}

/// Returns services as requests have them.
pub(super) fn shown_ports(ports: &[BalancedPort]) -> Vec<proto::BalancedPort> {
    let one = |port: &BalancedPort| proto::BalancedPort {
        protocol: PROTOCOLS.number(Some(port.protocol)),
        port: port.port.get().into(),
        target_port: port.target_port.get().into(),
    };
    ports.iter().map(one).collect()
}

/// Returns backends as requests have them.
pub(super) fn shown_backends(backends: &[Backend]) -> Vec<proto::Backend> {
    let one = |backend: &Backend| {
        let (nic_id, address) = match backend.target {
            BackendTarget::NicId(id) => (id.to_string(), String::new()),
            BackendTarget::Address(address) => (String::new(), address.to_string()),
        };
        let (weight, drained) = (backend.weight.get().into(), backend.drained);
        proto::Backend { nic_id, address, weight, drained, ..Default::default() }
    };
    backends.iter().map(one).collect()
}

/// Returns a check as requests have it.
pub(super) fn shown_health(health: Option<&HealthCheck>) -> Option<proto::HealthCheck> {
    let health = health?;
    let (kind, path) = match &health.kind {
        HealthKind::Tcp => (proto::HealthKind::Tcp, String::new()),
        HealthKind::Http { path } => (proto::HealthKind::Http, path.clone()),
        HealthKind::Icmp => (proto::HealthKind::Icmp, String::new()),
    };
    Some(proto::HealthCheck {
        kind: kind.into(),
        port: health.port.map_or(0, |port| port.get().into()),
        path,
        interval_s: health.interval_s.get(),
        timeout_s: health.timeout_s.get(),
        rise: health.rise.get(),
        fall: health.fall.get(),
    })
}
