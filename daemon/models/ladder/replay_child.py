"""The child of the replay gate: read a request, replay both versions, print what came of them."""

from __future__ import annotations

import os
import resource
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from daemon.core.effects import AskPolicy
from daemon.core.events import (
    Event,
    ModelVerified,
    PolicyFailed,
    RunStarted,
    SessionScheduled,
)
from daemon.core.limits import Trading
from daemon.core.machine import Machine, PolicyEvent
from daemon.core.paper.state import broker_snapshot
from daemon.core.step import Step
from daemon.engine.code import code_digest
from daemon.engine.recovery import REPLAY, adopt_trading, fresh_machine
from daemon.journal.rows import JournalError
from daemon.models.ladder.recorded import Recorded, recorded_sessions, timed_as_on_a_tape
from daemon.models.ladder.replay_gate import Replayed, Request
from daemon.models.pointer import ModelError
from daemon.models.runtime import OnnxPolicy
from daemon.models.store import LoadedModel, check_rules, load
from daemon.models.trial import try_model
from strategies.kit.contract import AnyStrategy, configured
from strategies.registry import strategy as strategy_named

NICE = 19
CPU_S = 3600  # processor time of both replays together
TRIAL_S = 3600.0  # for the trial of the version, which has this priority too


def main() -> None:
    """Run the child."""
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    out, sys.stdout = sys.stdout, sys.stderr  # standard output carries only the answer
    try:
        answer = replayed(msgspec.json.decode(sys.stdin.buffer.read(), type=Request))
    except (ModelError, JournalError, sqlite3.Error, OSError, ValueError) as error:
        answer = Replayed(problem=f"{type(error).__name__}: {error}"[:1000])
    out.buffer.write(msgspec.json.encode(answer))
    out.flush()
    os._exit(0)  # skip all exit handlers of the models


def replayed(request: Request) -> Replayed:
    """Replay both versions over the same bars. Raises ModelError, JournalError, sqlite3.Error, OSError, ValueError."""
    who = request.identity
    strategy = strategy_named(who.strategy, who.symbols, who.config)
    recorded = recorded_sessions(request, strategy)
    counted = recorded[-request.sessions :]
    if not counted:
        return Replayed()
    theirs = _play(request, strategy, request.champion, recorded, counted[0])
    ours = _play(request, strategy, request.challenger, recorded, counted[0])
    return Replayed(
        sessions=len(counted),
        asked=ours.asked,
        failed=ours.failed,
        pnl=ours.pnl,
        champion_pnl=theirs.pnl,
        trades=ours.trades,
        champion_trades=theirs.trades,
    )


# --- one version ------------------------------------------------------------------------------------------------------


class _Played(NamedTuple):
    asked: int
    failed: int
    pnl: float
    trades: int


class _Player:
    """A version that plays: it counts from the first session that counts."""

    def __init__(self, policy: OnnxPolicy, machine: Machine, first: str) -> None:
        self._policy, self._machine, self._first = policy, machine, first
        self._base: tuple[float, int] | None = None  # equity and fills before the first session
        self._asked = self._failed = 0

    def answer(self, question: AskPolicy, now_ns: int) -> PolicyEvent:
        """Ask the policy."""
        answer = self._policy.answer(question, now_ns)
        if self._base is not None:
            self._asked += 1
            self._failed += isinstance(answer, PolicyFailed)
        return answer

    def watch(self, event: Event, step: Step) -> None:
        """Note the equity at the first session that counts."""
        if self._base is None and isinstance(event, SessionScheduled) and event.session.date == self._first:
            self._base = float(step.state.book.equity), step.state.stats.fills

    def result(self) -> _Played:
        """Return what came of it."""
        assert self._base is not None
        equity, fills = self._base
        state = self._machine.state
        return _Played(self._asked, self._failed, float(state.book.equity) / equity - 1.0, state.stats.fills - fills)


def _play(request: Request, strategy: AnyStrategy, version: str, recorded: list[Recorded], first: Recorded) -> _Played:
    """Replay all sessions with one version, and count from `first` on. Raises ModelError."""
    spec: Any = strategy.spec
    trading = replace(request.trading, exploration=UNSET, served=UNSET)
    model = load(Path(request.models_dir), strategy, version, request.public_key)
    check_rules(model, strategy, trading)
    if version == request.challenger:  # the champion passed its trial before it answered
        try_model(model, TRIAL_S, configured(spec), spec.config)
    machine = _started(request, strategy, trading, model, recorded[0].events[0].time_ns)
    player = _Player(OnnxPolicy.open(model, strategy, "cpu", 1), machine, first.date)
    events = (event for session in recorded for event in timed_as_on_a_tape(session.events, spec))
    machine.run(events, player.answer, player.watch)
    return player.result()


def _started(request: Request, strategy: AnyStrategy, trading: Trading, model: LoadedModel, now_ns: int) -> Machine:
    """Return a desk in a replay that just started with this model, as the engine starts one."""
    who = msgspec.structs.replace(request.identity, mode=REPLAY, account="paper")
    machine = fresh_machine(strategy, who, trading)
    code = code_digest(who.strategy)
    machine.apply(RunStarted(now_ns, who.mode, who.account, who.strategy, who.epoch, code, who.feed, trading))
    adopt_trading(machine)
    manifest = model.manifest
    machine.apply(ModelVerified(now_ns, model.version, model.digest, manifest.promoted, manifest.training.feed))
    machine.apply(broker_snapshot(machine.market_state, now_ns))
    return machine
