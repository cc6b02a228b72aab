//! Filters mean what they mean to tcpdump.

use crate::{daemon::cannot_run, random::Random};
use mvirt_net::bpf::{Instruction, Program};
use std::{
    io::Write as _,
    process::{Command, Stdio},
};

/// The header of a file of Ethernet frames, without one.
const EMPTY: [u8; 24] =
    [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];

/// Primitives, of which all are tried, and pairs of them.
const PRIMITIVES: &[&str] = &[
    "ip",
    "ip6",
    "arp",
    "rarp",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "igmp",
    "sctp",
    "esp",
    "ah",
    "pim",
    "ether proto 0x0806",
    "ether proto \\ip6",
    "ip proto 17",
    "ip proto \\tcp",
    "ip6 proto 58",
    "proto 6",
    "ip6 proto \\udp",
    "proto \\icmp",
    "host 10.0.0.1",
    "src host 10.0.0.1",
    "dst host 10.0.0.2",
    "src or dst host 10.0.0.3",
    "src and dst host 10.0.0.1",
    "ip host 10.0.0.2",
    "arp host 10.0.0.1",
    "rarp host 10.0.0.1",
    "src 10.0.0.2",
    "dst 10.0.0.1",
    "host fd00::1",
    "src host fd00::2",
    "dst fd00::1",
    "ip6 host fd00::3",
    "src and dst host fd00::1",
    "net 10",
    "net 10.0",
    "net 10.0.0.0/24",
    "src net 10.0.0.0/30",
    "dst net 192.168.0.0/16",
    "net 10.0.0.0 mask 255.255.255.252",
    "net fd00::/64",
    "src net fd00::/126",
    "ip6 net ::/0",
    "dst net fe80::/10",
    "net 0.0.0.0/0",
    "port 53",
    "src port 53",
    "dst port 80",
    "tcp port 80",
    "udp port 53",
    "tcp dst port 443",
    "udp src port 67",
    "sctp port 80",
    "src and dst port 53",
    "src or dst port 80",
    "port domain",
    "portrange 50-60",
    "tcp portrange 80-443",
    "udp src portrange 60-50",
    "src and dst portrange 1-100",
    "port 80 or 443",
    "port (53 or 80)",
    "host 10.0.0.1 or 10.0.0.2",
    "ether host 02:00:00:00:00:01",
    "ether src 02:00:00:00:00:02",
    "ether dst 02:00:00:00:00:01",
    "ether broadcast",
    "broadcast",
    "ether multicast",
    "multicast",
    "ip multicast",
    "ip6 multicast",
    "greater 100",
    "less 100",
    "len > 90",
    "len - 14 <= 100",
    "vlan",
    "vlan 7",
    "vlan 0",
    "ip[0] & 0xf != 5",
    "ip[6:2] & 0x1fff = 0",
    "ip[8] < 64",
    "ip6[7] >= 64",
    "arp[6:2] = 1",
    "tcp[tcpflags] & tcp-syn != 0",
    "tcp[13] = 0x12",
    "tcp[0:2] > 1024",
    "udp[4:2] < 100",
    "icmp[icmptype] = icmp-echo",
    "icmp[0] == 0",
    "icmp6[0] = 128",
    "icmp6[icmp6type] >= 133",
    "ether[0] & 1 = 1",
    "ether[12:2] = 0x800",
    "ip[2:2] - 20 > 40",
    "ip[16:4] = 0x0a000001",
    "ether[14 + 2 * 3] & 0x40 != 0",
    "(ip[0] & 0xf) << 2 = 20",
    "ip[9] + 1 = 18",
    "tcp[tcp[12] >> 2] = 71",
    "udp[2:2] & 1 = 1 and udp[0:2] % 2 = 1",
    "ip[8] * 2 = 128",
    "ip[8] / 16 = 4",
    "ip[1] | 4 = 4",
    "tcp[13] & (tcp-syn|tcp-fin) != 0",
    "ether[20] > ether[21]",
    "ip[ip[8] & 15] = 69",
];

/// Those whose place in a filter matters, and others.
const LONGER: &[&str] = &[
    "vlan and ip",
    "vlan 7 and udp port 53",
    "vlan and vlan",
    "vlan 7 and vlan 9 and ip",
    "ip and vlan",
    "ip or vlan 7 and tcp",
    "vlan or udp",
    "udp or vlan and udp",
    "vlan and host 10.0.0.1",
    "vlan and ip6 and port 80",
    "vlan and tcp[13] & 2 != 0",
    "vlan and ether proto 0x0806",
    "not vlan and ip",
    "vlan 7 and icmp6[0] = 128",
    "vlan and ether host 02:00:00:00:00:01",
    "vlan and ether[0] & 1 = 0",
    "not (tcp or udp) and ip",
    "not tcp and not udp",
    "! (ip || ip6)",
    "not not ip",
    "tcp or udp and port 53",
    "(tcp or udp) and port 53",
    "host 10.0.0.1 and not port 53",
    "host 10.0.0.1 and (port 80 or port 53)",
    "tcp and (host 10.0.0.1 or host fd00::1)",
    "not host 10.0.0.1 or not port 80",
    "arp or icmp6 or udp port 67 or udp port 547",
    "(src host 10.0.0.1 and dst host 10.0.0.2) or (src host 10.0.0.2 and dst host 10.0.0.1)",
    "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn and dst port 80",
    "",
];

fn filters() -> Vec<String> {
    let all = PRIMITIVES.iter().chain(LONGER).map(ToString::to_string);
    let mut filters = all.collect::<Vec<_>>();
    // Others in each round of this list: seven is no divisor of it.
    let others = PRIMITIVES.iter().cycle();
    for ((at, left), right) in PRIMITIVES.iter().enumerate().zip(others.skip(7)) {
        let joint = ["and", "or"][at % 2];
        filters.push(format!("{left} {joint} ({right})"));
        filters.push(format!("not ({right}) {joint} {left}"));
    }
    filters
}

/// Frames of all kinds that filters tell apart, and such as nobody sends.
fn frames() -> Vec<Vec<u8>> {
    let mut random = Random::from(0x5eed_0001);
    let mut pick = |of: &[&[u8]]| of[random.below(of.len() as u64) as usize].to_vec();
    let mut frames = Vec::new();
    for _ in 0..1500 {
        let macs: [&[u8]; 4] =
            [&[2, 0, 0, 0, 0, 1], &[2, 0, 0, 0, 0, 2], &[0xff; 6], &[1, 0, 0x5e, 0, 0, 1]];
        let mut frame = [pick(&macs), pick(&macs[..2])].concat();
        let tags: [&[u8]; 6] = [
            &[],
            &[],
            &[],
            &[0x81, 0, 0x20, 7],
            &[0x88, 0xa8, 0, 9],
            &[0x81, 0, 0, 7, 0x81, 0, 0, 9],
        ];
        frame.extend(pick(&tags));
        let v4: [&[u8]; 4] = [&[10, 0, 0, 1], &[10, 0, 0, 2], &[192, 168, 1, 1], &[224, 0, 0, 251]];
        let ports: [&[u8]; 5] = [&[0, 53], &[0, 80], &[0x01, 0xbb], &[0, 67], &[0x30, 0x39]];
        let upper = |pick: &mut dyn FnMut(&[&[u8]]) -> Vec<u8>| {
            let rest: [&[u8]; 3] = [
                &[0, 40, 0, 0, 0, 0, 0, 1, 0x50, 2, 1, 0, 0, 0, 0, 0, 71, 69],
                &[0, 9, 0, 0, 0, 0, 0, 1, 0x60, 0x12, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 71],
                &[128, 0, 0, 0, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0, 70],
            ];
            [pick(&ports), pick(&ports), pick(&rest)].concat()
        };
        match pick(&[&[0], &[0], &[1], &[1], &[2], &[3], &[4]])[0] {
            0 => {
                frame.extend([8, 0]);
                let header = pick(&[&[0x45], &[0x45], &[0x46]])[0];
                frame.extend([header, 0, 0, pick(&[&[40], &[60], &[90]])[0], 0, 1]);
                let fragments: [&[u8]; 4] = [&[0, 0], &[0x40, 0], &[0x20, 0], &[0, 9]];
                frame.extend(pick(&fragments));
                frame.extend(pick(&[&[64], &[32], &[255]]));
                let carried: [&[u8]; 9] =
                    [&[6], &[6], &[17], &[17], &[1], &[2], &[132], &[50], &[103]];
                frame.extend(pick(&carried));
                frame.extend([0, 0]);
                frame.extend([pick(&v4), pick(&v4)].concat());
                frame.resize(frame.len() + usize::from(header & 15) * 4 - 20, 0);
                match pick(&[&[0], &[1]])[0] {
                    0 => frame.extend(upper(&mut pick)),
                    _ => frame.extend(pick(&[&[8, 0, 0, 0], &[0, 0, 0, 0], &[3, 1, 0, 0]])),
                }
            }
            1 => {
                let mut end = vec![0xfd, 0];
                end.resize(15, 0);
                let end = |last: &[u8]| [&end[..], last].concat();
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 40]);
                let carried = pick(&[&[6], &[17], &[58], &[44], &[0], &[132]])[0];
                frame.extend([carried, pick(&[&[64], &[255]])[0]]);
                frame.extend(end(&pick(&[&[1], &[2], &[3]])));
                match pick(&[&[0], &[1]])[0] {
                    0 => frame.extend(end(&pick(&[&[1], &[2]]))),
                    _ => frame.extend([&[0xff, 2][..], &[0; 13], &[1]].concat()),
                }
                if carried == 44 {
                    frame.extend(pick(&[&[6], &[17], &[58]]));
                    frame.extend([0, 0, 0, 0, 0, 0, 1]);
                }
                match pick(&[&[0], &[1]])[0] {
                    0 => frame.extend(upper(&mut pick)),
                    _ => frame.extend(pick(&[&[128, 0], &[135, 0], &[1, 0]])),
                }
            }
            2 => {
                frame.extend(pick(&[&[8, 6], &[0x80, 0x35]]));
                frame.extend([0, 1, 8, 0, 6, 4, 0, pick(&[&[1], &[2]])[0]]);
                frame.extend([&[2, 0, 0, 0, 0, 1][..], &pick(&v4), &[0; 6], &pick(&v4)].concat());
            }
            3 => frame.extend([0, 38, 0x42, 0x42, 3, 0, 0]),
            _ => frame.extend([0xbe, 0xef, 1, 2, 3, 4]),
        }
        // So long that nothing asked for is missing: what programs do with that which is, differs
        // by the order in which they ask.
        let filler: [&[u8]; 3] = [&[0; 60], &[0x45; 90], &[0xff; 130]];
        frame.extend(pick(&filler));
        frames.push(frame);
    }
    // And some with octets that are wrong.
    let mut random = Random::from(0x5eed_0003);
    for at in 0..500 {
        let mut frame = frames[at].clone();
        for _ in 0..=random.below(3) {
            frame[random.below(60) as usize] = random.below(256) as u8;
        }
        frames.push(frame);
    }
    frames
}

/// Has tcpdump compile a filter; none if it refuses.
// One that no frame can match it refuses, too: that is a program here.
fn tcpdump(filter: &str) -> Option<Program> {
    let mut command = Command::new("tcpdump");
    command.args(["-r", "-", "-ddd", filter]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = command.spawn().unwrap();
    program.stdin.take().unwrap().write_all(&EMPTY).unwrap();
    let output = program.wait_with_output().unwrap();
    if String::from_utf8_lossy(&output.stderr).contains("rejects all packets") {
        let nothing = Instruction { code: 6, jump_true: 0, jump_false: 0, k: 0 };
        return Program::new(&[nothing]).ok();
    }
    let said = String::from_utf8(output.stdout).unwrap();
    let instruction = |line: &str| {
        let numbers = line.split(' ').map(|number| number.parse::<u32>().unwrap());
        let [code, jump_true, jump_false, k] = numbers.collect::<Vec<_>>().try_into().unwrap();
        let (jump_true, jump_false) = (jump_true as u8, jump_false as u8);
        Instruction { code: code as u16, jump_true, jump_false, k }
    };
    let instructions = said.lines().skip(1).map(instruction).collect::<Vec<_>>();
    output.status.success().then(|| Program::new(&instructions).unwrap())
}

#[test]
fn filters_select_what_tcpdump_selects() {
    if Command::new("tcpdump").arg("--version").output().is_err() {
        return cannot_run("there is no tcpdump (Debian's tcpdump)");
    }
    let (filters, frames) = (filters(), frames());
    assert!(filters.len() >= 300, "{}", filters.len());
    let mut different = Vec::new();
    let mut matched = 0;
    for filter in &filters {
        let own = filter.parse::<Program>().unwrap_or_else(|error| panic!("{filter}: {error}"));
        let theirs = tcpdump(filter).unwrap_or_else(|| panic!("{filter}: tcpdump refuses it"));
        let matches = |program: &Program, frame: &[u8]| program.matches(frame, frame.len());
        let wrong = frames.iter().find(|frame| matches(&own, frame) != matches(&theirs, frame));
        matched += frames.iter().filter(|frame| matches(&own, frame)).count();
        different.extend(wrong.map(|frame| format!("{filter}: {frame:02x?}")));
    }
    assert!(different.is_empty(), "{} of {}: {different:#?}", different.len(), filters.len());
    // Frames that no filter tells apart would show nothing.
    let share = matched as f64 / (filters.len() * frames.len()) as f64;
    assert!((0.1..0.9).contains(&share), "{share}");
}

#[test]
fn what_tcpdump_refuses_is_refused() {
    if Command::new("tcpdump").arg("--version").output().is_err() {
        return cannot_run("there is no tcpdump (Debian's tcpdump)");
    }
    for filter in [
        "tcp port",
        "host",
        "udp and",
        "(tcp",
        "tcp)",
        "ip[0",
        "ip[0:3] = 1",
        "ip[0]",
        "net 10.0.0.1/8",
        "net 10.0.0.0/33",
        "port 70000",
        "icmp port 7",
        "ether host 1.2.3.4",
        "ip host fd00::1",
        "tcp host 10.0.0.1",
        "ip[0] / 0 = 1",
        "portrange 1-70000",
    ] {
        assert!(filter.parse::<Program>().is_err(), "{filter}");
        assert!(tcpdump(filter).is_none(), "{filter}");
    }
}
