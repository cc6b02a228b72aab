//! What the numbers of the API's enums mean, and back. Zero is what is unspecified: nothing was
//! chosen.

use super::refusal::Refusal;
use crate::{
    model::{
        Addressing, DnsMode, NetworkKind, PortRole, PortSecurity, Protocol,
        l2::{DhcpGuard, GuestVlans, ReservedGroups, UnknownUnicast},
    },
    proto,
};

/// The choices of an enum `E`, and what each means.
pub(super) struct Choices<E: 'static, T: 'static> {
    pub(super) pairs: &'static [(E, T)],
    /// Returns how a choice is written in JSON, which a refusal says.
    pub(super) name: fn(&E) -> &'static str,
}

impl<E: TryFrom<i32> + Into<i32> + Copy + PartialEq, T: Copy + PartialEq> Choices<E, T> {
    /// Returns what the number in a field means, none for zero.
    pub(super) fn chosen(&self, field: &'static str, value: i32) -> Result<Option<T>, Refusal> {
        if value == 0 {
            return Ok(None);
        }
        let known = E::try_from(value).ok();
        let found = known.and_then(|known| self.pairs.iter().find(|(choice, _)| *choice == known));
        match found {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => Err(Refusal::invalid(field, value, self.expected())),
        }
    }

    /// Returns the number of what was chosen, zero where nothing was.
    pub(super) fn number(&self, chosen: Option<T>) -> i32 {
        let found = chosen.and_then(|it| self.pairs.iter().find(|(_, meaning)| *meaning == it));
        found.map_or(0, |(choice, _)| (*choice).into())
    }

    /// Returns `expected A, B or C`.
    fn expected(&self) -> String {
        let names: Vec<_> = self.pairs.iter().map(|(choice, _)| (self.name)(choice)).collect();
        match names.split_last() {
            Some((last, others)) if !others.is_empty() => {
                format!("expected {} or {last}", others.join(", "))
            }
            _ => format!("expected {}", names.concat()),
        }
    }
}

pub(super) const TOGGLES: Choices<proto::Toggle, bool> = Choices {
    pairs: &[(proto::Toggle::On, true), (proto::Toggle::Off, false)],
    name: proto::Toggle::as_str_name,
};

/// Defines the choices of an enum of the API that the model calls the same.
macro_rules! choices {
    ($name:ident: $of:ident { $($choice:ident),+ }) => {
        pub(super) const $name: Choices<proto::$of, $of> = Choices {
            pairs: &[$((proto::$of::$choice, $of::$choice)),+],
            name: proto::$of::as_str_name,
        };
    };
}
choices!(ADDRESSINGS: Addressing { Host, Subnet });
choices!(DNS_MODES: DnsMode { Tell, Names });
choices!(GROUPS: ReservedGroups { Drop, Forward });
choices!(GUARDS: DhcpGuard { Auto, On, Off });
choices!(IPV6_MODES: Ipv6Mode { Dhcpv6, Slaac });
choices!(KINDS: NetworkKind { Routed, Switched });
choices!(PROTOCOLS: Protocol { Tcp, Udp });
choices!(ROLES: PortRole { Access, Uplink, Peer });
choices!(SECURITIES: PortSecurity { Strict, MacOnly, Off });
choices!(UNKNOWN: UnknownUnicast { Flood, Drop });
choices!(VLANS: GuestVlans { Drop, Pass });

/// How a guest comes by its IPv6 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ipv6Mode {
    /// By DHCPv6, one address.
    Dhcpv6,
    /// It chooses them in a /64 of its own.
    Slaac,
}
