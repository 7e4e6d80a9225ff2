"""Makes a version's card from its off-policy evaluation."""

from __future__ import annotations

import numpy as np

from strategies.kit.card import DEVIATIONS_MOST, FORMAT, STAKES, Card, Lead
from training.evidence.off_policy.evaluation import OffPolicy
from training.evidence.statistics import Series, checked


def card_of(
    result: OffPolicy,
    session_returns: Series,
    *,
    version: str,
    parent: str,
    trainer: str,
    stream: str = "",
    rows: tuple[int, int] = (0, 0),
) -> Card:
    """Return the card. `session_returns` are the version's on sessions kept apart, parts of the equity at full size.

    Raises:
        ValueError: fewer than two session returns, or one that is not finite.
    """
    returns = checked(session_returns)
    if len(returns) < 2:
        raise ValueError(f"{len(returns)} session returns, expected at least 2: their deviation sets the band")
    return Card(
        format=FORMAT,
        version=version,
        parent=parent,
        trainer=trainer,
        stream=stream,
        first_row=rows[0],
        last_row=rows[1],
        decisions=result.decisions,
        sessions=result.sessions,
        exploration=result.exploration,
        overlap=result.overlap,
        effective=result.effective,
        leads={
            estimate.name: Lead(estimate=estimate.lead.estimate, low=estimate.lead.low, high=estimate.lead.high)
            for estimate in result.estimates
        },
        cannot_be_said=result.cannot_be_said,
        session_mean=float(returns.mean()),
        session_deviation=float(returns.std(ddof=1)),
        band=_band(returns),
    )


def _band(returns: Series) -> tuple[float, ...]:
    """Return for each stake b the log of the mean of exp(-b z) over the sessions, at least its value for a normal z."""
    deviation = float(returns.std(ddof=1))
    if deviation <= 0.0:
        return ()
    z = np.clip((returns - returns.mean()) / deviation, -DEVIATIONS_MOST, DEVIATIONS_MOST)
    return tuple(max(float(np.log(np.exp(-stake * z).mean())), stake * stake / 2.0) for stake in STAKES)
