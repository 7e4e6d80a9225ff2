"""Small strategies with one planted fault each, and a clean one: what `train-and-export analyse` must tell apart."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import msgspec
import numpy as np

from strategies.kit.contract import Answer, Bar, Choice, Decision, Observation, Spec, Target, View

HISTORY, WINDOW, DECAY = 40, 5, 0.9
SPEC = Spec(
    "planted", 1, ("SPY",), 60, HISTORY, WINDOW, (WINDOW, 2), "float32", ("anchored", "planted"), ("A", "B"), 1.0
)


class Memory(msgspec.Struct, frozen=True):
    """What a planted strategy keeps: bars seen, an average of all closes, the session, its open and its rows."""

    seen: int = 0
    average: float = 0.0
    date: str = ""
    opened: float = 0.0
    rows: tuple[tuple[float, float], ...] = ()


class Planted:
    """Two features a bar: the close over the session's open, which is anchored, and one that a test plants."""

    state_type = Memory

    def __init__(self, feature: Callable[[Memory, Bar], float], needs: int = HISTORY) -> None:
        self.spec = SPEC
        self._feature = feature
        self._needs = needs  # bars before the first observation

    def start(self) -> Memory:
        return Memory()

    def observe(self, state: Memory, bars: tuple[Bar, ...], view: View) -> tuple[Memory, Observation | None]:
        bar = bars[0]
        fresh = state.date != view.session.date
        opened, rows = (bar.open, ()) if fresh else (state.opened, state.rows)
        average = DECAY * state.average + (1 - DECAY) * bar.close if state.seen else bar.close
        state = Memory(state.seen + 1, average, view.session.date, opened, rows)
        row = (bar.close / opened, self._feature(state, bar))
        state = msgspec.structs.replace(state, rows=(*rows, row)[-WINDOW:])
        if len(state.rows) < WINDOW or state.seen <= self._needs:
            return state, None
        return state, Observation(np.array(state.rows, dtype="<f4").tobytes(), self.spec.observation_shape)

    def correct(self, state: Memory, bar: Bar) -> Memory:
        return state

    def decide(self, state: Memory, answer: Answer, view: View) -> tuple[Memory, Decision]:
        action = int(answer.logits[1] > answer.logits[0])
        return state, Decision(Choice((0.5, 0.5), action, 0.5), action, Target(action, 100))


def anchored() -> Planted:
    """Clean: a bar's own range."""
    return Planted(lambda _, bar: bar.high - bar.low)


def centred_mean(bars: tuple[Bar, ...]) -> Planted:
    """Leaks two bars: the mean of five closes around the bar, of those there are."""
    closes = np.array([bar.close for bar in bars])
    means = {bar.start_ns: closes[max(i - 2, 0) : i + 3].mean() for i, bar in enumerate(bars)}
    return Planted(lambda _, bar: float(means[bar.start_ns]))


def file_mean(bars: tuple[Bar, ...]) -> Planted:
    """Leaks everything: normalised by the mean of the whole file."""
    mean = sum(bar.close for bar in bars) / len(bars)
    return Planted(lambda _, bar: bar.close / mean)


def endless_average() -> Planted:
    """Never forgets: an exponential average that nothing anchors."""
    return Planted(lambda state, _: state.average)


def never_warm() -> Planted:
    """Asks for more history than there is."""
    return Planted(lambda _, bar: bar.close, needs=20_000)


def demanding(threshold: float) -> Planted:
    """Cannot be made without a number."""
    return Planted(lambda _, bar: bar.close - threshold)


def no_strategy() -> object:
    """Has no contract."""
    return SimpleNamespace(spec="none")
