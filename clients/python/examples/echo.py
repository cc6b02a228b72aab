"""Answers ARP for 10.0.0.2, and sends back what comes to its UDP port 7007.

Run it with the folder that has mvirt_yard in PYTHONPATH, and a fabric on 127.0.0.1:9999, or where
SWITCHYARD_SERVER says.
"""

import asyncio
import os

from mvirt_yard import ARP, ETHERTYPE_ARP, ETHERTYPE_IPV4, PROTOCOL_UDP, UDP, Client, Eth, IPv4

NAME, IP, PORT = "svc_echo", "10.0.0.2", 7007


def answer(octets: bytes, mac: str) -> "bytes | None":
    """The frame that answers a frame; None where there is nothing to say."""
    frame = Eth.parse(octets)
    if frame.ethertype == ETHERTYPE_ARP:
        arp = ARP.parse(frame.payload)
        if (arp.op, arp.target_ip) != (ARP.REQUEST, IP):
            return None
        return Eth(frame.src, mac, ETHERTYPE_ARP, arp.reply(mac).build()).build()
    if frame.ethertype != ETHERTYPE_IPV4:
        return None
    packet = IPv4.parse(frame.payload)
    if (packet.protocol, packet.dst) != (PROTOCOL_UDP, IP):
        return None
    datagram = UDP.parse(packet.payload)
    if datagram.dst_port != PORT:
        return None
    echo = UDP(PORT, datagram.src_port, datagram.payload).build(IP, packet.src)
    echo = IPv4(IP, packet.src, PROTOCOL_UDP, echo).build()
    return Eth(frame.src, mac, ETHERTYPE_IPV4, echo).build()


async def main() -> None:
    host, _, port = os.environ.get("SWITCHYARD_SERVER", "127.0.0.1:9999").rpartition(":")
    async with Client(host, int(port), NAME) as client:
        endpoint = await client.create_endpoint(NAME)
        await client.subscribe(endpoint)
        place = f"endpoint_id={endpoint.id} mac={endpoint.mac} ip={IP} udp_port={PORT}"
        print(f"[{NAME}] {place}", flush=True)
        async for frame in client.frames():
            try:
                reply = answer(frame.octets, endpoint.mac)
            except ValueError:
                # Not for us, or not sound: a service is silent about it.
                continue
            if reply is not None:
                await client.send(endpoint, reply)


if __name__ == "__main__":
    asyncio.run(main())
