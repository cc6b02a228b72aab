//! The console's page, in a browser: what people see, and what guests cannot do to them.

use super::{
    console::{FLAGS, address, live, next},
    trunks::vlans,
    webdriver::Browser,
};
use crate::{
    daemon::{Daemon, wait_until},
    events::wait_for_event,
    frames::Udp4,
    guest::{Guest, pair},
    streams::free_ports,
};
use dhcproto::{
    Encodable as _,
    v4::{DhcpOption, Message, MessageType},
};
use mvirt_net::proto::{CreatePortRequest, NetworkKind};
use serde_json::Value;
use std::{
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

/// What WebDriver calls the keys.
const ENTER: &str = "\u{e007}";
const TAB: &str = "\u{e004}";
const DOWN: &str = "\u{e015}";

/// What a guest would like its name to be.
const HOSTILE: &str = "<img src=x onerror=alert(1)><script>alert(2)</script>";

fn is_live(browser: &Browser) {
    browser.wait("document.getElementById('connection').textContent === 'live'");
}

/// Fails where the page has asked others, or has complained.
fn is_quiet(browser: &Browser, base: &str) {
    let said = browser.log("browser");
    assert!(said.is_empty(), "its console has {said:?}");
    let mut asked = 0;
    for entry in browser.log("performance") {
        let entry: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
        let message = &entry["message"];
        if message["method"] == "Network.requestWillBeSent" {
            let url = message["params"]["request"]["url"].as_str().unwrap();
            let is_own = url.starts_with(base) || url.starts_with("data:") || url == "about:blank";
            assert!(is_own, "it asked {url}");
            asked += 1;
        }
    }
    assert!(asked > 10, "it was listened to");
}

/// Takes a lease under a name.
fn lease_as(guest: &mut Guest, name: &str, address: &str) {
    let mut request = Message::default();
    request.set_xid(77).set_chaddr(&guest.mac);
    for option in [
        DhcpOption::MessageType(MessageType::Request),
        DhcpOption::Hostname(name.into()),
        DhcpOption::ClassIdentifier(name.into()),
        DhcpOption::RequestedIpAddress(address.parse().unwrap()),
    ] {
        request.opts_mut().insert(option);
    }
    let payload = request.to_vec().unwrap();
    let mut udp = Udp4::new(guest.mac, "0.0.0.0", "255.255.255.255", &payload);
    (udp.to_mac, udp.ports) = ([0xff; 6], (68, 67));
    guest.send(&udp.frame());
}

#[test]
fn the_console_updates_within_two_seconds_and_asks_nobody_else() {
    let mut daemon = Daemon::start_with(FLAGS);
    let base = format!("http://{}/", address(&daemon));
    let (_, [mut a, mut b]) = pair(&mut daemon);
    let Some(browser) = Browser::start() else { return };
    browser.open(&base);
    is_live(&browser);
    browser.wait("document.getElementById('tile-nics').textContent === '2'");
    browser.wait("document.getElementById('tile-from').textContent.startsWith('0')");
    assert!(b.answers(&mut a, "10.0.0.2"));
    let sent = Instant::now();
    browser.wait("!document.getElementById('tile-from').textContent.startsWith('0')");
    let took = sent.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let made = Instant::now();
    daemon.nic("prod", "late");
    browser.wait("document.getElementById('tile-nics').textContent === '3'");
    assert!(made.elapsed() < Duration::from_secs(2), "{:?}", made.elapsed());
    browser.wait("document.querySelectorAll('.dot').length === 3");
    for page in [
        "networks",
        "network/prod",
        "members",
        "nic/a",
        "events",
        "leases",
        "reactors",
        "explain/a",
    ] {
        browser.run(&format!("location.hash = '#/{page}'"));
        browser.wait(&format!("location.hash === '#/{page}' && document.querySelector('h1')"));
    }
    // A packet that is explained.
    browser.run("document.getElementById('explain-destination').value = '10.0.0.2'");
    browser.run("document.querySelector('form').requestSubmit()");
    browser.wait("document.querySelector('.verdict strong')?.textContent === 'delivered'");
    is_quiet(&browser, &base);
    assert!(daemon.hand_over(), "{}", daemon.log());
    is_live(&browser);
    daemon.nic("prod", "later");
    browser.run("location.hash = '#/'");
    browser.wait("document.getElementById('tile-nics').textContent === '4'");
}

#[test]
fn what_a_guest_calls_itself_is_text_and_nothing_else() {
    let mut daemon = Daemon::start_with(FLAGS);
    let base = format!("http://{}/", address(&daemon));
    let (_, [mut a, _b]) = pair(&mut daemon);
    lease_as(&mut a, HOSTILE, "10.0.0.1");
    wait_until("its name is seen", || {
        daemon.get_nic("a").guest.is_some_and(|guest| !guest.hostname.is_empty())
    });
    let Some(browser) = Browser::start() else { return };
    for page in ["nic/a", "events", "leases"] {
        browser.open(&format!("{base}#/{page}"));
        browser.run("location.reload()");
        is_live(&browser);
        browser.wait("document.body.innerText.includes('<img src=x')");
        assert_eq!(
            browser.run("return document.querySelectorAll('main img, main script').length"),
            0
        );
    }
    is_quiet(&browser, &base);
}

#[test]
fn what_happens_is_seen_as_it_does_by_its_kind_and_at_its_vnic() {
    let mut daemon = Daemon::start_with(FLAGS);
    let base = format!("http://{}/", address(&daemon));
    let (_, [mut a, _b]) = pair(&mut daemon);
    a.lease();
    wait_for_event(&mut daemon, "lease", |event| event.details["nic"] == "a");
    daemon.network_with("many", |request| request.ipv4_subnet = "10.1.0.0/16".into());
    for number in 0..600 {
        daemon.nic("many", &format!("vm{number}"));
    }
    let Some(browser) = Browser::start() else { return };
    let count = "document.querySelector('table[aria-label=Events]')?.getAttribute('aria-rowcount')";
    let first = "document.querySelector('tbody tr:not([aria-hidden])')?.innerText";
    browser.open(&format!("{base}#/events"));
    is_live(&browser);
    browser.wait(&format!("{count} === '501'"));
    browser.wait(&format!("{first}.includes('vNIC vm599 was created')"));
    let rows = browser.run("return document.querySelectorAll('tbody tr').length");
    assert!(rows.as_u64() < Some(80), "only those are made that are seen: {rows}");
    let made = Instant::now();
    daemon.network("late");
    browser.wait(&format!("{first}.includes('network late was created')"));
    assert!(made.elapsed() < Duration::from_secs(3), "{:?}", made.elapsed());
    assert_eq!(browser.run(&format!("return {count}")), "501", "the oldest is gone");
    // By the keyboard: a kind, older than what was shown; and from its row to the vNIC.
    browser.wait("document.querySelectorAll('select option').length > 10");
    browser.run("document.querySelector('select').focus()");
    browser.press("lease");
    browser.wait(&format!("{count} === '2' && {first}.includes('has leased 10.0.0.1')"));
    for _ in 0..8 {
        browser.press(TAB);
        if browser.run("return document.activeElement.className") == "scroll" {
            break;
        }
    }
    browser.press(DOWN);
    browser.press(ENTER);
    browser.wait("location.hash === '#/nic/a'");
    browser.wait("document.querySelector('main').innerText.includes('has leased 10.0.0.1')");
    drop(a);
    browser.wait("document.querySelector('main').innerText.includes('vNIC a is created')");
    assert!(!browser.text("main").contains("vNIC vm599"), "events of others");
    is_quiet(&browser, &base);
}

#[test]
fn a_lease_is_seen_as_it_is_taken() {
    let mut daemon = Daemon::start_with(FLAGS);
    let base = format!("http://{}/", address(&daemon));
    let (_, [mut a, _b]) = pair(&mut daemon);
    let Some(browser) = Browser::start() else { return };
    browser.open(&format!("{base}#/leases"));
    is_live(&browser);
    browser.wait(
        "document.querySelector('.empty').innerText === 'Nobody has asked for an address yet.'",
    );
    a.lease();
    let leased = Instant::now();
    browser.wait("document.querySelector('main').innerText.includes('10.0.0.1')");
    assert!(leased.elapsed() < Duration::from_secs(3), "{:?}", leased.elapsed());
    is_quiet(&browser, &base);
}

#[test]
fn what_a_vnic_has_carried_and_dropped_is_seen_whenever_one_begins_to_look() {
    let mut daemon = Daemon::start_with(FLAGS);
    let at = address(&daemon);
    let base = format!("http://{at}/");
    let (_, [mut a, _b]) = pair(&mut daemon);
    let mut nobody = || a.send(&Udp4::new(a.mac, "10.0.0.1", "10.0.0.99", b"nobody").frame());
    nobody();
    // Another looks already.
    let mut first = live(at);
    next(&mut first, "stats", |_| true);
    let Some(browser) = Browser::start() else { return };
    browser.open(&format!("{base}#/nic/a"));
    is_live(&browser);
    let dropped = "document.querySelector('table.drops tbody tr')?.innerText";
    browser.wait(&format!("/^no_route[^]*\\b1\\b/.test({dropped})"));
    nobody();
    browser.wait(&format!("/^no_route[^]*\\b2\\b/.test({dropped})"));
    browser.wait("document.querySelector('main').innerText.includes('Since the daemon started')");
    is_quiet(&browser, &base);
}

#[test]
fn a_trunk_is_a_member_of_each_of_its_networks() {
    let mut daemon = Daemon::start_with(FLAGS);
    let base = format!("http://{}/", address(&daemon));
    for name in ["red", "blue"] {
        daemon.network_with(name, |request| {
            request.kind = NetworkKind::Switched.into();
            request.ipv4_subnet.clear();
            request.ipv6_prefix.clear();
        });
    }
    let [port] = free_ports();
    let request = CreatePortRequest {
        network_id: "red".into(),
        name: "up".into(),
        locator: format!("stream-listen://127.0.0.1:{port}"),
        vlans: vlans(&[(20, "blue")]),
        ..Default::default()
    };
    daemon.call(async |client| client.create_port(request).await).unwrap();
    let Some(browser) = Browser::start() else { return };
    browser.open(&format!("{base}#/networks"));
    is_live(&browser);
    browser.wait(
        "[...document.querySelectorAll('tbody tr:not([aria-hidden])')]\
         .map((row) => row.children[5].innerText).join() === '1,1'",
    );
    browser.run("location.hash = '#/'");
    browser.wait("document.querySelectorAll('.dot').length === 2");
    is_quiet(&browser, &base);
}

#[test]
fn a_thousand_vnics_are_found_by_the_keyboard() {
    let mut daemon = Daemon::start_with(FLAGS);
    let base = format!("http://{}/", address(&daemon));
    daemon.network_with("prod", |request| request.ipv4_subnet = "10.0.0.0/16".into());
    for number in 0..1000 {
        daemon.nic("prod", &format!("vm{number}"));
    }
    let Some(browser) = Browser::start() else { return };
    browser.open(&base);
    is_live(&browser);
    browser.wait("document.querySelectorAll('.dot').length === 1000");
    let asked = Instant::now();
    browser.run("location.hash = '#/members'");
    browser.wait("document.querySelector('table').getAttribute('aria-rowcount') === '1001'");
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    let rows = browser.run("return document.querySelectorAll('tbody tr').length");
    assert!(rows.as_u64() < Some(80), "only those are made that are seen: {rows}");
    browser.run("document.querySelector('input[type=search]').focus()");
    browser.press("vm77");
    browser.wait("document.querySelector('.count').textContent === '11 of 1000'");
    // From the filter by the headings to the rows.
    for _ in 0..8 {
        browser.press(TAB);
        if browser.run("return document.activeElement.className") == "scroll" {
            break;
        }
    }
    browser.press(DOWN);
    browser.press(DOWN);
    browser.press(ENTER);
    browser.wait("location.hash === '#/nic/vm770'");
    assert_eq!(browser.text("h1"), "vm770");
    is_quiet(&browser, &base);
}

#[test]
fn the_token_is_asked_for_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, "a-token-of-the-test\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let path = path.display().to_string();
    let daemon = Daemon::start_with(&[FLAGS, &["--http-token", &path]].concat());
    let Some(browser) = Browser::start() else { return };
    browser.open(&format!("http://{}/", address(&daemon)));
    browser.wait("document.querySelector('dialog[open] input') === document.activeElement");
    browser.press("wrong");
    browser.press(ENTER);
    browser.wait("document.querySelector('dialog[open] input')?.value === ''");
    browser.press("a-token-of-the-test");
    browser.press(ENTER);
    is_live(&browser);
    browser.run("location.reload()");
    is_live(&browser);
}
