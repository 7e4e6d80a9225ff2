"""A running desk with its climber, over the scalper's tape or another desk's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.config.tables import LadderTable
from daemon.core.state import LadderState
from daemon.journal.journal import FILE
from daemon.models.ladder.climber import Climber
from daemon.models.lifecycle import WatchedDesk
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


def watched_desk(run: Running, store: Path, strategy: Any) -> WatchedDesk:
    """The running desk as those see it that watch its model; they look when they are told to."""
    return WatchedDesk(
        store,
        strategy,
        0,
        "",
        run.submitter,
        run.models,
        run.lifecycle,
        lambda event, /, **fields: run.log.append((event, fields)),
    )


def climber_of(
    run: Running, store: Path, rules: LadderTable = RULES, *, strategy: Any = SCALPER, kind: type[Climber] = Climber
) -> Climber:
    """A climber of the running desk that sees every step."""
    climber = kind(watched_desk(run, store, strategy), rules, run.path / FILE)
    run.observers.append(climber.observe)
    return climber
