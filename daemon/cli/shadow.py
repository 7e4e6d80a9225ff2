"""`rltraderctl shadow`: compare each candidate with the live model, the verdict first; also as a page or JSON.

Reads only the journal; also while a daemon runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

import daemon.reports
from daemon.cli.arguments import NotFound, add_state_dir, lead_on, write_out
from daemon.journal.journal import FILE
from daemon.page_kit.render import render
from daemon.reports.shadow import ShadowReport, shadow_reports

TEMPLATE = Path(daemon.reports.__path__[0]) / "shadow.html"


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `shadow`."""
    command.set_defaults(run=run)
    add_state_dir(command)
    command.add_argument("--html", type=Path, metavar="FILE", help="write a page there")
    command.add_argument("--json", action="store_true", help="one JSON object a candidate")


def run(options: argparse.Namespace, console: Console) -> int:
    """Print or write the report of each candidate; returns 0. Raises NotFound, JournalError."""
    reports = shadow_reports(options.state_dir / FILE)
    if not reports:
        raise NotFound(f"no candidate has answered in {options.state_dir}: name one with policy.shadow")

    def show() -> None:
        lead_on(options, "models", "list", about=())
        for report in reports:
            _show(report, console)

    write_out(options, console, reports, show, lambda: page(reports))
    return 0


def lines_of(report: ShadowReport) -> list[tuple[str, str]]:
    """Return the report's figures as (name, value) texts."""
    lines = [
        ("decisions both answered", f"{report.decisions:,}"),
        ("candidate failed", f"{report.failures:,}"),
        ("only the candidate answered", f"{report.unmatched:,}"),
    ]
    for label, value, form in (
        ("agreement", report.agreement, ".2%"),
        ("Cohen's kappa", report.kappa, ".4f"),
        ("mean confidence, live", report.confidence_live, ".4f"),
        ("mean confidence, candidate", report.confidence_shadow, ".4f"),
        ("total variation of the probabilities", report.total_variation, ".4f"),
        ("mean absolute difference of an action", report.mean_difference, ".4f"),
    ):
        if value is not None:
            lines.append((label, format(value, form)))
    hypothetical = report.hypothetical
    if hypothetical is not None:
        lines += [
            ("hypothetical result, live", f"{hypothetical.live_usd:+,.2f} USD in {hypothetical.live_trades:,} trades"),
            (
                "hypothetical result, candidate",
                f"{hypothetical.shadow_usd:+,.2f} USD in {hypothetical.shadow_trades:,} trades",
            ),
            (
                "difference a session",
                f"{hypothetical.mean_difference_usd:+,.2f} USD over {len(hypothetical.sessions):,} sessions",
            ),
            ("prices that are not the journal's", f"{hypothetical.modelled:,}"),
        ]
    return lines


def page(reports: Sequence[ShadowReport]) -> str:
    """Return a page without scripts or outside resources."""
    return render(TEMPLATE, reports=reports, lines_of=lines_of, confusion_of=confusion_of)


def confusion_of(report: ShadowReport) -> list[tuple[str, ...]]:
    """Return, for each action of the live model, how often the candidate chose each action."""
    return [
        (name, *(f"{count:,}" for count in counts))
        for name, counts in zip(report.actions, report.confusion, strict=True)
    ]


def _show(report: ShadowReport, console: Console) -> None:
    console.rule(f"{report.model} compared with {', '.join(report.beside) or 'no live model'}", align="left")
    console.print(report.verdict)
    figures = Table(show_header=False)
    for line in lines_of(report):
        figures.add_row(*line)
    console.print(figures)
    console.print(report.calibration)
    confusion = Table("live \\ candidate", *report.actions)
    for row in confusion_of(report):
        confusion.add_row(*row)
    console.print(confusion)
    if report.hypothetical is not None:
        console.print(f"The rule: {report.hypothetical.rule}")
