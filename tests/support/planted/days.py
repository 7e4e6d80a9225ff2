"""Small daily strategies with one planted fault each, and a clean one: what `analyse` must tell apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from strategies.kit.contract import Answer, Bar, Basket, DailySpec, Leg, Observation, Rebalance, View
from strategies.kit.daily import Series, count, known_bars, no_bars, portfolio_of, prices, readjusted, remembered

WINDOW = 5
SPEC = DailySpec(
    name="planted_days",
    revision=1,
    symbols=("AAA", "BBB"),
    bar_interval_s=86_400,
    history_bars=WINDOW,
    window=1,
    observation_shape=(3,),
    dtype="float32",
    features=("close", "planted", "cash"),
    actions=("AAA", "BBB"),
    temperature=1.0,
    continuous=True,
)


class Memory(msgspec.Struct, frozen=True):
    """The newest bars of each symbol, and an average of all closes of the first."""

    series: Series
    average: float = 0.0


class Planted:
    """The mean of the last five closes of AAA, what a test plants, and the desk's cash."""

    state_type: type[Memory] = Memory
    spec: DailySpec = SPEC

    def __init__(self, feature: Callable[[Memory], float], window: int = WINDOW) -> None:
        self._feature = feature
        self._kept = msgspec.structs.replace(SPEC, history_bars=window)

    def start(self) -> Memory:
        return Memory(no_bars(SPEC))

    def remember(self, state: Memory, bars: tuple[Bar, ...]) -> Memory:
        average = state.average
        for bar in bars:
            average = 0.5 * average + 0.5 * bar.close if bar.symbol == "AAA" else average
        return Memory(remembered(self._kept, state.series, bars), average)

    def readjust(self, state: Memory, symbol: str, bars: tuple[Bar, ...]) -> Memory:
        return Memory(readjusted(self._kept, state.series, symbol, bars), state.average)

    def known(self, state: Memory) -> Mapping[str, tuple[Bar, ...]]:
        return known_bars(SPEC, state.series)

    def observe(self, state: Memory, bars: tuple[Bar, ...], view: View) -> tuple[Memory, Observation | None]:
        if any(count(rows) < WINDOW for rows in state.series):
            return state, None
        close = prices(state.series[0])[3][-WINDOW:].mean()
        row = (close, self._feature(state), portfolio_of(SPEC, view).cash)
        return state, Observation(np.array(row, dtype="<f4").tobytes(), SPEC.observation_shape)

    def decide(self, state: Memory, answer: Answer, view: View) -> tuple[Memory, Rebalance]:
        goals = [int(100 * abs(action)) for action in answer.logits]
        return state, Rebalance(None, "rebalance", Basket(tuple(map(Leg, SPEC.symbols, goals))))


def clean() -> Planted:
    """BBB's highest high of the window."""
    return Planted(lambda state: float(prices(state.series[1])[1].max()))


def tomorrow(bars: tuple[Bar, ...]) -> Planted:
    """Leaks one session: the next close of AAA, where there is one."""
    closes = [bar.close for bar in bars if bar.symbol == "AAA"]
    following = dict(zip([bar.start_ns for bar in bars if bar.symbol == "AAA"], [*closes[1:], closes[-1]], strict=True))

    def feature(state: Memory) -> float:
        newest = int(np.frombuffer(state.series[0], dtype="<i8").reshape(-1, 6)[-1, 0])
        return following[newest]

    return Planted(feature)


def one_more() -> Planted:
    """Depends on one bar more than it says: the oldest of six closes, where there are six."""
    return Planted(lambda state: float(prices(state.series[0])[3][0]), window=WINDOW + 1)


def endless() -> Planted:
    """Never forgets: an average that nothing anchors."""
    return Planted(lambda state: state.average)


class Forgetful:
    """A daily strategy that cannot remember."""

    spec, state_type = SPEC, Memory
    start, observe, decide = Planted.start, Planted.observe, Planted.decide
