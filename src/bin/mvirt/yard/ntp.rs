//! `mvirt yard ntp`: answers NTP (RFC 5905) with this host's clock: enough for a client to set its
//! own by, and no more.

use super::{Fabric, Failure, output};
use clap::Args;
use std::{net::Ipv4Addr, time::SystemTime};

/// The port of NTP (RFC 5905 §7.2).
const PORT: u16 = 123;
/// Octets of a packet without extensions (RFC 5905 §7.3).
const PACKET_LEN: usize = 48;
/// Seconds from NTP's era 0, which begins in 1900, to Unix's (RFC 5905 §6).
const SINCE_1900: u64 = 2_208_988_800;

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    fabric: Fabric,
    /// The endpoint's name
    #[arg(long, default_value = "svc_ntp")]
    name: String,
    /// Its address
    #[arg(long, value_name = "ADDR", default_value = "10.0.0.3")]
    ip: Ipv4Addr,
}

pub(super) async fn run(Flags { fabric, name, ip }: Flags) -> Result<(), Failure> {
    let member = fabric.join(&name, 0).await?;
    let (id, mac) = (member.endpoint.endpoint_id, member.endpoint.mac);
    output::print(&format!("[{name}] endpoint_id={id} mac={mac} ip={ip} udp_port={PORT}\n"))?;
    let host = member.host(ip);
    Err(member
        .serve(|frame| {
            let time = || {
                let request = host.received(frame, PORT)?;
                host.reply(&request, &answer(request.payload, SystemTime::now()))
            };
            host.answer_arp(frame).or_else(time)
        })
        .await)
}

/// A time as seconds and their fractions, 32 bits each.
fn timestamp(time: SystemTime) -> [u8; 8] {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // Of the era that the time is in: the next begins in 2036.
    let seconds = (since.as_secs() + SINCE_1900) as u32;
    let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
    ((u64::from(seconds) << 32) | fraction).to_be_bytes()
}

/// The answer to a request, which may be shorter than it should be.
fn answer(request: &[u8], now: SystemTime) -> [u8; PACKET_LEN] {
    let mut packet = [0; PACKET_LEN];
    // No leap second, version 4, server; stratum 1; poll 16 s; precision a microsecond.
    packet[..4].copy_from_slice(&[4 << 3 | 4, 1, 4, (-20_i8).cast_unsigned()]);
    packet[12..16].copy_from_slice(b"LOCL");
    let now = timestamp(now);
    packet[16..24].copy_from_slice(&now);
    // By this the client finds its request again.
    if let Some(sent) = request.get(40..48) {
        packet[24..32].copy_from_slice(sent);
    }
    packet[32..40].copy_from_slice(&now);
    packet[40..48].copy_from_slice(&now);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    // seed H.4.37
    #[test]
    fn an_answer_has_the_octets_of_the_seeds_program() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_000_500);
        let mut request = [0; 48];
        request[40..].copy_from_slice(b"original");
        let answer = answer(&request, now);
        // 3 208 988 800 s after 1900, and a half.
        let stamp = b"\xbf\x45\x48\x80\x80\0\0\0";
        let expected =
            [&b"\x24\x01\x04\xec\0\0\0\0\0\0\0\0LOCL"[..], stamp, b"original", stamp, stamp];
        assert_eq!(answer.escape_ascii().to_string(), expected.concat().escape_ascii().to_string());
        assert_eq!(super::answer(b"short", now)[24..32], [0; 8]);
    }
}
