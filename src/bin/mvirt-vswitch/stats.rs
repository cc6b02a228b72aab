//! What the VLANs carry, as text: JSON, Prometheus' exposition format, and lines for people.

use serde::Serialize;
use std::fmt::Write as _;

/// All VLANs, in the order of `-ports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Stats {
    pub(crate) vlans: Vec<VlanStats>,
}

/// One VLAN.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct VlanStats {
    /// From 1 on.
    pub(crate) vlan: usize,
    /// Where it is joined.
    pub(crate) port: String,
    pub(crate) clients: Vec<Client>,
    pub(crate) macs: Vec<Mac>,
    pub(crate) frames: Frames,
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Client {
    pub(crate) remote: String,
    /// As RFC 3339 has it.
    pub(crate) since: String,
}

/// A learned MAC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Mac {
    pub(crate) mac: String,
    /// The remote of the connection that it is behind.
    pub(crate) client: String,
    pub(crate) age_seconds: u32,
}

/// What clients have sent and got, those that are gone among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Frames {
    pub(crate) received: u64,
    /// Of those, sent on: to one client or to all others.
    pub(crate) forwarded: u64,
    pub(crate) dropped: u64,
    /// Copies that clients got.
    pub(crate) sent: u64,
}

impl Stats {
    /// One line a VLAN.
    pub(crate) fn lines(&self) -> String {
        let mut text = String::new();
        for VlanStats { vlan, port, clients, macs, frames } in &self.vlans {
            let (clients, macs) = (clients.len(), macs.len());
            let Frames { received, forwarded, dropped, sent } = frames;
            // A String takes everything.
            writeln!(
                text,
                "VLAN {vlan}  port {port}  clients {clients}  MACs {macs}  frames received \
                 {received}, forwarded {forwarded}, dropped {dropped}, sent {sent}"
            )
            .ok();
        }
        text
    }

    /// For Prometheus.
    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        type Value = fn(&VlanStats) -> u64;
        let metrics: [(&str, &str, &str, Value); 6] = [
            ("clients", "gauge", "Connections.", |vlan| vlan.clients.len() as u64),
            ("macs", "gauge", "Learned MACs.", |vlan| vlan.macs.len() as u64),
            ("received_frames_total", "counter", "Frames that clients sent.", |vlan| {
                vlan.frames.received
            }),
            ("forwarded_frames_total", "counter", "Of those, sent on.", |vlan| {
                vlan.frames.forwarded
            }),
            ("dropped_frames_total", "counter", "Of those, dropped.", |vlan| vlan.frames.dropped),
            ("sent_frames_total", "counter", "Frames that clients got.", |vlan| vlan.frames.sent),
        ];
        for (name, kind, help, value) in metrics {
            write!(text, "# HELP vswitch_{name} {help}\n# TYPE vswitch_{name} {kind}\n").ok();
            for stats in &self.vlans {
                let (vlan, port, value) = (stats.vlan, &stats.port, value(stats));
                // No address has a quote or a backslash, which would need escapes.
                writeln!(text, "vswitch_{name}{{vlan=\"{vlan}\",port=\"{port}\"}} {value}").ok();
            }
        }
        text
    }

    /// What the log is told each minute.
    pub(crate) fn totals(&self) -> (usize, usize, usize, Frames) {
        let mut totals = (self.vlans.len(), 0, 0, Frames::default());
        for vlan in &self.vlans {
            totals.1 += vlan.clients.len();
            totals.2 += vlan.macs.len();
            totals.3.received += vlan.frames.received;
            totals.3.forwarded += vlan.frames.forwarded;
            totals.3.dropped += vlan.frames.dropped;
            totals.3.sent += vlan.frames.sent;
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats() -> Stats {
        let client = Client { remote: "127.0.0.1:5".into(), since: "2026-01-01T00:00:00Z".into() };
        let (mac, remote) = ("52:54:00:00:00:01".into(), client.remote.clone());
        let mac = Mac { mac, client: remote, age_seconds: 3 };
        let frames = Frames { received: 9, forwarded: 7, dropped: 2, sent: 8 };
        let first = VlanStats {
            vlan: 1,
            port: ":9999".into(),
            clients: vec![client],
            macs: vec![mac],
            frames,
        };
        let second = VlanStats { vlan: 2, port: "[::1]:9998".into(), ..Default::default() };
        Stats { vlans: vec![first, second] }
    }

    #[test]
    fn each_vlan_has_a_line() {
        let expected = "\
            VLAN 1  port :9999  clients 1  MACs 1  frames received 9, forwarded 7, dropped 2, \
            sent 8\n\
            VLAN 2  port [::1]:9998  clients 0  MACs 0  frames received 0, forwarded 0, dropped \
            0, sent 0\n";
        assert_eq!(stats().lines(), expected);
    }

    #[test]
    fn prometheus_finds_type_labels_and_value() {
        let text = stats().metrics();
        assert!(text.starts_with(
            "# HELP vswitch_clients Connections.\n# TYPE vswitch_clients gauge\n\
             vswitch_clients{vlan=\"1\",port=\":9999\"} 1\n\
             vswitch_clients{vlan=\"2\",port=\"[::1]:9998\"} 0\n# HELP vswitch_macs"
        ));
        assert!(text.ends_with("vswitch_sent_frames_total{vlan=\"2\",port=\"[::1]:9998\"} 0\n"));
    }
}
