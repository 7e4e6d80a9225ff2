"""`daily_rebalancer`: closes and indicators of 50 stocks, or of 5 to 100 others, in, shares out, once a session.

It decides what to hold, never how to order it; no I/O, clock or random number. Invariant: every result depends on the
arguments only; there is no cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isnan
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from strategies.kit.contract import (
    Answer,
    Bar,
    Basket,
    DailySpec,
    Float32Array,
    Leg,
    Observation,
    Portfolio,
    Rebalance,
    View,
)
from strategies.kit.daily import (
    SHORT_CASH,
    STEPS,
    KeepsBars,
    KeptBars,
    Series,
    count,
    newest_start_ns,
    no_bars,
    portfolio_of,
    prices,
    remembered,
    weekday_of,
)
from strategies.kit.daily_features import INDICATOR_COUNT, PERIODS, indicators, rebalancer_table
from strategies.kit.entry import BoolArray, Columns, Float64Array, StrategyEntry, defaults_of_days
from strategies.kit.quantity import shares_of, steps_of

SYMBOLS = (
    "AAPL", "ADBE", "AMD", "AMGN", "AMZN", "AVGO", "BA", "BAC", "BKNG", "BMY",
    "BRK.B", "C", "CAT", "CMCSA", "COST", "CRM", "CSCO", "CVX", "DIS", "ELV",
    "GE", "GOOGL", "GS", "HD", "JNJ", "JPM", "KO", "LLY", "LOW", "MA",
    "MCD", "MRK", "MSFT", "MU", "NKE", "NVDA", "ORCL", "PEP", "PG", "QCOM",
    "SBUX", "T", "TXN", "UNH", "UNP", "V", "VZ", "WFC", "WMT", "XOM",
)  # fmt: skip
"""The 50 stocks with a full history from 2010 to 2022 and the highest dollar volume of 2019, by name."""

INDICATORS = (
    "macd", "rsi14", "cci20", "dx14", "sma20", "sma50", "sma200", "bollinger_upper", "bollinger_middle",
    "bollinger_lower", "atr14", "williams_r14", "stochastic_k14",
)  # fmt: skip
FEWEST, MOST = 5, 100  # stocks that a desk may name


class ObservationColumns(NamedTuple):
    """The columns of an observation for a given number of stocks."""

    stocks: int
    closes: slice
    indicators: slice  # all indicators of the first stock, then of the second, ...
    cash: int
    value: int
    holdings: slice
    weekday: int  # 0 Monday to 4 Friday
    tradable: slice  # 1, or 0: halted, missing, delisted, too little history
    width: int


def columns_for(stocks: int) -> ObservationColumns:
    """Return the observation's columns for `stocks` stocks: 16 for each stock, then cash, value and weekday."""
    market = stocks * (1 + len(INDICATORS))
    account = market + 2
    return ObservationColumns(
        stocks=stocks,
        closes=slice(0, stocks),
        indicators=slice(stocks, market),
        cash=market,
        value=market + 1,
        holdings=slice(account, account + stocks),
        weekday=account + stocks,
        tradable=slice(account + stocks + 1, account + 2 * stocks + 1),
        width=account + 2 * stocks + 1,
    )


STOCKS, CLOSES, INDICATOR_COLUMNS, CASH, VALUE, HOLDINGS, WEEKDAY, TRADABLE, WIDTH = columns_for(len(SYMBOLS))
"""Those of `SYMBOLS`: 803 numbers."""
HISTORY_BARS = 400  # W
UNIT = 0.01  # part of the equity that an action of 1 buys, unless the configuration says otherwise
UNIT_USD = 10_000  # USD that an action of 1 buys where actions are counted in dollars


def expected_symbols(symbols: tuple[str, ...]) -> str:
    """Return words for what a list of stocks should be; "" for a list that the desk can trade."""
    return "" if FEWEST <= len(symbols) <= MOST else f"{FEWEST} to {MOST} stocks"


def spec_of(symbols: tuple[str, ...]) -> DailySpec:
    """Return the spec for these stocks, which are part of the contract. `ValueError` for an unsuitable list."""
    if expected := expected_symbols(symbols):
        raise ValueError(f"daily_rebalancer is given {len(symbols)} symbols: expected {expected}")
    return DailySpec(
        name="daily_rebalancer",
        revision=2,
        symbols=symbols,
        bar_interval_s=86_400,
        history_bars=HISTORY_BARS,
        window=1,
        observation_shape=(columns_for(len(symbols)).width,),
        dtype="float32",
        features=(
            *(f"close {symbol}" for symbol in symbols),
            *(f"{indicator} {symbol}" for symbol in symbols for indicator in INDICATORS),
            "cash",
            "portfolio_value",
            *(f"shares {symbol}" for symbol in symbols),
            "weekday",
            *(f"tradable {symbol}" for symbol in symbols),
        ),
        actions=symbols,
        temperature=1.0,
        continuous=True,
        capital_usd=1_000_000,
    )


SPEC = spec_of(SYMBOLS)

DECLARATION: dict[str, object] = {
    "bars": "adjusted as of the newest; a bar without usable prices (1e-6 to 1e9 USD) counts as none",
    "warm": "one symbol at least has history_bars bars",
    "indicators": "TA-Lib's functions on a symbol's last history_bars bars, MACD's line, fast %K; 0 where not finite",
    "periods": PERIODS,
    "portfolio": "cash and value in USD, shares; times capital_usd / equity where a unit is a part of the equity",
    "weekday": "0 Monday to 4 Friday, of the session that is decided for",
    "tradable": "1: a bar of the newest session that any symbol has a bar of, and history_bars bars; else 0, and the "
    "last known close and the indicators of its own last bars are shown, 0 where there is none",
    "basket": "a < 0 sells held x -a shares; a > 0 buys a x shares_per_unit, or a x unit / price where a unit is "
    f"dollars or a part of the equity; {STEPS}; flag 0 changes nothing, and so does a change below the band, but for "
    f"selling all; sells, then buys; {SHORT_CASH}",
}
"""The declared meaning of observations and answers; with `SPEC` the input of the contract hash."""


class RebalancerState(KeptBars, frozen=True, gc=False):
    """The state on which later results depend."""

    tradable: tuple[bool, ...]  # the flags of the last observation, in the spec's order


def vector(
    market: npt.ArrayLike,
    tradable: npt.ArrayLike,
    *,
    cash: npt.ArrayLike,
    value: npt.ArrayLike,
    shares: npt.ArrayLike,
    weekday: npt.ArrayLike,
    scale: float = 1.0,
) -> Float32Array:
    """Return the observation, float32 (..., 16 n + 3), of market columns (..., 14 n), flags (..., n) and the portfolio.

    `market` is a row of `strategies.kit.daily_features.rebalancer_table`; `cash` and `value` in USD, `shares` (...,
    n), all times `scale`, `weekday` 0 to 4 of the session to decide for. Shared by live and training.
    """
    columns = np.asarray(market)
    places = columns_for(np.shape(tradable)[-1])
    out = np.empty((*columns.shape[:-1], places.width), dtype=np.float32)
    out[..., : places.cash] = columns
    out[..., places.cash] = np.multiply(cash, scale)
    out[..., places.value] = np.multiply(value, scale)
    out[..., places.holdings] = np.multiply(shares, scale)
    out[..., places.weekday] = weekday
    out[..., places.tradable] = tradable
    return out


def account_scale(portfolio: Portfolio, capital_usd: int) -> float:
    """Return the factor by which cash, value and shares are multiplied before the policy sees them.

    Where a unit of action is a part of the equity, the account is scaled to `capital_usd`, so that one policy serves
    accounts of every size. Otherwise, or while the equity is not above 0, the factor is 1.
    """
    by_equity = not portfolio.notional_per_unit and portfolio.equity_per_unit > 0.0 and portfolio.equity > 0.0
    return capital_usd / portfolio.equity if by_equity else 1.0


def basket_of(
    actions: Sequence[float],
    flags: Sequence[float] | Sequence[bool],
    portfolio: Portfolio,
    symbols: Sequence[str] = SYMBOLS,
) -> Basket:
    """Return the actions as a basket. One rule for live and training; all sequences in the order of `symbols`.

    Actions are float64, clipped to [-1, 1]. a < 0 sells held x -a shares; a > 0 buys a x shares_per_unit, or
    a x unit_usd / price where there is one, and nothing without a price; all cut to steps of a share. A flag of 0
    leaves a symbol alone, and so does a change worth less than `portfolio.band` of the equity, but for selling all.
    Sells come first, buys by the largest action, ties by `symbols`. `ValueError` for a NaN or when lengths differ.
    """
    sells: list[Leg] = []
    buys: list[tuple[float, int, Leg]] = []
    least, unit, per_share = portfolio.band * portfolio.equity, portfolio.unit_usd, portfolio.per_share
    rows = zip(symbols, actions, flags, portfolio.shares, portfolio.prices, strict=True)
    for place, (symbol, action, flag, shares, price) in enumerate(rows):
        if isnan(action):
            raise ValueError(f"action of {symbol} is {action}, expected a number in [-1, 1]: check the model's output")
        fraction = min(max(action, -1.0), 1.0)
        if not flag:
            continue
        steps = steps_of(shares, per_share)
        if fraction < 0.0:
            sale = steps_of(shares * -fraction, per_share)
            small = 0.0 < shares_of(sale, per_share) * price < least
            if shares > 0 and (sale == steps or (sale > 0 and not small)):
                sells.append(Leg(symbol, shares_of(steps - sale, per_share)))
        else:
            purchase = steps_of(_shares_to_buy(fraction, price, unit, portfolio.shares_per_unit), per_share)
            if purchase > 0 and not shares_of(purchase, per_share) * price < least:
                buys.append((-fraction, place, Leg(symbol, shares_of(steps + purchase, per_share))))
    return Basket((*sells, *(leg for _, _, leg in sorted(buys, key=itemgetter(0, 1)))))


def _shares_to_buy(action: float, price: float, unit_usd: float | None, unit_shares: int) -> float:
    """Return the shares that a positive action buys at `price` USD; 0 without a price."""
    if not 0.0 < price < inf:
        return 0.0
    return action * unit_shares if unit_usd is None else action * unit_usd / price


class DailyRebalancer(KeepsBars[RebalancerState]):
    """The strategy over `RebalancerState`; see `strategies.kit.contract.DailyStrategy`.

    The masking rule: a symbol is tradable (flag 1) when it has a bar of the newest session of any symbol, and
    `HISTORY_BARS` bars; a bar without finite prices above 0 does not count (`strategies.kit.daily.usable`). For an
    untradable symbol the observation has the last known close and the indicators of its own last bars, 0 without any,
    and `decide` leaves it alone.
    """

    __slots__ = ("spec",)
    state_type = RebalancerState

    def __init__(self, symbols: tuple[str, ...] = SYMBOLS) -> None:
        """Make the strategy of these stocks. `ValueError` as `spec_of`."""
        self.spec = SPEC if symbols == SYMBOLS else spec_of(symbols)

    def start(self) -> RebalancerState:
        """Return the state before any bar."""
        return RebalancerState(no_bars(self.spec), (False,) * len(self.spec.symbols))

    def observe(
        self, state: RebalancerState, bars: tuple[Bar, ...], view: View
    ) -> tuple[RebalancerState, Observation | None]:
        """Return 16 n + 3 numbers; None, with the state unchanged, until one symbol has `HISTORY_BARS` bars.

        `bars` of the running session count as each symbol's newest and are not kept. `ValueError` without a portfolio.
        """
        portfolio = portfolio_of(self.spec, view)
        series = remembered(self.spec, state.series, bars)
        if not any(count(rows) == HISTORY_BARS for rows in series):
            return state, None
        newest = max(map(newest_start_ns, series))
        tradable = tuple(count(rows) == HISTORY_BARS and newest_start_ns(rows) == newest for rows in series)
        data = vector(
            market_columns(series),
            tradable,
            cash=portfolio.cash,
            value=portfolio.equity,
            shares=portfolio.shares,
            weekday=weekday_of(view),
            scale=account_scale(portfolio, self.spec.capital_usd),
        )
        return RebalancerState(state.series, tradable), Observation(data.tobytes(), self.spec.observation_shape)

    def decide(self, state: RebalancerState, answer: Answer, view: View) -> tuple[RebalancerState, Rebalance]:
        """Return the actions as a basket, by `basket_of`; state unchanged."""
        basket = basket_of(answer.logits, state.tradable, portfolio_of(self.spec, view), self.spec.symbols)
        return state, Rebalance(None, "rebalance" if basket.legs else "hold", basket)


def market_columns(series: Series) -> Float32Array:
    """Return closes and indicators of each of n symbols' bars, float32 (14 n,); zeros without bars."""
    n = len(series)
    out = np.zeros(n * (1 + INDICATOR_COUNT))
    for stock, rows in enumerate(series):
        if rows:
            _, high, low, close = prices(rows)
            out[stock] = close[-1]
            first = n + stock * INDICATOR_COUNT
            out[first : first + INDICATOR_COUNT] = indicators(high, low, close)
    return out.astype(np.float32)


def columns_of(bars: Float64Array, present: BoolArray, window: int, _dates: Sequence[str]) -> Columns:
    """See `strategies.kit.entry.StrategyEntry.columns`; one symbol with `window` bars is enough."""
    table = rebalancer_table(bars[0], bars[1], bars[2], bars[3], present, window=window)
    warm: BoolArray = np.logical_or.reduce(np.cumsum(present, axis=0) >= window, axis=1)
    return Columns(table.market, table.tradable, warm)


def feature_table(
    open_: Float64Array, high: Float64Array, low: Float64Array, close: Float64Array, present: BoolArray
) -> Float64Array:
    """Return the observation's columns after each session, float64 (days, 16 n + 3); those of the account are 0."""
    table = rebalancer_table(open_, high, low, close, present)
    places = columns_for(table.tradable.shape[1])
    columns = np.zeros((len(table.market), places.width))
    columns[:, : places.cash] = table.market
    columns[:, places.tradable] = table.tradable
    return columns


STRATEGY = StrategyEntry(
    DailyRebalancer,
    DECLARATION,
    desk="rebalancer",
    training="training.desks.daily.rebalancer:KIND",
    defaults={**defaults_of_days(SPEC.capital_usd), "basket": {"equity_per_unit": UNIT}},
    table=feature_table,
    with_symbols=DailyRebalancer,
    expected_symbols=expected_symbols,
    columns=columns_of,
)
