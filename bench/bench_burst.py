"""A thousand streams whose bars arrive in one burst: is each bar decided, does any other task starve? `make bench`.

A daemon is one desk and its feed serves one symbol, so no daemon meets this; here one real `Engine`, with its intake,
journal and writer thread, drives a thousand `Machine`s (features, observation, ONNX policy, decision) behind one
machine's face. The reference is the same work when the engine never gives way.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from msgspec import to_builtins
from msgspec.structs import replace

from bench.bench_latency import percentiles
from daemon.app.desk import Start, prepare_interpreter
from daemon.core.events import (
    BarClosed,
    Event,
    PolicyAnswered,
    QuotesReceived,
    SessionEnded,
    SessionScheduled,
)
from daemon.core.limits import Trading
from daemon.core.records import DecisionRow
from daemon.core.state import Identity
from daemon.core.step import Core, Machine, Step
from daemon.engine import engine as engine_module
from daemon.engine.engine import Engine, Intake
from daemon.engine.recover import Recovered, code_digest
from daemon.journal.journal import Journal
from daemon.journal.rows import genesis
from daemon.journal.writer import JournalWriter
from daemon.models.runtime import OnnxPolicy
from daemon.models.store import load
from strategies.golden import GOLDEN_SESSIONS
from strategies.kit.contract import Bar, Session
from strategies.kit.units import MINUTE_NS
from strategies.option_scalper import SPEC, WINDOW, OptionScalper

DESKS = 1000
BURSTS = 10
LOST_S = 30.0  # what has not been answered by then is lost
TICK_S = 0.001  # of the task that shares the loop
NEVER = 10**9  # events between two turns: the reference never gives way
FIXTURE = Path(__file__).parent.parent / "tests" / "fixture_policy" / "onnx_models"
IDENTITY = Identity("paper", "paper", SPEC.name, "0123456789", "sip")
BEFORE, TODAY = GOLDEN_SESSIONS[0], GOLDEN_SESSIONS[2]


class Desks(Machine):
    """Many machines behind one machine's face: a bar goes to the desk that its symbol names, what follows too.

    Each desk sees its bars under its strategy's symbol; sequence and decision numbers run over all desks. `answered`
    counts the policy's answers.
    """

    __slots__ = ("_awaited", "_current", "_done", "_seq", "answered", "desks")

    def __init__(self, desks: dict[str, Machine]) -> None:
        self._current = next(iter(desks.values()))
        super().__init__(self._current.core, self._current.state)
        self.desks = desks
        self.answered = self._awaited = 0
        self._done = asyncio.Event()
        self._seq = self.state.seq

    def apply(self, event: Event) -> Step:
        """Step the event at its desk."""
        if isinstance(event, BarClosed):
            self._current = self.desks[event.bar.symbol]
            event = BarClosed(event.time_ns, replace(event.bar, symbol=SPEC.symbols[0]))
        step = self._current.apply(event)
        if isinstance(event, PolicyAnswered):
            self.answered += 1
            if self.answered == self._awaited:
                self._done.set()
        self.queue.extend(self._current.queue)
        self._current.queue.clear()
        self._seq += 1
        self.state = replace(step.state, seq=self._seq)
        rows = tuple(replace(row, decision=self._seq) for row in step.rows if isinstance(row, DecisionRow))
        return Step(self.state, step.effects, rows)

    async def answered_all(self, count: int) -> float:
        """The moment at which so many answers were there, or when it is clear that they do not come."""
        self._awaited = count
        self._done.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._done.wait(), LOST_S)
        return time.monotonic()

    def total(self, figure: str) -> int:
        """A figure of the desks' own statistics, summed."""
        return sum(getattr(desk.state.stats, figure) for desk in self.desks.values())


def walk(seed: int, session: Session, minutes: int) -> list[Bar]:
    """A made-up random walk of one stream, in whole cents."""
    draw = np.random.default_rng([seed, session.open_ns // MINUTE_NS])
    closes = (50_000 + np.cumsum(draw.integers(-9, 10, minutes))).tolist()
    above, below, volumes = draw.integers(0, 12, (3, minutes)).tolist()
    bars = []
    for i, (first, last) in enumerate(zip([50_000, *closes[:-1]], closes, strict=True)):
        cents = (first, max(first, last) + above[i], min(first, last) - below[i], last)
        opened, high, low, close = (price / 100 for price in cents)
        start_ns, volume = session.open_ns + i * MINUTE_NS, 1000.0 * (1 + volumes[i])
        bars.append(Bar(SPEC.symbols[0], start_ns, opened, high, low, close, volume))
    return bars


def closed(bar: Bar) -> tuple[BarClosed, QuotesReceived]:
    """A bar and the (empty) quotes that close it, both known at its end."""
    end_ns = bar.start_ns + MINUTE_NS
    return BarClosed(end_ns, bar), QuotesReceived(end_ns, bar.start_ns, ())


def warm_desk(seed: int, today: list[Bar], startup: Sequence[Event]) -> Machine:
    """A desk after `today`, its history before that of the same stream."""
    core = Core(OptionScalper())
    machine = Machine(core, core.start(IDENTITY, Trading()))
    for started in startup:
        machine.apply(started)
    for session, bars in ((BEFORE, walk(seed, BEFORE, SPEC.history_bars)), (TODAY, today)):
        machine.apply(SessionScheduled(session.open_ns, session, GOLDEN_SESSIONS))
        for bar in bars:
            for event in closed(bar):
                machine.apply(event)
        if session is BEFORE:
            machine.apply(SessionEnded(session.close_ns, session.date))
    return machine


async def tick(lags: list[float], worked: list[float]) -> None:
    """The other task: it wants to run every millisecond; how late it was, and what the thread computed meanwhile."""
    while True:
        due, spent = time.monotonic() + TICK_S, time.thread_time()
        await asyncio.sleep(TICK_S)
        lags.append(time.monotonic() - due)
        worked.append(time.thread_time() - spent)


async def bursts(desks: Desks, intake: Intake, minutes: list[list[Event]]) -> dict[str, Any]:
    """Put each minute's bars in at once and wait until all are answered; figures over all bursts."""
    lags: list[float] = []
    walls: list[float] = []
    worked: list[float] = []  # by the loop's thread: the lag without what other processes take
    ticker = asyncio.create_task(tick(lags, worked), name="tick")
    answered_before = desks.answered
    for number, events in enumerate(minutes, start=1):
        began = time.monotonic()
        for event in events:
            intake.put(event)
        walls.append(await desks.answered_all(answered_before + number * len(desks.desks)) - began)
        await asyncio.sleep(5 * TICK_S)
    ticker.cancel()
    wall_s = sum(walls) / len(walls)
    return {
        "decided": desks.answered - answered_before,
        "lost": len(minutes) * len(desks.desks) - (desks.answered - answered_before),
        "burst_ms": round(wall_s * 1e3, 1),
        "us_per_decision": round(wall_s / len(desks.desks) * 1e6, 1),
        "lag": percentiles(lags),
        "lag_without_other_processes": percentiles(worked),
        "ticks": len(lags),
    }


async def measure(desk_count: int, burst_count: int, folder: Path) -> dict[str, Any]:
    """Warm all desks, then burst after burst through one engine; then the same again without giving way."""
    model = load(FIXTURE, OptionScalper(), "current")
    policy = OnnxPolicy.open(model, OptionScalper(), "cpu", 1)
    names = [f"FAKE{number:04d}" for number in range(desk_count)]
    streams = [walk(seed, TODAY, WINDOW - 1 + 2 * burst_count) for seed in range(desk_count)]
    startup = Start(IDENTITY, Trading(), model, "").events(BEFORE.open_ns)
    warm = {
        name: warm_desk(seed, bars[: WINDOW - 1], startup)
        for seed, (name, bars) in enumerate(zip(names, streams, strict=True))
    }
    desks, intake = Desks(warm), Intake()
    meta = {key: str(value) for key, value in to_builtins(IDENTITY).items()}
    journal = Journal.create(folder / "journal.sqlite", meta)
    writer = JournalWriter(journal)
    recovered = Recovered(desks, 0, genesis(meta), "", None, anchored=True, fed=0, replayed=0)
    engine = Engine(
        recovered,
        writer,
        policy,
        intake,
        code=code_digest(),
        group_events=2048,
        snapshot_events=NEVER,
        observe=lambda _event, _step: None,
    )
    running = asyncio.create_task(engine.run([]), name="engine")
    await engine.started.wait()
    minutes: list[list[Event]] = [
        [event for name, bars in zip(names, streams, strict=True) for event in closed(replace(bars[i], symbol=name))]
        for i in range(WINDOW - 1, WINDOW - 1 + 2 * burst_count)
    ]
    usual_gc = gc.get_threshold()
    usual_switch_s = sys.getswitchinterval()
    prepare_interpreter()
    figures = await bursts(desks, intake, minutes[:burst_count])
    usual, engine_module.YIELD_EVERY = engine_module.YIELD_EVERY, NEVER
    try:
        reference = await bursts(desks, intake, minutes[burst_count:])
    finally:
        engine_module.YIELD_EVERY = usual
        sys.setswitchinterval(usual_switch_s)
        gc.set_threshold(*usual_gc)
        gc.unfreeze()
    intake.end()
    await running
    writer.close()
    bars = desks.total("bars") - desk_count * (SPEC.history_bars + WINDOW - 1)
    return {
        **figures,
        "bars_stepped": bars,
        "bars_put": 2 * burst_count * desk_count,
        "reference_never_yielding": reference,
    }


def main() -> None:
    """Print all figures as one JSON object; exit code 1 when a bar was lost."""
    with tempfile.TemporaryDirectory() as folder:
        measured = uvloop.run(measure(DESKS, BURSTS, Path(folder)))
    figures = {"bench": "burst", "streams": DESKS, "bursts": BURSTS, "cores": os.cpu_count(), **measured}
    sys.stdout.write(json.dumps(figures) + "\n")
    if measured["lost"] or measured["bars_stepped"] != measured["bars_put"]:
        sys.exit("bench: bars were lost")


if __name__ == "__main__":
    main()
