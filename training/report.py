"""The report on a study: one page and one file of figures, of which the first sentence says what the policy is worth.

The study is the only input, and what is not in it is said to be unknown. Same study, same bytes.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from training.evaluation import SessionResult
from training.overfitting import (
    BLOCKS,
    backtest_overfitting,
    deflated_sharpe,
    detectable,
    effective_trials,
    random_p_value,
    snooping,
)
from training.promotion import REPORT_FILE, Findings, FoldLine, Judged, Line, RewardLine, Run, encode, judge
from training.report_page import number, page, percent
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

PAGE_FILE = "report.html"
LOGIT_BINS = 12  # even, so that zero is an edge


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
    overfitting = backtest_overfitting(matrix)
    policy = _line("policy", "", results, capital)
    entries = [entry for index in study.chosen for entry in study.trials[index].test.entries]
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
        rank_correlation=_rank_correlation(study),
        deflated=deflated_sharpe(
            returns,
            ratios,
            trials=len(study.trials) + len(study.prior_sharpes),
            effective=effective_trials(matrix) + len(study.prior_sharpes) if matrix.shape[1] else None,
        ),
        overfitting=overfitting,
        logits=() if overfitting.probability is None else _logits(matrix),
        snooping=snooping(matrix) if matrix.shape[1] else None,
        prior_trials=len(study.prior_sharpes),
        prior_openings=study.prior_openings,
        detectable=detectable(len(returns), policy.figures.deviation),
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
    said = f"deflated Sharpe {number(findings.deflated.deflated)}"
    over = f"over {_count(own.sessions, 'test session')}"
    if own.trades == 0:
        return f"Never traded, so it equals always flat: nothing was learned that pays for its costs {over}."
    if ahead:
        names = _listed([f"{line.name} ({percent(line.figures.net_return)})" for line in ahead], "or")
        return f"Does not beat {names} after costs: {percent(own.net_return)} {over}; {said}."
    if own.net_return <= 0.0:
        return f"Loses money after costs: {percent(own.net_return)} {over}; {said}."
    failed = [judged.name for judged in criteria if not judged.passes]
    earned = f"{percent(own.net_return)} after costs {over}, {said}"
    if failed:
        beats = "Beats every baseline" if findings.baselines else "Earns money, beside no baseline"
        count = f"{len(failed)} of {len(criteria)} criteria for real money ({_listed(failed)})"
        return f"{beats} with {earned}, but fails {count}."
    return f"Beats every baseline with {earned}, and passes all {len(criteria)} criteria for real money."


def _abstract(f: Findings, study: Study) -> tuple[str, ...]:
    own = f.policy
    opened = (
        "Nothing was chosen on them, and the ledger shows no earlier opening."
        if f.prior_openings == 0
        else f"They had been opened {f.prior_openings} times before, so they are no longer untouched."
    )
    bounds = f"{percent(own.net_return.low)} to {percent(own.net_return.high)}"
    runs = "once" if len(study.trials) == 1 else f"{len(study.trials)} times"
    rewards = f"{_listed([line.reward for line in f.rewards])} {'reward' if len(f.rewards) == 1 else 'rewards'}"
    bars = "sessions of made-up bars" if f.synthetic else "sessions"
    tested = (
        f"Tested: the {f.network} network of {f.strategy}, trained {runs} ({_count(len(f.folds), 'fold')}, "
        f"{_count(f.seeds, 'seed')}, {rewards}), on {own.figures.sessions} {bars} from {f.first_session} to "
        f"{f.last_session}, all later than what their fold was trained and chosen on. {opened}"
    )
    earned = (
        f"The policy earned {percent(own.net_return.estimate)} of its capital in sum with {own.figures.trades:,} "
        f"trades (95 % interval {bounds})."
    )
    return tested, earned, re.sub(r"(?<=\d)%", " %", f.detectable.words)


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
    played = {**{one.name: one.folds for one in study.baselines}, **study.scenarios}
    for name, folds in played.items():
        dates = tuple(tuple(session.date for session in one.sessions) for one in folds)
        if dates != tuple(fold.test for fold in study.folds):
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


def _logits(matrix: Series) -> tuple[tuple[float, float, float], ...]:
    """The distribution behind the PBO: bins (above, up to, share of splits) of the logit of the best trial's rank.

    `matrix` is float64 (sessions, N). Bailey et al. 2017, section 2; ties as in `backtest_overfitting`.
    """
    sides = np.array(list(itertools.combinations(range(BLOCKS), BLOCKS // 2)))
    member = np.zeros((len(sides), BLOCKS))
    np.put_along_axis(member, sides, 1.0, axis=1)
    centre = matrix.mean(axis=0)
    parts = np.array_split(matrix - centre, BLOCKS)
    counts = np.array([len(part) for part in parts], dtype=np.float64)
    sums = np.array([part.sum(axis=0) for part in parts])
    squares = np.array([np.square(part).sum(axis=0) for part in parts])

    def ratios(taken: Series) -> Series:
        count, total = (taken @ counts)[:, None], taken @ sums
        deviation = np.sqrt(np.maximum(taken @ squares - total * total / count, 0.0) / (count - 1.0))
        usable = deviation > 1e-9 * np.abs(matrix).max(axis=0)
        found: Series = np.where(usable, (centre + total / count) / np.where(usable, deviation, 1.0), 0.0)
        return found.round(10)

    inside, outside = ratios(member), ratios(1.0 - member)
    best = inside == inside.max(axis=1, keepdims=True)
    weights = (best / best.sum(axis=1, keepdims=True))[best]
    split, column = np.nonzero(best)
    own = outside[split, column][:, None]
    rank = (outside[split] < own).sum(axis=1) + ((outside[split] == own).sum(axis=1) + 1) / 2.0
    logits = np.log(rank / (matrix.shape[1] + 1 - rank))
    edges = np.linspace(-1.0, 1.0, LOGIT_BINS + 1) * (math.log(matrix.shape[1]) + 1e-9)
    shares = np.histogram(-logits, edges, weights=weights)[0][::-1] / len(sides)
    return tuple(zip(edges[:-1].tolist(), edges[1:].tolist(), shares.tolist(), strict=True))


def _rank_correlation(study: Study) -> float | None:
    """Spearman's, of validation and test return over the seeds of a fold; the mean over folds that have three runs."""
    found = []
    for fold in range(len(study.folds)):
        trials = [trial for trial in study.trials if trial.fold == fold and trial.reward == study.reward]
        validate, test = (
            _ranks([trial.validate for trial in trials], study),
            _ranks([trial.test.sessions for trial in trials], study),
        )
        if len(trials) >= 3 and np.ptp(validate) > 0.0 and np.ptp(test) > 0.0:
            found.append(float(np.corrcoef(validate, test)[0, 1]))
    return math.fsum(found) / len(found) if found else None


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


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _listed(names: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
