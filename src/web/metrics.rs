//! `/metrics`: OpenMetrics text (the exposition format of Prometheus), made when it is asked for
//! from counters that are there anyway.
//!
//! A vNIC or port is told by its name, as `nic`: names are unique over both. Where there are many,
//! only those have series of their own that have carried most; networks are always told as a whole.

use super::{
    per_nic::PerNic,
    process::Process,
    sums::{DIRECTIONS, PLAIN, frames, octets},
};
use crate::{
    control::{Gone, Handle, Observed, ObservedMember, What},
    dataplane::{Monitor, counters::PortCounters},
    proto::{NicState, PortState},
    telemetry::Telemetry,
};
use hyper::body::Bytes;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};
use std::{fmt::Error, sync::Arc};
use tokio::sync::Mutex;

/// What the text is.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Of which commit the program is, where who built it has said so.
const REVISION: &str = match option_env!("MVIRT_NET_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// All that is told.
#[derive(Debug, Clone)]
pub struct Metrics {
    control: Handle,
    telemetry: Telemetry,
    per_nic: Option<PerNic>,
    /// Held while a text is made: it may be long, and several at a time help nobody.
    turn: Arc<Mutex<()>>,
}

impl Metrics {
    /// Tells of what `control` has, and of what was measured.
    pub fn new(control: Handle, telemetry: Telemetry, per_nic: Option<PerNic>) -> Self {
        Self { control, telemetry, per_nic, turn: Arc::default() }
    }

    /// Returns the text as it is now.
    pub(super) async fn scrape(&self) -> Result<Bytes, Gone> {
        let _turn = self.turn.lock().await;
        let observed = self.control.observe().await?;
        let (telemetry, per_nic) = (self.telemetry.clone(), self.per_nic);
        // Of thousands of vNICs it takes a while, for which others go on.
        let text = tokio::task::spawn_blocking(move || encode(observed, &telemetry, per_nic));
        text.await.map_err(|_| Gone)
    }
}

/// Returns the text about all that there is.
pub fn encode(observed: Observed, telemetry: &Telemetry, per_nic: Option<PerNic>) -> Bytes {
    let scrape = Scrape::new(observed, per_nic);
    // About as long as the lines of each: grown step by step, it would be copied as often.
    let mut text = String::with_capacity(8192 + scrape.told.len() * 2048);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape));
    registry.register(
        "mvirt_net_api_requests",
        "Requests to the API that were answered; those that last, when they began",
        telemetry.api_requests.clone(),
    );
    registry.register(
        "mvirt_net_api_request_duration_seconds",
        "How long the API took to answer",
        telemetry.api_durations.clone(),
    );
    registry.register(
        "mvirt_net_store_write_duration_seconds",
        "How long changes took to be on stable storage",
        telemetry.store_writes.clone(),
    );
    registry.register(
        "mvirt_net_store_errors",
        "Changes that could not be stored",
        telemetry.store_errors.clone(),
    );
    text::encode(&mut text, &registry).expect("a string takes all that is written");
    text.into()
}

/// All that is told of at one time.
#[derive(Debug)]
struct Scrape {
    observed: Observed,
    /// Those that have series of their own, and what they have counted.
    told: Vec<(usize, PortCounters)>,
    /// By [`Observed::networks`].
    networks: Vec<PortCounters>,
    /// Nothing, where there is no way out.
    outside: PortCounters,
    process: Process,
}

impl Scrape {
    fn new(observed: Observed, per_nic: Option<PerNic>) -> Self {
        let gone = observed.networks.iter().map(|network| PortCounters::sum([&*network.gone]));
        let networks: Vec<_> = gone.collect();
        let sums = |member: &ObservedMember| {
            PortCounters::sum(member.monitors.iter().map(Monitor::counters))
        };
        let mut told: Vec<_> = observed.members.iter().map(sums).enumerate().collect();
        for ((_, sums), member) in told.iter().zip(&observed.members) {
            networks[member.network].add_all(sums);
        }
        let most = PerNic::of(per_nic, told.len());
        if most < told.len() {
            told.sort_by_key(|(at, sums)| {
                (std::cmp::Reverse(octets(sums).iter().sum::<u64>()), *at)
            });
            told.truncate(most);
            told.sort_by_key(|(at, _)| *at);
        }
        let outside = PortCounters::sum(observed.outside.as_ref().map(Monitor::counters));
        Self { observed, told, networks, outside, process: Process::read() }
    }

    /// Returns those that have series of their own.
    fn members(
        &self,
    ) -> impl Iterator<Item = (&ObservedMember, [(&'static str, &str); 2], &PortCounters)> {
        self.told.iter().map(|(at, sums)| {
            let member = &self.observed.members[*at];
            let network = &self.observed.networks[member.network].name;
            let labels = [("nic", member.name.as_str()), ("network", network.as_str())];
            (member, labels, sums)
        })
    }

    fn encode_members(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut info = family(encoder, "mvirt_net_nic", "What a vNIC is", MetricType::Info)?;
        for (member, [nic, network], _) in self.members() {
            let id = member.id.to_string();
            if let What::Nic { mac, .. } = &member.what {
                info.encode_info(&[nic, ("id", &*id), network, ("mac", &**mac)])?;
            }
        }
        let mut info = family(encoder, "mvirt_net_port", "What a port is", MetricType::Info)?;
        for (member, [(_, port), network], _) in self.members() {
            let id = member.id.to_string();
            if let What::Port { locator, .. } = &member.what {
                let locator = ("locator", locator.as_str());
                info.encode_info(&[("port", port), ("id", &*id), network, locator])?;
            }
        }
        self.encode_states(encoder)?;
        let help = "Frames, from the guest or port and to it";
        let mut frames = family(encoder, "mvirt_net_frames", help, MetricType::Counter)?;
        for (_, labels, sums) in self.members() {
            both_ways(&mut frames, &labels, self::frames(sums))?;
        }
        let help = "Octets of frames, from the Ethernet header on";
        let mut octets = family(encoder, "mvirt_net_bytes", help, MetricType::Counter)?;
        for (_, labels, sums) in self.members() {
            both_ways(&mut octets, &labels, self::octets(sums))?;
        }
        for (at, name, help) in PLAIN {
            let mut plain = family(encoder, name, help, MetricType::Counter)?;
            for (_, labels, sums) in self.members() {
                count(&mut plain, &labels, at(sums).get())?;
            }
        }
        let help = "Frames that were dropped, at their sender where that is known";
        let mut drops = family(encoder, "mvirt_net_dropped_frames", help, MetricType::Counter)?;
        for (_, labels, sums) in self.members() {
            dropped(&mut drops, &labels, sums)?;
        }
        Ok(())
    }

    fn encode_states(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        const NICS: [NicState; 4] =
            [NicState::Created, NicState::Active, NicState::Blocked, NicState::Error];
        const PORTS: [PortState; 5] = [
            PortState::Down,
            PortState::Listening,
            PortState::Up,
            PortState::Blocked,
            PortState::Error,
        ];
        let help = "The state of a vNIC: 1 of the one that it is in";
        let mut states = family(encoder, "mvirt_net_nic_state", help, MetricType::Gauge)?;
        for (member, labels, _) in self.members() {
            let What::Nic { state, .. } = &member.what else { continue };
            for each in NICS {
                let labels = (&labels[..], [("state", each.word())]);
                gauge(&mut states, &labels, u64::from(each == *state))?;
            }
        }
        let help = "The state of a port: 1 of the one that it is in";
        let mut states = family(encoder, "mvirt_net_port_state", help, MetricType::Gauge)?;
        for (member, [(_, port), network], _) in self.members() {
            let What::Port { state, .. } = &member.what else { continue };
            let labels = [("port", port), network];
            for each in PORTS {
                let labels = (&labels[..], [("state", each.word())]);
                gauge(&mut states, &labels, u64::from(each == *state))?;
            }
        }
        Ok(())
    }

    fn encode_networks(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let networks = || {
            let labels = self.observed.networks.iter().map(|it| [("network", it.name.as_str())]);
            labels.zip(&self.networks)
        };
        let help = "Frames of all vNICs and ports of a network, from them and to them";
        let mut frames = family(encoder, "mvirt_net_network_frames", help, MetricType::Counter)?;
        for (labels, sums) in networks() {
            both_ways(&mut frames, &labels, self::frames(sums))?;
        }
        let help = "Octets of all vNICs and ports of a network";
        let mut octets = family(encoder, "mvirt_net_network_bytes", help, MetricType::Counter)?;
        for (labels, sums) in networks() {
            both_ways(&mut octets, &labels, self::octets(sums))?;
        }
        let help = "Frames of all vNICs and ports of a network that were dropped";
        let name = "mvirt_net_network_dropped_frames";
        let mut drops = family(encoder, name, help, MetricType::Counter)?;
        for (labels, sums) in networks() {
            dropped(&mut drops, &labels, sums)?;
        }
        let help = "MACs that were learned in a switched network";
        let mut macs = family(encoder, "mvirt_net_macs", help, MetricType::Gauge)?;
        for network in &self.observed.networks {
            if let Some(count) = network.macs {
                gauge(&mut macs, &[("network", network.name.as_str())], count as u64)?;
            }
        }
        let help = "vNICs and ports that there are";
        let mut members = family(encoder, "mvirt_net_nics", help, MetricType::Gauge)?;
        gauge(&mut members, &NONE, self.observed.members.len() as u64)?;
        let help = "Frames that came from outside public networks, and went there";
        let mut frames = family(encoder, "mvirt_net_outside_frames", help, MetricType::Counter)?;
        for (direction, value) in ["in", "out"].into_iter().zip(self::frames(&self.outside)) {
            count(&mut frames, &[("direction", direction)], value)?;
        }
        Ok(())
    }

    fn encode_reactors(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let reactors = || {
            let numbers = self.observed.reactors.iter().enumerate();
            numbers.map(|(number, totals)| ([("reactor", number as u64)], totals))
        };
        let seconds = |ns: u64| ns as f64 / 1e9;
        let help = "Time in turns of a reactor that carried frames";
        let name = "mvirt_net_reactor_busy_seconds";
        let mut busy = family(encoder, name, help, MetricType::Counter)?;
        for (labels, totals) in reactors() {
            count(&mut busy, &labels, seconds(totals.busy_ns))?;
        }
        let help = "Time in turns of a reactor that found nothing";
        let name = "mvirt_net_reactor_polling_seconds";
        let mut polling = family(encoder, name, help, MetricType::Counter)?;
        for (labels, totals) in reactors() {
            count(&mut polling, &labels, seconds(totals.polling_ns))?;
        }
        let help = "Frames that a reactor took from guests and from other reactors";
        let mut frames = family(encoder, "mvirt_net_reactor_frames", help, MetricType::Counter)?;
        for (labels, totals) in reactors() {
            count(&mut frames, &labels, totals.frames)?;
        }
        let help = "Turns of a reactor that carried frames";
        let mut turns = family(encoder, "mvirt_net_reactor_turns", help, MetricType::Counter)?;
        for (labels, totals) in reactors() {
            count(&mut turns, &labels, totals.turns)?;
        }
        let help = "How often a reactor slept";
        let mut sleeps = family(encoder, "mvirt_net_reactor_sleeps", help, MetricType::Counter)?;
        for (labels, totals) in reactors() {
            count(&mut sleeps, &labels, totals.sleeps)?;
        }
        let help = "vNICs and ports that are placed on a reactor";
        let mut nics = family(encoder, "mvirt_net_reactor_nics", help, MetricType::Gauge)?;
        for (labels, totals) in reactors() {
            gauge(&mut nics, &labels, totals.nics as u64)?;
        }
        Ok(())
    }

    fn encode_process(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let help = "The program";
        let mut build = family(encoder, "mvirt_net_build", help, MetricType::Info)?;
        let version = env!("CARGO_PKG_VERSION");
        build.encode_info(&[("version", version), ("revision", REVISION)])?;
        let help = "Time on CPUs";
        let name = "process_cpu_seconds";
        let process = &self.process;
        count(&mut family(encoder, name, help, MetricType::Counter)?, &NONE, process.cpu_seconds)?;
        for (name, help, value) in [
            ("process_start_time_seconds", "When it started", process.start_seconds),
            ("process_resident_memory_bytes", "Memory", process.resident_octets as f64),
            ("process_virtual_memory_bytes", "Address space", process.virtual_octets as f64),
            ("process_threads", "Threads", process.threads as f64),
            ("process_open_fds", "Open files", process.open_files as f64),
            ("process_max_fds", "Files that may be open", process.most_files as f64),
        ] {
            gauge(&mut family(encoder, name, help, MetricType::Gauge)?, &NONE, value)?;
        }
        Ok(())
    }
}

/// No labels.
const NONE: [(&str, &str); 0] = [];

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        self.encode_process(&mut encoder)?;
        self.encode_reactors(&mut encoder)?;
        self.encode_networks(&mut encoder)?;
        self.encode_members(&mut encoder)
    }
}

fn family<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
    kind: MetricType,
) -> Result<MetricEncoder<'a>, Error> {
    // As the library does it of what is registered.
    encoder.encode_descriptor(name, &format!("{help}."), None, kind)
}

fn count(
    family: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    value: impl prometheus_client::encoding::EncodeCounterValue,
) -> Result<(), Error> {
    family.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn gauge(
    family: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    value: impl prometheus_client::encoding::EncodeGaugeValue,
) -> Result<(), Error> {
    family.encode_family(labels)?.encode_gauge(&value)
}

fn both_ways<const N: usize>(
    family: &mut MetricEncoder<'_>,
    labels: &[(&'static str, &str); N],
    counts: [u64; 2],
) -> Result<(), Error> {
    for (direction, value) in DIRECTIONS.into_iter().zip(counts) {
        count(family, &(&labels[..], [("direction", direction)]), value)?;
    }
    Ok(())
}

/// Tells only reasons that occurred.
fn dropped<const N: usize>(
    family: &mut MetricEncoder<'_>,
    labels: &[(&'static str, &str); N],
    sums: &PortCounters,
) -> Result<(), Error> {
    for (reason, frames) in sums.drops() {
        count(family, &(&labels[..], [("reason", reason.name())]), frames)?;
    }
    Ok(())
}
