"""The strategy as its desk calls it: the one place of every call, what is returned is checked.

A strategy is off after it raised twice in a session or did not return in time, until a person resumes
(`RiskState.strategy_off`). One that is off is not called; only the bars that it keeps are still read, since a split of
what is held is told by them. An error in a frame of `GuardedStrategy` is the strategy's, not the core's.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, TypeVar

import numpy as np

from daemon.core.draft import Draft
from strategies.kit.contract import Answer, Bar, Choice, Decision, Observation, Rebalance, RowOptions, View

Made = TypeVar("Made", Decision, Rebalance)


class GuardedStrategy:
    """One strategy of any kind. Each call takes the state out of the draft and puts the new one back.

    Raises what the strategy raises, and ValueError or TypeError where it returns what cannot be used: no state, another
    type than its contract has, a number that is NaN or infinite.
    """

    __slots__ = ("_strategy",)

    def __init__(self, strategy: Any) -> None:
        self._strategy = strategy

    def observe(self, draft: Draft, bars: tuple[Bar, ...], view: View) -> Observation | None:
        """Pass bars and return the observation; None while not warm, or off."""
        if draft.risk.strategy_off:
            return None
        observation: Observation | None
        state, observation = self._strategy.observe(draft.strategy, bars, view)
        if observation is not None:
            _check(observation, Observation, "observe")
            _check_finite(observation)
        _keep(draft, state, "observe")
        return observation

    def decide(self, draft: Draft, answer: Answer, view: View, kind: type[Made]) -> Made:
        """Return the decision on the policy's answer, of the type that the strategy's contract has."""
        state, decision = self._decided(draft, answer, view, kind)
        _keep(draft, state, "decide")
        return decision

    def shown(self, draft: Draft, answer: Answer, view: View, kind: type[Made]) -> Made:
        """Return what the strategy would decide on another policy's answer. The state stays."""
        return self._decided(draft, answer, view, kind)[1]

    def _decided(self, draft: Draft, answer: Answer, view: View, kind: type[Made]) -> tuple[Any, Made]:
        state, decision = self._strategy.decide(draft.strategy, answer, view)
        _check(decision, kind, "decide")
        choice = decision.choice
        if choice is not None:
            _check(choice, Choice, "decide")
            if not isfinite(choice.confidence + sum(choice.probabilities)):
                raise ValueError(f"decide returned a probability or confidence that is not finite: {choice}")
        return state, decision

    def options(self, draft: Draft, answer: Answer, view: View) -> tuple[RowOptions, ...]:
        """Return what each action would do, row by row, of a policy that chooses by row."""
        options: tuple[RowOptions, ...] = self._strategy.options(draft.strategy, answer, view)
        return options

    def correct(self, draft: Draft, bar: Bar) -> None:
        """Replace a bar that was observed; nothing while off."""
        if not draft.risk.strategy_off:
            _keep(draft, self._strategy.correct(draft.strategy, bar), "correct")

    def remember(self, draft: Draft, bars: tuple[Bar, ...]) -> None:
        """Keep final bars, oldest first; nothing while off: the next session's history brings what was missed."""
        if not draft.risk.strategy_off:
            _keep(draft, self._strategy.remember(draft.strategy, bars), "remember")

    def readjust(self, draft: Draft, symbol: str, bars: tuple[Bar, ...]) -> None:
        """Replace all bars of a symbol; nothing while off, as for `remember`."""
        if not draft.risk.strategy_off:
            _keep(draft, self._strategy.readjust(draft.strategy, symbol, bars), "readjust")

    def known(self, draft: Draft) -> Mapping[str, tuple[Bar, ...]]:
        """Return the bars that it keeps, by symbol, oldest first; none where a strategy that is off cannot say."""
        try:
            return kept_bars(self._strategy, draft.strategy)
        except Exception:
            if not draft.risk.strategy_off:
                raise
            return {}


def kept_bars(strategy: Any, state: Any) -> Mapping[str, tuple[Bar, ...]]:
    """Return the bars that a daily strategy keeps. Raises what it raises, and TypeError for no mapping to bars."""
    bars: Any = strategy.known(state)
    if not isinstance(bars, Mapping):
        raise TypeError(f"known returned {type(bars).__name__}: a mapping of symbols to bars is expected")
    for symbol, kept in bars.items():
        if not isinstance(kept, tuple | list) or (kept and not isinstance(kept[-1], Bar)):
            raise TypeError(f"known returned {str(kept)[:100]} for {symbol}: a tuple of bars is expected")
    return bars


def _keep(draft: Draft, state: Any, call: str) -> None:
    if state is None and draft.strategy is not None:
        raise TypeError(f"{call} returned None where its new state is expected")
    draft.strategy = state


def _check(value: Any, kind: type[Any], call: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{call} returned {type(value).__name__}: {kind.__name__} is expected")


def _check_finite(observation: Observation) -> None:
    finite = np.isfinite(np.frombuffer(observation.data, dtype="<f4"))
    if not finite.all():
        raise ValueError(f"observe returned {np.count_nonzero(~finite)} values that are not finite")
