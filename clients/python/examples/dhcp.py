"""Leases addresses 10.0.0.100 to 10.0.0.199 by DHCP (RFC 2131), for as long as it runs.

What it says of a client's address, it says to its MAC, which the fabric knows. Run it as echo.py.
"""

import asyncio
import os
import struct

from mvirt_yard import ARP, ETHERTYPE_ARP, ETHERTYPE_IPV4, PROTOCOL_UDP, UDP, Client, Eth, IPv4

NAME, IP = "svc_dhcp", "10.0.0.254"
LEASE_SECONDS = 3600
DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6
#: Op, hardware, transaction, seconds, flags, four addresses, hardware address, names, cookie.
HEADER = struct.Struct("!4sIHH4s4s4s4s16s192x4s")
COOKIE = b"\x63\x82\x53\x63"


def octets(address: str) -> bytes:
    return bytes(int(part) for part in address.split("."))


def options(payload: bytes) -> "dict[int, bytes]":
    """The options behind the header."""
    found, at = {}, HEADER.size
    while at + 1 < len(payload) and payload[at] != 255:
        if payload[at] == 0:
            at += 1
            continue
        length = payload[at + 1]
        found[payload[at]] = payload[at + 2 : at + 2 + length]
        at += 2 + length
    return found


class Leases:
    """Who has which address. A client that comes back has the same."""

    def __init__(self) -> None:
        self.by_mac: "dict[bytes, str]" = {}

    def of(self, mac: bytes) -> "str | None":
        if mac not in self.by_mac and len(self.by_mac) < 100:
            self.by_mac[mac] = f"10.0.0.{100 + len(self.by_mac)}"
        return self.by_mac.get(mac)

    def answer(self, payload: bytes) -> "bytes | None":
        """What is said to a client's message."""
        if len(payload) < HEADER.size:
            return None
        kind, xid, _, flags, _, _, _, _, hardware, cookie = HEADER.unpack_from(payload)
        asked = options(payload)
        address = self.of(hardware[:6])
        if kind[:3] != b"\x01\x01\x06" or cookie != COOKIE or address is None:
            return None
        # Another server's, whom the client has chosen.
        if asked.get(54, octets(IP)) != octets(IP):
            return None
        message = {DISCOVER: OFFER, REQUEST: ACK}.get(int.from_bytes(asked.get(53, b""), "big"))
        if message is None:
            return None
        if message == ACK and asked.get(50, octets(address)) != octets(address):
            message, address = NAK, "0.0.0.0"
        zero = bytes(4)
        fixed = HEADER.pack(
            b"\x02\x01\x06\0", xid, 0, flags, zero, octets(address), zero, zero, hardware, COOKIE
        )
        said = [(53, bytes([message])), (54, octets(IP))]
        if message != NAK:
            said += [(51, struct.pack("!I", LEASE_SECONDS)), (1, octets("255.255.255.0"))]
        return fixed + b"".join(bytes([code, len(value)]) + value for code, value in said) + b"\xff"


def answer(octets: bytes, mac: str, leases: Leases) -> "bytes | None":
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
    datagram = UDP.parse(packet.payload) if packet.protocol == PROTOCOL_UDP else None
    said = leases.answer(datagram.payload) if datagram and datagram.dst_port == 67 else None
    if said is None:
        return None
    # To all, as the client has no address yet; but only its endpoint hears it.
    reply = UDP(67, 68, said).build(IP, "255.255.255.255")
    reply = IPv4(IP, "255.255.255.255", PROTOCOL_UDP, reply).build()
    return Eth(frame.src, mac, ETHERTYPE_IPV4, reply).build()


async def main() -> None:
    host, _, port = os.environ.get("SWITCHYARD_SERVER", "127.0.0.1:9999").rpartition(":")
    leases = Leases()
    async with Client(host, int(port), NAME) as client:
        endpoint = await client.create_endpoint(NAME)
        await client.subscribe(endpoint)
        print(f"[{NAME}] endpoint_id={endpoint.id} mac={endpoint.mac} ip={IP}", flush=True)
        async for frame in client.frames():
            try:
                reply = answer(frame.octets, endpoint.mac, leases)
            except ValueError:
                # Not for us, or not sound: a service is silent about it.
                continue
            if reply is not None:
                await client.send(endpoint, reply)


if __name__ == "__main__":
    asyncio.run(main())
