"""A loopback Alpaca whose account has the free data plan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from daemon.tapes import BUNDLED_TAPE
from simulator.clock import SimClock
from simulator.prices.market import Market
from simulator.prices.tape import calendar_sessions, new_york_date, read_bars
from simulator.serving import serving
from simulator.trading.venue import Rules


@contextmanager
def free_plan() -> Iterator[str]:
    """Serve the end of the bundled tape for the time of a `with`; the address of the market data."""
    bars = read_bars(BUNDLED_TAPE, "SPY")[-800:]
    market = Market(bars, sessions=calendar_sessions(new_york_date(bars[0].start_ns), new_york_date(bars[-1].start_ns)))
    with serving(market, SimClock.starting_now(bars[-60].start_ns, 1), rules=Rules(free_plan=True)) as server:
        yield server.data_url
