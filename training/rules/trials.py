"""Trials of a rule: the returns of each set of values on all sessions, and their joint statistics.

A trial is played once, on one account through all sessions. Walk-forward: each fold takes the values with the largest
Sharpe ratio on the sessions before its test; its result is that of these values in its test. The best of all trials is
biased upwards, so its deflated Sharpe ratio counts all trials, including those of the store's ledger, beside the
probability of backtest overfitting. In a search, Optuna's TPE suggests values by their results before the first test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from daemon.config.load import ConfigError, DeskSettings, load
from daemon.core.desks.guarded import blame
from daemon.core.limits import Trading
from daemon.core.strategy_rules import trading_for
from daemon.host.whole_files import write_whole
from daemon.library.run_files import RULE_FILE
from rltrader.install import install_line
from strategies.kit.parameters import Parameter, given_by, text_of, values_of
from strategies.registry import entry
from training.desks.own.sessions import walk_of
from training.evidence.overfitting import Deflated, Overfitting, backtest_overfitting, deflated_best, luck_of
from training.evidence.statistics import annual, session_returns, sharpes
from training.evidence.wording import counted, number, percent
from training.rules.desk import RuleDesk, own_answer, rule_desk
from training.runs.ledger import Ledger, LedgerLine, ledger_path, settings_digest, utc_now
from training.studies.grid import OF_THE_STRATEGY, Value, parted
from training.study.folds import HistoryError, explained, is_short, single, walk
from training.study.study import Fold


@dataclass(frozen=True, slots=True)
class RuleTask:
    """What the trials of a rule have in common."""

    strategy: str
    bars: Path
    store: Path
    config: Path | None = None  # configuration of the desk, with rules and parameters; None: the defaults
    words: tuple[str, ...] = ()  # parameters that override the configuration's, such as `fast=20`
    folds: int = 3

    @property
    def usual(self) -> Mapping[str, Value]:
        """The unchanged parameters. Raises ValueError as `text_of`."""
        declared = entry(self.strategy).parameters
        words = self.words or (() if self.config is None else self._settings({}).desk.parameters)
        return values_of(declared, text_of(declared, given_by(words)))

    def trading(self, rules: Mapping[str, Value] | None = None) -> Trading:
        """The desk's rules with these changes. Raises ValueError for a value out of bounds."""
        if self.config is None and not rules:
            return trading_for(self.strategy)
        return self._settings(dict(rules or {})).trading()

    def _settings(self, rules: Mapping[str, Value]) -> DeskSettings:
        environment: dict[str, str] | None = {} if self.config is None else None
        try:
            return load(self.config, {"desk.strategy": self.strategy, **rules}, environment)
        except ConfigError as error:
            raise ValueError(str(error)) from error

    def text(self, values: Mapping[str, Value]) -> str:
        """The canonical text of the parameters of a trial."""
        return text_of(entry(self.strategy).parameters, {**self.usual, **parted(values)[0]})


class RuleTrial(msgspec.Struct, frozen=True, kw_only=True):
    """The returns of one set of values, by session, as parts of each session's capital."""

    values: dict[str, Value]  # by dotted key: those that the trials vary
    returns: tuple[float, ...]
    trades: int


class WalkedFold(msgspec.Struct, frozen=True, kw_only=True):
    """A fold's test, and the values chosen on the sessions before it."""

    first: str
    last: str
    values: dict[str, Value]
    sharpe_annual: float
    net_return: float


class RuleStudy(msgspec.Struct, frozen=True, kw_only=True):
    """All trials and their statistics: `trials.json`."""

    strategy: str
    bars: str
    dates: tuple[str, ...]  # on which each trial was played
    trials: tuple[RuleTrial, ...]  # the first has no change
    best: int  # index of the trial with the largest Sharpe ratio on all sessions
    walk: tuple[WalkedFold, ...]
    deflated: Deflated  # of the best
    overfitting: Overfitting
    words: str

    @property
    def ranked(self) -> list[tuple[RuleTrial, float]]:
        """The trials with their annual Sharpe ratios, largest first."""
        ratios = [annual(float(ratio)) for ratio in sharpes(np.array([trial.returns for trial in self.trials]))]
        return sorted(zip(self.trials, ratios, strict=True), key=lambda pair: -pair[1])


def folds_of(task: RuleTask, listen: Callable[[str], None]) -> tuple[tuple[str, ...], tuple[Fold, ...]]:
    """The file's sessions and its folds, by the unchanged values' look-back; one 60/20/20 fold for a short file.

    `listen` is told what of the bars counts for nothing.
    """
    desk = rule_desk(task.strategy, task.bars, task.trading(), task.text({}))
    if desk.remark:
        listen(f"{task.bars.name}: {desk.remark}")
    rule = walk_of(desk.spec)
    if is_short(desk.days, rule):
        with explained(lambda: desk.remark):
            return desk.days, single(desk.days)
    count = task.folds
    while count > 1:
        try:
            return desk.days, walk(desk.days, rule, count)
        except HistoryError:  # too short for so many
            count -= 1
    return desk.days, walk(desk.days, rule, 1)


def play_trial(task: RuleTask, values: Mapping[str, Value], dates: Sequence[str]) -> RuleTrial:
    """Play the sessions with these values; sessions in their warm-up have a return of 0."""
    trading = task.trading(parted(values)[1])
    desk = rule_desk(task.strategy, task.bars, trading, task.text(values))
    warm = tuple(date for date in dates if date in frozenset(desk.days))
    sessions = desk.play(own_answer(desk.spec), warm, trading).sessions if warm else ()
    capital = float(trading.paper.cash_usd)
    earned = dict(zip(warm, session_returns(sessions, capital).tolist(), strict=True)) if sessions else {}
    return RuleTrial(
        values=dict(values),
        returns=tuple(earned.get(date, 0.0) for date in dates),
        trades=sum(session.trades for session in sessions),
    )


def tried(task: RuleTask, values: Mapping[str, Value], dates: Sequence[str]) -> tuple[RuleTrial | None, str]:
    """Play as `play_trial` does; without a trial the text says why these values are left out.

    Incompatible ones are, such as a fast average longer than the slow one, and those at which the strategy fails.
    Raises what the unchanged values raise: without them nothing is compared.
    """
    try:
        return play_trial(task, values, dates), ""
    except Exception as error:
        what, by_strategy = blame(error)
        if not values or not (by_strategy or isinstance(error, ValueError)):
            raise
        return None, f"left out: {what if by_strategy else error}"


def study_of_trials(
    task: RuleTask, what: str, dates: tuple[str, ...], folds: Sequence[Fold], trials: Sequence[RuleTrial]
) -> RuleStudy:
    """The study of these trials; writes each as a line into the store's ledger."""
    desk = rule_desk(task.strategy, task.bars, task.trading(), task.text({}))
    matrix = np.array([trial.returns for trial in trials], dtype=np.float64).T
    ratios = sharpes(matrix.T)
    best = int(ratios.argmax())
    identity, study = _identity(what, task, desk, dates)
    lines = [
        msgspec.structs.replace(
            _line(task, desk, dates, study),
            kind="trial",
            sharpe=float(ratio),
            settings_sha256=settings_digest({**identity, "values": trial.values}),
            note=f"{what} of a rule: {values_text(trial.values)}",
        )
        for trial, ratio in zip(trials, ratios, strict=True)
    ]
    ledger = Ledger(ledger_path(task.store, task.strategy))
    prior, _ = ledger.prior(dates, own_lines=lines)
    ledger.record(*lines)
    deflated = deflated_best(matrix, best, prior)
    walked = tuple(_walk_fold(trials, matrix, dates, fold) for fold in folds)
    overfitting = backtest_overfitting(matrix)
    return RuleStudy(
        strategy=task.strategy,
        bars=task.bars.name,
        dates=dates,
        trials=tuple(trials),
        best=best,
        walk=walked,
        deflated=deflated,
        overfitting=overfitting,
        words=_words(trials, ratios, best, walked, deflated, overfitting),
    )


def _line(task: RuleTask, desk: RuleDesk, dates: Sequence[str], study: str) -> LedgerLine:
    """The line of the ledger on these sessions: an opening."""
    return LedgerLine(
        kind="opening",
        utc=utc_now(),
        strategy=task.strategy,
        data_sha256=desk.sha256,
        first=dates[0],
        last=dates[-1],
        study=study,
    )


def _identity(what: str, task: RuleTask, desk: RuleDesk, dates: Sequence[str]) -> tuple[dict[str, Any], str]:
    """What decides the results, as JSON, and the name of the study."""
    identity = {"what": what, "bars": desk.sha256, "usual": task.usual, "dates": [dates[0], dates[-1], len(dates)]}
    return identity, f"{what}-{task.strategy}-{settings_digest(identity)[:8]}"


def count_test(task: RuleTask, desk: RuleDesk, dates: Sequence[str], ratio: float) -> None:
    """Record in the store's ledger that the rule was tested on these sessions; equal results are recorded once.

    Raises `LedgerError`.
    """
    identity, study = _identity("test", task, desk, dates)
    opening = _line(task, desk, dates, study)
    trial = msgspec.structs.replace(
        opening, kind="trial", sharpe=ratio, settings_sha256=settings_digest(identity), note="a rule, as it is exported"
    )
    Ledger(ledger_path(task.store, task.strategy)).record(opening, trial)


def _walk_fold(trials: Sequence[RuleTrial], matrix: Any, dates: Sequence[str], fold: Fold) -> WalkedFold:
    """The values with the best Sharpe ratio up to the end of validation, and their result in the fold's test."""
    place = {date: at for at, date in enumerate(dates)}
    rows_before = [place[date] for date in (*fold.train, *fold.validate) if date in place]
    test = [place[date] for date in fold.test if date in place]
    chosen = int(sharpes(matrix[rows_before].T).argmax())
    earned = matrix[test, chosen]
    return WalkedFold(
        first=fold.test[0],
        last=fold.test[-1],
        values=trials[chosen].values,
        sharpe_annual=annual(float(sharpes(earned[None])[0])),
        net_return=float(np.prod(1.0 + earned) - 1.0),
    )


def _words(
    trials: Sequence[RuleTrial],
    ratios: Any,
    best: int,
    walked: Sequence[WalkedFold],
    deflated: Deflated,
    overfitting: Overfitting,
) -> str:
    tests = "; ".join(
        f"{fold.first} to {fold.last} with {values_text(fold.values)}: {percent(fold.net_return)}, Sharpe ratio "
        f"{number(fold.sharpe_annual)}"
        for fold in walked
    )
    return (
        f"Walk-forward, each test with the values that the sessions before it chose: {tests}. The largest Sharpe ratio "
        f"of {counted(len(trials), 'trial')} on all sessions, {annual(float(ratios[best])):+.2f} a year, is that of "
        f"{values_text(trials[best].values)}; without a change it is {annual(float(ratios[0])):+.2f}. "
        f"{luck_of(deflated, overfitting)} No configuration was changed."
    )


def values_text(values: Mapping[str, Value]) -> str:
    """Values in words."""
    by_name = {key.removeprefix(OF_THE_STRATEGY): value for key, value in values.items()}
    return (
        ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in by_name.items()
        )
        or "no change"
    )


def write_study(study: RuleStudy, folder: Path) -> Path:
    """Write the study into its folder; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / RULE_FILE, msgspec.json.format(msgspec.json.encode(study), indent=1) + b"\n")
    return folder / RULE_FILE


def search(task: RuleTask, trials: int, seed: int, listen: Callable[[str], None]) -> RuleStudy:
    """Play `trials` sets of values, first the unchanged ones, and judge all together.

    The objective is the Sharpe ratio on the sessions before the first fold's test; later sessions do not influence what
    is tried. The same seed tries the same values.

    Raises:
        ValueError: Optuna is not installed, or the strategy declares no parameter.
    """
    try:
        import optuna
    except ImportError as error:
        line = install_line("cpu", "search")
        raise ValueError(f"search needs Optuna, which is not installed: {line}") from error
    declared = entry(task.strategy).parameters
    if not declared:
        raise ValueError(
            f"{task.strategy} declares no parameters: give its StrategyEntry parameters and with_parameters"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    dates, folds = folds_of(task, listen)
    earlier = [at for at, date in enumerate(dates) if date < folds[0].test[0]]
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    usual = task.usual
    study.enqueue_trial({name: usual[name] for name in declared})
    trials_played: list[RuleTrial] = []
    for place in range(trials):
        trial = study.ask()
        values = {f"{OF_THE_STRATEGY}{name}": _suggest(trial, name, parameter) for name, parameter in declared.items()}
        result, why = tried(task, values if place else {}, dates)
        if result is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            listen(f"{place + 1:>5}  {why}")
            continue
        worth = float(sharpes(np.array([result.returns])[:, earlier])[0])
        study.tell(trial, worth)
        trials_played.append(result)
        earned = f"Sharpe ratio {annual(worth):+.2f} a year before {folds[0].test[0]}"
        listen(f"{place + 1:>5}  {values_text(values)}: {earned}")
    return study_of_trials(task, "search", dates, folds, _different(trials_played))


def _suggest(trial: Any, name: str, parameter: Parameter) -> Value:
    """What Optuna suggests within the bounds. Raises ValueError for a number without bounds."""
    if isinstance(parameter.default, bool):
        chosen: Value = trial.suggest_categorical(name, [False, True])
        return chosen
    if not np.isfinite([parameter.low, parameter.high]).all():
        raise ValueError(f"the parameter {name} has no bounds: a search needs both, as in Parameter(10, 2, 60)")
    if isinstance(parameter.default, int):
        number: Value = trial.suggest_int(name, int(parameter.low), int(parameter.high))
        return number
    part: Value = trial.suggest_float(name, parameter.low, parameter.high)
    return part


def _different(trials: list[RuleTrial]) -> list[RuleTrial]:
    """The trials without repetitions: the same values are one trial."""
    distinct: dict[str, RuleTrial] = {}
    for trial in trials:
        distinct.setdefault(str(sorted(trial.values.items())), trial)
    return list(distinct.values())
