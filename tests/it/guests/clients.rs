//! The DHCP clients of Debian 12, each in a guest of its own (guests/client): what they make of
//! what they are told. The table in docs/guests.md is what this finds; a dissector that is not ours
//! judges every frame of the gateway.

use crate::{
    daemon::Daemon,
    machine::{Machine, artefact},
};
use mvirt_net::proto::Nic;
use std::{fmt::Write as _, fs, path::Path, thread};

/// What a guest is to be told, in the network of [`network`].
const EXPECTED: [(&str, &[&str]); 9] = [
    ("IPv4 address", &["address4 10.0.0.$/32"]),
    ("IPv4 route", &["default4 default via 169.254.0.1 dev eth0"]),
    ("IPv6 address", &["address6 fd00::$/128"]),
    ("IPv6 route", &["default6 default via fe80::1 dev eth0"]),
    ("DNS", &["dns 1.1.1.1", "dns fd00::53", "dns 1.1.1.1 fd00::53"]),
    ("search", &["search prod.internal"]),
    ("NTP", &["ntp 10.0.0.9", "ntp fd00::9"]),
    ("MTU", &["mtu 1400", "link mtu 1400", "ra mtu 1400"]),
    ("hostname", &["hostname $name"]),
];

/// A DHCP client, as guests/client and the table name it.
struct Client {
    name: &'static str,
    title: &'static str,
}

const CLIENTS: [Client; 7] = [
    Client { name: "udhcpc", title: "busybox udhcpc" },
    Client { name: "dhclient4", title: "ISC dhclient -4" },
    Client { name: "dhclient6", title: "ISC dhclient -6" },
    Client { name: "dhcpcd", title: "dhcpcd" },
    Client { name: "networkd", title: "systemd-networkd" },
    Client { name: "wide", title: "WIDE dhcp6c" },
    Client { name: "dibbler", title: "dibbler-client" },
];

/// The network that guests of this test and of the golden captures are in.
pub(crate) fn network(daemon: &mut Daemon) {
    daemon.network_with("prod", |r| {
        r.ipv6_prefix = "fd00::/56".into();
        r.dns_servers = vec!["1.1.1.1".into(), "fd00::53".into()];
        r.ntp_servers = vec!["10.0.0.9".into(), "fd00::9".into()];
        r.domain = "prod.internal".into();
        r.mtu = 1400;
    });
}

/// The vNIC of a client: the number gives its addresses.
pub(crate) fn nic(daemon: &mut Daemon, name: &str) -> Nic {
    let number = CLIENTS.iter().position(|client| client.name == name).unwrap() + 1;
    daemon.nic_with("prod", name, |r| {
        r.mac_address = format!("52:54:00:00:00:{number:02x}");
        r.ipv4_address = format!("10.0.0.{number}");
        r.ipv6_address = format!("fd00::{number}");
        r.routed_ipv6_prefixes = vec![format!("fd00:0:0:{number}::/64")];
    })
}

/// The messages of DHCP in a capture, each as the fields that tell what step it is of.
struct Wire(Vec<Vec<String>>);

impl Wire {
    fn read(machine: &mut Machine, capture: &str) -> Self {
        let fields =
            ["dhcp.option.dhcp", "dhcp.ip.client", "dhcp.option.dhcp_server_id", "dhcpv6.msgtype"];
        let fields = fields.map(|field| format!("-e {field}")).join(" ");
        let text = machine.succeed(&format!(
            "tshark -r {capture} -Y '(dhcp or dhcpv6) and not icmpv6' -T fields -E separator=, \
             {fields} 2>/dev/null"
        ));
        let line = |line: &str| line.split(',').map(str::to_owned).collect();
        Self(text.lines().filter(|line| line.contains(',')).map(line).collect())
    }

    /// Whether a message of a kind, for which `is` holds, was answered by one of another.
    fn answered(
        &self,
        column: usize,
        (asked, told): (&str, &str),
        is: impl Fn(&[String]) -> bool,
    ) -> bool {
        let first = self.0.iter().position(|message| message[column] == asked && is(message));
        first.is_some_and(|at| self.0[at..].iter().any(|message| message[column] == told))
    }

    /// The cells of a row that tell which steps of a lease succeeded.
    fn steps(&self) -> [bool; 4] {
        let (v4, v6) = (0, 3);
        let has_address = |message: &[String]| message[1] != "0.0.0.0";
        let to_none = |message: &[String]| message[2].is_empty();
        let any = |_: &[String]| true;
        let sent = |column: usize, kind| self.0.iter().any(|message| message[column] == kind);
        [
            self.answered(v4, ("3", "5"), has_address) || self.answered(v6, ("5", "7"), any),
            self.answered(v6, ("6", "7"), any),
            self.answered(v4, ("3", "5"), |message| !has_address(message) && to_none(message))
                || self.answered(v6, ("4", "7"), any),
            sent(v4, "7") || self.answered(v6, ("8", "7"), any),
        ]
    }
}

const STEPS: [(&str, &str); 4] = [
    ("renew", "renew"),
    ("rebind", "rebind"),
    ("reboot", "same address after a reboot"),
    ("release", "release"),
];

/// Brings a guest up with one client, takes it through its lease, and gives its row of the table.
fn row(daemon: &Daemon, nic: &Nic, client: &Client, out: &Path) -> String {
    let mut machine = Machine::debian(daemon, nic, out);
    let capture = format!("/out/{}.pcapng", client.name);
    machine.succeed(&format!(
        "rm -f {capture} && ip link set eth0 up && {{ dumpcap -q -i eth0 -w {capture} >/dev/null \
         2>&1 & }} && until [ -s {capture} ]; do sleep 0.05; done"
    ));
    let drive = |machine: &mut Machine, action: &str| {
        let told = machine.run(&format!("client {} {action} 2>&1; sleep 2", client.name)).0;
        eprintln!("{} {action}:\n{told}", client.name);
        told
    };
    let told = drive(&mut machine, "up");
    let report = drive(&mut machine, "report");
    let number = nic.ipv4_address.rsplit('.').next().unwrap();
    let mut row = format!("| {} |", client.title);
    for (what, lines) in EXPECTED {
        let is = |line: &str| {
            let expected = line.replace("$name", client.name).replace('$', number);
            report.lines().any(|told| {
                told.trim_end_matches([' ', '.']).replace(". ", " ").starts_with(&expected)
            })
        };
        let mark = if lines.iter().any(|line| is(line)) { "✓" } else { "–" };
        write!(row, " {mark} |").unwrap();
        // What it does not ask for may be missing; what it has must be right.
        if what == "IPv4 address" || what == "IPv6 address" {
            let key = lines[0].split(' ').next().unwrap();
            let has = report.lines().any(|line| line.starts_with(key) && line.contains('/'));
            assert_eq!(has, mark == "✓", "{}: {what}:\n{told}{report}", client.name);
        }
    }
    for (action, _) in STEPS {
        drive(&mut machine, action);
    }
    machine.succeed("pkill dumpcap; until ! pgrep dumpcap >/dev/null; do sleep 0.05; done");
    let wire = Wire::read(&mut machine, &capture);
    for done in wire.steps() {
        write!(row, " {} |", if done { "✓" } else { "–" }).unwrap();
    }
    let bad = machine.run(&format!(
        "tshark -r {capture} -o ip.check_checksum:TRUE -o udp.check_checksum:TRUE -o \
         icmpv6.check_checksum:TRUE -Y 'eth.src == 02:00:00:00:00:01 and (_ws.malformed or \
         _ws.expert.severity == error)' 2>/dev/null"
    ));
    assert_eq!(bad.0.trim(), "", "{}: malformed frames from the gateway", client.name);
    row
}

#[test]
fn every_client_finds_its_network() {
    let mut daemon = Daemon::start();
    network(&mut daemon);
    let out = artefact("debian").parent().unwrap().join("captures");
    fs::create_dir_all(&out).unwrap();
    let nics = CLIENTS.each_ref().map(|client| nic(&mut daemon, client.name));
    let daemon = &daemon;
    let rows = thread::scope(|scope| {
        let (nics, out) = (&nics, &out);
        let running = CLIENTS.each_ref().map(|client| {
            let nic = nics.iter().find(|nic| nic.name == client.name).unwrap();
            scope.spawn(move || row(daemon, nic, client, out))
        });
        running.map(|row| row.join().unwrap())
    });
    let columns = EXPECTED.iter().map(|(title, _)| *title).chain(STEPS.map(|(_, title)| title));
    let header = columns.map(|title| format!(" {title} |")).collect::<String>();
    let rule = "---|".repeat(1 + EXPECTED.len() + STEPS.len());
    let table = format!("| client |{header}\n|{rule}\n{}\n", rows.join("\n"));
    fs::write(out.join("table.md"), &table).unwrap();
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guests.md")).unwrap();
    assert!(page.contains(&table), "docs/guests.md does not say what was found:\n{table}");
}
