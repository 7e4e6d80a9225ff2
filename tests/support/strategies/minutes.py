"""One-minute bars in the two forms the tests need: `Bar` objects with their sessions, and columns for the table path.

No expected value is computed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from strategies.kit.contract import Bar, Session
from strategies.option_scalper import FeatureTable, SessionStream, feature_table

MINUTE_NS = 60_000_000_000
W = 256
OPEN_NS = 1_720_013_400_000_000_000  # 2024-07-03 09:30 in New York


@dataclass(frozen=True, slots=True)
class Minutes:
    """Bars in time order, session by session; `starts` is each session's first index."""

    bars: tuple[Bar, ...]
    sessions: tuple[Session, ...]
    starts: tuple[int, ...]

    def of_session(self, number: int) -> tuple[Bar, ...]:
        end = self.starts[number + 1] if number + 1 < len(self.starts) else len(self.bars)
        return self.bars[self.starts[number] : end]

    def column(self, name: str) -> npt.NDArray[np.float64]:
        return np.array([getattr(bar, name) for bar in self.bars], dtype=np.float64)

    def table(self) -> FeatureTable:
        """The table path over all bars, with each bar's own time (missing minutes allowed)."""
        opens = np.array([s.open_ns for s in self.sessions])
        starts = np.array([bar.start_ns for bar in self.bars])
        own = opens[np.searchsorted(opens, starts, side="right") - 1]
        return feature_table(
            *(self.column(name) for name in ("open", "high", "low", "close", "volume")),
            session_starts=self.starts,
            session_minutes=[(s.close_ns - s.open_ns) // MINUTE_NS for s in self.sessions],
            elapsed_minutes=(starts - own) // MINUTE_NS + 1,
        )

    def streamed(self) -> list[tuple[float, ...]]:
        """The streaming path over every session that `W` bars precede."""
        rows: list[tuple[float, ...]] = []
        for number, (session, start) in enumerate(zip(self.sessions, self.starts, strict=True)):
            if start >= W:
                stream = SessionStream(self.bars[start - W : start], session)
                rows.extend(stream.update(bar) for bar in self.of_session(number))
        return rows


def minutes_of(bars: Sequence[Bar], sessions: Iterable[Session]) -> Minutes:
    """Group bars by session; sessions without a bar fall out."""
    ordered = tuple(sessions)
    opens = [s.open_ns for s in ordered]
    where = np.searchsorted(opens, [bar.start_ns for bar in bars], side="right") - 1
    days: list[Session] = []
    starts: list[int] = []
    for number, group in groupby(range(len(bars)), key=where.tolist().__getitem__):
        days.append(ordered[number])
        starts.append(next(group))
    return Minutes(tuple(bars), tuple(days), tuple(starts))


def two_sessions(shapes: Sequence[tuple[float, float, float, float, float]], minutes: int = 390) -> Minutes:
    """`W` bars of the day before, then a session of the rest; each shape is (open, high, low, close, volume)."""
    before = Session("2024-07-02", OPEN_NS - 86_400_000_000_000, OPEN_NS - 86_400_000_000_000 + W * MINUTE_NS)
    today = Session("2024-07-03", OPEN_NS, OPEN_NS + minutes * MINUTE_NS)
    times = [before.open_ns + i * MINUTE_NS for i in range(W)]
    times += [OPEN_NS + i * MINUTE_NS for i in range(len(shapes) - W)]
    return minutes_of([Bar("SPY", t, *shape) for t, shape in zip(times, shapes, strict=True)], (before, today))
