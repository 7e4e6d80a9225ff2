"""Daily bars made up for tests: hand-written prices of a few symbols, and seeded random walks of all of a strategy's.

No expected value comes from here. Sessions are weekdays from 2030-01-07 on, 14:30 to 21:00 UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import msgspec
import numpy as np

from daemon.core.limits import Trading
from daemon.host.time.calendar import SessionCalendar, midnight_ns
from strategies import daily_rebalancer
from strategies.kit.contract import DailySpec, Session
from strategies.kit.synthetic import synthetic_days
from tests.support.training.made_up import write_csv
from training.data.daily_table import DailyTable, table_of

SHORT = msgspec.structs.replace(daily_rebalancer.SPEC, history_bars=2)
"""`daily_rebalancer` that is warm after two bars."""


def sessions(count: int) -> tuple[Session, ...]:
    """Weekdays from Monday 2030-01-07 on."""
    days = (date(2030, 1, 7) + timedelta(days=n) for n in range(2 * count + 7))
    weekdays = [day for day in days if day.weekday() < 5][:count]
    opens = [int(datetime(d.year, d.month, d.day, 14, 30, tzinfo=UTC).timestamp()) * 10**9 for d in weekdays]
    return tuple(
        Session(day.isoformat(), open_ns, open_ns + 23_400 * 10**9)
        for day, open_ns in zip(weekdays, opens, strict=True)
    )


def written(prices: Mapping[str, Sequence[tuple[float, float]]], spec: DailySpec = SHORT) -> DailyTable:
    """A table of (open, close) of each session by symbol; all other symbols have no bar."""
    days = max(len(row) for row in prices.values())
    bars = np.full((5, days, len(spec.symbols)), np.nan)
    for symbol, row in prices.items():
        for day, (opened, close) in enumerate(row):
            values = opened, max(opened, close), min(opened, close), close, 1000.0
            bars[:, day, spec.symbols.index(symbol)] = values
    return table_of(bars, sessions(days), spec)


def walk(days: int, seed: int, spec: DailySpec = SHORT, missing: float = 0.0) -> DailyTable:
    """Random walks of all symbols in cents; each bar but the first two is left out with the chance `missing`."""
    random = np.random.default_rng(seed)
    n = len(spec.symbols)
    close = np.maximum(np.round(np.exp(random.normal(0, 0.02, (days, n)).cumsum(0)) * random.uniform(5, 300, n), 2), 1)
    opened = np.maximum(np.round(close * random.uniform(0.98, 1.02, (days, n)), 2), 1)
    high, low = np.maximum(opened, close), np.minimum(opened, close)
    bars = np.stack([opened, high, low, close, np.full((days, n), 1000.0)])
    gone = random.random((days, n)) < missing
    gone[:2] = False
    return table_of(np.where(gone, np.nan, bars), sessions(days), spec)


def trading(
    cash: str, *, shares_per_unit: int = 100, band: float = 0.0, fractions: bool = False, day_fees: bool = True
) -> Trading:
    """The default rules with this much paper cash and these rules of the basket, perhaps without fees by the day."""
    rules = Trading()
    paper = replace(rules.paper, cash_usd=Decimal(cash))
    paper = paper if day_fees else replace(paper, share_fees_below_usd=Decimal(0))
    basket = replace(rules.basket, shares_per_unit=shares_per_unit, band=band, fractions="on" if fractions else "off")
    return replace(rules, paper=paper, basket=basket)


def days(first: str, last: str, count: int | None = None) -> tuple[str, ...]:
    """The first `count` sessions from `first` on that are not after `last`, by date."""
    dates = [s.date for s in SessionCalendar.load(first, last).sessions if first <= s.date <= last]
    return tuple(dates[:count])


def write_days(path: Path, symbols: Sequence[str], dates: Sequence[str], seed: int = 3) -> Path:
    """A bar for each symbol on each date, as a file that daily strategies read."""
    return write_csv(path, synthetic_days(seed, symbols, map(midnight_ns, dates)))
