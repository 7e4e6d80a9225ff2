"""`regime_switcher`: 64 numbers on three ETFs in, one of 16 portfolios out, once a session, by a recurrent policy.

It decides what to hold, never how to order it; no I/O, clock or random number. Invariant: every result depends on the
arguments only; there is no cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from strategies.kit.contract import (
    SAMPLING,
    Answer,
    Bar,
    Basket,
    DailySpec,
    Float32Array,
    Observation,
    Portfolio,
    Rebalance,
    View,
    choose,
)
from strategies.kit.daily import (
    KeepsBars,
    KeptBars,
    basket_of_weights,
    count,
    no_bars,
    portfolio_of,
    prices,
    remembered,
)
from strategies.kit.daily_features import fund_features, regime_table
from strategies.kit.entry import BoolArray, Columns, Float64Array, StrategyEntry, defaults_of_days

SYMBOLS = ("SPY", "QQQ", "IWM")
ASSETS = ("CASH", *SYMBOLS)
HOLD = 0

REGIMES: tuple[tuple[str, tuple[float, float, float] | None], ...] = (
    ("HOLD", None),
    ("ALL_CASH", (0.00, 0.00, 0.00)),
    ("ALL_SPY", (1.00, 0.00, 0.00)),
    ("ALL_QQQ", (0.00, 1.00, 0.00)),
    ("ALL_IWM", (0.00, 0.00, 1.00)),
    ("EQUAL_WEIGHT", (1 / 3, 1 / 3, 1 / 3)),
    ("SPY_QQQ", (0.50, 0.50, 0.00)),
    ("SPY_IWM", (0.50, 0.00, 0.50)),
    ("QQQ_IWM", (0.00, 0.50, 0.50)),
    ("BALANCED", (0.40, 0.20, 0.20)),
    ("GROWTH_TILT", (0.30, 0.60, 0.00)),
    ("VALUE_TILT", (0.60, 0.10, 0.20)),
    ("SMALL_CAP_TILT", (0.30, 0.00, 0.60)),
    ("DEFENSIVE", (0.40, 0.00, 0.00)),
    ("HALF_CASH", (0.25, 0.15, 0.10)),
    ("CASH_HEAVY", (0.10, 0.05, 0.05)),
)
"""Each action's name and the weights of SPY, QQQ and IWM, the rest is cash; None leaves all as it is."""

PRICES, RETURNS, VOLATILITIES, WEIGHTS = slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 13)
PORTFOLIO_RETURN, DRAWDOWN = 13, 14
WIDTH = 64  # [15:64] is reserved and 0
HIDDEN = 128
HISTORY_BARS = 252  # W
EPISODE = 256  # sessions of the portfolio's return and drawdown

SPEC = DailySpec(
    name="regime_switcher",
    revision=1,
    symbols=SYMBOLS,
    bar_interval_s=86_400,
    history_bars=HISTORY_BARS,
    window=1,
    observation_shape=(WIDTH,),
    dtype="float32",
    features=(
        *(f"price {symbol}" for symbol in SYMBOLS),
        *(f"return {symbol}" for symbol in SYMBOLS),
        *(f"volatility {symbol}" for symbol in SYMBOLS),
        *(f"weight {asset}" for asset in ASSETS),
        "portfolio_return",
        "drawdown",
        *(f"reserved {index}" for index in range(15, WIDTH)),
    ),
    actions=tuple(name for name, _ in REGIMES),
    temperature=1.0,
    recurrent_shape=(HIDDEN,),
    capital_usd=100_000,
)

DECLARATION: dict[str, object] = {
    "bars": "adjusted as of the newest; a bar without usable prices (1e-6 to 1e9 USD) counts as none",
    "warm": "all three have history_bars bars",
    "market": (
        "close / mean of the last 252 closes - 1",
        "(close / previous close - 1) x 10",
        "sample standard deviation (n - 1) of the last 20 simple daily returns x 10",
    ),
    "weights": "cash / equity, then shares x last known price / equity; 0 while the equity is not above 0",
    "portfolio": "over the newest 257 decisions, with this one: equity / the oldest - 1, and 1 - equity / the highest",
    "sampling": SAMPLING,
    "regimes": REGIMES,
    "basket": "shares = int(weight x equity / price); a weight that would change by less than the band stays, and one "
    "without a price; sells, then buys in the order of symbols",
    "hidden": "float32 (128,), empty for zeros; the newest answer's",
}
"""The declared meaning of observations and answers; with `SPEC` the input of the contract hash."""


class RegimeState(KeptBars, frozen=True, gc=False):
    """The state on which later results depend."""

    equities: tuple[float, ...] = ()  # USD, of the last `EPISODE` + 1 decisions, oldest first
    hidden: bytes = b""  # the policy's memory, float32 (128,) little endian; empty for zeros


def vector(
    market: npt.ArrayLike, weights: npt.ArrayLike, portfolio_return: npt.ArrayLike, drawdown: npt.ArrayLike
) -> Float32Array:
    """Return the observation, float32 (..., 64), of market columns (..., 9), weights of `ASSETS` (..., 4), two
    fractions.

    `market` is a row of `strategies.kit.daily_features.regime_table`. Shared by live and training.
    """
    columns = np.asarray(market)
    out = np.zeros((*columns.shape[:-1], WIDTH), dtype=np.float32)
    out[..., : WEIGHTS.start] = columns
    out[..., WEIGHTS] = weights
    out[..., PORTFOLIO_RETURN] = portfolio_return
    out[..., DRAWDOWN] = drawdown
    return out


def weights_of(portfolio: Portfolio) -> tuple[float, ...]:
    """Return the weights of `ASSETS` at the portfolio's prices; all 0 while its equity is not above 0."""
    if not portfolio.equity > 0.0:
        return (0.0,) * len(ASSETS)
    values = (held * price for held, price in zip(portfolio.shares, portfolio.prices, strict=True))
    return (portfolio.cash / portfolio.equity, *(value / portfolio.equity for value in values))


def performance(equities: Sequence[float]) -> tuple[float, float]:
    """Return the return over these equities, and the last one's drawdown from the highest (0 or above).

    Fractions; 0 where the first is not above 0.
    """
    first, last, highest = equities[0], equities[-1], max(equities)
    if not first > 0.0:
        return (0.0, 0.0)
    return (last / first - 1.0, 1.0 - last / highest)


def basket_of(regime: int, portfolio: Portfolio) -> Basket:
    """Return the basket of a regime (index into `REGIMES`): no legs for HOLD, or while the equity is not above 0.

    See `strategies.kit.daily.basket_of_weights`.
    """
    weights = REGIMES[regime][1]
    return Basket() if weights is None else basket_of_weights(SYMBOLS, weights, portfolio)


class RegimeSwitcher(KeepsBars[RegimeState]):
    """The strategy over `RegimeState`; see `strategies.kit.contract.DailyStrategy`."""

    __slots__ = ()
    spec = SPEC
    state_type = RegimeState

    def start(self) -> RegimeState:
        """Return the state before any bar: no equity, the policy's memory zero."""
        return RegimeState(no_bars(SPEC))

    def observe(self, state: RegimeState, bars: tuple[Bar, ...], view: View) -> tuple[RegimeState, Observation | None]:
        """Return the 64 numbers, with the policy's memory; None, with the state unchanged, until all have
        `HISTORY_BARS` bars.

        The portfolio's equity joins the state. `bars` of the running session count as each symbol's newest and are not
        kept. A symbol without a bar of the newest session shows its own last bars. `ValueError` without a portfolio.
        """
        portfolio = portfolio_of(SPEC, view)
        series = remembered(SPEC, state.series, bars)
        if not all(count(rows) == HISTORY_BARS for rows in series):
            return state, None
        equities = (*state.equities, portfolio.equity)[-EPISODE - 1 :]
        market = fund_features(np.stack([prices(rows)[3] for rows in series])).T.reshape(-1)
        data = vector(market.astype(np.float32), weights_of(portfolio), *performance(equities))
        return (
            msgspec.structs.replace(state, equities=equities),
            Observation(data.tobytes(), SPEC.observation_shape, state.hidden),
        )

    def decide(self, state: RegimeState, answer: Answer, view: View) -> tuple[RegimeState, Rebalance]:
        """Return the most probable regime as a basket, by `basket_of`; the policy's new memory joins the state."""
        choice = choose(answer.logits, SPEC.temperature)
        basket = basket_of(choice.action, portfolio_of(SPEC, view))
        name = REGIMES[choice.action][0]
        return msgspec.structs.replace(state, hidden=answer.hidden), Rebalance(choice, name, basket, whole=True)


def columns_of(bars: Float64Array, present: BoolArray, window: int, _dates: Sequence[str]) -> Columns:
    """See `strategies.kit.entry.StrategyEntry.columns`; all symbols need `window` bars."""
    warm: BoolArray = np.logical_and.reduce(np.cumsum(present, axis=0) >= window, axis=1)
    return Columns(regime_table(bars[3], present), present.astype(np.float32), warm)


def feature_table(*prices: Float64Array, present: BoolArray) -> Float64Array:
    """Return the market columns after each session, float64 (days, 9), of open, high, low and close."""
    return regime_table(prices[3], present).astype(np.float64)


STRATEGY = StrategyEntry(
    RegimeSwitcher,
    DECLARATION,
    desk="regime",
    training="training.desks.daily.regime:KIND",
    defaults=defaults_of_days(SPEC.capital_usd),
    table=feature_table,
    columns=columns_of,
)
