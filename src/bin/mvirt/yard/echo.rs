//! `mvirt yard echo`: answers ARP for its address, and sends UDP datagrams back; pings, too, if
//! asked.

use super::{Fabric, Failure, output};
use clap::Args;
use std::net::Ipv4Addr;

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    fabric: Fabric,
    /// The endpoint's name
    #[arg(long, default_value = "svc_echo")]
    name: String,
    /// Its address
    #[arg(long, value_name = "ADDR", default_value = "10.0.0.2")]
    ip: Ipv4Addr,
    /// The UDP port that is answered
    #[arg(long, default_value = "7007", value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Answer pings, too
    #[arg(long)]
    pings: bool,
}

pub(super) async fn run(Flags { fabric, name, ip, port, pings }: Flags) -> Result<(), Failure> {
    let member = fabric.join(&name, 0).await?;
    let (id, mac) = (member.endpoint.endpoint_id, member.endpoint.mac);
    output::print(&format!("[{name}] endpoint_id={id} mac={mac} ip={ip} udp_port={port}\n"))?;
    let host = member.host(ip);
    Err(member
        .serve(|frame| {
            let echo = || {
                let datagram = host.received(frame, port)?;
                host.reply(&datagram, datagram.payload)
            };
            let pong = || if pings { host.pong(frame) } else { None };
            host.answer_arp(frame).or_else(echo).or_else(pong)
        })
        .await)
}
