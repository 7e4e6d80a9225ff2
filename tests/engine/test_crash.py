"""A thousand simulated crashes at every kind of boundary: the desk always ends where the undisturbed one ended.

Each crash unwinds everything; batches that the writer had not begun are lost, as with a killed process. Group sizes,
snapshot intervals and moments are drawn from a printed seed.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from daemon.core.effects import AnyEffect, CancelOrder, SubmitOrder
from daemon.models.answering import Models
from daemon.models.runtime import OnnxPolicy
from tests.support.desks.desk_run import Crash, Desk, chained, table, tape_rows, verified, write_tape

CRASHES_EACH = 50  # at least, at each boundary
CRASHES = 1000
BOUNDARIES = ("before step", "after step", "before commit", "after commit", "before release")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(write_tape(tmp_path_factory.mktemp("tape") / "tape.csv", tape_rows(4, 75)))


@pytest.fixture(scope="module")
def undisturbed(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    path = tmp_path_factory.mktemp("undisturbed")
    recorded = desk.run(path)
    assert recorded.failure is None
    return recorded.digest, path


class Broker:
    """Takes what leaves the process and remembers it, across crashes."""

    def __init__(self) -> None:
        self.taken: list[AnyEffect] = []

    async def release(self, effects: Sequence[AnyEffect]) -> None:
        self.taken.extend(effect for effect in effects if isinstance(effect, SubmitOrder | CancelOrder))


def crash_at(name: str, count: int, seen: Counter[str]) -> Callable[[str], None]:
    """A boundary hook that crashes at the `count`-th boundary called `name`."""
    left = count

    def hook(boundary: str) -> None:
        nonlocal left
        if boundary == name:
            left -= 1
            if left == 0:
                seen[name] += 1
                raise Crash(f"{name}, the {count}. time")

    return hook


def orders_and_fills(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    return {name: table(path, name) for name in ("orders", "fills", "decisions", "equity")}


def test_a_thousand_crashes_lose_no_fill_and_send_no_order_twice(
    desk: Desk, undisturbed: tuple[str, Path], tmp_path: Path
) -> None:
    expected_digest, expected = undisturbed
    orders, fills = table(expected, "orders"), table(expected, "fills")
    partial = [fill for fill in fills if any(o[0] == fill[0] and fill[2] < o[6] for o in orders)]
    assert len(orders) > 0
    assert len(partial) > 0
    seed = 20261120
    print(f"seed {seed}")
    draw = random.Random(seed)
    crashes: Counter[str] = Counter()
    passes = 0
    while crashes.total() < CRASHES or min(crashes[name] for name in BOUNDARIES) < CRASHES_EACH:
        path = tmp_path / f"pass{passes}"
        passes += 1
        outside = Broker() if draw.random() < 0.5 else None
        while True:
            name = draw.choice(BOUNDARIES if outside else BOUNDARIES[:-1])
            commits = name in ("before commit", "after commit")
            group = draw.choice((1, 3, 8, 32))
            count = draw.randint(1, 8 if commits or name == "before release" else 60)
            recorded = desk.run(
                path,
                group_events=group,
                snapshot_events=draw.choice((1, 100, 10_000)),
                boundary=crash_at(name, count, crashes),
                outside=outside,
            )
            if recorded.failure is None:
                break
            assert isinstance(recorded.failure, Crash), f"seed {seed}, pass {passes}: {recorded.failure!r}"
        assert recorded.digest == expected_digest, f"seed {seed}, pass {passes}"
        assert orders_and_fills(path) == orders_and_fills(expected), f"seed {seed}, pass {passes}"
        assert chained(path) == chained(expected), f"seed {seed}, pass {passes}"
        assert verified(path).difference == "", f"seed {seed}, pass {passes}"
        if outside is not None:
            sent = [e.client_order_id for e in outside.taken if isinstance(e, SubmitOrder)]
            assert len(sent) == len(set(sent)), f"seed {seed}, pass {passes}"
            assert set(sent) <= {order[0] for order in orders}
        shutil.rmtree(path)
    print(f"{crashes.total()} crashes in {passes} passes: {dict(crashes)}; {len(orders)} orders, {len(fills)} fills")


def test_a_candidate_s_answer_is_lost_in_no_crash_of_a_replay(tmp_path: Path) -> None:
    """It is committed together with the live answer: both are there, or both are asked for again."""
    desk = Desk(write_tape(tmp_path / "tape.csv", tape_rows(1, 45)))

    def candidate() -> Models:
        models = Models(desk.replay.policy, desk.replay.model)
        models.set_candidate(OnnxPolicy.open(desk.replay.model, desk.replay.strategy, "cpu", 1), desk.replay.model)
        return models

    expected = desk.run(tmp_path / "undisturbed", shadow=candidate())
    answers, shadows = (table(tmp_path / "undisturbed", name) for name in ("decisions", "shadows"))
    assert len(shadows) == sum(row[1] == "policy" for row in answers) > 20
    draw, seen = random.Random(20261121), Counter[str]()
    for group in (1, 3):
        path = tmp_path / f"group{group}"
        while True:
            name = draw.choice(BOUNDARIES[:-1])
            commits = name in ("before commit", "after commit")
            hook = crash_at(name, draw.randint(5, 120 // group if commits else 120), seen)
            recorded = desk.run(path, group_events=group, boundary=hook, shadow=candidate())
            if recorded.failure is None:
                break
            assert isinstance(recorded.failure, Crash), repr(recorded.failure)
        assert recorded.digest == expected.digest
        assert table(path, "shadows") == shadows
        assert chained(path) == chained(tmp_path / "undisturbed")
        assert verified(path).difference == ""
