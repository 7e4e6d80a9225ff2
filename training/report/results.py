"""Sections of a report's page on what was earned: beside the baselines, over time, by fold, at higher costs and later.

Words and layout only: every figure comes from the findings, every curve from the study. What is missing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import accumulate

from training.evidence.findings import Findings, Line, told_apart
from training.evidence.resampling import FEWEST, Interval
from training.evidence.statistics import running, session_returns
from training.evidence.wording import UNKNOWN, counted, number, percent, share
from training.report import plots
from training.report.html import Row, figure, paragraph, sharpe, style, table, with_interval
from training.report.plots import NARROW, WIDE
from training.study.study import Played, Study


def result_section(f: Findings) -> str:
    """HTML: the policy and the baselines in one table, with intervals and what to beware of."""
    lines = (f.policy, *f.baselines)
    rows: list[Row] = [
        ("net return" if f.compounds else "net return, sum", *(with_interval(line.net_return) for line in lines)),
        *([("a year", *(percent(line.figures.annual_return) for line in lines))] if f.compounds else []),
        ("in USD", *(number(line.figures.net_return * f.capital_usd, 0) for line in lines)),
        ("a session", *(percent(line.figures.mean, 3) for line in lines)),
        ("Sharpe ratio, annual", *(sharpe(line) for line in lines)),
        (
            "Sortino ratio, annual",
            *(_ratio(line, line.figures.sortino_annual, line.figures.worst_session < 0.0) for line in lines),
        ),
        ("Calmar ratio", *(_ratio(line, line.figures.calmar, line.figures.max_drawdown > 0.0) for line in lines)),
        ("largest drawdown", *(share(line.figures.max_drawdown) for line in lines)),
        ("worst session", *(percent(line.figures.worst_session) for line in lines)),
        ("sessions that earned", *(_of(line, line.figures.hit_rate_sessions) for line in lines)),
        *(
            []
            if f.compounds
            else [("trades that earned", *(_of(line, line.figures.hit_rate_trades) for line in lines))]
        ),
        ("trades", *(f"{line.figures.trades:,}" for line in lines)),
        ("turnover a session", *(number(line.figures.turnover, 3 if f.compounds else 2) for line in lines)),
        ("time in the market", *(share(line.figures.exposure) for line in lines)),
        ("costs, USD" if f.compounds else "fees, USD", *(number(line.figures.fees_usd, 0) for line in lines)),
    ]
    spans = [
        plots.Span(line.name, line.figures.net_return, line.net_return.low, line.net_return.high, style(line.name))
        for line in lines
    ]
    chart = figure(
        plots.intervals(spans, plots.percent, _net_label(f), "Net return with 95 % interval"),
        "Net return with its 95 % interval (stationary bootstrap). Players lived through the same "
        "sessions, so whether they can be told apart is in the differences session by session, not in these bars.",
    )
    ahead = "".join(
        f"<li>over {escape(name)}: {with_interval(gap, 3)} a session ({_apart(gap, f.policy.figures.sessions)})</li>"
        for name, gap in f.over_baselines.items()
    )
    described = "".join(
        f"<li><b>{escape(line.name)}</b>: {escape(line.description)}</li>" for line in f.baselines if line.description
    )
    cautions = dict.fromkeys((*f.policy.figures.notes, f.policy.net_return.note))
    notes = "".join(f"<li>{escape(note)}</li>" for note in cautions if note)
    missing = "" if f.baselines else paragraph("No baseline was played, so there is nothing to compare with.")
    return (
        table(("", *(line.name for line in lines)), rows, f"numbers first{' many' * (len(lines) > 5)}")
        + missing
        + f'<div class="figures">{chart}<div class="words">'
        + (f"<h3>The policy against each, session by session</h3><ul>{ahead}</ul>" if ahead else "")
        + (f"<h3>Who they are</h3><ul>{described}</ul>" if described else "")
        + (f"<h3>Read with care</h3><ul>{notes}</ul>" if notes else "")
        + "</div></div>"
        + paragraph(
            (
                "All figures are after costs. What waiting for the sells cost is in the prices of the buys. "
                if f.compounds
                else "All figures are after spread and fees. The spread is in the prices, so only fees have a line. "
            )
            + _who(f)
        )
    )


def _net_label(f: Findings) -> str:
    return "net return, compounded" if f.compounds else "net return, sum of sessions"


def _who(f: Findings) -> str:
    if f.imported:
        return "The policy was trained elsewhere; nothing was chosen here."
    if len(f.folds) == 1:
        return "The policy is the seed with the best validation return; its test sessions chose nothing."
    last = counted(f.folds[-1].test[2], "test session")
    return (
        "The policy is, in each fold, the seed with the best validation return; its test sessions chose nothing. So "
        f"these figures are those of the procedure. What it ships is the last fold's policy, which only the {last} of "
        f"that fold tested: {percent(f.folds[-1].net_return)}."
    )


def equity_section(study: Study, f: Findings) -> str:
    """HTML: running sums over the test sessions, on a wide and a narrow page."""
    players = [("policy", [study.trials[index].test for index in study.chosen])]
    banded = bool(f.random_ranges)
    players += [(one.name, list(one.folds)) for one in study.baselines if not (banded and one.name == "random")]
    curves = [plots.Curve(name, style(name), _running(played, study)) for name, played in players]
    starts = list(accumulate((len(fold.test) for fold in study.folds), initial=0))
    band = None
    if banded:
        edges = [(0.0, 0.0, 0.0), *((float(at), *found) for at, found in zip(starts[1:], f.random_ranges, strict=True))]
        band = plots.Band("random", edges)
    folds = [(float(at), fold.test[0]) for at, fold in zip(starts, study.folds, strict=False)]
    shown = "".join(
        f'<div class="{kind}">{plots.equity(curves, band, folds, width)}</div>'
        for kind, width in (("on-wide", WIDE), ("on-narrow", NARROW))
    )
    text = "Running sum of net returns, every session on the same capital. A date is the first test session of a fold."
    if study.compounds:
        text = "Equity / equity at the start − 1, at every close. The date is that of the first test session."
    if banded:
        text += " The grey band holds nine of ten random traders at each fold's end (straight lines between)."
    return f'<figure class="whole">{shown}<figcaption>{escape(text)}</figcaption></figure>'


def folds_section(f: Findings) -> str:
    """HTML: spans, choices and returns of each fold."""
    names = list(f.folds[0].baselines)
    spans, earned = [], []
    for index, fold in enumerate(f.folds, 1):
        dates = [f"{a} to {b} <small>({count})</small>" for a, b, count in (fold.train, fold.validate, fold.test)]
        if f.imported:
            dates[0] = "not known"
        spans.append((str(index), *dates, f"{fold.weekdays_left_out[0]} and {fold.weekdays_left_out[1]}"))
        earned.append(
            (
                str(index),
                "not known" if f.imported else f"{fold.seed} <small>at {plots.millions(fold.chosen_steps)}</small>",
                percent(fold.validate_return),
                f"<b>{percent(fold.net_return)}</b>",
                str(fold.trades),
                number(fold.random_p, 3),
                *(percent(fold.baselines[name]) for name in names),
            )
        )
    head = ("fold", "seed chosen", "validation", "test", "trades", "random p", *(escape(name) for name in names))
    over = "over" if f.compounds else "summed over"
    text = f"Net returns, {over} the fold's sessions. Random p is the share of random traders that did as well."
    if len(f.folds) == 1:
        text += " With one fold nothing says whether the result holds in another period."
    if f.detectable_fold is not None:
        text += f" One fold alone says little. {f.detectable_fold.words}".replace("%", " %")
    gaps = (
        "Number of sessions in brackets. The weekdays left out lie between train and validate, and between "
        "validate and test (purge and embargo; holidays count)."
    )
    if f.compounds:
        gaps += (
            " Spans of whole years follow one another without any: what lies between is holidays. A reward ends with "
            "its session, so none reaches over a span's edge; what a decision looks back on does."
        )
    return (
        table(("fold", "train", "validate", "test", "weekdays left out"), spans, "numbers folds")
        + paragraph(gaps)
        + table(head, earned, f"numbers folds{' many' * (len(names) > 4)}")
        + paragraph(text)
    )


def scenarios_section(f: Findings) -> str:
    """HTML: the policy under other costs and one bar late."""
    if not f.scenarios:
        return paragraph("Not tested: what higher costs or a later order leave of the result is not known.")
    lines = (f.policy, *f.scenarios)
    rows = [
        (
            escape(_scenario_name(line, f)),
            with_interval(line.net_return),
            sharpe(line),
            share(line.figures.max_drawdown),
            f"{line.figures.trades:,}",
            number(line.figures.fees_usd, 0),
        )
        for line in lines
    ]
    spans = [
        plots.Span(
            _scenario_name(line, f),
            line.figures.net_return,
            line.net_return.low,
            line.net_return.high,
            "policy" if line is f.policy else "rule",
        )
        for line in lines
    ]
    return table(
        ("", "net return", "Sharpe", "drawdown", "trades", "costs, USD" if f.compounds else "fees, USD"),
        rows,
        "numbers",
    ) + figure(
        plots.intervals(spans, plots.percent, _net_label(f), "Sensitivity to costs and delay"),
        "The same policy once more under other conditions. An edge that one bar of delay removes is not one to count "
        "on.",
    )


def _running(played: Sequence[Played], study: Study) -> list[plots.Point]:
    sessions = [session for one in played for session in one.sessions]
    returns = running(session_returns(sessions, study.capital_usd), compounds=study.compounds)
    return list(enumerate((0.0, *returns.tolist())))


def _scenario_name(line: Line, f: Findings) -> str:
    return "as reported" if line is f.policy else line.name


def _of(line: Line, value: float) -> str:
    return share(value) if line.figures.trades else UNKNOWN


def _ratio(line: Line, value: float, has_loss: bool) -> str:
    return number(value) if has_loss and line.figures.deviation > 0.0 else UNKNOWN


def _apart(gap: Interval, sessions: int) -> str:
    if sessions < FEWEST:
        return "too few sessions to tell"
    if not told_apart(gap, sessions):
        return "zero is inside: not told apart"
    return "above zero" if gap.low > 0.0 else "below zero"
