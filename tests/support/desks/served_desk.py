"""A desk of `online_dqn` whose answers are served over a real Redis: its events are put in by hand, time with them.

Nothing here computes an expected value.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from daemon.app.desk import AssembledDesk, Start
from daemon.core.effects import AskPolicy, RaiseAlarm, SubmitOrder
from daemon.core.events import (
    BarClosed,
    ClockTicked,
    Event,
    PolicyAnswered,
    PolicyFailed,
    Quote,
    QuotesReceived,
    SessionEnded,
    SessionScheduled,
)
from daemon.core.limits import Paper, Risk, Served, Sizing, Trading
from daemon.core.step import Step
from daemon.engine.engine import Engine
from daemon.engine.recover import code_digest, fresh_machine, identity_of, recover
from daemon.engine.state_dir import open_state_dir
from daemon.experience.experience import stream_name
from daemon.journal.rows import made_with
from daemon.journal.writer import JournalWriter
from daemon.models.runtime import Models, OnnxPolicy
from daemon.models.served import ServedAnswers
from daemon.models.store import load
from strategies.kit.contract import Bar
from strategies.registry import strategy
from tests.support.core.desk import MINUTE, MONDAY, SECOND, SESSIONS, TUESDAY
from tests.support.desks.desk_run import drop
from tests.support.models.online_models import NAME
from tests.support.outside.redis_server import RedisServer
from tests.support.outside.stream import Logged
from training.online.served import AnswerService

JOURNAL = ("online", "e1")
LIMIT_S = 120.0  # generous: nothing here is measured
DEADLINE_S = 5
RULES = Trading(
    sizing=Sizing(stop_loss=0.01),
    risk=Risk(cooldown_trade_s=0, cooldown_loss_s=0),
    paper=Paper(cash_usd=Decimal(100_000), share_cost_rate=Decimal(0)),
    served=Served(deadline_ms=1000 * DEADLINE_S),
)


class ServedDesk:
    """The engine under way. Each method puts events in, stamped by the minute and second of Tuesday's session."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Event] = asyncio.Queue()
        self.logged = Logged()
        self.questions: list[AskPolicy] = []
        self.answers: list[PolicyAnswered] = []
        self.failures: list[PolicyFailed] = []
        self.orders: list[SubmitOrder] = []
        self.alarms: list[str] = []
        self.now_ns = MONDAY.open_ns
        self.seen = 0
        self._put = 0
        self.state: Any = None

    # --- the engine's source and observer -----------------------------------------------------------------------------

    def poll(self) -> Event | None:
        return None if self.queue.empty() else self.queue.get_nowait()

    async def next(self) -> Event | None:
        return await self.queue.get()

    def observe(self, event: Event, step: Step) -> None:
        self.state = step.state
        if isinstance(event, PolicyAnswered):
            self.answers.append(event)
        elif isinstance(event, PolicyFailed):
            self.failures.append(event)
        self.questions += [effect for effect in step.effects if isinstance(effect, AskPolicy)]
        self.orders += [effect for effect in step.effects if isinstance(effect, SubmitOrder)]
        self.alarms += [effect.name for effect in step.effects if isinstance(effect, RaiseAlarm)]
        self.seen += isinstance(event, ClockTicked)

    # --- what happens -------------------------------------------------------------------------------------------------

    def put(self, *events: Event) -> None:
        for event in events:
            self.now_ns = max(self.now_ns, event.time_ns)
            self.queue.put_nowait(event)

    def history(self) -> None:
        """Monday's session, without a question."""
        self.put(SessionScheduled(MONDAY.open_ns, MONDAY, SESSIONS[1:]))
        for minute in range(390):
            start = MONDAY.open_ns + minute * MINUTE
            self.put(BarClosed(start + MINUTE, _bar(start, 500.0)), QuotesReceived(start + MINUTE, start, ()))
        self.put(SessionEnded(MONDAY.close_ns, MONDAY.date), SessionScheduled(TUESDAY.open_ns, TUESDAY, SESSIONS[2:]))

    def bar(self, minute: int, price: float) -> None:
        """A bar a second after its minute, with the quote that closes it."""
        start, now = TUESDAY.open_ns + minute * MINUTE, TUESDAY.open_ns + (minute + 1) * MINUTE + SECOND
        self.put(BarClosed(now, _bar(start, price)), QuotesReceived(now, start, (_quote(price, now),)))

    def quote(self, minute: int, second: float, price: float) -> None:
        now = TUESDAY.open_ns + minute * MINUTE + int(second * SECOND)
        self.put(QuotesReceived(now, 0, (_quote(price, now),)))

    async def tick(self, minute: int, second: float) -> None:
        """A tick; returns when it was stepped, with all before it."""
        self._put += 1
        self.put(ClockTicked(TUESDAY.open_ns + minute * MINUTE + int(second * SECOND)))
        await self.until(lambda: self.seen >= self._put, "the tick is stepped")

    async def answered(self, count: int) -> None:
        """Wait for so many answers in all."""
        await self.until(lambda: len(self.answers) >= count, f"{count} answers, there are {len(self.answers)}")

    async def refused(self, count: int) -> None:
        """Wait for so many failed answers in all."""
        await self.until(lambda: len(self.failures) >= count, f"{count} failed answers, there are {len(self.failures)}")

    async def until(self, reached: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + LIMIT_S
        while not reached():
            assert time.monotonic() < end, f"waited {LIMIT_S} s for this: {what}"
            await asyncio.sleep(0.01)


def _bar(start_ns: int, price: float) -> Bar:
    return Bar("SPY", start_ns, price, price, price, price, 1000.0)


def _quote(price: float, at_ns: int) -> Quote:
    bid = Decimal(str(price))
    middle = bid + Decimal("0.01")
    return Quote("SPY", bid, bid + Decimal("0.02"), middle, middle, at_ns)


@contextlib.asynccontextmanager
async def served_desk(folder: Path, models_dir: Path, server: RedisServer) -> AsyncIterator[ServedDesk]:
    """A dry run of the desk, with Monday behind it."""
    made, maker = ServedDesk(), strategy(NAME)
    meta = {"mode": "dry_run", "account": "paper", "strategy": NAME, "feed": "sip", "desk": JOURNAL[0]}
    state_dir, code = open_state_dir(folder, meta | made_with(maker.spec), JOURNAL[1]), code_digest()
    identity, loaded = identity_of(state_dir.meta), load(models_dir, maker)
    recovered = recover(state_dir.journal.reader(), fresh_machine(maker, identity, RULES), code)
    writer, models = JournalWriter(state_dir.journal, 0), Models(OnnxPolicy.open(loaded, maker, "cpu"), loaded)
    served = ServedAnswers(
        server.link("rltraderd"),
        server.passwords["rltraderd"],
        JOURNAL,
        maker.spec,
        lambda: models.running,
        made.put,
        lambda: made.now_ns,
        made.logged.log,
        deadline_s=DEADLINE_S,
    )
    desk = AssembledDesk(
        Engine(
            recovered,
            writer,
            models,
            made,
            code=code,
            group_events=64,
            snapshot_events=50,
            observe=made.observe,
            shadow=models,
            serve=served.ask,
        ),
        Start(identity, RULES, loaded, code),
    )
    served.start()
    running = asyncio.create_task(desk.run(MONDAY.open_ns - MINUTE))
    try:
        made.history()
        yield made
        desk.engine.stop("the test is over")
        made.put(ClockTicked(made.now_ns))
        await running
    finally:
        served.close()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        drop(state_dir, writer, crashed=False)


@contextlib.contextmanager
def serving_answers(models_dir: Path, server: RedisServer) -> Iterator[None]:
    """The trainer's side, for this journal."""
    with (
        contextlib.closing(server.client("rltrader-trainer")) as client,
        AnswerService(client, models_dir, strategy(NAME), Logged().log) as serving,
    ):
        serving.turn_to(stream_name(*JOURNAL))
        yield
