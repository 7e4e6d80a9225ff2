"""Those that a daily policy has to beat on the same sessions, and the same policy under other conditions.

What a desk can decide plays through the dry run, under the gates and in whole shares; what only owns stocks is an
account of fractions at the same opens and costs, paid once. Random traders play on the tensor markets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from math import fsum
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from daemon.core.limits import Trading
from strategies.regime_switcher import EPISODE, HIDDEN, REGIMES, RegimeSwitcher
from training.criteria import COSTS_TWICE, ONE_BAR_LATE
from training.daily.dry_run import Desk, Policy, dry_run, under
from training.daily.play import (
    SESSION_MIN,
    Forgetful,
    LateRebalancer,
    LateSwitcher,
    RandomRebalancer,
    RandomSwitcher,
    Starting,
    always,
    flat,
    play_rebalancer,
    play_regime,
)
from training.daily.rebalancer_market import RebalancerMarket
from training.daily.regime_market import RegimeMarket
from training.daily.table import TICKS, BoolArray, DailyTable, Float64Array, read_table
from training.evaluation import SessionResult
from training.study import Played

ETF_FILE = "etf_daily_2010_2022.parquet"
"""Looked for beside the file of stocks: SPY as a baseline comes from there."""
FLAT, HOLD_ALL, MONTHLY, SPY, RANDOM = "always flat", "buy and hold", "equal weight monthly", "SPY", "random"
ALL_SPY, ALL_QQQ, ALL_IWM, EQUAL_WEIGHT, HOLD = "ALL_SPY", "ALL_QQQ", "ALL_IWM", "EQUAL_WEIGHT", "HOLD"
NO_COSTS, COSTS_THRICE = "no costs", "costs x 3"
SAME_CLOSE = "filled at the close it was decided on"
RESET = f"hidden state reset every {EPISODE} days"
RANDOM_RUNS = 5  # random traders whose median stands in the table of baselines
HALVINGS = 8  # of the span in which the chance to move is looked for
MEASURED = 32  # random traders whose mean turnover is compared with the policy's
ACCOUNTS = 500  # of the tensor market, for random traders played at once
_REGIME = {name: number for number, (name, _) in enumerate(REGIMES)}
_FRACTIONS = "An account of fractions of shares that pays the costs of what it trades once and does not wait."
_DAILY = "asked for before every open, in whole shares through the dry run"
_RANDOM = (
    "chosen so that the traded value comes close to the chosen policy's. The median of a few, through the dry run; "
    "the draws behind the p-value go through the tensor market."
)

REBALANCER_BASELINES: Mapping[str, str] = {
    FLAT: "Never trades.",
    HOLD_ALL: f"Buys all 50 stocks for equal money at the first tested open and never trades again. {_FRACTIONS}",
    MONTHLY: f"Holds all 50 stocks with equal weights, set again at each month's first open. {_FRACTIONS}",
    SPY: f"Buys SPY at the first tested open; left out where no file of ETFs lies beside the bars. {_FRACTIONS}",
    RANDOM: f"Moves each stock with a fixed chance a session, by an action drawn evenly from [-1, 1]; {_RANDOM}",
}
REGIME_BASELINES: Mapping[str, str] = {
    ALL_SPY: f"All money in SPY, {_DAILY}.",
    ALL_QQQ: f"All money in QQQ, {_DAILY}.",
    ALL_IWM: f"All money in IWM, {_DAILY}.",
    EQUAL_WEIGHT: f"A third each in SPY, QQQ and IWM, {_DAILY}.",
    HOLD: "EQUAL_WEIGHT at the first tested open, then HOLD for ever.",
    RANDOM: f"Changes to a random one of the 16 regimes with a fixed chance a session; {_RANDOM}",
}


def _nothing() -> None:
    """The pause of a caller who needs none."""


# --- those that need no policy ------------------------------------------------------------------------------------


def rebalancer_baselines(
    desk: Desk, funds: DailyTable | None, pause: Callable[[], None] = _nothing
) -> dict[str, Played]:
    """`daily_rebalancer`'s baselines but the random one, on the desk's sessions; `funds` holds SPY, None leaves it out.

    `pause` is called between players, and may raise.
    """
    dates = _dates(desk)
    found = {FLAT: dry_run(flat, desk)}
    pause()
    found[HOLD_ALL] = owned(desk.table, dates, desk.trading, lambda day: day == 0)
    months = [date[:7] for date in dates]
    found[MONTHLY] = owned(desk.table, dates, desk.trading, lambda day: day == 0 or months[day] != months[day - 1])
    if funds is not None and set(dates) <= set(funds.dates):
        found[SPY] = owned(funds, dates, desk.trading, lambda day: day == 0, symbols=("SPY",))
    return found


def regime_baselines(desk: Desk, pause: Callable[[], None] = _nothing) -> dict[str, Played]:
    """`regime_switcher`'s baselines but the random one, on the desk's sessions."""
    found: dict[str, Played] = {}
    for name in (ALL_SPY, ALL_QQQ, ALL_IWM, EQUAL_WEIGHT):
        found[name] = dry_run(always(_REGIME[name]), desk)
        pause()
    return found | {HOLD: dry_run(Starting(_REGIME[EQUAL_WEIGHT]), desk)}


def funds_beside(path: Path, cache: Path | None = None) -> DailyTable | None:
    """SPY, QQQ and IWM from the file of ETFs that lies beside a file of stocks; None where there is none."""
    etfs = path.with_name(ETF_FILE)
    return read_table(etfs, RegimeSwitcher(), cache) if etfs.is_file() else None


def owned(
    table: DailyTable,
    dates: Sequence[str],
    trading: Trading,
    buys: Callable[[int], bool],
    symbols: Sequence[str] = (),
) -> Played:
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
    return Played(tuple(results))


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


@dataclass(frozen=True, slots=True)
class Crowd:
    """What many random traders did: the mean of a session's traded value over the equity before it, and their P&L."""

    turnover: float
    totals: tuple[float, ...]  # USD, of each


def random_rebalancers(
    policy: Played, desk: Desk, draws: int, seed: int, pause: Callable[[], None] = _nothing
) -> tuple[Played, tuple[float, ...]]:
    """Random traders with about the traded value of `policy`: one through the dry run, and the totals of `draws`.

    The one is the median of a few by net P&L; totals are net P&L in USD over all of the desk's sessions.
    """
    table, rules, variant = desk.table, desk.trading, variant_of(desk.trading)

    def crowd(count: int, nth: int, moves: float) -> Crowd:
        market = RebalancerMarket(table, desk.first, desk.last, rules, count=count, variant=variant, draws=False)
        trader, unseen = RandomRebalancer(seed + nth, moves), torch.empty(count, 0)
        return _crowd(market, lambda: trader(unseen), desk)

    moves = _moves(policy.sessions, lambda part: crowd(MEASURED, 0, part).turnover)
    pause()
    median = _median(lambda nth: crowd(1, nth, moves))
    totals = _draw(draws, lambda nth: crowd(ACCOUNTS, RANDOM_RUNS + nth, moves), pause)
    return dry_run(RandomRebalancer(seed + median, moves), desk), totals


def random_switchers(
    policy: Played, desk: Desk, draws: int, seed: int, pause: Callable[[], None] = _nothing
) -> tuple[Played, tuple[float, ...]]:
    """As `random_rebalancers`, for regimes; the totals are those of weights, not of whole shares."""
    table, rules = desk.table, desk.trading

    def crowd(count: int, nth: int, moves: float) -> Crowd:
        market = RegimeMarket(table, desk.first, desk.last, rules, count=count, episode=None, draws=False)
        trader, unseen, hidden = RandomSwitcher(seed + nth, moves), torch.empty(count, 0), torch.empty(count, HIDDEN)
        return _crowd(market, lambda: trader(unseen, hidden)[0].argmax(1), desk)

    moves = _moves(policy.sessions, lambda part: crowd(MEASURED, 0, part).turnover)
    pause()
    median = _median(lambda nth: crowd(1, nth, moves))
    totals = _draw(draws, lambda nth: crowd(ACCOUNTS, RANDOM_RUNS + nth, moves), pause)
    return dry_run(RandomSwitcher(seed + median, moves), desk), totals


def _crowd(market: RebalancerMarket | RegimeMarket, act: Callable[[], Tensor], desk: Desk) -> Crowd:
    """Play all accounts of a market over the desk's sessions."""
    days = range(desk.first, desk.last + 1)
    turnover = 0.0
    for _ in days:
        before = market.equity_usd
        market.step(act())
        turnover += float((market.traded_usd / before).mean())
    pnl = market.closing_usd[0] - float(desk.trading.paper.cash_usd)
    return Crowd(turnover / len(days), tuple(round(value, 2) for value in pnl.tolist()))


def _moves(like: Sequence[SessionResult], measure: Callable[[float], float]) -> float:
    """The chance to move with which random traders trade about as much as `like`, found by halving the span."""
    wanted = fsum(r.premium_usd / r.capital_usd for r in like if r.capital_usd > 0.0) / len(like)
    low, high = 0.0, 1.0
    if measure(high) <= wanted:
        return high
    for _ in range(HALVINGS):
        moves = (low + high) / 2
        low, high = (moves, high) if measure(moves) < wanted else (low, moves)
    return (low + high) / 2


def _median(play: Callable[[int], Crowd]) -> int:
    """The number of the random trader, of the first few, whose P&L is in the middle."""
    pnl = [play(nth).totals[0] for nth in range(RANDOM_RUNS)]
    return sorted(range(RANDOM_RUNS), key=lambda nth: pnl[nth])[RANDOM_RUNS // 2]


def _draw(draws: int, play: Callable[[int], Crowd], pause: Callable[[], None]) -> tuple[float, ...]:
    """The P&L of this many random traders, a crowd at a time."""
    totals: list[float] = []
    while len(totals) < draws:
        totals.extend(play(len(totals) // ACCOUNTS).totals)
        pause()
    return tuple(totals[:draws])


# --- the same policy under other conditions -----------------------------------------------------------------------


def scenarios(policy: Policy, desk: Desk, pause: Callable[[], None] = _nothing) -> dict[str, Played]:
    """The same policy without costs, at twice and three times the costs, one session late, and filled where it decided.

    A recurrent policy also with its hidden state zero again every 256 decisions. All but the fill at the close of the
    decision go through the dry run; that one nobody can trade, so it is played on the tensor market.
    """
    recurrent = desk.strategy.spec.recurrent_shape is not None
    found: dict[str, Played] = {}
    for name, times in ((NO_COSTS, 0), (COSTS_TWICE, 2), (COSTS_THRICE, 3)):
        found[name] = dry_run(policy, under(desk, with_costs(desk.trading, times)))
        pause()
    found[ONE_BAR_LATE] = dry_run(LateSwitcher(policy) if recurrent else LateRebalancer(policy), desk)
    pause()
    table, dates, rules = desk.table, _dates(desk), desk.trading
    if recurrent:
        found[SAME_CLOSE] = Played(play_regime(policy, table, dates, rules, fill="same_close"))
        found[RESET] = dry_run(Forgetful(policy, EPISODE), desk)
    else:
        variant = variant_of(rules)
        found[SAME_CLOSE] = Played(play_rebalancer(policy, table, dates, rules, variant=variant, fill="same_close"))
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
