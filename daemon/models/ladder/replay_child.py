"""The child of the replay gate: read a request, replay both versions on the journal's sessions, print both results.

In a journal a bar has the time of its arrival, a second or two after its end, which lies within the next bar. A replay
by bars trades at the open of the first bar that begins after an order, so it would trade a whole bar late. Here a bar
has the time of its end, as on a tape.
"""

from __future__ import annotations

import os
import resource
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from daemon.core.desks.bars import MINUTE_WAIT_NS
from daemon.core.effects import AskPolicy
from daemon.core.events import (
    BarClosed,
    BarCorrected,
    ClockTicked,
    Event,
    ModelVerified,
    PolicyFailed,
    RunStarted,
    SessionEnded,
    SessionScheduled,
)
from daemon.core.limits import Trading
from daemon.core.paper.state import broker_snapshot
from daemon.core.step import Machine, PolicyEvent, Step
from daemon.core.strategy_rules import promoted_under
from daemon.engine.recover import REPLAY, adopt_trading, code_digest, fresh_machine
from daemon.engine.state_dir import parts_of
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import JournalError, decode_event
from daemon.models.ladder.replay_gate import Replayed, ReplayRequest
from daemon.models.pointer import ModelError
from daemon.models.runtime import OnnxPolicy
from daemon.models.store import LoadedModel, check_rules, load
from daemon.models.trial import try_model
from strategies.kit.contract import AnyStrategy, Session, Spec
from strategies.kit.units import SECOND_NS
from strategies.registry import configured
from strategies.registry import strategy as strategy_named

NICE = 19
CPU_S = 3600  # processor time of both replays together
TRIAL_S = 3600.0  # for the version's trial, which has this low priority too
ROWS_AT_ONCE = 20_000  # rows of one short transaction
ROWS_MOST = 5_000_000  # most rows scanned, from the newest on
KINDS = ("SessionScheduled", "BarClosed", "BarCorrected", "SessionEnded")


def main() -> None:
    """Run the child."""
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    out, sys.stdout = sys.stdout, sys.stderr  # standard output carries only the answer
    try:
        answer = replayed(msgspec.json.decode(sys.stdin.buffer.read(), type=ReplayRequest))
    except (ModelError, JournalError, sqlite3.Error, OSError, ValueError) as error:
        answer = Replayed(problem=f"{type(error).__name__}: {error}"[:1000])
    out.buffer.write(msgspec.json.encode(answer))
    out.flush()
    os._exit(0)  # skip all exit handlers of the models


def replayed(request: ReplayRequest) -> Replayed:
    """Replay both versions over the same bars. Raises ModelError, JournalError, sqlite3.Error, OSError, ValueError."""
    identity = request.identity
    strategy = strategy_named(identity.strategy, identity.symbols, identity.config)
    sessions = recorded_sessions(request, strategy)
    counted_sessions = sessions[-request.sessions :]
    if not counted_sessions:
        return Replayed()
    champion_result = _play(request, strategy, request.champion, sessions, counted_sessions[0])
    challenger_result = _play(request, strategy, request.challenger, sessions, counted_sessions[0])
    return Replayed(
        sessions=len(counted_sessions),
        asked=challenger_result.asked,
        failed=challenger_result.failed,
        pnl=challenger_result.pnl,
        champion_pnl=champion_result.pnl,
        trades=challenger_result.trades,
        champion_trades=champion_result.trades,
    )


# --- one version ------------------------------------------------------------------------------------------------------


class _PlayResult(NamedTuple):
    asked: int
    failed: int
    pnl: float
    trades: int


class _Player:
    """A version that plays; its results count from the first counted session."""

    def __init__(self, policy: OnnxPolicy, machine: Machine, first: str) -> None:
        self._policy, self._machine, self._first = policy, machine, first
        self._base: tuple[float, int] | None = None  # equity and fills before the first session
        self._questions = self._failures = 0

    def answer(self, question: AskPolicy, now_ns: int) -> PolicyEvent:
        """Ask the policy."""
        answer = self._policy.answer(question, now_ns)
        if self._base is not None:
            self._questions += 1
            self._failures += isinstance(answer, PolicyFailed)
        return answer

    def watch(self, event: Event, step: Step) -> None:
        """Note the equity at the first session that counts."""
        if self._base is None and isinstance(event, SessionScheduled) and event.session.date == self._first:
            self._base = float(step.state.book.equity), step.state.stats.fills

    def result(self) -> _PlayResult:
        """Return its result."""
        assert self._base is not None
        equity, fills = self._base
        state = self._machine.state
        return _PlayResult(
            self._questions, self._failures, float(state.book.equity) / equity - 1.0, state.stats.fills - fills
        )


def _play(
    request: ReplayRequest, strategy: AnyStrategy, version: str, sessions: list[JournalSession], first: JournalSession
) -> _PlayResult:
    """Replay all sessions with one version, and count from `first` on. Raises ModelError."""
    spec: Any = strategy.spec
    trading = replace(request.trading, exploration=UNSET, served=UNSET)
    model = load(Path(request.models_dir), strategy, version, request.public_key, request.manifests.get(version, ""))
    check_rules(model, strategy, trading)
    if version == request.challenger:  # the champion had passed its trial
        try_model(model, TRIAL_S, configured(spec), spec.config)
    machine = _start_machine(request, strategy, trading, model, sessions[0].events[0].time_ns)
    player = _Player(OnnxPolicy.open(model, strategy, "cpu", 1), machine, first.date)
    events = (event for session in sessions for event in timed_as_on_a_tape(session.events, spec))
    machine.run(events, player.answer, player.watch)
    return player.result()


def _start_machine(
    request: ReplayRequest, strategy: AnyStrategy, trading: Trading, model: LoadedModel, now_ns: int
) -> Machine:
    """Return a desk in a replay that just started with this model, as the engine starts one."""
    identity = msgspec.structs.replace(request.identity, mode=REPLAY, account="paper")
    machine = fresh_machine(strategy, identity, trading)
    code = code_digest(identity.strategy)
    machine.apply(
        RunStarted(
            now_ns, identity.mode, identity.account, identity.strategy, identity.epoch, code, identity.feed, trading
        )
    )
    adopt_trading(machine)
    manifest = model.manifest
    is_promoted = promoted_under(manifest, trading, configured(strategy.spec))
    machine.apply(ModelVerified(now_ns, model.version, model.digest, is_promoted, manifest.training.feed))
    machine.apply(broker_snapshot(machine.market_state, now_ns))
    return machine


# --- the last sessions of the journal ---------------------------------------------------------------------------------


class JournalSession(NamedTuple):
    """One session of the journal: its events in their order."""

    date: str
    events: list[Event]

    @property
    def whole(self) -> bool:
        """Whether it was recorded to its end."""
        return any(isinstance(event, SessionEnded) for event in self.events)

    @property
    def bars(self) -> int:
        """Bars of all symbols."""
        return sum(isinstance(event, BarClosed) for event in self.events)


def recorded_sessions(request: ReplayRequest, strategy: AnyStrategy) -> list[JournalSession]:
    """Return the last whole sessions, oldest first, preceded by as many as the strategy needs to warm up.

    Raises JournalError, sqlite3.Error.
    """
    rows: list[Event] = []  # newest first
    rows_read, id_before = 0, 2**62  # rows, and the id below the last of them
    for part in reversed(parts_of(Path(request.journal))):
        with closing(JournalReader(part)) as reader, reading(part):
            newest, first = _bounds(reader)
            id_before = min(id_before, newest)
            while id_before >= first and rows_read < ROWS_MOST:
                rows += _rows(reader, id_before, request.seq)
                id_before, rows_read = max(id_before - ROWS_AT_ONCE, first - 1), rows_read + ROWS_AT_ONCE
                sessions = _sessions(rows)
                if _enough(sessions, request, strategy):
                    return sessions
    return _sessions(rows)


def _bounds(reader: JournalReader) -> tuple[int, int]:
    row = reader.query("SELECT max(id) AS newest, min(id) AS first FROM events")[0]
    return row["newest"] or 0, row["first"] or 1


def _rows(reader: JournalReader, newest: int, seq: int) -> list[Event]:
    """Return the feed's events among `ROWS_AT_ONCE` rows, newest first."""
    rows = reader.query(
        f"SELECT payload FROM events WHERE id <= ? AND id > ? AND seq <= ? "
        f"AND kind IN ({','.join('?' * len(KINDS))}) ORDER BY id DESC",
        (newest, newest - ROWS_AT_ONCE, seq, *KINDS),
    )
    return [decode_event(row["payload"]) for row in rows]


def _sessions(rows: list[Event]) -> list[JournalSession]:
    """Group events, given newest first, by session, oldest first; drop an unfinished last one."""
    sessions: list[JournalSession] = []
    for event in reversed(rows):
        if isinstance(event, SessionScheduled) and (not sessions or sessions[-1].date != event.session.date):
            sessions.append(JournalSession(event.session.date, []))
        if sessions:
            sessions[-1].events.append(event)
    while sessions and not sessions[-1].whole:
        sessions.pop()
    return sessions


def _enough(sessions: list[JournalSession], request: ReplayRequest, strategy: AnyStrategy) -> bool:
    """Return whether enough sessions are there; the oldest one may be cut and does not count."""
    earlier_sessions = sessions[1 : -request.sessions]
    warm = sum(session.bars for session in earlier_sessions) >= strategy.spec.history_bars * len(strategy.spec.symbols)
    return warm and len(earlier_sessions) > request.trading.paper.volatility_sessions


# --- the time ---------------------------------------------------------------------------------------------------------


def timed_as_on_a_tape(events: list[Event], spec: Spec) -> Iterator[Event]:
    """Yield a session's events with each bar at its end, and a tick where some symbols lack a bar of the time.

    The order stays, so a late bar is not earlier than the events before it.
    """
    session: Session | None = None
    now_ns, slot_ns, slots_seen = 0, 0, set[str]()
    for event in events:
        at_ns = event.time_ns
        match event:
            case SessionScheduled():
                session = event.session
            case BarClosed(bar=bar) if session is not None and bar.start_ns >= slot_ns:
                at_ns = min(bar.start_ns + spec.bar_span_s * SECOND_NS, session.close_ns)
                if bar.start_ns > slot_ns:
                    yield from _tick(slots_seen, spec, now_ns, at_ns)
                    slot_ns, slots_seen = bar.start_ns, set()
                slots_seen.add(bar.symbol)
            case BarClosed() | BarCorrected() if session is not None:
                at_ns = now_ns
            case SessionEnded() if session is not None:
                yield from _tick(slots_seen, spec, now_ns, session.close_ns)
                slots_seen = set()
        now_ns = max(now_ns, at_ns)
        yield msgspec.structs.replace(event, time_ns=now_ns)


def _tick(slots_seen: set[str], spec: Spec, now_ns: int, before_ns: int) -> Iterator[Event]:
    """Yield the tick that ends the wait for further symbols, as `daemon.tapes.minutes` has it."""
    if 0 < len(slots_seen) < len(spec.symbols) and now_ns + MINUTE_WAIT_NS < before_ns:
        yield ClockTicked(now_ns + MINUTE_WAIT_NS)
