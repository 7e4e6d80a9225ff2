"""Random traders derived from a policy: its decisions for other stocks, or at other times, on the tensor markets."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count as count_up
from typing import Protocol

import torch
from torch import Tensor

from strategies.regime_switcher import ALL_CASH, HOLD
from training.desks.daily.markets.rebalancer import RebalancerMarket, variant_of
from training.desks.daily.markets.regime import RegimeMarket
from training.desks.daily.play import (
    Rebalancer,
    Switcher,
    one_hot_logits,
    play_rebalancer,
    play_regime,
)
from training.evaluate.days import Desk, dry_run
from training.evaluate.machine import Player
from training.rl.protocols import Step
from training.study.progress import counted, never_stop, phase
from training.study.study import PlayResult

RANDOM = "random"
RANDOM_RUNS = 5  # random traders whose median is the baseline `random`
ACCOUNTS = 500  # accounts of the tensor market for random traders played at once
Answers = Callable[[int], Tensor]
"""Session number from 0 -> actions (n, stocks), or regimes int64 (n,), of n accounts."""
Following = Callable[[], Tensor]
"""Returns one trader's answer for the next session."""


class Market(Protocol):
    """Accounts that can be stepped together."""

    @property
    def closing_usd(self) -> tuple[Tensor, Tensor]: ...

    def step(self, actions: Tensor) -> Step: ...


def random_rebalancers(
    policy: Rebalancer, desk: Desk, draws: int, seed: int, check_stop: Callable[[], None] = never_stop
) -> tuple[PlayResult, tuple[float, ...]]:
    """Random traders with the decisions of `policy`: one through the dry run, and the totals of `draws`.

    Each applies the policy's actions to a permutation of the stocks of its own: the same sizes at the same times, but
    for other stocks. So a comparison measures the choice of stocks, and being invested earns no credit. The dry run
    plays the trader with the median net P&L of a few; totals are net P&L in USD over all of the desk's sessions.
    """
    table, rules, variant = desk.table, desk.trading, variant_of(desk.trading)
    actions_seen: list[Tensor] = []

    def noted(observations: Tensor) -> Tensor:
        actions_seen.append(policy(observations).clamp(-1.0, 1.0))
        return actions_seen[-1]

    play_rebalancer(noted, table, desk.dates, rules, variant=variant)
    actions = torch.cat(actions_seen)

    def market_of(count: int) -> Market:
        return RebalancerMarket(table, desk.first, desk.last, rules, count=count, variant=variant, draws=False)

    def answers_of(count: int, nth: int) -> Answers:
        return of_other_stocks(actions, count, seed + nth)

    return _traders(desk, draws, market_of, answers_of, lambda following: lambda _: following(), check_stop)


def random_switchers(
    policy: Switcher, desk: Desk, draws: int, seed: int, check_stop: Callable[[], None] = never_stop
) -> tuple[PlayResult, tuple[float, ...]]:
    """As `random_rebalancers`, for regimes. The policy's sequence of regimes is shifted in time, so durations are kept.

    The totals are of accounts of weights, not of whole shares.
    """
    table, rules = desk.table, desk.trading
    regimes_seen: list[Tensor] = []

    def noted(observations: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        logits, hidden = policy(observations, hidden)
        regimes_seen.append(logits.argmax(1))
        return logits, hidden

    play_regime(noted, table, desk.dates, rules)
    regimes = torch.cat(regimes_seen)

    def market_of(count: int) -> Market:
        return RegimeMarket(table, desk.first, desk.last, rules, count=count, episode=None, draws=False)

    def answers_of(count: int, nth: int) -> Answers:
        return at_other_times(regimes, count, seed + nth)

    def switcher_of(following: Following) -> Switcher:
        return lambda _, hidden: (one_hot_logits(following()), hidden)

    return _traders(desk, draws, market_of, answers_of, switcher_of, check_stop)


def _traders(
    desk: Desk,
    draws: int,
    market_of: Callable[[int], Market],
    answers_of: Callable[[int, int], Answers],
    player_of: Callable[[Following], Player],
    check_stop: Callable[[], None],
) -> tuple[PlayResult, tuple[float, ...]]:
    """The median of a few random traders through the dry run, and the totals of `draws` others.

    `market_of(count)` makes a market of `count` accounts, `answers_of(count, nth)` the answers of `count` traders from
    seed `nth`, and `player_of` a policy from the function that gives one trader's next answer.
    """

    def totals_of(count: int, nth: int) -> tuple[float, ...]:
        return net_totals(market_of(count), answers_of(count, nth), desk)

    median, totals = median_and_totals(draws, totals_of, check_stop)
    answers, days = answers_of(1, median), count_up()
    with phase(RANDOM):
        return dry_run(player_of(lambda: answers(next(days))), desk), totals


def of_other_stocks(actions: Tensor, count: int, seed: int) -> Answers:
    """The actions (sessions, n) for `count` accounts, each with a permutation of the stocks of its own."""
    order = torch.rand(count, actions.shape[1], generator=torch.Generator().manual_seed(seed)).argsort(1)
    return lambda day: actions[day].index_select(0, order.flatten()).view(order.shape)


def at_other_times(regimes: Tensor, count: int, seed: int) -> Answers:
    """The regimes (sessions,) for `count` accounts, each shifted in time by an amount drawn for it.

    An account that begins within a HOLD takes the regime held there; before the first regime it holds cash.
    """
    days = len(regimes)
    place = torch.where(regimes != HOLD, torch.arange(days), -1).cummax(0).values
    first_regimes = torch.where(place >= 0, regimes[place.clamp(min=0)], ALL_CASH)
    later = torch.where(place >= 0, regimes, first_regimes)
    shifts = torch.randint(0, days, (count,), generator=torch.Generator().manual_seed(seed))
    return lambda day: (later if day else first_regimes)[(day + shifts) % days]


def net_totals(market: Market, answers: Answers, desk: Desk) -> tuple[float, ...]:
    """Net P&L in USD of all accounts of a market over the desk's sessions."""
    for day in range(desk.last - desk.first + 1):
        market.step(answers(day))
    pnl = market.closing_usd[0] - float(desk.trading.paper.cash_usd)
    return tuple(round(value, 2) for value in pnl.tolist())


def median_and_totals(
    draws: int, totals_of: Callable[[int, int], tuple[float, ...]], check_stop: Callable[[], None]
) -> tuple[int, tuple[float, ...]]:
    """The index of the trader with the median P&L among the first few; and the P&L of `draws` others."""
    with phase("random traders, a few"):
        pnl = [totals_of(1, nth)[0] for nth in counted(range(RANDOM_RUNS), "traders")]
    median = sorted(range(RANDOM_RUNS), key=lambda nth: pnl[nth])[RANDOM_RUNS // 2]
    totals: list[float] = []
    with phase("random traders, all"):
        for go in counted(range(-(-draws // ACCOUNTS)), f"rounds of {ACCOUNTS} traders"):
            check_stop()
            totals.extend(totals_of(ACCOUNTS, RANDOM_RUNS + go))
    return median, tuple(totals[:draws])
