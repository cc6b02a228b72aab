//! A gateway asks others for names that it does not know, where its network is public.

use super::{apart, container, no_containers, settle};
use crate::{
    daemon::{Daemon, cannot_run},
    name_server::NameServer,
    namespace::{Namespace, run},
};
use mvirt_net::proto::{DnsMode, Nic, UpdateNetworkRequest};
use prost_types::FieldMask;
use std::{collections::HashSet, fs, path::Path, process::Command, thread};

/// Runs a story in a host of its own, where networks can be public.
pub(super) fn on_a_host(story: impl FnOnce() + Send) {
    if let Some(why) = no_containers() {
        return cannot_run(why);
    }
    if Command::new("nft").arg("-v").output().is_err() {
        return cannot_run("there is no nft: the package nftables");
    }
    let host = Namespace::new();
    apart(|| {
        host.enter();
        run("ip link set lo up");
        run("ip address add 192.0.2.53/32 dev lo");
        run("ip address add 192.0.2.54/32 dev lo");
        story();
    });
}

/// Runs something in a container.
pub(super) fn inside<T: Send>(container: &Namespace, work: impl FnOnce() -> T + Send) -> T {
    apart(|| {
        container.enter();
        work()
    })
}

/// A daemon whose host has these servers, with a public network `web` and a container in it.
pub(super) fn rig(servers: &[&str]) -> (Daemon, Nic, Namespace) {
    let lines: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    let binary = Path::new(env!("CARGO_BIN_EXE_mvirt-net"));
    let flags = ["--reactors", "1", "--hugepages", "off"];
    let mut daemon = Daemon::start_in(binary, &flags, |directory| {
        let file = directory.join("resolv.conf");
        fs::write(&file, lines).unwrap();
        vec![("MVIRT_NET_RESOLV_CONF", file)]
    });
    public(&mut daemon, "web", "10.1.0.0/24", &[]);
    let (nic, namespace) = container(&mut daemon, "web", "c1");
    apart(|| settle(&nic, &namespace));
    (daemon, nic, namespace)
}

fn public(daemon: &mut Daemon, name: &str, subnet: &str, servers: &[&str]) {
    daemon.network_with(name, |request| {
        request.ipv4_subnet = subnet.into();
        request.ipv6_prefix = String::new();
        request.is_public = true;
        request.dns_mode = DnsMode::Names.into();
        request.dns_servers = servers.iter().map(ToString::to_string).collect();
    });
}

/// What dig says, of the gateway.
fn dig(arguments: &str) -> String {
    run(&format!("dig @169.254.0.1 +time=8 +tries=1 {arguments}"))
}

fn short(name: &str) -> String {
    dig(&format!("+short {name}")).trim().to_owned()
}

#[test]
fn a_guest_of_a_public_network_hears_of_names_of_others() {
    on_a_host(|| {
        let server = NameServer::start("192.0.2.53:53", [192, 0, 2, 7]);
        let (_daemon, nic, c1) = rig(&["192.0.2.53"]);
        inside(&c1, || {
            assert_eq!(short("one.example"), "192.0.2.7");
            assert_eq!(short("c1.web.internal"), nic.ipv4_address);
            assert_eq!(short("-x 192.0.2.7"), "found.example.");
            let all = dig("ONE.exaMPLE");
            for part in ["status: NOERROR", "flags: qr rd ra;", "ONE.exaMPLE.\t", "udp: 1232"] {
                assert!(all.contains(part), "{part}: {all}");
            }
            assert_eq!(server.asked("one.example.").len(), 1, "it is kept");
            let nothing = dig("nothing.example");
            assert!(nothing.contains("status: NXDOMAIN") && nothing.contains("SOA"), "{nothing}");
            dig("nothing.example");
            assert_eq!(server.asked("nothing.example.").len(), 1, "so is that there is nothing");
            // A name of the network's own is asked of nobody, nor is everything that there is.
            assert!(dig("c9.internal").contains("status: NXDOMAIN"));
            assert!(dig("one.example ANY +notcp").contains("\"RFC8482\" \"\""));
            assert!(dig("one.example +norecurse").contains("status: REFUSED"));
            assert!(dig("fails.example").contains("status: SERVFAIL"));
            assert!(server.all_asked().iter().all(|asked| !asked.name.ends_with("internal.")));
            assert_eq!(server.asked("one.example.").len(), 1);
        });
    });
}

#[test]
fn what_is_longer_than_a_datagram_comes_by_tcp() {
    on_a_host(|| {
        let server = NameServer::start("192.0.2.53:53", [192, 0, 2, 7]);
        let (_daemon, _, c1) = rig(&["192.0.2.53"]);
        inside(&c1, || {
            let cut = dig("long.example TXT +ignore");
            assert!(cut.contains("flags: qr tc rd ra;") && cut.contains("ANSWER: 10,"), "{cut}");
            let whole = dig("long.example TXT");
            assert!(whole.contains("(TCP)") && whole.contains("ANSWER: 20,"), "{whole}");
            let by: Vec<_> = server.asked("long.example.").iter().map(|asked| asked.by).collect();
            assert_eq!(by, ["udp", "tcp"], "it is kept");
            assert_eq!(short("+tcp two.example"), "192.0.2.7");
        });
    });
}

#[test]
fn nobody_else_answers_for_a_server() {
    on_a_host(|| {
        let server = NameServer::start("192.0.2.53:53", [192, 0, 2, 7]);
        let (_daemon, _, c1) = rig(&["192.0.2.53"]);
        inside(&c1, || {
            assert_eq!(short("guessed.example"), "192.0.2.7");
            for n in 0..30 {
                assert_eq!(short(&format!("aLongNameOfManyLetters{n}.example")), "192.0.2.7");
            }
            let asked = server.all_asked();
            let ports: HashSet<_> = asked.iter().map(|asked| asked.port).collect();
            let ids: HashSet<_> = asked.iter().map(|asked| asked.id).collect();
            assert!(ports.len() > 25 && ids.len() > 28, "{asked:?}");
            // All 30 have the case that the guest has written by a chance of 2^-600.
            assert!(asked.iter().any(|asked| !asked.written.starts_with("aLongName")));
            // A server that keeps no case is asked without one, and so is one without EDNS.
            assert_eq!(short("folded.example"), "192.0.2.7");
            let folded = server.asked("folded.example.");
            assert_eq!(folded.last().unwrap().written, "folded.example.");
            assert_eq!(short("old.example"), "192.0.2.7");
            let old = server.asked("old.example.");
            assert!(!old.last().unwrap().has_edns && old.len() == 2, "{old:?}");
        });
    });
}

#[test]
fn the_next_server_is_asked_and_one_question_once() {
    on_a_host(|| {
        let server = NameServer::start("192.0.2.54:53", [192, 0, 2, 7]);
        // Nobody is at the first one.
        let (_daemon, _, c1) = rig(&["192.0.2.53", "192.0.2.54"]);
        inside(&c1, || {
            assert_eq!(short("one.example"), "192.0.2.7");
            assert!(dig("silent.example").contains("status: SERVFAIL"));
            let tries = server.asked("silent.example.").len();
            assert_eq!(tries, 2, "twice");
            thread::scope(|scope| {
                let ask = || short("slow.example");
                let all: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
                all.into_iter().for_each(|told| assert_eq!(told.join().unwrap(), "192.0.2.7"));
            });
            assert_eq!(server.asked("slow.example.").len(), 1);
        });
    });
}

#[test]
fn a_network_has_servers_of_its_own_and_a_private_one_none() {
    on_a_host(|| {
        let host = NameServer::start("192.0.2.53:53", [192, 0, 2, 7]);
        let own = NameServer::start("192.0.2.54:53", [192, 0, 2, 8]);
        let (mut daemon, _, c1) = rig(&["192.0.2.53"]);
        public(&mut daemon, "lab", "10.2.0.0/24", &["192.0.2.54"]);
        let (nic, c2) = container(&mut daemon, "lab", "c2");
        apart(|| settle(&nic, &c2));
        assert_eq!(inside(&c1, || short("one.example")), "192.0.2.7");
        assert_eq!(inside(&c2, || short("one.example")), "192.0.2.8");
        assert_eq!(inside(&c1, || short("one.example")), "192.0.2.7");
        assert_eq!((host.asked("one.example.").len(), own.asked("one.example.").len()), (1, 1));
        // It follows its network.
        let mut update = |paths: &[&str], is_public: bool, servers: &[&str]| {
            let request = UpdateNetworkRequest {
                id: "lab".into(),
                is_public: Some(is_public),
                dns_servers: servers.iter().map(ToString::to_string).collect(),
                update_mask: Some(FieldMask {
                    paths: paths.iter().map(ToString::to_string).collect(),
                }),
                ..Default::default()
            };
            daemon.call(async |client| client.update_network(request).await).unwrap();
        };
        update(&["dns_servers"], true, &[]);
        assert_eq!(inside(&c2, || short("one.example")), "192.0.2.7");
        update(&["is_public"], false, &[]);
        assert!(inside(&c2, || dig("one.example")).contains("status: REFUSED"));
        assert!(inside(&c2, || dig("+tcp one.example")).contains("status: REFUSED"));
    });
}
