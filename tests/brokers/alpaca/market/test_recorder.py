"""Which contracts a recording takes, and that it only ever loses against the desk."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgpack
import pytest

from daemon.brokers.alpaca.market import recorder as module
from daemon.brokers.alpaca.market.recorder import OptionRecorder, near
from daemon.brokers.alpaca.market.socket import QUOTES, Endpoint, MarketSocket
from daemon.config.tables import RecordTable
from daemon.core.events import Contract
from daemon.core.instruments.option_market import occ_symbol
from daemon.host.time.clock import Clock
from daemon.operator.log_events import LOG_EVENTS
from daemon.tapes.quotes.minute_book import MinuteQuote
from daemon.tapes.quotes.recording import Recording
from strategies.kit.contract import Session
from strategies.kit.units import MINUTE_NS, SECOND_NS

OPEN_NS = 1_723_728_600 * SECOND_NS  # 2024-08-15, 13:30 UTC
DAY = Session("2024-08-15", OPEN_NS, OPEN_NS + 390 * MINUTE_NS)
NEXT, WEEK = "2024-08-16", "2024-08-22"


def name(expiry: str, strike: int, right: int = 1) -> str:
    return occ_symbol("SPY", expiry, right, Decimal(strike))


LISTING = tuple(
    Contract(name(expiry, strike, right), expiry, right, Decimal(strike), 10)
    for expiry in (NEXT, WEEK)
    for strike in range(540, 561)
    for right in (1, -1)
)


def test_the_nearest_strikes_of_the_nearest_expiries_come_first() -> None:
    nearest = near(LISTING, 550.4, strikes=2, expiries=1, recorded_symbols=frozenset())
    assert set(nearest[:4]) == {name(NEXT, strike, right) for strike in (550, 551) for right in (1, -1)}
    assert set(nearest) == {name(NEXT, strike, right) for strike in (549, 550, 551, 552) for right in (1, -1)}
    assert len(near(LISTING, 550.4, strikes=2, expiries=2, recorded_symbols=frozenset())) == 16


def test_a_recorded_contract_stays_until_it_is_two_strikes_further_away() -> None:
    contracts = frozenset((name(NEXT, 546), name(NEXT, 547)))
    nearest = near(LISTING, 550.4, strikes=2, expiries=1, recorded_symbols=contracts)
    assert contracts & set(nearest) == {name(NEXT, 547)}


class Kept(Recording):
    """A recording that writes nothing."""

    def __init__(self) -> None:
        super().__init__(Path("nowhere"), source="", synthetic="", free_mib=0)
        self.minutes: list[tuple[int, float | None, list[MinuteQuote]]] = []
        self.done: list[str] = []

    def add(self, minute: Any) -> None:
        self.minutes.append(((minute.end_ns - OPEN_NS) // MINUTE_NS, minute.underlying, minute.rows))

    def finish(self, date: str) -> None:
        self.done.append(date)


class Side:
    """A recorder with a socket that is not connected, on a clock that the test sets."""

    def __init__(self, **rule: int) -> None:
        self.now_ns = OPEN_NS
        self.bar = (OPEN_NS - MINUTE_NS, 550.4)
        self.log: list[tuple[str, dict[str, object]]] = []
        self.kept = Kept()
        self.socket = MarketSocket(
            Endpoint("ws://127.0.0.1:9", "k", "s"),
            on_message=lambda _: None,
            on_state=lambda _: None,
            log=lambda *_, **__: None,
        )
        clock = Clock.real(lambda: self.now_ns, lambda: self.now_ns)
        self.recorder = OptionRecorder(RecordTable(enabled=True, **rule), self.kept, clock, self._log)
        self.recorder.attach(self.socket, lambda: self.bar)
        self.recorder.begin(DAY)
        self.recorder.listed(LISTING)

    def _log(self, event: str, /, **fields: object) -> None:
        assert set(fields) == set(LOG_EVENTS[event].fields)
        self.log.append((event, fields))

    @property
    def spare(self) -> set[str]:
        """What the socket streams for the recording alone."""
        return {symbol for _, symbol in self.socket._spare}

    def quote(self, symbol: str, second: float, bid: Any = 2.0, **more: Any) -> None:
        when = msgpack.Timestamp.from_unix_nano(OPEN_NS + int(second * SECOND_NS))
        self.recorder.take(symbol, {"T": "q", "S": symbol, "bp": bid, "ap": 2.5, "t": when, **more})

    def pass_to(self, second: float) -> None:
        self.now_ns = OPEN_NS + int(second * SECOND_NS)
        self.recorder._each_minute()


def test_minutes_of_the_session_are_recorded_with_the_bar_that_ends_with_them() -> None:
    side = Side(strikes=1, expiries=1)
    near_call, far = name(NEXT, 551), name(NEXT, 560)
    side.quote(near_call, 10, bs=7, **{"as": 8})
    side.quote(far, 10)  # not asked for
    side.quote(near_call, 62, bid=2.1)  # of the next minute, before this one is closed
    side.bar = (OPEN_NS, 550.6)
    side.pass_to(65)
    side.pass_to(125)  # no bar came
    assert [(minute, underlying) for minute, underlying, _ in side.kept.minutes] == [(1, 550.6), (2, None)]
    assert [[row[:5] for row in rows] for _, _, rows in side.kept.minutes] == [
        [(near_call, 2.0, 2.5, 7, 8)],
        [(near_call, 2.1, 2.5, None, None)],
    ]
    side.recorder.end(DAY)
    assert side.kept.done == ["2024-08-15"]
    assert side.kept.minutes[-1][0] == 390  # up to the close
    assert side.spare == set()


def test_the_desk_comes_first() -> None:
    side = Side(strikes=10, expiries=2, symbols_max=50)
    assert len(side.spare) == 10  # 40 of the 50 stay free for the desk
    desks = frozenset(contract.symbol for contract in LISTING[:45])
    side.recorder.streamed(desks)
    assert side.spare.isdisjoint(desks)
    side.pass_to(65)
    assert len(side.spare) == 5
    side.quote(LISTING[0].symbol, 70)
    side.pass_to(125)
    assert LISTING[0].symbol in {row.symbol for row in side.kept.minutes[-1][2]}  # what the desk streams is recorded


def test_a_refusal_and_a_flood_halve_the_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    side = Side(strikes=10, expiries=2, symbols_max=100)
    assert len(side.spare) == 60
    side.socket.refused = frozenset({(QUOTES, next(iter(side.spare)))})
    side.pass_to(65)
    assert len(side.spare) == 30
    monkeypatch.setattr(module, "MESSAGES_MOST", 5)
    for _ in range(6):
        side.quote(next(iter(side.spare), ""), 70)
    assert side.spare == set()  # until the next minute
    side.pass_to(125)
    assert len(side.spare) == 15
    assert [fields["room"] for event, fields in side.log if event == "recording_narrowed"] == [30, 15]


def test_an_odd_message_and_an_error_of_its_own_reach_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    side = Side(strikes=1, expiries=1)
    for odd in ({"bid": None}, {"bid": "x"}):
        side.quote(name(NEXT, 551), 10, **odd)
    assert [event for event, _ in side.log] == ["recording_started"]

    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(side.recorder._book, "add", fail)
    side.quote(name(NEXT, 551), 10)
    assert side.recorder.failed
    assert side.log[-1] == ("recording_stopped", {"reason": "RuntimeError: broken"})
    assert side.spare == set()
    side.recorder.streamed(frozenset())
    side.recorder.end(DAY)
    assert side.kept.done == []


async def test_a_stopped_recording_gives_the_stream_back(tmp_path: Path) -> None:
    side = Side(strikes=1, expiries=1)
    side.kept.problem = "no room"
    side.pass_to(65)
    side.pass_to(125)
    assert side.spare == set()
    assert [event for event, _ in side.log].count("recording_stopped") == 1
    task = asyncio.create_task(side.recorder.run())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not side.kept._thread.is_alive()
