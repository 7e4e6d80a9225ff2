"""Tables and plots of the results: against the baselines, over time, by fold, at higher costs and with a delay.

Every figure comes from the findings, every curve from the study. Missing values are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from markupsafe import Markup

from daemon.page_kit import plots
from daemon.page_kit.svg import Point, millions
from training.desks.kind import SYNTHETIC
from training.evidence.findings import Findings, FoldLine, PlayerLine
from training.evidence.statistics import chosen_results, running, session_returns
from training.evidence.wording import UNKNOWN, number, percent, share
from training.report.cells import PLAYER_STYLES, Row, fall, sharpe, with_interval
from training.report.framing import framed_curves, framed_spans
from training.report.lines import joined
from training.study.study import PlayResult, SessionResult, Study


def result_rows(f: Findings) -> list[Row]:
    """The policy and the baselines side by side, with intervals."""
    return _rows(f, (f.policy, *f.baselines))


def quoted_rows(f: Findings) -> list[Row]:
    """The policy on recorded option quotes and on Black-Scholes prices side by side; none without recorded ones."""
    synthetic = next((line for line in f.scenarios if line.name == SYNTHETIC), None)
    return [] if synthetic is None else _rows(f, (f.policy, synthetic))


def _rows(f: Findings, lines: Sequence[PlayerLine]) -> list[Row]:
    return [
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
        (
            "largest drawdown" if f.compounds else "largest fall of that sum",
            *(fall(line.figures.max_drawdown) for line in lines),
        ),
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


def _of(line: PlayerLine, value: float) -> str:
    return share(value) if line.figures.trades else UNKNOWN


def _ratio(line: PlayerLine, value: float, has_loss: bool) -> str:
    return number(value) if has_loss and line.figures.deviation > 0.0 else UNKNOWN


def result_plot(f: Findings, own: str = "policy") -> Markup:
    """Net returns with their intervals; `own` is the policy's name."""
    styles = [(line.name, line, PLAYER_STYLES.get(line.name, "other")) for line in f.baselines]
    return _net_returns(f, [(own, f.policy, "policy"), *styles], "Net return with 95 % interval")


def _net_returns(f: Findings, lines: Sequence[tuple[str, PlayerLine, str]], title: str) -> Markup:
    label = "net return, compounded" if f.compounds else "net return, sum of sessions"
    spans = [
        plots.IntervalRow(name, line.figures.net_return, line.net_return.low, line.net_return.high, style)
        for name, line, style in lines
    ]
    return plots.intervals(framed_spans(spans), label, title)


def equity_plot(study: Study, f: Findings, own: str = "policy") -> plots.Figure:
    """Running sums over the test sessions, with a band of random traders where there are any."""
    players = [(own, list(chosen_results(study)))]
    players += [
        (one.name, list(one.folds)) for one in study.baselines if not (f.random_ranges and one.name == "random")
    ]
    curves = [
        plots.Curve(name, "policy" if name == own else PLAYER_STYLES.get(name, "other"), _running(played, study))
        for name, played in players
    ]
    starts = list(accumulate((len(fold.test) for fold in study.folds), initial=0))
    band = None
    if f.random_ranges:
        edges = [(0.0, 0.0, 0.0), *((float(at), *found) for at, found in zip(starts[1:], f.random_ranges, strict=True))]
        band = plots.Band("random", edges)
    return plots.in_both_widths(lambda width: plots.equity(framed_curves(curves), band, _dates(study), width))


def _dates(study: Study) -> list[tuple[float, str]]:
    """Where each fold begins, of a single one each year, and the last session."""
    tests = [fold.test for fold in study.folds]
    starts = list(accumulate(map(len, tests), initial=0))
    marks = [(float(at), test[0]) for at, test in zip(starts, tests, strict=False)]
    if len(tests) == 1:
        years = [(place, date[:4]) for place, date in enumerate(tests[0])]
        marks += [(float(at), year) for (at, year), (_, last) in zip(years[1:], years, strict=False) if year != last]
    return [*marks, (float(starts[-1]), tests[-1][-1])]


def account_plot(study: Study, own: str = "policy") -> plots.Figure:
    """The account through all tests, and the passive one next to it."""
    one = study.one_account
    assert one is not None, "asked for a study that has one"
    curves = [plots.Curve(own, "policy", _grown(joined(one.folds), study))]
    if one.held:
        curves.append(plots.Curve(one.passive, "hold", _grown(one.held, study)))
    title = "One account through all tests"
    return plots.in_both_widths(lambda width: plots.equity(curves, None, _dates(study), width, title))


def _grown(sessions: Sequence[SessionResult], study: Study) -> list[Point]:
    return list(enumerate((0.0, *running(session_returns(sessions, study.capital_usd), compounds=True).tolist())))


def _running(played: Sequence[PlayResult], study: Study) -> list[Point]:
    sessions = [session for one in played for session in one.sessions]
    returns = running(session_returns(sessions, study.capital_usd), compounds=study.compounds)
    return list(enumerate((0.0, *returns.tolist())))


def span_rows(f: Findings) -> list[Row]:
    """The spans of each fold."""
    rows = []
    for index, fold in enumerate(f.folds, 1):
        dates = [f"{a} to {b}\n({count})" for a, b, count in (fold.train, fold.validate, fold.test)]
        if f.imported:
            dates[0] = "not known"
        rows.append((str(index), *dates, f"{fold.weekdays_left_out[0]} and {fold.weekdays_left_out[1]}"))
    return rows


def fold_rows(f: Findings) -> list[Row]:
    """What each fold chose and earned."""
    return [
        (
            str(index),
            _policy_of(f, fold),
            percent(fold.validate_return),
            Markup("<b>{}</b>").format(percent(fold.net_return)),
            str(fold.trades),
            number(fold.random_p, 3),
            *(percent(fold.baselines[name]) for name in f.folds[0].baselines),
        )
        for index, fold in enumerate(f.folds, 1)
    ]


def seed_rows(f: Findings) -> list[Row]:
    """How the mean of a fold's seeds did on validation next to the passive policy, and whether the seeds agree."""
    return [
        (
            str(index),
            "–" if fold.over_passive is None else with_interval(fold.over_passive),
            "–" if fold.agreement is None else number(fold.agreement.found, 3),
            "–" if fold.agreement is None else number(fold.agreement.chance, 3),
        )
        for index, fold in enumerate(f.folds, 1)
        if fold.over_passive is not None or fold.agreement is not None
    ]


def _policy_of(f: Findings, fold: FoldLine) -> str:
    """Which policy a fold ended with."""
    if f.imported:
        return "not known"
    return f"mean of {f.members}" if f.members > 1 else f"{fold.seed}\nat {millions(fold.chosen_steps)}"


def chosen_rows(study: Study) -> list[Row]:
    """What validation chose for each fold of a study with several agents."""
    return [
        (str(fold), *(number(one[name]) for name in ("sac", "td3", "threshold")))
        for fold, one in enumerate(study.extra["chosen"], 1)
    ]


def scenario_rows(f: Findings) -> list[Row]:
    """The policy under other costs and one bar late."""
    return [
        (
            name,
            with_interval(line.net_return),
            sharpe(line),
            fall(line.figures.max_drawdown),
            f"{line.figures.trades:,}",
            number(line.figures.fees_usd, 0),
        )
        for name, line, _ in _scenarios(f)
    ]


def scenario_plot(f: Findings) -> Markup:
    """The same as a plot."""
    return _net_returns(f, _scenarios(f), "Sensitivity to costs and delay")


def _scenarios(f: Findings) -> list[tuple[str, PlayerLine, str]]:
    return [("as reported", f.policy, "policy"), *((line.name, line, "rule") for line in f.scenarios)]
