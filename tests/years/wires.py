"""The network of a world: connections in memory, each with its own delay, for both of asyncio's and urllib3's clients.

Real protocols run at both ends (websockets, aiohttp, http.client); only the bytes' way is made. A killed process closes
its connections as its kernel would; one whose host lost its power leaves them half open.
"""

from __future__ import annotations

import asyncio
import contextvars
import io
import os
import random
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import aiohappyeyeballs
import urllib3.connection
import urllib3.util.connection
from greenlet import getcurrent

from tests.years.loop import OWNER, Process, YearsLoop, wait_in_work

WAY_US = (200, 30_000)  # of a packet
NOTICED_S = (90, 300)  # until the other side finds a half open connection dead
LOOPBACK = "127.0.0.1"


class Wire(asyncio.Transport):
    """One end of a connection. What is written arrives at the other end later, in order."""

    def __init__(self, loop: YearsLoop, way_ns: int, owner: Process | None) -> None:
        super().__init__({"peername": (LOOPBACK, 0), "sockname": (LOOPBACK, 0), "socket": None})
        self._loop, self._way_ns = loop, way_ns
        self._owner = owner
        self._context = contextvars.copy_context()
        self._context.run(OWNER.set, owner)
        self._protocol: asyncio.BaseProtocol | None = None
        self._arrival_ns = 0  # of the newest packet that was sent
        self._closing = self._is_lost = False
        self._paused: list[bytes | None] | None = None  # what came meanwhile; None: it reads
        self.cut = False  # half open: nothing arrives any more
        self.other: Wire
        self.coming: deque[bytes | None] = deque()  # packets on their way here, the oldest first

    # --- for the protocol ---------------------------------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand what arrives to this protocol from now on."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol."""
        assert self._protocol is not None
        return self._protocol

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes."""
        if not self._closing and data:
            self._send(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        """Send several bytes as one packet."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """Half closing is known."""
        return True

    def write_eof(self) -> None:
        """Close the way out."""
        if not self._closing:
            self._send(None)

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing waits."""

    def pause_reading(self) -> None:
        """Let what arrives wait."""
        if self._paused is None:
            self._paused = []

    def resume_reading(self) -> None:
        """Read on."""
        waiting, self._paused = self._paused, None
        for data in waiting or ():
            self._loop.call_soon(self._arrived, data, context=self._context)

    def is_reading(self) -> bool:
        """Whether it reads."""
        return self._paused is None and not self._closing

    def close(self) -> None:
        """Close it: the other end reads to its end."""
        if not self._closing:
            self._send(None)
            self._closing = True
            self._loop.call_soon(self._lose, None, context=self._context)

    def abort(self) -> None:
        """Reset it."""
        if not self._is_lost:
            self._closing = True
            self._reset_other()
            self._loop.call_soon(self._lose, None, context=self._context)

    # --- the way ------------------------------------------------------------------------------------------------------

    def _send(self, data: bytes | None) -> None:
        if self.cut or self.other.cut:
            return
        loop = self._loop
        jitter_ns = loop.chance.randint(0, self._way_ns // 4)
        self._arrival_ns = max(self._arrival_ns + 1, loop.now_ns + self._way_ns + jitter_ns)
        self.other.coming.append(data)
        loop.outside(self._arrival_ns - loop.now_ns, self.other.arrive, context=self.other._context)

    def arrive(self) -> None:
        """The next packet is there: packets never overtake each other."""
        if self.coming:
            self._arrived(self.coming.popleft())

    def _arrived(self, data: bytes | None) -> None:
        if self._is_lost or self.cut:
            return
        if self._paused is not None:
            self._paused.append(data)
            return
        protocol = self.get_protocol()
        assert isinstance(protocol, asyncio.Protocol)
        if data is not None:
            protocol.data_received(data)
        elif not protocol.eof_received():
            self.close()

    def _reset_other(self) -> None:
        if not (self.cut or self.other.cut):
            error = ConnectionResetError(104, "Connection reset by peer")
            self._loop.outside(self._way_ns, self.other._lose, error, context=self.other._context)

    def _lose(self, error: Exception | None) -> None:
        if not self._is_lost:
            self._is_lost = self._closing = True
            self.get_protocol().connection_lost(error)

    def owner_died(self) -> None:
        """The kernel closes what the process left open."""
        if not self._is_lost:
            self._is_lost = self._closing = True
            self._reset_other()


class _Address:
    """A socket's place in `Server.sockets`."""

    family = socket.AF_INET

    def __init__(self, port: int) -> None:
        self._port = port

    def getsockname(self) -> tuple[str, int]:
        """Its address."""
        return LOOPBACK, self._port


class Listener(asyncio.AbstractServer):
    """A server of this network."""

    def __init__(self, loop: YearsLoop, port: int, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        self._loop, self.port, self.factory = loop, port, factory
        self.sockets = [_Address(port)]
        self.owner = OWNER.get()  # whose server it is, None: the world's
        if self.owner is not None:
            self.owner.on_death.append(self.close)

    def close(self) -> None:
        """Listen no more."""
        if self._loop.listeners.get(self.port) is self:
            del self._loop.listeners[self.port]

    async def wait_closed(self) -> None:
        """It is closed at once."""

    def is_serving(self) -> bool:
        """Whether it listens."""
        return self._loop.listeners.get(self.port) is self

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop."""
        return self._loop

    async def start_serving(self) -> None:
        """It serves from the beginning."""

    async def serve_forever(self) -> None:
        """Nobody waits for it."""


class Network:
    """All connections of one loop. `down` refuses new ones; `cut` leaves those of a process half open.

    `barred` are programs (the first word of a process's name) whose new connections are refused.
    """

    def __init__(self, loop: YearsLoop) -> None:
        self._loop = loop
        self.wires: list[Wire] = []
        self.down = False
        self.barred: set[str] = set()
        self.spoilt_until_ns = 0  # connections are half open until then, at most
        self._ports = iter(range(40_000, 60_000))
        loop.create_server = self._create_server  # type: ignore[method-assign,assignment]
        loop.create_unix_server = self._create_unix_server  # type: ignore[method-assign,assignment]
        loop.create_connection = self._create_connection  # type: ignore[method-assign,assignment]

    async def _create_server(
        self, factory: Callable[[], asyncio.BaseProtocol], _host: Any = None, port: Any = None, **_: Any
    ) -> Listener:
        port = port or next(self._ports)
        self._loop.listeners[port] = listener = Listener(self._loop, port, factory)
        return listener

    async def _create_unix_server(self, factory: Callable[[], asyncio.BaseProtocol], path: str, **_: Any) -> Listener:
        os.close(os.open(path, os.O_CREAT))  # it is no address here: who asks goes to the object behind
        return await self._create_server(factory)

    async def _create_connection(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        _host: Any = None,
        port: Any = None,
        *,
        sock: _Address | None = None,
        **_: Any,
    ) -> tuple[Wire, asyncio.BaseProtocol]:
        await asyncio.sleep(self._loop.chance.randint(*WAY_US) / 1e6)
        near = self._connect(int(port) if sock is None else sock.getsockname()[1])
        protocol = factory()
        near.set_protocol(protocol)
        protocol.connection_made(near)
        return near, protocol

    def _connect(self, port: int) -> Wire:
        listener: Listener | None = self._loop.listeners.get(port)
        loop, owner = self._loop, OWNER.get()
        if listener is None or self.down or self.is_barred(owner):
            raise ConnectionRefusedError(111, "Connection refused")
        way_ns = loop.chance.randint(*WAY_US) * 1_000
        near, far = Wire(loop, way_ns, owner), Wire(loop, way_ns, listener.owner)
        near.other, far.other = far, near
        self.wires = [wire for wire in self.wires if not wire._is_lost]
        self.wires.append(near)
        if owner is not None:
            owner.on_death.append(near.owner_died)
        if listener.owner is not None:
            listener.owner.on_death.append(far.owner_died)

        def accept() -> None:
            protocol = listener.factory()
            far.set_protocol(protocol)
            protocol.connection_made(far)

        far._context.run(accept)
        return near

    def is_barred(self, process: Process | None) -> bool:
        """Whether this process gets no new connection."""
        return process is not None and process.name.partition(" ")[0] in self.barred

    def reset(self, process: Process) -> None:
        """Reset the connections that this process opened."""
        for wire in list(self.wires):
            if wire._owner is process:
                wire.other.abort()
                wire.abort()

    def cut(self, process: Process) -> None:
        """The way of this process to the world is gone without a word: its connections are half open."""
        loop = self._loop
        self.spoilt_until_ns = loop.now_ns + NOTICED_S[1] * 1_000_000_000
        for wire in self.wires:
            if wire._owner is process:
                wire.cut = wire.other.cut = True
                error = TimeoutError(110, "Connection timed out")
                later_ns = loop.chance.randint(*NOTICED_S) * 1_000_000_000
                loop.outside(later_ns, wire.other._lose, error, context=wire.other._context)

    # --- for blocking clients -----------------------------------------------------------------------------------------

    def dial(self, address: tuple[str, int], timeout: object = None, *_: object, **__: object) -> BlockingSocket:
        """What urllib3 calls to connect, within work of a thread."""
        timeout_s = timeout if isinstance(timeout, int | float) else None
        return BlockingSocket(self._loop, self._connect(address[1]), timeout_s)


class _Inbox(asyncio.Protocol):
    """What came for a blocking socket."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False
        self.error: Exception | None = None
        self.waiter: asyncio.Future[None] | None = None

    def _wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def data_received(self, data: bytes) -> None:
        self.data += data
        self._wake()

    def eof_received(self) -> bool:
        self.ended = True
        self._wake()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended, self.error = True, exc
        self._wake()


class BlockingSocket:
    """A connected socket as http.client uses one. It waits in virtual time, within work of a thread."""

    def __init__(self, loop: YearsLoop, wire: Wire, timeout_s: float | None) -> None:
        self._loop, self._wire, self._timeout_s = loop, wire, timeout_s
        self._inbox = _Inbox()
        wire.set_protocol(self._inbox)

    def settimeout(self, timeout_s: float | None) -> None:
        """How long a read may take."""
        self._timeout_s = timeout_s

    def setsockopt(self, *_: object) -> None:
        """Nothing to set."""

    def sendall(self, data: bytes) -> None:
        """Send bytes. Raises BrokenPipeError where the connection is gone."""
        if self._inbox.error is not None or self._wire.is_closing():
            raise BrokenPipeError(32, "Broken pipe")
        self._wire.write(data)

    def makefile(self, _mode: str = "rb", *_: object, **__: object) -> io.BufferedReader:
        """A file of what comes."""
        return io.BufferedReader(_Reading(self))

    def close(self) -> None:
        """Close it."""
        self._wire.close()

    def shutdown(self, _how: int) -> None:
        """Close it."""
        self._wire.close()

    def is_readable(self) -> bool:
        """Whether something, or the end, has come."""
        return bool(self._inbox.data) or self._inbox.ended

    def receive(self, size: int) -> bytes:
        """The next bytes, b"" at the end. Raises TimeoutError, ConnectionResetError."""
        inbox = self._inbox
        while not inbox.data:
            if inbox.error is not None:
                raise inbox.error
            if inbox.ended:
                return b""
            inbox.waiter = self._loop.create_future()
            try:
                wait_in_work(asyncio.wait_for(inbox.waiter, self._timeout_s))
            except TimeoutError:
                raise TimeoutError("timed out") from None
        data = bytes(inbox.data[:size])
        del inbox.data[:size]
        return data


class _Reading(io.RawIOBase):
    def __init__(self, source: BlockingSocket) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._source.receive(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def lay(loop: YearsLoop) -> Network:
    """Make the network of a world, and the only one: this process opens no real connection and reads no real clock."""
    network = Network(loop)
    urllib3.util.connection.create_connection = network.dial  # type: ignore[assignment]

    async def start_connection(addr_infos: Any, **_: Any) -> _Address:
        """What aiohttp's client calls before the loop's `create_connection`."""
        return _Address(addr_infos[0][-1][1])

    aiohappyeyeballs.start_connection = start_connection  # type: ignore[assignment]

    def wait_for_read(sock: Any, timeout: float | None = None) -> bool:
        del timeout
        return bool(sock.is_readable())

    urllib3.connection.wait_for_read = wait_for_read  # type: ignore[attr-defined]
    # a child is waited for in real time
    subprocess.time = SimpleNamespace(sleep=time.sleep)  # type: ignore[attr-defined]
    time.monotonic = loop.time
    time.monotonic_ns = lambda: loop.now_ns
    time.time_ns = lambda: loop.now_ns
    time.time = lambda: loop.now_ns / 1e9
    source = random.Random(f"secrets {loop.chance.random()}")
    os.urandom = random._urandom = source.randbytes  # type: ignore[attr-defined]

    def sleep(seconds: float) -> None:
        """In work of a thread others go on; on the loop itself all stands meanwhile, as it does in truth."""
        if getcurrent().parent is None:
            loop.now_ns += int(seconds * 1e9)
        else:
            wait_in_work(asyncio.sleep(seconds))

    time.sleep = sleep  # type: ignore[assignment]
    return network
