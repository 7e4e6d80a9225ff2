"""A comparison of runs as one self-contained HTML page. `comparison.html` has the order and the words."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from daemon.library.compare import Comparison
from daemon.page_kit.plots import NARROW, Curve, Figure, equity, in_both_widths
from daemon.page_kit.render import render

TEMPLATE = Path(__file__).with_name("comparison.html")
LETTERS = "ABCDE"
MARKS, MARKS_NARROW = 6, 2  # dates below a plot


def comparison_page(comparison: Comparison) -> str:
    """Return the page, UTF-8 text. The same runs give the same bytes. Raises the errors of `render`."""
    return render(
        TEMPLATE,
        names=list(zip(LETTERS, (run.id for run in comparison.runs), strict=False)),
        letters=list(LETTERS[: len(comparison.runs)]),
        c=comparison,
        shares=_plot(comparison, [one.shares for one in comparison.courses], "Return since the begin"),
        falls=_plot(comparison, [[-fall for fall in one.falls] for one in comparison.courses], "Drawdown"),
    )


def _plot(comparison: Comparison, values: Sequence[Sequence[float]], title: str) -> Figure | None:
    """Return the runs' lines over the days of all of them together."""
    days = sorted({time // 86400 for one in comparison.courses for time in one.times})
    curves = [
        Curve(
            letter,
            f"run-{letter.lower()}",
            [(bisect_right(days, time // 86400) - 1, value) for time, value in zip(one.times, some, strict=True)],
        )
        for letter, one, some in zip(LETTERS, comparison.courses, values, strict=False)
        if one.times
    ]
    if not curves or len(days) < 2:
        return None

    def marks(width: int) -> list[tuple[float, str]]:
        count = MARKS if width > NARROW else MARKS_NARROW
        places = sorted({round(index * (len(days) - 1) / (count - 1)) for index in range(count)})
        return [
            (float(place), datetime.fromtimestamp(days[place] * 86400, UTC).strftime("%Y-%m-%d")) for place in places
        ]

    return in_both_widths(lambda width: equity(curves, None, marks(width), width, title))
