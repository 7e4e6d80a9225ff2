"""`regime_switcher`: 64 numbers on a few funds in, one of 16 portfolios out, once a session, by a recurrent policy.

Which funds is the user's choice, SPY, QQQ and IWM by default; the 16 portfolios follow from the list (`regimes_of`).
It decides what to hold, never how to order it; no I/O, clock or random number. Invariant: every result depends on the
arguments only; there is no cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

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
    SHORT_CASH,
    STEPS,
    KeepsBars,
    KeptBars,
    basket_of_weights,
    count,
    no_bars,
    portfolio_of,
    prices,
    remembered,
)
from strategies.kit.daily_features import VOLATILITY_RETURNS, fund_features, fund_volatilities, regime_table
from strategies.kit.entry import BoolArray, Columns, Float64Array, StrategyEntry, defaults_of_days

SYMBOLS = ("SPY", "QQQ", "IWM")
CASH = "CASH"
SYMBOLS_MOST = 10  # ten regimes of one fund leave six of 16, those that every list has
REGIME_COUNT = 16
HOLD, ALL_CASH = 0, 1
EQUAL_WEIGHT, INVERSE_VOLATILITY = "EQUAL_WEIGHT", "INVERSE_VOLATILITY"

Weights = tuple[float, ...] | float | None
"""The target of a regime. A tuple: the weight of each fund, the rest is cash. A number: the part of the equity to hold,
shared in inverse proportion to the funds' volatilities. None: no change."""
Regime = tuple[str, Weights]
"""Name and weights."""

REGIMES: tuple[Regime, ...] = (
    ("HOLD", None),
    ("ALL_CASH", (0.00, 0.00, 0.00)),
    ("ALL_SPY", (1.00, 0.00, 0.00)),
    ("ALL_QQQ", (0.00, 1.00, 0.00)),
    ("ALL_IWM", (0.00, 0.00, 1.00)),
    (EQUAL_WEIGHT, (1 / 3, 1 / 3, 1 / 3)),
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
"""The regimes of `SYMBOLS`: three are from the published source, the others are ours."""

_PARTS = (75, 25, 90, 10, 80, 20, 70, 30, 60, 40, 95, 5)  # percent of the equity, for `EQUAL_75` and so on


def regimes_of(symbols: tuple[str, ...]) -> tuple[Regime, ...]:
    """Return the 16 regimes of these funds: `REGIMES` for `SYMBOLS`, for any others the first 16 of this list.

    HOLD, ALL_CASH, ALL_x of each fund in order, EQUAL_WEIGHT, INVERSE_VOLATILITY, half of EQUAL_WEIGHT, half of
    INVERSE_VOLATILITY, equal weights of all but one fund (the last one left out first), then 75, 25, 90, 10, 80, 20,
    70, 30, 60, 40, 95 and 5 % of EQUAL_WEIGHT. Duplicates, which one or two funds would give, are left out.
    """
    return REGIMES if symbols == SYMBOLS else tuple(islice(_named_by_rule(symbols), REGIME_COUNT))


def _named_by_rule(symbols: tuple[str, ...]) -> Iterator[Regime]:
    funds = len(symbols)
    several = funds > 1  # one fund: equal weights, inverse volatility and all of it are the same
    yield "HOLD", None
    yield "ALL_CASH", (0.0,) * funds
    if several:
        for place, symbol in enumerate(symbols):
            yield f"ALL_{symbol}", tuple(float(other == place) for other in range(funds))
    yield EQUAL_WEIGHT, (1.0 / funds,) * funds
    if several:
        yield INVERSE_VOLATILITY, 1.0
    yield "HALF_EQUAL", (0.5 / funds,) * funds
    if several:
        yield "HALF_INVERSE", 0.5
    if funds > 2:  # of two funds, all but one is ALL_x
        for place in reversed(range(funds)):
            rest = 1.0 / (funds - 1)
            yield f"NO_{symbols[place]}", tuple(rest * (other != place) for other in range(funds))
    for percent in _PARTS:
        yield f"EQUAL_{percent}", (percent / 100.0 / funds,) * funds


class Columns64(NamedTuple):
    """The columns of an observation for a given number of funds; the rest of the 64 columns are reserved and 0."""

    prices: slice
    returns: slice
    volatilities: slice
    weights: slice  # of cash, then of each fund
    portfolio_return: int
    drawdown: int

    @property
    def used(self) -> int:
        """Return the count of columns that are not reserved."""
        return self.drawdown + 1


def layout(funds: int) -> Columns64:
    """Return the columns for this number of funds: three a fund, weights of cash and funds, return, drawdown."""
    first, second, third = funds, 2 * funds, 3 * funds
    weights = slice(third, third + funds + 1)
    return Columns64(
        slice(0, first), slice(first, second), slice(second, third), weights, weights.stop, weights.stop + 1
    )


WIDTH = 64
HIDDEN = 128
HISTORY_BARS = 252  # W
EPISODE = 256  # sessions of the portfolio's return and drawdown


def spec_of(symbols: tuple[str, ...]) -> DailySpec:
    """Return the spec for these funds. Raises ValueError for a list that does not give 16 regimes."""
    if expected := expected_symbols(symbols):
        raise ValueError(f"the symbols are {', '.join(symbols) or 'none'}, expected {expected}")
    return DailySpec(
        name="regime_switcher",
        revision=1,
        symbols=symbols,
        bar_interval_s=86_400,
        history_bars=HISTORY_BARS,
        window=1,
        observation_shape=(WIDTH,),
        dtype="float32",
        features=(
            *(f"price {symbol}" for symbol in symbols),
            *(f"return {symbol}" for symbol in symbols),
            *(f"volatility {symbol}" for symbol in symbols),
            *(f"weight {asset}" for asset in (CASH, *symbols)),
            "portfolio_return",
            "drawdown",
            *(f"reserved {index}" for index in range(layout(len(symbols)).used, WIDTH)),
        ),
        actions=tuple(name for name, _ in regimes_of(symbols)),
        temperature=1.0,
        recurrent_shape=(HIDDEN,),
        capital_usd=100_000,
    )


def expected_symbols(symbols: tuple[str, ...]) -> str:
    """Return words for what a list of funds should be; "" for a list that gives 16 regimes."""
    if not 1 <= len(symbols) <= SYMBOLS_MOST:
        return f"1 to {SYMBOLS_MOST} symbols: 16 regimes name no more"
    if len(set(symbols)) < len(symbols):
        return "each symbol once"
    return f"no {CASH}: that means the account's cash in the regimes" if CASH in symbols else ""


SPEC = spec_of(SYMBOLS)


def declared(symbols: tuple[str, ...]) -> dict[str, object]:
    """Return the declared meaning of observations and answers; with the spec the input of the contract hash."""
    regimes = regimes_of(symbols)
    words: dict[str, object] = {
        "bars": "adjusted as of the newest; a bar without usable prices (1e-6 to 1e9 USD) counts as none",
        "warm": f"all {'three ' if symbols == SYMBOLS else ''}have history_bars bars",
        "market": (
            "close / mean of the last 252 closes - 1",
            "(close / previous close - 1) x 10",
            "sample standard deviation (n - 1) of the last 20 simple daily returns x 10",
        ),
        "weights": "cash / equity, then shares x last known price / equity; 0 while the equity is not above 0",
        "portfolio": "over the newest 257 decisions, with this one: equity / the oldest - 1, and 1 - equity / the "
        "highest",
        "sampling": SAMPLING,
        "regimes": regimes,
        "basket": f"shares = weight x equity / price, {STEPS}; a weight that would change by less than the band stays, "
        f"and one without a price; sells, then buys; {SHORT_CASH}",
        "hidden": "float32 (128,), empty for zeros; the newest answer's",
    }
    if any(isinstance(weights, float) for _, weights in regimes):
        words["inverse"] = (
            "a regime of one number holds that part of the equity, each fund in proportion to 1 / its volatility over "
            "the last 20 returns of whole sessions; all stays as it is while one of these is not above 0"
        )
    return words


DECLARATION = declared(SYMBOLS)


class RegimeState(KeptBars, frozen=True, gc=False):
    """The state on which later results depend."""

    equities: tuple[float, ...] = ()  # USD, of the last `EPISODE` + 1 decisions, oldest first
    hidden: bytes = b""  # the policy's memory, float32 (128,) little endian; empty for zeros


def vector(
    market: npt.ArrayLike, weights: npt.ArrayLike, portfolio_return: npt.ArrayLike, drawdown: npt.ArrayLike
) -> Float32Array:
    """Return the observation, float32 (..., 64), of market columns (..., 3 n), weights of cash and n funds
    (..., n + 1), two fractions.

    `market` is a row of `strategies.kit.daily_features.regime_table`. Shared by live and training.
    """
    columns = np.asarray(market)
    places = layout(columns.shape[-1] // 3)
    out = np.zeros((*columns.shape[:-1], WIDTH), dtype=np.float32)
    out[..., : places.weights.start] = columns
    out[..., places.weights] = weights
    out[..., places.portfolio_return] = portfolio_return
    out[..., places.drawdown] = drawdown
    return out


def weights_of(portfolio: Portfolio) -> tuple[float, ...]:
    """Return the weights of cash and each fund at the portfolio's prices; all 0 while its equity is not above 0."""
    if not portfolio.equity > 0.0:
        return (0.0,) * (len(portfolio.shares) + 1)
    values = (shares * price for shares, price in zip(portfolio.shares, portfolio.prices, strict=True))
    return (portfolio.cash / portfolio.equity, *(value / portfolio.equity for value in values))


def performance(equities: Sequence[float]) -> tuple[float, float]:
    """Return the return over these equities, and the last one's drawdown from the highest (0 or above).

    Fractions; 0 where the first is not above 0.
    """
    first, last, highest = equities[0], equities[-1], max(equities)
    if not first > 0.0:
        return (0.0, 0.0)
    return (last / first - 1.0, 1.0 - last / highest)


def inverse_weights(volatilities: npt.ArrayLike) -> Float64Array:
    """Return weights in proportion to 1 / volatility that sum to 1, float64 (..., n) of volatilities (..., n).

    NaN where one of them is not above 0: a fund that does not move has no such weight, so no basket may follow.
    """
    values = np.asarray(volatilities, dtype=np.float64)
    inverse = 1.0 / np.where(values > 0.0, values, np.nan)
    result: Float64Array = inverse / inverse.sum(axis=-1, keepdims=True)
    return result


def basket_of(
    regime: int, portfolio: Portfolio, symbols: tuple[str, ...] = SYMBOLS, volatilities: Sequence[float] = ()
) -> Basket:
    """Return the basket of a regime (index into `regimes_of`): no legs for HOLD, or while the equity is not above 0.

    See `strategies.kit.daily.basket_of_weights`. Regimes by volatility need `volatilities` of the funds; without them,
    or while one is not above 0, nothing changes.
    """
    weights = regimes_of(symbols)[regime][1]
    if isinstance(weights, float):
        parts = inverse_weights(volatilities) if volatilities else np.full(1, np.nan)
        weights = None if np.isnan(parts).any() else tuple((weights * parts).tolist())
    return Basket() if weights is None else basket_of_weights(symbols, weights, portfolio)


class RegimeSwitcher(KeepsBars[RegimeState]):
    """The strategy over `RegimeState`; see `strategies.kit.contract.DailyStrategy`."""

    __slots__ = ("spec",)
    state_type = RegimeState

    def __init__(self, symbols: tuple[str, ...] = SYMBOLS) -> None:
        """Make the strategy of these funds. Raises ValueError as `spec_of`."""
        self.spec = spec_of(symbols)

    def start(self) -> RegimeState:
        """Return the state before any bar: no equity, the policy's memory zero."""
        return RegimeState(no_bars(self.spec))

    def observe(self, state: RegimeState, bars: tuple[Bar, ...], view: View) -> tuple[RegimeState, Observation | None]:
        """Return the 64 numbers, with the policy's memory; None, with the state unchanged, until all have
        `HISTORY_BARS` bars.

        The portfolio's equity joins the state. `bars` of the running session count as each symbol's newest and are not
        kept. A symbol without a bar of the newest session shows its own last bars. `ValueError` without a portfolio.
        """
        portfolio = portfolio_of(self.spec, view)
        series = remembered(self.spec, state.series, bars)
        if not all(count(rows) == HISTORY_BARS for rows in series):
            return state, None
        equities = (*state.equities, portfolio.equity)[-EPISODE - 1 :]
        market = fund_features(np.stack([prices(rows)[3] for rows in series])).T.reshape(-1)
        data = vector(market.astype(np.float32), weights_of(portfolio), *performance(equities))
        return (
            msgspec.structs.replace(state, equities=equities),
            Observation(data.tobytes(), self.spec.observation_shape, state.hidden),
        )

    def decide(self, state: RegimeState, answer: Answer, view: View) -> tuple[RegimeState, Rebalance]:
        """Return the most probable regime as a basket, by `basket_of`; the policy's new memory joins the state."""
        spec = self.spec
        choice = choose(answer.logits, spec.temperature)
        basket = basket_of(choice.action, portfolio_of(spec, view), spec.symbols, _volatilities(state))
        name = spec.actions[choice.action]
        return msgspec.structs.replace(state, hidden=answer.hidden), Rebalance(choice, name, basket, whole=True)


def _volatilities(state: RegimeState) -> Sequence[float]:
    """Return each fund's volatility over the last returns of complete sessions; () where bars are missing."""
    if not all(count(rows) > VOLATILITY_RETURNS for rows in state.series):
        return ()
    closes = np.stack([prices(rows)[3][-VOLATILITY_RETURNS - 1 :] for rows in state.series])
    volatilities: list[float] = fund_volatilities(closes).astype(np.float32).tolist()
    return volatilities


def columns_of(bars: Float64Array, present: BoolArray, window: int, _dates: Sequence[str]) -> Columns:
    """See `strategies.kit.entry.StrategyEntry.columns`; all symbols need `window` bars."""
    warm: BoolArray = np.logical_and.reduce(np.cumsum(present, axis=0) >= window, axis=1)
    return Columns(regime_table(bars[3], present), present.astype(np.float32), warm)


def feature_table(*prices: Float64Array, present: BoolArray) -> Float64Array:
    """Return the market columns after each session, float64 (days, 3 n), of open, high, low and close."""
    return regime_table(prices[3], present).astype(np.float64)


STRATEGY = StrategyEntry(
    RegimeSwitcher,
    DECLARATION,
    desk="regime",
    training="training.desks.daily.regime:KIND",
    defaults=defaults_of_days(SPEC.capital_usd),
    table=feature_table,
    with_symbols=RegimeSwitcher,
    expected_symbols=expected_symbols,
    declared=declared,
    columns=columns_of,
)
