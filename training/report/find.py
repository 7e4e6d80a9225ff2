"""Computes a report's figures from a study: checks, lines of players, folds, trials and rewards, differences.

Each figure comes from the study alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import msgspec
import numpy as np

from strategies.registry import strategy
from training.desks.registry import parts_of
from training.evidence.calibration import calibration
from training.evidence.findings import AccountLine, Findings, FoldLine, PlayerLine, RewardLine, TrialLine
from training.evidence.heads import KEY as HEADS
from training.evidence.lead import BaselineLead, lead_of
from training.evidence.overfitting import Deflated, Overfitting, backtest_overfitting, deflated_sharpe, effective_trials
from training.evidence.resampling import (
    Interval,
    improvement_probability,
    interval,
    paired_difference,
    seeds_interval,
    typical,
)
from training.evidence.risk import KeptRisk, RiskSeries, RiskStatement, kept_risk
from training.evidence.significance import Snooping, detectable, random_p_value, snooping
from training.evidence.statistics import (
    Series,
    chosen_results,
    deviations,
    headline,
    joined,
    max_drawdown,
    session_returns,
    sharpes,
    summarise,
    total,
    trial_matrix,
)
from training.forecast.findings import KEY
from training.report.judging import with_verdict
from training.study.progress import counted, phase
from training.study.study import FORMAT, SESSIONS_A_YEAR, Fold, NetworkChange, RiskRuns, SessionResult, Study, Trial


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
    results = {**{baseline.name: baseline.folds for baseline in study.baselines}, **study.scenarios}
    if study.account:
        results["the account of all tests"] = study.account
    if study.one_account is not None:
        results["the one account"] = study.one_account.folds
    if study.ensembles:
        results["the mean of the seeds"] = tuple(trial.test for trial in study.ensembles)
    if study.risk is not None:
        runs = study.risk
        results |= {"the risk": runs.policy, "the risk at twice the costs": runs.twice, "its passive": runs.passive}
    for name, folds in results.items():
        dates = tuple(tuple(session.date for session in fold.sessions) for fold in folds)
        if dates != tuple(fold.test for fold in study.folds):
            raise ValueError(f"{name} was played on other sessions than the test sessions of the {count} folds")


def _check_spans(folds: Sequence[Fold]) -> None:
    tested: tuple[str, ...] = ()
    for index, fold in enumerate(folds):
        if not (fold.train and fold.validate and fold.test):
            raise ValueError(f"fold {index} has an empty span; expected sessions to train, validate and test on")
        for span in ((*fold.train, *fold.validate, *fold.test), (*tested, *fold.test)):
            if any(later <= earlier for earlier, later in itertools.pairwise(span)):
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
        comparison = "is typical" if typically else "did best"
        raise ValueError(
            f"the chosen trial of fold {fold} is of reward {chosen.reward} and seed {chosen.seed}; expected the one of "
            f"reward {study.reward} that {comparison} on validation, or the test sessions would have chosen"
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
    rivals = [baseline for baseline in study.baselines if baseline.name not in parts]
    played = {baseline.name: session_returns(joined(baseline.folds), study.capital_usd) for baseline in rivals}
    prior, ratios = len(study.prior_sharpes), sharpes(matrix.T)
    return Choosing(
        overfitting=backtest_overfitting(own_runs),
        snooping=snooping(matrix) if matrix.shape[1] else None,
        lead=lead_of(returns, played, own_runs, earlier=_others(study, own_runs), compounds=study.compounds),
        deflated=deflated_sharpe(
            returns,
            [*ratios.tolist(), *study.prior_sharpes],
            least_deviation=float(deviations(ratios)),  # agreeing earlier trials must not reduce the deflation
            trials=len(study.trials) + prior,
            effective=effective_trials(matrix) + prior if matrix.shape[1] else None,
        ),
    )


def _others(study: Study, own_runs: Series) -> int:
    """The number of further trials behind the headline: earlier ones, and other settings if validation chose one."""
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
        lines = [
            line(baseline.name, baseline.description, joined(baseline.folds))
            for baseline in counted(study.baselines, "baselines")
        ]
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
        counted_trials=study.counted_trials,
        counted_risks=study.counted_risks,
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
        risk=None if study.risk is None else risk_of(study.risk, capital),
        sizes=study.sizes,
    )
    return with_verdict(study, findings)


def risk_of(runs: RiskRuns, capital_usd: float) -> KeptRisk | None:
    """The tests' result for a stated risk; None with too few sessions."""
    policy, twice, passive = (joined(folds) for folds in (runs.policy, runs.twice, runs.passive))
    series = RiskSeries(
        policy=session_returns(policy, capital_usd),
        exposure=_exposures(policy),
        passive=session_returns(passive, capital_usd),
        passive_exposure=_exposures(passive),
        twice=session_returns(twice, capital_usd),
        turnover=summarise(policy, capital_usd, compounds=True).turnover,
    )
    return kept_risk(series, RiskStatement(runs.target, runs.drawdown), trials=1 + runs.earlier)


def _exposures(results: Sequence[SessionResult]) -> Series:
    """What was invested at each close, a fraction of the equity."""
    return np.array([result.held_min / result.minutes for result in results], dtype=np.float64)


def _trades_options(name: str) -> bool | None:
    """Whether a strategy holds options; None for one that is not known here."""
    try:
        return strategy(name).spec.chained
    except ValueError:
        return None


def _differences(study: Study, returns: Series) -> dict[str, Interval]:
    """How much better than each baseline the policy is, a session; `returns` are the policy's."""
    return {
        baseline.name: paired_difference(returns, session_returns(joined(baseline.folds), study.capital_usd))
        for baseline in counted(study.baselines, "baselines")
    }


ALL_LOST_USD = 1e-4
ALIKE_USD = 0.005
ALL_BUT_LOST = -1.0 + 1e-9  # least return whose log growth is finite


def line_of(
    name: str, description: str, results: Sequence[SessionResult], capital_usd: float, *, compounds: bool = False
) -> PlayerLine:
    """The line of one player over all its sessions, with intervals. `description` may be empty."""
    returns = session_returns(results, capital_usd)
    mean = interval(returns, "mean")
    return PlayerLine(
        name=name,
        description=description,
        figures=summarise(results, capital_usd, compounds=compounds),
        net_return=_compound(returns) if compounds else mean.times(len(returns)),  # a sum is so many means
        session_return=mean,
        sharpe_annual=interval(returns, "sharpe").times(math.sqrt(SESSIONS_A_YEAR)),
    )


def account_line(study: Study) -> AccountLine | None:
    """The account through all tests; None where none was played."""
    account, alone = study.one_account, tuple(trial.test for trial in study.headline)
    folds = account.folds if account is not None else study.account
    if not folds and study.compounds and len(study.folds) == 1:
        folds = alone
    if not folds:
        return None
    sessions, halts = joined(folds), tuple(halt for part in folds for halt in part.halts)
    returns, began = session_returns(sessions, study.capital_usd), sessions[0].capital_usd or study.capital_usd
    trades_after = {session.date: session.trades for session in sessions if halts and session.date > halts[0].date}
    passive_returns = session_returns(account.held, study.capital_usd) if account is not None and account.held else None
    return AccountLine(
        anew=account is not None,
        capital_usd=began,
        end_usd=round(began + math.fsum(session.pnl_usd for session in sessions), 2),
        net_return=total(returns, compounds=True),
        max_drawdown=max_drawdown(returns, compounds=True),
        trades=sum(session.trades for session in sessions),
        halts=halts,
        sessions_after=len(trades_after),
        trades_after=sum(trades_after.values()),
        trades_anew=sum(session.trades for session in joined(alone) if session.date in trades_after),
        passive=account.passive if account is not None and passive_returns is not None else "",
        passive_return=0.0 if passive_returns is None else total(passive_returns, compounds=True),
        passive_drawdown=0.0 if passive_returns is None else max_drawdown(passive_returns, compounds=True),
    )


def _compound(returns: Series) -> Interval:
    """The interval of an account's net return, from that of its mean log return."""
    growth, count = interval(np.log1p(np.maximum(returns, ALL_BUT_LOST)), "mean"), len(returns)
    grown = {name: math.expm1(getattr(growth, name) * count) for name in ("estimate", "low", "high")}
    return msgspec.structs.replace(growth, **grown)


def _net(results: Sequence[SessionResult], capital_usd: float) -> float:
    """The profit of sessions as a fraction of the first one's capital."""
    began = results[0].capital_usd if results else 0.0
    return math.fsum(result.pnl_usd for result in results) / (began or capital_usd)


def seeds_of(study: Study, fold: int) -> set[int]:
    """The seeds that were trained in a fold with the headline's reward."""
    return {trial.seed for trial in study.trials if trial.fold == fold and trial.reward == study.reward}


def fold_line(study: Study, index: int) -> FoldLine:
    """The choice in a fold, and its result there."""
    fold, trial = study.folds[index], study.headline[index]
    tested = chosen_results(study)[index].sessions
    return FoldLine(
        train=(fold.train[0], fold.train[-1], len(fold.train)),
        validate=(fold.validate[0], fold.validate[-1], len(fold.validate)),
        test=(fold.test[0], fold.test[-1], len(fold.test)),
        weekdays_left_out=(_weekdays(fold.train[-1], fold.validate[0]), _weekdays(fold.validate[-1], fold.test[0])),
        seed=trial.seed,
        chosen_steps=trial.chosen_steps,
        validate_return=_net(trial.validate, study.capital_usd),
        net_return=_net(tested, study.capital_usd),
        trades=sum(session.trades for session in tested),
        baselines={
            baseline.name: _net(baseline.folds[index].sessions, study.capital_usd) for baseline in study.baselines
        },
        random_p=random_p(study, [index]),
        over_passive=_over_passive(trial, study.capital_usd),
        agreement=trial.agreement,
    )


def _over_passive(trial: Trial, capital_usd: float) -> Interval | None:
    """The trial's profit on validation less the passive policy's, with an interval over sessions."""
    if not trial.passive:
        return None
    policy_returns, theirs = (session_returns(results, capital_usd) for results in (trial.validate, trial.passive))
    return paired_difference(policy_returns, theirs).times(len(policy_returns))


def _weekdays(previous: str, following: str) -> int:
    """Mondays to Fridays strictly between two dates."""
    return int(np.busday_count(np.datetime64(previous) + 1, np.datetime64(following)))


def run_line(study: Study, index: int) -> TrialLine:
    """The line of the trial `index` of a study."""
    trial = study.trials[index]
    return TrialLine(
        fold=trial.fold,
        seed=trial.seed,
        reward=trial.reward,
        steps=trial.steps,
        chosen_steps=trial.chosen_steps,
        stopped=trial.stopped,
        validate_return=_net(trial.validate, study.capital_usd),
        test_return=_net(trial.test.sessions, study.capital_usd),
        test_trades=sum(session.trades for session in trial.test.sessions),
        chosen=index in study.chosen and not study.ensembles,
    )


def reward_lines(study: Study) -> tuple[RewardLine, ...]:
    """A line for each reward, the headline's first."""
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
    """Net test returns of the seeds, one series for each fold."""
    of = [
        [trial for trial in study.trials if trial.fold == fold and trial.reward == reward]
        for fold in range(len(study.folds))
    ]
    return [
        np.array([_net(trial.test.sessions, study.capital_usd) for trial in trials], dtype=np.float64) for trials in of
    ]


def random_p(study: Study, folds: Sequence[int]) -> float | None:
    """The share of random traders that did as well over these folds together; None where some fold has none.

    With one account through all folds, growth over these folds is compared, else sums in USD. Where all draws of a fold
    are equal, the policy held one portfolio there, and its result counts as equal to the draws.
    """
    draws = [study.random_pnl_usd[index] for index in folds if index < len(study.random_pnl_usd)]
    if len(draws) < len(folds) or not all(draws):
        return None
    results = [chosen_results(study)[index].sessions for index in folds]
    alike = [max(part) - min(part) < ALIKE_USD for part in draws]
    if not study.account:
        sums = [math.fsum(session.pnl_usd for session in sessions) for sessions in results]
        return random_p_value(
            [part[0] if alike_here else mine for part, alike_here, mine in zip(draws, alike, sums, strict=True)], draws
        )
    end_equity = study.capital_usd + np.cumsum(np.array(study.random_pnl_usd), axis=0)
    start_equity = np.vstack([np.full(end_equity.shape[1], study.capital_usd), end_equity[:-1]])
    grown = np.log(np.maximum(end_equity, ALL_LOST_USD) / np.maximum(start_equity, ALL_LOST_USD))[list(folds)]
    sums = [math.log1p(max(_net(sessions, study.capital_usd), ALL_BUT_LOST)) for sessions in results]
    return random_p_value(
        [part[0] if alike_here else mine for part, alike_here, mine in zip(grown, alike, sums, strict=True)],
        grown.tolist(),
    )


def random_ranges(study: Study) -> tuple[tuple[float, float], ...]:
    """The 5 % and 95 % quantiles of random traders' net returns at each fold's end, added up or compounded."""
    draws = study.random_pnl_usd
    if len(draws) != len(study.folds) or not all(draws):
        return ()
    count = min(len(part) for part in draws)
    parts = np.array([part[:count] for part in draws]) / study.capital_usd
    anew = study.compounds and not study.account  # each fold begins with the same capital
    sums = np.cumprod(1.0 + parts, axis=0) - 1.0 if anew else np.cumsum(parts, axis=0)
    return tuple((float(low), float(high)) for low, high in np.quantile(sums, (0.05, 0.95), axis=1).T)


def rank_correlation(study: Study) -> tuple[float | None, float | None]:
    """Spearman's, of validation and test return over the seeds of a fold; the mean over folds that have three runs.

    The second value is exceeded with probability 0.05 by chance: without a link a correlation over n runs has the
    variance 1 / (n - 1) (Kendall & Gibbons 1990, chapter 4), and the mean is taken as normal.
    """
    ranks, variances = [], []
    for fold in range(len(study.folds)):
        trials = [trial for trial in study.trials if trial.fold == fold and trial.reward == study.reward]
        validate, test = (
            _ranks([trial.validate for trial in trials], study),
            _ranks([trial.test.sessions for trial in trials], study),
        )
        if len(trials) >= 3 and np.ptp(validate) > 0.0 and np.ptp(test) > 0.0:
            ranks.append(float(np.corrcoef(validate, test)[0, 1]))
            variances.append(1.0 / (len(trials) - 1))
    if not ranks:
        return None, None
    return math.fsum(ranks) / len(ranks), NormalDist().inv_cdf(0.95) * math.sqrt(math.fsum(variances)) / len(ranks)


def _ranks(spans: Sequence[Sequence[SessionResult]], study: Study) -> Series:
    """Ranks of the net returns; equal ones share the mean of their ranks."""
    returns = np.array([_net(span, study.capital_usd) for span in spans], dtype=np.float64)
    below = (returns[:, None] > returns).sum(axis=1)
    ranks: Series = below + (returns[:, None] == returns).sum(axis=1) / 2.0
    return ranks


def least_learnt(study: Study) -> NetworkChange | None:
    """The change of the fold's policy that changed least from its start; None where one was not measured."""
    changes = [trial.learnt for trial in study.headline]
    measured = [change for change in changes if change is not None]
    return min(measured, key=lambda change: change.kl or 0.0) if len(measured) == len(changes) else None


def denials(study: Study) -> dict[str, int]:
    """How many entries each gate denied the chosen trials on the test sessions, gates in order of their names."""
    counts: dict[str, int] = {}
    for tested in chosen_results(study):
        for gate, count in tested.denials.items():
            counts[gate] = counts.get(gate, 0) + count
    return dict(sorted(counts.items()))
