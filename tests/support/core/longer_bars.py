"""A strategy of longer bars and two further timeframes, all in or flat. Nothing here computes an expected value."""

from __future__ import annotations

import msgspec
import numpy as np

from strategies.kit import (
    Answer,
    Bar,
    Basket,
    FrameBars,
    Leg,
    Observation,
    Rebalance,
    ShareSpec,
    Timeframe,
    Timeframes,
    View,
    choose,
)
from tests.support.core.share_bars import SPEC

FEATURES = ("close", "hours", "hour", "days", "day")


def longer_spec(minutes: int, anchor: str = "open", *, overnight: bool = True) -> ShareSpec:
    """Bars of so many minutes, with the last hour, where they join to one, and the last day."""
    hours = (Timeframe("1h", 3, anchor),) if minutes < 60 and 60 % minutes == 0 else ()
    return msgspec.structs.replace(
        SPEC,
        bar_interval_s=60 * minutes,
        bar_anchor=anchor,
        timeframes=(*hours, Timeframe("1d", 2)),
        history_bars=2 * -(-390 // minutes),
        window=1,
        observation_shape=(len(FEATURES),),
        features=FEATURES,
        holds_overnight=overnight,
    )


class LongerState(msgspec.Struct, frozen=True, gc=False):
    """The bars of all timeframes."""

    bars: FrameBars = FrameBars()


class LongerBars:
    """Sees its own newest close, and number and close of the closed hours and days."""

    state_type = LongerState

    def __init__(self, spec: ShareSpec) -> None:
        self.spec = spec
        self._frames = Timeframes(spec)

    def start(self) -> LongerState:
        return LongerState()

    def observe(self, state: LongerState, bars: tuple[Bar, ...], view: View) -> tuple[LongerState, Observation | None]:
        kept = self._frames.add(state.bars, bars, view)
        seen = [bars[-1].close]
        for length in ("1h", "1d"):
            declared = length in [frame.length for frame in self.spec.timeframes]
            closed = self._frames.closed(kept, "SPY", length) if declared else ()
            seen += [float(len(closed)), closed[-1].close if closed else 0.0]
        return LongerState(kept), Observation(np.array(seen, dtype="<f4").tobytes(), self.spec.observation_shape)

    def correct(self, state: LongerState, bar: Bar) -> LongerState:
        return LongerState(self._frames.correct(state.bars, bar))

    def decide(self, state: LongerState, answer: Answer, view: View) -> tuple[LongerState, Rebalance]:
        assert view.portfolio is not None
        choice = choose(answer.logits, self.spec.temperature)
        goal = int(view.portfolio.equity * 0.9 / view.portfolio.prices[0]) if choice.action else 0
        held = view.portfolio.shares[0]
        legs = () if (held > 0) == (goal > 0) else (Leg("SPY", goal),)
        return state, Rebalance(choice, self.spec.actions[choice.action], Basket(legs))
