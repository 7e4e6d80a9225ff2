"""A desk of a third kind, by composition alone: it decides at each bar and holds shares, all in or flat.

The class of its spec names both axes; nothing else in the daemon knows it. Nothing here computes an expected value.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from daemon.core.effects import AskPolicy
from daemon.core.events import PolicyAnswered
from strategies.kit.contract import Answer, Bar, Basket, Choice, Leg, Observation, Rebalance, ShareSpec, View
from strategies.kit.entry import StrategyEntry

FLAT, LONG = "FLAT", "LONG"
WINDOW = 3


SPEC = ShareSpec(
    name="share_bars",
    revision=1,
    symbols=("SPY",),
    bar_interval_s=60,
    history_bars=0,
    window=WINDOW,
    observation_shape=(WINDOW, 2),
    dtype="float32",
    features=("close", "shares"),
    actions=(FLAT, LONG),
    temperature=1.0,
    holds_overnight=True,
)


class ShareBarState(msgspec.Struct, frozen=True):
    """The last closes with the shares held then, of one session."""

    date: str = ""
    rows: tuple[tuple[float, float], ...] = ()


class ShareBars:
    """Holds `SHARES` shares or none, as the policy answers."""

    spec: ShareSpec = SPEC
    state_type = ShareBarState
    SHARES = 10

    def start(self) -> ShareBarState:
        return ShareBarState()

    def observe(self, state: ShareBarState, bars: tuple[Bar, ...], view: View) -> tuple[ShareBarState, Any]:
        assert view.portfolio is not None
        rows = state.rows if state.date == view.session.date else ()
        rows = (*rows, (bars[-1].close, float(view.portfolio.shares[0])))[-WINDOW:]
        state = ShareBarState(view.session.date, rows)
        if len(rows) < WINDOW:
            return state, None
        return state, Observation(np.array(rows, dtype="<f4").tobytes(), self.spec.observation_shape)

    def correct(self, state: ShareBarState, bar: Bar) -> ShareBarState:
        last = state.rows[-1][1] if state.rows else 0.0
        return msgspec.structs.replace(state, rows=(*state.rows[:-1], (bar.close, last)))

    def decide(self, state: ShareBarState, answer: Answer, view: View) -> tuple[ShareBarState, Rebalance]:
        assert view.portfolio is not None
        action = int(np.argmax(answer.logits))
        goal = self.SHARES if self.spec.actions[action] == LONG else 0
        legs = () if view.portfolio.shares[0] == goal else (Leg("SPY", goal),)
        choice = Choice((0.5, 0.5), action, 0.5)
        return state, Rebalance(choice, self.spec.actions[action], Basket(legs))


STRATEGY = StrategyEntry(ShareBars, {}, desk="toy")


class EveryThird:
    """A policy that is long for three questions, then flat for three."""

    def answer(self, question: AskPolicy, now_ns: int) -> PolicyAnswered:
        long = question.decision // 3 % 2 == 1
        return PolicyAnswered(now_ns, question.decision, (0.0, 1.0) if long else (1.0, 0.0), b"", "v1")
