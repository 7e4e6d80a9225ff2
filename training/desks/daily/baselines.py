"""Baselines of the daily strategies on the same sessions, and the policy under other conditions.

What a desk can decide plays through the dry run, under the gates and in whole shares; what only owns stocks is an
account of fractions at the same opens and costs, paid once. Random traders play on the tensor markets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import count as count_up
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from daemon.core.limits import Trading
from strategies.kit.entry import BoolArray, Float64Array
from strategies.regime_switcher import EPISODE, REGIMES
from training.desks.daily.dry_run import Desk, Policy, dry_run, under
from training.desks.daily.play import (
    SESSION_MIN,
    DelayedRebalancer,
    DelayedSwitcher,
    MemoryResetSwitcher,
    Rebalancer,
    StartingRegime,
    Switcher,
    always,
    certain,
    flat,
    play_rebalancer,
    play_regime,
)
from training.desks.daily.rebalancer_market import RebalancerMarket
from training.desks.daily.regime_market import RegimeMarket
from training.desks.daily.table import TICKS, DailyTable
from training.evidence.criteria import COSTS_TWICE, ONE_BAR_LATE
from training.rl.protocols import Step
from training.study.evaluation import SessionResult
from training.study.progress import counted, phase
from training.study.study import PlayResult

FLAT, HOLD_ALL, MONTHLY, SPY, RANDOM = "always flat", "buy and hold", "equal weight monthly", "SPY", "random"
ALL_SPY, ALL_QQQ, ALL_IWM, EQUAL_WEIGHT, HOLD = "ALL_SPY", "ALL_QQQ", "ALL_IWM", "EQUAL_WEIGHT", "HOLD"
NO_COSTS, COSTS_THRICE = "no costs", "costs x 3"
SAME_CLOSE = "filled at the close it was decided on"
RESET = f"hidden state reset every {EPISODE} days"
RANDOM_RUNS = 5  # random traders whose median stands in the table of baselines
ACCOUNTS = 500  # of the tensor market, for random traders played at once
_REGIME = {name: number for number, (name, _) in enumerate(REGIMES)}
_FRACTIONS = "An account of fractions of shares that pays the costs of what it trades once and does not wait."
_DAILY = "asked for before every open, in whole shares through the dry run"
_RANDOM = "The median of a few, through the dry run; the draws behind the p-value go through the tensor market."

REBALANCER_BASELINES: Mapping[str, str] = {
    FLAT: "Never trades.",
    HOLD_ALL: f"Buys all 50 stocks for equal money at a fold's first tested open and keeps them. {_FRACTIONS}",
    MONTHLY: f"Holds all 50 stocks with equal weights, set again at each month's first open. {_FRACTIONS}",
    SPY: f"Buys SPY at a fold's first tested open; left out without a file of ETFs next to the bars. {_FRACTIONS}",
    RANDOM: "Wants as much as the chosen policy at the same times, but of other stocks: its actions with the stocks "
    f"dealt out anew, once for all sessions. {_RANDOM}",
}
REGIME_BASELINES: Mapping[str, str] = {
    ALL_SPY: f"All money in SPY, {_DAILY}.",
    ALL_QQQ: f"All money in QQQ, {_DAILY}.",
    ALL_IWM: f"All money in IWM, {_DAILY}.",
    EQUAL_WEIGHT: f"A third each in SPY, QQQ and IWM, {_DAILY}.",
    HOLD: "EQUAL_WEIGHT at a fold's first tested open, then HOLD to its end.",
    RANDOM: "Takes the chosen policy's regimes a random number of sessions later (in a circle, so that the last "
    f"sessions' regimes come first): the same portfolios for as long, at other times. {_RANDOM}",
}


def _never_stop() -> None:
    """The pause of a caller who needs none."""


# --- those that need no policy ------------------------------------------------------------------------------------


def rebalancer_baselines(
    desk: Desk, funds: DailyTable | None, check_stop: Callable[[], None] = _never_stop
) -> dict[str, PlayResult]:
    """`daily_rebalancer`'s baselines but the random one, on the desk's sessions; `funds` holds SPY, None leaves it out.

    `pause` is called between players, and may raise.
    """
    dates = _dates(desk)
    with phase(FLAT):
        found = {FLAT: dry_run(flat, desk)}
    check_stop()
    found[HOLD_ALL] = owned(desk.table, dates, desk.trading, lambda day: day == 0)
    months = [date[:7] for date in dates]
    found[MONTHLY] = owned(desk.table, dates, desk.trading, lambda day: day == 0 or months[day] != months[day - 1])
    if funds is not None and set(dates) <= set(funds.dates):
        found[SPY] = owned(funds, dates, desk.trading, lambda day: day == 0, symbols=("SPY",))
    return found


def regime_baselines(desk: Desk, check_stop: Callable[[], None] = _never_stop) -> dict[str, PlayResult]:
    """`regime_switcher`'s baselines but the random one, on the desk's sessions."""
    found: dict[str, PlayResult] = {}
    for name in (ALL_SPY, ALL_QQQ, ALL_IWM, EQUAL_WEIGHT):
        with phase(name):
            found[name] = dry_run(always(_REGIME[name]), desk)
        check_stop()
    with phase(HOLD):
        return found | {HOLD: dry_run(StartingRegime(_REGIME[EQUAL_WEIGHT]), desk)}


def owned(
    table: DailyTable,
    dates: Sequence[str],
    trading: Trading,
    buys: Callable[[int], bool],
    symbols: Sequence[str] = (),
) -> PlayResult:
    """An account of fractions that sets equal weights of `symbols` (all when empty) at the opens where `buys` is true.

    `buys` is asked for each session by its number from 0. A symbol without a bar is left as it is.
    """
    first, last = table.span(dates)
    places = [table.symbols.index(symbol) for symbol in symbols or table.symbols]
    closes = table.close_ticks[:, places] / TICKS
    opens = np.where(table.present, table.open_ticks, table.close_ticks)[:, places] / TICKS
    cash, rate = float(trading.paper.cash_usd), float(trading.paper.share_cost_rate)
    held = np.zeros(len(places))
    results: list[SessionResult] = []
    before = cash
    for number, day in enumerate(range(first, last + 1)):
        traded = np.zeros(len(places))
        if buys(number):
            traded = _to_equal(cash, held, opens[day], table.present[day, places], rate)
            cost = rate * float(np.abs(traded).sum())
            cash -= float(traded.sum()) + cost
            held = held + traded / np.where(opens[day] > 0.0, opens[day], 1.0)
        worth = float(held @ closes[day])
        result = SessionResult(
            date=table.sessions[day].date,
            pnl_usd=cash + worth - before,
            trades=int(np.count_nonzero(traded)),
            wins=0,
            fees_usd=rate * float(np.abs(traded).sum()),
            premium_usd=float(np.abs(traded).sum()),
            held_min=round(SESSION_MIN * min(worth / (cash + worth), 1.0)),
            minutes=SESSION_MIN,
            capital_usd=before,
        )
        results.append(result)
        before = cash + worth
    return PlayResult(tuple(results))


def _to_equal(cash: float, held: Float64Array, opens: Float64Array, there: BoolArray, rate: float) -> Float64Array:
    """USD to trade of each symbol, so that those with a bar have equal values and nothing is left after the costs."""
    values = held * opens
    tradable = there & (opens > 0.0)
    count = int(tradable.sum())
    if count == 0:
        return np.zeros_like(values)
    pot = cash + float(values[tradable].sum())
    goal = pot / count
    for _ in range(50):  # the costs lessen the goal, which lessens the costs: by a factor of `rate` each time
        goal = (pot - rate * float(np.abs(goal - values[tradable]).sum())) / count
    return np.where(tradable, goal - values, 0.0)


# --- random traders -----------------------------------------------------------------------------------------------


class Market(Protocol):
    """Accounts that can be stepped together."""

    @property
    def closing_usd(self) -> tuple[Tensor, Tensor]: ...

    def step(self, actions: Tensor) -> Step: ...


Answers = Callable[[int], Tensor]
"""Of each session by its number from 0: actions (n, 50), or regimes int64 (n,), of n accounts."""


def random_rebalancers(
    policy: Rebalancer, desk: Desk, draws: int, seed: int, check_stop: Callable[[], None] = _never_stop
) -> tuple[PlayResult, tuple[float, ...]]:
    """Random traders with the decisions of `policy`: one through the dry run, and the totals of `draws`.

    Each gives the actions of every session to the stocks in an order of its own: as much is wanted at the same times,
    but of other stocks. So they separate choice from luck, and being invested alone earns no credit. The one
    is the median of a few by net P&L; totals are net P&L in USD over all of the desk's sessions.
    """
    table, rules, variant = desk.table, desk.trading, variant_of(desk.trading)
    seen: list[Tensor] = []

    def noted(observations: Tensor) -> Tensor:
        seen.append(policy(observations).clamp(-1.0, 1.0))
        return seen[-1]

    play_rebalancer(noted, table, _dates(desk), rules, variant=variant)
    actions = torch.cat(seen)

    def totals_of(count: int, nth: int) -> tuple[float, ...]:
        market = RebalancerMarket(table, desk.first, desk.last, rules, count=count, variant=variant, draws=False)
        return net_totals(market, of_other_stocks(actions, count, seed + nth), desk)

    median, totals = median_and_totals(draws, totals_of, check_stop)
    answers = of_other_stocks(actions, 1, seed + median)
    days = count_up()
    with phase(RANDOM):
        return dry_run(lambda _: answers(next(days)), desk), totals


def random_switchers(
    policy: Switcher, desk: Desk, draws: int, seed: int, check_stop: Callable[[], None] = _never_stop
) -> tuple[PlayResult, tuple[float, ...]]:
    """As `random_rebalancers`, for regimes, which are shifted in time alone: the same portfolios for as long.

    The totals are those of weights, not of whole shares.
    """
    table, rules = desk.table, desk.trading
    seen: list[Tensor] = []

    def noted(observations: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        logits, hidden = policy(observations, hidden)
        seen.append(logits.argmax(1))
        return logits, hidden

    play_regime(noted, table, _dates(desk), rules)
    regimes = torch.cat(seen)

    def totals_of(count: int, nth: int) -> tuple[float, ...]:
        market = RegimeMarket(table, desk.first, desk.last, rules, count=count, episode=None, draws=False)
        return net_totals(market, at_other_times(regimes, count, seed + nth), desk)

    median, totals = median_and_totals(draws, totals_of, check_stop)
    answers = at_other_times(regimes, 1, seed + median)
    days = count_up()
    with phase(RANDOM):
        return dry_run(lambda _, hidden: (certain(answers(next(days))), hidden), desk), totals


def of_other_stocks(actions: Tensor, count: int, seed: int) -> Answers:
    """The actions (sessions, n) of `count` accounts, each with the stocks in an order of its own."""
    order = torch.rand(count, actions.shape[1], generator=torch.Generator().manual_seed(seed)).argsort(1)
    return lambda day: actions[day].index_select(0, order.flatten()).view(order.shape)


def at_other_times(regimes: Tensor, count: int, seed: int) -> Answers:
    """The regimes (sessions,) of `count` accounts, each by a shift in time of its own.

    Who begins amid a HOLD takes what is held there; what is held before the first regime is cash.
    """
    days = len(regimes)
    place = torch.where(regimes != _REGIME[HOLD], torch.arange(days), -1).cummax(0).values
    held = torch.where(place >= 0, regimes[place.clamp(min=0)], _REGIME["ALL_CASH"])
    later = torch.where(place >= 0, regimes, held)
    shifts = torch.randint(0, days, (count,), generator=torch.Generator().manual_seed(seed))
    return lambda day: (later if day else held)[(day + shifts) % days]


def net_totals(market: Market, answers: Answers, desk: Desk) -> tuple[float, ...]:
    """Net P&L in USD of all accounts of a market over the desk's sessions."""
    for day in range(desk.last - desk.first + 1):
        market.step(answers(day))
    pnl = market.closing_usd[0] - float(desk.trading.paper.cash_usd)
    return tuple(round(value, 2) for value in pnl.tolist())


def median_and_totals(
    draws: int, totals_of: Callable[[int, int], tuple[float, ...]], check_stop: Callable[[], None]
) -> tuple[int, tuple[float, ...]]:
    """The number of the random trader, of the first few, whose P&L is in the middle; the P&L of `draws` others."""
    with phase("random traders, a few"):
        pnl = [totals_of(1, nth)[0] for nth in counted(range(RANDOM_RUNS), "traders")]
    median = sorted(range(RANDOM_RUNS), key=lambda nth: pnl[nth])[RANDOM_RUNS // 2]
    totals: list[float] = []
    with phase("random traders, all"):
        for go in counted(range(-(-draws // ACCOUNTS)), f"rounds of {ACCOUNTS} traders"):
            check_stop()
            totals.extend(totals_of(ACCOUNTS, RANDOM_RUNS + go))
    return median, tuple(totals[:draws])


# --- the same policy under other conditions -----------------------------------------------------------------------


def scenarios(policy: Policy, desk: Desk, check_stop: Callable[[], None] = _never_stop) -> dict[str, PlayResult]:
    """The same policy without costs, at twice and three times the costs, one session late, and filled where it decided.

    A recurrent policy also with its hidden state zero again every 256 decisions. All but the fill at the close of the
    decision go through the dry run; that one cannot be traded, so it is played on the tensor market.
    """
    recurrent = desk.strategy.spec.recurrent_shape is not None
    found: dict[str, PlayResult] = {}
    for name, times in ((NO_COSTS, 0), (COSTS_TWICE, 2), (COSTS_THRICE, 3)):
        with phase(name):
            found[name] = dry_run(policy, under(desk, with_costs(desk.trading, times)))
        check_stop()
    with phase(ONE_BAR_LATE):
        found[ONE_BAR_LATE] = dry_run(DelayedSwitcher(policy) if recurrent else DelayedRebalancer(policy), desk)
    check_stop()
    table, dates, rules = desk.table, _dates(desk), desk.trading
    if recurrent:
        found[SAME_CLOSE] = PlayResult(play_regime(policy, table, dates, rules, fill="same_close"))
        with phase(RESET):
            found[RESET] = dry_run(MemoryResetSwitcher(policy, EPISODE), desk)
    else:
        variant = variant_of(rules)
        found[SAME_CLOSE] = PlayResult(play_rebalancer(policy, table, dates, rules, variant=variant, fill="same_close"))
    return found


def with_costs(trading: Trading, times: int) -> Trading:
    """The same desk where the costs of shares, and what waiting buys pay more, are `times` what they are."""
    paper, factor = trading.paper, Decimal(times)
    costs, wait = paper.share_cost_rate * factor, paper.share_wait_rate * factor
    return replace(trading, paper=replace(paper, share_cost_rate=costs, share_wait_rate=wait))


def variant_of(trading: Trading) -> str:
    """Which preset of `daily_rebalancer` the rules are of: "notional" where a unit of action is dollars."""
    return "notional" if trading.basket.notional_per_unit_usd else "shares"


def _dates(desk: Desk) -> tuple[str, ...]:
    return desk.table.dates[desk.first : desk.last + 1]
