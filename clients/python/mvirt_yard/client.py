"""The client: requests, answers and frames over one connection.

One task reads. Answers come in the order of requests and go to whoever waits first; frames go into
a queue of their own. So any number of requests may wait while frames come.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import AsyncIterator

from . import protocol
from .protocol import Decoder, Message, ProtocolError

#: Frames that wait for `frames`; what comes beyond them is lost, and counted.
MAX_WAITING = 65536
#: What begins the text of an error that answers no request: a frame was not carried.
_NOT_CARRIED = "PACKET_OUT: "


class Refused(Exception):
    """The fabric says no, and why."""


class Closed(ConnectionError):
    """The connection has ended."""


@dataclass(frozen=True)
class Endpoint:
    """A place on a fabric."""

    id: int
    name: str
    mac: str


@dataclass(frozen=True)
class Frame:
    """A frame, and the endpoint at which it was heard."""

    endpoint_id: int
    flags: int
    octets: bytes


class Client:
    """A connection to a fabric; also `async with Client() as client`."""

    def __init__(
        self,
        host: str = protocol.HOST,
        port: int = protocol.PORT,
        name: str = "mvirt_yard",
    ) -> None:
        self.host, self.port, self.name = host, port, name
        #: Frames that were lost as nobody took them from `frames`.
        self.lost = 0
        #: Why the last frames that were not carried were not.
        self.not_carried: deque[str] = deque(maxlen=100)
        self._writer: asyncio.StreamWriter | None = None
        self._pump: asyncio.Task[None] | None = None
        self._answers: deque[asyncio.Future[Message]] = deque()
        # None: there will be no more.
        self._frames: asyncio.Queue[Frame | None] = asyncio.Queue()

    async def __aenter__(self) -> Client:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connects, and says hello."""
        reader, self._writer = await asyncio.open_connection(self.host, self.port)
        self._pump = asyncio.create_task(self._read(reader))
        try:
            hello = Message.of(protocol.HELLO, {"client_name": self.name})
            await self._ask(hello, protocol.WELCOME)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends the connection. Endpoints of this client are gone with it."""
        pump, writer, self._pump, self._writer = self._pump, self._writer, None, None
        if writer is not None:
            writer.close()
            try:
                await writer.wait_closed()
            except OSError:
                # The other side may have ended it before.
                pass
        if pump is not None:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    async def create_endpoint(self, name: str, mac: str | None = None) -> Endpoint:
        """Makes an endpoint; without a MAC, the fabric chooses one."""
        body = {"name": name} if mac is None else {"name": name, "mac": mac}
        created = Message.of(protocol.ENDPOINT_CREATE, body)
        return _endpoint(await self._ask(created, protocol.ENDPOINT_CREATED))

    async def lookup(self, name: str) -> Endpoint:
        """Finds an endpoint by its name."""
        request = Message.of(protocol.ENDPOINT_LOOKUP, {"name": name})
        return _endpoint(await self._ask(request, protocol.ENDPOINT_INFO))

    async def subscribe(self, endpoint: Endpoint | int, promisc: bool = False) -> None:
        """Hears from now on what the endpoint hears, or every frame of the fabric."""
        id, flags = _id(endpoint), protocol.PROMISC if promisc else 0
        body = {"endpoint_id": id, "promisc": promisc}
        request = Message.of(protocol.SUBSCRIBE, body, id, flags)
        await self._ask(request, protocol.SUBSCRIBED)

    async def send(self, endpoint: Endpoint | int, frame: bytes) -> None:
        """Sends a frame as the endpoint. Whether it is carried is not answered; see
        `not_carried`."""
        await self._write(Message(protocol.PACKET_OUT, _id(endpoint), 0, bytes(frame)))

    async def frames(self) -> AsyncIterator[Frame]:
        """What is heard, frame by frame, until the connection ends."""
        while (frame := await self._frames.get()) is not None:
            yield frame
        # For whoever else waits, or asks again.
        self._frames.put_nowait(None)

    async def _ask(self, request: Message, expected: int) -> Message:
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        # Nothing may come between the place in the queue and the octets on their way.
        if self._writer is None or self._pump is None or self._pump.done():
            raise Closed("the fabric has closed the connection")
        self._answers.append(answer)
        self._writer.write(request.pack())
        await self._writer.drain()
        message = await answer
        if message.type == protocol.ERROR:
            raise Refused(message.body().get("error", ""))
        if message.type != expected:
            raise ProtocolError(f"answer of type {message.type}; expected {expected}")
        return message

    async def _write(self, message: Message) -> None:
        if self._writer is None or self._pump is None or self._pump.done():
            raise Closed("the fabric has closed the connection")
        self._writer.write(message.pack())
        await self._writer.drain()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        decoder = Decoder()
        try:
            while octets := await reader.read(65536):
                for message in decoder.push(octets):
                    self._take(message)
        except OSError:
            # As good as an end.
            pass
        finally:
            for answer in self._answers:
                if not answer.done():
                    answer.set_exception(Closed("the fabric has closed the connection"))
            self._answers.clear()
            self._frames.put_nowait(None)

    def _take(self, message: Message) -> None:
        if message.type == protocol.PACKET_IN:
            if self._frames.qsize() >= MAX_WAITING:
                self.lost += 1
                return
            frame = Frame(message.endpoint_id, message.flags, message.payload)
            self._frames.put_nowait(frame)
            return
        if message.type == protocol.ERROR:
            error = message.body().get("error", "")
            if error.startswith(_NOT_CARRIED):
                self.not_carried.append(error.removeprefix(_NOT_CARRIED))
                return
        # Who asked may have stopped waiting: its answer still takes its place.
        if self._answers:
            answer = self._answers.popleft()
            if not answer.done():
                answer.set_result(message)


def _id(endpoint: Endpoint | int) -> int:
    return endpoint if isinstance(endpoint, int) else endpoint.id


def _endpoint(message: Message) -> Endpoint:
    body = message.body()
    try:
        return Endpoint(int(body["endpoint_id"]), str(body["name"]), str(body["mac"]))
    except (KeyError, ValueError) as error:
        raise ProtocolError(f"message of type {message.type}: {error}") from error
