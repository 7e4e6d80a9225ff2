"""Baselines of the daily strategies on the same sessions, and the policy under other conditions.

Baselines that decide as a desk play through the dry run, under its gates and in whole shares. Baselines that only hold
stocks are an account of fractional shares with the same opens and costs, each paid once. Random traders play on the
tensor markets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from daemon.core.limits import Trading
from strategies.kit.contract import DailySpec
from strategies.kit.entry import BoolArray, Float64Array
from strategies.regime_switcher import EPISODE, EQUAL_WEIGHT, INVERSE_VOLATILITY
from strategies.regime_switcher import HOLD as HELD
from training.data.daily_table import TICKS, DailyTable
from training.desks.daily.markets.rebalancer import variant_of
from training.desks.daily.play import (
    MemoryResetSwitcher,
    StartingRegime,
    always,
    flat,
    play_rebalancer,
    play_regime,
)
from training.desks.daily.random_traders import RANDOM
from training.desks.daily.share_accounts import fees_of_values
from training.evaluate.days import SESSION_MIN, Desk, dry_run, under
from training.evaluate.machine import Player
from training.evaluate.players import COSTS, Late, with_costs
from training.evidence.criteria import ONE_BAR_LATE
from training.study.progress import never_stop, phase
from training.study.study import PlayResult, SessionResult

FLAT, HOLD_ALL, MONTHLY, SPY = "always flat", "buy and hold", "equal weight monthly", "SPY"
HOLD = "HOLD"
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
