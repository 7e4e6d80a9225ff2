"""A desk of longer bars decides live as a replay of its minutes does, and as one of whole bars: what, and when.

The day is a half day. Its tape lacks minutes, at the ends of bars too, and for a while there is none: a halt.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest

from daemon.brokers.alpaca.market.live_bars import TORN_NS
from daemon.brokers.api import Known
from daemon.core.desks.bars import MINUTE_WAIT_NS
from daemon.core.effects import AskPolicy
from daemon.core.events import BarClosed, BrokerSnapshot, Event, ModelVerified, PolicyAnswered
from daemon.core.limits import Risk, Trading
from daemon.core.state import Identity
from daemon.engine.recover import fresh_machine
from daemon.tapes.minutes import TapeSource, scan
from simulator.prices.market import Market
from strategies.kit.contract import Bar, ShareSpec
from strategies.kit.synthetic import synthetic_sessions
from tests.support.alpaca.market_desk import MINUTE, SECOND, MarketDesk, calendar, desk, session
from tests.support.core.longer_bars import LongerBars, longer_spec
from tests.support.desks.desk_run import bar_rows, write_tape

pytestmark = pytest.mark.filterwarnings("ignore:websockets.legacy is deprecated:DeprecationWarning")

DATE = "2024-07-03"  # until 13:00
DAY = session(DATE)
BEFORE = [session(date) for date in ("2024-06-28", "2024-07-01", "2024-07-02")]
HALTED = range(63, 78)
GONE = {13, 14, 29, 58, 59, 100, 149, 150, 209, *HALTED}
NOTHING = Known("", ended=False, last_bar_ns=0)
RULES = Trading(risk=Risk(gap_min=400, daily_loss_max=1.0, drawdown_max=1.0))


@cache
def minutes() -> tuple[Bar, ...]:
    bars = synthetic_sessions(11, [*BEFORE, DAY])
    gap_starts = {DAY.open_ns + minute * MINUTE for minute in GONE}
    return tuple(one for one in bars if one.start_ns not in gap_starts)


@cache
def market() -> Market:
    return Market.from_bars(list(minutes()), sessions=calendar().sessions)


class Decided(NamedTuple):
    """A question: the start of its bar, what was seen, and when it was asked."""

    bar_ns: int
    seen: bytes
    time_ns: int


def decisions(events: Iterable[Event], spec: ShareSpec, mode: str) -> list[Decided]:
    """Step a core through the events; what it asked on the day."""
    result: list[Decided] = []
    machine = fresh_machine(LongerBars(spec), Identity(mode, "d", spec.name, "e1", "sip"), RULES)

    def answer(question: AskPolicy, now_ns: int) -> PolicyAnswered:
        ask = machine.state.ask
        assert ask is not None
        if ask.bar_ns >= DAY.open_ns:
            result.append(Decided(ask.bar_ns, question.observation.data, now_ns))
        return PolicyAnswered(now_ns, question.decision, (0.0, 1.0), b"", "v1")

    ready = (BrokerSnapshot(1, RULES.paper.cash_usd, (), ()), ModelVerified(1, "v1", "d", promoted=True, feed="sip"))
    machine.run(chain(ready, events), answer)
    return result


def replayed(tape: Path, spec: ShareSpec) -> list[Decided]:
    info = scan(tape, spec.symbols, spec.bar_interval_s, spec.bar_anchor)
    return decisions(TapeSource(tape, info, calendar()), spec, "replay")


def assert_as_replayed(live: list[Decided], spec: ShareSpec, folder: Path, first: int = 0) -> None:
    """Live decisions are those of both replays from the place `first` on, some seconds after the bars' ends."""
    of_minutes = replayed(write_tape(folder / "minutes.csv", bar_rows(minutes())), spec)
    info = scan(folder / "minutes.csv", spec.symbols, spec.bar_interval_s, spec.bar_anchor)
    whole = [e.bar for e in TapeSource(folder / "minutes.csv", info, calendar()) if isinstance(e, BarClosed)]
    assert replayed(write_tape(folder / "whole.csv", bar_rows(whole)), spec) == of_minutes
    assert [(one.bar_ns, one.seen) for one in live] == [(one.bar_ns, one.seen) for one in of_minutes[first:]]
    late = [one.time_ns - other.time_ns for one, other in zip(live, of_minutes[first:], strict=True)]
    assert min(late) >= 0
    assert max(late) < 40 * SECOND  # a bar after a hole waits until REST was read


async def run_until_the_close(it: MarketDesk) -> None:
    await it.clock.sleep_until(DAY.close_ns + it.feed.close_grace_s * SECOND)
    await it.feed.end(DAY)


@pytest.mark.parametrize(("length", "anchor"), [(15, "open"), (60, "open"), (60, "hour"), (7, "open")])
async def test_a_half_day_with_holes_and_a_halt(tmp_path: Path, length: int, anchor: str) -> None:
    spec = longer_spec(length, anchor)
    async with desk(tmp_path / "cache", DATE, -30.0, rate=400.0, market=market(), spec=spec) as it:
        await it.feed.catch_up(NOTHING)
        async with it.running():
            await run_until_the_close(it)
    live = decisions(it.events, spec, "dry_run")
    assert live[-1].time_ns >= DAY.close_ns  # the short last bar came
    assert_as_replayed(live, spec, tmp_path)


async def test_a_bar_without_a_trade_in_its_last_minute_comes_before_a_desk_of_several_symbols_stops_waiting(
    tmp_path: Path,
) -> None:
    spec = longer_spec(15)
    async with desk(tmp_path / "cache", DATE, -30.0, rate=400.0, market=market(), spec=spec) as it:
        await it.feed.catch_up(NOTHING)
        async with it.running():
            await it.clock.sleep_until(DAY.open_ns + 16 * MINUTE)
    [late_ns] = [e.time_ns - 15 * MINUTE - DAY.open_ns for e in it.of(BarClosed) if e.bar.start_ns == DAY.open_ns]
    assert TORN_NS <= late_ns < MINUTE_WAIT_NS  # minutes 13 and 14 have no trade
    assert [entry["reason"] for entry in it.log.of("repaired")] == []  # REST had none either


async def test_a_lost_connection_in_the_middle_of_a_bar_changes_no_decision(tmp_path: Path) -> None:
    spec = longer_spec(15)
    async with desk(tmp_path / "cache", DATE, -30.0, rate=400.0, market=market(), spec=spec) as it:
        await it.feed.catch_up(NOTHING)
        async with it.running():
            for minute in (7, 38, 119):
                await it.clock.sleep_until(DAY.open_ns + minute * MINUTE)
                it.server.faults.add("socket_drop", where={"stream": "stock"})
            await run_until_the_close(it)
    assert len(it.log.of("stream_up")) >= 4  # the halt is a silence, after which it connects again too
    assert_as_replayed(decisions(it.events, spec, "dry_run"), spec, tmp_path)


@pytest.mark.parametrize("start_min", [20, 70])
async def test_a_start_in_the_middle_of_a_bar_decides_from_that_bar_on(tmp_path: Path, start_min: int) -> None:
    spec = longer_spec(15)
    async with desk(tmp_path / "cache", DATE, 60.0 * start_min, rate=400.0, market=market(), spec=spec) as it:
        await it.feed.catch_up(NOTHING)
        async with it.running():
            await run_until_the_close(it)
    live = decisions(it.events, spec, "dry_run")
    assert_as_replayed(live, spec, tmp_path, start_min // 15)  # the whole bars before: what is late asks nothing
