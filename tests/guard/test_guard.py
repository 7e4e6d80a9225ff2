"""The guard at work around its watch: what it remembers, what it looks at, and what it still carries out."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import io
import json
import shutil
import time
from collections.abc import Collection, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import SecretStr

from daemon.brokers.alpaca.guarded import AlpacaGuarded
from daemon.brokers.alpaca.rest.client import QueuedClient, Refused, Unanswered
from daemon.brokers.alpaca.trading.trading import TradingReads
from daemon.brokers.api import AccountLook
from daemon.config.load import NO_STRATEGY, Credentials, DeskSettings, load
from daemon.core.effects import SubmitOrder
from daemon.guard import command
from daemon.guard.command import TABLES, Guard
from daemon.guard.watch import Cancel, Close, Fence
from daemon.host.service import Service
from daemon.host.time.clock import Clock
from daemon.operator.heartbeat import Heartbeat, Held, payload_of, put, sign
from daemon.operator.log import Log
from daemon.operator.signing import parse_key
from tests.support.desks.desk_at_work import until

KEY = parse_key("5a" * 32, "the key")
SECOND = 1_000_000_000


class Account:
    """An account that holds ten SPY, and remembers what was asked of it."""

    admin: Any = None

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fenced, self.held = False, 10
        self.answers = asyncio.Event()
        self.answers.set()

    async def look(self, since_ns: int, names: Collection[str], days: Sequence[str] | None) -> AccountLook:
        return AccountLook("PA1", 0, 0.0, True, self.fenced, (), (), frozenset())

    async def rest(self, stop: SubmitOrder) -> None:
        self.asked.append(f"rest {stop.client_order_id}")

    async def cancel(self, order_id: str) -> None:
        self.asked.append(f"cancel {order_id}")
        await self.answers.wait()

    async def fence(self, *, on: bool) -> None:
        self.asked.append(f"fence {on}")
        self.fenced = on

    async def close(self) -> None:
        pass


def settings_of(folder: Path) -> DeskSettings:
    path = folder / "config.toml"
    path.write_text(f'[guard]\nprefix = "guard"\ndrop_dir = "{folder}"\nact = "protect"\n')
    return load(path, NO_STRATEGY, only=TABLES)


async def test_keys_that_the_broker_does_not_know_are_named_as_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> AccountLook:
        raise Refused(401, None, "unauthorized.", {})

    host = Host(tmp_path)
    monkeypatch.setattr(host.account, "look", refuse)
    lines = await host.guard.try_out(0.01)
    assert (False, "account: 401 - unauthorized.: use the keys made for this environment") in lines


async def test_what_a_dead_desk_left_in_the_folder_is_no_desk_that_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLTRADER_GUARD__BEAT_S", "1")
    host = Host(tmp_path)
    put(tmp_path, host.beat())
    dead = (await host.guard.try_out(0.5))[1]
    assert dead[0] is False
    assert "and no newer one came within 0.5 s: is it running" in dead[1]

    host.guard = host.started()
    put(tmp_path, host.beat(2))
    trying = asyncio.create_task(host.guard.try_out(30.0))
    await until(lambda: host.guard.watch.beat is not None)
    put(tmp_path, host.beat(3))
    assert (await trying)[1] == (True, "desk paper-1: heard, holds 1 positions, of which it can protect 1")


class Host:
    """A guard with a clock of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now_s = folder, 1000.0
        self.account = Account()
        self.clock = Clock.real()
        self.log = io.StringIO()
        self.guard = self.started()

    def started(self) -> Guard:
        log = Log("warning", "json", stream=self.log)
        return Guard(
            settings_of(self.folder), self.account, KEY, None, self.folder / "kept.json", log, self.clock,
            lambda: self.now_s,
        )  # fmt: skip

    def beat(self, counter: int = 1, known_ns: int = 0) -> Heartbeat:
        beat = Heartbeat(
            desk="paper-1",
            life=1,
            counter=counter,
            time_ns=self.clock.now_ns(),
            account="PA1",
            names="e1-online_dqn-",
            prefix="guard",
            known_ns=known_ns,
            leaving=False,
            holds={"SPY": Held(10, 0, Decimal("55.00"), None)},
            orders={},
        )
        return sign(beat, KEY)

    def silent(self) -> Guard:
        """The guard, whose desk fell silent while its own message comes back."""
        self.guard.take_beat("folder", self.beat())
        for _ in range(40):
            self.now_s += 10
            self.guard.watch.take_echo("folder", self.now_s)
            self.guard.watch.turn(self.now_s)
        return self.guard


class Refusing:
    """A broker that takes no call to close everything; it tells of each."""

    def __init__(self) -> None:
        self.asked = 0

    async def cancel_all(self) -> None:
        raise Unanswered("POST: no answer")

    async def close_all(self) -> None:
        self.asked += 1
        raise Unanswered("DELETE: no answer")

    async def left(self) -> tuple[str, ...]:
        return ("10 SPY",)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.chdir(tmp_path)
    return Host(tmp_path)


async def test_a_guard_that_restarts_knows_its_own_fence(host: Host) -> None:
    host.guard.take_beat("folder", host.beat())
    host.guard._remember()
    host.guard.watch.fenced = True  # it fences a desk that is silent: no heartbeat came since
    host.guard._remember()
    again = host.started()
    assert again.watch.fenced
    assert again.watch.beat == host.guard.watch.beat
    again.watch.fenced = False
    again._remember()
    assert not host.started().watch.fenced


async def test_a_guard_that_restarts_knows_that_there_was_a_fence_in_this_silence_and_not_of_an_earlier_one(
    host: Host,
) -> None:
    guard = host.silent()
    host.account.fenced = True
    for _ in range(2):
        host.now_s += 10
        await guard.look()
        guard.watch.take_echo("folder", host.now_s)
        guard.watch.turn(host.now_s)
    guard._remember()
    again = host.started()
    assert again.watch.memory == guard.watch.memory
    assert again.watch.memory.fenced_once
    again.take_beat("folder", host.beat(2))
    again._remember()
    assert not host.started().watch.memory.fenced_once


async def test_a_fence_that_a_full_disk_did_not_keep_is_kept_once_there_is_room(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    host.guard.take_beat("folder", host.beat())
    host.guard.watch.fenced = True  # the desk is silent from here on
    with monkeypatch.context() as patch:
        patch.setattr(command, "write_whole", full)
        for _ in range(3):
            host.guard._remember()
    assert not host.started().watch.fenced
    host.guard._remember()
    assert host.started().watch.fenced
    assert host.log.getvalue().count("guard_forgets") == 1


@pytest.mark.parametrize(
    "kept",
    [b"", b"\xff", b'{"beat":{"desk":"\xff"}}', b'{"beat":{"x":' + b"[" * 50_000, b"{}", b'{"beat":null}', b"[]"],
)
async def test_a_memory_that_is_torn_is_none(kept: bytes, host: Host) -> None:
    (host.folder / "kept.json").write_bytes(kept)
    again = host.started()
    assert (again.watch.beat, again.watch.fenced) == (None, False)


async def test_what_a_guard_of_a_former_release_remembered_is_known(host: Host) -> None:
    message = json.loads(payload_of(sign(host.beat(3), KEY))) | {"mac": ""}
    del message["prefix"]  # which that release did not tell
    text = json.dumps(message, separators=(",", ":")).encode()
    message["mac"] = hmac.new(bytes.fromhex("5a" * 32), text, hashlib.sha256).hexdigest()
    (host.folder / "kept.json").write_text(json.dumps({"beat": message, "fenced": True}))
    again = host.started()
    assert again.watch.beat is not None
    assert (again.watch.beat.holds, again.watch.fenced) == (host.beat(3).holds, True)
    message["counter"] = 4
    (host.folder / "kept.json").write_text(json.dumps({"beat": message, "fenced": True}))
    assert host.started().watch.beat is None


async def test_what_waits_behind_a_slow_broker_is_not_done_to_a_desk_that_came_back(host: Host) -> None:
    guard, account = host.silent(), host.account
    account.answers.clear()
    for action in (Cancel("a", "a"), Cancel("b", "b"), Close(), Fence(True), Fence(False)):
        guard._orders.put_nowait(action)
    acting = asyncio.ensure_future(guard._act_on())
    await until(lambda: bool(account.asked))
    guard.take_beat("folder", host.beat(2))
    account.answers.set()
    await guard._orders.join()
    acting.cancel()
    await asyncio.gather(acting, return_exceptions=True)
    assert account.asked == ["cancel a", "fence False"]  # a fence is lifted whoever lives: an exit needs its way


async def test_a_close_that_the_broker_does_not_take_yet_ends_once_the_desk_is_heard(host: Host) -> None:
    guard, broker = host.silent(), Refusing()
    host.account.admin = broker
    guard._orders.put_nowait(Close())
    acting = asyncio.ensure_future(guard._act_on())
    await until(lambda: broker.asked == 2)
    guard.take_beat("folder", host.beat(2))
    await guard._orders.join()
    acting.cancel()
    await asyncio.gather(acting, return_exceptions=True)
    assert broker.asked <= 4  # in forty seconds it would ask forty times


async def test_a_blind_guard_s_alarm_says_what_is_wrong_with_its_path(host: Host, tmp_path: Path) -> None:
    host.folder = tmp_path / "drop"
    host.folder.mkdir()
    host.guard = host.started()
    shutil.rmtree(host.folder)
    host.now_s += 100
    watching = asyncio.create_task(host.guard.run(Service()))
    await until(lambda: "guard_path" in host.log.getvalue())
    host.now_s += 3600  # an alarm that lasts comes again
    await until(lambda: "No such file" in str(details(host, "guard_blind")))
    watching.cancel()


def details(host: Host, event: str) -> list[str]:
    return [line["detail"] for line in map(json.loads, host.log.getvalue().splitlines()) if line["event"] == event]


async def test_its_own_message_that_comes_back_twice_is_one_echo(host: Host) -> None:
    beat = host.guard.own_beat()
    host.guard.take_echo("folder", beat)
    assert host.guard.watch.blind(host.now_s) == []
    host.now_s += 1000
    host.guard.take_echo("folder", beat)
    assert host.guard.watch.blind(host.now_s) == ["folder"]
    host.guard.take_echo("folder", host.guard.own_beat())
    assert host.guard.watch.blind(host.now_s) == []


@pytest.mark.parametrize(("is_open", "days"), [(False, ("2026-11-30", "2026-11-29", "2026-11-28")), (True, ())])
async def test_before_a_stop_rests_over_night_the_actions_of_the_next_session_are_asked_for(
    is_open: bool, days: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The desk died on Friday, the 27th of November, in its session; the next one is on Monday."""
    host = Host(tmp_path)
    host.clock = Clock.simulated(time.time(), ns_of("2026-11-27T22:00"), 1.0)
    host.guard = host.started()
    asked: list[object] = []

    async def look(since_ns: int, names: Collection[str], days: Sequence[str] | None) -> AccountLook:
        asked.append(days)
        return AccountLook("PA1", 0, 0.0, is_open, False, (), (), frozenset(), ns_of("2026-11-30T14:30"))

    monkeypatch.setattr(host.account, "look", look)
    guard = host.silent()
    await guard.look()
    await guard.look()
    assert asked[1] == days


async def test_of_a_start_that_had_not_looked_all_since_the_last_report_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The desk knew the account on Friday in the session; it started on Monday for a moment, and died."""
    host = Host(tmp_path)
    host.clock = Clock.simulated(time.time(), ns_of("2026-11-30T15:00"), 1.0)
    host.guard = host.started()
    asked: list[tuple[object, ...]] = []

    async def look(since_ns: int, names: Collection[str], days: Sequence[str] | None) -> AccountLook:
        asked.append((since_ns, days))
        return AccountLook("PA1", 0, 0.0, True, False, (), (), frozenset())

    monkeypatch.setattr(host.account, "look", look)
    known_ns = ns_of("2026-11-27T16:00")
    monkeypatch.setattr(host, "beat", partial(host.beat, known_ns=known_ns))
    await host.silent().look()
    days = ("2026-11-30", "2026-11-29", "2026-11-28")
    assert asked == [(known_ns - 60 * SECOND, days)]


def ns_of(text: str) -> int:
    """UTC in nanoseconds."""
    return int(datetime.fromisoformat(f"{text}+00:00").timestamp()) * SECOND


class Announcements:
    """The broker's announcements of corporate actions, at a time that moves by hand."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] | None = []
        self.asked: list[tuple[object, ...]] = []
        self.now_s = 0

    def now_ns(self) -> int:
        return self.now_s * SECOND

    async def get(self, path: str, query: dict[str, str]) -> list[dict[str, Any]]:
        assert path == "/corporate_actions/announcements"
        self.asked.append((query["since"], query["until"], "dividend" in query["ca_types"]))
        if self.rows is None:
            raise Unanswered("GET /corporate_actions/announcements: 503")
        return [row for row in self.rows if query["since"] <= row["ex_date"] <= query["until"]]


async def test_corporate_actions_are_asked_for_again_and_unknown_without_an_answer() -> None:
    account, broker = AlpacaGuarded.__new__(AlpacaGuarded), Announcements()
    account._reads = TradingReads.__new__(TradingReads)
    account._reads._client = cast(QueuedClient, broker)
    account._clock, account._changes_read, account._changed = cast(Clock, broker), None, frozenset()
    days = ("2026-11-24", "2026-11-23", "2026-11-22")
    dividend = {"ca_type": "dividend", "ex_date": "2026-11-23", "target_symbol": None}
    broker.rows = [
        dividend | {"ca_sub_type": "stock", "initiating_symbol": "DIA"},
        dividend | {"ca_sub_type": "cash", "initiating_symbol": "QQQ"},
        dividend | {"ca_sub_type": "", "initiating_symbol": "GLD"},  # as the desk: it may be paid in shares
    ]
    assert await account._changes(days) == frozenset({"", "DIA", "GLD"})
    for symbol, day in (("SPY", days[0]), ("IWM", days[1])):  # a late one of yesterday too
        broker.rows.append({"ca_type": "split", "ex_date": day, "initiating_symbol": symbol, "target_symbol": None})
    assert await account._changes(days) == frozenset({"", "DIA", "GLD", "SPY"})
    broker.now_s = 3600
    assert await account._changes(days) == frozenset({"", "DIA", "GLD", "SPY", "IWM"})
    whole, newest = ("2026-11-22", "2026-11-24", True), ("2026-11-24", "2026-11-24", False)
    assert broker.asked == [whole, newest, whole]
    broker.rows = None
    assert await account._changes(days) is None
    assert await account._changes(()) == frozenset()
    assert await account._changes(None) is None


class Orders:
    """Thirty orders of the broker by name, of which one works."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def order_by_client_id(self, name: str) -> dict[str, Any]:
        self.asked.append(name)
        status = "new" if name == "n05" else "canceled"
        return {
            "id": f"id-{name}",
            "client_order_id": name,
            "symbol": "SPY",
            "side": "sell",
            "qty": "1",
            "status": status,
        }


async def test_an_order_that_has_ended_is_asked_for_once_however_long_the_silence() -> None:
    account, orders = AlpacaGuarded.__new__(AlpacaGuarded), Orders()
    account._reads, account._ended_orders = cast(TradingReads, orders), {}
    names = {f"n{number:02}" for number in range(30)}
    assert len(await account._orders_of_names(names)) == 20
    assert len(await account._orders_of_names(names)) == 30
    orders.asked.clear()
    assert {order.client_order_id for order in await account._orders_of_names(names)} == names
    assert orders.asked == ["n05"]


class Reads:
    """An account of 15 SPY, five of them a person's, whose sale works since long before the heartbeat."""

    def __init__(self) -> None:
        self.sale = {
            "id": "id-1", "client_order_id": "by-hand", "symbol": "SPY", "side": "sell", "qty": "5", "status": "new",
            "filled_qty": "0", "type": "limit", "limit_price": "60", "submitted_at": "2026-11-23T15:00:00Z",
        }  # fmt: skip

    async def clock(self) -> dict[str, Any]:
        return {
            "timestamp": "2026-11-24T15:00:00Z", "is_open": True, "next_open": "2026-11-25T14:30:00Z",
            "next_close": "2026-11-24T21:00:00Z",
        }  # fmt: skip

    async def open_orders(self) -> list[dict[str, Any]]:
        return [self.sale] if self.sale["status"] == "new" else []

    async def orders_since(self, _since_ns: int) -> list[dict[str, Any]]:
        return []

    async def order_by_client_id(self, name: str) -> dict[str, Any] | None:
        return self.sale if name == "by-hand" else None

    async def positions(self) -> list[dict[str, Any]]:
        return []

    async def account(self) -> dict[str, Any]:
        return {"account_number": "PA1"}


async def test_a_person_s_order_that_worked_before_the_silence_is_seen_when_it_fills(tmp_path: Path) -> None:
    keys = Credentials(api_key_id=SecretStr("k"), api_secret_key=SecretStr("s"))
    account, reads = AlpacaGuarded(settings_of(tmp_path), keys, Clock.real()), Reads()
    account._reads = cast(TradingReads, reads)
    await account.look(1, (), ())
    reads.sale |= {"status": "filled", "filled_qty": "5", "filled_avg_price": "60"}
    for since_ns in (2, 2, 2):  # the last heartbeat, and the silence
        assert [order.filled for order in (await account.look(since_ns, (), ())).orders] == [5]
    assert (await account.look(3, (), ())).orders == ()  # a later heartbeat knows it
    await account.close()
