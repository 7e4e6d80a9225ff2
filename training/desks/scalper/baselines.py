"""Comparisons for a policy of `option_scalper`: baselines, random traders, and itself under worse conditions.

A report's figures come from the dry run with all gates, except those of buy and hold, which holds shares instead of
options. Validation and the random traders' totals come from the tensor market, with the live rule (temperature, argmax,
confidence threshold) from logits to actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from daemon.core.limits import Trading
from strategies.option_scalper import BUY_CALL, BUY_PUT, EXIT, HOLD, SPEC
from training.desks.scalper.data import COUNT, Data, always_hold
from training.desks.scalper.market import Market
from training.evaluate.bars import BarDesk, SessionStart, under
from training.evaluate.machine import Player
from training.evaluate.players import COSTS, Late, RandomTrader, median_of, one_hot, random_like, with_costs
from training.evidence.criteria import ONE_BAR_LATE
from training.study.progress import counted, phase
from training.study.study import PlayResult, SessionResult

SIDE_COLUMN = SPEC.features.index("position_side")
FAST_COLUMN, SLOW_COLUMN = SPEC.features.index("ema9_distance"), SPEC.features.index("ema21_distance")


def live_actions(logits: Tensor, flat: Tensor, confidence_min: float) -> Tensor:
    """Actions of the live path, int64 (n,): argmax at the spec's temperature; an entry below the threshold holds.

    `flat` bool (n,) is true where nothing is held: only there a buy is an entry (elsewhere it holds or leaves).
    """
    confidence, action = torch.softmax(logits.double() / SPEC.temperature, dim=1).max(dim=1)
    unsure = flat & ((action == BUY_CALL) | (action == BUY_PUT)) & (confidence < confidence_min)
    return torch.where(unsure, HOLD, action)


@torch.no_grad()
def play(market: Market, player: Player, dates: Sequence[str], confidence_min: float) -> tuple[SessionResult, ...]:
    """Play one episode in each environment of a market without auto-reset, the i-th on session i mod dates."""
    count = market.row.shape[0]
    market.begin(torch.arange(count) % len(dates))
    first = market.row.clone()
    while bool(market.active.any()):
        logits = player(market.observe())
        market.step(live_actions(logits, market.account.contracts == 0, confidence_min))
    a = market.account
    columns = (market.net_pnl_usd, a.closed, a.wins, a.fees / 100.0, a.premium / 100.0, a.held_min, market.row - first)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return tuple(SessionResult(dates[index % len(dates)], *row) for index, row in enumerate(rows))


def random_trader(enter: float, leave: float, seed: int) -> Player:
    """A trader that enters a random side with probability `enter` a minute while flat, and leaves with `leave`."""
    trader = RandomTrader(enter, leave, seed, entries=(BUY_CALL, BUY_PUT), leaves_by=EXIT, holds_by=HOLD)
    return lambda observations: one_hot(trader.actions(observations[:, -1, SIDE_COLUMN] != 0.0), COUNT)


def moving_averages(observations: Tensor) -> Tensor:
    """The simple rule: calls while the 9-bar average is above the 21-bar one, puts while it is below.

    The features are close / average - 1, so the smaller one belongs to the larger average. A buy of the other side
    closes the position. Float32 (n, actions), one-hot, of observations (n, bars, features).
    """
    above = observations[:, -1, FAST_COLUMN] < observations[:, -1, SLOW_COLUMN]
    action = torch.where(above, BUY_CALL, BUY_PUT)
    return one_hot(action, COUNT)


RANDOM_DRAWS = 1000
ENVIRONMENTS = 2000  # accounts of the tensor market for random traders played at once
RANDOM_DESKS = 5  # random traders through the dry run, for the table of baselines

FLAT, HOLD_SHARES, RANDOM, RULE = "always flat", "buy and hold", "random", "simple rule"
DESCRIPTIONS = {
    FLAT: "Never trades.",
    HOLD_SHARES: (
        "Owns shares of the underlying worth the capital from the first tested minute on, through the nights as well; "
        "the worth is restored at every session's close, so returns add up as the policy's do. One cent a share for "
        "the purchase."
    ),
    RANDOM: (
        "Enters a random side with a fixed chance a minute and leaves with another, both chosen so that trades and "
        "holding times come close to the chosen policy's. The median of a few through the dry run; the draws behind "
        "the p-value go through the tensor market, which agrees with it to the cent for whole orders."
    ),
    RULE: (
        "Holds a call while the 9-bar average of the close is above the 21-bar one and a put while it is below, with "
        "the same gates, stops and sizes as the policy."
    ),
}


def buy_and_hold(data: Data, dates: Sequence[str], capital_usd: float) -> PlayResult:
    """Shares for `capital_usd` bought at the open of the first session's 21st bar and held over all of `dates`."""
    history = data.history
    results: list[SessionResult] = []
    close_before = 0.0
    for index, day in enumerate(data.on(dates)):
        close = float(history.close[day.end - 1])
        paid = float(history.open[day.first + 20])
        start = paid + 0.01 if index == 0 else close_before
        pnl = capital_usd * (close / start - 1.0)
        minutes = day.end - day.first
        held_min = minutes - 20 if index == 0 else minutes
        is_last = index == len(dates) - 1
        results.append(
            SessionResult(
                date=day.session.date,
                pnl_usd=pnl,
                trades=int(is_last),
                wins=0,
                fees_usd=0.0,
                premium_usd=capital_usd if index == 0 else 0.0,
                held_min=held_min,
                minutes=minutes,
            )
        )
        close_before = close
    won = int(sum(result.pnl_usd for result in results) > 0)
    results[-1] = replace(results[-1], wins=won)
    return PlayResult(tuple(results))


def held_through(data: Data, dates: Sequence[str], capital_usd: float) -> tuple[SessionResult, ...]:
    """The same shares on one account through all sessions."""
    results, equity = [], capital_usd
    for session in buy_and_hold(data, dates, capital_usd).sessions:
        results.append(replace(session, pnl_usd=equity * session.pnl_usd / capital_usd, capital_usd=equity))
        equity += results[-1].pnl_usd
    return tuple(results)


def trader_like(policy: PlayResult, data: Data, dates: Sequence[str], trading: Trading, seed: int) -> Player:
    """A random trader with about the trades and the holding times of `policy` on these sessions."""
    return random_like(
        policy.sessions,
        lambda enter, leave: random_trader(enter, leave, seed),
        lambda trader: _market_play(trader, data, dates, trading),
    )


def random_totals(trader: Player, data: Data, dates: Sequence[str], trading: Trading, draws: int) -> list[float]:
    """Net P&L in USD over all of `dates` of each of `draws` random traders, through the tensor market."""
    totals: list[float] = []
    at_once = _at_once(dates)
    for _ in counted(range(-(-draws // at_once)), f"rounds of {at_once} traders"):
        results = _market_play(trader, data, dates, trading)
        pnl = torch.tensor([result.pnl_usd for result in results], dtype=torch.float64).reshape(-1, len(dates))
        totals.extend(round(total, 2) for total in pnl.sum(dim=1).tolist())
    return totals[:draws]


def random_on_desk(trader: Player, desk: BarDesk, ready: Sequence[SessionStart], trading: Trading) -> PlayResult:
    """The median, by net P&L, of a few random traders through the dry run."""
    results = [desk.play(trader, ready, trading) for _ in counted(range(RANDOM_DESKS), "traders")]
    return results[median_of([result.sessions for result in results])]


def standard(
    desk: BarDesk, ready: Sequence[SessionStart], data: Data, dates: Sequence[str], trading: Trading
) -> dict[str, PlayResult]:
    """The baselines that need no policy."""
    with phase(FLAT):
        results = {FLAT: desk.play(always_hold, ready, trading)}
    results[HOLD_SHARES] = buy_and_hold(data, dates, float(trading.paper.cash_usd))
    with phase(RULE):
        results[RULE] = desk.play(moving_averages, ready, trading)
    return results


def scenarios(player: Player, desk: BarDesk, ready: Sequence[SessionStart], trading: Trading) -> dict[str, PlayResult]:
    """The same player without fees and half-spreads, at twice and three times the costs, and one bar late.

    Prices are whole cents in all scenarios, so up to a cent of spread remains even without costs. `ready` are the desks
    with the configured costs.
    """
    results = {}
    for name, times in COSTS.items():
        changed_trading = with_costs(trading, times)
        with phase(name):
            results[name] = desk.play(player, under(ready, changed_trading, times), changed_trading)
    with phase(ONE_BAR_LATE):
        results[ONE_BAR_LATE] = desk.play_each(lambda: Late(player, always_hold), ready, trading)
    return results


def elsewhere(
    player: Player, desk: BarDesk, data: Data, dates: Sequence[str], trading: Trading
) -> dict[str, PlayResult]:
    """The same player on the data's other markets."""
    results = {}
    for name, venue in data.other_venues.items():
        with phase(name):
            other_desk = replace(desk, venue=venue)
            results[name] = other_desk.play(player, other_desk.before(dates, trading), trading)
    return results


def _market_play(trader: Player, data: Data, dates: Sequence[str], trading: Trading) -> tuple[SessionResult, ...]:
    days = data.on(dates)
    market = data.market(days, trading, count=_at_once(dates) * len(days), auto_reset=False)
    return play(market, trader, dates, trading.risk.confidence_min)


def _at_once(dates: Sequence[str]) -> int:
    """How many random traders the tensor market plays together."""
    return -(-ENVIRONMENTS // len(dates))
