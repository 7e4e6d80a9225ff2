"""Made-up sessions for training's tests: real hours, random walks, and a market whose drift shows in its gap."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from daemon.core.events import BarClosed, Event, SessionEnded, SessionScheduled
from daemon.host.time.calendar import SessionCalendar
from strategies.kit.contract import Bar, Session
from strategies.kit.synthetic import synthetic_sessions

MINUTE_NS = 60_000_000_000


def sessions(count: int) -> tuple[Session, ...]:
    """The first `count` New York sessions from 2024-05-20 on; the 30th, 2024-07-03, is a half day."""
    days = [s for s in SessionCalendar.load("2024-05-20", "2024-10-31").sessions if s.date >= "2024-05-20"]
    return tuple(days[:count])


def feed(bars: Iterable[Bar], days: Sequence[Session], after: Sequence[Session]) -> list[Event]:
    """The bars as feed events; `after` are the sessions that follow the last."""
    ahead = [*days, *after]
    events: list[Event] = []
    remaining = iter(bars)
    bar = next(remaining, None)
    for index, day in enumerate(days):
        upcoming, previous = tuple(ahead[index + 1 : index + 9]), tuple(ahead[:index][-25:])
        events.append(SessionScheduled(day.open_ns, day, upcoming, previous))
        while bar is not None and bar.start_ns < day.close_ns:
            events.append(BarClosed(bar.start_ns + MINUTE_NS, bar))
            bar = next(remaining, None)
        events.append(SessionEnded(day.close_ns, day.date))
    return events


def random_walk(count: int, seed: int = 7) -> list[Event]:
    """`count` sessions of a driftless random walk."""
    return list(_walked(count, seed))


@functools.cache
def _walked(count: int, seed: int) -> tuple[Event, ...]:
    """The same for every file that asks: several begin with it."""
    days = sessions(count + 8)
    return tuple(feed(synthetic_sessions(seed, days[:count]), days[:count], days[count:]))


def drifting(count: int, seed: int = 7) -> list[Event]:
    """Sessions that open 4 % away from 500 and come back to it in a noisy straight line, so options are cheap."""
    random = np.random.default_rng(seed)
    days = sessions(count + 8)
    bars: list[Bar] = []
    for day in days[:count]:
        sign = 1.0 if random.random() < 0.5 else -1.0
        minutes = (day.close_ns - day.open_ns) // MINUTE_NS
        noise = np.cumsum(random.normal(0.0, 0.03, minutes + 1))
        path = 500.0 + sign * np.linspace(-20.0, 0.0, minutes + 1) + noise
        for index in range(minutes):
            open_, close = float(path[index]), float(path[index + 1])
            low, high = min(open_, close), max(open_, close)
            bars.append(Bar("SPY", day.open_ns + index * MINUTE_NS, open_, high, low, close, 1000.0))
    return feed(bars, days[:count], days[count:])


def write_csv(path: Path, bars: Iterable[Bar]) -> Path:
    """A bars file as the tape reads it."""
    lines = [f"{b.symbol},{b.start_ns},{b.open},{b.high},{b.low},{b.close},{b.volume}" for b in bars]
    path.write_text("\n".join(["symbol,timestamp,open,high,low,close,volume", *lines, ""]))
    return path
