"""Connect to an MQTT broker: MQTT 5, TLS 1.2 or newer with the broker's name checked, without paho's log.

For the daemon's side thread and for `rltraderctl remote`. Errors are reported without password or keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Self

from aiomqtt import Client, MqttCodeError, MqttError, ProtocolVersion, Will
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from daemon.config.load import ConfigError, operator_secrets
from daemon.config.tables import MqttTable

ANSWER_S = 10.0  # timeout of each request to the broker
CLOSE_TIMEOUT_S = 0.7  # for each of the last messages and the disconnect
INCOMING_MOST = 64  # unread messages; further ones are lost
INCOMING_BYTES = 16_384  # the broker does not send larger ones
ANSWER_BYTES = 256 * 1024  # of an answer with the desk's whole status: one with 500 positions has 70,000
INFLIGHT_MOST = 32  # unconfirmed messages under way
EXPIRY_S = 60  # older telemetry is worthless
UNSPECIFIED, TAKEN_OVER = 0x80, 0x8E  # MQTT 5: why a broker ends a connection; paho has the first where it says nothing

_properties: Callable[[int], Any] = Properties  # paho's has no types
_SILENT = logging.getLogger("rltrader.mqtt.silent")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False
_SILENT.setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class MqttBroker:
    """The broker and our identity there. `ca_file` "": the system's authorities; `username` "": anonymous."""

    host: str
    port: int
    tls: bool = True
    ca_file: str = ""
    username: str = ""
    keepalive_s: int = 30

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def of(cls, table: MqttTable, username: str | None = None) -> Self:
        """Return the broker of `[mqtt]`; `username` replaces the table's."""
        name = table.username if username is None else username
        return cls(table.host, table.port, table.tls, table.ca_file, name, table.keepalive_s)


def password_of(table: MqttTable) -> str | None:
    """Return the broker's password; None without one. Raises ConfigError for a user name that has none."""
    password = operator_secrets().mqtt_password
    if table.username and password is None:
        raise ConfigError(
            f"mqtt.username is {table.username!r} and there is no password: expected the credential or environment "
            f"variable MQTT_PASSWORD"
        )
    return None if password is None else password.get_secret_value()


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """The broker, the prefix of topics, and whether commands are accepted. Waits in seconds."""

    broker: MqttBroker
    desk: str
    prefix: str = "rltrader"
    commands: bool = False
    wait_least_s: float = 1.0
    wait_most_s: float = 30.0

    def topic(self, name: str) -> str:
        """Return a topic of this desk."""
        return f"{self.prefix}/{self.desk}/{name}"


class _MqttClient(Client):
    """aiomqtt's client, which can also drop a connection that never came up: aiomqtt leaves its socket open."""

    async def enter(self) -> None:
        """Connect. A cancellation waits for the thread that connects: else its socket comes up later and stays open."""
        self._thread_done = asyncio.Event()
        on_disconnect = self._disconnected  # aiomqtt forgets a connection that is lost during this
        on_disconnect.add_done_callback(_look)
        entering = asyncio.ensure_future(self.__aenter__())
        try:
            await asyncio.shield(entering)
        except asyncio.CancelledError:
            await self._thread_done.wait()
            entering.cancel()
            await asyncio.gather(entering, return_exceptions=True)
            raise
        if on_disconnect.done():
            raise MqttError("the broker took the connection and closed it at once") from on_disconnect.exception()

    def take_at_most(self, most: int) -> None:
        """Drop the connection at a larger packet: paho would buffer whatever size a broker announces, up to 256 MB."""
        receive: Callable[[int], bytes] = self._client._sock_recv

        def receive_at_most(bufsize: int) -> bytes:
            if bufsize > most:
                raise OSError(f"a packet has {bufsize} bytes: at most {most} were asked for")
            return receive(bufsize)

        self._client._sock_recv = receive_at_most  # type: ignore[method-assign]

    async def drop(self) -> None:
        for future in (self._connected, self._disconnected):
            future.add_done_callback(_look)  # asyncio logs exceptions that were never retrieved
        with contextlib.suppress(Exception):  # there may be no socket, or a broken one
            self._client.disconnect()
        if self._misc_task is not None:
            await asyncio.wait([self._misc_task], timeout=CLOSE_TIMEOUT_S)  # ends when paho has closed the socket
            self._misc_task.cancel()

    def _client_connect(self) -> None:
        try:
            super()._client_connect()
        finally:
            self._loop.call_soon_threadsafe(self._thread_done.set)


@contextlib.asynccontextmanager
async def connect(
    broker: MqttBroker,
    password: str | None,
    identifier: str | None = None,
    will: Will | None = None,
    incoming_most: int = INCOMING_MOST,
    incoming_bytes: int = INCOMING_BYTES,
) -> AsyncIterator[Client]:
    """Yield a connection with a clean session; messages beyond `incoming_most` unread ones, and larger ones, are lost.

    Raises MqttError, or OSError for a file or certificate that cannot be used.
    """
    connect_properties = _properties(PacketTypes.CONNECT)
    connect_properties.MaximumPacketSize = incoming_bytes
    client = _MqttClient(
        broker.host,
        broker.port,
        username=broker.username or None,
        password=password if broker.username else None,
        logger=_SILENT,
        identifier=identifier,
        protocol=ProtocolVersion.V5,
        will=will,
        timeout=ANSWER_S,
        keepalive=broker.keepalive_s,
        clean_start=True,
        max_queued_incoming_messages=incoming_most,
        max_inflight_messages=INFLIGHT_MOST,
        properties=connect_properties,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],  # a halt must not wait for an acknowledgement
        tls_context=_tls(broker.ca_file) if broker.tls else None,
    )
    client.pending_calls_threshold = 2 * INFLIGHT_MOST
    client.take_at_most(incoming_bytes)
    try:
        await client.enter()
    except BaseException:
        await client.drop()
        raise
    try:
        still_wanted()
        yield client
    finally:
        client.timeout = CLOSE_TIMEOUT_S
        with contextlib.suppress(MqttError):  # already gone, or it does not answer the disconnect
            await client.__aexit__(None, None, None)
        await client.drop()


def properties(
    *, expiry_s: int | None = EXPIRY_S, response_topic: str | None = None, correlation: bytes | None = None
) -> Properties:
    """Return the properties of a JSON message; lasting ones have no expiry."""
    packet = _properties(PacketTypes.PUBLISH)
    packet.ContentType = "application/json"
    packet.PayloadFormatIndicator = 1  # UTF-8
    if expiry_s is not None:
        packet.MessageExpiryInterval = expiry_s
    if response_topic is not None:
        packet.ResponseTopic = response_topic
    if correlation is not None:
        packet.CorrelationData = correlation
    mqtt_properties: Properties = packet
    return mqtt_properties


def still_wanted() -> None:
    """Raise CancelledError if this task's cancellation was swallowed.

    Python 3.11's `wait_for`, by which aiomqtt waits, swallows a cancellation that comes together with its answer
    (https://github.com/python/cpython/issues/86296); without this check a loop would never end.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def reason_code(error: BaseException) -> int | None:
    """Return MQTT 5's reason with which the broker ended the connection; None where it named none."""
    value = getattr(getattr(error.__cause__, "rc", None), "value", UNSPECIFIED)
    return None if value == UNSPECIFIED else int(value)


def safe_text(error: BaseException, password: str | None) -> str:
    """Return an error as one line for the log, with the broker's reason, and the password hidden."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error.__cause__, MqttCodeError):
        text += f": {error.__cause__}" if reason_code(error) is not None else ", without a reason"
    text = text.replace(password, "[hidden]") if password else text  # before the cut: a part of it reveals much too
    return text.replace("\n", " ")[:300]


def _tls(ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = _Socket
    return context


class _Socket(ssl.SSLSocket):
    """Closes when its handshake fails: paho forgets such a socket without closing it."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def _look(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()
