"""A desk of bars of a quarter of an hour holds over nights, live as in the replay: a weekend, restarts, a split."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from functools import partial
from pathlib import Path

import numpy as np

from simulator.prices.corporate_actions import Split
from strategies.kit.units import MINUTE_NS
from tests.support.desks.stage import new_york_ns
from tests.years.__main__ import Running
from tests.years.nights import CASH, Act, Lived, live
from tests.years.world import World

HOUR_S = 3600.0
FRIDAY, MONDAY = "2024-11-29", "2024-12-02"  # the first closes early; Monday's open is 68.5 hours after Friday's close


async def _through(_: World) -> None:
    """Let the desk run."""


async def _restarted(world: World) -> None:
    """Stop the desk in Friday's evening until the night to Monday; kill it in that night, on the split's morning."""
    await asyncio.sleep(6 * HOUR_S)  # Friday, 14:50
    world.desk.stop()
    await asyncio.sleep(58 * HOUR_S)  # Monday, 0:50
    world.desk.start()
    await asyncio.sleep(6 * HOUR_S)
    assert world.desk.process is not None
    world.desk.process.die()


def live_and_replay(first: str, last: str, splits: tuple[Split, ...], act: Act, folder: Path) -> tuple[Lived, Lived]:
    outcome: tuple[Lived, Lived] | str = Running(partial(_live, first, last, splits, act, folder)).result()[0]
    assert not isinstance(outcome, str), outcome
    return outcome


def _live(first: str, last: str, splits: tuple[Split, ...], act: Act, folder: Path, _: Path) -> tuple[Lived, Lived]:
    return live(first, last, splits, act, 1, folder)


def held_at(fills: tuple[tuple[int, int, Decimal], ...], minute: int) -> Decimal:
    return sum((side * shares for at, side, shares in fills if at < minute), Decimal(0))


def equal_but_for_whole_shares(live: Lived, replay: Lived, ratio: int) -> None:
    """Check that both decided the same on the same features, and filled so many shares in the same minutes.

    Before the split `ratio` of the replay's shares are one of the live desk's, which buys whole ones.
    """
    assert live.decisions == replay.decisions
    assert np.allclose(live.features, replay.features, rtol=0.0, atol=1e-4)  # of thousandths
    assert [fill[:2] for fill in live.fills] == [fill[:2] for fill in replay.fills]
    first = new_york_ns(MONDAY, "00:00") // MINUTE_NS
    for (minute, _, shares), (_, _, expected) in zip(live.fills, replay.fills, strict=True):
        then = ratio if minute < first else 1
        assert abs(shares * then - expected) <= then + 1
    assert abs(live.equity - replay.equity) < CASH / 1000
    assert live.halts == ()
    assert live.in_book == live.at_broker


def test_a_weekend_after_an_early_close_with_restarts_and_a_split_is_held_as_in_the_replay(tmp_path: Path) -> None:
    live, replay = live_and_replay(FRIDAY, MONDAY, (Split("SPY", MONDAY, Decimal(4)),), _restarted, tmp_path)
    equal_but_for_whole_shares(live, replay, 4)
    assert held_at(live.fills, new_york_ns(FRIDAY, "13:00") // MINUTE_NS) > 0
    assert held_at(live.fills, new_york_ns(MONDAY, "09:30") // MINUTE_NS) > 0
    assert {"CASH", "SPY"} == {action for _, action in live.decisions}


def test_a_night_is_lived_through_and_held_as_in_the_replay(tmp_path: Path) -> None:
    live, replay = live_and_replay("2024-11-26", "2024-11-27", (), _through, tmp_path)
    equal_but_for_whole_shares(live, replay, 1)
    assert held_at(live.fills, new_york_ns("2024-11-27", "09:30") // MINUTE_NS) > 0
