"""The way to a daemon, by the addresses and variables that `mvirt` takes."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Generic, Iterator, TypeVar

import grpc

from . import errors

T = TypeVar("T")

#: Where the service listens, and where a daemon without flags does.
_SERVICE = "/run/mvirt/net-api.sock"
_DEFAULT = "[::1]:50054"
#: Octets of an answer at most: what 16,384 vNICs with 512 prefixes each can come to.
_MAX_ANSWER = 512 << 20


class Stream(Generic[T]):
    """Answers that come one after the other. It ends with `cancel`, or the `with` that it is in."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.CANCELLED:
                raise StopIteration from None
            raise errors.of(error) from error

    def cancel(self) -> None:
        """Wants no more."""
        self._call.cancel()

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()


class Connection:
    """A connection to a daemon, also `with`. It is made at the first call, and anew where it has
    ended.

    What is not given is as `mvirt` has it without flags: from the variables MVIRT_NET_SERVER,
    MVIRT_NET_SERVER_CA, MVIRT_NET_CLIENT_CERT and MVIRT_NET_CLIENT_KEY, and then where the service
    listens, or [::1]:50054.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        ca: str | Path | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        timeout: float = 10.0,
    ) -> None:
        default = f"unix:{_SERVICE}" if os.path.exists(_SERVICE) else _DEFAULT
        self.address = address or os.environ.get("MVIRT_NET_SERVER") or default
        #: Seconds that an answer may take, or the beginning of a stream.
        self.timeout = timeout
        ca = ca or os.environ.get("MVIRT_NET_SERVER_CA")
        certificate = certificate or os.environ.get("MVIRT_NET_CLIENT_CERT")
        key = key or os.environ.get("MVIRT_NET_CLIENT_KEY")
        # An empty variable is none.
        if bool(certificate) != bool(key):
            raise ValueError("a certificate and its key go together: give both")
        target, is_secure = _target(self.address)
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", _MAX_ANSWER),
            # The daemon is on this host, or where it was said to be.
            ("grpc.enable_http_proxy", 0),
        ]
        if is_secure:
            read = [Path(file).read_bytes() if file else None for file in (ca, key, certificate)]
            credentials = grpc.ssl_channel_credentials(*read)
            self._channel = grpc.secure_channel(target, credentials, options)
        else:
            if target.startswith("unix:"):
                # gRPC would send the path as the name of the host, which HTTP/2 servers refuse.
                options.append(("grpc.default_authority", "localhost"))
            self._channel = grpc.insecure_channel(target, options)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection, and what is still watched."""
        self._channel.close()

    def _call(self, method: str, request: Any, answer: Any) -> Any:
        call = self._channel.unary_unary(
            f"/mvirt.net.NetService/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        try:
            return call(request, timeout=self.timeout)
        except grpc.RpcError as error:
            raise errors.of(error) from error

    def _stream(self, method: str, request: Any, answer: Any) -> Any:
        call = self._channel.unary_stream(
            f"/mvirt.net.NetService/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        stream = call(request)
        # A deadline would end what is watched: only the beginning has one.
        late = threading.Timer(self.timeout, stream.cancel)
        late.daemon = True
        late.start()
        # Returns also where there will be none.
        stream.initial_metadata()
        late.cancel()
        late.join()
        if stream.cancelled():
            raise errors.Late(f"no answer within {self.timeout} s")
        return Stream(stream)


def _target(address: str) -> tuple[str, bool]:
    """Returns what gRPC dials, and whether it speaks TLS there."""
    if address.startswith("unix:") and address != "unix:":
        return address, False
    for kind, is_secure in (("http://", False), ("https://", True)):
        if address.startswith(kind) and address != kind:
            return address.removeprefix(kind).rstrip("/"), is_secure
    if "://" in address or address.startswith(("unix:", "/", ".")):
        expected = "expected unix:/path, http://HOST:PORT or https://HOST:PORT"
        raise ValueError(f"mvirt-net's address {address!r}: {expected}")
    return address, False
