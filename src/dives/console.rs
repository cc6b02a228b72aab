//! The console's grammar: lines in, commands out, and answers as text.
//!
//! Each answer is lines of output, and last one of `OK` and the focus: `OK` at the switch,
//! `OKvlan5` in VLAN 5. A line that is no command here is answered `Bad command`; a command that
//! cannot be carried out, `ERR` and why.

use super::mesh::Totals;
use std::{fmt::Write as _, net::SocketAddr, time::Duration};

/// Octets of a line at most.
// A command has a name of 255 octets at most, or a path (PATH_MAX, 4096), and some words.
const LONGEST: usize = 8192;
/// What is said to a line that is no command.
pub const BAD_COMMAND: &str = "Bad command";

const SWITCH_HELP: &str = "\
show peers                list the switches that were discovered
show totals               what was sent to peers, received and dropped
show vlans                list VLANs
vlan ID                   enter a VLAN, 0-4294967295; it is made if need be
save FILE                 write commands that make all this anew, for -c
help                      this
exit                      leave a VLAN
";
const VLAN_HELP: &str = "\
show macs                 list MACs, where they were seen, and how long ago
show taps                 list TAP devices and connections of QEMU
show listeners            list where QEMU may connect
tap DEVNAME               attach a TAP device, made if need be
no tap DEVNAME            detach it
listen HOSTNAME PORT      listen for QEMU's -netdev socket,connect=HOSTNAME:PORT
no listen HOSTNAME PORT   stop that, and close its connections
help                      this
exit                      back to the switch
";

/// What a line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The peers.
    ShowPeers,
    /// What was carried.
    ShowTotals,
    /// The VLANs.
    ShowVlans,
    /// To enter a VLAN.
    Vlan(u32),
    /// To write what makes the state anew to a file.
    Save(String),
    /// The commands that there are.
    Help,
    /// To leave a VLAN; nothing at the switch.
    Exit,
    /// Something of a VLAN.
    InVlan(u32, VlanCommand),
}

/// What a line asks of a VLAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VlanCommand {
    /// The MACs.
    ShowMacs,
    /// The TAP devices and connections.
    ShowTaps,
    /// Where connections are taken.
    ShowListeners,
    /// To attach a TAP device.
    Tap(String),
    /// To detach it.
    NoTap(String),
    /// To take connections.
    Listen(String, u16),
    /// To take no more.
    NoListen(String, u16),
}

/// Why a line is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such command here.
    #[error("{BAD_COMMAND}")]
    Bad,
    /// A value is out of range.
    #[error("ERR {0}")]
    Value(String),
}

/// Understands a line, in the focus of a VLAN or of the switch.
pub fn parse(focus: Option<u32>, line: &str) -> Result<Command, Refused> {
    let words: Vec<&str> = line.split_whitespace().collect();
    if let ["exit"] = words[..] {
        return Ok(Command::Exit);
    }
    if let ["help"] = words[..] {
        return Ok(Command::Help);
    }
    match focus {
        None => switch_command(&words),
        Some(vlan) => vlan_command(&words).map(|command| Command::InVlan(vlan, command)),
    }
}

fn switch_command(words: &[&str]) -> Result<Command, Refused> {
    match *words {
        ["show", "peers"] => Ok(Command::ShowPeers),
        ["show", "totals"] => Ok(Command::ShowTotals),
        ["show", "vlans"] => Ok(Command::ShowVlans),
        ["vlan", id] => number(id).map(Command::Vlan).ok_or_else(|| {
            Refused::Value(format!("vlan {id}: expected a number from 0 to 4294967295"))
        }),
        ["save", file] => Ok(Command::Save(file.into())),
        _ => Err(Refused::Bad),
    }
}

fn vlan_command(words: &[&str]) -> Result<VlanCommand, Refused> {
    let port = |text: &str| match number(text) {
        Some(0) | None => {
            Err(Refused::Value(format!("port {text}: expected a number from 1 to 65535")))
        }
        Some(port) => Ok(port),
    };
    match *words {
        ["show", "macs"] => Ok(VlanCommand::ShowMacs),
        ["show", "taps"] => Ok(VlanCommand::ShowTaps),
        ["show", "listeners"] => Ok(VlanCommand::ShowListeners),
        ["tap", device] => Ok(VlanCommand::Tap(device.into())),
        ["no", "tap", device] => Ok(VlanCommand::NoTap(device.into())),
        ["listen", host, at] => Ok(VlanCommand::Listen(host.into(), port(at)?)),
        ["no", "listen", host, at] => Ok(VlanCommand::NoListen(host.into(), port(at)?)),
        _ => Err(Refused::Bad),
    }
}

/// Digits only: `parse` alone would take "+5".
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|octet| octet.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Returns the focus as prompts and answers have it.
pub fn path(focus: Option<u32>) -> String {
    focus.map_or_else(String::new, vlan_name)
}

/// Returns the name of a VLAN.
pub fn vlan_name(id: u32) -> String {
    format!("vlan{id}")
}

/// Returns the commands that there are.
pub fn help(focus: Option<u32>) -> &'static str {
    if focus.is_some() { VLAN_HELP } else { SWITCH_HELP }
}

/// Returns what `show peers` shows.
pub fn peers(peers: impl IntoIterator<Item = (SocketAddr, Duration)>) -> String {
    let mut text = format!("{:<16} {:>5} age\n", "host", "port");
    for (peer, age) in peers {
        // A String takes everything.
        let (host, port) = (peer.ip().to_string(), peer.port());
        writeln!(text, "{host:<16} {port:>5} {}", age.as_secs()).ok();
    }
    text
}

/// Returns what `show totals` shows.
pub fn totals(totals: Totals) -> String {
    let Totals { received, sent, unknown_peer, unknown_vlan, too_short, peer_table_full, lost } =
        totals;
    [
        ("received", received),
        ("sent", sent),
        ("unknown_peer", unknown_peer),
        ("unknown_vlan", unknown_vlan),
        ("too_short", too_short),
        ("peer_table_full", peer_table_full),
        ("lost", lost),
    ]
    .map(|(name, count)| format!("{name} {count}\n"))
    .concat()
}

/// Returns a line of `show macs`.
pub fn mac(mac: &str, port: &str, age_seconds: u64) -> String {
    format!("{mac}  {port:<10}  {age_seconds}s\n")
}

/// Cuts what comes into lines.
#[derive(Debug, Default)]
pub struct Lines {
    /// The beginning of a line.
    rest: Vec<u8>,
    /// What is longer than a line may be is passed over up to its end.
    is_too_long: bool,
}

impl Lines {
    /// Takes octets. Returns the lines that have ended, `None` for each that is too long.
    pub fn take(&mut self, octets: &[u8]) -> Vec<Option<String>> {
        let mut lines = Vec::new();
        for piece in octets.split_inclusive(|octet| *octet == b'\n') {
            let (text, is_end) = match piece {
                [text @ .., b'\n'] => (text, true),
                text => (text, false),
            };
            self.is_too_long |= self.rest.len() + text.len() > LONGEST;
            if self.is_too_long {
                self.rest.clear();
            } else {
                self.rest.extend_from_slice(text);
            }
            if is_end {
                lines.push(self.end());
            }
        }
        lines
    }

    /// Returns the line that has begun, which ends without its last octet.
    pub fn last(&mut self) -> Option<Option<String>> {
        (self.is_too_long || !self.rest.is_empty()).then(|| self.end())
    }

    fn end(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.rest);
        if std::mem::take(&mut self.is_too_long) {
            return None;
        }
        // What is no text is no command either.
        Some(String::from_utf8_lossy(&line).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // seed H.3.28
    #[test]
    fn blanks_count_as_one_and_commands_are_of_their_place() {
        assert_eq!(parse(None, "  show \t peers\r"), Ok(Command::ShowPeers));
        assert_eq!(parse(None, "show totals"), Ok(Command::ShowTotals));
        assert_eq!(parse(None, "show vlans"), Ok(Command::ShowVlans));
        assert_eq!(parse(None, "save /tmp/x"), Ok(Command::Save("/tmp/x".into())));
        for focus in [None, Some(7)] {
            assert_eq!(parse(focus, "exit"), Ok(Command::Exit));
            assert_eq!(parse(focus, "help"), Ok(Command::Help));
            for bad in ["", " ", "show", "show peers now", "SHOW PEERS", "exit now", "\u{0}"] {
                assert_eq!(parse(focus, bad), Err(Refused::Bad), "{bad:?}");
            }
        }
        let in_vlan = |line: &str| parse(Some(7), line);
        let is = |command| Ok(Command::InVlan(7, command));
        assert_eq!(in_vlan("show macs"), is(VlanCommand::ShowMacs));
        assert_eq!(in_vlan("show taps"), is(VlanCommand::ShowTaps));
        assert_eq!(in_vlan("show listeners"), is(VlanCommand::ShowListeners));
        assert_eq!(in_vlan("tap t0"), is(VlanCommand::Tap("t0".into())));
        assert_eq!(in_vlan("no tap t0"), is(VlanCommand::NoTap("t0".into())));
        let at = || ("localhost".to_owned(), 4001);
        assert_eq!(in_vlan("listen localhost 4001"), is(VlanCommand::Listen(at().0, at().1)));
        assert_eq!(in_vlan("no listen localhost 4001"), is(VlanCommand::NoListen(at().0, at().1)));
        // Neither knows the other's.
        assert_eq!(in_vlan("show peers"), Err(Refused::Bad));
        assert_eq!(parse(None, "tap t0"), Err(Refused::Bad));
    }

    // seed H.3.13
    #[test]
    fn a_vlan_is_any_number_of_32_bits() {
        for (id, vlan) in [("0", 0), ("5", 5), ("4294967295", u32::MAX)] {
            assert_eq!(parse(None, &format!("vlan {id}")), Ok(Command::Vlan(vlan)));
        }
        for id in ["-1", "4294967296", "five", "+5", "99999999999999999999"] {
            let refused = parse(None, &format!("vlan {id}")).unwrap_err().to_string();
            let expected = format!("ERR vlan {id}: expected a number from 0 to 4294967295");
            assert_eq!(refused, expected);
        }
        for at in ["0", "65536", "x"] {
            let refused = parse(Some(1), &format!("listen h {at}")).unwrap_err().to_string();
            assert_eq!(refused, format!("ERR port {at}: expected a number from 1 to 65535"));
        }
    }

    // seed H.3.12, H.3.14
    #[test]
    fn tables_have_their_columns() {
        let list = [("10.0.0.2:3333", 0), ("10.100.200.201:53", 4)];
        let list =
            list.map(|(peer, age)| (peer.parse().unwrap(), Duration::from_millis(age * 1100)));
        let expected = "host              port age\n\
                        10.0.0.2          3333 0\n\
                        10.100.200.201      53 4\n";
        assert_eq!(peers(list), expected);
        assert_eq!(mac("52:54:00:00:00:01", "t0", 3), "52:54:00:00:00:01  t0          3s\n");
        assert_eq!((path(None), path(Some(5))), (String::new(), "vlan5".into()));
    }

    #[test]
    fn lines_are_found_however_they_come() {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for octet in b"show peers\n\nvlan 5\n" {
            found.extend(lines.take(&[*octet]));
        }
        assert_eq!(found, ["show peers", "", "vlan 5"].map(|line| Some(line.to_owned())));
        assert_eq!(lines.take(b"a\nb\nc"), [Some("a".into()), Some("b".into())]);
        assert_eq!(lines.last(), Some(Some("c".into())));
        assert_eq!(lines.last(), None);
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut lines = Lines::default();
        for _ in 0..256 {
            assert!(lines.take(&[b'x'; 4096]).is_empty());
            assert!(lines.rest.capacity() <= 2 * LONGEST);
        }
        assert_eq!(lines.take(b"x\nexit\n"), [None, Some("exit".into())]);
        assert_eq!(lines.take(b"\xff\n"), [Some("\u{fffd}".into())]);
    }
}
