"""All figures of a study, judged. What is not in the study is reported as unknown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from strategies.registry import strategy
from training.desks.registry import parts_of
from training.evidence.calibration import calibration
from training.evidence.findings import Findings, Line
from training.evidence.heads import KEY as HEADS
from training.evidence.resampling import Interval, paired_difference
from training.evidence.significance import detectable
from training.evidence.statistics import Series, headline, session_returns
from training.forecast.findings import KEY
from training.report.choosing import choosing
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
from training.report.study_check import check
from training.study.evaluation import SessionResult
from training.study.progress import counted, phase
from training.study.study import Study


def find(study: Study) -> Findings:
    """All figures of a study, judged. Raises `ValueError` where folds, chosen trials or sessions do not fit."""
    check(study)
    capital, results = study.capital_usd, headline(study)
    parts = parts_of(study.strategy)
    returns = session_returns(results, capital)
    one_account = study.compounds

    def line(name: str, text: str, sessions: Sequence[SessionResult]) -> Line:
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
