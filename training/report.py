"""The report on a study: one page and one file of figures, of which the first sentence says what the policy is worth.

The study is the only input, and what is not in it is said to be unknown. Same study, same bytes.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist

import msgspec
import numpy as np

from training.evaluation import SessionResult
from training.overfitting import (
    backtest_overfitting,
    deflated_sharpe,
    detectable,
    effective_trials,
    random_p_value,
    snooping,
)
from training.promotion import REPORT_FILE, Findings, FoldLine, Judged, Line, RewardLine, Run, encode, judge, told_apart
from training.report_page import page
from training.run_folder import write_whole
from training.statistics import (
    SESSIONS_A_YEAR,
    Interval,
    Series,
    calibration,
    headline,
    improvement_probability,
    interval,
    paired_difference,
    seeds_interval,
    session_returns,
    sharpes,
    summarise,
    trial_matrix,
)
from training.study import Played, Study
from training.wording import counted, listed, number, percent

PAGE_FILE = "report.html"


def write_report(study: Study, folder: Path) -> Findings:
    """Write `report.html` and `report.json` into an existing folder, each by one rename; returns the figures.

    Raises:
        ValueError: the study cannot be reported on; the text says what it lacks.
        OSError: the folder is missing or the disk is full.
    """
    findings = find(study)
    for name, data in files(study, findings).items():
        write_whole(folder / name, data)
    return findings


def files(study: Study, findings: Findings, *, policy_sha256: str | None = None) -> dict[str, bytes]:
    """The report's files by name; `policy_sha256` binds them to the model that they ship with."""
    bound = msgspec.structs.replace(findings, policy_sha256=policy_sha256 or findings.policy_sha256)
    return {PAGE_FILE: page(study, bound).encode(), REPORT_FILE: encode(bound)}


def find(study: Study) -> Findings:
    """All figures of a study, judged. Raises `ValueError` where folds, chosen trials or sessions do not fit."""
    _check(study)
    capital, results = study.capital_usd, headline(study)
    returns = session_returns(results, capital)
    _, matrix = trial_matrix(study)
    ratios = [*sharpes(matrix.T).tolist(), *study.prior_sharpes]
    policy = _line("policy", "", results, capital)
    entries = [entry for index in study.chosen for entry in study.trials[index].test.entries]
    rank_correlation, rank_chance = _rank_correlation(study)
    findings = Findings(
        verdict="",
        abstract=(),
        strategy=study.strategy,
        network=study.network,
        reward=study.reward,
        capital_usd=capital,
        data_file=study.data.file,
        data_sha256=study.data.file_sha256,
        synthetic=study.data.synthetic,
        imported="imported" in study.settings,
        code_version=study.code_version,
        first_session=study.folds[0].test[0],
        last_session=study.folds[-1].test[-1],
        seeds=min(len(_seeds(study, fold)) for fold in range(len(study.folds))),
        policy=policy,
        baselines=tuple(_line(one.name, one.description, _joined(one.folds), capital) for one in study.baselines),
        over_baselines={
            one.name: paired_difference(returns, session_returns(_joined(one.folds), capital))
            for one in study.baselines
        },
        folds=tuple(_fold(study, index) for index in range(len(study.folds))),
        runs=tuple(_run(study, index) for index in range(len(study.trials))),
        rewards=_rewards(study),
        random_p=_random_p(study, range(len(study.folds))),
        random_ranges=_random_ranges(study),
        rank_correlation=rank_correlation,
        rank_chance=rank_chance,
        deflated=deflated_sharpe(
            returns,
            ratios,
            trials=len(study.trials) + len(study.prior_sharpes),
            effective=effective_trials(matrix) + len(study.prior_sharpes) if matrix.shape[1] else None,
        ),
        overfitting=backtest_overfitting(matrix),
        snooping=snooping(matrix) if matrix.shape[1] else None,
        prior_trials=len(study.prior_sharpes),
        prior_openings=study.prior_openings,
        detectable=detectable(len(returns), policy.figures.deviation),
        detectable_fold=detectable(min(len(fold.test) for fold in study.folds), policy.figures.deviation)
        if len(study.folds) > 1
        else None,
        scenarios=tuple(_line(name, "", _joined(folds), capital) for name, folds in study.scenarios.items()),
        calibration=calibration(
            np.array([entry.confidence for entry in entries], dtype=np.float64),
            np.array([entry.pnl_usd > 0.0 for entry in entries], dtype=np.bool_),
        ),
        denials=_denials(study),
    )
    criteria = judge(findings)
    return msgspec.structs.replace(
        findings, criteria=criteria, verdict=verdict(findings, criteria), abstract=_abstract(findings, study)
    )


def verdict(findings: Findings, criteria: Sequence[Judged]) -> str:
    """What the policy is worth, in one sentence of plain words."""
    own = findings.policy.figures
    ahead = [line for line in findings.baselines if line.figures.net_return >= own.net_return]
    over = f"over {counted(own.sessions, 'test session')}{' of made-up bars' if findings.synthetic else ''}"
    ratio = "not known, as it was trained elsewhere" if findings.imported else number(findings.deflated.deflated)
    earned, said = f"{percent(own.net_return)} after costs {over}", f"deflated Sharpe {ratio}"
    if own.trades == 0:
        return f"Never traded, so it equals always flat: it earned nothing {over}."
    if ahead:
        names = listed([f"{line.name} ({percent(line.figures.net_return)})" for line in ahead], "or")
        return f"Does not beat {names} after costs: {percent(own.net_return)} {over}; {said}."
    if own.net_return <= 0.0:
        return f"Loses money after costs: {percent(own.net_return)} {over}; {said}."
    failed = [judged.name for judged in criteria if not judged.passes]
    judged_so = (
        f"fails {len(failed)} of {len(criteria)} criteria for real money ({listed(failed)})"
        if failed
        else f"passes all {len(criteria)} criteria for real money"
    )
    if not findings.baselines:
        return f"Earned {earned}, with no baseline to compare with; {said}; {judged_so}."
    unsure = [name for name, gap in findings.over_baselines.items() if not told_apart(gap, own.sessions)]
    if unsure:
        lead = f"more than every baseline but not surely more than {listed(unsure, 'or')}"
        return f"Earned {earned}, {lead}; {said}; {judged_so}."
    return f"Beats every baseline with {earned}; {said}; {judged_so}."


def _abstract(f: Findings, study: Study) -> tuple[str, ...]:
    own = f.policy
    openings = counted(f.prior_openings, "earlier opening") if f.prior_openings else "no earlier opening"
    opened = f"The ledger shows {openings} of them{', so they are no longer untouched' * bool(f.prior_openings)}."
    known = own.net_return.low < own.net_return.high
    bounds = f" (95 % interval {percent(own.net_return.low)} to {percent(own.net_return.high)})" if known else ""
    earned = (
        f"The policy earned {percent(own.net_return.estimate)} of its capital in sum with "
        f"{counted(own.figures.trades, 'trade')}{bounds}."
    )
    return f"Tested: {_tested(f, study)} {opened}", earned, re.sub(r"(?<=\d)%", " %", f.detectable.words)


def _tested(f: Findings, study: Study) -> str:
    bars = counted(f.policy.figures.sessions, "session") + (" of made-up bars" if f.synthetic else "")
    several = f.first_session < f.last_session
    span = f"on {bars}{f' from {f.first_session} to {f.last_session}' if several else f', {f.first_session}'}"
    if f.imported:
        return (
            f"a policy for {f.strategy} that was trained elsewhere, {span}. On which sessions it was trained, and "
            "among how many it was chosen, is not known: it may have learned from these very sessions."
        )
    runs = "once" if len(study.trials) == 1 else f"{len(study.trials)} times"
    rewards = f"{listed([line.reward for line in f.rewards])} {'reward' if len(f.rewards) == 1 else 'rewards'}"
    return (
        f"the {f.network} network of {f.strategy}, trained {runs} ({counted(len(f.folds), 'fold')}, "
        f"{counted(f.seeds, 'seed')}, {rewards}), {span}, all later than what their fold was trained and chosen "
        "on."
    )


def _check(study: Study) -> None:
    """Everything is there for each fold, and it is that fold's."""
    count = len(study.folds)
    if not count or len(study.chosen) != count:
        raise ValueError(
            f"the study has {count} folds and {len(study.chosen)} chosen trials; expected one for each fold"
        )
    for index, place in enumerate(study.chosen):
        if not 0 <= place < len(study.trials) or study.trials[place].fold != index:
            raise ValueError(f"the chosen trial of fold {index} is trial {place}, which is not of that fold")
    dates: list[str] = []
    for index, fold in enumerate(study.folds):
        if not (fold.train and fold.validate and fold.test):
            raise ValueError(f"fold {index} has an empty span; expected sessions to train, validate and test on")
        for span in ((*fold.train, *fold.validate, *fold.test), (*dates, *fold.test)):
            if any(later <= before for before, later in itertools.pairwise(span)):
                raise ValueError(
                    f"the spans of fold {index} overlap or are not in the order of time; expected train before "
                    "validate before test, and test sessions after those of the fold before"
                )
        dates += fold.test
    played = {**{one.name: one.folds for one in study.baselines}, **study.scenarios}
    for name, folds in played.items():
        found = tuple(tuple(session.date for session in one.sessions) for one in folds)
        if found != tuple(fold.test for fold in study.folds):
            raise ValueError(f"{name} was played on other sessions than the test sessions of the {count} folds")


def _line(name: str, description: str, results: Sequence[SessionResult], capital_usd: float) -> Line:
    returns = session_returns(results, capital_usd)
    mean = interval(returns, "mean")
    return Line(
        name=name,
        description=description,
        figures=summarise(results, capital_usd),
        net_return=_times(mean, len(returns)),  # the sum is the mean of as many sessions
        session_return=mean,
        sharpe_annual=_times(interval(returns, "sharpe"), math.sqrt(SESSIONS_A_YEAR)),
    )


def _times(found: Interval, factor: float) -> Interval:
    return msgspec.structs.replace(
        found, estimate=found.estimate * factor, low=found.low * factor, high=found.high * factor
    )


def _joined(folds: Sequence[Played]) -> tuple[SessionResult, ...]:
    return tuple(session for one in folds for session in one.sessions)


def _net(results: Sequence[SessionResult], capital_usd: float) -> float:
    return math.fsum(result.pnl_usd for result in results) / capital_usd


def _seeds(study: Study, fold: int) -> set[int]:
    return {trial.seed for trial in study.trials if trial.fold == fold and trial.reward == study.reward}


def _fold(study: Study, index: int) -> FoldLine:
    fold, trial = study.folds[index], study.trials[study.chosen[index]]
    return FoldLine(
        train=(fold.train[0], fold.train[-1], len(fold.train)),
        validate=(fold.validate[0], fold.validate[-1], len(fold.validate)),
        test=(fold.test[0], fold.test[-1], len(fold.test)),
        weekdays_left_out=(_weekdays(fold.train[-1], fold.validate[0]), _weekdays(fold.validate[-1], fold.test[0])),
        seed=trial.seed,
        chosen_steps=trial.chosen_steps,
        validate_return=_net(trial.validate, study.capital_usd),
        net_return=_net(trial.test.sessions, study.capital_usd),
        trades=sum(session.trades for session in trial.test.sessions),
        baselines={one.name: _net(one.folds[index].sessions, study.capital_usd) for one in study.baselines},
        random_p=_random_p(study, [index]),
    )


def _weekdays(last: str, following: str) -> int:
    """Mondays to Fridays strictly between two dates."""
    return int(np.busday_count(np.datetime64(last) + 1, np.datetime64(following)))


def _run(study: Study, index: int) -> Run:
    trial = study.trials[index]
    return Run(
        fold=trial.fold,
        seed=trial.seed,
        reward=trial.reward,
        steps=trial.steps,
        chosen_steps=trial.chosen_steps,
        stopped=trial.stopped,
        validate_return=_net(trial.validate, study.capital_usd),
        test_return=_net(trial.test.sessions, study.capital_usd),
        test_trades=sum(session.trades for session in trial.test.sessions),
        chosen=index in study.chosen,
    )


def _rewards(study: Study) -> tuple[RewardLine, ...]:
    """One line for each reward, the headline's first."""
    names = dict.fromkeys((study.reward, *(trial.reward for trial in study.trials)))
    return tuple(_reward(study, name) for name in names)


def _reward(study: Study, name: str) -> RewardLine:
    trials = [trial for trial in study.trials if trial.reward == name]
    sessions = [session for trial in trials for session in trial.test.sessions]
    return RewardLine(
        reward=name,
        trials=len(trials),
        net_return=seeds_interval([scores for scores in _scores(study, name) if len(scores)]),
        profitable=sum(_net(trial.test.sessions, study.capital_usd) > 0.0 for trial in trials) / len(trials),
        trades_per_session=sum(session.trades for session in sessions) / len(sessions),
        headline_better=_better(study, name),
    )


def _better(study: Study, name: str) -> Interval | None:
    """How often the headline's reward does better than `name`, over the folds that trained both."""
    if name == study.reward:
        return None
    pairs = [
        (a, b) for a, b in zip(_scores(study, study.reward), _scores(study, name), strict=True) if len(a) and len(b)
    ]
    return improvement_probability([a for a, _ in pairs], [b for _, b in pairs]) if pairs else None


def _scores(study: Study, reward: str) -> list[Series]:
    """For each fold the net test return of each seed."""
    of = [
        [trial for trial in study.trials if trial.fold == fold and trial.reward == reward]
        for fold in range(len(study.folds))
    ]
    return [
        np.array([_net(trial.test.sessions, study.capital_usd) for trial in trials], dtype=np.float64) for trials in of
    ]


def _random_p(study: Study, folds: Sequence[int]) -> float | None:
    draws = [study.random_pnl_usd[index] for index in folds if index < len(study.random_pnl_usd)]
    if len(draws) < len(folds) or not all(draws):
        return None
    earned = [math.fsum(one.pnl_usd for one in study.trials[study.chosen[index]].test.sessions) for index in folds]
    return random_p_value(earned, draws)


def _random_ranges(study: Study) -> tuple[tuple[float, float], ...]:
    """Between which running sums nine of ten random traders are at each fold's end."""
    draws = study.random_pnl_usd
    if len(draws) != len(study.folds) or not all(draws):
        return ()
    count = min(len(part) for part in draws)
    sums = np.cumsum([np.array(part[:count]) / study.capital_usd for part in draws], axis=0)
    return tuple((float(low), float(high)) for low, high in np.quantile(sums, (0.05, 0.95), axis=1).T)


def _rank_correlation(study: Study) -> tuple[float | None, float | None]:
    """Spearman's, of validation and test return over the seeds of a fold; the mean over folds that have three runs.

    Beside it what one in twenty such means is above without any link: one of n runs has variance 1 / (n - 1) then
    (Kendall & Gibbons 1990, chapter 4), and the mean is taken as normal.
    """
    found, variances = [], []
    for fold in range(len(study.folds)):
        trials = [trial for trial in study.trials if trial.fold == fold and trial.reward == study.reward]
        validate, test = (
            _ranks([trial.validate for trial in trials], study),
            _ranks([trial.test.sessions for trial in trials], study),
        )
        if len(trials) >= 3 and np.ptp(validate) > 0.0 and np.ptp(test) > 0.0:
            found.append(float(np.corrcoef(validate, test)[0, 1]))
            variances.append(1.0 / (len(trials) - 1))
    if not found:
        return None, None
    return math.fsum(found) / len(found), NormalDist().inv_cdf(0.95) * math.sqrt(math.fsum(variances)) / len(found)


def _ranks(spans: Sequence[Sequence[SessionResult]], study: Study) -> Series:
    """Ranks of the net returns; equal ones share the mean of their ranks."""
    returns = np.array([_net(span, study.capital_usd) for span in spans], dtype=np.float64)
    below = (returns[:, None] > returns).sum(axis=1)
    ranks: Series = below + (returns[:, None] == returns).sum(axis=1) / 2.0
    return ranks


def _denials(study: Study) -> dict[str, int]:
    found: dict[str, int] = {}
    for index in study.chosen:
        for gate, count in study.trials[index].test.denials.items():
            found[gate] = found.get(gate, 0) + count
    return dict(sorted(found.items()))
