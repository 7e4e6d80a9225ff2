"""MQTT as it is deployed: a real Mosquitto with the installed configuration, the real engine, signed commands.

The desk's loop is the test's, the connection lives on the side thread, as in the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import re
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiomqtt import Client, MqttError
from rich.console import Console

from daemon.cli import ctl, remote
from daemon.config.load import ConfigError
from daemon.core.events import CommandRefused, Event, HaltRequested, ResumeRequested, StatusRequested
from daemon.core.state import State
from daemon.core.step import Step
from daemon.operator.announce import Announcer
from daemon.operator.mqtt import connection as mqtt_connection
from daemon.operator.mqtt import mqtt
from daemon.operator.mqtt.connection import MqttBroker, MqttSettings, connect, properties
from daemon.operator.mqtt.messages import ChainHead
from daemon.operator.mqtt.mqtt import CUT_OFTEN, MqttSide
from daemon.operator.mqtt.outbox import Outbox
from daemon.operator.remote_commands import Judge
from daemon.operator.side_thread import SideThread
from daemon.operator.signing import SignedCommand, parse_keys, sign_command
from daemon.operator.status import DeskStatus, Holding, status_of
from tests.support.desks.desk_at_work import AtWork, at_work, until
from tests.support.desks.desk_run import Desk, tape_rows, write_tape
from tests.support.outside.mosquitto import Mosquitto, authority, running
from tests.support.ports import free_port

HEX = "5a" * 32
KEYS = parse_keys(f"ops-laptop:{HEX}")
LIMIT_S = 180.0  # generous: nothing here is measured
S = 1_000_000_000


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """One broker for all tests that do not stop it."""
    with running(tmp_path_factory.mktemp("mosquitto")) as mosquitto:
        yield mosquitto


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(write_tape(tmp_path_factory.mktemp("tape") / "tape.csv", tape_rows(1, 60)))


@dataclass(slots=True)
class Connected:
    """A desk at work whose telemetry and commands go by this broker."""

    work: AtWork
    outbox: Outbox
    side: MqttSide
    thread: SideThread
    log: list[tuple[str, dict[str, Any]]]
    events: list[Event] = field(default_factory=list)

    def entries(self, name: str) -> list[dict[str, Any]]:
        return [fields for event, fields in self.log[:] if event == name]

    async def up(self, times: int = 1) -> None:
        """Return when the connection has come up so often."""
        await _soon(lambda: len(self.entries("mqtt_up")) >= times)


def _has_lost(connection: Connected, times: int) -> bool:
    return len(connection.entries("mqtt_lost")) >= times  # an outage may have several reasons, one after the other


async def _soon(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        await until(reached)


@contextlib.asynccontextmanager
async def connected_desk(
    desk: Desk,
    path: Path,
    address: MqttBroker,
    password: str,
    events: int = 0,
    **settings: Any,
) -> AsyncIterator[Connected]:
    """The desk over the first `events` of its tape; with none of them it is one whose feed never came up."""
    outbox = Outbox(10_000)
    announcer = Announcer(outbox)
    log: list[tuple[str, dict[str, Any]]] = []
    async with at_work(desk, path) as work:
        submissions: list[Event] = []
        before = work.engine._observe

        def observe(event: Event, step: Step) -> None:
            before(event, step)
            announcer.observe(event, step)
            submissions.append(event)

        work.engine._observe = observe
        for event, _ in zip(iter(desk.replay.source(0)), range(events), strict=False):
            work.intake.put(event)
        options = {"commands": True, "wait_least_s": 0.05, "wait_most_s": 0.2, **settings}
        side = MqttSide(
            MqttSettings(address, "paper-1", **options),
            password,
            Judge("paper-1", KEYS, time.time_ns),
            outbox,
            work.submitter.submit_from_thread,
            lambda: work.submitter.state,
            lambda name, **fields: log.append((name, fields)),
        )
        thread = SideThread([("mqtt", side.run)], lambda name, problem: log.append((name, {"problem": problem})))
        thread.start()
        try:
            yield Connected(work, outbox, side, thread, log, submissions)
        finally:
            await asyncio.to_thread(thread.stop, LIMIT_S)
    assert not [fields for event, fields in log if event == "mqtt"], log  # nothing raised on the side thread


@contextlib.asynccontextmanager
async def client(broker: Mosquitto, username: str) -> AsyncIterator[Client]:
    async with connect(broker.broker(username), broker.passwords[username], incoming_most=10_000) as connection:
        yield connection


def command(name: str, number: int = 1, **changes: Any) -> SignedCommand:
    """A command signed now."""
    fields = {"desk": "paper-1", "reason": "a test", "issued_ns": time.time_ns(), "lifetime_ns": 30 * S, **changes}
    return sign_command(KEYS["ops-laptop"], "ops-laptop", command=name, nonce=number.to_bytes(16), **fields)


async def _send(sender: Client, payload: bytes, response: str | None = None, **how: Any) -> None:
    reply_properties = properties(response_topic=response, correlation=b"c1" if response else None)
    await sender.publish("rltrader/paper-1/command", payload, qos=1, properties=reply_properties, **how)


def _waiting(reader: Client) -> list[Any]:
    """What has come for a reader so far."""
    return [reader._queue.get_nowait() for _ in range(reader._queue.qsize())]


async def _ask(sender: Client, request: SignedCommand, response: str = "rltrader/paper-1/response/operator/1") -> Any:
    """The answer to a command."""
    await sender.subscribe(response, qos=1)
    await _send(sender, msgspec.json.encode(request), response)
    async with asyncio.timeout(LIMIT_S):
        async for message in sender.messages:
            assert isinstance(message.payload, bytes)
            if str(message.topic) == response:
                assert getattr(message.properties, "CorrelationData", None) == b"c1"
                return json.loads(message.payload)
    raise AssertionError("the broker sends nothing more")


async def test_a_halt_over_mqtt_acts_on_a_desk_whose_feed_never_came_up(
    broker: Mosquitto, desk: Desk, tmp_path: Path
) -> None:
    password = broker.passwords["paper-1"]
    async with (
        connected_desk(desk, tmp_path, broker.broker(), password) as connection,
        client(broker, "operator") as operator,
    ):
        await connection.up()
        answer = await _ask(operator, command("halt", reason="the fair is wrong"))
        assert answer["ok"] is True
        assert answer["status"]["halt"] == "operator: the fair is wrong (by mqtt/ops-laptop)"
        assert answer["status"]["bars"] == 0
        state = connection.work.submitter.state
        assert state.risk.halt is not None
        assert answer["seq"] == state.seq
        assert [event for event in connection.events if isinstance(event, HaltRequested)] == [
            HaltRequested(state.now_ns, "operator", "the fair is wrong", "mqtt/ops-laptop")
        ]
        assert connection.entries("command") == [
            {
                "command": "halt",
                "channel": "mqtt",
                "who": "mqtt/ops-laptop",
                "reason": "the fair is wrong",
                "seq": state.seq,
            }
        ]
        answer = await _ask(operator, command("resume", 2))
        assert (answer["ok"], answer["status"]["halt"]) == (True, "")


async def test_a_reader_sees_what_the_desk_does(broker: Mosquitto, desk: Desk, tmp_path: Path) -> None:
    password = broker.passwords["paper-1"]
    async with client(broker, "monitor") as monitor:
        await monitor.subscribe("rltrader/paper-1/#", qos=1)
        by_topic: dict[str, list[tuple[dict[str, Any], Any]]] = {}

        async def read() -> None:
            async for message in monitor.messages:
                assert isinstance(message.payload, bytes)
                topic = str(message.topic).removeprefix("rltrader/paper-1/")
                by_topic.setdefault(topic, []).append((json.loads(message.payload), message.properties))

        reading = asyncio.create_task(read())
        async with connected_desk(desk, tmp_path, broker.broker(), password, events=500) as connection:
            await _soon(lambda: bool(connection.outbox.counts().offered) and not connection.outbox.counts().waiting)
            await _soon(lambda: len(by_topic.get("bars", ())) == 3 * 86 + 60)
            await _soon(lambda: {"status", "decisions", "orders", "fills", "equity", "telemetry"} <= set(by_topic))
            counts = connection.outbox.counts()
            assert counts.published + counts.conflated == counts.offered
            assert counts.refused == counts.dropped == 0
        await _soon(lambda: by_topic["status"][-1][0]["online"] is False)  # a clean end says so
        reading.cancel()
    bar, of_bar = by_topic["bars"][0]
    assert (bar["schema"], bar["v"], bar["desk"]) == ("bar", 1, "paper-1")
    assert 0 < of_bar.MessageExpiryInterval <= 60
    assert of_bar.ContentType == "application/json"
    assert not hasattr(by_topic["status"][0][1], "MessageExpiryInterval")
    fills = {(fill["client_order_id"], fill["cumulative"]) for fill, _ in by_topic["fills"]}
    assert len(fills) == connection.work.submitter.state.stats.fills
    async with client(broker, "monitor") as later:  # status and equity wait for who comes later
        await later.subscribe("rltrader/paper-1/+", qos=1)
        topics = set()
        async with asyncio.timeout(LIMIT_S):
            async for message in later.messages:
                topics.add(str(message.topic).removeprefix("rltrader/paper-1/"))
                if len(topics) == 3:
                    break
    assert topics == {"status", "equity", "telemetry"}


async def test_forged_and_repeated_commands_change_nothing_and_are_journaled_once(
    broker: Mosquitto, desk: Desk, tmp_path: Path
) -> None:
    password = broker.passwords["paper-1"]
    async with (
        connected_desk(desk, tmp_path, broker.broker(), password) as connection,
        client(broker, "operator") as operator,
    ):
        await connection.up()
        forged = msgspec.structs.replace(command("halt"), command="flatten")
        for _ in range(5):
            await _send(operator, msgspec.json.encode(forged), "rltrader/paper-1/response/operator/1")
        good = command("status", 2)
        assert (await _ask(operator, good))["ok"] is True
        again = await _ask(operator, good)
        assert (again["ok"], again["seq"]) == (False, 0)
        assert "it came before" in again["error"]
        await connection.work.quiet()
        assert [type(event) for event in connection.events] == [CommandRefused, StatusRequested]
        assert connection.events[0] == CommandRefused(
            connection.events[0].time_ns, "mqtt", "the signature is not that of key ops-laptop"
        )


async def test_a_retained_command_is_refused(broker: Mosquitto, desk: Desk, tmp_path: Path) -> None:
    password = broker.passwords["paper-1"]
    async with client(broker, "operator") as operator:
        await _send(operator, msgspec.json.encode(command("halt")), retain=True)
        try:
            async with connected_desk(desk, tmp_path, broker.broker(), password) as connection:
                await _soon(lambda: any(isinstance(event, CommandRefused) for event in connection.events))
                assert not [event for event in connection.events if isinstance(event, HaltRequested)]
                assert [event.reason for event in connection.events if isinstance(event, CommandRefused)] == [
                    "the message is retained: a command is sent once"
                ]
        finally:
            await _send(operator, b"", retain=True)


async def test_an_answer_goes_nowhere_but_below_the_desks_own_responses(
    broker: Mosquitto, desk: Desk, tmp_path: Path
) -> None:
    password = broker.passwords["paper-1"]
    async with (
        connected_desk(desk, tmp_path, broker.broker(), password) as connection,
        client(broker, "operator") as operator,
        client(broker, "monitor") as monitor,
    ):
        await connection.up()
        await monitor.subscribe("rltrader/#", qos=1)
        for number, elsewhere in enumerate(("rltrader/paper-1/alarms", "rltrader/paper-1/response/../alarms/")):
            await _send(operator, msgspec.json.encode(command("halt", 10 + number)), elsewhere)
        assert (await _ask(operator, command("resume", 12)))["ok"] is True
        halts = [event for event in connection.events if isinstance(event, HaltRequested | ResumeRequested)]
        assert len(halts) == 3
        await _soon(lambda: not connection.outbox.counts().waiting)
        await asyncio.sleep(0.1)
        messages = [json.loads(message.payload) for message in _waiting(monitor)]
        assert "response" not in {message["schema"] for message in messages}


async def test_without_keys_or_without_leave_no_command_is_heard(broker: Mosquitto, desk: Desk, tmp_path: Path) -> None:
    password = broker.passwords["paper-1"]
    async with (
        connected_desk(desk, tmp_path, broker.broker(), password, commands=False) as connection,
        client(broker, "operator") as operator,
    ):
        await connection.up()
        assert connection.entries("mqtt_up") == [{"broker": f"127.0.0.1:{broker.port}", "commands": False}]
        await _send(operator, msgspec.json.encode(command("halt")))
        await asyncio.sleep(0.2)
        assert connection.events == []


async def test_the_access_list_lets_a_monitor_command_nothing_and_a_desk_speak_for_no_other(
    broker: Mosquitto, desk: Desk, tmp_path: Path
) -> None:
    password = broker.passwords["paper-1"]
    async with (
        connected_desk(desk, tmp_path, broker.broker(), password) as connection,
        client(broker, "operator") as operator,
        client(broker, "operator") as watching,
        client(broker, "monitor") as monitor,
        client(broker, "paper-2") as other,
    ):
        await connection.up()
        await watching.subscribe("rltrader/+/#", qos=1)
        await monitor.subscribe("rltrader/+/#", qos=1)
        await other.subscribe("rltrader/#", qos=1)
        halt = msgspec.json.encode(command("halt"))
        await _send(monitor, halt)
        await _send(other, halt)
        for user, topic in (
            (other, "rltrader/paper-1/status"),
            (monitor, "rltrader/paper-1/alarms"),
            (monitor, "rltrader/monitor/status"),
            (operator, "rltrader/paper-1/status"),
            (operator, "rltrader/operator/status"),
            (other, "rltrader/paper-2/bars"),  # its own: this one arrives
        ):
            await user.publish(topic, b'{"schema": "forged"}', qos=1)
        answer = await _ask(operator, command("status", 2))  # what came before it has arrived
        assert answer["ok"] is True
        assert [type(event) for event in connection.events] == [StatusRequested]
        for reader in (watching, monitor):
            messages: list[tuple[str, Any]] = []

            def last_one(reader: Client = reader, messages: list[tuple[str, Any]] = messages) -> bool:
                messages.extend((str(message.topic), message.payload) for message in _waiting(reader))
                return any(topic == "rltrader/paper-2/bars" for topic, _ in messages)

            await _soon(last_one)
            topics = {topic for topic, _ in messages}
            assert [topic for topic, payload in messages if b"forged" in payload] == ["rltrader/paper-2/bars"]
        assert {str(message.topic) for message in _waiting(other)} <= {"rltrader/paper-2/command"}
        assert not [topic for topic in topics if "response" in topic or "command" in topic]  # of the monitor, the last


async def test_a_broker_that_another_authority_vouches_for_is_refused(broker: Mosquitto, tmp_path: Path) -> None:
    authority(tmp_path, "stranger")
    with pytest.raises(MqttError, match="certificate verify failed"):
        async with connect(broker.broker(ca_file=tmp_path / "stranger.crt"), broker.passwords["paper-1"]):
            pass


async def test_nobody_comes_in_without_tls_or_a_password(broker: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_connection, "ANSWER_S", 1.0)  # the broker says nothing to who speaks no TLS
    plain = MqttBroker("127.0.0.1", broker.port, tls=False, username="paper-1")
    for target, password in (
        (plain, broker.passwords["paper-1"]),
        (broker.broker(""), None),
        (broker.broker(), "wrong"),
    ):
        with pytest.raises(MqttError):
            async with connect(target, password):
                pass


async def test_a_wrong_password_is_told_once_and_not_shown(broker: Mosquitto, desk: Desk, tmp_path: Path) -> None:
    async with connected_desk(desk, tmp_path, broker.broker(), "no-such-password") as connection:
        await _soon(lambda: bool(connection.entries("mqtt_lost")))
        await asyncio.sleep(0.5)  # several further attempts
        assert len(connection.entries("mqtt_lost")) == 1
        assert "ot authorized" in connection.entries("mqtt_lost")[0]["reason"]
        assert "no-such-password" not in repr(connection.log)
        assert connection.entries("mqtt_up") == []


async def test_a_missing_authority_file_or_a_broker_that_is_not_there_is_told_and_trading_goes_on(
    desk: Desk, tmp_path: Path
) -> None:
    for place, address in enumerate(
        (MqttBroker("127.0.0.1", free_port(), tls=False), MqttBroker("127.0.0.1", 1, ca_file="/no"))
    ):
        async with connected_desk(desk, tmp_path / str(place), address, "x" * 12, events=20) as connection:
            await _soon(partial(_has_lost, connection, 1))
            await connection.work.quiet()
            assert connection.work.submitter.state.fed == 20


async def test_a_broker_that_takes_the_connection_and_closes_it_at_once_is_told_and_leaves_no_error_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(b"\x20\x03\x00\x00\x00")
        writer.close()

    async with await asyncio.start_server(closing, "127.0.0.1", 0) as server:
        address = MqttBroker("127.0.0.1", server.sockets[0].getsockname()[1], tls=False)
        async with asyncio.timeout(LIMIT_S):
            with pytest.raises(MqttError):
                await connect(address, None, "desk").__aenter__()
    gc.collect()  # asyncio tells of an exception that nobody looked at when its future goes
    assert caplog.messages == []


async def test_a_broker_that_sends_a_larger_packet_than_was_asked_for_is_left_before_it_is_held() -> None:
    async def hostile(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(b"\x20\x03\x00\x00\x00")  # welcome
        await reader.read(4096)
        writer.write(b"\x30\xff\xff\xff\x7f")  # a message of 268,435,455 bytes follows
        with contextlib.suppress(OSError):
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
                sizes.append(65536)
        writer.close()
        hang_up.set()

    hang_up, sizes = asyncio.Event(), list[int]()
    async with await asyncio.start_server(hostile, "127.0.0.1", 0) as server:
        address = MqttBroker("127.0.0.1", server.sockets[0].getsockname()[1], tls=False)
        async with asyncio.timeout(LIMIT_S):
            with contextlib.suppress(MqttError):
                async with connect(address, None, "desk") as reached:
                    await reached.publish("here", b"")
                    _ = [message async for message in reached.messages]
            await hang_up.wait()
    assert sum(sizes) < 32_000_000  # what the kernel's buffers take


async def test_a_connection_that_comes_up_after_its_end_was_asked_for_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opening, released = threading.Event(), threading.Event()
    open_socket = socket.create_connection

    def slowly(*arguments: Any, **options: Any) -> socket.socket:
        opening.set()
        assert released.wait(LIMIT_S)
        return open_socket(*arguments, **options)

    monkeypatch.setattr(socket, "create_connection", slowly)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(LIMIT_S)
        entering = asyncio.ensure_future(
            connect(
                MqttBroker("127.0.0.1", server.getsockname()[1], tls=False), None, "late"
            ).__aenter__()  # kept alive: not collected
        )
        assert await asyncio.to_thread(opening.wait, LIMIT_S)
        entering.cancel()
        released.set()
        with pytest.raises(asyncio.CancelledError):
            await entering
        peer, _ = server.accept()
        with peer:
            peer.settimeout(LIMIT_S)
            while await asyncio.to_thread(peer.recv, 4096):  # the greeting, then the end
                pass
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_after_a_restart_of_the_broker_status_and_commands_are_back(desk: Desk, tmp_path: Path) -> None:
    with running(tmp_path / "mosquitto") as mosquitto:
        async with connected_desk(
            desk, tmp_path / "state", mosquitto.broker(), mosquitto.passwords["paper-1"]
        ) as connection:
            await connection.up()
            for times in (2, 3):
                mosquitto.stop()
                await _soon(partial(_has_lost, connection, times - 1))
                mosquitto.start()
                await connection.up(times)
                async with client(mosquitto, "operator") as operator:
                    assert (await _ask(operator, command("halt", times)))["ok"] is True
            assert connection.side.reconnects == 2
        assert len([event for event in connection.events if isinstance(event, HaltRequested)]) == 2


async def test_a_broker_that_stands_still_holds_up_neither_the_desk_nor_the_end(desk: Desk, tmp_path: Path) -> None:
    with running(tmp_path / "mosquitto") as mosquitto:
        async with connected_desk(
            desk, tmp_path / "state", mosquitto.broker(), mosquitto.passwords["paper-1"]
        ) as connection:
            await connection.up()
            assert mosquitto.process is not None
            mosquitto.process.send_signal(signal.SIGSTOP)
            for event, _ in zip(iter(desk.replay.source(0)), range(500), strict=False):
                connection.work.intake.put(event)
            await connection.work.quiet()
            fed = connection.work.submitter.state.fed
            assert fed == 3 * 86 + 60 + 2 * 4  # every bar, and each session's begin and end
            assert await asyncio.to_thread(connection.thread.stop, LIMIT_S)
            counts = connection.outbox.counts()
            assert (
                counts.published + counts.dropped + counts.conflated + counts.refused + counts.waiting == counts.offered
            )


async def test_the_head_that_was_left_last_is_with_the_broker_when_the_desk_has_ended(
    broker: Mosquitto, desk: Desk, tmp_path: Path
) -> None:
    async with connected_desk(desk, tmp_path, broker.broker(), broker.passwords["paper-1"]) as connection:
        await connection.up()
        for row in range(1, 4):
            connection.outbox.put_retained("chain", ChainHead(row, f"{row:064x}"))
        assert await asyncio.to_thread(connection.thread.stop, LIMIT_S)
        counts = connection.outbox.counts()
        assert counts.published + counts.conflated + counts.waiting == counts.offered
    async with client(broker, "monitor") as monitor:
        await monitor.subscribe("rltrader/paper-1/chain", qos=1)
        async with asyncio.timeout(LIMIT_S):
            message = await anext(aiter(monitor.messages))
    assert isinstance(message.payload, bytes)
    head = json.loads(message.payload)
    assert (head["row"], head["head"]) == (3, f"{3:064x}")


async def test_when_a_connection_dies_its_last_will_says_offline_until_the_desk_is_back(
    broker: Mosquitto, desk: Desk, tmp_path: Path
) -> None:
    password = broker.passwords["paper-1"]
    async with client(broker, "monitor") as monitor:
        await monitor.subscribe("rltrader/paper-1/status", qos=1)
        online: list[bool] = []

        async def read() -> None:
            async for message in monitor.messages:
                assert isinstance(message.payload, bytes)
                if not message.retain:
                    online.append(json.loads(message.payload)["online"])

        reading = asyncio.create_task(read())
        async with connected_desk(desk, tmp_path, broker.broker(), password) as connection:
            await _soon(lambda: online[-1:] == [True])
            async with connect(broker.broker(), password, identifier=connection.side.identifier):  # throws the desk out
                await _soon(lambda: False in online)
            await connection.up(2)
            await _soon(lambda: online[-1:] == [True])
        reading.cancel()


async def test_another_role_cannot_throw_the_desk_out_by_taking_its_client_name(
    broker: Mosquitto, desk: Desk, tmp_path: Path
) -> None:
    async with connected_desk(desk, tmp_path, broker.broker(), broker.passwords["paper-1"]) as connection:
        await connection.up()
        assert broker.passwords["paper-1"] not in connection.side.identifier
        password = broker.passwords["monitor"]
        async with connect(broker.broker("monitor"), password, identifier="rltrader-paper-1"):
            async with client(broker, "operator") as operator:  # the desk hears as before
                answer = await _ask(operator, command("status", 77))
            assert answer["ok"]
        assert connection.entries("mqtt_lost") == []


async def test_two_desks_of_one_name_are_told_that_each_ends_the_other(
    broker: Mosquitto, desk: Desk, tmp_path: Path
) -> None:
    async with connected_desk(desk, tmp_path, broker.broker(), broker.passwords["paper-1"]) as first:
        await first.up()
        for times in range(1, CUT_OFTEN + 1):  # Mosquitto 2.0 closes the connection without a reason
            async with connect(broker.broker(), broker.passwords["paper-1"], first.side.identifier):
                await _soon(partial(_has_lost, first, times))
            await first.up(times + 1)
    hints = [entry["reason"].endswith("give each its own desk.name") for entry in first.entries("mqtt_lost")]
    assert hints == [False] * (CUT_OFTEN - 1) + [True]


@pytest.mark.parametrize(("code", "asks"), [(0x8E, True), (0x8B, False)])  # MQTT 5.0, 2.4: taken over, shutting down
async def test_a_broker_that_names_its_reason_is_believed_however_often_it_is_restarted(
    desk: Desk, tmp_path: Path, code: int, asks: bool
) -> None:
    async def ending(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(b"\x20\x03\x00\x00\x00")
        await reader.read(4096)  # it publishes: the connection is up
        writer.write(bytes((0xE0, 0x02, code, 0x00)))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(ending, "127.0.0.1", 0) as server:
        address = MqttBroker("127.0.0.1", server.sockets[0].getsockname()[1], tls=False)
        async with connected_desk(desk, tmp_path, address, "", commands=False) as connection:
            await _soon(lambda: len(connection.entries("mqtt_lost")) > CUT_OFTEN)
    for entry in connection.entries("mqtt_lost"):
        assert f"[code:{code}]" in entry["reason"]
        assert entry["reason"].endswith("give each its own desk.name") == asks


# --- rltraderctl remote -------------------------------------------------------------------------------------------


@pytest.fixture
def remote_files(broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An operator's configuration and keys, and the password in the environment."""
    (tmp_path / "config.toml").write_text(
        f'[desk]\nname = "paper-1"\n[mqtt]\nport = {broker.port}\nca_file = "{broker.ca_file}"\nusername = "operator"\n'
    )
    (tmp_path / "keys").write_text(f"ops-laptop:{HEX}\nunknown:{'00' * 32}\n")
    (tmp_path / "keys").chmod(0o600)
    monkeypatch.setenv("MQTT_PASSWORD", broker.passwords["operator"])
    monkeypatch.delenv("MQTT_COMMAND_KEYS", raising=False)
    return tmp_path


def _remote(folder: Path, *arguments: str) -> tuple[int, str]:
    """What the command returns and prints."""
    words = ["remote", *arguments, "--config", str(folder / "config.toml"), "--key-file", str(folder / "keys")]
    output = io.StringIO()
    code = remote.run(ctl.parser("remote").parse_args(words), Console(file=output, width=500))
    assert HEX not in output.getvalue()
    return code, output.getvalue()


async def test_the_command_line_halts_a_desk_and_says_what_it_is(
    broker: Mosquitto, desk: Desk, tmp_path: Path, remote_files: Path
) -> None:
    password = broker.passwords["paper-1"]
    async with connected_desk(desk, tmp_path / "state", broker.broker(), password) as connection:
        await connection.up()
        halt = ("halt", "--reason", "a drill", "--key", "ops-laptop")
        code, text = await asyncio.to_thread(_remote, remote_files, *halt)
        assert code == 0
        assert f"paper-1: halt journaled as event {connection.work.submitter.state.seq}" in text
        assert "halted: operator: a drill (by mqtt/ops-laptop); holds nothing; 0 orders at work" in text
        assert [event.who for event in connection.events if isinstance(event, HaltRequested)] == ["mqtt/ops-laptop"]


async def test_the_command_line_says_that_a_command_does_nothing(
    broker: Mosquitto, desk: Desk, tmp_path: Path, remote_files: Path
) -> None:
    password = broker.passwords["paper-1"]
    async with connected_desk(desk, tmp_path / "state", broker.broker(), password) as connection:
        await connection.up()
        close = ("close", "SPY", "--reason", "a drill", "--key", "ops-laptop")
        code, text = await asyncio.to_thread(_remote, remote_files, *close)
        assert code == 1
        assert "this does nothing: close SPY (by mqtt/ops-laptop): this desk holds nothing" in text


async def test_the_command_line_hears_a_desk_of_five_hundred_positions(
    broker: Mosquitto, desk: Desk, tmp_path: Path, remote_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(state: State[Any], name: str) -> DeskStatus:
        holding = Holding("ABCDE", 1234, "123456.78", "123.45", "100.01", 1_795_809_600_000_000_000)
        return replace(status_of(state, name), positions=(holding,) * 500)

    monkeypatch.setattr(mqtt, "status_of", large)
    password = broker.passwords["paper-1"]
    async with connected_desk(desk, tmp_path / "state", broker.broker(), password) as connection:
        await connection.up()
        halt = ("halt", "--reason", "a drill", "--key", "ops-laptop")
        code, text = await asyncio.to_thread(_remote, remote_files, *halt)
        assert (code, "1234 ABCDE" in text) == (0, True)


async def test_the_command_line_says_whether_a_desk_trades_in_the_words_of_every_status(
    broker: Mosquitto, desk: Desk, tmp_path: Path, remote_files: Path
) -> None:
    password = broker.passwords["paper-1"]
    async with connected_desk(desk, tmp_path / "state", broker.broker(), password) as connection:
        await connection.up()
        code, text = await asyncio.to_thread(
            _remote, remote_files, "status", "--reason", "a look", "--key", "ops-laptop"
        )
        assert (code, "reconciled; holds nothing" in text) == (0, True)


async def test_the_command_line_says_that_nobody_answered(
    broker: Mosquitto, desk: Desk, tmp_path: Path, remote_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "ANSWER_S", 0.5)
    password = broker.passwords["paper-1"]
    async with connected_desk(desk, tmp_path / "state", broker.broker(), password) as connection:
        await connection.up()
        halt = ("halt", "--reason", "a drill", "--key", "unknown")
        code, text = await asyncio.to_thread(_remote, remote_files, *halt)
        assert code == 1
        assert "no answer from desk paper-1: within 0.5 s; the command may have been carried out" in text
        assert [type(event) for event in connection.events] == [CommandRefused]


async def test_the_command_line_says_that_a_command_may_be_done_whose_answer_was_cut_off(
    broker: Mosquitto, desk: Desk, tmp_path: Path, remote_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut_off(*_: object) -> None:
        raise MqttError("the broker is gone")

    monkeypatch.setattr(remote, "_answer", cut_off)
    password = broker.passwords["paper-1"]
    async with connected_desk(desk, tmp_path / "state", broker.broker(), password) as connection:
        await connection.up()
        halt = ("halt", "--reason", "a drill", "--key", "ops-laptop")
        code, text = await asyncio.to_thread(_remote, remote_files, *halt)
        assert (code, "the broker is gone; the command may have been carried out" in text) == (1, True)
        await until(lambda: [type(event) for event in connection.events] == [HaltRequested])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--key", "nobody"), "--key is 'nobody': expected one of ops-laptop, unknown"),
        ((), "has 2 keys: expected --key with one of ops-laptop, unknown"),
        (("--reason", " "), "--reason has 1 letters: expected 1 to 500"),
        (("--desk", "paper-1/command/#"), "--desk is 'paper-1/command/#': expected a word without"),
        (("--username", "+"), "--username is '+': expected a word without"),
    ],
)
def test_the_command_line_refuses_what_it_cannot_sign(
    remote_files: Path, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        _remote(remote_files, "halt", "--reason", "a drill", *arguments)


def test_keys_that_others_may_read_are_not_used(remote_files: Path) -> None:
    (remote_files / "keys").chmod(0o644)
    with pytest.raises(ConfigError, match="expected mode 600"):
        _remote(remote_files, "halt", "--reason", "a drill", "--key", "ops-laptop")
