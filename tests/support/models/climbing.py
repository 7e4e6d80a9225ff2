"""A running desk with its climber, over the scalper's tape or another desk's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.config.tables import LadderTable
from daemon.core.state import LadderState
from daemon.journal.journal import FILE
from daemon.models.ladder.climber import Climber
from tests.support.models.swaps import SCALPER, Running

RULES = LadderTable(
    promotion="automatic",
    replay_sessions=0,
    shadow_sessions=1,
    canary_sessions=1,
    shadow_behind_max=1.0,
    drawdown_max=1.0,
)


@dataclass
class Climb:
    """A running desk with its climber, fed session by session."""

    run: Running
    climber: Climber

    async def settle(self) -> None:
        """Let ladder and store follow one another until nothing moves."""
        climber = self.climber
        await self.run.settle(climber.look, climber.replayed, climber.look, self.run.lifecycle.look)

    async def session(self) -> None:
        """Feed to the end of the running or next session, and let all follow."""
        await self.run.feed_session()
        await self.settle()

    @property
    def step(self) -> str:
        ladder = self.run.submitter.state.ladder
        return f"{ladder.version} {ladder.step}" if isinstance(ladder, LadderState) else ""


def climber_of(
    run: Running, store: Path, rules: LadderTable = RULES, *, strategy: Any = SCALPER, kind: type[Climber] = Climber
) -> Climber:
    """A climber of the running desk that sees every step."""
    climber = kind(
        store,
        strategy,
        rules,
        journal=run.path / FILE,
        poll_s=0,
        public_key="",
        submitter=run.submitter,
        models=run.models,
        lifecycle=run.lifecycle,
        log=lambda event, /, **fields: run.log.append((event, fields)),
    )
    run.observers.append(climber.observe)
    return climber
