"""A desk composed of the two axes anew, on the real engine: it replays a tape, verifies, and passes the crash test.

Nothing in the daemon knows this desk: its strategy is entered in the registry, as a new one would be.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from strategies.kit.units import DAY_NS
from strategies.registry import STRATEGIES
from tests.support.core.share_bars import SPEC, ShareBars
from tests.support.desks.desk_run import Crash, chained, read_models, table, verified
from tests.support.desks.share_bar_run import Toy, toy_on

BOUNDARIES = ("before step", "after step", "before commit", "after commit")
CRASHES = 60


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enter the strategy by its one line."""
    monkeypatch.setitem(STRATEGIES, SPEC.name, ShareBars.__module__)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toy_on(tmp_path_factory.mktemp("toy"))


def crash_at(name: str, count: int, counts: Counter[str]) -> Callable[[str], None]:
    """A boundary hook that crashes at the `count`-th boundary called `name`."""
    steps_left = count

    def hook(boundary: str) -> None:
        nonlocal steps_left
        if boundary == name:
            steps_left -= 1
            if steps_left == 0:
                counts[name] += 1
                raise Crash(name)

    return hook


def test_it_replays_a_tape_trades_shares_and_verifies(toy: Toy, tmp_path: Path) -> None:
    digest = toy.run(tmp_path / "one")
    assert digest == toy.run(tmp_path / "two") != ""
    fills, decisions = table(tmp_path / "one", "fills"), table(tmp_path / "one", "decisions")
    assert len(decisions) == 2 * (40 - 2)  # every bar of a session but the two that warm it
    assert len(fills) > 8
    assert {row[3] for row in fills} == {"SPY"}
    assert {row[5] for row in fills} == {10}
    sides = [row[4] for row in sorted(fills, key=lambda row: int(row[8]))]  # by the time they filled
    assert sides == [1 if i % 2 == 0 else -1 for i in range(len(fills))]
    cost = sum(row[4] * row[5] * Decimal(row[6]) + Decimal(row[7]) for row in fills)
    fees = Decimal(0)  # of each of two sessions: SEC, TAF and CAT, each kind rounded up to the cent
    for day in {row[8] // DAY_NS for row in fills}:
        of_day = [row for row in fills if row[8] // DAY_NS == day]
        proceeds = [row[5] * Decimal(row[6]) for row in of_day if row[4] < 0]
        cents = (sum(proceeds) * Decimal("0.00278"), len(proceeds) * Decimal("0.166"), len(of_day) * Decimal("0.048"))
        fees += sum(map(math.ceil, cents)) / Decimal(100)
    assert Decimal(table(tmp_path / "one", "equity")[-1][2]) == 10_000 - cost - fees
    assert chained(tmp_path / "one") == chained(tmp_path / "two")
    assert verified(tmp_path / "one").difference == ""


def test_a_crash_at_any_boundary_loses_no_fill_and_sends_no_order_twice(toy: Toy, tmp_path: Path) -> None:
    expected = toy.run(tmp_path / "undisturbed")
    rows, chain = read_models(tmp_path / "undisturbed"), chained(tmp_path / "undisturbed")
    seed = 20261121
    print(f"seed {seed}")
    draw, crashes, passes = random.Random(seed), Counter[str](), 0
    while crashes.total() < CRASHES or len(crashes) < len(BOUNDARIES):
        path, digest = tmp_path / f"pass{passes}", ""
        passes += 1
        while not digest:
            name = draw.choice(BOUNDARIES)
            hook = crash_at(name, draw.randint(1, 8 if "commit" in name else 60), crashes)
            digest = toy.run(path, boundary=hook, group=draw.choice((1, 3, 8, 32)), snapshots=draw.choice((1, 40)))
        assert digest == expected, f"seed {seed}, pass {passes}"
        assert (read_models(path), chained(path)) == (rows, chain), f"seed {seed}, pass {passes}"
        assert verified(path).difference == "", f"seed {seed}, pass {passes}"
