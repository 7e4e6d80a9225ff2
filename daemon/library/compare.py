"""Compare two to five runs: their courses, their figures, and their differences; as data and as one HTML page.

`comparison.html` has the order and the words of the page, which is self-contained.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from daemon.library.library import LibraryError, course, parameters
from daemon.library.listed import DRY_RUN, NONE, Course, ListedRun, different
from daemon.page_kit.plots import NARROW, Curve, Figure, equity, in_both_widths
from daemon.page_kit.render import render
from daemon.reports.performance.words import ratio, share

FEWEST, MOST = 2, 5
TEMPLATE = Path(__file__).with_name("comparison.html")
LETTERS = "ABCDE"
MARKS, MARKS_NARROW = 6, 2  # dates below a plot


class Comparison(msgspec.Struct, frozen=True):
    """The runs with their courses. Rows begin with their label, and have a text for each run."""

    runs: tuple[ListedRun, ...]
    courses: tuple[Course, ...]
    figures: tuple[tuple[str, ...], ...]
    differences: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...]


def compare(runs: Sequence[ListedRun]) -> Comparison:
    """Return the comparison of the runs.

    Raises LibraryError for another number of runs or one given twice; JournalError, ValueError, OSError.
    """
    if len({run.folder for run in runs}) < len(runs):
        raise LibraryError("a run is named twice: expected each once")
    if not FEWEST <= len(runs) <= MOST:
        raise LibraryError(f"{len(runs)} runs: expected {FEWEST} to {MOST}")
    unread_runs = [run for run in runs if run.problem and run.figures is None]
    if unread_runs:
        raise LibraryError(f"{unread_runs[0].id} cannot be read: {unread_runs[0].problem}")
    courses = tuple(course(run) for run in runs)
    return Comparison(
        tuple(runs), courses, tuple(figure_rows(runs)), tuple(_differences(runs)), tuple(_remarks(runs, courses))
    )


def _differences(runs: Sequence[ListedRun]) -> list[tuple[str, ...]]:
    """Return the differences of the runs: facts of all, then settings, which dry runs and trainings do not share.

    A setting of one kind of run only is a difference if two runs of that kind differ in it.
    """
    rows = different([_facts(run) for run in runs])
    parameter_sets = [parameters(run) for run in runs]
    for kind in dict.fromkeys(run.kind for run in runs):
        places = [place for place, run in enumerate(runs) if run.kind == kind]
        for name, *values in different([parameter_sets[place] for place in places]):
            by_place = dict(zip(places, values, strict=True))
            rows.append((name, *(by_place.get(place, NONE) for place in range(len(runs)))))
    return rows


def figure_rows(runs: Sequence[ListedRun]) -> list[tuple[str, ...]]:
    """Return each run's results, in words."""
    run_figures = [run.figures for run in runs]
    return [
        ("sessions", *(NONE if f is None else f"{f.sessions:,}, {f.first} to {f.last}" for f in run_figures)),
        ("return", *(NONE if f is None else share(f.share) for f in run_figures)),
        ("a year", *(NONE if f is None else share(f.annual) for f in run_figures)),
        ("Sharpe ratio", *(NONE if f is None else ratio(f.sharpe) for f in run_figures)),
        ("largest drawdown", *(NONE if f is None else share(-f.max_drawdown) for f in run_figures)),
        ("trades", *(NONE if f is None else f"{f.trades:,}" for f in run_figures)),
    ]


def _facts(run: ListedRun) -> dict[str, str]:
    facts = {
        "kind": run.kind,
        "strategy": run.strategy,
        "model version": run.version,
        "bars": run.data,
        "digest of the bars": run.data_sha256[:12],
        "code": run.code,
        "capital": f"{run.figures.capital_usd:,.0f} USD" if run.figures is not None else "",
    }
    return {name: value for name, value in facts.items() if value}


def _remarks(runs: Sequence[ListedRun], courses: Sequence[Course]) -> list[str]:
    """Return what makes the runs hard to compare."""
    remarks = []
    spans = {(run.figures.first, run.figures.last) for run in runs if run.figures is not None}
    if len(spans) > 1:
        remarks.append("The runs are over different sessions: each course begins at zero on its own first day.")
    if len({run.data_sha256 for run in runs if run.data_sha256}) > 1:
        remarks.append("The runs read different files of bars.")
    if len({run.kind for run in runs}) > 1:
        remarks.append(f"A {DRY_RUN}'s figures are of all its sessions, a training's of its test sessions alone.")
    if any(run.synthetic for run in runs):
        remarks.append(f"Made-up bars: {', '.join(run.id for run in runs if run.synthetic)}: no result about a market.")
    remarks += [f"{run.id} has no course yet." for run, one in zip(runs, courses, strict=True) if not one.times]
    return remarks


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
