"""A desk of `online_dqn` that explores, with a challenger that climbs its ladder: real engine, store and lifecycle."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from daemon.config.tables import LadderTable
from daemon.models.pointer import CURRENT, point
from strategies.registry import strategy
from tests.support.desks.desk_run import Desk, tape_rows, write_tape
from tests.support.models.cards import CARD, vouch
from tests.support.models.climbing import RULES, Climb, climber_of
from tests.support.models.online_models import NAME, put_momentum
from tests.support.models.swaps import running

ONLINE = strategy(NAME)
BARS = 40
EPSILON = 0.3


def online_store(store: Path, slope: float = 0.5) -> Path:
    """`v1` answers; `v2` was trained from it: its values are `slope` times as large."""
    put_momentum(store, version="v2", slope=slope)
    put_momentum(store, version="v1")
    vouch(store / NAME / "v2", CARD)
    point(store / NAME, CURRENT, "v1", author="test", why="test", now_ns=0)
    return store


def online_desk(
    folder: Path, store: Path, sessions: int, bars: int = BARS, *, kind: type[Desk] = Desk, **more: Any
) -> Desk:
    """The desk on a tape of so many sessions after two that warm its indicators."""
    tape = write_tape(folder / "tape.csv", tape_rows(sessions, bars, stubs=2))
    given: dict[str, Any] = {
        "desk__strategy": NAME,
        "paths__models_dir": store,
        "policy__version": CURRENT,
        "exploration__kind": "epsilon",
        "exploration__epsilon": EPSILON,
    }
    return kind(tape, **given | more)


def climb_online(desk: Desk, state: Path, store: Path, sessions: int, rules: LadderTable = RULES) -> list[str]:
    """Let the desk trade so many sessions with its climber; returns where the ladder stood after each."""
    stood: list[str] = []

    async def played() -> None:
        async with running(desk, state) as run:
            climb = Climb(run, climber_of(run, store, rules, strategy=desk.replay.strategy))
            await climb.settle()
            for _ in range(sessions):
                await climb.session()
                stood.append(climb.step)

    asyncio.run(played())
    return stood
