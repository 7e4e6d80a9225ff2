"""The performance page. Its figures are those of `daemon.reports.performance`."""

from __future__ import annotations

import msgspec

from daemon.dashboard.pages.price import thin_indices
from daemon.dashboard.views import PerformancePage
from daemon.journal.reader import JournalReader
from daemon.reports.performance.figures import Line, Performance
from daemon.reports.performance.read import Benchmark, read_performance

WITHIN_DAYS = ("1D", "1W")  # ranges whose curve includes the records within days
DAYS_MOST = 3 * 262  # most days of the calendar; months and years are always whole
WEEKS_MOST = DAYS_MOST // 5
DRAWDOWNS_MOST = 10
SYMBOLS_MOST = 60


def performance_page(reader: JournalReader, range_name: str, benchmark: str) -> PerformancePage:
    """`GET /api/performance`. Raises JournalError, sqlite3.Error."""
    performance = read_performance(reader, range_name=range_name, benchmark=Benchmark(benchmark) if benchmark else None)
    figures = performance.figures
    lines = figures.lines
    if range_name in WITHIN_DAYS and lines and not figures.transfers_usd:
        lines = (_within_days(reader, figures), *lines[1:])
    return PerformancePage(
        range=range_name,
        symbols=performance.symbols[:SYMBOLS_MOST],
        benchmark=benchmark,
        figures=msgspec.structs.replace(
            figures,
            lines=lines,
            days=figures.days[-DAYS_MOST:],
            weeks=figures.weeks[-WEEKS_MOST:],
            drawdowns=figures.drawdowns[:DRAWDOWNS_MOST],
        ),
        falls=len(figures.drawdowns),
    )


def _within_days(reader: JournalReader, figures: Performance) -> Line:
    """The desk's line with all recorded equity of the span, thinned."""
    line = figures.lines[0]
    rows = reader.query(
        "SELECT time_ns, equity_usd + 0.0 AS equity FROM equity WHERE time_ns > ? AND time_ns <= ? ORDER BY time_ns",
        (round(line.times[0] * 1e9), round(line.times[-1] * 1e9) + 10**6),
    )
    equity = [row["equity"] / figures.start_usd - 1.0 for row in rows]
    chosen = thin_indices(equity)
    return Line(
        line.name,
        (line.times[0], *(rows[place]["time_ns"] / 1e9 for place in chosen)),
        (0.0, *(equity[place] for place in chosen)),
    )
