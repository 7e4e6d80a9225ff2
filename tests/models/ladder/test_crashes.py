"""A daemon that is killed between a step of the ladder and the move of the pointer: the pointer follows the journal.

Every boundary of a climb and of a fall is one place to be killed at; a start on what is left goes on to the same end.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest

from daemon.core.events import LadderMoved
from daemon.core.state import LadderState
from daemon.models import lifecycle
from daemon.models.ladder.climber import Climber
from daemon.models.pointer import CURRENT, pointer_text
from daemon.models.store import LoadedModel
from daemon.models.trial import TrialProcess
from tests.support.desks.desk_run import Crash, Desk, tape_rows, verified, write_tape
from tests.support.models.climbing import CARD, Climb, climber_of, with_card
from tests.support.models.swaps import events, name, publish, running

SESSIONS, SESSIONS_MOST = 9, 5
PATH = [
    ("shadow", "card_passed"),
    ("canary_10", "shadow_passed"),
    ("rolled_back", "canary_drift"),
]


class Mortal(Climber):
    """The climber, killed at boundary number `dies_at` (0: never)."""

    dies_at = 0
    passed: tuple[str, ...] = ()

    async def _submit(self, ladder: LadderState, to_step: str, *more: Any) -> None:
        self._at(f"before {to_step} is journaled")
        await super()._submit(ladder, to_step, *more)
        self._at(f"before the pointer follows {to_step}")

    async def _align(self) -> None:
        before = pointer_text(self._desk.shelf, CURRENT)
        await super()._align()
        if (now := pointer_text(self._desk.shelf, CURRENT)) != before:
            self._at(f"before the desk follows the pointer to {now}")

    def _at(self, boundary: str) -> None:
        self.passed = (*self.passed, boundary)
        if len(self.passed) == self.dies_at:
            raise Crash


class TriedOnce(TrialProcess):
    """A model's trial in its process, the first time; it passed, and each further start would find the same."""

    passed: ClassVar[set[tuple[str, tuple[str, ...], str]]] = set()

    def run(self, model: LoadedModel, symbols: tuple[str, ...] = (), config: str = "") -> None:
        if (model.digest, symbols, config) not in self.passed:
            super().run(model, symbols, config)
            self.passed.add((model.digest, symbols, config))


async def _play(climb: Climb) -> None:
    """Drive the desk until the challenger climbed to its canary, drifted, and fell: from wherever it stands."""
    run = climb.run
    for _ in range(SESSIONS_MOST):
        await climb.settle()
        if climb.step == "v2 canary_10":
            climb.climber.drifted("v2", "index 3.1")
            await climb.settle()
        ladder = run.submitter.state.ladder
        if isinstance(ladder, LadderState) and ladder.step == "rolled_back" and "left" in ladder.figures:
            return
        await climb.session()
    raise AssertionError(f"it never fell: {climb.step}")


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with `v1`, a challenger, and a desk that is warm."""
    folder = tmp_path_factory.mktemp("warm")
    store = folder / "store"
    publish(store, "v1", 1)
    name(store, "v1")
    with_card(store, CARD)
    write_tape(folder / "tape.csv", tape_rows(SESSIONS, 20))
    _start(folder, 0, sessions=3)
    return folder


def _start(folder: Path, dies_at: int, sessions: int = 0) -> tuple[str, ...]:
    """Start the desk and play, or feed so many sessions; returns the boundaries that it passed."""
    desk = Desk(folder / "tape.csv", paths__models_dir=folder / "store", policy__version=CURRENT)
    climbers: list[Mortal] = []

    async def run_play() -> None:
        async with running(desk, folder / "state") as run:
            if sessions:
                climb = Climb(run, climber_of(run, folder / "no store"))
                for _ in range(sessions):
                    await climb.session()
                return
            climber = climber_of(run, folder / "store", kind=Mortal)
            assert isinstance(climber, Mortal)
            climber.dies_at = dies_at
            climbers.append(climber)
            await _play(Climb(run, climber))
            assert run.models.running.version == "v1"
            assert pointer_text(folder / "store" / "option_scalper", CURRENT) == "v1"

    try:
        asyncio.run(run_play())
    except Crash:
        assert dies_at
    return climbers[0].passed if climbers else ()


def _moves(folder: Path) -> list[LadderMoved]:
    return events(folder / "state", "LadderMoved")


def test_a_kill_at_any_boundary_of_the_ladder_leads_to_the_same_steps_and_pointers(
    warm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "TrialProcess", TriedOnce)
    undisturbed = shutil.copytree(warm, tmp_path / "undisturbed")
    boundaries = _start(undisturbed, 0)
    assert [line for line in boundaries if "the desk follows" in line] == [
        "before the desk follows the pointer to v2",
        "before the desk follows the pointer to v1",
    ]
    assert len(boundaries) == 2 * 5 + 2  # three steps, the canary's begin, the end of the fall; two pointers
    for number, boundary in enumerate(boundaries, 1):
        folder = shutil.copytree(warm, tmp_path / f"{number}")
        assert _start(folder, number)[-1] == boundary
        _start(folder, 0)
        moves = _moves(folder)
        assert [(m.to_step, m.reason) for m in moves if m.to_step != m.from_step] == PATH, boundary
        assert [m.reason for m in moves].count("answers") == 1, boundary
        assert [m.reason for m in moves].count("left") == 1, boundary
        assert verified(folder / "state").difference == "", boundary
