//! What a fabric does beyond carrying frames: bad lines, rules, the ring, and the same each time.

use crate::support::{Client, Fabric, frame};
use mvirt_net::switchyard::protocol::{Kind, Message};
use serde_json::{Value, json};

const ALL: &str = "ff:ff:ff:ff:ff:ff";

/// A client that has asked for everything there is, with an endpoint.
fn extended(fabric: &Fabric, name: &str) -> Client {
    let mut client = fabric.connect();
    let extensions = ["capture", "impair", "stats", "filter", "teleport"];
    client.send(Kind::HELLO, 0, 0, json!({"client_name": name, "extensions": extensions}));
    let granted = client.answer(Kind::WELCOME);
    assert_eq!(granted["extensions"], json!(["capture", "filter", "impair", "stats"]));
    client
}

/// Asks, and returns the answer.
fn ask(client: &mut Client, kind: Kind, answer: Kind, body: Value) -> Value {
    client.send(kind, 0, 0, body);
    client.answer(answer)
}

/// A script of three members, and every octet that they heard of frames.
fn script(flags: &[&str]) -> Vec<Vec<(u32, u32, Vec<u8>)>> {
    let fabric = Fabric::start(&[&["--deterministic"], flags].concat());
    let mut members = ["a", "b", "c"].map(|name| fabric.member(name));
    let macs = members.each_ref().map(|member| member.mac.clone());
    for round in 0..300_u32 {
        for from in 0..3 {
            let to = if round % 5 == 0 { ALL } else { &macs[(from + 1) % 3] };
            let sent = frame(to, &macs[from], &round.to_be_bytes().repeat(20));
            // One after the other, as the fabric has them: it is the order that counts.
            members[from].send_frame(&sent);
        }
    }
    // A pause lets everything out that is still held.
    let mut control = extended(&fabric, "control");
    loop {
        let stats = ask(&mut control, Kind::STATS, Kind::STATS_REPLY, json!({}));
        let endpoints = stats["endpoints"].as_array().unwrap();
        if endpoints.iter().all(|endpoint| endpoint["from"]["held"] == 0) {
            break;
        }
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
    members.iter_mut().map(Client::heard).collect()
}

// seed H.4.1, H.4.40
#[test]
fn the_same_script_has_the_same_end() {
    let spec = "loss=10%,burst=2,dup=5%,reorder=5%,delay=3ms,jitter=1ms,corrupt=0.0001";
    let run = |seed| script(&["--seed", seed, "--impair", spec]);
    let first = run("7");
    assert!(first == run("7"), "the same seed");
    assert!(first != run("8"), "another seed");
    let frames = first.iter().map(Vec::len).sum::<usize>();
    // 900 frames, 180 of which go to two: less a tenth, and one in twenty twice.
    assert!((900..1130).contains(&frames), "{frames}");
}

#[test]
fn a_line_is_made_bad_and_good_again() {
    let fabric = Fabric::start(&["--seed", "1"]);
    let (mut a, mut b) = (fabric.member("a"), fabric.member("b"));
    let mut control = extended(&fabric, "control");
    let mut impair = |body| {
        control.send(Kind::IMPAIR_SET, 0, 0, body);
        control.next().unwrap()
    };
    let refused = impair(json!({"name": "nobody", "from": ""}));
    assert_eq!(refused.payload[..], *b"{\"error\": \"no such endpoint: nobody\"}");
    let refused = String::from_utf8(impair(json!({"name": "a", "from": "lag=1"})).payload.to_vec());
    assert!(refused.unwrap().contains("bad IMPAIR_SET: lag=1: expected loss, burst"));
    assert_eq!(impair(json!({"name": "a", "from": "loss=100%"})).kind, Kind::IMPAIR_SET);
    let sent = frame(&b.mac, &a.mac, b"sent");
    a.send_frame(&sent);
    assert_eq!(b.frames(), [[0; 0]; 0], "it is lost");
    b.send_frame(&frame(&a.mac, &b.mac, b"the other way"));
    assert_eq!(a.frames().len(), 1);
    // What waits on a line is not lost with it.
    assert_eq!(impair(json!({"name": "a", "from": "delay=1h"})).kind, Kind::IMPAIR_SET);
    a.send_frame(&sent);
    assert_eq!(b.frames(), [[0; 0]; 0], "it waits");
    assert_eq!(impair(json!({"name": "a", "from": ""})).kind, Kind::IMPAIR_SET);
    assert_eq!(b.frames(), std::slice::from_ref(&sent));
    // Nor with the client that has sent it.
    assert_eq!(impair(json!({"name": "a", "from": "delay=1h"})).kind, Kind::IMPAIR_SET);
    a.send_frame(&sent);
    drop(a);
    assert_eq!(b.next_frame(), sent);
    // The line to an endpoint is not that of promiscuous ones.
    let mut a = fabric.member("a");
    let mut sniffer = fabric.client();
    sniffer.subscribe(b.id, mvirt_net::switchyard::protocol::PROMISC);
    assert_eq!(impair(json!({"name": "b", "to": "loss=100%"})).kind, Kind::IMPAIR_SET);
    a.send_frame(&sent);
    assert_eq!((b.frames(), sniffer.frames()), (vec![], vec![sent.clone()]));
    // A delay is a delay.
    assert_eq!(impair(json!({"name": "b", "to": "delay=30ms"})).kind, Kind::IMPAIR_SET);
    let start = std::time::Instant::now();
    a.send_frame(&sent);
    assert_eq!(b.next_frame(), sent);
    assert!(start.elapsed().as_millis() >= 30);
}

// seed H.4.41
#[test]
fn a_rule_drops_what_one_endpoint_sends_to_a_port() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("rules.toml");
    let rules = r#"
        [[rule]]
        name = "no echo"
        from = "a"
        match = "udp dst port 7007"
        action = "drop"
        [[rule]]
        match = "udp"
        action = "mirror"
        to = "sniffer"
    "#;
    std::fs::write(&file, rules).unwrap();
    let fabric = Fabric::start(&["--filter", file.to_str().unwrap()]);
    let mut members = ["a", "b", "sniffer"].map(|name| fabric.member(name));
    let echo = "10.0.0.2".parse().unwrap();
    let mac = members[1].mac.clone();
    for (from, port) in [(0, 7007), (0, 7008), (1, 7007)] {
        let client = &mut members[from];
        let address = "10.0.0.1".parse().unwrap();
        let sent = crate::support::Member { client, address }.udp(&mac, echo, port, b"hi");
        members[from].send_frame(&sent);
    }
    let [a, b, sniffer] = &mut members;
    // b's own frame goes to where its MAC is: to itself.
    assert_eq!((b.frames().len(), sniffer.frames().len()), (2, 2));
    let mut control = extended(&fabric, "control");
    let stats = ask(&mut control, Kind::STATS, Kind::STATS_REPLY, json!({}));
    assert_eq!(stats["filtered"], 1);
    assert_eq!(
        (&stats["rules"][0]["frames"], &stats["rules"][1]["frames"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(stats["rules"][0]["rule"]["name"], "no echo");
    assert_eq!(stats["endpoints"][0]["sent"], 2);
    // Other rules take their place, or a refusal leaves them.
    control.send(Kind::FILTER_SET, 0, 0, json!({"rules": [{"action": "drop", "match": "upd"}]}));
    assert!(control.refusal().starts_with("bad FILTER_SET: rule 1: match: column 1: expected"));
    let none = ask(&mut control, Kind::FILTER_SET, Kind::FILTER_SET, json!({"rules": []}));
    assert_eq!(none, json!({}));
    let address = "10.0.0.1".parse().unwrap();
    let sent = crate::support::Member { client: a, address }.udp(&mac, echo, 7007, b"hi");
    a.send_frame(&sent);
    assert_eq!(b.frames(), [sent]);
}

#[test]
fn what_was_not_asked_for_is_not_there() {
    let fabric = Fabric::start(&["--capture-ring", "1"]);
    let mut client = fabric.connect();
    client.send(Kind::HELLO, 0, 0, json!({"client_name": "a", "extensions": ["stats"]}));
    assert_eq!(client.answer(Kind::WELCOME)["extensions"], json!(["stats"]));
    ask(&mut client, Kind::STATS, Kind::STATS_REPLY, json!({}));
    for kind in [1001, 1010, 1011, 1020, 1030] {
        client.send(Kind(kind), 0, 0, json!({}));
        assert_eq!(client.refusal(), format!("unknown message type: {kind}"));
    }
}

// seed H.4.38
#[test]
fn the_ring_has_the_last_frames_and_what_became_of_them() {
    let fabric = Fabric::start(&[]);
    let mut control = extended(&fabric, "control");
    let mut a = fabric.member("a");
    control.send(Kind::CAPTURE_START, 0, 0, json!({}));
    let said = control.refusal();
    assert!(said.contains("nothing is captured: give megabytes"), "{said}");
    control.send(Kind::CAPTURE_START, 0, 0, json!({"megabytes": 65}));
    assert_eq!(control.refusal(), "bad CAPTURE_START: megabytes: expected 1-64");
    let mut page = |body| ask(&mut control, Kind::CAPTURE_START, Kind::CAPTURE_START, body);
    assert_eq!(page(json!({"megabytes": 1}))["frames"], json!([]));
    for n in 0..1000_u32 {
        a.send_frame_as(a.id, &frame(ALL, &a.mac, &n.to_be_bytes().repeat(500)));
    }
    a.sync();
    let first = page(json!({"from": 0}));
    let lost = first["lost"].as_u64().unwrap();
    assert!((400..600).contains(&lost), "2 MB went into one: {lost}");
    let frame = &first["frames"][0];
    assert_eq!((&frame["name"], &frame["len"]), (&json!("a"), &json!(2014)));
    assert_eq!(frame["verdict"], "verdict=forwarded");
    let octets = frame["octets"].as_str().unwrap();
    assert!(octets.starts_with("ffffffffffff025359000001beef"), "{octets}");
    assert_eq!(octets[28..36], format!("{lost:08x}"));
    assert_eq!(page(json!({"from": 999}))["frames"].as_array().unwrap().len(), 1);
    assert_eq!(ask(&mut control, Kind::CAPTURE_STOP, Kind::CAPTURE_STOP, json!({})), json!({}));
    control.send(Kind::CAPTURE_START, 0, 0, json!({}));
    control.refusal();
}

#[test]
fn answers_of_many_endpoints_fit_messages() {
    let fabric = Fabric::start(&["--impair", "loss=0.123456789,delay=123456us,rate=123456bit"]);
    let mut owner = fabric.client();
    for n in 0..1000 {
        owner.create(json!({"name": format!("{n:0>63}")}));
    }
    let mut control = extended(&fabric, "control");
    let (mut after, mut count) = (0, 0);
    loop {
        control.send(Kind::STATS, 0, 0, json!({"after": after}));
        let message: Message = control.next().unwrap();
        let stats: Value = serde_json::from_slice(&message.payload).unwrap();
        let endpoints = stats["endpoints"].as_array().unwrap();
        count += endpoints.len();
        if stats["more"] == json!(false) {
            break;
        }
        after = endpoints.last().unwrap()["endpoint_id"].as_u64().unwrap();
    }
    assert_eq!(count, 1000);
}
