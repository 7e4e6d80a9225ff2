"""Daily bars in the forms the tests need: `Bar` objects session by session, and views of a desk with a portfolio.

No expected value is computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from strategies.kit.contract import Bar, DailySpec, Portfolio, Session, View
from strategies.kit.synthetic import synthetic_days
from strategies.kit.units import DAY_NS, HOUR_NS

FIRST = date(2019, 12, 30)  # a Monday
FIRST_NS = (FIRST - date(1970, 1, 1)).days * DAY_NS + 5 * HOUR_NS

Float64Array = npt.NDArray[np.float64]
RAMP_INDICATORS = (
    7.0,  # EMAs of n bars lag a ramp by (n - 1) / 2: 12.5 - 5.5
    100.0,  # every move is up
    (499 - 489.5) / (0.015 * 5),  # typical price above its mean, over 0.015 times the mean deviation of 20 bars
    100.0,  # only upward movement
    489.5,
    474.5,
    399.5,
    489.5 + 2 * (399 / 12) ** 0.5,  # the variance of 20 numbers one apart is (20^2 - 1) / 12
    489.5,
    489.5 - 2 * (399 / 12) ** 0.5,
    1.5,  # from the previous close to the high
    -100 * 0.5 / 14,  # highest 499.5, lowest 485.5
    100 * 13.5 / 14,
)


def start_of(day: int) -> int:
    """Midnight in New York of the day of this index, in nanoseconds UTC."""
    return FIRST_NS + day * DAY_NS


def session_of(day: int) -> Session:
    start = start_of(day)
    return Session((FIRST + timedelta(days=day)).isoformat(), start + 19 * HOUR_NS // 2, start + 16 * HOUR_NS)


def days_of(spec: DailySpec, days: int, seed: int = 5) -> tuple[Bar, ...]:
    """Made-up bars of all symbols on each of `days` days, in the order of time."""
    return tuple(synthetic_days(seed, spec.symbols, map(start_of, range(days))))


def columns_of(bars: Sequence[Bar], symbols: Sequence[str], days: int) -> dict[str, Float64Array]:
    """Open, high, low and close as (days, symbols), NaN where there is no bar."""
    table = {name: np.full((days, len(symbols)), np.nan) for name in ("open", "high", "low", "close")}
    for bar in bars:
        at = (bar.start_ns - FIRST_NS) // DAY_NS, symbols.index(bar.symbol)
        for name, column in table.items():
            column[at] = getattr(bar, name)
    return table


def portfolio_with(spec: DailySpec, **changed: Any) -> Portfolio:
    """1,000 USD, no shares, every price 10 USD, but for what is `changed`."""
    n = len(spec.symbols)
    return msgspec.structs.replace(Portfolio(1000.0, 1000.0, (0,) * n, (10.0,) * n), **changed)


def view_of(spec: DailySpec, day: int, **changed: Any) -> View:
    """The desk before the open of the day of this index, with `portfolio_with(**changed)`."""
    session = session_of(day)
    return View(session.open_ns, session, portfolio=portfolio_with(spec, **changed))


@dataclass(frozen=True, slots=True)
class DailyColumns:
    """Adjusted daily prices in USD, each column (days, symbols)."""

    symbols: tuple[str, ...]
    columns: dict[str, npt.NDArray[np.float64]]

    def of(self, symbol: str, name: str) -> npt.NDArray[np.float64]:
        return np.ascontiguousarray(self.columns[name][:, self.symbols.index(symbol)])
