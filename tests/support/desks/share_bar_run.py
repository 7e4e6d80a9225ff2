"""Runs of the toy desk that decides at each bar and holds shares, on the real engine, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from daemon.app.desk import AssembledDesk, Start
from daemon.core.events import Event
from daemon.core.limits import Paper, Trading
from daemon.core.step import Step
from daemon.engine.engine import CandidateAnswers, Engine, Policy
from daemon.engine.recover import fresh_machine, identity_of, recover
from daemon.engine.state_dir import open_state_dir
from daemon.host.time.calendar import SessionCalendar
from daemon.journal.writer import JournalWriter
from daemon.tapes.minutes import TapeInfo, TapeSource, scan
from strategies.registry import strategy as strategy_named
from tests.support.core.share_bars import SPEC, EveryThird
from tests.support.desks.desk_run import Crash, Tape, drop, own_code, tape_rows, write_tape
from tests.support.models.layers import plain

RULES = Trading(paper=Paper(cash_usd=Decimal(10_000)))
META = {"mode": "replay", "account": "paper", "strategy": SPEC.name, "feed": "sip", "desk": "toy", "tape": "tape.csv"}


@dataclass(frozen=True, slots=True)
class Toy:
    """A tape, and runs on state directories; each goes on where the journal ends."""

    tape: Path
    info: TapeInfo
    calendar: SessionCalendar

    def run(
        self,
        path: Path,
        *,
        boundary: Callable[[str], None] | None = None,
        group: int = 64,
        snapshots: int = 50,
        observe: Callable[[Event, Step], None] | None = None,
        epoch: str = "e1",
        policy: Policy | None = None,
        shadow: CandidateAnswers | None = None,
    ) -> str:
        """Run to the tape's end, or to a crash; returns the state's digest, "" after a crash."""
        state_dir, code = open_state_dir(path, META, epoch), own_code()
        identity = identity_of(state_dir.meta)
        machine = fresh_machine(strategy_named(identity.strategy, identity.symbols, identity.config), identity, RULES)
        recovered = recover(state_dir.journal.reader(), machine, code)
        source = Tape(TapeSource(self.tape, self.info, self.calendar, recovered.fed))
        writer, crashed = JournalWriter(state_dir.journal, 0), False
        desk = AssembledDesk(
            Engine(
                recovered,
                writer,
                policy or EveryThird(),
                source,
                code=code,
                group_events=group,
                snapshot_events=snapshots,
                observe=observe or (lambda _event, _step: None),
                boundary=boundary,
                shadow=shadow,
            ),
            Start(identity, RULES, plain(), code),
        )
        try:
            asyncio.run(desk.run())
            return desk.engine.state_digest()
        except Crash:
            crashed = True
            return ""
        finally:
            drop(state_dir, writer, crashed=crashed)


def toy_on(folder: Path, sessions: int = 2, bars: int = 40) -> Toy:
    """A desk on a tape of so many sessions."""
    tape = write_tape(folder / "tape.csv", tape_rows(sessions, bars, stubs=0))
    info = scan(tape, SPEC.symbols, SPEC.bar_interval_s)
    return Toy(tape, info, SessionCalendar.load(info.first_date, info.last_date))
