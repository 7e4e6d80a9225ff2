"""Cells of a report's tables: figures with their intervals, in small type after a line feed."""

from __future__ import annotations

from training.evidence.findings import Findings, PlayerLine, told_apart
from training.evidence.resampling import FEWEST, Interval
from training.evidence.wording import UNKNOWN, number, percent, share

PLAYER_STYLES = {
    "policy": "policy",
    "always flat": "flat",
    "buy and hold": "hold",
    "random": "random",
    "simple rule": "rule",
    "ALL_SPY": "hold",
    "EQUAL_WEIGHT": "rule",
    "equal weight": "rule",
    "forecaster alone": "rule",
}
"""A player's class in the style sheet; any other's is `other`."""
ACTIVE = frozenset(("random", "simple rule", "untrained network"))
"""Baselines that trade at random or by a rule: their results may lie far outside a plot."""
Row = tuple[str, ...]


def with_interval(interval: Interval, digits: int = 2) -> str:
    """An estimate as a percentage with its interval where it has a width."""
    if interval.low == interval.high:
        return percent(interval.estimate, digits)
    return f"{percent(interval.estimate, digits)}\n{percent(interval.low, digits)} to {percent(interval.high, digits)}"


def with_share(interval: Interval) -> str:
    """A share between 0 and 1 with its interval, as above."""
    if interval.low == interval.high:
        return share(interval.estimate)
    return f"{share(interval.estimate)}\n{share(interval.low)} to {share(interval.high)}"


def sharpe(line: PlayerLine) -> str:
    """A player's annual Sharpe ratio with its interval; a dash without deviation."""
    ratio = line.sharpe_annual
    if line.figures.deviation <= 0.0:
        return UNKNOWN
    return f"{number(ratio.estimate)}\n{number(ratio.low)} to {number(ratio.high)}"


def fall(part: float) -> str:
    """A drawdown as a percentage below zero."""
    words = share(part)
    return words if words == UNKNOWN or not any(digit in words for digit in "123456789") else f"\N{MINUS SIGN}{words}"


def difference(gap: Interval, sessions: int) -> str:
    """Whether a difference is distinguishable from zero."""
    if sessions < FEWEST:
        return "too few sessions to decide"
    if not told_apart(gap, sessions):
        return "zero is inside: no difference shown"
    return "above zero" if gap.low > 0.0 else "below zero"


def variant_word(f: Findings) -> str:
    """The word for a study's variants: rewards on option desks, settings on share desks."""
    return "setting" if f.compounds else "reward"
