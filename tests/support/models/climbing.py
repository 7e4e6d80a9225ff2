"""A running desk with its climber, over the scalper's tape or another desk's, and versions with a card in its store."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from daemon.config.tables import LadderTable
from daemon.core.state import LadderState
from daemon.journal.journal import FILE
from daemon.models.ladder.climber import Climber
from daemon.models.lifecycle import WatchedDesk
from daemon.models.pointer import CURRENT, point
from strategies.kit import card as cards
from strategies.kit.manifest import MANIFEST_FILE, decode, encode
from strategies.registry import strategy
from tests.support.desks.desk_run import Desk, tape_rows, write_tape
from tests.support.models.online_models import NAME, put_momentum
from tests.support.models.swaps import SCALPER, Running, publish, running

CARD = cards.Card(
    format=cards.FORMAT,
    version="v2",
    parent="v1",
    trainer="trainer's code",
    stream="rltrader:desk:epoch:experience",
    first_row=1,
    last_row=900,
    decisions=3000,
    sessions=10,
    exploration=0.03,
    overlap=1.0,
    effective=900.0,
    leads={"dr": cards.Lead(estimate=0.2, low=0.1, high=0.3)},
    session_mean=0.0,
    session_deviation=0.5,
    band=(0.005, 0.02, 0.08, 0.32),
)


def with_card(store: Path, card: cards.Card, *, seed: int = 2, version: str = "", vouched: bool = True) -> Path:
    """Publish a version (the card's, unless another is named) with this card; the manifest vouches for it or not."""
    return vouch(publish(store, version or card.version, seed), card, vouched=vouched)


def vouch(folder: Path, card: cards.Card, *, vouched: bool = True) -> Path:
    """Put the card into the version's folder; the manifest vouches for it or not."""
    data = cards.encode(card)
    (folder / cards.CARD_FILE).write_bytes(data)
    if vouched:
        manifest = decode((folder / MANIFEST_FILE).read_bytes())
        files = {cards.CARD_FILE: sha256(data).hexdigest()}
        (folder / MANIFEST_FILE).write_bytes(encode(msgspec.structs.replace(manifest, files=files)))
    return folder


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
