"""Tables of the heads of a policy: what they knew beside the base rate, on the test sessions."""

from __future__ import annotations

from training.evidence.heads import DirectionScores, HeadScores, RiskScores
from training.evidence.resampling import Interval
from training.evidence.wording import number, share
from training.report.cells import Row

HEAD = ("", "head", "base rate", "head less base rate")
RISK = 10_000.0  # basis points


def direction_words(scores: HeadScores) -> str:
    """Whether the direction head knows more than the base rate, in a sentence; "" without one."""
    if scores.direction is None:
        return ""
    gap = scores.direction.over_log_loss
    if gap.high < 0.0:
        return "The direction head knows more than the base rate."
    if gap.low > 0.0:
        return "The direction head knows less than the base rate: who names the base rate is nearer."
    return "That the direction head knows more than the base rate is not shown."


def rows(scores: HeadScores) -> list[Row]:
    """A row for each score: of the head, of the base rate, and their difference; small figures are intervals."""
    direction, risk = scores.direction, scores.risk
    return [*(_direction(direction) if direction else ()), *(_risk(risk) if risk else ())]


def facts(scores: HeadScores) -> str:
    """What was scored, in a sentence for each head."""
    texts = []
    if scores.direction is not None:
        one = scores.direction
        texts.append(
            f"direction: {one.rows:,} bars of {one.sessions} sessions, {share(one.came)} of them rose; base rate "
            f"{share(one.base_rate)}, from the training sessions"
        )
    if scores.risk is not None:
        two = scores.risk
        came, expected, base = (number(value * RISK, 1) for value in (two.came, two.expected, two.base))
        texts.append(f"risk: a mean fall of {came} basis points came, {expected} expected; base {base}")
    return "; ".join(texts)


def _direction(scores: DirectionScores) -> tuple[Row, Row]:
    return (
        ("direction, log loss in nats", *map(_cell, (scores.log_loss, scores.base_log_loss, scores.over_log_loss))),
        ("direction, Brier score", *map(_cell, (scores.brier, scores.base_brier, scores.over_brier))),
    )


def _risk(scores: RiskScores) -> tuple[Row]:
    errors = (scores.error, scores.base_error, scores.over_error)
    return (("risk, error in basis points", *(_cell(error, RISK, 2) for error in errors)),)


def _cell(interval: Interval, times: float = 1.0, digits: int = 4) -> str:
    estimate, low, high = (number(value * times, digits) for value in (interval.estimate, interval.low, interval.high))
    return f"{estimate}\n{low} to {high}"
