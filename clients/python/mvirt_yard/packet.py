"""Ethernet, ARP, IPv4 and UDP: octets to values and back.

`parse` raises ValueError for octets that are not of the format; `build` computes lengths and
checksums. MACs and addresses are text, as people write them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

BROADCAST = "ff:ff:ff:ff:ff:ff"
ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
PROTOCOL_UDP = 17


def mac_octets(mac: str) -> bytes:
    """The six octets of a MAC like 02:53:59:00:00:01."""
    parts = mac.split(":")
    if len(parts) != 6 or any(len(part) != 2 for part in parts):
        raise ValueError(f"{mac!r}: expected a MAC like 02:53:59:00:00:01")
    return bytes(int(part, 16) for part in parts)


def mac_text(octets: bytes) -> str:
    """Six octets as text."""
    if len(octets) != 6:
        raise ValueError(f"{len(octets)} octets; a MAC has 6")
    return octets.hex(":")


def checksum(octets: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = octets + b"\0" * (len(octets) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _need(octets: bytes, length: int, what: str) -> None:
    if len(octets) < length:
        raise ValueError(f"{what} of {len(octets)} octets; expected at least {length}")


@dataclass(frozen=True)
class Eth:
    """An Ethernet II frame."""

    dst: str
    src: str
    ethertype: int
    payload: bytes

    @classmethod
    def parse(cls, octets: bytes) -> Eth:
        _need(octets, 14, "frame")
        (ethertype,) = struct.unpack_from("!H", octets, 12)
        return cls(mac_text(octets[:6]), mac_text(octets[6:12]), ethertype, bytes(octets[14:]))

    def build(self) -> bytes:
        addresses = mac_octets(self.dst) + mac_octets(self.src)
        return addresses + struct.pack("!H", self.ethertype) + self.payload


@dataclass(frozen=True)
class ARP:
    """An ARP packet for IPv4 over Ethernet (RFC 826)."""

    op: int
    sender_mac: str
    sender_ip: str
    target_mac: str
    target_ip: str

    REQUEST = 1
    REPLY = 2
    #: Ethernet, IPv4, and the lengths of their addresses.
    _KIND = b"\x00\x01\x08\x00\x06\x04"

    @classmethod
    def request(cls, mac: str, ip: str, target_ip: str) -> ARP:
        """The question where `target_ip` is."""
        return cls(cls.REQUEST, mac, ip, "00:00:00:00:00:00", target_ip)

    @classmethod
    def parse(cls, octets: bytes) -> ARP:
        _need(octets, 28, "ARP packet")
        if octets[:6] != cls._KIND:
            raise ValueError("ARP packet, but not for IPv4 over Ethernet")
        op, sha, spa, tha, tpa = struct.unpack_from("!H6s4s6s4s", octets, 6)
        sender, target = str(IPv4Address(spa)), str(IPv4Address(tpa))
        return cls(op, mac_text(sha), sender, mac_text(tha), target)

    def reply(self, mac: str) -> ARP:
        """The answer to this request: the address asked for is at `mac`."""
        return ARP(self.REPLY, mac, self.target_ip, self.sender_mac, self.sender_ip)

    def build(self) -> bytes:
        sender = mac_octets(self.sender_mac) + IPv4Address(self.sender_ip).packed
        target = mac_octets(self.target_mac) + IPv4Address(self.target_ip).packed
        return self._KIND + struct.pack("!H", self.op) + sender + target


@dataclass(frozen=True)
class IPv4:
    """An IPv4 packet (RFC 791); options are skipped, and not written."""

    src: str
    dst: str
    protocol: int
    payload: bytes
    ttl: int = 64
    identification: int = 0

    @classmethod
    def parse(cls, octets: bytes) -> IPv4:
        _need(octets, 20, "IPv4 packet")
        header_length = (octets[0] & 15) * 4
        (total_length, identification, fragment) = struct.unpack_from("!HHH", octets, 2)
        if octets[0] >> 4 != 4 or not 20 <= header_length <= total_length <= len(octets):
            raise ValueError("IPv4 packet whose lengths or version do not fit")
        # A part of a packet has no ports, or not all that they are of.
        if fragment & 0x3FFF:
            raise ValueError("IPv4 fragment")
        src, dst = (str(IPv4Address(bytes(octets[at : at + 4]))) for at in (12, 16))
        payload = bytes(octets[header_length:total_length])
        return cls(src, dst, octets[9], payload, octets[8], identification)

    def build(self) -> bytes:
        header = bytearray(
            struct.pack(
                "!BBHHHBBH4s4s",
                0x45,
                0,
                20 + len(self.payload),
                self.identification,
                0,
                self.ttl,
                self.protocol,
                0,
                IPv4Address(self.src).packed,
                IPv4Address(self.dst).packed,
            )
        )
        struct.pack_into("!H", header, 10, checksum(bytes(header)))
        return bytes(header) + self.payload


@dataclass(frozen=True)
class UDP:
    """A UDP datagram (RFC 768)."""

    src_port: int
    dst_port: int
    payload: bytes

    @classmethod
    def parse(cls, octets: bytes) -> UDP:
        _need(octets, 8, "UDP datagram")
        src_port, dst_port, length, _ = struct.unpack_from("!HHHH", octets)
        if not 8 <= length <= len(octets):
            raise ValueError("UDP datagram whose length does not fit")
        return cls(src_port, dst_port, bytes(octets[8:length]))

    def build(self, src: str, dst: str) -> bytes:
        """Its octets; the addresses go into the checksum."""
        length = 8 + len(self.payload)
        header = struct.pack("!HHHH", self.src_port, self.dst_port, length, 0)
        pseudo = IPv4Address(src).packed + IPv4Address(dst).packed
        pseudo += struct.pack("!BBH", 0, PROTOCOL_UDP, length)
        # 0 would say that there is no checksum.
        total = checksum(pseudo + header + self.payload) or 0xFFFF
        return header[:6] + struct.pack("!H", total) + self.payload
