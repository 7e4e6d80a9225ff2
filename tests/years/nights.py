"""The tutorial's desk of bars of many minutes over nights: live in one process, and the replay of the same tape.

The market is made up of days, and its share may split over a night. The tape is what replays and training read: its
prices and volumes are those of the shares of the last day.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from daemon.config.load import load
from daemon.core.effects import AskPolicy
from daemon.core.events import BrokerSnapshot, Event, ModelVerified, PolicyAnswered
from daemon.core.records import DecisionRow, FillRow
from daemon.core.state import Identity
from daemon.core.step import Step
from daemon.engine.recover import fresh_machine
from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.minutes import TapeSource, scan
from simulator.faults import Faults
from simulator.prices.corporate_actions import Split
from simulator.prices.day_prices import DailyPrices
from simulator.trading.account import Account
from simulator.trading.venue import Rules
from strategies.golden import golden_observations
from strategies.kit.contract import Session
from strategies.kit.units import MINUTE_NS
from strategies.registry import add, strategy
from tests.support.desks.desk_run import write_tape
from tests.support.desks.live_desk import LOOSE, books
from tests.support.models.tiny_models import graph, manifest_of, put
from tests.support.own.tutorial import blocks_of
from tests.support.paths import REPOSITORY
from tests.years.desks import calendar
from tests.years.loop import running
from tests.years.market import MovedMarket
from tests.years.world import World

SYMBOL = "SPY"
CASH = Decimal(100_000)
BEFORE_MIN = 40  # the world begins so long before the first open
MARGINS = (4.0, 30.0, 1000.0)  # it holds unless the hour fell by 0.4 %, or the price by 3 % since the last close
TABLES: dict[str, dict[str, object]] = {
    **LOOSE,
    "sizing": {"stop_loss": 0.5, "take_profit": 5.0},
    "paper": {"share_cost_rate": 0.0},
    "alpaca": {"report_every_s": 120, "ping_s": 60},
}
_FILE = re.compile(r"cat > two_frames\.py <<'END'\n(.*?)END\n", re.DOTALL)
_SEEN = "[1000.0 * (bar.close / bar.open - 1.0) for bar in (hours[-1], days[-1])]"
_SEEN_HERE = "[1000.0 * (hours[-1].close / hours[-1].open - 1.0), 1000.0 * (bars[-1].close / days[-1].close - 1.0)]"
"""The second is the way since the last day's close: it reaches over the night."""

Act = Callable[[World], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Lived:
    """What was decided when, on what (hour, night), and what was filled: minute, side and shares; and what is left."""

    decisions: tuple[tuple[int, str], ...]
    features: tuple[tuple[float, float], ...]
    fills: tuple[tuple[int, int, Decimal], ...]
    equity: Decimal
    halts: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    at_broker: tuple[Decimal, Decimal] = (Decimal(0), Decimal(0))  # cash, shares
    in_book: tuple[Decimal, Decimal] = (Decimal(0), Decimal(0))


def write_strategy(folder: Path) -> str:
    """Write the tutorial's strategy of two timeframes, which sees over the night, and a policy; returns its file."""
    scripts = [block.script for block in blocks_of(REPOSITORY / "docs" / "TUTORIAL.md")]
    text = next(match[1] for script in scripts if (match := _FILE.search(script)))
    assert text.count(_SEEN) == 1
    file = folder / "two_frames.py"
    file.write_text(text.replace(_SEEN, _SEEN_HERE), encoding="utf-8")
    maker, policy = strategy(add(str(file))), _policy()
    session = onnxruntime.InferenceSession(policy, providers=["CPUExecutionProvider"])
    golden = [
        session.run(None, {"observation": observation.array()[None]})[0][0]
        for observation in golden_observations(maker)
    ]
    answers = tuple(tuple(row.tolist()) for row in golden)
    put(folder / "models", manifest_of(maker, policy, answers, version="rule", promoted=False), policy)
    return str(file)


def _policy() -> bytes:
    node = onnx.helper.make_node
    nodes = [
        node("Add", ["observation", "margins"], ["above"]),
        node("ReduceMin", ["above", "axis"], ["least"], keepdims=1),
        node("Mul", ["least", "signs"], ["logits"]),
    ]
    constants: dict[str, Any] = {
        "margins": np.array([MARGINS], np.float32),
        "axis": np.array([1], np.int64),
        "signs": np.array([[-1.0, 1.0]], np.float32),
    }
    return graph(nodes, {"observation": ("batch", 3)}, {"logits": ("batch", 2)}, constants)


def _sessions(first: str, last: str) -> tuple[tuple[Session, ...], tuple[Session, ...]]:
    """The sessions of a market, some before the first and after the last, and those from the first to the last."""
    all_sessions = calendar()
    dates = [session.date for session in all_sessions]
    begin, end = dates.index(first), dates.index(last)
    return all_sessions[begin - 3 : end + 15], all_sessions[begin : end + 1]


def market_of(first: str, last: str, splits: Sequence[Split], seed: int) -> MovedMarket:
    """A market of SPY whose sessions begin some before `first`."""
    around, _ = _sessions(first, last)
    days = DailyPrices.made_up((SYMBOL,), around, seed=seed, closes={SYMBOL: (last, 400.0)}, splits=splits)
    return MovedMarket((), SYMBOL, sessions=around, days=days, seed=seed)


def write_minutes(path: Path, market: MovedMarket, first: str, last: str, splits: Sequence[Split]) -> Path:
    """Write the tape from the session before `first` on."""
    around, sessions = _sessions(first, last)
    begin = around[[session.date for session in around].index(first) - 1]
    opens = {session.date: session.open_ns for session in around}
    rows = []
    for bar in market.bars[SYMBOL]:
        if begin.open_ns <= bar.start_ns < sessions[-1].close_ns:
            old = [float(split.ratio) for split in splits if bar.start_ns < opens[split.date]]
            ratio = float(np.prod(old))
            prices = [price / ratio for price in (bar.open, bar.high, bar.low, bar.close)]
            rows.append(",".join(map(str, (SYMBOL, bar.start_ns, *prices, bar.volume * ratio))))
    return write_tape(path, rows)


def live(first: str, last: str, splits: Sequence[Split], act: Act, seed: int, folder: Path) -> tuple[Lived, Lived]:
    """Live from before `first` opens to after `last` closes while `act` goes on; and the replay of the same tape.

    For a process of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    os.environ["HOME"] = str(folder)
    _, sessions = _sessions(first, last)
    market = market_of(first, last, splits, seed)
    account = Account("PKNIGHTS000000000000", "nights-secret-00000000000000000000000", cash=CASH, margin=1)
    rules = Rules(seed=seed, fill_sizes=(1_000, 1_000))
    world = World(folder, seed, sessions[0].open_ns - BEFORE_MIN * MINUTE_NS, market, account, rules, Faults(seed))
    paths: dict[str, object] = {"state_dir": str(folder / "desk"), "models_dir": str(folder / "models")}
    tables: dict[str, dict[str, object]] = {**TABLES, "desk": {"strategy": write_strategy(folder)}, "paths": paths}

    async def whole() -> None:
        async with world.open(tables):
            world.desk.start()
            acting = asyncio.ensure_future(act(world))
            await world.until(sessions[-1].close_ns + 5 * MINUTE_NS)
            await acting
            world.desk.stop()
            while world.desk.running:  # noqa: ASYNC110 (its end rings for nobody)
                await asyncio.sleep(1.0)

    with running(world.loop):
        world.loop.run_until_complete(whole())
    desk_books = books(folder / "desk")
    book = desk_books.state.book
    was = Lived(
        tuple((row["bar_ns"], row["action"]) for row in desk_books.decisions if row["kind"] == "policy"),
        tuple(_features(row["row"]) for row in desk_books.decisions if row["kind"] == "policy"),
        tuple(
            (row["filled_ns"] // MINUTE_NS, row["side"], Decimal(row["quantity"]))
            for row in sorted(desk_books.fills, key=lambda row: row["filled_ns"])
        ),
        book.equity,
        tuple(text for _, kind, text in world.story.lines if kind == "log" and '"event": "halted"' in text),
        tuple(f"{line.alarm}: {line.detail}" for line in world.desk.alarms),
        (Decimal(account.cash), sum((position.qty for position in account.positions.values()), Decimal(0))),
        (book.cash, sum((Decimal(position.quantity) for position in book.positions.values()), Decimal(0))),
    )
    tape = write_minutes(folder / "tape.csv", market, first, last, splits)
    return was, replayed(tape, folder, sessions[0].open_ns)


def _features(row: bytes) -> tuple[float, float]:
    hour, day, _ = np.frombuffer(row, "<f4").tolist()
    return hour, day


def replayed(tape: Path, folder: Path, from_ns: int) -> Lived:
    """What the desk's own machine makes of the tape from `from_ns` on, by the same settings on a paper broker."""
    settings = load(folder / "config.toml", {})
    maker = strategy("two_frames")
    info = scan(tape, maker.spec.symbols, maker.spec.bar_interval_s)
    dates = SessionCalendar.load(info.first_date, info.last_date)
    trading = settings.trading()
    machine = fresh_machine(maker, Identity("replay", "d", "two_frames", "e1", "sip"), trading)
    decisions: list[tuple[int, str]] = []
    features: list[tuple[float, float]] = []
    fills: list[tuple[int, int, Decimal]] = []

    def answer(question: AskPolicy, now_ns: int) -> PolicyAnswered:
        least = float(np.min(question.observation.array() + np.array(MARGINS, np.float32)))
        return PolicyAnswered(now_ns, question.decision, (-least, least), b"", "v1")

    def watch(_: Event, step: Step) -> None:
        for row in step.rows:
            if isinstance(row, DecisionRow) and row.row is not None and row.time_ns > from_ns:
                decisions.append((row.bar_ns, str(row.action)))
                features.append(_features(row.row))
            elif isinstance(row, FillRow):
                fills.append((row.filled_ns // MINUTE_NS, row.side, Decimal(row.quantity)))

    begin: list[Event] = [BrokerSnapshot(1, CASH, (), ()), ModelVerified(1, "v1", "d", promoted=True, feed="sip")]
    end = machine.run(chain(begin, TapeSource(tape, info, dates)), answer, watch)
    return Lived(tuple(decisions), tuple(features), tuple(fills), end.book.equity)
