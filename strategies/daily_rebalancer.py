"""`daily_rebalancer`: the closes and indicators of 50 stocks in, a basket of whole shares out, once a session.

It decides what to hold, never how to order it; no I/O, clock or random number. Invariant: every result depends on the
arguments only; there is no cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from math import inf, isnan
from operator import itemgetter

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
STOCKS = len(SYMBOLS)
CLOSES = slice(0, STOCKS)
INDICATOR_COLUMNS = slice(50, 700)  # all indicators of the first stock, then of the second, ...
CASH, VALUE = 700, 701
HOLDINGS = slice(702, 752)
WEEKDAY = 752  # 0 Monday to 4 Friday
TRADABLE = slice(753, 803)  # 1, or 0: halted, missing, delisted, too little history
WIDTH = 803
HISTORY_BARS = 400  # W
UNIT_USD = 10_000  # that an action of 1 buys on a desk whose configuration names nothing else

SPEC = DailySpec(
    name="daily_rebalancer",
    revision=1,
    symbols=SYMBOLS,
    bar_interval_s=86_400,
    history_bars=HISTORY_BARS,
    window=1,
    observation_shape=(WIDTH,),
    dtype="float32",
    features=(
        *(f"close {symbol}" for symbol in SYMBOLS),
        *(f"{indicator} {symbol}" for symbol in SYMBOLS for indicator in INDICATORS),
        "cash",
        "portfolio_value",
        *(f"shares {symbol}" for symbol in SYMBOLS),
        "weekday",
        *(f"tradable {symbol}" for symbol in SYMBOLS),
    ),
    actions=SYMBOLS,
    temperature=1.0,
    continuous=True,
    capital_usd=1_000_000,
)

DECLARATION: dict[str, object] = {
    "bars": "adjusted as of the newest; a bar without usable prices (1e-6 to 1e9 USD) counts as none",
    "warm": "one symbol at least has history_bars bars",
    "indicators": "TA-Lib's functions on a symbol's last history_bars bars, MACD's line, fast %K; 0 where not finite",
    "periods": PERIODS,
    "portfolio": "cash and value in USD, whole shares",
    "weekday": "0 Monday to 4 Friday, of the session that is decided for",
    "tradable": "1: a bar of the newest session that any symbol has a bar of, and history_bars bars; else 0, and the "
    "last known close and the indicators of its own last bars are shown, 0 where there is none",
    "basket": "a < 0 sells int(held x -a); a > 0 buys int(a x shares_per_unit), or int(a x notional_per_unit / price) "
    "where that is not 0; flag 0 changes nothing; sells first, buys by the largest action, ties by symbol",
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
) -> Float32Array:
    """Return the observation, float32 (..., 803), of market columns (..., 700), flags (..., 50) and the portfolio.

    `market` is a row of `strategies.kit.daily_features.rebalancer_table`; `cash` and `value` in USD, `shares` (...,
    50), `weekday` 0 to 4 of the session to decide for. Shared by live and training.
    """
    columns = np.asarray(market)
    out = np.empty((*columns.shape[:-1], WIDTH), dtype=np.float32)
    out[..., :CASH] = columns
    out[..., CASH] = cash
    out[..., VALUE] = value
    out[..., HOLDINGS] = shares
    out[..., WEEKDAY] = weekday
    out[..., TRADABLE] = tradable
    return out


def basket_of(
    actions: Sequence[float],
    flags: Sequence[float] | Sequence[bool],
    portfolio: Portfolio,
    symbols: Sequence[str] = SYMBOLS,
) -> Basket:
    """Return the actions as a basket. One rule for live and training; all sequences in the order of `symbols`.

    Actions are float64, clipped to [-1, 1]. a < 0 sells int(held x -a) shares; a > 0 buys int(a x shares_per_unit), or
    int(a x notional_per_unit / price) where that is not 0, and nothing without a price; int truncates. A flag of 0
    leaves a symbol alone, and so does a change worth less than `portfolio.band` of the equity, but for selling all.
    Sells come first, buys by the largest action, ties by `symbols`. `ValueError` for a NaN or when lengths differ.
    """
    sells: list[Leg] = []
    buys: list[tuple[float, int, Leg]] = []
    least = portfolio.band * portfolio.equity
    rows = zip(symbols, actions, flags, portfolio.shares, portfolio.prices, strict=True)
    for place, (symbol, action, flag, held, price) in enumerate(rows):
        if isnan(action):
            raise ValueError(f"action of {symbol} is {action}, expected a number in [-1, 1]: check the model's output")
        clipped = min(max(action, -1.0), 1.0)
        if not flag:
            continue
        if clipped < 0.0:
            if (sold := int(held * -clipped)) > 0 and (sold == held or not 0.0 < sold * price < least):
                sells.append(Leg(symbol, held - sold))
        elif (bought := _bought(clipped, price, portfolio)) > 0 and not bought * price < least:
            buys.append((-clipped, place, Leg(symbol, held + bought)))
    return Basket((*sells, *(leg for _, _, leg in sorted(buys, key=itemgetter(0, 1)))))


def _bought(action: float, price: float, portfolio: Portfolio) -> int:
    """Return the whole shares that a positive action buys at `price` USD; 0 without a price."""
    if not 0.0 < price < inf:
        return 0
    if portfolio.notional_per_unit:
        return int(action * portfolio.notional_per_unit / price)
    return int(action * portfolio.shares_per_unit)


class DailyRebalancer(KeepsBars[RebalancerState]):
    """The strategy over `RebalancerState`; see `strategies.kit.contract.DailyStrategy`.

    The masking rule: a symbol is tradable (flag 1) when it has a bar of the newest session of any symbol, and
    `HISTORY_BARS` bars; a bar without finite prices above 0 does not count (`strategies.kit.daily.usable`). For an
    untradable symbol the observation has the last known close and the indicators of its own last bars, 0 without any,
    and `decide` leaves it alone.
    """

    __slots__ = ()
    spec = SPEC
    state_type = RebalancerState

    def start(self) -> RebalancerState:
        """Return the state before any bar."""
        return RebalancerState(no_bars(SPEC), (False,) * STOCKS)

    def observe(
        self, state: RebalancerState, bars: tuple[Bar, ...], view: View
    ) -> tuple[RebalancerState, Observation | None]:
        """Return the 803 numbers; None, with the state unchanged, until one symbol has `HISTORY_BARS` bars.

        `bars` of the running session count as each symbol's newest and are not kept. `ValueError` without a portfolio.
        """
        portfolio = portfolio_of(SPEC, view)
        series = remembered(SPEC, state.series, bars)
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
        )
        return RebalancerState(state.series, tradable), Observation(data.tobytes(), SPEC.observation_shape)

    def decide(self, state: RebalancerState, answer: Answer, view: View) -> tuple[RebalancerState, Rebalance]:
        """Return the actions as a basket, by `basket_of`; state unchanged."""
        basket = basket_of(answer.logits, state.tradable, portfolio_of(SPEC, view))
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
    """Return the observation's columns after each session, float64 (days, 803); those of the account are 0."""
    table = rebalancer_table(open_, high, low, close, present)
    columns = np.zeros((len(table.market), WIDTH))
    columns[:, : table.market.shape[1]] = table.market
    columns[:, TRADABLE] = table.tradable
    return columns


STRATEGY = StrategyEntry(
    DailyRebalancer,
    DECLARATION,
    desk="rebalancer",
    training="training.desks.daily.rebalancer:KIND",
    defaults={**defaults_of_days(SPEC.capital_usd), "basket": {"notional_per_unit_usd": Decimal(UNIT_USD)}},
    table=feature_table,
    columns=columns_of,
)
