"""The criteria for trading real money: one table, each line a function of the findings.

The only such list; report and promotion both read it. A figure that is not known fails.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import NamedTuple

from training.evidence.findings import Findings, Judged
from training.evidence.resampling import FEWEST
from training.evidence.wording import number, percent, share

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
    own = findings.policy.figures
    return own.sessions_traded if findings.compounds else own.trades


def _lead(findings: Findings) -> float | None:
    """Net return less the best baseline's; None without baselines."""
    others = [line.figures.net_return for line in findings.baselines]
    return findings.policy.figures.net_return - max(others) if others else None


def _lower_bound(findings: Findings) -> float | None:
    """Of the mean session return's interval; None where sessions are too few or all alike, so that it shows nothing.

    Of a desk of shares, which the market alone may lift above 0, the lowest of this and its leads over the baselines.
    """
    own = findings.policy.figures
    if own.sessions < FEWEST or own.deviation <= 0.0:
        return None
    leads = [gap.low for gap in findings.over_baselines.values()] if findings.compounds else []
    return min([findings.policy.session_return.low, *leads])


def _deflated(findings: Findings) -> float | None:
    """None for an imported policy: the number of its trials is unknown."""
    return None if findings.imported else findings.deflated.deflated


def _scenario(name: str) -> Callable[[Findings], float | None]:
    def figure(findings: Findings) -> float | None:
        return next((line.figures.net_return for line in findings.scenarios if line.name == name), None)

    return figure


def _of_minimum(findings: Findings) -> float | None:
    """Test sessions over the minimum track record."""
    minimum = findings.deflated.minimum_sessions
    return None if minimum is None else findings.policy.figures.sessions / minimum


def _recorded(made_up: float) -> str:
    return "made up" if made_up else "recorded"


def _against_the_best(lead: float) -> str:
    return f"{percent(lead)} against the best"


def _of_them(part: float) -> str:
    return f"{share(part)} of them"


CRITERIA: tuple[Criterion, ...] = (
    Criterion("data", "bars are recorded, not made up", lambda f: f.synthetic, operator.le, 0, _recorded),
    Criterion("seeds", "at least 10 seeds in every fold", lambda f: f.seeds, operator.ge, 10, "{:.0f}".format),
    Criterion("folds", "at least 3 folds", lambda f: len(f.folds), operator.ge, 3, "{:.0f}".format),
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
        "mean return",
        "95 % interval of the mean session return above 0, of a basket of shares that over every baseline too",
        _lower_bound,
        operator.gt,
        0.0,
        lambda low: f"lower bound {percent(low, 3)}",
    ),
    Criterion(
        "deflated Sharpe",
        "deflated Sharpe ratio at least 0.95",
        _deflated,
        operator.ge,
        0.95,
        lambda ratio: number(ratio, 3),
    ),
    Criterion(
        "overfitting",
        "probability of backtest overfitting at most 0.2",
        lambda f: f.overfitting.probability,
        operator.le,
        0.2,
        number,
    ),
    Criterion("luck", "at most 5 % of random traders did as well", lambda f: f.random_p, operator.le, 0.05, _of_them),
    Criterion("costs", "net return above 0 at twice the costs", _scenario(COSTS_TWICE), operator.gt, 0.0, percent),
    Criterion("delay", "net return above 0 one bar late", _scenario(ONE_BAR_LATE), operator.gt, 0.0, percent),
    Criterion(
        "track record",
        "as many test sessions as the minimum track record",
        _of_minimum,
        operator.ge,
        1.0,
        _of_them,
    ),
)
"""What a policy must show before it may trade real money."""


def judge(findings: Findings) -> tuple[Judged, ...]:
    """Every criterion of `CRITERIA` on these findings, in its order. What is not known (None, or not finite) fails."""
    return tuple(_judged(criterion, criterion.figure(findings)) for criterion in CRITERIA)


def _judged(criterion: Criterion, figure: float | None) -> Judged:
    if figure is None or not math.isfinite(figure):
        return Judged(criterion.name, criterion.rule, "not known", passes=False)
    holds = criterion.compare(figure, criterion.threshold)
    return Judged(criterion.name, criterion.rule, criterion.shown(figure), passes=bool(holds))
