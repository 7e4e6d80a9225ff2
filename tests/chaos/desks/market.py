"""The market of a campaign of several desks: made-up daily prices of all they trade, and what befalls its companies.

Drawn from the campaign's seed: splits, dividends, halted days, days without a print, one share that is delisted.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache

from simulator.prices.corporate_actions import Dividend, Split
from simulator.prices.day_prices import DailyPrices
from simulator.prices.market import Market
from simulator.prices.tape import calendar_sessions
from strategies import daily_rebalancer, forecast_ensemble, regime_switcher
from strategies.kit.contract import Session
from strategies.kit.quantity import PLACES
from tests.chaos.desks.plan import DECIDE_MIN
from tests.chaos.session import MINUTE_NS

FIRST, LAST = "2024-11-01", "2024-11-29"  # twenty sessions: clocks change on 3 November, the last one is a half day
HISTORY_FROM = "2023-01-03"  # sessions enough for every strategy to decide, not for forecast_ensemble's whole W
RATIOS = ("2", "3", "10", "1.5", "0.7")  # of splits, some of which leave fractions, and pay them out
EVENTS = 5  # of each kind in twenty sessions, at most one of them of a fund


@dataclass(frozen=True, slots=True)
class Happening:
    """What befalls one share on one date: `split`, `dividend`, `halted`, `no print` or `delisted`."""

    kind: str
    symbol: str
    date: str


def happenings(seed: int, dates: Sequence[str]) -> list[Happening]:
    """What befalls whom, in the order of dates; the first date is quiet. No share meets two things."""
    chance = random.Random(f"companies {seed}")
    stocks, funds = list(daily_rebalancer.SYMBOLS), [s for s in regime_switcher.SYMBOLS if s != "SPY"]
    chance.shuffle(stocks)
    later, result = list(dates[1:]) or list(dates), []
    many = max(1, min(EVENTS, len(later) // 3))
    for kind in ("split", "dividend", "halted", "no print"):
        result += [Happening(kind, stocks.pop(), chance.choice(later)) for _ in range(many)]
    result.append(Happening("delisted", stocks.pop(), chance.choice(later)))
    fund = chance.choice(funds)
    result.append(Happening("split", fund, chance.choice(later)))
    return sorted(result, key=lambda it: (it.date, it.symbol))


def market(seed: int, events: Sequence[Happening]) -> Market:
    """The campaign's market and its history; of a day without a print no bar is left, though orders are taken."""

    def of(kind: str) -> list[Happening]:
        return [it for it in events if it.kind == kind]

    chance = random.Random(f"ratios {seed}")
    sessions = calendar_sessions(HISTORY_FROM, LAST)
    days = DailyPrices.made_up(
        sorted({*daily_rebalancer.SYMBOLS, *regime_switcher.SYMBOLS, *forecast_ensemble.SYMBOLS}),
        sessions,
        last=LAST,
        seed=seed,
        closes={"SPY": (FIRST, 480.0), "QQQ": (FIRST, 400.0), "IWM": (FIRST, 200.0)},
        splits=[Split(it.symbol, it.date, Decimal(chance.choice(RATIOS)), chance.random() < 0.3) for it in of("split")],
        dividends=[Dividend(it.symbol, it.date, Decimal("0.25")) for it in of("dividend")],
        halts={it.symbol: {it.date} for it in of("halted")},
        delisted={it.symbol: it.date for it in of("delisted")},
    )
    for it in of("no print"):
        del days.bars[it.symbol][it.date]
    return Market((), "SPY", sessions=sessions, days=days, seed=seed)


@dataclass(frozen=True, slots=True)
class ByHand:
    """What a person does beside the desk on one date: `side`, shares or fractions, minutes from the open."""

    side: str
    symbol: str
    quantity: Decimal
    minute: int


def persons(seed: int, events: Sequence[Happening], dates: Sequence[str], date: str) -> list[ByHand]:
    """Shares that a person buys the session before a split or a dividend, and sells two sessions after it."""
    orders, parts = [], random.Random(f"persons {seed}").random() < 0.5
    for it in events:
        chance = random.Random(f"person {seed} {it.symbol}")
        place, quantity = list(dates).index(it.date), Decimal(chance.randint(1, 5))
        minute = chance.randint(20, 200)
        if parts:
            quantity += Decimal(chance.randrange(10**PLACES)) / 10**PLACES
        if it.kind in ("split", "dividend") and it.symbol in daily_rebalancer.SYMBOLS:
            orders += [
                ("buy", it.symbol, quantity, minute, place - 1),
                ("sell", it.symbol, quantity, minute, place + 2),
            ]
    at = list(dates).index(date)
    return [ByHand(side, symbol, quantity, minute) for side, symbol, quantity, minute, place in orders if place == at]


def late_parts(seed: int, events: Sequence[Happening], session: Session) -> list[tuple[str, str, int]]:
    """What of the session's splits comes late: (fault, symbol, until when in nanoseconds UTC).

    The ledger's line comes two hours after the open; or the adjusted bars after the time of the daily decisions.
    """
    parts = []
    for it in events:
        if (it.kind, it.date) == ("split", session.date):
            kind = random.Random(f"late {seed} {it.symbol}").choice(("action_line_late", "day_bars_unadjusted", ""))
            minutes = 120 if kind == "action_line_late" else -DECIDE_MIN + 20
            parts += [(kind, it.symbol, session.open_ns + minutes * MINUTE_NS)] if kind else []
    return parts


@cache
def calendar() -> tuple[Session, ...]:
    """The campaign's sessions."""
    return tuple(session for session in calendar_sessions(FIRST, LAST) if session.date <= LAST)
