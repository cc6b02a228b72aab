//! The octets of every message of version 1, which programs in other languages rely on. They do not
//! change any more.

use crate::support::{Client, Fabric};
use std::io::Read as _;

/// A message whose payload is text.
fn with(head: &[u8; 16], payload: &str) -> Vec<u8> {
    [head, payload.as_bytes()].concat()
}

/// Sends octets and compares those that come back.
fn exchange(client: &mut Client, sent: &[u8], expected: &[u8]) {
    client.send_raw(sent);
    let mut octets = vec![0; expected.len()];
    client.stream.read_exact(&mut octets).unwrap();
    let text = |octets: &[u8]| octets.escape_ascii().to_string();
    assert_eq!(text(&octets), text(expected));
}

// seed H.4.18, H.4.19–29, H.4.49
#[test]
fn every_message_of_version_1_has_its_octets() {
    let fabric = Fabric::start(&[]);
    let (mut a, mut b) = (fabric.connect(), fabric.connect());
    let hello = with(b"\0\0\0\x20\0\x01\0\x01\0\0\0\0\0\0\0\0", r#"{"client_name": "a"}"#);
    let welcome = with(
        b"\0\0\0\x33\0\x01\0\x02\0\0\0\0\0\0\0\0",
        r#"{"server": "switchyardd", "version": 1}"#,
    );
    exchange(&mut a, &hello, &welcome);
    exchange(&mut b, &hello, &welcome);
    exchange(
        &mut a,
        &with(b"\0\0\0\x19\0\x01\0\x0a\0\0\0\0\0\0\0\0", r#"{"name": "a"}"#),
        &with(
            b"\0\0\0\x47\0\x01\0\x0b\0\0\0\0\0\0\0\0",
            r#"{"endpoint_id": 1, "name": "a", "mac": "02:53:59:00:00:01"}"#,
        ),
    );
    exchange(
        &mut b,
        &with(
            b"\0\0\0\x35\0\x01\0\x0a\0\0\0\0\0\0\0\0",
            r#"{"name": "b", "mac": "52:54:00:12:34:56"}"#,
        ),
        &with(
            b"\0\0\0\x47\0\x01\0\x0b\0\0\0\0\0\0\0\0",
            r#"{"endpoint_id": 2, "name": "b", "mac": "52:54:00:12:34:56"}"#,
        ),
    );
    exchange(
        &mut a,
        &with(b"\0\0\0\x19\0\x01\0\x0c\0\0\0\0\0\0\0\0", r#"{"name": "b"}"#),
        &with(
            b"\0\0\0\x47\0\x01\0\x0d\0\0\0\0\0\0\0\0",
            r#"{"endpoint_id": 2, "name": "b", "mac": "52:54:00:12:34:56"}"#,
        ),
    );
    exchange(
        &mut b,
        &with(
            b"\0\0\0\x2f\0\x01\0\x14\0\0\0\x02\0\0\0\x01",
            r#"{"endpoint_id": 2, "promisc": true}"#,
        ),
        b"\0\0\0\x0e\0\x01\0\x15\0\0\0\x02\0\0\0\x01{}",
    );
    let frame = b"\x52\x54\0\x12\x34\x56\x02\x53\x59\0\0\x01\xbe\xefhi";
    a.send_raw(&[&b"\0\0\0\x1c\0\x01\0\x1e\0\0\0\x01\0\0\0\0"[..], frame].concat());
    exchange(&mut b, b"", &[&b"\0\0\0\x1c\0\x01\0\x1f\0\0\0\x02\0\0\0\x01"[..], frame].concat());
    exchange(
        &mut a,
        &with(b"\0\0\0\x19\0\x01\0\x0c\0\0\0\0\0\0\0\0", r#"{"name": "c"}"#),
        &with(b"\0\0\0\x2c\0\x01\0\x64\0\0\0\0\0\0\0\0", r#"{"error": "no such endpoint: c"}"#),
    );
    // The JSON of SUBSCRIBE may be empty: its header counts.
    exchange(
        &mut a,
        b"\0\0\0\x0c\0\x01\0\x14\0\0\0\x01\0\0\0\0",
        b"\0\0\0\x0e\0\x01\0\x15\0\0\0\x01\0\0\0\0{}",
    );
}
