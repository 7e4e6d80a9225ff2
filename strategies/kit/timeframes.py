"""Bars that are made of shorter ones: how they join, and the further timeframes of a strategy.

A strategy keeps a `FrameBars` in its state and passes every bar on to it, so live, replay and training see the same
longer bars. Invariant: a longer bar is visible once it is closed, so nothing depends on bars after `FrameBars.now_ns`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import msgspec

from strategies.kit.contract import Bar, Grid, Session, Spec, Timeframe, View
from strategies.kit.daily import split_bars


def joined(start_ns: int, bars: Sequence[Bar]) -> Bar:
    """Return the bar from `start_ns` of these bars of one symbol, oldest first.

    First open, highest high, lowest low, last close, sum of the volume.
    """
    high, low = max(bar.high for bar in bars), min(bar.low for bar in bars)
    volume = sum(bar.volume for bar in bars)
    return Bar(bars[0].symbol, start_ns, bars[0].open, high, low, bars[-1].close, volume)


class FrameBars(msgspec.Struct, frozen=True, gc=False):
    """What `Timeframes` keeps, a part of a strategy's state."""

    now_ns: int = 0  # bars that closed by then are visible
    session: Session | None = None
    running: tuple[Bar, ...] = ()  # the strategy's own bars of that session, by their start
    past: dict[str, dict[str, tuple[Bar, ...]]] = {}  # longer bars of the sessions before: by length, then by symbol


class Timeframes:
    """The further timeframes of a spec, made of the strategy's own bars.

    >>> from strategies.kit import Bar, FrameBars, Session, ShareSpec, Timeframe, Timeframes, View
    >>> hour = Timeframe("1h", keep=2)
    >>> spec = ShareSpec(
    ...     "toy", 1, ("SPY",), 1800, 4, 1, (1,), "float32", ("x",), ("CASH", "SPY"), 1.0, timeframes=(hour,)
    ... )
    >>> half_ns = 1_800_000_000_000
    >>> frames, kept, session = Timeframes(spec), FrameBars(), Session("2024-01-02", 0, 13 * half_ns)
    >>> for place, close in enumerate((10.0, 11.0, 12.0)):
    ...     bar = Bar("SPY", place * half_ns, close, close, close, close, 100.0)
    ...     kept = frames.add(kept, (bar,), View((place + 1) * half_ns, session))
    >>> [bar.close for bar in frames.closed(kept, "SPY", "1h")]  # the second hour is under way
    [11.0]
    """

    __slots__ = ("_frames", "_symbols")

    def __init__(self, spec: Spec) -> None:
        self._frames = {frame.length: frame for frame in spec.timeframes}
        self._symbols = spec.symbols

    def add(self, kept: FrameBars, bars: tuple[Bar, ...], view: View) -> FrameBars:
        """Take the bars that closed at `view.now_ns`; call it first thing in `observe`."""
        running = kept.running
        if kept.session is None or kept.session.date != view.session.date:
            kept, running = FrameBars(0, view.session, (), self._with_session(kept)), ()
        return FrameBars(view.now_ns, view.session, (*running, *bars), kept.past)

    def correct(self, kept: FrameBars, bar: Bar) -> FrameBars:
        """Replace a bar of the running session by its correction, or take one that came late."""
        if kept.session is None or not kept.session.open_ns <= bar.start_ns < kept.session.close_ns:
            return kept
        other_bars = [old for old in kept.running if (old.start_ns, old.symbol) != (bar.start_ns, bar.symbol)]
        running = tuple(sorted([*other_bars, bar], key=lambda one: one.start_ns))
        return FrameBars(kept.now_ns, kept.session, running, kept.past)

    def split(self, kept: FrameBars, symbol: str, ratio: float, from_ns: int) -> FrameBars:
        """Adjust the bars of `symbol` before `from_ns`, a session's open, for `ratio` new shares for each old one."""
        past = {
            length: {name: tuple(split_bars(bars, symbol, ratio, from_ns)) for name, bars in by_symbol.items()}
            for length, by_symbol in kept.past.items()
        }
        running = tuple(split_bars(kept.running, symbol, ratio, from_ns))
        return FrameBars(kept.now_ns, kept.session, running, past)

    def closed(self, kept: FrameBars, symbol: str, length: str) -> tuple[Bar, ...]:
        """Return the newest closed bars of a timeframe, oldest first, at most `keep`: fewer while not warm.

        A bar is labelled by its start, a day's by the open. Raises KeyError for a length that is not declared.
        """
        frame = self._frames[length]
        past = kept.past.get(length, {}).get(symbol, ())
        return (*past, *_frames_of(kept, symbol, frame.grid, kept.now_ns))[-frame.keep :]

    def _with_session(self, frame_bars: FrameBars) -> dict[str, dict[str, tuple[Bar, ...]]]:
        """Return the longer bars of earlier sessions, joined with those of the kept session, which is over."""
        session = frame_bars.session
        if session is None:
            return frame_bars.past
        return {
            length: {symbol: self._whole(frame_bars, symbol, frame, session) for symbol in self._symbols}
            for length, frame in self._frames.items()
        }

    def _whole(self, frame_bars: FrameBars, symbol: str, frame: Timeframe, session: Session) -> tuple[Bar, ...]:
        past = frame_bars.past.get(frame.length, {}).get(symbol, ())
        return (*past, *_frames_of(frame_bars, symbol, frame.grid, session.close_ns))[-frame.keep :]


def _frames_of(frame_bars: FrameBars, symbol: str, grid: Grid, now_ns: int) -> list[Bar]:
    """Return the kept session's bars on this grid that are closed by `now_ns`."""
    session = frame_bars.session
    if session is None:
        return []
    if grid.length_ns > session.close_ns - session.open_ns:  # a day
        grid = Grid(session.close_ns - session.open_ns)
    own_bars = [bar for bar in frame_bars.running if bar.symbol == symbol]
    groups = groupby(own_bars, key=lambda bar: grid.at(bar.start_ns, session)[0])
    return [joined(start, tuple(bars)) for start, bars in groups if grid.at(start, session)[1] <= now_ns]
