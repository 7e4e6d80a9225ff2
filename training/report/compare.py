"""Finished runs side by side: one table, one plot, and their updates as CSV. Reads reports, computes nothing new."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from markupsafe import Markup

from daemon.page_kit import plots
from daemon.page_kit.render import render
from training.evidence.findings import REPORT_FILE, Findings, decode
from training.evidence.wording import UNKNOWN, number, percent
from training.report.cells import Row, fall, sharpe, with_interval

TEMPLATE = Path(__file__).with_name("compare.html")
RUN_FILE, TRIALS_FOLDER, METRICS_FILE = "run.json", "trials", "metrics.jsonl"
LEFT_OUT = frozenset({"bars", "bars_sha256", "made_with", "processes_a_trial"})  # of the settings that may differ


@dataclass(frozen=True, slots=True)
class Compared:
    """A finished run: its folder's name, its findings, and its settings."""

    name: str
    folder: Path
    findings: Findings
    settings: dict[str, Any]


def read_run(folder: Path) -> Compared:
    """Read a run's folder, or a version's folder, which has no settings of its own.

    Raises:
        ValueError: it holds no report; the text has the cure.
    """
    path, settings = folder / REPORT_FILE, folder / RUN_FILE
    try:
        findings = decode(path.read_bytes())
        known: dict[str, Any] = json.loads(settings.read_bytes()) if settings.exists() else {}
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): give the folders of finished runs, or of versions"
        ) from error
    return Compared(folder.resolve().name, folder, findings, known)


def page(runs: Sequence[Compared]) -> str:
    """The whole document. Same reports, same text."""
    tested = {(run.findings.data_sha256, run.findings.first_session, run.findings.last_session) for run in runs}
    return render(
        TEMPLATE,
        names=[run.name for run in runs],
        head=["", *(run.name for run in runs)],
        rows=rows_of(runs),
        different=different(runs),
        plot=_plot(runs),
        same=len(tested) == 1,
    )


def rows_of(runs: Sequence[Compared]) -> list[Row]:
    """What each run was, earned and showed."""
    found = [run.findings for run in runs]
    return [
        ("strategy, network", *(f"{f.strategy}, {f.network}" for f in found)),
        ("bars", *(f.data_file for f in found)),
        ("test sessions", *(f"{f.policy.figures.sessions}\n{f.first_session} to {f.last_session}" for f in found)),
        ("folds, seeds", *(f"{len(f.folds)}, {f.seeds}" for f in found)),
        ("setting", *(f.reward for f in found)),
        ("net return", *(with_interval(f.policy.net_return) for f in found)),
        ("Sharpe ratio, annual", *(sharpe(f.policy) for f in found)),
        ("largest drawdown", *(fall(f.policy.figures.max_drawdown) for f in found)),
        ("trades", *(f"{f.policy.figures.trades:,}" for f in found)),
        ("best baseline", *(f.lead.baseline if f.lead is not None else UNKNOWN for f in found)),
        ("lead a session", *(percent(f.lead.mean, 3) if f.lead is not None else UNKNOWN for f in found)),
        ("deflated Sharpe ratio", *(number(f.deflated.deflated) for f in found)),
        ("rank correlation of validation and test", *(_known(f.rank_correlation) for f in found)),
        ("criteria passed", *(f"{sum(one.passes for one in f.criteria)} of {len(f.criteria)}" for f in found)),
    ]


def _known(value: float | None) -> str:
    return UNKNOWN if value is None else number(value)


def different(runs: Sequence[Compared]) -> list[Row]:
    """The settings in which the runs differ."""
    names = sorted({name for run in runs for name in run.settings} - LEFT_OUT)
    values = {name: [json.dumps(run.settings.get(name)) for run in runs] for name in names}
    return [(name, *found) for name, found in values.items() if len(set(found)) > 1]


def _plot(runs: Sequence[Compared]) -> Markup:
    """Net returns of policies and of their best baselines, with intervals."""
    spans = []
    for run in runs:
        best = max(run.findings.rivals, key=lambda line: line.figures.net_return, default=None)
        for line, style in ((run.findings.policy, "policy"), (best, "hold")):
            if line is not None:
                label = f"{run.name}: {line.name}"
                spans.append(
                    plots.Span(label, line.figures.net_return, line.net_return.low, line.net_return.high, style)
                )
    return plots.intervals(spans, "net return on the test sessions", "Runs and their best baselines")


def updates_csv(runs: Sequence[Compared]) -> str:
    """Every update of every trial: run, trial, and the figures of its line in `metrics.jsonl`."""
    lines = [line for run in runs for line in _updates(run)]
    columns = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _updates(run: Compared) -> Iterator[dict[str, Any]]:
    for path in sorted((run.folder / TRIALS_FOLDER).glob(f"*/{METRICS_FILE}")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield {"run": run.name, "trial": path.parent.name, **json.loads(line)}
