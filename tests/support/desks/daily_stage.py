"""A stage for a daily desk: made-up daily prices of three funds, a policy that swaps SPY and QQQ, mornings jumped to.

Nothing here computes an expected value. A daemon must not run while time jumps: its clock is its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.prices.day_prices import DailyPrices
from simulator.prices.market import Market
from simulator.prices.tape import calendar_sessions
from simulator.server import serving
from simulator.trading.account import Account
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET, Rules
from strategies.golden import golden_observations
from strategies.kit.manifest import Golden
from strategies.regime_switcher import HIDDEN, REGIMES, SPEC, SYMBOLS, WIDTH, layout
from strategies.registry import strategy
from tests.support.desks.stage import QUICK, SELDOM_PINGED, Stage, Table, new_york_ns
from tests.support.models.tiny_models import graph, manifest_of, put
from tests.support.simulator.clocks import clock_from

HALF_DAY, NEXT_DAY = "2024-07-03", "2024-07-05"
CASH = 100_000
IN_FULL = Rules(fill_sizes=(100, 100))
DAILY: Table = {
    "desk": {"strategy": SPEC.name},
    "basket": {"before_open_min": 30, "reprice_s": 120},
    "risk": {"quote_age_max_s": 3600},
    "service": {"stop_deadline_s": 5},
}
ACTIONS = [name for name, _ in REGIMES]


@cache
def prices(**actions: Any) -> DailyPrices:
    """Seeded walks of the three funds over more sessions than the strategy keeps."""
    return made_up(**actions)


def made_up(**actions: Any) -> DailyPrices:
    """Seeded walks of the three funds; SPY closes at 500, QQQ at 400 and IWM at 200 USD on the day before."""
    sessions = calendar_sessions("2023-05-01", "2024-08-01")
    closes = {symbol: ("2024-07-02", price) for symbol, price in zip(SYMBOLS, (500.0, 400.0, 200.0), strict=True)}
    return DailyPrices.made_up(SYMBOLS, sessions, last="2024-07-19", closes=closes, seed=3, **actions)


def swapping(folder: Path, name: str = SPEC.name) -> Path:
    """A model store with a policy that wants ALL_QQQ while it holds SPY, and ALL_SPY otherwise; returns `folder`.

    `name` is `regime_switcher` or another strategy that sees and answers the same.
    """
    onnx = pytest.importorskip("onnx", reason="the extra training brings onnx, which builds the graphs")
    node = onnx.helper.make_node
    matrix = np.zeros((WIDTH, len(ACTIONS)), np.float32)
    places = layout(len(SYMBOLS)).weights
    weights = dict(zip(("CASH", *SYMBOLS), range(places.start, places.stop), strict=True))
    matrix[weights["CASH"], ACTIONS.index("ALL_SPY")] = 8.0
    matrix[weights["QQQ"], ACTIONS.index("ALL_SPY")] = 8.0
    matrix[weights["SPY"], ACTIONS.index("ALL_QQQ")] = 8.0
    nodes = [
        node("MatMul", ["observation", "matrix"], ["logits"]),
        node("Identity", ["hidden"], ["next_hidden"]),
    ]
    policy = graph(
        nodes,
        {"observation": ("batch", WIDTH), "hidden": ("batch", HIDDEN)},
        {"logits": ("batch", len(ACTIONS)), "next_hidden": ("batch", HIDDEN)},
        {"matrix": matrix},
    )
    desk = strategy(name)
    observations = golden_observations(desk)
    logits = tuple(tuple((one.array() @ matrix).tolist()) for one in observations)
    golden = Golden(tuple(one.data for one in observations), logits, (bytes(4 * HIDDEN),) * len(observations))
    put(folder, manifest_of(desk, policy, (), version="swapping", promoted=False, golden=golden), policy)
    return folder


@contextlib.contextmanager
def daily_stage(
    day: str,
    begin: str,
    folder: Path,
    models_dir: Path,
    *tables: Table,
    days: DailyPrices | None = None,
    others: tuple[Account, ...] = (),
    rate: float | None = None,
    rules: Rules = IN_FULL,
    cash: int = CASH,
) -> Iterator[Stage]:
    """A stage whose clock starts at New York's `begin` of `day`; what still runs at the end is killed.

    `others` are accounts beside the desk's own. Time is virtual, or runs at `rate` simulated seconds a second.
    """
    days = days or prices()
    folder.mkdir(parents=True, exist_ok=True)
    market = Market((), "SPY", sessions=days.sessions, days=days)
    account = Account(DEFAULT_KEY, DEFAULT_SECRET, cash=Decimal(cash), margin=1)
    with (
        clock_from(new_york_ns(day, begin), rate) as clock,
        serving(market, clock, rules=rules, accounts=[account, *others]) as server,
    ):
        scene = Stage(
            server, clock, market, folder, models_dir, (SELDOM_PINGED if rate is None else QUICK, DAILY, *tables)
        )
        try:
            yield scene
        finally:
            for daemon in scene.daemons:
                daemon.kill()
                daemon.wait(10)


def jump(played: Stage, day: str, begin: str) -> None:
    """Over night, or over a holiday: the newest daemon must have ended."""
    assert played.daemons[-1].returncode is not None
    played.server.jump_to(new_york_ns(day, begin))
