"""The one place where parts are put together: replay of a tape, the check before it, verify, offline commands.

Every wiring is the same engine, journal and machine; only source and broker side differ.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import signal
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from daemon.app.desk import AssembledDesk, Start, assemble, prepare_interpreter
from daemon.app.operator_side import OperatorSide, broker_keys
from daemon.config.limits_shown import origins_of
from daemon.config.load import Settings
from daemon.core.events import Event
from daemon.core.session import new_york_text
from daemon.core.state import State
from daemon.core.step import Step
from daemon.engine.engine import Engine
from daemon.engine.recover import Recovered, recovered_desk
from daemon.engine.recovery import (
    code_digest,
    identity_of,
)
from daemon.engine.replay import ReplaySource
from daemon.engine.state_dir import StateDir, open_state_dir
from daemon.host.passing import retry_while_busy
from daemon.host.time.calendar import SessionCalendar
from daemon.journal.reader import JournalReader
from daemon.journal.writer import JournalWriter
from daemon.models.answering import Models
from daemon.models.runtime import OnnxPolicy
from daemon.models.store import LoadedModel, check_rules, load
from daemon.operator.log import Log
from daemon.operator.side_thread import supervised
from daemon.operator.summary import Summary, daily_figures, summarise
from daemon.tapes.days import DailyTapeSource, check_rule, scan_daily
from daemon.tapes.minutes import TapeInfo, TapeSource, scan
from strategies.kit.contract import Strategy
from strategies.registry import strategy as strategy_named

REPLAY = "replay"
PAPER_ACCOUNT = "paper"
CURVE_POINTS = 600  # of the end summary's equity curve


@dataclass(slots=True)
class Replay:
    """A tape checked and ready to run."""

    settings: Settings
    strategy: Strategy
    tape: Path
    info: TapeInfo
    calendar: SessionCalendar
    model: LoadedModel
    policy: OnnxPolicy

    def meta(self) -> dict[str, str]:
        """What the journal is made with, its epoch left out."""
        return {
            "mode": REPLAY,
            "account": PAPER_ACCOUNT,
            "strategy": self.strategy.spec.name,
            "feed": self.settings.feed.name,
            "desk": self.settings.desk.name,
            "tape": self.tape.name,
            "tape_sha256": self.info.sha256,
            "synthetic": self.info.synthetic,
        }

    def source(self, skip: int = 0) -> TapeSource | DailyTapeSource:
        """The tape's feed events from the first that was not journaled."""
        if self.strategy.spec.decides == "session":
            return DailyTapeSource(self.tape, self.info, self.calendar, self.settings.trading().basket, skip)
        return TapeSource(self.tape, self.info, self.calendar, skip)

    @property
    def bars(self) -> int:
        """About how many bars the desk will be told: what its progress is measured by."""
        spec = self.strategy.spec
        if self.info.interval_s < spec.bar_interval_s:
            return self.info.dates * len(spec.symbols)
        return sum(self.info.rows_by_symbol.get(symbol, 0) for symbol in spec.symbols)

    def epoch(self) -> str:
        """Derived from tape, configuration and strategy, so that two replays give the same order ids."""
        told = f"{self.info.sha256}|{self.strategy.spec.name}|".encode() + msgspec.json.encode(self.settings.trading())
        return hashlib.sha256(told).hexdigest()[:10]


def prepare_replay(settings: Settings, tape: Path) -> Replay:
    """Check tape and model. Raises TapeError, CalendarError, ModelError: nothing was written yet."""
    strategy = strategy_named(settings.desk.strategy)
    spec = strategy.spec
    if spec.decides == "session":
        info = scan_daily(tape, spec.symbols)
        check_rule(tape, info, settings.trading().basket)
    else:
        info = scan(tape, spec.symbols, spec.bar_interval_s)
    calendar = SessionCalendar.load(info.first_date, info.last_date)
    model = load(settings.paths.models_dir, strategy, settings.policy.version, settings.policy.public_key)
    check_rules(model, strategy, settings.trading())
    policy = OnnxPolicy.open(model, strategy, settings.policy.provider, settings.policy.threads)
    return Replay(settings, strategy, tape, info, calendar, model, policy)


@dataclass(slots=True)
class Session:
    """A run under way: the desk, and what shows its progress."""

    desk: AssembledDesk
    source: ReplaySource
    tape: TapeSource | DailyTapeSource
    started_with: int  # bars in the journal when it began
    operator: OperatorSide


def open_replay(replay: Replay, log: Log, speed: float | None) -> tuple[StateDir, JournalWriter, Session]:
    """Open the state directory, recover, and wire the desk. The caller closes writer and state directory."""
    settings, code = replay.settings, code_digest()
    keys = broker_keys(settings)
    state_dir = open_state_dir(settings.paths.state_dir, replay.meta(), replay.epoch())
    try:
        trading = settings.trading()
        reader = state_dir.journal.reader()
        recovered = retry_while_busy(lambda: recovered_desk(reader, trading))
        machine = recovered.machine
        tape = replay.source(recovered.fed)
        source = ReplaySource(iter(tape), speed)
        writer = JournalWriter(state_dir.journal, settings.journal.ballast_mib)
    except BaseException:
        state_dir.journal.close()
        state_dir.close()
        raise

    def observe(event: Event, step: Step) -> None:
        log.step(event, step)
        operator.observe(event, step)

    models = Models(replay.policy, replay.model)
    start = Start(identity_of(state_dir.meta), trading, replay.model, code, origins=origins_of(settings))
    desk = assemble(
        start,
        recovered,
        writer,
        source,
        models,
        group_events=settings.journal.group_events,
        snapshot_events=settings.journal.snapshot_events,
        observe=observe,
        shadow=models,
    )
    operator = OperatorSide(
        settings,
        keys,
        replay.strategy,
        desk.engine,
        source.put,
        lambda: machine.state.now_ns,
        log,
        log,
        models,
        code=code,
    )
    announce(settings, replay.strategy, replay.model, replay.policy, state_dir, recovered, log, code)
    for snapshot in recovered.passed_over:
        log("snapshot_passed_over", snapshot=snapshot)
    if replay.info.symbol_assumed:
        log("symbol_assumed", tape=replay.tape.name, symbol=replay.strategy.spec.symbols[0])
    if replay.info.adjusted:
        log("prices_adjusted", tape=replay.tape.name)
    return state_dir, writer, Session(desk, source, tape, machine.state.stats.bars, operator)


def announce(
    settings: Settings,
    strategy: Strategy,
    model: LoadedModel,
    policy: OnnxPolicy,
    state_dir: StateDir,
    recovered: Recovered,
    log: Log,
    code: str,
) -> None:
    """Tell what starts: desk and journal, model, changed rules, what was recovered."""
    machine, meta = recovered.machine, state_dir.meta
    log(
        "run_started",
        desk=settings.desk.name,
        mode=meta["mode"],
        account=meta["account"],
        strategy=strategy.spec.name,
        tape=meta.get("tape", ""),
        synthetic=bool(meta.get("synthetic")),
        state_dir=str(state_dir.path),
        epoch=meta["epoch"],
        code=code,
        resumed_at_event=machine.state.seq,
    )
    manifest = model.manifest
    log(
        "model_verified",
        version=model.version,
        promoted=manifest.promoted,
        feed=manifest.training.feed,
        provider=policy.provider,
    )
    if not manifest.promoted:
        log("model_warning", version=model.version, reason="it is not promoted")
    if manifest.training.feed != settings.feed.name:
        reason = f"it was trained on feed {manifest.training.feed}, this desk uses {settings.feed.name}"
        log("model_warning", version=model.version, reason=reason)
    trading, before = settings.trading(), machine.state.trading
    if trading != before:
        names = [field.name for field in dataclasses.fields(trading)]
        log("rules_changed", tables=[name for name in names if getattr(trading, name) != getattr(before, name)])
    if state_dir.fresh is False:
        log("recovered", events_replayed=recovered.replayed, under_way=len(machine.queue))


async def run_replay(
    replay: Replay,
    log: Log,
    speed: float | None,
    progress: Callable[[State[Any]], None] | None = None,
) -> tuple[Summary, list[Decimal]]:
    """Run the tape to its end or to a signal; the summary and the equity curve come from the journal."""
    state_dir, writer, session = open_replay(replay, log, speed)
    engine = session.desk.engine
    prepare_interpreter()
    began = time.perf_counter()
    try:
        _on_signals(engine, session.source, log)
        await _root(session, log, progress)
        wall_s = time.perf_counter() - began
        state = engine.machine.state
        reader = writer.journal.reader()
        curve = equity_curve(reader)
        daily = daily_figures(session_ends(reader)) if replay.strategy.spec.decides == "session" else None
        counts = session.tape.counts
        log(
            "rows_left_out",
            outside_hours=counts.outside_hours,
            other_symbols=counts.other_symbols,
            rejected=dict(counts.rejected),
        )
        state_digest = engine.state_digest()
        log("chain_head", row=engine.last_row, head=engine.chain_head)
        log("run_ended", events=state.seq, state_digest=state_digest, stopped_by=engine.stopped_by)
    finally:
        writer.close()
        state_dir.close()
    spec = replay.strategy.spec
    summary = summarise(
        state,
        () if spec.continuous else spec.actions,
        meta=state_dir.meta,
        wall_s=wall_s,
        bars_run=state.stats.bars - session.started_with,
        latency=engine.latency,
        state_digest=state_digest,
        stopped_by=engine.stopped_by,
        daily=daily,
    )
    return summary, curve


def equity_curve(reader: JournalReader) -> list[Decimal]:
    """The equity along the journal, at most `CURVE_POINTS` values evenly among the rows, the last one among them."""
    rows = int(reader.query("SELECT count(*) AS rows FROM equity")[0]["rows"])
    every = max(1, -(-rows // CURVE_POINTS))
    picked = reader.query(
        "SELECT equity_usd FROM (SELECT equity_usd, row_number() OVER (ORDER BY time_ns DESC) AS place, time_ns "
        "FROM equity) WHERE (place - 1) % ? = 0 ORDER BY time_ns",
        (every,),
    )
    return [Decimal(row["equity_usd"]) for row in picked]


def session_ends(reader: JournalReader) -> list[tuple[str, float]]:
    """New York date and equity in USD at the end of each session, from the last one before the first decision on."""
    first = reader.query("SELECT min(time_ns) AS first_ns FROM decisions")[0]["first_ns"]
    if first is None:
        return []
    ends = {
        new_york_text(row["time_ns"])[:10]: float(row["equity_usd"])
        for row in reader.query("SELECT time_ns, equity_usd FROM equity ORDER BY time_ns")
    }
    decided, dates = new_york_text(first)[:10], sorted(ends)
    return [(date, ends[date]) for date in dates[max(bisect_left(dates, decided) - 1, 0) :]]


async def _root(
    session: Session,
    log: Log,
    progress: Callable[[State[Any]], None] | None,
) -> None:
    """The root task group: the engine may bring it down, what only watches may not."""
    desk, operator = session.desk, session.operator
    await operator.prepare()
    operator.start()
    try:
        async with asyncio.TaskGroup() as group:
            watching = [
                group.create_task(supervised(name, work, operator.failed), name=name) for name, work in operator.works
            ]
            if progress is not None:
                watching.append(group.create_task(_watch(desk.engine, log, progress), name="progress"))
            await group.create_task(desk.run(), name="engine")
            for task in watching:
                task.cancel()
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    finally:
        await operator.close()


async def _watch(engine: Engine, log: Log, progress: Callable[[State[Any]], None]) -> None:
    try:
        while True:
            progress(engine.machine.state)
            await asyncio.sleep(0.2)
    except Exception as error:  # it ends alone: in the task group it would end the engine too
        log("progress_failed", problem=f"{type(error).__name__}: {error}")


def _on_signals(engine: Engine, source: ReplaySource, log: Log) -> None:
    def stop(name: str) -> None:
        log("stopping", reason=name)
        source.stop()
        engine.stop(name)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number.name)
