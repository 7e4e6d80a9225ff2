"""Short runs of the desk for the tests of the shell: tapes cut from the bundled one, settings under which the fixture
policy trades freely, and the two ways to run them: in this process, and as the processes that a user starts.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from daemon.app.desk import AssembledDesk, Start
from daemon.app.replay_start import TapeReplay, prepare_replay
from daemon.config.load import DeskSettings, load
from daemon.core.effects import AnyEffect
from daemon.core.events import Event
from daemon.core.session import NEW_YORK
from daemon.core.state import digest
from daemon.core.step import Core, Step
from daemon.engine.engine import CandidateAnswers, Engine, EventSource, Outside
from daemon.engine.recover import Recovered, code_digest, fresh_machine, identity_of, recover, recovered_desk
from daemon.engine.state_dir import StateDir, open_state_dir
from daemon.engine.verify import Verified, verify
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.writer import JournalWriter
from daemon.tapes import BUNDLED_TAPE
from daemon.tapes.span_options import QuoteChoice
from strategies.kit.contract import Bar
from strategies.registry import strategy as strategy_named
from tests.support.desks.warm import Command
from tests.support.paths import FIXTURE_MODELS, REPOSITORY

FREE_TRADING = {
    "RLTRADER_PATHS__MODELS_DIR": str(FIXTURE_MODELS),
    "RLTRADER_POLICY__VERSION": "fixture",
    "RLTRADER_RISK__COOLDOWN_TRADE_S": "0",
    "RLTRADER_RISK__COOLDOWN_LOSS_S": "0",
    "RLTRADER_RISK__CONSECUTIVE_LOSSES_MAX": "1000",
    "RLTRADER_RISK__DAILY_LOSS_MAX": "1",
    "RLTRADER_RISK__DRAWDOWN_MAX": "1",
    "RLTRADER_PAPER__CASH_USD": "100000",
    "RLTRADER_PAPER__CONTRACTS_PER_MINUTE": "3",  # orders of ten fill in parts
    "RLTRADER_PAPER__VOLATILITY_SESSIONS": "2",  # quotes from the fourth session on, so a tape can be short
    "RLTRADER_JOURNAL__BALLAST_MIB": "1",
}
STUB_BARS = 86  # three such sessions hold the 256 bars that the strategy wants before its first session
HEADER = "symbol,timestamp,open,high,low,close,volume"


own_code = cache(code_digest)
"""The digest of the deciding code, whose files are read once: a desk of a test starts hundreds of times."""


@cache
def bundled_rows() -> dict[str, list[str]]:
    """The bundled tape's rows by New York date, in order."""
    days: dict[str, list[str]] = {}
    with gzip.open(BUNDLED_TAPE, "rt") as file:
        for line in list(file)[2:]:
            moment = datetime.fromtimestamp(int(line.split(",")[1]) // 10**9, UTC).astimezone(NEW_YORK)
            days.setdefault(moment.date().isoformat(), []).append(line.strip())
    return days


def tape_rows(sessions: int, bars: int, stubs: int = 3) -> list[str]:
    """`stubs` sessions that warm indicators and volatility, then `sessions` of `bars` bars each."""
    days = list(bundled_rows().values())[: stubs + sessions]
    return [row for index, day in enumerate(days) for row in day[: STUB_BARS if index < stubs else bars]]


def bar_rows(bars: Iterable[Bar]) -> list[str]:
    """Rows of a CSV tape, one for each bar."""
    return [",".join(map(str, (b.symbol, b.start_ns, b.open, b.high, b.low, b.close, b.volume))) for b in bars]


def write_tape(path: Path, rows: Sequence[str], header: str = HEADER) -> Path:
    """A CSV tape of these rows."""
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def settings(state_dir: Path, **overrides: object) -> DeskSettings:
    """Free-trading settings; `overrides` name keys as section__key."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("RLTRADER_"):
                patch.delenv(name)
        for name, value in FREE_TRADING.items():
            patch.setenv(name, value)
        given = {key.replace("__", "."): value for key, value in overrides.items()}
        return load(None, {"paths.state_dir": state_dir, **given})


# --- in this process ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Recorded:
    """What a run in this process came to. `failure` is what ended it, None for a clean end."""

    digest: str = ""
    released: list[AnyEffect] = field(default_factory=list)
    failure: BaseException | None = None
    engine: Engine | None = None


class Desk:
    """One tape and strategy, prepared once; `run` starts it on a state directory as often as asked."""

    def __init__(self, tape: Path, quotes: QuoteChoice | None = None, /, **overrides: object) -> None:
        self.replay: TapeReplay = prepare_replay(settings(Path("unused"), **overrides), tape, quotes)

    def fresh_state(self, path: Path) -> StateDir:
        """The state directory, opened or made."""
        return open_state_dir(path, self.replay.meta(), self.replay.epoch())

    def run(
        self,
        path: Path,
        *,
        group_events: int = 64,
        snapshot_events: int = 100,
        boundary: Callable[[str], None] | None = None,
        outside: Outside | None = None,
        shadow: CandidateAnswers | None = None,
        observe: Callable[[Event, Step], None] | None = None,
        source: Callable[[EventSource], EventSource] | None = None,
        engine_made: Callable[[Engine], None] | None = None,
        code: str | None = None,
        core: Core | None = None,
        ballast_mib: int = 0,
    ) -> Recorded:
        """Recover and run to the tape's end, or to what ends it: then the journal is left as a crash leaves it."""
        replay, code = self.replay, code or own_code()
        trading = replay.settings.trading()
        state_dir = self.fresh_state(path)
        writer: JournalWriter | None = None
        recorded = Recorded()
        try:
            identity = identity_of(state_dir.meta)
            machine = fresh_machine(
                strategy_named(identity.strategy, identity.symbols, identity.config), identity, trading
            )
            if core is not None:
                machine.core = core
            recovered = recover(state_dir.journal.reader(), machine, code)
            tape = Tape(replay.source(recovered.fed, recovered.machine))
            writer = JournalWriter(state_dir.journal, ballast_mib)
            assembled = AssembledDesk(
                Engine(
                    recovered,
                    writer,
                    replay.policy,
                    source(tape) if source else tape,
                    code=code,
                    group_events=group_events,
                    snapshot_events=snapshot_events,
                    observe=observe or _unobserved,
                    outside=outside,
                    shadow=shadow,
                    boundary=boundary,
                ),
                Start(identity, trading, replay.model, code),
            )
            recorded.engine = assembled.engine
            if engine_made:
                engine_made(assembled.engine)
            asyncio.run(assembled.run())
            recorded.digest = assembled.engine.state_digest()
        except BaseException as error:
            recorded.failure = error
            if not isinstance(error, Exception | Crash):
                raise
        finally:
            drop(state_dir, writer, crashed=recorded.failure is not None)
        return recorded


def recovered(path: Path) -> Recovered:
    """What a start in this state directory comes to; nothing is written."""
    reader = JournalReader(path / FILE)
    try:
        return recovered_desk(reader)
    finally:
        reader.close()


def state_digest(path: Path) -> tuple[str, int, int]:
    """What recovery comes to: digest, feed events, last row."""
    recovery = recovered(path)
    return digest(recovery.machine.state), recovery.fed, recovery.last_id


def stopped(desk: Desk, path: Path, at_event: int) -> Path:
    """A desk that was stopped cleanly in the middle of its tape."""

    def observe(_event: object, _step: object) -> None:
        if engines[0].machine.state.seq >= at_event:
            engines[0].stop("SIGTERM")

    engines: list[Engine] = []
    recorded = desk.run(path, engine_made=engines.append, observe=observe)
    assert recorded.failure is None
    return path


class Crash(BaseException):
    """A simulated crash: unwinds everything; what was not durable is gone."""


def crashed(desk: Desk, path: Path, steps: int, **how: Any) -> None:
    """Run the desk and end it as a kill does, before so many steps."""
    left = steps

    def crash(boundary: str) -> None:
        nonlocal left
        left -= boundary == "before step"
        if left == 0:
            raise Crash

    desk.run(path, boundary=crash, group_events=1, **how)


class Tape:
    """The tape as a source of the engine: nothing is waited for."""

    def __init__(self, tape: Iterable[Event]) -> None:
        self._events = iter(tape)

    def poll(self) -> Event | None:
        return next(self._events, None)

    async def next(self) -> Event | None:
        return self.poll()


def drop(state_dir: StateDir, writer: JournalWriter | None, *, crashed: bool) -> None:
    """End as a process ends: after a crash, batches that the writer had not begun are lost and nothing is folded."""
    if writer is None:
        state_dir.journal.close()
    elif crashed:
        pending: Sequence[Future[None]] = tuple(writer._pending)
        for future in reversed(pending):  # the newest first: none is written after one that is lost
            future.cancel()
        pool: Any = writer._pool
        pool.shutdown(wait=True)
        for future in pending:
            if not future.cancelled():
                future.exception()
        writer.journal._db.close()
    else:
        writer.close()
    state_dir.close()


def _unobserved(_: Event, __: Step) -> None:
    """No log."""


# --- as processes -------------------------------------------------------------------------------------------------


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without settings and keys, with free trading and `extra`.

    Nor with PYTHONUNBUFFERED: Python drops what an unbuffered write to a terminal did not take at once.
    """
    unwanted = ("RLTRADER_", "APCA_", "COV_", "PYTHONUNBUFFERED")
    variables = {k: v for k, v in os.environ.items() if not k.startswith(unwanted)}
    return {**variables, "PYTHONPATH": str(REPOSITORY), **FREE_TRADING, **extra}


def command(module: str, *arguments: object) -> list[str]:
    """The command line of `rltraderd` (module daemon) or `rltraderctl` (daemon.cli.ctl)."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def rltraderd(*arguments: object, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `rltraderd` to its end in `cwd`, where no config.toml lies."""
    env = env if env is not None else environment()
    return Command("daemon", list(map(str, arguments)), cwd, env).finish(600)


def rltraderctl(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `rltraderctl` to its end."""
    return Command("daemon.cli.ctl", list(map(str, arguments)), cwd, environment()).finish(600)


def summary_of(finished: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON object that is the last line of standard output."""
    summary: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return summary


def log_of(text: str) -> list[dict[str, Any]]:
    """The JSON lines of standard error."""
    return [json.loads(line) for line in text.splitlines()]


# --- what a journal holds -----------------------------------------------------------------------------------------


def table(state_dir: Path, name: str) -> list[tuple[Any, ...]]:
    """All rows of a table, in the order of its key, straight from SQLite."""
    db = sqlite3.connect(f"{(state_dir / FILE).resolve().as_uri()}?mode=ro", uri=True)
    try:
        return db.execute(f"SELECT * FROM {name} ORDER BY 1, 2, 3, 4").fetchall()
    finally:
        db.close()


def records(state_dir: Path, name: str, order: str = "decision") -> list[sqlite3.Row]:
    """A read model's rows by their columns, in this order."""
    reader = JournalReader(state_dir / FILE)
    try:
        return reader.query(f"SELECT * FROM {name} ORDER BY {order}")
    finally:
        reader.close()


def read_models(state_dir: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Decisions, orders, fills, equity, and what trades are made of; moves without the number of their event."""
    names = ("decisions", "orders", "fills", "equity", "moves", "round_trips")
    models = {name: table(state_dir, name) for name in names}
    return models | {"moves": [(*row[:2], *row[3:]) for row in models["moves"]]}


def chained(state_dir: Path) -> list[tuple[Any, ...]]:
    """Sequence, time, kind, payload, effects and hash of the chained events."""
    reader = JournalReader(state_dir / FILE)
    try:
        return [tuple(entry[1:]) for entry in reader.entries() if entry.seq is not None]
    finally:
        reader.close()


def verified(state_dir: Path, code: str | None = None) -> Verified:
    """What verify says of the journal."""
    return verify(state_dir / FILE, code or own_code(), strategy_named)


def execute(state_dir: Path, sql: str, *values: Any) -> int:
    """Change the journal behind the daemon's back; returns the number of rows changed."""
    db = sqlite3.connect(state_dir / FILE, isolation_level=None)
    try:
        return db.execute(sql, values).rowcount
    finally:
        db.close()
