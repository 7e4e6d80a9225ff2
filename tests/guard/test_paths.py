"""Heartbeats and echoes over a real Mosquitto with the installed configuration, and over a folder."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import stat
from collections.abc import Callable, Coroutine, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import pytest
from msgspec.structs import replace

from daemon.guard.paths import FolderPath, MqttPath
from daemon.operator.heartbeat import (
    BYTES_MAX,
    GuardBeat,
    Heartbeat,
    Held,
    OtherRelease,
    genuine,
    payload_of,
    put,
    read_newest,
    sign,
)
from daemon.operator.mqtt.connection import connect
from daemon.operator.signing import KeyRefused, parse_key
from strategies.kit.quantity import exact
from tests.support.desks.desk_at_work import until
from tests.support.outside.mosquitto import Mosquitto, running

KEY, OTHER = parse_key("5a" * 32, "the key"), parse_key("5b" * 32, "the key")
BEAT = Heartbeat(
    desk="paper-1",
    life=1,
    counter=1,
    time_ns=5,
    account="PA1",
    names="e1-online_dqn-",
    prefix="guard",
    leaving=False,
    holds={
        "SPY": Held(10, 2, Decimal("55.00"), None),
        "SPY270115C00500000": Held(3, 0, Decimal("1.1"), Decimal("0.5")),
        "QQQ": Held(exact("0.000000001"), exact("1.5"), Decimal("55.00"), None),
    },
    orders={"e1-online_dqn-7-0-0": 4, "e1-online_dqn-8-0-0": exact("0.5")},
)


class Ears:
    """Remembers what a path brings; its own message counts up."""

    def __init__(self) -> None:
        self.counter = 0
        self.beats: list[Heartbeat] = []
        self.echoes: list[int] = []
        self.problems: list[str] = []
        self.unread: list[tuple[int, int]] = []

    def own_beat(self) -> GuardBeat:
        self.counter += 1
        return sign(GuardBeat(desk="paper-1", life=7, counter=self.counter, time_ns=1, state="hears"), KEY)

    def take_beat(self, path: str, beat: Heartbeat) -> None:
        self.beats.append(beat)

    def take_unread(self, path: str, beat: OtherRelease) -> None:
        self.unread.append((beat.life, beat.counter))

    def take_echo(self, path: str, beat: GuardBeat) -> None:
        self.echoes.append(beat.counter)

    def note_loss(self, path: str, problem: str) -> None:
        self.problems.append(problem)


@contextlib.asynccontextmanager
async def at_work(work: Coroutine[Any, Any, NoReturn]) -> Any:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with running(tmp_path_factory.mktemp("mosquitto")) as mosquitto:
        yield mosquitto


async def test_by_mqtt_the_desk_s_heartbeats_and_the_guard_s_own_message_come(broker: Mosquitto) -> None:
    ears = Ears()
    path = MqttPath(broker.broker("guard"), broker.passwords["guard"], "rltrader", "paper-1", KEY, ears, 0.05)
    async with at_work(path.run()):
        await until(lambda: len(ears.echoes) > 2)
        assert ears.echoes == sorted(set(ears.echoes))
        async with connect(broker.broker("paper-1"), broker.passwords["paper-1"]) as desk:
            for beat in (BEAT, sign(BEAT, OTHER), sign(BEAT, KEY)):  # unsigned, of another key, genuine
                await desk.publish("rltrader/paper-1/heartbeat", payload_of(beat))
            await desk.publish("rltrader/paper-1/heartbeat", b"no json")
            await until(lambda: bool(ears.beats))
    assert ears.beats == [sign(BEAT, KEY)]


async def test_a_broker_that_goes_and_comes_back_is_found_again(tmp_path: Path) -> None:
    with running(tmp_path) as mosquitto:
        ears = Ears()
        path = MqttPath(mosquitto.broker("guard"), mosquitto.passwords["guard"], "rltrader", "paper-1", KEY, ears, 0.05)
        async with at_work(path.run()):
            await until(lambda: bool(ears.echoes))
            mosquitto.stop()
            await until(lambda: bool(ears.problems))
            echo_count = len(ears.echoes)
            mosquitto.start()
            await until(lambda: len(ears.echoes) > echo_count)
    assert mosquitto.passwords["guard"] not in " ".join(ears.problems)


async def test_by_a_folder_the_newest_message_of_each_comes(tmp_path: Path) -> None:
    ears = Ears()
    async with at_work(FolderPath(tmp_path, "paper-1", KEY, ears, 0.02).run()):
        await until(lambda: len(ears.echoes) > 2)
        assert ears.beats == []
        put(tmp_path, sign(BEAT, OTHER))
        put(tmp_path, sign(BEAT, KEY))
        await until(lambda: bool(ears.beats))
    assert set(ears.echoes) == set(range(1, max(ears.echoes) + 1))
    assert ears.beats[0] == sign(BEAT, KEY)


async def test_by_the_slowest_beat_a_folder_brings_a_message_while_it_is_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heartbeat is written a second after a look, by a clock twenty seconds behind: a minute is left to it."""
    now_s, ears, sleep, heard = 0.0, Ears(), asyncio.sleep, asyncio.Event()

    async def passes(seconds: float) -> None:
        nonlocal now_s
        if ears.beats:
            heard.set()
            await sleep(60.0)
        if not now_s:
            put(tmp_path, sign(BEAT, KEY))
        now_s += seconds
        await sleep(0)

    monkeypatch.setattr("daemon.guard.paths.asyncio.sleep", passes)
    async with at_work(FolderPath(tmp_path, "paper-1", KEY, ears, 60.0).run()):
        await heard.wait()
    assert now_s - 1.0 + 20.0 < 60.0


async def test_the_other_host_s_user_reads_what_either_writes_under_the_umask_of_the_units(tmp_path: Path) -> None:
    """The user `rltrader` may have another number there, and share no group."""
    former, ears = os.umask(0o027), Ears()
    try:
        async with at_work(FolderPath(tmp_path, "paper-1", KEY, ears, 0.02).run()):
            await until(lambda: bool(ears.echoes))
        put(tmp_path, sign(BEAT, KEY))
    finally:
        os.umask(former)
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(tmp_path)}
    assert modes == {"paper-1.heartbeat.json": 0o644, "paper-1.guard.json": 0o644}


async def test_a_folder_that_is_gone_brings_nothing_and_is_found_again(tmp_path: Path) -> None:
    ears, folder = Ears(), tmp_path / "drop"
    async with at_work(FolderPath(folder, "paper-1", KEY, ears, 0.02).run()):
        await until(lambda: bool(ears.problems))
        assert ears.echoes == []
        folder.mkdir()
        await until(lambda: bool(ears.echoes))
    assert str(folder) in ears.problems[0]


def test_a_message_counts_for_its_desk_and_its_key_and_each_field_is_signed(tmp_path: Path) -> None:
    whole = sign(BEAT, KEY)
    payload = payload_of(whole)
    assert genuine(payload, Heartbeat, "paper-1", KEY) == whole
    assert genuine(payload, Heartbeat, "paper-2", KEY) is None
    assert genuine(payload, Heartbeat, "paper-1", OTHER) is None
    for field, other in (
        ("counter", 2),
        ("time_ns", 6),
        ("life", 2),
        ("leaving", True),
        ("account", "PA2"),
        ("names", ""),
        ("orders", {}),
        ("holds", {"SPY": Held(10, 2, Decimal("54.00"), None)}),
    ):
        forged = payload_of(replace(whole, **{field: other}))
        assert genuine(forged, Heartbeat, "paper-1", KEY) is None, field
    assert genuine(b" " * BYTES_MAX + payload, Heartbeat, "paper-1", KEY) is None
    (tmp_path / "paper-1.heartbeat.json").write_bytes(os.urandom(200))
    assert read_newest(tmp_path, Heartbeat, "paper-1", KEY) is None


def of_release(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The heartbeat as another release would write and sign it: HMAC-SHA256 of the message with an empty mac."""
    message = json.loads(payload_of(BEAT)) | {"mac": ""}
    change(message)

    def text() -> bytes:
        return json.dumps(message, separators=(",", ":")).encode()

    message["mac"] = hmac.new(bytes.fromhex("5a" * 32), text(), hashlib.sha256).hexdigest()
    return text()


def test_a_heartbeat_of_a_release_with_more_or_fewer_fields_is_heard() -> None:
    for change in (lambda message: message.pop("prefix"), lambda message: message.update(more=[1, {"x": "y"}])):
        payload = of_release(change)
        heard = genuine(payload, Heartbeat, "paper-1", KEY)
        assert heard is not None
        assert (heard.counter, heard.holds, heard.orders) == (1, BEAT.holds, BEAT.orders)
        assert genuine(payload.replace(b'"counter":1', b'"counter":2'), Heartbeat, "paper-1", KEY) is None
        assert genuine(payload_of(heard), Heartbeat, "paper-1", KEY) == heard  # as the guard remembers it


async def test_a_heartbeat_of_a_release_that_cannot_be_read_is_told_as_such(tmp_path: Path, broker: Mosquitto) -> None:
    payload, ears = of_release(lambda message: message.update(v=2, counter=7)), Ears()
    (tmp_path / "paper-1.heartbeat.json").write_bytes(payload)
    async with at_work(FolderPath(tmp_path, "paper-1", KEY, ears, 0.02).run()):
        await until(lambda: len(ears.echoes) > 2 and bool(ears.unread))
    assert set(ears.unread) == {(1, 7)}
    by_mqtt = Ears()
    path = MqttPath(broker.broker("guard"), broker.passwords["guard"], "rltrader", "paper-1", KEY, by_mqtt, 0.05)
    async with at_work(path.run()):
        await until(lambda: bool(by_mqtt.echoes))
        async with connect(broker.broker("paper-1"), broker.passwords["paper-1"]) as desk:
            await desk.publish("rltrader/paper-1/heartbeat", payload)
            await until(lambda: bool(by_mqtt.unread))
    assert (by_mqtt.unread, by_mqtt.beats, by_mqtt.problems) == ([(1, 7)], [], [])


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b'{"x":' + b"[" * 100_000,
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"desk":"\\ud800"}',
        b'{"holds":{"SPY":[1,0,"NaN",null]}}',
        b'{"holds":{"SPY":[1e999,0,"1",null]}}',
        b'{"holds":{"SPY":["1e999999999",0,"1",null]}}',
        b'{"orders":{"x":"1e-9"}}',
        b'{"orders":{"x":"' + b"9" * 200_000 + b'.5"}}',
    ],
)
def test_whatever_anybody_writes_is_no_message_and_raises_nothing(payload: bytes, tmp_path: Path) -> None:
    assert genuine(payload, Heartbeat, "paper-1", KEY) is None
    assert genuine(payload, GuardBeat, "paper-1", KEY) is None
    for name in ("heartbeat", "guard"):
        (tmp_path / f"paper-1.{name}.json").write_bytes(payload)
    assert read_newest(tmp_path, Heartbeat, "paper-1", KEY) is None
    assert read_newest(tmp_path, GuardBeat, "paper-1", KEY) is None


def test_a_pipe_in_the_place_of_a_message_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "paper-1.heartbeat.json")
    assert read_newest(tmp_path, Heartbeat, "paper-1", KEY) is None


@pytest.mark.parametrize("text", ["", "5a", "no hex at all", "5a" * 31])
def test_a_weak_key_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(KeyRefused, match="openssl rand -hex 32") as error:
        parse_key(text, "the key")
    assert not text or text not in str(error.value)
