"""The report on a study: one page and one file of figures; its first sentence is the verdict on the policy.

The study is the only input; what is not in it is reported as unknown. Same study, same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from daemon.host.whole_files import write_whole
from strategies.registry import strategy
from training.desks.registry import reference_of
from training.evidence.calibration import calibration
from training.evidence.criteria import judge
from training.evidence.cross_validation import backtest_overfitting
from training.evidence.findings import REPORT_FILE, Findings, Line, encode
from training.evidence.heads import KEY as HEADS
from training.evidence.lead import lead_of
from training.evidence.overfitting import deflated_sharpe, effective_trials
from training.evidence.resampling import Interval, paired_difference
from training.evidence.significance import detectable, snooping
from training.evidence.statistics import Series, headline, session_returns, sharpes, trial_matrix
from training.evidence.verdict import abstract, verdict
from training.forecast.findings import KEY
from training.report.lines import (
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
from training.report.page import page
from training.report.study_check import check
from training.study.evaluation import SessionResult
from training.study.progress import counted, phase
from training.study.study import Study

PAGE_FILE = "report.html"


def write_report(study: Study, folder: Path) -> Findings:
    """Write `report.html` and `report.json` into an existing folder, each by one rename; returns the figures.

    Raises:
        ValueError: the study cannot be reported on; the text names what is missing.
        OSError: the folder is missing or the disk is full.
    """
    findings = find(study)
    with phase("the report's page"):
        for name, data in files(study, findings).items():
            write_whole(folder / name, data)
    return findings


def files(study: Study, findings: Findings, *, policy_sha256: str | None = None) -> dict[str, bytes]:
    """The report's files by name; `policy_sha256` binds them to the model that they ship with."""
    bound = msgspec.structs.replace(findings, policy_sha256=policy_sha256 or findings.policy_sha256)
    return {PAGE_FILE: page(study, bound).encode(), REPORT_FILE: encode(bound)}


def _trades_options(name: str) -> bool | None:
    """Whether a strategy holds options; None for one that is not known here."""
    try:
        return strategy(name).spec.holds == "option"
    except ValueError:
        return None


def find(study: Study) -> Findings:
    """All figures of a study, judged. Raises `ValueError` where folds, chosen trials or sessions do not fit."""
    check(study)
    capital, results = study.capital_usd, headline(study)
    returns = session_returns(results, capital)
    _, matrix = trial_matrix(study)
    _, own_runs = trial_matrix(study, study.reward)
    played = {one.name: session_returns(joined(one.folds), capital) for one in study.baselines}
    ratios = [*sharpes(matrix.T).tolist(), *study.prior_sharpes]
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
        overfitting, snooped = backtest_overfitting(own_runs), snooping(matrix) if matrix.shape[1] else None
        lead = lead_of(returns, played, own_runs, earlier=_others(study, own_runs), compounds=one_account)
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
        over_baselines=differences,
        lead=lead,
        learnt=least_learnt(study),
        folds=tuple(fold_line(study, index) for index in range(len(study.folds))),
        runs=tuple(run_line(study, index) for index in range(len(study.trials))),
        rewards=reward_lines(study),
        random_p=random_p(study, range(len(study.folds))),
        random_ranges=random_ranges(study),
        rank_correlation=correlation,
        rank_chance=chance,
        deflated=deflated_sharpe(
            returns,
            ratios,
            trials=len(study.trials) + len(study.prior_sharpes),
            effective=effective_trials(matrix) + len(study.prior_sharpes) if matrix.shape[1] else None,
        ),
        overfitting=overfitting,
        snooping=snooped,
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
    criteria, reference = judge(findings), reference_of(study.strategy)
    known_today = reference.survivorship if reference is not None else ""
    return msgspec.structs.replace(
        findings,
        criteria=criteria,
        verdict=f"{study.exported} {verdict(findings, criteria)}".lstrip(),
        abstract=abstract(findings, study, known_today),
    )


def _others(study: Study, own_runs: Series) -> int:
    """How many trials the headline's were chosen among: earlier ones, and other settings where validation chose one."""
    settings = len(study.trials) // len(study.folds) - own_runs.shape[1] if study.settings.get("select") == "iqm" else 0
    return len(study.prior_sharpes) + max(settings, 0)


def _differences(study: Study, returns: Series) -> dict[str, Interval]:
    """How much better than each baseline the policy is, a session; `returns` are the policy's."""
    return {
        one.name: paired_difference(returns, session_returns(joined(one.folds), study.capital_usd))
        for one in counted(study.baselines, "baselines")
    }
