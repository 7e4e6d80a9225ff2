"""All figures of a study, checked and judged. What is not in the study is reported as unknown."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from strategies.registry import strategy
from training.desks.registry import parts_of
from training.evidence.calibration import calibration
from training.evidence.findings import Findings, PlayerLine
from training.evidence.heads import KEY as HEADS
from training.evidence.lead import BaselineLead, lead_of
from training.evidence.overfitting import Deflated, Overfitting, backtest_overfitting, deflated_sharpe, effective_trials
from training.evidence.resampling import Interval, paired_difference, typical
from training.evidence.significance import Snooping, detectable, snooping
from training.evidence.statistics import Series, deviations, headline, session_returns, sharpes, trial_matrix
from training.forecast.findings import KEY
from training.report.judging import judged
from training.report.lines import (
    account_line,
    denials,
    fold_line,
    joined,
    least_learnt,
    line_of,
    random_p,
    random_ranges,
    rank_correlation,
    reward_lines,
    run_line,
    seeds_of,
)
from training.study.progress import counted, phase
from training.study.study import FORMAT, Fold, SessionResult, Study, Trial


def check(study: Study) -> None:
    """Check format, order of the spans, choice of the trials, and that all played the test sessions.

    Raises:
        ValueError: one does not hold; the text names it.
    """
    if study.format != FORMAT:
        raise ValueError(f"the study has format {study.format}, expected {FORMAT}: run it again")
    count = len(study.folds)
    if not count or len(study.chosen) != count:
        raise ValueError(
            f"the study has {count} folds and {len(study.chosen)} chosen trials; expected one for each fold"
        )
    _check_spans(study.folds)
    for index in range(count):
        _check_choice(study, index)
    played = {**{one.name: one.folds for one in study.baselines}, **study.scenarios}
    if study.account:
        played["the account of all tests"] = study.account
    if study.one_account is not None:
        played["the one account"] = study.one_account.folds
    if study.ensembles:
        played["the mean of the seeds"] = tuple(trial.test for trial in study.ensembles)
    for name, folds in played.items():
        dates = tuple(tuple(session.date for session in one.sessions) for one in folds)
        if dates != tuple(fold.test for fold in study.folds):
            raise ValueError(f"{name} was played on other sessions than the test sessions of the {count} folds")


def _check_spans(folds: Sequence[Fold]) -> None:
    tested: tuple[str, ...] = ()
    for index, fold in enumerate(folds):
        if not (fold.train and fold.validate and fold.test):
            raise ValueError(f"fold {index} has an empty span; expected sessions to train, validate and test on")
        for span in ((*fold.train, *fold.validate, *fold.test), (*tested, *fold.test)):
            if any(later <= before for before, later in itertools.pairwise(span)):
                raise ValueError(
                    f"the spans of fold {index} overlap or are not in the order of time; expected train before "
                    "validate before test, and test sessions after those of the fold before"
                )
        tested += fold.test


def _check_choice(study: Study, fold: int) -> None:
    """The chosen trial is one of the fold and the headline's reward, and none of those did better on validation."""
    place = study.chosen[fold]
    if not 0 <= place < len(study.trials) or study.trials[place].fold != fold:
        raise ValueError(f"the chosen trial of fold {fold} is trial {place}, which is not of that fold")
    rivals = [trial for trial in study.trials if trial.fold == fold and trial.reward == study.reward]
    chosen = study.trials[place]
    merits = [merit for _, merit in sorted((trial.seed, trial.merit) for trial in rivals)]
    typically = study.settings.get("select") == "iqm"
    best = merits[typical(merits)] if typically and merits else max(merits, default=0.0)
    if chosen.reward != study.reward or abs(chosen.merit - best) > 1e-9:
        which = "is typical" if typically else "did best"
        raise ValueError(
            f"the chosen trial of fold {fold} is of reward {chosen.reward} and seed {chosen.seed}; expected the one of "
            f"reward {study.reward} that {which} on validation, or the test sessions would have chosen"
        )
    _check_validated(study, fold, rivals)


def _check_validated(study: Study, fold: int, rivals: Sequence[Trial]) -> None:
    for trial in rivals:
        if tuple(result.date for result in trial.validate) != study.folds[fold].validate:
            raise ValueError(f"seed {trial.seed} of fold {fold} was validated on other sessions than the fold's")


class Choosing(NamedTuple):
    """See `training.evidence.findings.Findings` for each field."""

    overfitting: Overfitting
    snooping: Snooping | None
    lead: BaselineLead | None
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


def find(study: Study) -> Findings:
    """All figures of a study, judged. Raises `ValueError` where folds, chosen trials or sessions do not fit."""
    check(study)
    capital, results = study.capital_usd, headline(study)
    parts = parts_of(study.strategy)
    returns = session_returns(results, capital)
    one_account = study.compounds

    def line(name: str, text: str, sessions: Sequence[SessionResult]) -> PlayerLine:
        return line_of(name, text, sessions, capital, compounds=one_account)

    with phase("intervals by bootstrap"):
        policy = line("policy", "", results)
        lines = [line(one.name, one.description, joined(one.folds)) for one in counted(study.baselines, "baselines")]
        scenarios = [line(name, "", joined(study.scenarios[name])) for name in counted([*study.scenarios], "scenarios")]
    with phase("differences by bootstrap"):
        differences = _differences(study, returns)
    with phase("figures of choosing among all trials"):
        chosen = choosing(study, returns)
    entries = [entry for trial in study.headline for entry in trial.test.entries]
    correlation, chance = rank_correlation(study)
    findings = Findings(
        verdict="",
        abstract=(),
        strategy=study.strategy,
        network=study.network,
        reward=study.reward,
        capital_usd=capital,
        compounds=one_account,
        data_file=study.data.file,
        data_sha256=study.data.file_sha256,
        synthetic=study.data.synthetic,
        source=study.data.source,
        trades_options=_trades_options(study.strategy),
        imported="imported" in study.settings,
        refit=bool(study.refit),
        code_version=study.code_version,
        first_session=study.folds[0].test[0],
        last_session=study.folds[-1].test[-1],
        members=study.headline[-1].members,
        seeds=min(len(seeds_of(study, fold)) for fold in range(len(study.folds))),
        policy=policy,
        baselines=tuple(lines),
        parts=tuple(line.name for line in lines if line.name in parts),
        over_baselines=differences,
        lead=chosen.lead,
        learnt=least_learnt(study),
        account=account_line(study),
        folds=tuple(fold_line(study, index) for index in range(len(study.folds))),
        runs=tuple(run_line(study, index) for index in range(len(study.trials))),
        rewards=reward_lines(study),
        random_p=random_p(study, range(len(study.folds))),
        random_ranges=random_ranges(study),
        rank_correlation=correlation,
        rank_chance=chance,
        deflated=chosen.deflated,
        overfitting=chosen.overfitting,
        snooping=chosen.snooping,
        prior_trials=len(study.prior_sharpes),
        prior_openings=study.prior_openings,
        detectable=detectable(len(returns), policy.figures.deviation),
        detectable_fold=detectable(min(len(fold.test) for fold in study.folds), policy.figures.deviation)
        if len(study.folds) > 1
        else None,
        scenarios=tuple(scenarios),
        calibration=calibration(
            np.array([entry.confidence for entry in entries], dtype=np.float64),
            np.array([entry.pnl_usd > 0.0 for entry in entries], dtype=np.bool_),
        ),
        denials=denials(study),
        forecaster=study.extra.get(KEY),
        heads=study.extra.get(HEADS),
    )
    return judged(study, findings)


def _trades_options(name: str) -> bool | None:
    """Whether a strategy holds options; None for one that is not known here."""
    try:
        return strategy(name).spec.chained
    except ValueError:
        return None


def _differences(study: Study, returns: Series) -> dict[str, Interval]:
    """How much better than each baseline the policy is, a session; `returns` are the policy's."""
    return {
        one.name: paired_difference(returns, session_returns(joined(one.folds), study.capital_usd))
        for one in counted(study.baselines, "baselines")
    }
