"""A search over a rule's parameters: Optuna's TPE suggests values, by their results before the first test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rltrader.install import install_line
from strategies.kit.parameters import Parameter
from strategies.registry import entry
from training.evidence.statistics import annual, sharpes
from training.rules.trials import RuleStudy, RuleTask, RuleTrial, folds_of, judged, tried
from training.studies.grid import OF_THE_STRATEGY, Value


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
        values_text = ", ".join(f"{key.removeprefix(OF_THE_STRATEGY)} {value:.4g}" for key, value in values.items())
        listen(f"{place + 1:>5}  {values_text}: Sharpe ratio {annual(worth):+.2f} a year before {folds[0].test[0]}")
    return judged(task, "search", dates, folds, _different(trials_played))


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
