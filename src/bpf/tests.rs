//! Filters against frames whose octets are written here.

use super::*;
use proptest::prelude::*;

fn octets(hex: &str) -> Vec<u8> {
    let hex = hex.replace(' ', "");
    let octet = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(octet).collect()
}

const IPV4: &str = "4500 0020 0000 4000 40 11 0000 0a000001 0a000002";
const UDP: &str = "3039 1b5f 000c 0000 00000000";

fn frame(rest: &str) -> Vec<u8> {
    octets(&format!("025359000002 025359000001 {rest}"))
}

fn frames() -> [Vec<u8>; 7] {
    let udp = frame(&format!("0800 {IPV4} {UDP}"));
    let tagged = frame(&format!("8100 0007 0800 {IPV4} {UDP}"));
    let tcp = frame(&format!("0800 {} {UDP} 5012 0000", IPV4.replace("40 11", "40 06")));
    let later = frame(&format!("0800 {} {UDP}", IPV4.replace("4000 40", "0001 40")));
    let udp6 = format!("86dd 60000000 000c 11 40 fd00{0}1 fd00{0}2 {UDP}", "0".repeat(27));
    let udp6 = frame(&udp6);
    let arp = octets(
        "ffffffffffff 025359000001 0806 0001 0800 06 04 0001 025359000001 0a000001 \
         000000000000 0a000002",
    );
    let mut other = frame("beef");
    other.resize(60, 0);
    [udp, tagged, tcp, later, udp6, arp, other]
}

#[test]
fn what_is_meant_is_found_and_nothing_else() {
    for (text, meant) in [
        ("", "1111111"),
        ("ip", "1.11..."),
        ("ip6", "....1.."),
        ("arp", ".....1."),
        ("ether proto 0xbeef", "......1"),
        ("ether proto \\arp", ".....1."),
        ("udp", "1..11.."),
        ("tcp", "..1...."),
        ("icmp or icmp6", "......."),
        ("ip proto 17", "1..1..."),
        ("ip6 proto \\udp", "....1.."),
        ("port 7007", "1.1.1.."),
        ("udp port 7007", "1...1.."),
        ("tcp dst port 7007", "..1...."),
        ("src port 7007", "......."),
        ("src or dst port 7007", "1.1.1.."),
        ("src and dst port 7007", "......."),
        ("udp src port 12345 or 80", "1...1.."),
        ("portrange 7000-7010", "1.1.1.."),
        ("dst portrange 1-7006", "......."),
        ("host 10.0.0.2", "1.11.1."),
        ("src host 10.0.0.2", "......."),
        ("dst 10.0.0.2 and not udp", "..1..1."),
        ("10.0.0.1", "1.11.1."),
        ("host (10.0.0.9 or 10.0.0.1)", "1.11.1."),
        ("arp host 10.0.0.1", ".....1."),
        ("host fd00::1", "....1.."),
        ("net 10", "1.11.1."),
        ("net 10.0.0.0/30", "1.11.1."),
        ("net 10.0.0.0 mask 255.255.255.0", "1.11.1."),
        ("dst net fd00::/64", "....1.."),
        ("src net 10.1.0.0/16", "......."),
        ("ether src 02:53:59:00:00:01", "1111111"),
        ("ether dst 02:53:59:00:00:02", "11111.1"),
        ("ether host 02:53:59:00:00:02", "11111.1"),
        ("broadcast", ".....1."),
        ("ether multicast", ".....1."),
        ("ip multicast or ip6 multicast", "......."),
        ("vlan", ".1....."),
        ("vlan 7 and udp port 7007", ".1....."),
        // Behind `vlan`, all is behind a tag.
        ("vlan 7 or udp", ".1....."),
        ("udp or vlan 7", "11.11.."),
        ("vlan 8", "......."),
        ("greater 58", "....1.1"),
        ("less 46", "1..1.1."),
        ("len = 42", ".....1."),
        ("ip[8] = 64", "1.11..."),
        ("ip[2:2] - 20 < 13", "1.11..."),
        ("tcp[tcpflags] & (tcp-syn|tcp-ack) != 0", "..1...."),
        ("(tcp[13] & 2) = 2", "..1...."),
        ("ether[0] & 1 != 0", ".....1."),
        ("udp[2:2] = 7007", "1......"),
        ("ether[2 * 6 : 2] = 0x0806", ".....1."),
        ("ip[(ip[0] & 0) + 9] == 17", "1..1..."),
        ("not (tcp or arp) and ip", "1..1..."),
        ("arp or udp and ip", "1..1..."),
        ("! ip && !arp || tcp", ".11.1.1"),
    ] {
        let program: Program = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        let all = frames();
        let found = all.iter().map(|it| if program.matches(it, it.len()) { '1' } else { '.' });
        assert_eq!(found.collect::<String>(), meant, "{text}");
    }
}

#[test]
fn what_is_no_filter_is_refused_with_its_place() {
    for (text, said) in [
        ("udp and", "column 8: expected a primitive like"),
        ("udp port", "column 9: expected a port"),
        ("udp port 70000", "column 10: expected a port"),
        ("udp tcp", "column 5: expected and, or"),
        ("(udp", "column 5: expected )"),
        ("udp)", "column 4: expected and, or"),
        ("host 10.0.0", "column 6: expected an address"),
        ("host vm1", "column 6: expected an address"),
        ("net 10.0.0.1/8", "column 5: expected a network"),
        ("net 10.0.0.0/33", "column 5: expected a network"),
        ("ether host 02:00", "column 12: expected a MAC"),
        ("ether proto 5", "column 13: expected an EtherType"),
        ("src port", "column 9: expected a port"),
        ("icmp port 7", "column 11: expected a port"),
        ("vlan 4096", "column 6: expected a VLAN"),
        ("less x", "column 6: expected a number"),
        ("ip[0", "column 5: expected ]"),
        ("ip[0]", "column 6: expected a comparison"),
        ("ip[0] =", "column 8: expected a number"),
        ("ip[0:3] = 1", "column 6: expected 1, 2 or 4"),
        ("ip[0] / 0 = 1", "column 9: expected a number that can be divided"),
        ("ip[0] << 32 = 1", "column 10: expected a number that can be divided"),
        ("ip broadcast", "column 1: expected ether broadcast"),
        ("gateway gw", "column 1: expected a primitive"),
        ("udp \u{1b}[31m", "column 5: expected a word"),
    ] {
        let refused = text.parse::<Program>().unwrap_err().to_string();
        assert!(refused.starts_with(said), "{text}: {refused}");
    }
    for deep in [
        "(".repeat(4096),
        "not ".repeat(1024),
        "-(".repeat(500),
        "port ".to_owned() + &"(".repeat(600),
    ] {
        let refused = deep.parse::<Program>().unwrap_err().to_string();
        assert!(refused.contains("fewer parentheses"), "{refused}");
    }
    let long = "ip or ".repeat(600) + "ip";
    assert!(long.parse::<Program>().unwrap_err().to_string().contains("shorter"));
    assert!(" ".repeat(4097).parse::<Program>().is_err());
    let sums = "len".to_owned() + &"+(1".repeat(10) + &")".repeat(10) + " = 1";
    assert!(sums.parse::<Program>().is_ok());
    // More words of memory than there are.
    let sums = "(len+".repeat(20) + "len" + &")".repeat(20) + " = 1";
    assert!(sums.parse::<Program>().unwrap_err().to_string().contains("smaller terms"));
}

#[test]
fn a_long_filter_jumps_as_far_as_it_must() {
    let hosts = (0..300).map(|host| format!("{}.{}.0.1", host / 256, host % 256));
    let text = hosts.collect::<Vec<_>>().join(" or ");
    let text = text.replacen("0.0.0.1", "ip src 0.0.0.1", 1);
    assert!(text.len() <= 4096);
    let program = text.parse::<Program>().unwrap();
    assert!(program.instructions().count() > 1000);
    for (source, matches) in
        [("00000001", true), ("00400001", true), ("00400002", false), ("012b0001", true)]
    {
        let mut frame = frames()[0].clone();
        frame[26..30].copy_from_slice(&octets(source));
        // Where it should: 256 hosts of each first octet.
        let is = program.matches(&frame, frame.len());
        assert_eq!(is, matches, "{source}");
    }
}

proptest! {
    #[test]
    fn whatever_is_typed_is_a_program_or_refused(
        words in proptest::collection::vec(
            prop_oneof![
                Just("("), Just(")"), Just("not"), Just("and"), Just("or"), Just("tcp"),
                Just("ip"), Just("port"), Just("host"), Just("10.0.0.1"), Just("80"),
                Just("["), Just("]"), Just("+"), Just("="), Just("vlan"), Just("net"),
                Just("/"), Just("8"), Just("src"), Just("len"), Just("-"), Just(":"),
                Just("\\"), Just("é"),
            ],
            0..16,
        ),
        octets in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        for joint in ["", " "] {
            if let Ok(program) = words.join(joint).parse::<Program>() {
                program.matches(&octets, octets.len());
            }
        }
    }
}
