"""The page of a rule's version: its test sessions beside those of the baselines. `report.html` has order and words.

The report of an environment with torch says more: resampled intervals, costs twice as high, answers a day late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from daemon.page_kit.plots import Curve, Figure, equity, in_both_widths
from daemon.page_kit.render import render
from strategies.kit.manifest import Manifest
from training.evidence.statistics import session_returns
from training.evidence.wording import number, percent
from training.study.study import SessionFigures, SessionResult

TEMPLATE = Path(__file__).with_name("report.html")
OWN = "the rule"


def rule_page(
    manifest: Manifest,
    played: Mapping[str, Sequence[SessionResult]],
    earned: Mapping[str, SessionFigures],
    best: str,
    capital_usd: float,
) -> str:
    """The whole document.

    Args:
        manifest: the version's.
        played: the test sessions by player, `OWN` first.
        earned: the figures of each.
        best: the baseline that is drawn beside it.
        capital_usd: at the begin.
    """
    training = manifest.training
    rows = []
    for name, result in earned.items():
        rows.append(
            [
                name,
                percent(result.net_return),
                number(result.sharpe_annual),
                percent(-result.max_drawdown),
                f"{result.trades:,}",
                f"{result.fees_usd:,.2f} USD",
                f"{100 * result.exposure:.1f} %",
            ]
        )
    facts = [
        ("bars", f"{training.file}{', made up' if training.synthetic else ''}, SHA-256 {training.file_sha256[:12]}"),
        *((f"sessions to {name}", f"{first} to {end}") for name, (first, end) in training.splits.items()),
        ("capital", f"{capital_usd:,.0f} USD"),
        ("contract", manifest.contract_hash[:12]),
        *((name, str(value)) for name, value in sorted(manifest.model_config.items())),
    ]
    return render(
        TEMPLATE,
        strategy=manifest.strategy,
        version=manifest.version,
        verdict=manifest.note,
        course=_course({name: played[name] for name in (OWN, best)}, capital_usd),
        players=rows,
        facts=facts,
    )


def _course(played: Mapping[str, Sequence[SessionResult]], capital_usd: float) -> Figure:
    curves = []
    for (name, results), style in zip(played.items(), ("rule", "other"), strict=True):
        points, total = [(0.0, 0.0)], 1.0
        for place, earned in enumerate(session_returns(results, capital_usd).tolist(), 1):
            total *= 1.0 + earned
            points.append((float(place), total - 1.0))
        curves.append(Curve(name, style, points))
    dates = [session.date for session in next(iter(played.values()))]
    marks = [(0.0, dates[0]), (float(len(dates)), dates[-1])]
    return in_both_widths(lambda width: equity(curves, None, marks, width, "Return over the test sessions"))
