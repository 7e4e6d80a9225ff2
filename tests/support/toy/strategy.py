"""`toy_keeper`: SPY or cash, once a session, by the return of a day and of five."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from strategies.kit.contract import (
    SAMPLING,
    Answer,
    Bar,
    Basket,
    DailySpec,
    Float32Array,
    Leg,
    Observation,
    Rebalance,
    View,
    choose,
)
from strategies.kit.daily import KeepsBars, KeptBars, count, no_bars, portfolio_of, prices, remembered
from strategies.kit.entry import BoolArray, Columns, Float64Array, StrategyEntry, defaults_of_days

HISTORY_BARS = 6
CASH, SPY = range(2)

SPEC = DailySpec(
    name="toy_keeper",
    revision=1,
    symbols=("SPY",),
    bar_interval_s=86_400,
    history_bars=HISTORY_BARS,
    window=1,
    observation_shape=(3,),
    dtype="float32",
    features=("return 1", "return 5", "weight"),
    actions=("CASH", "SPY"),
    temperature=1.0,
    capital_usd=50_000,
)
DECLARATION: dict[str, object] = {
    "returns": "close / the close a day and five days before - 1, times 10",
    "weight": "shares x last known price / equity",
    "sampling": SAMPLING,
    "basket": "all or nothing in whole shares",
}


def returns(close: Float64Array) -> Float32Array:
    """The two returns after each close, float32 (d, 2); 0 where there is none."""
    rows = np.zeros((len(close), 2), dtype=np.float32)
    for column, days in enumerate((1, 5)):
        rows[days:, column] = 10.0 * (close[days:] / close[:-days] - 1.0)
    return rows


class State(KeptBars, frozen=True, gc=False):
    """The newest bars."""


class ToyKeeper(KeepsBars[State]):
    """See `strategies.kit.contract.DailyStrategy`."""

    @property
    def spec(self) -> DailySpec:
        """The strategy in numbers."""
        return SPEC

    @property
    def state_type(self) -> type[State]:
        """The type to decode a journaled state with."""
        return State

    def start(self) -> State:
        """The state before any bar."""
        return State(no_bars(SPEC))

    def observe(self, state: State, bars: tuple[Bar, ...], view: View) -> tuple[State, Observation | None]:
        """Two returns and the weight of SPY; None before `HISTORY_BARS` bars."""
        portfolio = portfolio_of(SPEC, view)
        rows = remembered(SPEC, state.series, bars)[0]
        if count(rows) < HISTORY_BARS:
            return state, None
        weight = portfolio.shares[0] * portfolio.prices[0] / portfolio.equity
        data = np.array([*returns(prices(rows)[3])[-1], weight], dtype="<f4")
        return state, Observation(data.tobytes(), SPEC.observation_shape)

    def decide(self, state: State, answer: Answer, view: View) -> tuple[State, Rebalance]:
        """All of the equity in SPY, or none."""
        choice, portfolio = choose(answer.logits, SPEC.temperature), portfolio_of(SPEC, view)
        held, price = portfolio.shares[0], portfolio.prices[0]
        goal = int(portfolio.equity / price) if choice.action == SPY and price > 0.0 else 0
        keeps = (choice.action == SPY) == (held > 0)
        return state, Rebalance(choice, SPEC.actions[choice.action], Basket(() if keeps else (Leg("SPY", goal),)))


def columns_of(bars: Float64Array, present: BoolArray, window: int, _dates: Sequence[str]) -> Columns:
    """See `strategies.kit.entry.StrategyEntry.columns`; every session of SPY has a bar."""
    warm: BoolArray = np.cumsum(present[:, 0]) >= window
    return Columns(returns(bars[3, :, 0]), present.astype(np.float32), warm)


STRATEGY = StrategyEntry(
    ToyKeeper,
    DECLARATION,
    desk="toy",
    training="tests.support.toy.desk:KIND",
    defaults=defaults_of_days(SPEC.capital_usd),
    columns=columns_of,
)
