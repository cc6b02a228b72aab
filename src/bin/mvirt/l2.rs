//! How a switched network treats frames, as flags and for people.

use super::Failure;
use clap::{Args, ValueEnum};
use mvirt_net::{
    model,
    proto::{
        DhcpGuard, GuestVlans, L2Policy, PortSecurity, ReservedGroups, Toggle, UnknownUnicast,
    },
};

/// How the guests of a network reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Kind {
    /// By their addresses, through the daemon as their gateway
    #[default]
    Routed,
    /// By their MACs, as on one Ethernet segment
    Switched,
}

/// Where a policy begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// Guarded: storms are bounded, loops looked for, reserved groups dropped
    Default,
    /// A switch that adds nothing and hides nothing
    Plain,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum OnOff {
    On,
    Off,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Unknown {
    Flood,
    Drop,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Vlans {
    Drop,
    Pass,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Guard {
    /// Where the network has a gateway
    Auto,
    On,
    Off,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Groups {
    Drop,
    Forward,
}

/// What a guest may send from.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Security {
    /// Its own MAC and its own addresses
    Strict,
    /// Its own MAC and any address
    MacOnly,
    /// Any MAC but those of other vNICs: it is a bridge
    Off,
}

impl From<Security> for PortSecurity {
    fn from(security: Security) -> Self {
        match security {
            Security::Strict => Self::Strict,
            Security::MacOnly => Self::MacOnly,
            Security::Off => Self::Off,
        }
    }
}

/// Of the flags below, in --help.
pub(crate) const HEADING: &str = "Switched networks";

/// Flags of a switched network.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = HEADING)]
pub(crate) struct Flags {
    /// What the flags below begin with
    #[arg(long, value_name = "PRESET")]
    l2: Option<Preset>,
    /// How long a MAC is known after its last frame, 15-3600 [default: 300]
    // The API takes 0 for what is not said.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(15..=3600))]
    mac_aging: Option<u32>,
    /// How many MACs are learned [default: 8192]
    #[arg(long, value_name = "COUNT")]
    mac_table: Option<u32>,
    /// What becomes of frames to a MAC that nobody knows
    #[arg(long)]
    unknown_unicast: Option<Unknown>,
    /// Frames to several receivers that one guest may send a second, or "none" [default: 2000]
    #[arg(long, value_name = "FRAMES", value_parser = storm)]
    storm: Option<u32>,
    /// Whether multicast goes only to who has joined [default: on]
    #[arg(long)]
    snooping: Option<OnOff>,
    /// What becomes of frames that guests have tagged [default: drop]
    #[arg(long)]
    guest_vlans: Option<Vlans>,
    /// Whether the daemon answers ARP and NDP for guests [default: on]
    #[arg(long)]
    neighbour_proxy: Option<OnOff>,
    /// Whether DHCP servers and routers behind ports are silenced [default: auto]
    #[arg(long)]
    dhcp_guard: Option<Guard>,
    /// What becomes of frames for the next bridge only, as of spanning tree [default: drop]
    #[arg(long)]
    reserved_groups: Option<Groups>,
    /// Whether loops through ports are looked for [default: on]
    #[arg(long)]
    loop_guard: Option<OnOff>,
    /// What hosts behind ports lease by DHCP: "auto", the upper half of the subnet, FIRST-LAST, or
    /// "none" [default: none]
    #[arg(long, value_name = "ADDRESSES")]
    dhcp_pool: Option<String>,
}

fn storm(text: &str) -> Result<u32, String> {
    match text {
        "none" => Ok(u32::MAX),
        _ => match text.parse() {
            Ok(0) | Err(_) => Err("expected a number of frames from 1 on, or none".into()),
            Ok(frames) => Ok(frames),
        },
    }
}

impl From<OnOff> for Toggle {
    fn from(toggle: OnOff) -> Self {
        match toggle {
            OnOff::On => Self::On,
            OnOff::Off => Self::Off,
        }
    }
}

impl Flags {
    /// Returns the policy with what the flags say in the place of what it was; none where they say
    /// nothing.
    pub(crate) fn apply(&self, now: Option<L2Policy>) -> Option<L2Policy> {
        let mut policy = match self.l2 {
            None => now.unwrap_or_default(),
            Some(Preset::Default) => L2Policy::default(),
            Some(Preset::Plain) => plain(),
        };
        let (before, mut given) = (policy.clone(), self.l2.is_some());
        set(&mut policy.mac_aging_seconds, self.mac_aging);
        set(&mut policy.mac_table_size, self.mac_table);
        set(&mut policy.storm_pps, self.storm);
        set(
            &mut policy.unknown_unicast,
            self.unknown_unicast.map(|choice| match choice {
                Unknown::Flood => UnknownUnicast::Flood.into(),
                Unknown::Drop => UnknownUnicast::Drop.into(),
            }),
        );
        let toggle = |choice: Option<OnOff>| choice.map(|choice| Toggle::from(choice).into());
        set(&mut policy.multicast_snooping, toggle(self.snooping));
        set(&mut policy.neighbour_proxy, toggle(self.neighbour_proxy));
        set(&mut policy.loop_guard, toggle(self.loop_guard));
        set(
            &mut policy.guest_vlans,
            self.guest_vlans.map(|choice| match choice {
                Vlans::Drop => GuestVlans::Drop.into(),
                Vlans::Pass => GuestVlans::Pass.into(),
            }),
        );
        set(
            &mut policy.dhcp_guard,
            self.dhcp_guard.map(|choice| match choice {
                Guard::Auto => DhcpGuard::Auto.into(),
                Guard::On => DhcpGuard::On.into(),
                Guard::Off => DhcpGuard::Off.into(),
            }),
        );
        set(
            &mut policy.reserved_groups,
            self.reserved_groups.map(|choice| match choice {
                Groups::Drop => ReservedGroups::Drop.into(),
                Groups::Forward => ReservedGroups::Forward.into(),
            }),
        );
        if let Some(pool) = &self.dhcp_pool {
            // The API has no word for it.
            policy.dhcp_pool = if pool == "none" { String::new() } else { pool.clone() };
        }
        given |= policy != before;
        given.then_some(policy)
    }

    /// Refuses flags that say nothing of a network of this kind.
    pub(crate) fn check(&self, kind: Kind) -> Result<(), Failure> {
        if kind == Kind::Switched || self.apply(None).is_none() {
            return Ok(());
        }
        let needed = "flags of switched networks are given without --kind switched";
        Err(Failure::Usage(needed.into()))
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// Returns the preset of that name, as a request has it.
fn plain() -> L2Policy {
    L2Policy::from(&model::L2Policy::plain())
}

/// Returns a policy for people, in the words of the flags.
pub(crate) fn text(policy: Option<&L2Policy>) -> String {
    let Some(policy) = policy else { return String::new() };
    let word = |name: &str, prefix: &str| name.trim_start_matches(prefix).to_ascii_lowercase();
    let toggle = |toggle: Toggle| word(toggle.as_str_name(), "TOGGLE_");
    let storm = match policy.storm_pps {
        u32::MAX => "none".into(),
        pps => format!("{pps}/s"),
    };
    [
        format!("mac-aging {}s", policy.mac_aging_seconds),
        format!("mac-table {}", policy.mac_table_size),
        format!("storm {storm}"),
        format!(
            "unknown-unicast {}",
            word(policy.unknown_unicast().as_str_name(), "UNKNOWN_UNICAST_")
        ),
        format!("snooping {}", toggle(policy.multicast_snooping())),
        format!("guest-vlans {}", word(policy.guest_vlans().as_str_name(), "GUEST_VLANS_")),
        format!("neighbour-proxy {}", toggle(policy.neighbour_proxy())),
        format!("dhcp-guard {}", word(policy.dhcp_guard().as_str_name(), "DHCP_GUARD_")),
        format!(
            "reserved-groups {}",
            word(policy.reserved_groups().as_str_name(), "RESERVED_GROUPS_")
        ),
        format!("loop-guard {}", toggle(policy.loop_guard())),
        format!(
            "dhcp-pool {}",
            if policy.dhcp_pool.is_empty() { "none" } else { &policy.dhcp_pool }
        ),
    ]
    .join(", ")
}
