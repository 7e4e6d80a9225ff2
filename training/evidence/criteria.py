"""The criteria for trading real money: one table, each line a function of the findings.

The only such list; report and promotion both read it. A figure that is not known fails.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import NamedTuple

from training.evidence.findings import Findings, Judged
from training.evidence.wording import number, percent, share

MINUTE_SESSIONS, DAILY_SESSIONS = 60, 756
"""The fewest test sessions: of desks whose sessions have accounts of their own, and of one account through all."""
DRAWDOWN = 0.25
MODELLED = 0.1  # of the fills of a run on recorded option quotes, at most, at a modelled price
DEFLATED = 0.95  # of the lead, at least
MOVED = 0.01  # nats, or deviation of an action or a probability

COSTS_TWICE, ONE_BAR_LATE = "costs x 2", "one bar late"
"""Names of the scenarios of a study that a policy has to survive."""


class Criterion(NamedTuple):
    """A rule in words (its threshold among them), the figure it looks at, and how that is compared and worded."""

    name: str
    rule: str
    figure: Callable[[Findings], float | None]
    compare: Callable[[float, float], bool]
    threshold: float
    shown: Callable[[float], str]


def _trades(findings: Findings) -> float:
    """Trades; of a desk of shares the sessions with any, because one basket fills dozens of orders."""
    figures = findings.policy.figures
    return figures.sessions_traded if findings.compounds else figures.trades


def _lead(findings: Findings) -> float | None:
    """Net return less the best baseline's; None without baselines."""
    others = [line.figures.net_return for line in findings.rivals]
    return findings.policy.figures.net_return - max(others) if others else None


def _lower_bound(findings: Findings) -> float | None:
    """Of the mean lead of a session; None where sessions are too few, or all alike, so that it shows nothing."""
    return findings.lead.low if findings.lead is not None else None


def _deflated(findings: Findings) -> float | None:
    """None for an imported policy: the number of its trials is unknown."""
    return None if findings.imported or findings.lead is None else findings.lead.deflated


def _loss(findings: Findings) -> float | None:
    return findings.lead.loss if findings.lead is not None else None


def _length(findings: Findings) -> float:
    """Test sessions over the fewest that count."""
    return findings.policy.figures.sessions / (DAILY_SESSIONS if findings.compounds else MINUTE_SESSIONS)


def _drawdown(findings: Findings) -> float:
    """The largest drawdown less what is allowed: the limit, or the best baseline's where that is deeper."""
    best = max(findings.rivals, key=lambda line: line.figures.net_return, default=None)
    theirs = best.figures.max_drawdown if best is not None else 0.0
    return findings.policy.figures.max_drawdown - max(DRAWDOWN, theirs)


def _moved(findings: Findings) -> float | None:
    """The KL divergence from the start, or the variation where that is smaller, over the least; None: not measured."""
    learnt = findings.learnt
    return None if learnt is None or learnt.kl is None else min(learnt.kl, learnt.variation) / MOVED


def _on_quotes(findings: Findings) -> float | None:
    """1 and more on recorded quotes, or without options; 0 on made-up prices alone; None: it is not known."""
    run = findings.recorded_run
    if not findings.trades_options:
        return None if findings.trades_options is None else 1.0
    if run is None or run.fills < 1 or run.profit_usd <= 0.0 or run.modelled > MODELLED * run.fills:
        return 0.0
    return run.sessions / MINUTE_SESSIONS


def net_return_of(findings: Findings, scenario: str) -> float | None:
    """Return the policy's net return in a scenario, None where it was not played."""
    return next((line.figures.net_return for line in findings.scenarios if line.name == scenario), None)


def _scenario(name: str) -> Callable[[Findings], float | None]:
    return lambda findings: net_return_of(findings, name)


def _not_recorded(findings: Findings) -> float:
    """0 of bars whose file names their source, 1 of others, 2 of made-up ones."""
    return 2.0 if findings.synthetic else 0.0 if findings.source else 1.0


def _shown_kind(not_recorded: float) -> str:
    return ("recorded", "of a file that names no source", "made up")[round(not_recorded)]


def kind_of_bars(findings: Findings) -> str:
    """Return in words whether the bars were recorded, and by whom."""
    words = _shown_kind(_not_recorded(findings))
    return f"{words} ({findings.source})" if findings.source and not findings.synthetic else words


def _shown_on_quotes(part: float) -> str:
    return f"{share(part)} of it" if part else "none, or without a profit, or on modelled prices"


def _against_the_best(lead: float) -> str:
    return f"{percent(lead)} against the best"


def _of_them(part: float) -> str:
    return f"{share(part)} of them"


CRITERIA: tuple[Criterion, ...] = (
    Criterion("data", "bars are recorded: their file names its source", _not_recorded, operator.le, 0, _shown_kind),
    Criterion(
        "recorded options",
        f"options: a profit on recorded quotes of at least {MINUTE_SESSIONS} sessions after those it learned from, at "
        f"most {MODELLED:.0%} of the fills at modelled prices".replace("%", " %"),
        _on_quotes,
        operator.ge,
        1.0,
        _shown_on_quotes,
    ),
    Criterion(
        "weights",
        "the exported weights are those that the last fold tested",
        lambda f: f.refit or f.passive,
        operator.le,
        0,
        lambda other: "other ones" if other else "the tested ones",
    ),
    Criterion("seeds", "at least 10 seeds in every fold", lambda f: f.seeds, operator.ge, 10, "{:.0f}".format),
    Criterion(
        "length",
        f"at least {MINUTE_SESSIONS} test sessions, of a basket of shares {DAILY_SESSIONS}",
        _length,
        operator.ge,
        1.0,
        lambda part: f"{share(part)} of the fewest",
    ),
    Criterion(
        "trades",
        "at least 30 trades on the test sessions, of a basket of shares on 30 of them",
        _trades,
        operator.ge,
        30,
        "{:.0f}".format,
    ),
    Criterion("profit", "net return above 0", lambda f: f.policy.figures.net_return, operator.gt, 0.0, percent),
    Criterion("baselines", "net return above every baseline's", _lead, operator.gt, 0.0, _against_the_best),
    Criterion(
        "lead",
        "lower bound of the mean lead over the best baseline above 0, one-sided at 99 %",
        _lower_bound,
        operator.gt,
        0.0,
        lambda low: f"lower bound {percent(low, 3)} a session",
    ),
    Criterion(
        "deflated lead",
        f"deflated Sharpe ratio of that lead, among all trials, at least {DEFLATED}",
        _deflated,
        operator.ge,
        DEFLATED,
        lambda ratio: number(ratio, 3),
    ),
    Criterion(
        "overfitting",
        "the best seed of one half of the sessions trails that baseline in the other in at most 20 % of the splits",
        _loss,
        operator.le,
        0.2,
        lambda part: f"{share(part)} of the splits",
    ),
    Criterion(
        "drawdown",
        f"largest drawdown at most {DRAWDOWN:.0%}, or the best baseline's where that is deeper".replace("%", " %"),
        _drawdown,
        operator.le,
        0.0,
        lambda over: f"{percent(over)} against the limit",
    ),
    Criterion(
        "moved",
        "answers at least 0.01 nats from those of the network it began as, which vary by 0.01 over what it sees",
        _moved,
        operator.ge,
        1.0,
        lambda part: f"{share(part)} of the least",
    ),
    Criterion("luck", "at most 5 % of random traders did as well", lambda f: f.random_p, operator.le, 0.05, _of_them),
    Criterion("costs", "net return above 0 at twice the costs", _scenario(COSTS_TWICE), operator.gt, 0.0, percent),
    Criterion("delay", "net return above 0 one bar late", _scenario(ONE_BAR_LATE), operator.gt, 0.0, percent),
)
"""What a policy must show before it may trade real money."""


def judge(findings: Findings) -> tuple[Judged, ...]:
    """Every criterion of `CRITERIA` on these findings, in its order. What is not known (None, or not finite) fails."""
    return tuple(_judged(criterion, findings) for criterion in CRITERIA)


def passes(criterion: Criterion, findings: Findings) -> bool:
    """Whether the findings meet it; a figure that is not known (None, or not finite) fails."""
    figure = criterion.figure(findings)
    return figure is not None and math.isfinite(figure) and bool(criterion.compare(figure, criterion.threshold))


def _judged(criterion: Criterion, findings: Findings) -> Judged:
    figure = criterion.figure(findings)
    known = figure is not None and math.isfinite(figure)
    found = criterion.shown(figure) if known and figure is not None else "not known"
    return Judged(criterion.name, criterion.rule, found, passes=passes(criterion, findings))
