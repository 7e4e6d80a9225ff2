"""Baselines of `option_scalper` on the same test sessions, and the policy under worse conditions.

All but buy and hold play through the dry-run engine with all gates; buy and hold owns shares, not options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import torch

from daemon.core.limits import Trading
from daemon.core.paper.fees import FEES
from strategies.kit.contract import AnyStrategy
from training.desks.minutes import Desk, under
from training.desks.random_like import random_like
from training.desks.scalper.data import Data
from training.desks.scalper.dry_run import desks, dry_run
from training.desks.scalper.play import (
    DelayedPlayer,
    Player,
    RandomTrader,
    always_hold,
    moving_averages,
    play,
)
from training.study.evaluation import SessionResult
from training.study.progress import counted, phase
from training.study.study import PlayResult

RANDOM_DRAWS = 1000
ENVIRONMENTS = 2000  # of the tensor market, for random traders played at once
RANDOM_DESKS = 5  # of them through the dry run, for the table of baselines

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
    before = 0.0
    for index, day in enumerate(data.on(dates)):
        close = float(history.close[day.end - 1])
        paid = float(history.open[day.first + 20])
        start = paid + 0.01 if index == 0 else before
        pnl = capital_usd * (close / start - 1.0)
        minutes = day.end - day.first
        held = minutes - 20 if index == 0 else minutes
        last = index == len(dates) - 1
        results.append(
            SessionResult(
                date=day.session.date,
                pnl_usd=pnl,
                trades=int(last),
                wins=0,
                fees_usd=0.0,
                premium_usd=capital_usd if index == 0 else 0.0,
                held_min=held,
                minutes=minutes,
            )
        )
        before = close
    won = int(sum(result.pnl_usd for result in results) > 0)
    results[-1] = replace(results[-1], wins=won)
    return PlayResult(tuple(results))


def held_through(data: Data, dates: Sequence[str], capital_usd: float) -> tuple[SessionResult, ...]:
    """The same shares on one account, whose worth is never restored."""
    found, equity = [], capital_usd
    for session in buy_and_hold(data, dates, capital_usd).sessions:
        found.append(replace(session, pnl_usd=equity * session.pnl_usd / capital_usd, capital_usd=equity))
        equity += found[-1].pnl_usd
    return tuple(found)


def random_trader(policy: PlayResult, data: Data, dates: Sequence[str], trading: Trading, seed: int) -> RandomTrader:
    """A random trader with about the trades and the holding times of `policy` on these sessions."""
    return random_like(
        policy.sessions,
        lambda enter, leave: RandomTrader(enter, leave, seed),
        lambda trader: _market_play(trader, data, dates, trading),
    )


def random_totals(trader: RandomTrader, data: Data, dates: Sequence[str], trading: Trading, draws: int) -> list[float]:
    """Net P&L in USD over all of `dates` of each of `draws` random traders, through the tensor market."""
    totals: list[float] = []
    at_once = _at_once(dates)
    for _ in counted(range(-(-draws // at_once)), f"rounds of {at_once} traders"):
        results = _market_play(trader, data, dates, trading)
        pnl = torch.tensor([result.pnl_usd for result in results], dtype=torch.float64).reshape(-1, len(dates))
        totals.extend(round(total, 2) for total in pnl.sum(dim=1).tolist())
    return totals[:draws]


def random_on_desk(trader: RandomTrader, ready: Sequence[Desk], machine: AnyStrategy, trading: Trading) -> PlayResult:
    """The median, by net P&L, of a few random traders through the dry run."""
    found = [dry_run(trader, ready, machine, trading) for _ in counted(range(RANDOM_DESKS), "traders")]
    return sorted(found, key=lambda played: sum(result.pnl_usd for result in played.sessions))[len(found) // 2]


def standard(
    ready: Sequence[Desk], data: Data, dates: Sequence[str], machine: AnyStrategy, trading: Trading
) -> dict[str, PlayResult]:
    """The baselines that need no policy."""
    with phase(FLAT):
        found = {FLAT: dry_run(always_hold, ready, machine, trading)}
    found[HOLD_SHARES] = buy_and_hold(data, dates, float(trading.paper.cash_usd))
    with phase(RULE):
        found[RULE] = dry_run(moving_averages, ready, machine, trading)
    return found


def with_costs(trading: Trading, times: int) -> Trading:
    """The same desk where spreads and all fees are `times` what they are."""
    paper, factor = trading.paper, Decimal(times)
    return replace(
        trading,
        paper=replace(
            paper,
            **{key: getattr(paper, key) * factor for key in FEES},
            half_spread=paper.half_spread * times,
            half_spread_min_usd=paper.half_spread_min_usd * times,
        ),
    )


def scenarios(player: Player, ready: Sequence[Desk], machine: AnyStrategy, trading: Trading) -> dict[str, PlayResult]:
    """The same player without fees and half-spreads, at twice and three times the costs, and one bar late.

    Prices are whole cents in all of them, so up to a cent of spread remains without costs. `ready` are the desks at the
    costs as they are.
    """
    found = {}
    for name, times in (("no costs", 0), ("costs x 2", 2), ("costs x 3", 3)):
        other = with_costs(trading, times)
        with phase(name):
            found[name] = dry_run(player, under(ready, other, times), machine, other)
    with phase("one bar late"):
        found["one bar late"] = dry_run(DelayedPlayer(player), ready, machine, trading)
    return found


def elsewhere(
    player: Player, data: Data, dates: Sequence[str], machine: AnyStrategy, trading: Trading
) -> dict[str, PlayResult]:
    """The same player on the data's other markets."""
    found = {}
    for name, venue in data.other_venues.items():
        with phase(name):
            found[name] = dry_run(player, desks(data.source, machine, trading, dates, venue), machine, trading)
    return found


def _market_play(trader: RandomTrader, data: Data, dates: Sequence[str], trading: Trading) -> tuple[SessionResult, ...]:
    days = data.on(dates)
    market = data.market(days, trading, count=_at_once(dates) * len(days), auto_reset=False)
    return play(market, trader, dates, trading.risk.confidence_min)


def _at_once(dates: Sequence[str]) -> int:
    """How many random traders the tensor market plays together."""
    return -(-ENVIRONMENTS // len(dates))
