"""Finished runs side by side: one table, one plot, and their updates as CSV. Reads reports, computes nothing new."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from markupsafe import Markup

from daemon.library import listed
from daemon.library.run_files import METRICS_FILE, REPORT_FILE, RUN_FILE, TRIALS_FOLDER
from daemon.page_kit import plots
from daemon.page_kit.render import render
from training.evidence.findings import Findings, decode
from training.evidence.wording import UNKNOWN, number, percent
from training.report.cells import Row, fall, sharpe, with_interval

T = TypeVar("T")
TEMPLATE = Path(__file__).with_name("compare.html")
_EXPECTED = "give the folders of finished runs, or of versions"
LEFT_OUT = frozenset({"bars", "bars_sha256", "made_with", "processes_a_trial"})  # settings that are not compared


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A finished run: its folder's name, its findings, and its settings."""

    name: str
    folder: Path
    findings: Findings
    settings: dict[str, Any]


def read_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """Read the folders of runs, or of versions, which have no settings of their own.

    A run is called by its folder's name, with the folders above it where others have the same name.

    Raises:
        ValueError: a folder is there twice, holds no report, or has a damaged file; the text names it and the cure.
    """
    places = [folder.resolve() for folder in folders]
    if twice := sorted({str(place) for place in places if places.count(place) > 1}):
        raise ValueError(f"{twice[0]} is given twice: expected each run once")
    return [
        FinishedRun(name, folder, _read(folder / REPORT_FILE, decode), _settings(folder / RUN_FILE))
        for name, folder in zip(_names(places), folders, strict=True)
    ]


def _names(places: Sequence[Path]) -> list[str]:
    """Each path's shortest tail that makes all of them distinct."""
    count = 1
    while len({place.parts[-count:] for place in places}) < len(places):
        count += 1
    return ["/".join(place.parts[-count:]) for place in places]


def _settings(path: Path) -> dict[str, Any]:
    """The settings of a run; {} for a version."""
    return _read(path, lambda data: msgspec.json.decode(data, type=dict[str, Any])) if path.exists() else {}


def _read(path: Path, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file: {_EXPECTED}") from error
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): {_EXPECTED}") from error


def page(runs: Sequence[FinishedRun]) -> str:
    """The whole document. Same reports, same text."""
    return render(
        TEMPLATE,
        names=[run.name for run in runs],
        head=["", *(run.name for run in runs)],
        rows=rows_of(runs),
        different=different(runs),
        plot=_plot(runs),
        comparable=comparable(runs),
    )


def comparable(runs: Sequence[FinishedRun]) -> str:
    """Return a sentence on whether the runs' figures are comparable."""
    tested = {(run.findings.data_sha256, run.findings.first_session, run.findings.last_session) for run in runs}
    if len(tested) > 1:
        return "These runs were tested on different sessions or files: their figures cannot be compared one to one."
    sentence = "All runs were tested on the same sessions of the same file."
    return f"{sentence} Whoever picks one of them by these figures has chosen on test sessions."


def rows_of(runs: Sequence[FinishedRun]) -> list[Row]:
    """A row for each run: its settings, results and evidence."""
    findings = [run.findings for run in runs]
    return [
        ("strategy, network", *(f"{f.strategy}, {f.network}" for f in findings)),
        ("bars", *(f.data_file for f in findings)),
        ("test sessions", *(f"{f.policy.figures.sessions}\n{f.first_session} to {f.last_session}" for f in findings)),
        ("folds, seeds", *(f"{len(f.folds)}, {f.seeds}" for f in findings)),
        ("setting", *(f.reward for f in findings)),
        ("net return", *(with_interval(f.policy.net_return) for f in findings)),
        ("Sharpe ratio, annual", *(sharpe(f.policy) for f in findings)),
        ("largest drawdown", *(fall(f.policy.figures.max_drawdown) for f in findings)),
        ("trades", *(f"{f.policy.figures.trades:,}" for f in findings)),
        ("best baseline", *(f.lead.baseline if f.lead is not None else UNKNOWN for f in findings)),
        ("lead a session", *(percent(f.lead.mean, 3) if f.lead is not None else UNKNOWN for f in findings)),
        ("deflated Sharpe ratio", *(number(f.deflated.deflated) for f in findings)),
        ("rank correlation of validation and test", *(_number_text(f.rank_correlation) for f in findings)),
        (
            "criteria passed",
            *(f"{sum(criterion.passes for criterion in f.criteria)} of {len(f.criteria)}" for f in findings),
        ),
    ]


def _number_text(value: float | None) -> str:
    return UNKNOWN if value is None else number(value)


def different(runs: Sequence[FinishedRun]) -> list[Row]:
    """The settings in which the runs differ, those within a table by dotted names; a dash where a run has none."""
    settings = [{name: value for name, value in run.settings.items() if name not in LEFT_OUT} for run in runs]
    return [*listed.different([dict(listed.dotted_settings(values)) for values in settings], UNKNOWN)]


def _plot(runs: Sequence[FinishedRun]) -> plots.Figure:
    """Net returns of policies and of their best baselines, with intervals."""
    spans = []
    for run in runs:
        best = max(run.findings.rivals, key=lambda line: line.figures.net_return, default=None)
        for line, style in ((run.findings.policy, "policy"), (best, "hold")):
            if line is not None:
                label = f"{run.name}: {line.name}"
                spans.append(
                    plots.IntervalRow(label, line.figures.net_return, line.net_return.low, line.net_return.high, style)
                )

    def chart(width: int) -> Markup:
        return plots.intervals(spans, "net return on the test sessions", "Runs and their best baselines", width)

    return plots.in_both_widths(chart)


def updates_csv(runs: Sequence[FinishedRun]) -> str:
    """Every update of every trial: run, trial, and the figures of its line in `metrics.jsonl`."""
    lines = [line for run in runs for line in updates_of(run.folder, run.name)]
    columns = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def updates_of(folder: Path, name: str = "") -> Iterator[dict[str, Any]]:
    """Yield every update of every trial in a run's folder: run, trial, and the figures of its line.

    Raises ValueError for a damaged file.
    """
    for path in sorted((folder / TRIALS_FOLDER).glob(f"*/{METRICS_FILE}")):
        for line in _read(path, _lines):
            yield {"run": name or folder.name, "trial": path.parent.name, **line}


def _lines(data: bytes) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line, type=dict[str, Any]) for line in data.splitlines()]
