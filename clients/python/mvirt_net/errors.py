"""Why a call has failed: an exception for each way to react, made of the status that gRPC has."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import grpc

from . import details_pb2 as details

#: Who says a reason of ours.
_DOMAIN = "mvirt.net"
#: Where gRPC carries details.
_KEY = "grpc-status-details-bin"


class Reason(str, Enum):
    """Why the daemon refuses. proto/net.proto says of each what it is."""

    INVALID = "INVALID"
    TAKEN = "TAKEN"
    NOT_FOUND = "NOT_FOUND"
    NOT_EMPTY = "NOT_EMPTY"
    CONNECTED = "CONNECTED"
    NOT_SERVED = "NOT_SERVED"
    CHANGED = "CHANGED"
    EXHAUSTED = "EXHAUSTED"
    NOT_PERMITTED = "NOT_PERMITTED"
    NOT_STORED = "NOT_STORED"
    SOCKET = "SOCKET"
    FORBIDDEN = "FORBIDDEN"
    IN_USE = "IN_USE"
    NOT_READY = "NOT_READY"
    #: None was given, or one that a newer daemon knows.
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True)
class Object:
    """What a refusal is about: what there is not, or the value that is taken, and who has it."""

    kind: str
    name: str
    owner: str


class Error(Exception):
    """A call has failed."""


class Unreachable(Error):
    """Nobody answers, or the daemon is about to end: ask again."""


class Late(Error):
    """The daemon has not answered in time."""


class Refused(Error):
    """The daemon says no, and has changed nothing; with Reason.UNKNOWN it may have been somebody else,
    like a proxy, who does not know what was changed."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        reason: Reason = Reason.UNKNOWN,
        field: str | None = None,
        object: Object | None = None,
        etag: str | None = None,
    ) -> None:
        super().__init__(f"{code.name}: {message}")
        #: Of gRPC.
        self.code = code
        #: For people: it names the field and the value.
        self.message = message
        #: For programs.
        self.reason = reason
        #: The field of the request, of INVALID and TAKEN.
        self.field = field
        #: Of NOT_FOUND and TAKEN.
        self.object = object
        #: What the object's etag is by now, of CHANGED.
        self.etag = etag


def of(error: grpc.RpcError) -> Error:
    """The exception for an error of gRPC."""
    code, message = error.code(), error.details() or ""
    if code == grpc.StatusCode.UNAVAILABLE:
        return Unreachable(message)
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return Late(message)
    refused = Refused(code, message)
    for key, value in error.trailing_metadata() or ():
        if key == _KEY:
            _read(details.Status.FromString(value), refused)
    return refused


def _read(status: details.Status, refused: Refused) -> None:
    for detail in status.details:
        kind = detail.type_url.rsplit(".", 1)[-1]
        if kind == "ErrorInfo":
            info = details.ErrorInfo.FromString(detail.value)
            # Reasons of others, like proxies, are not ours.
            if info.domain == _DOMAIN:
                known = info.reason in Reason.__members__
                refused.reason = Reason(info.reason) if known else Reason.UNKNOWN
                refused.field = info.metadata.get("field")
                refused.etag = info.metadata.get("etag")
        elif kind == "ResourceInfo":
            it = details.ResourceInfo.FromString(detail.value)
            refused.object = Object(it.resource_type, it.resource_name, it.owner)
