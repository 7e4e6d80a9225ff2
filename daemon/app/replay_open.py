"""Open the desk that replays a checked tape: journal, machine, engine, operator's side."""

from __future__ import annotations

import time
from dataclasses import dataclass

from daemon.app.announce import announce
from daemon.app.desk import AssembledDesk
from daemon.app.opening import OpenDesk, open_desk
from daemon.app.operator_side import DeskPorts, OperatorSide
from daemon.app.replay_start import Replay
from daemon.app.telemetry import BrokerKeys, broker_keys
from daemon.core.events import Event
from daemon.core.step import Step
from daemon.engine.replay import ReplaySource
from daemon.operator.log import Log
from daemon.tapes.days import DailyTapeSource
from daemon.tapes.minutes import TapeSource
from daemon.tapes.quotes.tape import QuotedTape


@dataclass(slots=True)
class ReplayRun:
    """A replay under way: its desk, its tape and its operator's side."""

    opened: OpenDesk
    desk: AssembledDesk
    source: ReplaySource
    tape: TapeSource | DailyTapeSource | QuotedTape
    bars_before: int  # bars in the journal when it began
    operator: OperatorSide


def open_replay(replay: Replay, log: Log, speed: float | None) -> ReplayRun:
    """Open the state directory, recover and wire the desk. The caller closes `opened`."""
    keys = broker_keys(replay.settings)
    opened = open_desk(replay, replay.meta(), replay.epoch(), log)
    try:
        return _wired(replay, opened, log, speed, keys)
    except BaseException:
        opened.close()
        raise


def _wired(replay: Replay, opened: OpenDesk, log: Log, speed: float | None, keys: BrokerKeys) -> ReplayRun:
    machine = opened.recovered.machine
    tape = replay.source(opened.recovered.fed, machine)
    source = ReplaySource(iter(tape), speed)

    def observe(event: Event, step: Step) -> None:
        log.step(event, step)
        operator.observe(event, step)

    desk = opened.assemble(source, observe)
    ports = DeskPorts(source.put, lambda: machine.state.now_ns, time.time_ns)
    operator = OperatorSide(opened, desk.engine, keys, ports, log, log)
    announce(opened, log)
    for snapshot in opened.recovered.passed_over:
        log("snapshot_passed_over", snapshot=snapshot)
    if replay.info.symbol_assumed:
        log("symbol_assumed", tape=replay.tape.name, symbol=replay.strategy.spec.symbols[0])
    if replay.info.adjusted:
        log("prices_adjusted", tape=replay.tape.name)
    return ReplayRun(opened, desk, source, tape, machine.state.stats.bars, operator)
