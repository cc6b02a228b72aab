//! Locators are read as VDE reads its own, written as short as they can be, and refused by part.

use super::*;
use proptest::{collection::vec, prelude::*};
use std::os::unix::ffi::OsStrExt as _;

fn locator(text: &str) -> Locator {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refusal(text: &str) -> String {
    text.parse::<Locator>().expect_err(text).to_string()
}

fn plug(directory: &str, port: Option<SwitchPort>) -> Locator {
    Locator::Vde(Plug { directory: directory.into(), port, access: Access::default() })
}

// seed H.5.12
#[test]
fn quotes_and_escapes_are_those_of_vde_plug() {
    // Each as `vde_plug` of Debian 12 takes it: /d/sw is a switch's directory, 5 its port.
    let five = plug("/d/sw", Some(SwitchPort::Number(5)));
    for text in [
        "vde:///d/sw[5]",
        "vde:///d/sw[port=5]",
        "vde:///d/sw[portgroup=5]",
        "vde:///d/'sw'[5]",
        "vde:///d/\"s\"w[//5/]",
        "vde:///d/s\\w[\"port\"=5]",
        "vde:///d/%73w[po'rt=5']",
        "/d/sw[5]",
    ] {
        assert_eq!(locator(text), five, "{text}");
    }
    assert_eq!(locator("/d/s%w"), plug("/d/s%w", None), "no digits: not an escape");
    assert_eq!(locator("'/d/a[b'"), plug("/d/a[b", None));
    assert_eq!(locator("/d/\"a'b\""), plug("/d/a'b", None));
    assert_eq!(locator("/d/%5b%2f%e4"), {
        let directory = std::ffi::OsStr::from_bytes(b"/d/[/\xe4").into();
        Locator::Vde(Plug { directory, ..Plug::default() })
    });
    let modes = Access { mode: Some(0o700), group: Some("users".into()) };
    let Locator::Vde(plug) = locator("vde:///d/sw[blue/mode=0700/group=users]") else { panic!() };
    assert_eq!((plug.port, plug.access), (Some(SwitchPort::Group("blue".into())), modes));
}

// seed H.5.21
#[test]
fn a_bare_path_is_the_directory_of_a_switch() {
    assert_eq!(locator("/a/b/c/d"), locator("vde:///a/b/c/d"));
    assert_eq!(locator("d/e"), locator("vde://d/e"));
    assert_eq!(locator(""), plug("", None));
}

#[test]
fn only_command_lines_of_vde_may_cut_keys_short() {
    let five = plug("/d/sw", Some(SwitchPort::Number(5)));
    for text in ["/d/sw[po=5]", "/d/sw[p=5]", "/d/sw[5", "/d/sw[5]junk", "/d/sw[3/port=5]"] {
        assert_eq!(Locator::parse_lenient(text), Ok(five.clone()), "{text}");
        assert!(text.parse::<Locator>().is_err(), "{text}");
    }
    assert_eq!(Locator::parse_lenient("/d/sw[p]"), "/d/sw[p]".parse(), "a group of ports");
    let error = Locator::parse_lenient("vde:///d/sw[zz=3]").unwrap_err().to_string();
    assert!(error.starts_with("unknown key: zz;"), "{error}");
}

// seed H.5.9
#[test]
fn what_is_no_locator_is_refused_by_its_part() {
    let unknown = refusal("foo://x");
    assert!(unknown.starts_with("no such port kind: foo; there are null, switch, hub, vde, ptp"));
    // seed H.5.20
    for elsewhere in ["bonding", "multi", "vlan", "pcap", "agno", "vdesl", "geneve", "xdp"] {
        let text = refusal(&format!("{elsewhere}:///x"));
        assert!(text.starts_with(&format!("no port kind here: {elsewhere}; ")), "{text}");
    }
    assert_eq!(
        refusal("tap://t0[upp]"),
        "unknown key: upp; tap://INTERFACE has create, up, mac, mtu, master"
    );
    assert_eq!(refusal("null:///a=1"), "unknown key: a; null:// has no options");
    assert_eq!(
        refusal("switch:///d[mode=9]"),
        "switch: mode `9`: expected an octal mode, like 0660; it is written switch://DIR"
    );
    for (text, part) in [
        ("switch:///d[mode=0660/mode=0600]", "mode"),
        ("switch:///d[max=257]", "max"),
        ("vde:///d[5", "brackets"),
        ("vde:///d[5]x", "brackets"),
        ("vde:///d[port=5/portgroup=x]", "portgroup"),
        ("vde:///d[16777216]", "port"),
        ("vde:///d[port=\"..\"]", "port"),
        ("ptp://", "path"),
        ("seqpacket://2", "address"),
        ("stream-listen://9999", "address"),
        ("stream-listen://::1:9999x", "address"),
        ("stream-listen://10.0.0.256:1", "address"),
        ("stream-listen://127.0.0.1:1/mode=0600", "mode"),
        ("stream-listen:///s[insecure]", "insecure"),
        ("stream://10.0.0.300:1", "address"),
        ("stream://::1:1", "address"),
        ("stream://host:0", "address"),
        ("dgram:///a", "path"),
        ("udp://1.2.3.4:5", "address"),
        ("udp://0->1.2.3.4:5", "address"),
        ("udp://[::1]:4000->127.0.0.1:4000", "address"),
        ("udp://127.0.0.1:4000->[::1]:4000", "address"),
        ("mcast://10.0.0.1:5", "address"),
        ("tap://", "address"),
        ("tap://sixteen-letters-", "address"),
        ("tap://a\\/b", "address"),
        ("tap://t%25d", "address"),
        ("macvtap://e%25d", "address"),
        ("vxvde://10.0.0.1", "address"),
        ("vxvde://239.0.0.1/v6", "address"),
        ("vxlan:///vni=16777216", "vni"),
        ("vxlan:///remote=10.0.0.1,x", "remote"),
        ("dives://239.13.13.13:3535", "vlan"),
        ("cmd://", "command"),
        ("slirp://x", "address"),
        ("slirp:///tcpfwd=1:2", "tcpfwd"),
        ("slirp:///host=10.0.2.2/addr=10.0.2.2", "addr"),
        ("slirp:///host6=10.0.2.2", "host6"),
    ] {
        let refusal = refusal(text);
        let wanted = format!(": {part} `");
        assert!(refusal.contains(&wanted) && refusal.contains("written"), "{text}: {refusal}");
    }
    assert_eq!(Locator::from_str("/d/'a"), Err(LocatorError::Unfinished));
    assert_eq!(Locator::from_str("/d/a\\"), Err(LocatorError::Unfinished));
    assert_eq!(Locator::from_str("cmd://a 'b"), Err(LocatorError::Unfinished));
    assert_eq!(Locator::from_str("/d/%00"), Err(LocatorError::ControlCharacter));
    assert_eq!(Locator::from_str("cmd://a\nb"), Err(LocatorError::ControlCharacter));
    let long = |kind: &str, octets: usize| format!("{kind}:///{}", "x".repeat(octets - 1));
    assert!(refusal(&long("stream", 108)).contains("107 octets"));
    assert!(refusal(&long("ptp", 107)).contains("106 octets"));
    assert!(Locator::from_str(&long("stream", 107)).is_ok());
    assert!(Locator::from_str(&long("ptp", 106)).is_ok());
}

#[test]
fn locators_are_written_as_they_are_read() {
    for (text, shown) in [
        ("null://", "null://"),
        ("/d", "vde:///d"),
        ("/d[0]", "vde:///d[port=0]"),
        ("/d[blue/mode=700]", "vde:///d[portgroup=blue/mode=0700]"),
        (
            "switch:///d[grp=7/mode=660/dirmode=2770/hashsize=0x10/expiretime=120/max=3]",
            "switch:///d[mode=0660/grp=7/dirmode=02770/hashsize=16/expiretime=120/max=3]",
        ),
        ("hub://", "hub://"),
        ("ptp:///p[mode=0600]", "ptp:///p[mode=0600]"),
        ("seqpacket://7", "seqpacket://7"),
        ("seqpacket-listen:///p[max=1]", "seqpacket-listen:///p[max=1]"),
        ("seqpacket-connect:///p", "seqpacket-connect:///p"),
        ("cmd://ssh host  'vde_plug tap://t0'", "cmd://ssh host 'vde_plug tap://t0'"),
        ("stdio://", "stdio://"),
        ("stream-listen://:9999/insecure", "stream-listen://0.0.0.0:9999/insecure"),
        ("stream-listen://localhost:1", "stream-listen://127.0.0.1:1"),
        ("stream-listen://[::1]:9/max=2", "stream-listen://[::1]:9/max=2"),
        ("stream-listen:///s[grp=kvm]", "stream-listen:///s[grp=kvm]"),
        ("stream://vm.example:9", "stream://vm.example:9"),
        ("stream://[::1]:9", "stream://[::1]:9"),
        ("stream:///s%5bx", "stream:///s\\[x"),
        ("dgram:///a->/b[mode=0600]", "dgram:///a->/b[mode=0600]"),
        ("dgram:///a%3e->/b", "dgram:///a\\>->/b"),
        ("udp://5000->10.0.0.1:5001", "udp://5000->10.0.0.1:5001"),
        ("udp://[::1]:5000->[::2]:5001", "udp://[::1]:5000->[::2]:5001"),
        ("mcast://239.192.1.1:1102/ttl=4/if=lo", "mcast://239.192.1.1:1102/if=lo/ttl=4"),
        ("tap://t0[up/mtu=9000/master=br0/create]", "tap://t0[create/up/mtu=9000/master=br0]"),
        ("tap://t0[mac=52:54:00:AB:00:01]", "tap://t0[mac=52:54:00:ab:00:01]"),
        ("macvtap://eth0", "macvtap://eth0"),
        ("packet://eth0", "packet://eth0"),
        ("vxvde://", "vxvde://239.0.0.1"),
        ("vxvde:///v6", "vxvde://ff05:56de::1"),
        ("vxvde://239.1.2.3/port=14789/vni=5/grp=", "vxvde://239.1.2.3/vni=5/grp="),
        ("vxlan:///rcvbuf=2k", "vxlan://239.0.0.1/rcvbuf=2048"),
        (
            "vxlan:///remote=10.0.0.1,::1/learn=off/allow=10.0.0.0\\/8",
            "vxlan:///remote=10.0.0.1,::1/learn=off/allow=10.0.0.0\\/8",
        ),
        ("dives://239.13.13.13:3535/vlan=5", "dives://239.13.13.13:3535/vlan=5"),
        (
            "dives://239.13.13.13:3535/vlan=5/host=10.0.0.1/port=1/advert=both/names=on",
            "dives://239.13.13.13:3535/host=10.0.0.1/port=1/vlan=5/advert=both/names=on",
        ),
        ("switchyard-listen://127.0.0.1:9999", "switchyard-listen://127.0.0.1:9999"),
        (
            "slirp:///host=10.0.2.2\\/24/tcpfwd=80:10.0.2.15:80/v4",
            "slirp:///v4/host=10.0.2.2\\/24/tcpfwd=127.0.0.1:80:10.0.2.15:80",
        ),
        (
            "slirp:///addr=10.1.0.1/addr6=fd01::1/vdomainname=a.b",
            "slirp:///host=10.1.0.1\\/24/host6=fd01::1\\/64/vdomainname=a.b",
        ),
        ("slirp:///disable_host_loopback", "slirp://"),
        ("slirp:///disable_host_loopback=off", "slirp:///disable_host_loopback=off"),
    ] {
        let read = locator(text);
        assert_eq!(read.to_string(), shown);
        assert_eq!(locator(shown), read, "{shown}");
    }
}

#[test]
fn options_that_only_vdes_kind_has_say_why_they_are_none_here() {
    for (option, why) in [
        ("tftp_path=/srv", "no TFTP server"),
        ("cmdfwd=10.0.2.4:80:sh", "guests start no command"),
        ("unixfwd=10.0.2.4:80:/run/x", "by a path"),
        ("verbose", "mvirt port get"),
    ] {
        let refusal = refusal(&format!("slirp:///{option}"));
        let name = option.split('=').next().unwrap();
        assert!(refusal.contains(&format!("slirp: the option {name} ")), "{refusal}");
        assert!(refusal.contains(why), "{refusal}");
    }
    assert!(refusal("slirp:///smb=/srv").contains("unknown key: smb"));
}

/// Everything in the table is read: an option that nobody reads ends the program.
#[test]
fn every_kind_and_option_of_the_table_is_read() {
    for kind in KINDS {
        let (before, after) = match kind.name {
            "stream-listen" => ("stream-listen:///x[", "]".into()),
            "switch" | "hub" | "vde" | "ptp" | "seqpacket-listen" | "tap" => {
                (&*format!("{}://x[", kind.name).leak(), "]".into())
            }
            "dgram" => ("dgram:///a->/b[", "]".to_owned()),
            "mcast" => ("mcast://239.0.0.1:1/", String::new()),
            "dives" => ("dives://239.0.0.1:1/vlan=1/", String::new()),
            "switchyard-listen" => ("switchyard-listen://[::1]:1/", String::new()),
            name => (&*format!("{name}:///").leak(), String::new()),
        };
        for option in kind.options.iter().filter(|option| {
            (kind.name, option.name) != ("stream-listen", "insecure")
                && (kind.name, option.name) != ("dives", "vlan")
        }) {
            let value = match (option.value, option.name) {
                ("", _) => String::new(),
                (_, "mtu") => "=1500".into(),
                ("MAC", _) => "=52:54:00:12:34:56".into(),
                ("OCTAL" | "CLIENTS" | "N" | "PORT" | "SECONDS" | "HOPS" | "OCTETS", _) => {
                    "=7".into()
                }
                ("ADDRESS", "vnameserver6") => "=fd00::3".into(),
                ("ADDRESS" | "ADDRESS,…", _) => "=10.0.0.1".into(),
                ("CIDR,…", _) => "=10.0.0.0\\/8".into(),
                ("ADDRESS[\\/LENGTH]", "host6" | "addr6") => "=fd00::2\\/64".into(),
                ("ADDRESS[\\/LENGTH]", _) => "=10.0.0.1\\/8".into(),
                ("auto|text|sockaddr|both", _) => "=text".into(),
                ("on|off", _) => "=on".into(),
                ("[HADDR:]HPORT:GADDR:GPORT,…", _) => "=[::1]:1:10.0.0.1:1".into(),
                _ => "=word".into(),
            };
            let value = value.replace("[::1]", "127.0.0.1");
            let text = format!("{before}{}{value}{after}", option.name);
            assert_eq!(locator(&text).kind().name, kind.name, "{text}");
        }
    }
}

#[test]
fn each_says_what_of_the_host_it_reaches() {
    let reach = |text: &str| format!("{:?}", locator(text).reach());
    for text in ["cmd://sh", "stdio://", "seqpacket://3"] {
        assert_eq!(reach(text), "Process", "{text}");
    }
    assert_eq!(reach("null://"), "Nothing");
    assert_eq!(reach("/d"), "Paths([\"/d\"])");
    assert_eq!(reach("dgram:///a->/b"), "Paths([\"/a\", \"/b\"])");
    assert_eq!(reach("stream-listen://127.0.0.1:9"), "Listens(127.0.0.1)");
    assert_eq!(reach("udp://5->10.0.0.1:5"), "Listens(0.0.0.0)");
    assert_eq!(reach("slirp://"), "World { listens: [], loopback: false }");
    assert_eq!(
        reach("slirp:///tcpfwd=10.0.0.1:80:10.0.2.15:80/disable_host_loopback=off"),
        "World { listens: [10.0.0.1], loopback: true }"
    );
    assert_eq!(reach("tap://t0"), "Interface(\"t0\")");
    assert_eq!(reach("udp://5->[::1]:5"), "Listens(::)");
    assert_eq!(reach("udp://127.0.0.1:5->10.0.0.1:5"), "Listens(127.0.0.1)");
    assert_eq!(reach("mcast://239.1.1.1:5"), "Listens(239.1.1.1)");
    assert_eq!(reach("mcast://239.1.1.1:5/if=lo"), "Nothing");
    assert_eq!(reach("vxvde://"), "Listens(239.0.0.1)");
    assert_eq!(reach("vxlan://"), "Listens(0.0.0.0)");
    assert_eq!(reach("vxlan:///remote=fd00::2"), "Listens(::)");
    assert_eq!(reach("vxlan:///remote=10.0.0.2/local=127.0.0.1"), "Listens(127.0.0.1)");
    assert_eq!(reach("dives://239.13.13.13:3535/vlan=5"), "Listens(127.0.0.1)");
    assert_eq!(reach("dives://239.13.13.13:3535/host=10.0.0.1/vlan=5"), "Listens(10.0.0.1)");
    assert_eq!(locator("/d").role(), PortRole::Uplink);
    assert_eq!(locator("switch:///d").role(), PortRole::Access);
    assert_eq!(locator("vxlan://").role(), PortRole::Peer);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_and_what_is_read_is_written_as_the_same(
        kind in 0..KINDS.len(),
        text in "[a-z0-9:.,/=\\[\\]>'\"\\\\% -]{0,40}",
    ) {
        for text in [format!("{}://{text}", KINDS[kind].name), text] {
            for read in [text.parse(), Locator::parse_lenient(&text)] {
                let read: Result<Locator, _> = read;
                if let Ok(read) = read {
                    let shown = read.to_string();
                    prop_assert_eq!(shown.parse(), Ok(read), "{} is written {}", text, shown);
                }
            }
        }
    }

    #[test]
    fn any_path_is_written_such_that_it_is_read(
        path in vec(prop_oneof![b' '..=b'~', 128..=255_u8], 1..100),
    ) {
        let path: PathBuf = std::ffi::OsStr::from_bytes(&path).into();
        let access = Access { mode: None, group: Some(path.to_string_lossy().into_owned()) };
        let dgram = Locator::Dgram(Dgram { local: path.clone(), remote: path, access });
        prop_assert_eq!(dgram.to_string().parse(), Ok(dgram.clone()), "{}", dgram);
    }

    #[test]
    fn any_words_are_written_such_that_they_are_read(words in vec("[ -~]{0,8}", 1..4)) {
        let command = Locator::Cmd(words);
        prop_assert_eq!(command.to_string().parse(), Ok(command.clone()), "{}", command);
    }
}

#[test]
fn the_locators_of_the_documentation_are_locators() {
    let text = include_str!("../../docs/ports.md");
    // In a table they are code; what follows a command is read by the tests of README's commands.
    let code = text.lines().filter(|line| line.starts_with('|')).flat_map(|line| line.split('`'));
    let told: Vec<_> = code.filter(|code| code.contains("://") && !code.contains(' ')).collect();
    assert!(told.len() > 15, "{told:?}");
    for locator in told.into_iter().filter(|locator| !locator.contains("HOST")) {
        // Which kinds there are is told by those without an address.
        let is_kind = locator.ends_with("://");
        assert!(is_kind || locator.parse::<Locator>().is_ok(), "{locator}");
    }
}
