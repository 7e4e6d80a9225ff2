"""`toy_crowd`: each symbol is a row of the batch, the answer has heads, and a configuration may name the symbols.

Of each symbol: the return and the range of the newest three bars, and what the desk holds of it.
"""

from __future__ import annotations

import msgspec
import numpy as np

from strategies.kit.contract import (
    Answer,
    Bar,
    Basket,
    DailySpec,
    Float32Array,
    Head,
    Leg,
    Observation,
    Portfolio,
    Rebalance,
    View,
)
from strategies.kit.daily import KeepsBars, KeptBars, count, no_bars, portfolio_of, prices, remembered
from strategies.kit.entry import StrategyEntry, defaults_of_days

HISTORY_BARS = 4
WINDOW = 3
SYMBOLS = ("AAA", "BBB", "CCC", "DDD", "EEE")
SHORT = "fewer than 4 bars"

SPEC = DailySpec(
    name="toy_crowd",
    revision=1,
    symbols=SYMBOLS,
    bar_interval_s=86_400,
    history_bars=HISTORY_BARS,
    window=WINDOW,
    observation_shape=(2 * WINDOW + 2,),
    dtype="float32",
    features=("return", "range", "weight", "tradable"),
    actions=("final",),
    temperature=1.0,
    continuous=True,
    capital_usd=100_000,
    rows_are_symbols=True,
    heads=(
        Head("probabilities", (3,), "of HOLD, BUY and SELL"),
        Head("confidence", (), "the largest probability"),
        Head("bold", (), "what the bold one would do", wish=True),
        Head("final", (), "what is done: the wish times min(2 x confidence, 1)"),
    ),
)
DECLARATION: dict[str, object] = {"return": "close / close before - 1", "range": "(high - low) / close"}


def sequence(rows: bytes) -> Float32Array:
    """Return and range of a symbol's newest three bars, oldest first: float32 (6,)."""
    _, high, low, close = prices(rows)
    features = np.stack([close[1:] / close[:-1] - 1.0, (high - low)[1:] / close[1:]], axis=1)
    return features[-WINDOW:].astype(np.float32).reshape(-1)


class State(KeptBars, frozen=True, gc=False):
    """The newest bars, and which symbols the last observation left alone."""

    masked: tuple[str, ...] = ()


class ToyCrowd(KeepsBars[State]):
    """See `strategies.kit.contract.DailyStrategy`."""

    def __init__(self, symbols: tuple[str, ...] = SYMBOLS) -> None:
        self.spec = msgspec.structs.replace(SPEC, symbols=symbols)

    @property
    def state_type(self) -> type[State]:
        """The type to decode a journaled state with."""
        return State

    def start(self) -> State:
        """The state before any bar."""
        return State(no_bars(self.spec))

    def observe(self, state: State, bars: tuple[Bar, ...], view: View) -> tuple[State, Observation | None]:
        """A row for each symbol, zeros for one without enough bars; None before any has enough."""
        portfolio = portfolio_of(self.spec, view)
        series = remembered(self.spec, state.series, bars)
        out = np.zeros((len(series), SPEC.observation_shape[0]), dtype="<f4")
        for place, rows in enumerate(series):
            if count(rows) == HISTORY_BARS:
                out[place, :-2] = sequence(rows)
                out[place, -1] = 1.0
            out[place, -2] = portfolio.shares[place] * portfolio.prices[place] / portfolio.equity
        masked = tuple(s for s, row in zip(self.spec.symbols, out, strict=True) if not row[-1])
        if len(masked) == len(series):
            return state, None
        return State(state.series, masked), Observation(out.tobytes(), out.shape)

    def decide(self, state: State, answer: Answer, view: View) -> tuple[State, Rebalance]:
        """The final actions as weights; sells first, then buys in the order of the symbols."""
        portfolio = portfolio_of(self.spec, view)
        notes = dict.fromkeys(state.masked, SHORT)
        legs = [
            Leg(symbol, goal)
            for place, symbol in enumerate(self.spec.symbols)
            if symbol not in notes and (goal := goal_of(answer.logits[place], portfolio, place)) is not None
        ]
        held = dict(zip(self.spec.symbols, portfolio.shares, strict=True))
        legs.sort(key=lambda leg: leg.goal > held[leg.symbol])
        return state, Rebalance(None, "rebalance" if legs else "hold", Basket(tuple(legs)), notes)


def goal_of(final: float, portfolio: Portfolio, place: int) -> int | None:
    """The shares that the final action asks for; None where the weight stays within the band."""
    price, n = portfolio.prices[place], len(portfolio.prices)
    if price <= 0.0:
        return None
    weight = max(final, 0.0) * min(portfolio.weight_max, 1.0 / n)
    now = portfolio.shares[place] * price / portfolio.equity
    return None if abs(weight - now) < portfolio.band else int(weight * portfolio.equity / price)


STRATEGY = StrategyEntry(
    ToyCrowd, DECLARATION, desk="crowd", defaults=defaults_of_days(SPEC.capital_usd), with_symbols=ToyCrowd
)
