"""Run a replay: the tape as the engine's source, its progress, and the final summary."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from daemon.app.desk import AssembledDesk, OpenDesk, announce, open_desk, prepare_interpreter, say_held
from daemon.app.operator_side import BrokerKeys, DeskPorts, OperatorSide, broker_keys
from daemon.app.replay_figures import equity_curve, halt_date, quotes_used, remarks, session_ends
from daemon.app.replay_start import TapeReplay
from daemon.app.small_accounts import Entries, read_entries, unaffordable_words
from daemon.core.events import Event
from daemon.core.state import State
from daemon.core.step import Step
from daemon.engine.engine import Engine
from daemon.host.failures import innermost
from daemon.journal.outcomes import read_baskets
from daemon.journal.trades import over_night
from daemon.models.store import claim_words, exported_as
from daemon.operator.log import Log
from daemon.operator.side_thread import supervise
from daemon.operator.summary import QuotesUsed, Summary, daily_figures, summarise
from daemon.tapes.days import DailyTapeSource
from daemon.tapes.minutes import TapeSource
from daemon.tapes.quotes.tape import QuotedTape
from strategies.registry import configured


class ReplaySource:
    """Emits the tape's events. With `speed` N an event waits until its time, N times as fast as recorded.

    Events of an operator come before the tape's next event. `stop` ends the waiting and the source.
    """

    def __init__(self, events: Iterator[Event], speed: float | None) -> None:
        self._events = events
        self._speed = speed
        self._stopped = False
        self._wake_event = asyncio.Event()
        self._put: deque[Event] = deque()
        self._origin: tuple[int, float] | None = None
        self._next_event: Event | None = None  # read, but not due yet

    def put(self, event: Event) -> None:
        """Queue an event of the operator. Used on the event loop's thread only."""
        self._put.append(event)
        self._wake_event.set()

    def poll(self) -> Event | None:
        """Return the next event if it is due, else None; without a speed every event is due."""
        if self._put:
            return self._put.popleft()
        if self._stopped and self._speed is not None:
            return None
        event, self._next_event = self._next_event if self._next_event is not None else next(self._events, None), None
        if event is None or self._speed is None or self._delay_s(event, self._speed) <= 0:
            return event
        self._next_event = event
        return None

    async def next(self) -> Event | None:
        """Wait for the next event; None at the tape's end or after `stop`."""
        while True:
            event = self.poll()
            if event is not None or self._next_event is None or self._speed is None or self._stopped:
                return event
            self._wake_event.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(self._delay_s(self._next_event, self._speed), 0.0)):
                    await self._wake_event.wait()

    def _delay_s(self, event: Event, speed: float) -> float:
        now = time.monotonic()
        if self._origin is None:
            self._origin = (event.time_ns, now)
        first_ns, began = self._origin
        return began + (event.time_ns - first_ns) / 1e9 / speed - now

    def stop(self) -> None:
        """Emit nothing more."""
        self._stopped = True
        self._wake_event.set()


@dataclass(slots=True)
class ReplayRun:
    """A replay under way: its desk, its tape and its operator's side."""

    opened: OpenDesk
    desk: AssembledDesk
    source: ReplaySource
    tape: TapeSource | DailyTapeSource | QuotedTape
    bars_before: int  # bars in the journal at its begin
    operator: OperatorSide


def open_replay(replay: TapeReplay, log: Log, speed: float | None) -> ReplayRun:
    """Open the state directory, recover and wire the desk. The caller closes the desk."""
    keys = broker_keys(replay.settings)
    say_held(replay.settings.paths.state_dir, log)
    desk = open_desk(replay, replay.meta(), replay.epoch(), log)
    try:
        return _wire(replay, desk, log, speed, keys)
    except BaseException:
        desk.close()
        raise


def _wire(replay: TapeReplay, resources: OpenDesk, log: Log, speed: float | None, keys: BrokerKeys) -> ReplayRun:
    machine = resources.recovered.machine
    tape = replay.source(resources.recovered.fed, machine)
    source = ReplaySource(iter(tape), speed)

    def observe(event: Event, step: Step) -> None:
        log.step(event, step)
        operator.observe(event, step)

    desk = resources.assemble(source, observe)
    ports = DeskPorts(source.put, lambda: machine.state.now_ns, time.time_ns)
    operator = OperatorSide(resources, desk.engine, keys, ports, log, log)
    announce(resources, log)
    for snapshot in resources.recovered.passed_over:
        log("snapshot_passed_over", snapshot=snapshot)
    if replay.info.symbol_assumed:
        log("symbol_assumed", tape=replay.tape.name, symbol=replay.strategy.spec.symbols[0])
    if replay.info.adjusted:
        log("prices_adjusted", tape=replay.tape.name)
    return ReplayRun(resources, desk, source, tape, machine.state.stats.bars, operator)


async def run_replay(
    replay: TapeReplay,
    log: Log,
    speed: float | None,
    progress: Callable[[State[Any]], None] | None = None,
) -> tuple[Summary, list[Decimal]]:
    """Run the tape to its end or to a signal; the summary and the equity curve come from the journal."""
    run = open_replay(replay, log, speed)
    engine = run.desk.engine
    prepare_interpreter()
    began = time.perf_counter()
    try:
        log.tape_time = progress is not None  # for a person: the tape's time
        _on_signals(engine, run.source, log)
        await _root(run, log, progress)
        wall_s = time.perf_counter() - began
        log.tape_time, log.market_time = False, None
        state = engine.machine.state
        reader = run.opened.writer.journal.reader()
        curve = equity_curve(reader)
        spec, ends = replay.strategy.spec, session_ends(reader)
        daily = daily_figures(ends, halt_date(state)) if spec.compounds else None
        counts = run.tape.counts
        log(
            "rows_left_out",
            outside_hours=counts.outside_hours,
            other_symbols=counts.other_symbols,
            rejected=dict(counts.rejected),
        )
        bars_run = state.stats.bars - run.bars_before
        quote_use = quotes_used(replay, run.tape, engine.machine.market_state, reader)
        if quote_use is not None:
            _log_quotes(log, quote_use)
        nights = 0 if spec.overnight else over_night(reader, state.now_ns)
        baskets = read_baskets(reader, (work.decision for work in state.works.values()))
        entries = read_entries(reader, state.trading) if spec.chained else Entries()
        notes = () if engine.stopped_by else remarks(replay, counts, state, bars_run, baskets, ends, quote_use, nights)
        if entries.unaffordable and not engine.stopped_by:
            notes = (*notes, unaffordable_words(entries))
        for remark in notes:
            log("replay_remark", remark=remark)
        state_digest = engine.state_digest()
        log("chain_head", row=engine.last_row, head=engine.chain_head)
        log("run_ended", events=state.seq, state_digest=state_digest, stopped_by=engine.stopped_by)
    finally:
        run.opened.close()
    summary = summarise(
        state,
        () if spec.continuous else spec.actions,
        meta=run.opened.state_dir.meta,
        wall_s=wall_s,
        bars_run=bars_run,
        latency=engine.latency,
        state_digest=state_digest,
        stopped_by=engine.stopped_by,
        daily=daily,
        remarks=notes,
        option_quotes=quote_use,
        export_path=exported_as(replay.model.manifest),
        claim=claim_words(replay.model.manifest, replay.settings.trading(), configured(spec)),
        trades_over_night=nights,
        entries_wanted=entries.wanted,
        entries_unaffordable=entries.unaffordable,
    )
    return summary, curve


async def _root(
    run: ReplayRun,
    log: Log,
    progress: Callable[[State[Any]], None] | None,
) -> None:
    """Run the root task group: an error of the engine ends it, an error of an observer does not."""
    desk, operator = run.desk, run.operator
    await operator.prepare()
    operator.start()
    try:
        async with asyncio.TaskGroup() as group:
            watching = [
                group.create_task(supervise(name, work, operator.failed), name=name) for name, work in operator.works
            ]
            if progress is not None:
                watching.append(group.create_task(_watch(desk.engine, log, progress), name="progress"))
            await group.create_task(desk.run(), name="engine")
            for task in watching:
                task.cancel()
    except BaseExceptionGroup as several:
        raise innermost(several) from None
    finally:
        await operator.close()


async def _watch(engine: Engine, log: Log, progress: Callable[[State[Any]], None]) -> None:
    try:
        while True:
            progress(engine.machine.state)
            await asyncio.sleep(0.2)
    except Exception as error:  # only it ends: in the task group it would end the engine too
        log("progress_failed", problem=f"{type(error).__name__}: {error}")


def _on_signals(engine: Engine, source: ReplaySource, log: Log) -> None:
    def stop(name: str) -> None:
        log("stopping", reason=name)
        source.stop()
        engine.stop(name)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number.name)


def _log_quotes(log: Log, quote_use: QuotesUsed) -> None:
    log(
        "option_quotes_used",
        file=quote_use.file,
        synthetic=quote_use.synthetic,
        sessions=quote_use.sessions,
        sessions_quoted=quote_use.sessions_quoted,
        first_date=quote_use.first_date,
        last_date=quote_use.last_date,
        asked=quote_use.asked,
        recorded=quote_use.recorded,
        standing=quote_use.standing,
        missing=quote_use.missing,
        faulty_rows=quote_use.faulty_rows,
        fills_recorded=quote_use.fills_recorded,
        fills_modelled=quote_use.fills_modelled,
    )
