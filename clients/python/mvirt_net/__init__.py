"""A client of the API of mvirt-net.

`Client` has a method for each call, `net` the messages; both are generated from proto/net.proto.
"""

from . import net_pb2 as net
from .client import Client
from .connection import Connection, Stream
from .errors import Error, Late, Object, Reason, Refused, Unreachable

__all__ = [
    "Client",
    "Connection",
    "Error",
    "Late",
    "Object",
    "Reason",
    "Refused",
    "Stream",
    "Unreachable",
    "net",
]
