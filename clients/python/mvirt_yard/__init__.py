"""A client of a Switchyard fabric: raw Ethernet frames between programs, over TCP.

    async with Client() as client:
        endpoint = await client.create_endpoint("me")
        await client.subscribe(endpoint)
        await client.send(endpoint, Eth(BROADCAST, endpoint.mac, 0xBEEF, b"hello").build())
        async for frame in client.frames():
            print(Eth.parse(frame.octets))

`client` has the client, `packet` Ethernet, ARP, IPv4 and UDP, `protocol` the octets of messages.
Only the standard library is used, and nothing that only UNIX has.
"""

from .client import Client, Closed, Endpoint, Frame, Refused
from .packet import ARP, BROADCAST, ETHERTYPE_ARP, ETHERTYPE_IPV4, PROTOCOL_UDP, Eth, IPv4, UDP
from .protocol import PROMISC, ProtocolError

__all__ = [
    "ARP",
    "BROADCAST",
    "Client",
    "Closed",
    "ETHERTYPE_ARP",
    "ETHERTYPE_IPV4",
    "Endpoint",
    "Eth",
    "Frame",
    "IPv4",
    "PROMISC",
    "PROTOCOL_UDP",
    "ProtocolError",
    "Refused",
    "UDP",
]
