"""Fabric protocol, version 1: messages to octets and back.

    u32 msg_len | u16 version | u16 type | u32 endpoint_id | u32 flags | payload

Every number is in network order; msg_len counts what follows it. A payload is JSON or a frame.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

VERSION = 1
#: Where a fabric listens.
HOST, PORT = "127.0.0.1", 9999
#: The flag of a subscription that hears every frame of the fabric.
PROMISC = 1
#: Octets of the longest frame: an Ethernet header and 64 KiB - 1 of IP.
MAX_PAYLOAD = 65549

HELLO = 1
WELCOME = 2
ENDPOINT_CREATE = 10
ENDPOINT_CREATED = 11
ENDPOINT_LOOKUP = 12
ENDPOINT_INFO = 13
SUBSCRIBE = 20
SUBSCRIBED = 21
PACKET_OUT = 30
PACKET_IN = 31
ERROR = 100

_LENGTH = struct.Struct("!I")
_REST = struct.Struct("!HHII")


class ProtocolError(Exception):
    """What came is no message of version 1."""


@dataclass(frozen=True)
class Message:
    """A message, in either direction."""

    type: int
    endpoint_id: int = 0
    flags: int = 0
    payload: bytes = b""

    @classmethod
    def of(cls, type: int, body: dict[str, Any], endpoint_id: int = 0, flags: int = 0) -> Message:
        """A message whose payload is JSON."""
        return cls(type, endpoint_id, flags, json.dumps(body).encode())

    def body(self) -> dict[str, Any]:
        """The payload as JSON."""
        try:
            body = json.loads(self.payload)
        except ValueError as error:
            raise ProtocolError(f"message of type {self.type}: {error}") from error
        if not isinstance(body, dict):
            raise ProtocolError(f"message of type {self.type}: expected an object")
        return body

    def pack(self) -> bytes:
        """Its octets."""
        if len(self.payload) > MAX_PAYLOAD:
            octets = len(self.payload)
            raise ValueError(f"payload of {octets} octets; expected at most {MAX_PAYLOAD}")
        rest = _REST.pack(VERSION, self.type, self.endpoint_id, self.flags)
        return _LENGTH.pack(len(rest) + len(self.payload)) + rest + self.payload


class Decoder:
    """Cuts a stream into messages, in whatever pieces it comes."""

    def __init__(self) -> None:
        self._octets = bytearray()

    def push(self, octets: bytes) -> list[Message]:
        """Takes what came next; returns the messages that are complete with it."""
        self._octets += octets
        messages, at = [], 0
        while len(self._octets) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._octets, at)
            if not _REST.size <= length <= _REST.size + MAX_PAYLOAD:
                raise ProtocolError(f"msg_len {length}: not of this protocol")
            end = at + _LENGTH.size + length
            if len(self._octets) < end:
                break
            version, type, endpoint_id, flags = _REST.unpack_from(self._octets, at + _LENGTH.size)
            if version != VERSION:
                raise ProtocolError(f"protocol version mismatch: {version} != {VERSION}")
            payload = bytes(self._octets[at + _LENGTH.size + _REST.size : end])
            messages.append(Message(type, endpoint_id, flags, payload))
            at = end
        # Once a piece, not once a message.
        del self._octets[:at]
        return messages
