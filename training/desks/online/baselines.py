"""Baselines of `online_dqn` on the same test sessions, and the policy under other costs and one bar late."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from training.desks.kind import POLICY, Played
from training.desks.online.data import FROM_OPEN, OnlineTaskData, flat, hold_from_open, play, random_trader
from training.evaluate.machine import Player
from training.evaluate.players import COSTS, Late, RandomTrader, median_of, random_like, with_costs
from training.evidence.criteria import ONE_BAR_LATE
from training.study.progress import counted, phase
from training.study.study import PlayResult, SessionResult

RANDOM_DRAWS = 1000  # random traders for the p-value
RANDOM_RUNS = 5  # random traders whose median is the baseline
ROWS = 4000  # accounts of the market for random traders played at once
FLAT, HOLD, RANDOM = "always flat", FROM_OPEN, "random"

BASELINES: Mapping[str, str] = {
    FLAT: "Never trades.",
    HOLD: "Buys at the second bar of every session and keeps it until the flatten before the close, through the dry "
    "run with all gates; after a stop or a target it buys again as soon as it may.",
    RANDOM: "Enters with a fixed chance a minute and leaves with another, both chosen so that trades and holding times "
    "come close to the chosen policy's. The median of a few; they and the draws behind the p-value go through the "
    "market that the policy learned on, which agrees with the dry run to the last digit.",
}


PLAYERS = (POLICY, *BASELINES, *COSTS, ONE_BAR_LATE)
"""All names that `play_one` knows, the policy's first."""


def play_one(
    player: str,
    policies: Sequence[nn.Module],
    data: OnlineTaskData,
    spans: Sequence[tuple[str, ...]],
    seed: int,
    check_stop: Callable[[], None],
) -> Played:
    """Play one of `PLAYERS` on the sessions of each fold; every session has its own account."""
    results, random = [], []
    for policy, dates in zip(policies, spans, strict=True):
        check_stop()
        result, totals = _played(player, policy, data, dates, seed, check_stop)
        results.append(result)
        random.append(totals)
    return Played(tuple(results), tuple(random) if player == RANDOM else ())


def _played(
    player: str,
    policy: nn.Module,
    data: OnlineTaskData,
    dates: tuple[str, ...],
    seed: int,
    check_stop: Callable[[], None],
) -> tuple[PlayResult, tuple[float, ...]]:
    trading = data.data.trading
    if player == RANDOM:
        return _random(policy, data, dates, seed, check_stop)
    if player == FLAT:
        return PlayResult(play(flat, data.data, dates, trading)), ()
    rules = with_costs(trading, COSTS[player]) if player in COSTS else trading
    return data.dry_run(_maker(player, policy), dates, rules, check_stop), ()


def _maker(player: str, policy: nn.Module) -> Callable[[], Player]:
    """A function that makes the player for one session."""
    if player == ONE_BAR_LATE:
        return lambda: Late(policy, flat)
    return lambda: hold_from_open if player == HOLD else policy


def _random(
    policy: nn.Module, data: OnlineTaskData, dates: tuple[str, ...], seed: int, check_stop: Callable[[], None]
) -> tuple[PlayResult, tuple[float, ...]]:
    """The median of a few random traders that trade about as often as the policy, and the profits of many in USD."""
    material, trading = data.data, data.data.trading
    at_once = max(1, ROWS // len(material.on(dates)))

    def measure(trader: RandomTrader) -> Sequence[SessionResult]:
        return play(trader, material, dates, trading, at_once)

    with phase("a random trader like the policy"):
        goal = play(policy, material, dates, trading)
        trader = random_like(
            goal, lambda enter, leave: random_trader(enter, leave, seed, material.history.bar_min), measure
        )
    with phase("random traders, a few"):
        runs = counted(range(RANDOM_RUNS), "traders")
        few = [play(trader, material, dates, trading) for _ in runs]
    totals: list[float] = []
    with phase("random traders, all"):
        for _ in counted(range(-(-RANDOM_DRAWS // at_once)), f"rounds of {at_once} traders"):
            check_stop()
            results = measure(trader)
            totals.extend(round(_total(part), 2) for part in _draws(results, len(dates)))
    return PlayResult(few[median_of(few)]), tuple(totals[:RANDOM_DRAWS])


def _total(results: Sequence[SessionResult]) -> float:
    return math.fsum(result.pnl_usd for result in results)


def _draws(results: Sequence[SessionResult], sessions: int) -> list[Sequence[SessionResult]]:
    return [results[first : first + sessions] for first in range(0, len(results), sessions)]
