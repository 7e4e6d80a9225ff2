"""Baselines of the daily strategies on the same sessions, and the policy under other conditions.

Baselines that decide as a desk play through the dry run, under its gates and in whole shares. Baselines that only hold
stocks are an account of fractional shares with the same opens and costs, each paid once. Random traders come from a
policy: its decisions for other stocks, or at other times. They play on the tensor markets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count as count_up
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from daemon.core.limits import Trading
from strategies.kit.contract import DailySpec
from strategies.kit.entry import BoolArray, Float64Array
from strategies.regime_switcher import ALL_CASH, EPISODE, EQUAL_WEIGHT, INVERSE_VOLATILITY
from strategies.regime_switcher import HOLD as HELD
from training.data.daily_table import TICKS, DailyTable
from training.desks.daily.markets.rebalancer import RebalancerMarket, variant_of
from training.desks.daily.markets.regime import RegimeMarket
from training.desks.daily.play import (
    MemoryResetSwitcher,
    Rebalancer,
    StartingRegime,
    Switcher,
    always,
    flat,
    one_hot_logits,
    play_rebalancer,
    play_regime,
)
from training.desks.daily.share_accounts import fees_of_values
from training.evaluate.days import SESSION_MIN, Desk, dry_run, under
from training.evaluate.machine import Player
from training.evaluate.players import COSTS, Late, with_costs
from training.evidence.criteria import ONE_BAR_LATE
from training.rl.protocols import Step
from training.study.progress import counted, never_stop, phase
from training.study.study import PlayResult, SessionResult

FLAT, HOLD_ALL, MONTHLY, SPY = "always flat", "buy and hold", "equal weight monthly", "SPY"
HOLD, RANDOM = "HOLD", "random"
RANDOM_RUNS = 5  # random traders whose median is the baseline `random`
ACCOUNTS = 500  # accounts of the tensor market for random traders played at once
SAME_CLOSE = "filled at the close it was decided on"
RESET = f"hidden state reset every {EPISODE} days"
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


def regime_described(spec: DailySpec) -> dict[str, str]:
    """Descriptions of `regime_switcher`'s baselines for these funds: those of its regimes that need no skill."""
    funds = spec.symbols
    listed = ", ".join(funds[:-1]) + f" and {funds[-1]}" if len(funds) > 1 else funds[0]
    parts = {1: "All money in", 3: "A third each in"}.get(len(funds), f"1/{len(funds)} each in")
    descriptions = {f"ALL_{symbol}": f"All money in {symbol}, {_DAILY}." for symbol in funds}
    descriptions |= {EQUAL_WEIGHT: f"{parts} {listed}, {_DAILY}."}
    descriptions |= {INVERSE_VOLATILITY: f"Each fund in proportion to 1 / its volatility over 20 sessions, {_DAILY}."}
    return {name: words for name, words in descriptions.items() if name in spec.actions} | {
        HOLD: "EQUAL_WEIGHT at a fold's first tested open, then HOLD to its end.",
        RANDOM: "Takes the chosen policy's regimes a random number of sessions later (in a circle, so that the last "
        f"sessions' regimes come first): the same portfolios for as long, at other times. {_RANDOM}",
    }


# --- those that need no policy ------------------------------------------------------------------------------------


def rebalancer_baselines(
    desk: Desk, funds: DailyTable | None, check_stop: Callable[[], None] = never_stop
) -> dict[str, PlayResult]:
    """`daily_rebalancer`'s baselines but the random one, on the desk's sessions; `funds` holds SPY, None leaves it out.

    Calls `check_stop` between players; it raises `Stopped`.
    """
    dates = desk.dates
    with phase(FLAT):
        results = {FLAT: dry_run(flat, desk)}
    check_stop()
    results[HOLD_ALL] = owned(desk.table, dates, desk.trading, lambda day: day == 0)
    months = [date[:7] for date in dates]
    results[MONTHLY] = owned(desk.table, dates, desk.trading, lambda day: day == 0 or months[day] != months[day - 1])
    if funds is not None and set(dates) <= set(funds.dates):
        results[SPY] = owned(funds, dates, desk.trading, lambda day: day == 0, symbols=("SPY",))
    return results


def regime_baselines(desk: Desk, check_stop: Callable[[], None] = never_stop) -> dict[str, PlayResult]:
    """`regime_switcher`'s baselines but the random one, on the desk's sessions."""
    results: dict[str, PlayResult] = {}
    spec = desk.strategy.spec
    for name in regime_described(spec):
        if name in {HOLD, RANDOM}:
            continue
        with phase(name):
            results[name] = dry_run(always(spec.actions.index(name)), desk)
        check_stop()
    with phase(HOLD):
        return results | {HOLD: dry_run(StartingRegime(spec.actions.index(EQUAL_WEIGHT)), desk)}


def rebalancer_held(desk: Desk) -> tuple[str, tuple[SessionResult, ...]]:
    """Name and results of the reference account of `daily_rebalancer` over the desk's sessions."""
    return HOLD_ALL, owned(desk.table, desk.dates, desk.trading, lambda day: day == 0).sessions


def regime_held(desk: Desk) -> tuple[str, tuple[SessionResult, ...]]:
    """Name and results of the reference account of `regime_switcher` over the desk's sessions."""
    return EQUAL_WEIGHT, dry_run(always(desk.strategy.spec.actions.index(EQUAL_WEIGHT)), desk).sessions


def owned(
    table: DailyTable,
    dates: Sequence[str],
    trading: Trading,
    buys: Callable[[int], bool],
    symbols: Sequence[str] = (),
) -> PlayResult:
    """An account of fractional shares that rebalances to equal weights at the opens where `buys` is true.

    `symbols` are held; () holds all of the table.

    `buys` is asked for each session by its number from 0. A symbol without a bar is left as it is.
    """
    first, last = table.span(dates)
    places = [table.symbols.index(symbol) for symbol in symbols or table.symbols]
    closes = table.close_ticks[:, places] / TICKS
    opens = np.where(table.present, table.open_ticks, table.close_ticks)[:, places] / TICKS
    cash, rate = float(trading.paper.cash_usd), float(trading.paper.share_cost_rate)
    shares = np.zeros(len(places))
    results: list[SessionResult] = []
    cash_before = cash
    for number, day in enumerate(range(first, last + 1)):
        traded, cost = np.zeros(len(places)), 0.0
        if buys(number):
            traded = _to_equal(cash, shares, opens[day], table.present[day, places], rate)
            fees = fees_of_values(torch.from_numpy(traded[None]), torch.from_numpy(opens[day][None]), trading)
            cost = rate * float(np.abs(traded).sum()) + float(fees)
            cash -= float(traded.sum()) + cost
            shares = shares + traded / np.where(opens[day] > 0.0, opens[day], 1.0)
        worth = float(shares @ closes[day])
        result = SessionResult(
            date=table.sessions[day].date,
            pnl_usd=cash + worth - cash_before,
            trades=int(np.count_nonzero(traded)),
            wins=0,
            fees_usd=cost,
            premium_usd=float(np.abs(traded).sum()),
            held_min=round(SESSION_MIN * min(worth / (cash + worth), 1.0)),
            minutes=SESSION_MIN,
            capital_usd=cash_before,
        )
        results.append(result)
        cash_before = cash + worth
    return PlayResult(tuple(results))


def _to_equal(cash: float, shares: Float64Array, opens: Float64Array, present: BoolArray, rate: float) -> Float64Array:
    """USD to trade of each symbol so that all with a bar have equal values and the cash is used up after costs."""
    values = shares * opens
    tradable = present & (opens > 0.0)
    count = int(tradable.sum())
    if count == 0:
        return np.zeros_like(values)
    pot = cash + float(values[tradable].sum())
    goal = pot / count
    for _ in range(50):  # fixed point: costs reduce the goal, which reduces the costs, by a factor of `rate` each time
        goal = (pot - rate * float(np.abs(goal - values[tradable]).sum())) / count
    return np.where(tradable, goal - values, 0.0)


# --- the same policy under other conditions -----------------------------------------------------------------------


def scenarios(
    policy: Player, desk: Desk, idle: Player, check_stop: Callable[[], None] = never_stop
) -> dict[str, PlayResult]:
    """The same policy without costs, at twice and three times the costs, and one session late, through the dry run.

    `idle` answers where the late policy has no answer yet. Works for every strategy that decides once a session.
    """
    results: dict[str, PlayResult] = {}
    for name, times in COSTS.items():
        with phase(name):
            results[name] = dry_run(policy, under(desk, with_costs(desk.trading, times)))
        check_stop()
    with phase(ONE_BAR_LATE):
        results[ONE_BAR_LATE] = dry_run(Late(policy, idle), desk)
    check_stop()
    return results


def rebalancer_scenarios(
    policy: Player, desk: Desk, check_stop: Callable[[], None] = never_stop
) -> dict[str, PlayResult]:
    """`scenarios`, and one filled at the decision's own close: impossible, so it plays on the tensor market."""
    results, rules = scenarios(policy, desk, flat, check_stop), desk.trading
    close = play_rebalancer(policy, desk.table, desk.dates, rules, variant=variant_of(rules), fill="same_close")
    return {**results, SAME_CLOSE: PlayResult(close)}


def regime_scenarios(policy: Player, desk: Desk, check_stop: Callable[[], None] = never_stop) -> dict[str, PlayResult]:
    """`rebalancer_scenarios`, and one that resets the hidden state to zero every 256 decisions."""
    results = scenarios(policy, desk, always(HELD), check_stop)
    close = play_regime(policy, desk.table, desk.dates, desk.trading, fill="same_close")
    results[SAME_CLOSE] = PlayResult(close)
    with phase(RESET):
        results[RESET] = dry_run(MemoryResetSwitcher(policy, EPISODE), desk)
    return results


Answers = Callable[[int], Tensor]
"""Session number from 0 -> actions (n, stocks), or regimes int64 (n,), of n accounts."""
Following = Callable[[], Tensor]
"""Returns one trader's answer for the next session."""


class SteppedMarket(Protocol):
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

    def market_of(count: int) -> SteppedMarket:
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

    def market_of(count: int) -> SteppedMarket:
        return RegimeMarket(table, desk.first, desk.last, rules, count=count, episode=None, draws=False)

    def answers_of(count: int, nth: int) -> Answers:
        return at_other_times(regimes, count, seed + nth)

    def switcher_of(following: Following) -> Switcher:
        return lambda _, hidden: (one_hot_logits(following()), hidden)

    return _traders(desk, draws, market_of, answers_of, switcher_of, check_stop)


def _traders(
    desk: Desk,
    draws: int,
    market_of: Callable[[int], SteppedMarket],
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
    place = torch.where(regimes != HELD, torch.arange(days), -1).cummax(0).values
    first_regimes = torch.where(place >= 0, regimes[place.clamp(min=0)], ALL_CASH)
    later = torch.where(place >= 0, regimes, first_regimes)
    shifts = torch.randint(0, days, (count,), generator=torch.Generator().manual_seed(seed))
    return lambda day: (later if day else first_regimes)[(day + shifts) % days]


def net_totals(market: SteppedMarket, answers: Answers, desk: Desk) -> tuple[float, ...]:
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
