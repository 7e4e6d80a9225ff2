"""A stage for `online_dqn`: two funds by the minute on a half day, a policy that buys what rose and sells what fell.

Nothing here computes an expected value.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from simulator.faults import Faults
from simulator.prices.tape import calendar_sessions
from simulator.trading.account import Account
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET, Rules
from strategies.kit.contract import Bar
from strategies.kit.synthetic import synthetic_sessions
from strategies.kit.units import MINUTE_NS
from tests.support.desks.stage import Stage, Table, Tape, stage
from tests.support.models.online_models import NAME

HALF_DAY = "2024-07-03"
SYMBOLS = ("SPY", "QQQ")
DIPS = range(110, 165, 5)  # minutes of the half day in which SPY falls by 1.5 % and comes back
CASH = 100_000
IN_FULL = Rules(fill_sizes=(100, 100))
ONLINE: Table = {
    "desk": {"strategy": NAME, "symbols": list(SYMBOLS)},
    "sizing": {"stop_loss": 0.01, "take_profit": 0.02},
    "service": {"stop_deadline_s": 5},
}


@cache
def tape() -> Tape:
    """Made-up minutes of both funds, the half day and two sessions before it."""
    sessions = tuple(calendar_sessions("2024-06-24", "2024-07-12"))
    days = [session for session in sessions if "2024-07-01" <= session.date <= HALF_DAY]
    bars = [_dipped(bar, days[-1].open_ns) for bar in synthetic_sessions(7, days)]
    bars += [_cheaper(bar) for bar in synthetic_sessions(8, days)]
    return Tape(tuple(bars), sessions)


def _dipped(bar: Bar, open_ns: int) -> Bar:
    if (bar.start_ns - open_ns) // MINUTE_NS not in DIPS:
        return bar
    return Bar(bar.symbol, bar.start_ns, bar.open, bar.high, round(bar.open * 0.985, 2), bar.close, bar.volume)


def _cheaper(bar: Bar) -> Bar:
    opened, high, low, close = (round(price * 0.8, 2) for price in (bar.open, bar.high, bar.low, bar.close))
    return Bar("QQQ", bar.start_ns, opened, high, low, close, bar.volume)


def minute_ns(minute: int) -> int:
    """When this minute of the half day starts."""
    open_ns = next(session.open_ns for session in tape().sessions if session.date == HALF_DAY)
    return open_ns + minute * MINUTE_NS


@contextlib.contextmanager
def online_stage(begin: str, folder: Path, models_dir: Path, *tables: Table, **settings: Any) -> Iterator[Stage]:
    """A stage whose clock starts at New York's `begin` of the half day."""
    account = Account(DEFAULT_KEY, DEFAULT_SECRET, cash=Decimal(CASH), margin=1)
    chosen: dict[str, Any] = {"rules": IN_FULL, "accounts": [account], "faults": Faults(), **settings}
    with stage(tape(), HALF_DAY, begin, folder, models_dir, ONLINE, *tables, **chosen) as scene:
        yield scene
