"""`forecast_ensemble`: 60 days of 78 features of each stock in, how much of it to hold out, once a session.

It says what to hold, never how to order it; no I/O, clock or random number. Each symbol is a row of the batch, so one
policy serves any symbols. Invariant: every result is a function of the arguments alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

import msgspec
import numpy as np
import numpy.typing as npt

from strategies.forecast_ensemble.calls import ANCHORED, LEAD
from strategies.forecast_ensemble.features import (
    BLOCK,
    COUNT,
    FEATURES,
    HISTORY_BARS,
    NAMES,
    WINDOW,
    newest,
    table,
    together,
)
from strategies.forecast_ensemble.masks import (
    ENDED,
    GAP,
    GOOD,
    MASKING,
    NOT_LISTED,
    REASONS,
    SHORT,
    newest_session,
    reasons,
)
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
from strategies.kit.daily import (
    ROW,
    SHORT_CASH,
    STEPS,
    KeepsBars,
    KeptBars,
    Series,
    count,
    cut,
    no_bars,
    portfolio_of,
    remembered,
)
from strategies.kit.entry import BoolArray, Columns, Float64Array, StrategyEntry, defaults_of_days
from strategies.kit.units import DAY_NS

SYMBOLS = (
    "AAPL", "AMD", "AMZN", "BA", "BAC", "BRK.B", "CRM", "CSCO", "DIS", "GOOGL",
    "JNJ", "JPM", "MA", "MSFT", "MU", "NVDA", "QCOM", "UNH", "V", "WFC",
)  # fmt: skip
"""The 20 stocks with a full history from 2010-01-04 on and the highest dollar volume of 2019, by name."""

ACCOUNT = ("weight", "unrealised_return", "age", "cash_share", "drawdown", "tradable")
SEQUENCE = WINDOW * COUNT
WIDTH = SEQUENCE + len(ACCOUNT)
NO_PRICE = "no price"
CLASSES = ("HOLD", "BUY", "SELL")

SPEC = DailySpec(
    name="forecast_ensemble",
    revision=1,
    symbols=SYMBOLS,
    bar_interval_s=86_400,
    history_bars=HISTORY_BARS,
    window=WINDOW,
    observation_shape=(WIDTH,),
    dtype="float32",
    features=(*NAMES, *ACCOUNT),
    actions=("final",),
    temperature=1.0,
    continuous=True,
    capital_usd=100_000,
    rows_are_symbols=True,
    heads=(
        Head(
            "probabilities",
            (len(CLASSES),),
            "calibrated, of HOLD, BUY and SELL: who moves, and which way as far as the report says",
        ),
        Head("confidence", (), "the calibrated probability of the predicted class, or 1 - entropy / ln 3"),
        Head(
            "variance",
            (),
            "calibrated variance of log returns over the next 5 sessions, per session; no word on masked ones",
        ),
        Head("sac", (), "the action of SAC alone, before the size", wish=True),
        Head("td3", (), "the action of TD3 alone, before the size", wish=True),
        Head(
            "size",
            (),
            "the part of a wish that passes: min(2 x confidence, 1), or a stated risk over the forecast",
        ),
        Head("final", (), "the weighted mean of both times the size: the answer"),
    ),
)

DECLARATION: dict[str, object] = {
    "bars": "adjusted as of the newest; a bar without usable prices (1e-6 to 1e9 USD) counts as none",
    "warm": "one symbol at least is tradable",
    "row": "the last 60 rows of features, oldest first, then the account's numbers",
    "features": tuple(tuple(feature) for feature in FEATURES),
    "anchors": (
        "a function starts so many bars before the first bar of two calendar years, the first even",
        tuple((lead, tuple(name for call in calls for name in call.names)) for lead, calls in ANCHORED),
        BLOCK,
    ),
    "account": (
        "shares x price / equity",
        "price / average price of what is held - 1 within [-1, 3]; bought at the prices of the decision before",
        "decisions in a row that found it held / 20, at most 5",
        "cash / equity",
        "1 - equity / the highest equity of all decisions",
        "1, or 0 for a masked symbol, whose features are 0",
    ),
    "masked": MASKING,
    "labels": CLASSES,
    "basket": "weight = max(final, 0) x weight_max of tradable symbols, scaled down to what masked ones leave of 1; a "
    "weight that would change by less than the band stays, but for 0; masked symbols stay; shares = weight x equity / "
    f"price, {STEPS}; sells, then buys; {SHORT_CASH}",
}
"""The declared meaning of observations and answers; with `SPEC` the input of the contract hash."""


class ForecastState(KeptBars, frozen=True, gc=False):
    """The state on which later results depend; tuples in the spec's order, empty before the first decision."""

    masked: tuple[str, ...] = ()  # why the last observation masked each symbol, "" for a tradable one
    held: tuple[int | float, ...] = ()  # shares at the last decision
    prices: tuple[float, ...] = ()  # USD, at the last decision
    basis: tuple[float, ...] = ()  # USD, average price paid for what was held then
    ages: tuple[int, ...] = ()  # decisions in a row that found the symbol held
    peak: float = 0.0  # USD, the highest equity of all decisions


def market_of(series: Series) -> tuple[Float32Array, npt.NDArray[np.uint8]]:
    """The last 60 rows of each symbol, float32 (S, 60, 78), zeros where masked, and its code of `REASONS`.

    Sessions are those on which one of the symbols has a bar.
    """
    bars = newest_bars(series)
    features = np.full((*bars.shape[1:], COUNT), np.nan, dtype=np.float32)
    if len(features) >= WINDOW:
        is_complete = np.array([count(rows) >= LEAD + WINDOW for rows in series])  # before, some row has not
        whole = np.flatnonzero(np.isfinite(bars[:, -WINDOW:]).all(axis=(0, 1)) & is_complete).tolist()
        histories = [(*_columns(series[place]), _dates(_starts(series[place]))) for place in whole]
        for place, rows in zip(whole, together(newest, histories), strict=True):
            features[-WINDOW:, place] = rows
    codes = reasons(bars, np.zeros(bars.shape[1:], dtype=np.bool_), features, WINDOW)[-1]
    older = np.array([count(rows) for rows in series]) > np.isfinite(bars[0]).sum(axis=0)  # it was listed before these
    codes[older & (codes == NOT_LISTED)] = ENDED
    codes[older & (codes == SHORT)] = GAP
    sequences = np.zeros((len(series), WINDOW, COUNT), dtype=np.float32)
    for place in np.flatnonzero(codes == GOOD).tolist():
        sequences[place] = features[-WINDOW:, place]
    return sequences, codes


def newest_bars(series: Series) -> Float64Array:
    """The bars of the newest 61 sessions, float64 (5, sessions, S), NaN where there is none.

    At least one session, even if no symbol has a bar.
    """
    starts = [_starts(rows)[-WINDOW - 1 :] for rows in series]
    sessions = np.unique(np.concatenate([*starts, np.zeros(1, dtype=np.int64)]))[-WINDOW - 1 :]
    bars = np.full((5, len(sessions), len(series)), np.nan)
    for place, symbol_starts in enumerate(starts):
        session_starts = symbol_starts[symbol_starts >= sessions[0]]
        bar_count = len(session_starts)  # 0 where the symbol ended before these sessions
        rows = series[place][len(series[place]) - bar_count * ROW.size :]
        bars[:, np.searchsorted(sessions, session_starts), place] = _columns(rows)
    return bars


def _starts(rows: bytes) -> npt.NDArray[np.int64]:
    """When a symbol's bars begin, in nanoseconds UTC."""
    return np.frombuffer(rows, dtype="<i8")[:: ROW.size // 8]


def _columns(rows: bytes) -> Float64Array:
    """Open, high, low, close and volume of a symbol's bars, float64 (5, n)."""
    return np.frombuffer(rows, dtype="<f8").reshape(-1, 6)[:, 1:].T


def _dates(starts_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.datetime64]:
    """The dates of bars that begin at midnight in New York, which is 04:00 or 05:00 UTC."""
    return (starts_ns // DAY_NS).astype("datetime64[D]")


def account_of(state: ForecastState, portfolio: Portfolio) -> tuple[ForecastState, Float64Array]:
    """The state at this decision, and the first five account columns of each symbol, float64 (S, 5).

    Shares added since the last decision count as bought at that decision's prices, where those were known.
    """
    none = (0,) * len(portfolio.shares)
    rows = zip(state.held or none, portfolio.shares, state.basis or none, state.prices or portfolio.prices, strict=True)
    basis = tuple(
        basis_of(had, shares, old, price or now)
        for (had, shares, old, price), now in zip(rows, portfolio.prices, strict=True)
    )
    ages = tuple(age + 1 if shares else 0 for age, shares in zip(state.ages or none, portfolio.shares, strict=True))
    peak = max(state.peak, portfolio.equity)
    out = np.zeros((len(none), len(ACCOUNT) - 1))
    out[:, 0] = weights_of(portfolio)
    out[:, 1] = [
        min(max(price / cost - 1.0, -1.0), 3.0) if shares and cost > 0.0 else 0.0
        for shares, price, cost in zip(portfolio.shares, portfolio.prices, basis, strict=True)
    ]
    out[:, 2] = [min(age / 20.0, 5.0) for age in ages]
    out[:, 3] = portfolio.cash / portfolio.equity if portfolio.equity > 0.0 else 0.0
    out[:, 4] = 1.0 - portfolio.equity / peak if peak > 0.0 else 0.0
    new_state = msgspec.structs.replace(
        state, held=portfolio.shares, prices=portfolio.prices, basis=basis, ages=ages, peak=peak
    )
    return new_state, out


def basis_of(had: float, shares: float, basis: float, price: float) -> float:
    """The average cost of `shares` shares in USD: `had` of them cost `basis`, any others `price`; 0 for none."""
    if not shares:
        return 0.0
    return (had * basis + (shares - had) * price) / shares if shares > had else basis


def weights_of(portfolio: Portfolio) -> tuple[float, ...]:
    """Each symbol's part of the equity; all 0 while the equity is not above 0."""
    if not portfolio.equity > 0.0:
        return (0.0,) * len(portfolio.shares)
    return tuple(
        shares * price / portfolio.equity for shares, price in zip(portfolio.shares, portfolio.prices, strict=True)
    )


def wanted_weights(final: Sequence[float], portfolio: Portfolio, free: Sequence[bool]) -> tuple[float, ...]:
    """The target weight of each free symbol, 0 for the others; what the others hold is not shared out."""
    targets = [
        max(action, 0.0) * portfolio.weight_max if is_free else 0.0 for action, is_free in zip(final, free, strict=True)
    ]
    fixed_weight = sum(weight for weight, is_free in zip(weights_of(portfolio), free, strict=True) if not is_free)
    room, total = max(1.0 - fixed_weight, 0.0), sum(targets)
    return tuple(weight * (room / total) for weight in targets) if total > room else tuple(targets)


def basket_of(final: Sequence[float], portfolio: Portfolio, free: Sequence[bool], symbols: Sequence[str]) -> Basket:
    """The basket of the final actions, each in [-1, 1]; a symbol whose `free` is false stays as it is.

    A weight that would change by less than the band stays, but a weight of 0 always sells all. No legs while the equity
    is not above 0.
    """
    if not portfolio.equity > 0.0:
        return Basket()
    targets = wanted_weights(final, portfolio, free)
    sells: list[Leg] = []
    buys: list[tuple[float, Leg]] = []
    rows = zip(symbols, targets, weights_of(portfolio), portfolio.shares, portfolio.prices, free, strict=True)
    for symbol, weight, present, shares, price, is_free in rows:
        if not is_free or (weight != 0.0 and abs(weight - present) < portfolio.band):
            continue
        goal = cut(weight * portfolio.equity / price, portfolio)
        if goal < shares:
            sells.append(Leg(symbol, goal))
        elif goal > shares:
            buys.append((weight, Leg(symbol, goal)))
    buys.sort(key=lambda buy: -buy[0])  # stable: equal weights stay in the order of symbols
    return Basket((*sells, *(leg for _, leg in buys)))


class ForecastEnsemble(KeepsBars[ForecastState]):
    """The strategy over `ForecastState`; see `strategies.kit.contract.DailyStrategy`."""

    __slots__ = ("spec",)
    state_type = ForecastState

    def __init__(self, symbols: tuple[str, ...] = SYMBOLS) -> None:
        """The strategy of these symbols."""
        self.spec = msgspec.structs.replace(SPEC, symbols=symbols)

    def start(self) -> ForecastState:
        """The state before any bar and any decision."""
        return ForecastState(no_bars(self.spec))

    def observe(
        self, state: ForecastState, bars: tuple[Bar, ...], view: View
    ) -> tuple[ForecastState, Observation | None]:
        """A row of 4,686 numbers for each symbol; None, and the state unchanged, while all symbols are masked.

        `bars` of the running session count as the newest and are not kept. The new state holds the mask and the
        account. `ValueError` without a portfolio.
        """
        portfolio = portfolio_of(self.spec, view)
        sequences, codes = market_of(remembered(self.spec, state.series, bars))
        if not (codes == GOOD).any():
            return state, None
        state, account = account_of(state, portfolio)
        out = np.empty((len(codes), WIDTH), dtype="<f4")
        out[:, :SEQUENCE] = sequences.reshape(len(codes), SEQUENCE)
        out[:, SEQUENCE:-1] = account
        out[:, -1] = codes == GOOD
        mask_reasons = tuple(REASONS[code] for code in codes.tolist())
        return msgspec.structs.replace(state, masked=mask_reasons), Observation(out.tobytes(), out.shape)

    def decide(self, state: ForecastState, answer: Answer, view: View) -> tuple[ForecastState, Rebalance]:
        """The final actions as a basket, by `basket_of`, with the reasons of masked symbols as notes."""
        portfolio = portfolio_of(self.spec, view)
        reasons_ = state.masked or (REASONS[GOOD],) * len(portfolio.prices)
        notes = {
            symbol: reason or NO_PRICE
            for symbol, reason, price in zip(self.spec.symbols, reasons_, portfolio.prices, strict=True)
            if reason or not 0.0 < price < inf
        }
        free = [symbol not in notes for symbol in self.spec.symbols]
        basket = basket_of(answer.logits, portfolio, free, self.spec.symbols)
        return state, Rebalance(None, "rebalance" if basket.legs else "hold", basket, notes, whole=True)


def columns_of(bars: Float64Array, present: BoolArray, window: int, dates: Sequence[str]) -> Columns:
    """See `strategies.kit.entry.StrategyEntry.columns`; `market` has each symbol's newest features, 0 where masked."""
    assert window == HISTORY_BARS, f"the features are defined for {HISTORY_BARS} bars"
    visible_bars = np.where(present, bars, np.nan)
    features = history_features(visible_bars, dates)[np.maximum(newest_session(visible_bars), 0)]
    tradable = reasons(visible_bars, np.zeros(present.shape, dtype=np.bool_), features, WINDOW) == GOOD
    market = np.where(tradable[:, :, None], features, np.float32(0.0)).reshape(len(present), -1)
    return Columns(market, tradable.astype(np.float32), tradable.any(axis=1))


def history_features(bars: Float64Array, dates: Sequence[str]) -> Float32Array:
    """The feature rows of n symbols, each from its own bars, float32 (d, n, 78); NaN where there is none.

    `bars` (5, d, n): open, high, low, close in USD and volume, NaN where there is no bar.
    """
    days = np.asarray(dates, dtype="datetime64[D]")
    present: BoolArray = np.logical_and.reduce(np.isfinite(bars), axis=0)
    rows_of = [np.flatnonzero(column) for column in present.T]
    features = np.full((*present.shape, COUNT), np.nan, dtype=np.float32)
    histories = [(*bars[:, rows, place], days[rows]) for place, rows in enumerate(rows_of)]
    for place, values in enumerate(together(table, histories)):
        features[rows_of[place], place] = values
    return features


def feature_table(
    open_: Float64Array,
    high: Float64Array,
    low: Float64Array,
    close: Float64Array,
    *,
    present: BoolArray,
    volume: Float64Array,
    dates: Sequence[str],
) -> Float64Array:
    """The newest feature rows after each session, float64 (days, 78 of the first symbol, of the second, ...)."""
    return columns_of(np.stack((open_, high, low, close, volume)), present, HISTORY_BARS, dates).market.astype(
        np.float64
    )


def _size_factor(heads: Mapping[str, tuple[float, ...]]) -> float:
    """The head `size`; for a journal of a version without that head, the factor by the source's rule."""
    size = heads.get("size", ())
    return size[0] if size else min(2.0 * heads["confidence"][0], 1.0)


STRATEGY = StrategyEntry(
    ForecastEnsemble,
    DECLARATION,
    desk="forecast",
    training="training.desks.forecast.kind:KIND",
    defaults={**defaults_of_days(SPEC.capital_usd), "basket": {"weight_max": 0.10, "band": 0.01}},
    table=feature_table,
    with_symbols=ForecastEnsemble,
    columns=columns_of,
    trust=_size_factor,
)
