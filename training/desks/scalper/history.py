"""A bars file as arrays: whole sessions with features, volatility and the rows at which the desk must be flat.

Reads feed events, so the same files feed training, dry run and replay. Invariant: what is known of a session at its
open comes from earlier sessions alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from daemon.core.events import BarClosed, Event, SessionScheduled
from daemon.core.instruments.option_market import session_volatility
from daemon.core.limits import Trading
from daemon.core.session import LATER, flatten_from_ns
from strategies.kit.contract import Session, Spec
from strategies.kit.units import MINUTE_NS, SECOND_NS
from strategies.option_scalper.features import feature_table
from training.study.folds import HistoryError

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TradingDay:
    """One session of the history. `first` and `end` are its rows [first, end) in the history's arrays."""

    session: Session
    upcoming: tuple[Session, ...]
    first: int
    end: int
    flatten: int  # the row at whose close the last exit is sent; a row follows it
    previous_close: float
    volatility: float | None  # annualised, known before the open; None while too few sessions came before
    usable: bool  # warm, with a known volatility, long enough, and with a bar after the flatten


@dataclass(frozen=True, slots=True)
class History:
    """All regular-session bars of one symbol, oldest first; each array has one row for each bar."""

    start_ns: Int64Array
    open: Float64Array
    high: Float64Array
    low: Float64Array
    close: Float64Array
    features: Float64Array  # (rows, 20)
    minute: Int64Array  # from the session's open to the bar's end
    gap: Int64Array  # the most minutes missing between two bars of the observation that ends here
    days: tuple[TradingDay, ...]

    @property
    def usable(self) -> tuple[TradingDay, ...]:
        """The sessions an episode can be played on."""
        return tuple(day for day in self.days if day.usable)


def read_history(events: Iterable[Event], spec: Spec, trading: Trading) -> History:
    """Gather `BarClosed` of the spec's only symbol between `SessionScheduled` events.

    Raises:
        HistoryError: no bar at all, or bars that are further apart than the spec's interval.
    """
    scheduled: list[SessionScheduled] = []
    firsts: list[int] = []
    rows: list[tuple[int, float, float, float, float, float]] = []
    for event in events:
        if isinstance(event, SessionScheduled):
            if firsts and firsts[-1] == len(rows):  # a session without a bar
                scheduled.pop()
                firsts.pop()
            scheduled.append(event)
            firsts.append(len(rows))
        elif isinstance(event, BarClosed) and event.bar.symbol in spec.symbols:
            bar = event.bar
            rows.append((bar.start_ns, bar.open, bar.high, bar.low, bar.close, bar.volume))
    if not rows:
        raise HistoryError(f"the file has no regular-session bar of {', '.join(spec.symbols)}: choose another file")
    if firsts[-1] == len(rows):
        scheduled.pop()
        firsts.pop()
    start_ns = np.array([row[0] for row in rows], dtype=np.int64)
    open_, high, low, close, volume = np.array([row[1:] for row in rows], dtype=np.float64).T
    starts = np.array(firsts, dtype=np.int64)
    counts = np.diff(np.append(starts, len(rows)))
    opens = np.repeat(np.array([event.session.open_ns for event in scheduled], dtype=np.int64), counts)
    minute = (start_ns - opens) // MINUTE_NS + spec.bar_interval_s // 60
    table = feature_table(
        open_,
        high,
        low,
        close,
        volume,
        session_starts=starts,
        session_minutes=np.array([(e.session.close_ns - e.session.open_ns) // MINUTE_NS for e in scheduled]),
        elapsed_minutes=minute,
    )
    days: list[TradingDay] = []
    for index, (event, first, count) in enumerate(zip(scheduled, firsts, counts.tolist(), strict=True)):
        volatility = session_volatility([float(close[day.end - 1]) for day in days], trading.paper)
        flatten = _flatten_row(event.session, start_ns[first : first + count], spec, trading) + first
        days.append(
            TradingDay(
                session=event.session,
                upcoming=event.upcoming,
                first=first,
                end=first + count,
                flatten=flatten,
                previous_close=float(close[first - 1]) if index else float("nan"),
                volatility=volatility,
                usable=bool(table.warm[first])
                and volatility is not None
                and first + spec.window <= flatten < first + count - 1,
            )
        )
    gap = _gaps(start_ns, starts, spec)
    usual = int(np.median(np.diff(start_ns))) // SECOND_NS if len(rows) > 1 else spec.bar_interval_s
    if usual != spec.bar_interval_s:
        raise HistoryError(
            f"wrong bar interval: bars are {usual} s apart, {spec.name} needs {spec.bar_interval_s} s: "
            "give a file with bars of that length"
        )
    return History(start_ns, open_, high, low, close, table.values, minute, gap, tuple(days))


def entry_rows(history: History, days: Sequence[TradingDay], trading: Trading) -> npt.NDArray[np.bool_]:
    """Rows at whose close the clock and the window's bars allow an entry, bool (rows,)."""
    risk = trading.risk
    minute, gap = history.minute, history.gap
    allowed = np.zeros(len(history.close), dtype=np.bool_)
    for day in days:
        rows = slice(day.first, day.end)
        length = (day.session.close_ns - day.session.open_ns) // MINUTE_NS
        late = length - minute[rows] <= risk.no_entry_before_close_min
        early = minute[rows] < risk.no_entry_after_open_min
        allowed[rows] = ~late & ~early & (gap[rows] <= risk.gap_min)
    return allowed


def _flatten_row(session: Session, starts: Int64Array, spec: Spec, trading: Trading) -> int:
    """The first row whose close is at or after the time at which the flatten is sent; the row count if none is."""
    deadline = flatten_from_ns(session, LATER, trading.execution, spec.bar_interval_s)
    return int(np.searchsorted(starts + spec.bar_interval_s * SECOND_NS, deadline))


def _gaps(start_ns: Int64Array, starts: Int64Array, spec: Spec) -> Int64Array:
    """For each row the most minutes missing between two neighbours of the window that ends there."""
    missing = np.diff(start_ns, prepend=start_ns[0]) // MINUTE_NS - spec.bar_interval_s // 60
    missing[starts] = 0
    padded = np.concatenate([np.zeros(spec.window - 2, dtype=np.int64), missing])
    windows = np.lib.stride_tricks.sliding_window_view(padded, spec.window - 1)
    longest: Int64Array = windows.max(axis=1)
    return longest
