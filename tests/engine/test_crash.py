"""Simulated crashes at every kind of boundary: the desk always ends where the undisturbed one ended.

Each crash unwinds everything; batches that the writer had not begun are lost, as with a killed process. Every boundary
comes with every group size and snapshot interval, equally often; their order and the moments are drawn from a printed
seed.
"""

from __future__ import annotations

import itertools
import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from daemon.core.effects import AnyEffect, CancelOrder, SubmitOrder
from daemon.models.runtime import Models, OnnxPolicy
from tests.support.desks.desk_run import Crash, Desk, chained, table, tape_rows, verified, write_tape

BOUNDARIES = ("before step", "after step", "before commit", "after commit", "before release")
GROUPS = (1, 3, 8, 32)
SNAPSHOTS = (1, 100, 10_000)
CRASHES_EACH = 5  # of each boundary with each group size and snapshot interval


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(write_tape(tmp_path_factory.mktemp("tape") / "tape.csv", tape_rows(4, 75)))


@pytest.fixture(scope="module")
def undisturbed(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    path = tmp_path_factory.mktemp("undisturbed")
    run = desk.run(path)
    assert run.failure is None
    return run.digest, path


class Broker:
    """Takes what leaves the process and remembers it, across crashes."""

    def __init__(self) -> None:
        self.effects: list[AnyEffect] = []

    async def release(self, effects: Sequence[AnyEffect]) -> None:
        self.effects.extend(effect for effect in effects if isinstance(effect, SubmitOrder | CancelOrder))


def crash_at(name: str, count: int, counts: Counter[str]) -> Callable[[str], None]:
    """A boundary hook that crashes at the `count`-th boundary called `name`."""
    steps_left = count

    def hook(boundary: str) -> None:
        nonlocal steps_left
        if boundary == name:
            steps_left -= 1
            if steps_left == 0:
                counts[name] += 1
                raise Crash(f"{name}, the {count}. time")

    return hook


def orders_and_fills(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    return {name: table(path, name) for name in ("orders", "fills", "decisions", "equity")}


@pytest.mark.parametrize("outside", [True, False], ids=["orders leave", "paper"])
def test_crashes_at_every_boundary_lose_no_fill_and_send_no_order_twice(
    desk: Desk, undisturbed: tuple[str, Path], tmp_path: Path, outside: bool
) -> None:
    expected_digest, expected = undisturbed
    orders, fills = table(expected, "orders"), table(expected, "fills")
    partial = [fill for fill in fills if any(o[0] == fill[0] and fill[2] < o[6] for o in orders)]
    assert len(orders) > 0
    assert len(partial) > 0
    seed = 20261120
    print(f"seed {seed}")
    draw = random.Random(seed)
    boundaries = BOUNDARIES if outside else BOUNDARIES[:-1]
    cases = list(itertools.product(boundaries, GROUPS, SNAPSHOTS)) * CRASHES_EACH
    draw.shuffle(cases)
    crashes: Counter[str] = Counter()
    passes = 0
    while cases:
        path = tmp_path / f"pass{passes}"
        passes += 1
        broker = Broker() if outside else None
        while True:
            name, group, snapshots = cases[-1] if cases else ("", 64, 100)  # then to the end, without a crash
            early = name in ("before commit", "after commit", "before release")
            run = desk.run(
                path,
                group_events=group,
                snapshot_events=snapshots,
                boundary=crash_at(name, draw.randint(1, 8 if early else 60), crashes),
                outside=broker,
            )
            if run.failure is None:
                break
            assert isinstance(run.failure, Crash), f"seed {seed}, pass {passes}: {run.failure!r}"
            cases.pop()
        assert run.digest == expected_digest, f"seed {seed}, pass {passes}"
        assert orders_and_fills(path) == orders_and_fills(expected), f"seed {seed}, pass {passes}"
        assert chained(path) == chained(expected), f"seed {seed}, pass {passes}"
        assert verified(path).difference == "", f"seed {seed}, pass {passes}"
        if broker is not None:
            order_ids = [e.client_order_id for e in broker.effects if isinstance(e, SubmitOrder)]
            assert len(order_ids) == len(set(order_ids)), f"seed {seed}, pass {passes}"
            assert set(order_ids) <= {order[0] for order in orders}
        shutil.rmtree(path)
    assert crashes == dict.fromkeys(boundaries, len(GROUPS) * len(SNAPSHOTS) * CRASHES_EACH)
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
    draw, counts = random.Random(20261121), Counter[str]()
    for group in (1, 3):
        path = tmp_path / f"group{group}"
        while True:
            name = draw.choice(BOUNDARIES[:-1])
            commits = name in ("before commit", "after commit")
            hook = crash_at(name, draw.randint(5, 120 // group if commits else 120), counts)
            run = desk.run(path, group_events=group, boundary=hook, shadow=candidate())
            if run.failure is None:
                break
            assert isinstance(run.failure, Crash), repr(run.failure)
        assert run.digest == expected.digest
        assert table(path, "shadows") == shadows
        assert chained(path) == chained(tmp_path / "undisturbed")
        assert verified(path).difference == ""
