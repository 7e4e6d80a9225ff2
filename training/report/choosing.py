"""What the choice among trials leaves of the headline: overfitting, snooping, the lead, the deflated Sharpe ratio."""

from __future__ import annotations

from typing import NamedTuple

from training.desks.registry import parts_of
from training.evidence.cross_validation import Overfitting, backtest_overfitting
from training.evidence.lead import Lead, lead_of
from training.evidence.overfitting import Deflated, deflated_sharpe, effective_trials
from training.evidence.significance import Snooping, snooping
from training.evidence.statistics import Series, deviations, session_returns, sharpes, trial_matrix
from training.report.lines import joined
from training.study.study import Study


class Choosing(NamedTuple):
    """See `training.evidence.findings.Findings` for each field."""

    overfitting: Overfitting
    snooping: Snooping | None
    lead: Lead | None
    deflated: Deflated


def choosing(study: Study, returns: Series) -> Choosing:
    """Return the figures for a headline of these returns per session, chosen among the trials of the study."""
    _, matrix = trial_matrix(study)
    _, own_runs = trial_matrix(study, study.reward)
    parts = parts_of(study.strategy)
    rivals = [one for one in study.baselines if one.name not in parts]
    played = {one.name: session_returns(joined(one.folds), study.capital_usd) for one in rivals}
    prior, ratios = len(study.prior_sharpes), sharpes(matrix.T)
    return Choosing(
        overfitting=backtest_overfitting(own_runs),
        snooping=snooping(matrix) if matrix.shape[1] else None,
        lead=lead_of(returns, played, own_runs, earlier=_others(study, own_runs), compounds=study.compounds),
        deflated=deflated_sharpe(
            returns,
            [*ratios.tolist(), *study.prior_sharpes],
            least_deviation=float(deviations(ratios)),  # earlier trials that agree undo no deflation
            trials=len(study.trials) + prior,
            effective=effective_trials(matrix) + prior if matrix.shape[1] else None,
        ),
    )


def _others(study: Study, own_runs: Series) -> int:
    """How many trials the headline's were chosen among: earlier ones, and other settings where validation chose one."""
    settings = len(study.trials) // len(study.folds) - own_runs.shape[1] if study.settings.get("select") == "iqm" else 0
    return len(study.prior_sharpes) + max(settings, 0)
