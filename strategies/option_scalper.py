"""`option_scalper`: 20 one-minute rows of SPY in, hold calls, puts or nothing out; its 23 features come first.

It decides what to hold, never how to order it; no I/O, clock or random number. Invariants: every result depends on the
arguments only; the streaming and the table path of the features give the same float64 bits, because a row at bar t is a
pure function of the `HISTORY_BARS` bars before its session's open and of the session's bars up to t, and both do the
same arithmetic. The indicator handles are a cache for the last state seen; for another state they are opened again from
its bars.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import partial
from math import log
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import talib

from strategies.kit.contract import (
    SAMPLING,
    Answer,
    Bar,
    Decision,
    Feature,
    Observation,
    Session,
    Spec,
    Target,
    View,
    choose,
)
from strategies.kit.entry import ChartLine, StrategyEntry

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

HISTORY_BARS = 256  # W: bars before the session's open that warm the indicators
BAR_NS = 60_000_000_000  # one-minute bars


class Periods(msgspec.Struct, frozen=True):
    """Indicator periods in bars, and the Bollinger deviations. Part of the contract hash."""

    volume_sma: int = 20
    ema_fast: int = 9
    ema_slow: int = 21
    close_sma: int = 50
    rsi: int = 14
    macd_fast: int = 12
    macd_slow: int = 26
    macd_signal: int = 9
    bollinger: int = 20
    bollinger_deviations: float = 2.0
    atr: int = 14
    adx: int = 14
    stochastic_k: int = 14
    stochastic_d: int = 3  # %D is not a feature; its period is fixed because TA-Lib asks for one
    cci: int = 20


PERIODS = Periods()

FEATURES: tuple[Feature, ...] = (
    Feature("log_return", "ln(C / previous C)"),
    Feature("log_return_5", "ln(C / C five bars ago)"),
    Feature("range", "(H - L) / C"),
    Feature("body", "(C - O) / C"),
    Feature("close_location", "(C - L) / (H - L), 0.5 where H = L"),
    Feature("volume_ratio", "ln((V + 1) / (SMA20(V) + 1))"),
    Feature("vwap_distance", "C / session VWAP - 1; VWAP = sum V*(H+L+C)/3 / sum V since the open; 0 while sum V = 0"),
    Feature("ema9_distance", "C / EMA9 - 1"),
    Feature("ema21_distance", "C / EMA21 - 1"),
    Feature("sma50_distance", "C / SMA50 - 1"),
    Feature("rsi14", "RSI14 / 100"),
    Feature("macd_histogram", "MACD(12, 26, 9) histogram / C"),
    Feature("bollinger_percent_b", "(C - lower) / (upper - lower), BBANDS(20, 2), 0.5 where they meet"),
    Feature("bollinger_width", "(upper - lower) / middle"),
    Feature("atr14", "ATR14 / C"),
    Feature("adx14", "ADX14 / 100"),
    Feature("stochastic_k", "fast %K 14 / 100"),
    Feature("cci20", "CCI20 / 200, clipped to [-2, 2]"),
    Feature("session_elapsed", "minutes from the open to the bar's end / minutes in this session"),
    Feature("overnight_gap", "session open / previous session's close - 1"),
    Feature("position_side", "+1 call, -1 put, 0 flat, at the row's own close"),
    Feature("position_return", "unrealised return of the open position at mid, clipped to [-1, 3], 0 when flat"),
    Feature("position_age", "minutes held / 60, clipped to [0, 2], 0 when flat"),
)
"""The columns in order. C, H, L, O, V: close, high, low, open, volume of the bar; indicators by TA-Lib, started anew at
each session's open."""

MARKET_FEATURES = 20  # columns 0-19 come from bars, 20-22 from the desk's own position


def position_features(side: int, position_return: float, age_min: float) -> tuple[float, float, float]:
    """Return columns 20-22 for the position at the row's close; `position_return` a fraction, `age_min` minutes."""
    if side == 0:
        return (0.0, 0.0, 0.0)
    return (float(side), min(max(position_return, -1.0), 3.0), min(max(age_min / 60.0, 0.0), 2.0))


class SessionStream:
    """The 20 market features of one session, bar by bar, from TA-Lib stream handles (O(1) a bar).

    Opened with exactly `HISTORY_BARS` bars before the session's open, oldest first; `ValueError` otherwise. Prices must
    be positive and finite, volumes finite and >= 0: then all features are finite.
    """

    def __init__(self, history: Sequence[Bar], session: Session) -> None:
        if len(history) != HISTORY_BARS:
            raise ValueError(
                f"history before session {session.date} has {len(history)} bars, expected {HISTORY_BARS}: "
                "load more bars from before the open, or wait for another session"
            )
        high = np.array([bar.high for bar in history], dtype=np.float64)
        low = np.array([bar.low for bar in history], dtype=np.float64)
        close = np.array([bar.close for bar in history], dtype=np.float64)
        volume = np.array([bar.volume for bar in history], dtype=np.float64)
        p, stream = PERIODS, talib.stream
        self._volume_sma = stream.SMA(volume, timeperiod=p.volume_sma).update
        self._ema_fast = stream.EMA(close, timeperiod=p.ema_fast).update
        self._ema_slow = stream.EMA(close, timeperiod=p.ema_slow).update
        self._close_sma = stream.SMA(close, timeperiod=p.close_sma).update
        self._rsi = stream.RSI(close, timeperiod=p.rsi).update
        self._macd = stream.MACD(
            close, fastperiod=p.macd_fast, slowperiod=p.macd_slow, signalperiod=p.macd_signal
        ).update
        self._bands = stream.BBANDS(
            close, timeperiod=p.bollinger, nbdevup=p.bollinger_deviations, nbdevdn=p.bollinger_deviations
        ).update
        self._atr = stream.ATR(high, low, close, timeperiod=p.atr).update
        self._adx = stream.ADX(high, low, close, timeperiod=p.adx).update
        self._stochastic = stream.STOCHF(
            high, low, close, fastk_period=p.stochastic_k, fastd_period=p.stochastic_d
        ).update
        self._cci = stream.CCI(high, low, close, timeperiod=p.cci).update
        self._open_ns = session.open_ns
        self._session_ns = session.close_ns - session.open_ns
        self._previous_close: float = history[-1].close
        self._closes: list[float] = [bar.close for bar in history[-5:]]  # the last five, oldest first
        self._gap: float | None = None  # set at the session's first bar
        self._value_sum = 0.0
        self._volume_sum = 0.0

    def update(self, bar: Bar) -> tuple[float, ...]:
        """Return columns 0-19 at this bar's close, float64. Bars come in time order, each once."""
        high, low, close, volume = bar.high, bar.low, bar.close, bar.volume
        closes = self._closes
        gap = self._gap
        if gap is None:
            gap = self._gap = bar.open / self._previous_close - 1.0
        self._value_sum = value_sum = self._value_sum + volume * ((high + low + close) / 3.0)
        self._volume_sum = volume_sum = self._volume_sum + volume
        upper, middle, lower = self._bands(close)
        span = high - low
        band = upper - lower
        row = (
            log(close / closes[4]),
            log(close / closes[0]),
            span / close,
            (close - bar.open) / close,
            (close - low) / span if span != 0.0 else 0.5,
            log((volume + 1.0) / (self._volume_sma(volume) + 1.0)),
            close / (value_sum / volume_sum) - 1.0 if volume_sum > 0.0 else 0.0,
            close / self._ema_fast(close) - 1.0,
            close / self._ema_slow(close) - 1.0,
            close / self._close_sma(close) - 1.0,
            self._rsi(close) / 100.0,
            self._macd(close)[2] / close,
            (close - lower) / band if band != 0.0 else 0.5,
            band / middle,
            self._atr(high, low, close) / close,
            self._adx(high, low, close) / 100.0,
            self._stochastic(high, low, close)[0] / 100.0,
            min(max(self._cci(high, low, close) / 200.0, -2.0), 2.0),
            (bar.start_ns + BAR_NS - self._open_ns) / self._session_ns,
            gap,
        )
        del closes[0]
        closes.append(close)
        return row


class FeatureTable(NamedTuple):
    """Market features of a whole history: `values` float64 (n, 20), and `warm` bool (n,).

    A row is warm when `HISTORY_BARS` bars precede its session's open; other rows are zeros without meaning.
    """

    values: Float64Array
    warm: npt.NDArray[np.bool_]


def feature_table(
    open_: npt.ArrayLike,
    high: npt.ArrayLike,
    low: npt.ArrayLike,
    close: npt.ArrayLike,
    volume: npt.ArrayLike,
    *,
    session_starts: npt.ArrayLike,
    session_minutes: npt.ArrayLike,
    elapsed_minutes: npt.ArrayLike | None = None,
) -> FeatureTable:
    """Return columns 0-19 over n bars of s sessions, bit-equal to `SessionStream`.

    `session_starts` (s,) int: index of each session's first row, ascending, the first 0. `session_minutes` (s,): length
    of each session (390, or 210 on a half day). `elapsed_minutes` (n,): minutes from the open to each bar's end; None
    when no minute is missing. `ValueError` when lengths or starts do not fit together.
    """
    o, h, low_, c, v = (np.ascontiguousarray(x, dtype=np.float64) for x in (open_, high, low, close, volume))
    starts = np.asarray(session_starts, dtype=np.int64)
    minutes = np.asarray(session_minutes, dtype=np.float64)
    n = len(c)
    ends = _session_ends(starts, n)
    lengths = {"open": len(o), "high": len(h), "low": len(low_), "volume": len(v)}
    for name, length in lengths.items():
        if length != n:
            raise ValueError(f"{name} has {length} rows, close has {n}: pass columns of one length")
    if len(minutes) != len(starts):
        raise ValueError(f"session_minutes has {len(minutes)} sessions, session_starts {len(starts)}: pass one each")
    counts = ends - starts
    elapsed = (
        np.arange(1, n + 1, dtype=np.float64) - np.repeat(starts, counts)
        if elapsed_minutes is None
        else np.asarray(elapsed_minutes, dtype=np.float64)
    )
    if len(elapsed) != n:
        raise ValueError(f"elapsed_minutes has {len(elapsed)} rows, close has {n}: pass one for each bar")
    values = np.zeros((n, MARKET_FEATURES), dtype=np.float64)
    first = int(np.searchsorted(starts, HISTORY_BARS))  # the first session with enough bars before its open
    a = int(starts[first]) if first < len(starts) else n
    warm = np.arange(n) >= a
    if a == n:
        return FeatureTable(values, warm)
    raw = _indicators(np.stack((h, low_, c, v)), starts[first:], ends[first:])
    volume_sma, ema_fast, ema_slow, close_sma, rsi, hist, upper, middle, lower, atr, adx, k, cci, vwap = raw[:, a:]
    previous, fifth = c[a - 1 : -1], c[a - 5 : n - 5]
    o, h, low_, c, v = o[a:], h[a:], low_[a:], c[a:], v[a:]
    span, band = h - low_, upper - lower
    gaps = np.array([o[s - a] / previous[s - a] - 1.0 for s in starts[first:]])
    out = values[a:].T
    out[0] = _log(c / previous)
    out[1] = _log(c / fifth)
    out[2] = span / c
    out[3] = (c - o) / c
    out[4] = _quotient(c - low_, span, 0.5)
    out[5] = _log((v + 1.0) / (volume_sma + 1.0))
    out[6] = _quotient(c, vwap, 1.0) - 1.0
    out[7] = c / ema_fast - 1.0
    out[8] = c / ema_slow - 1.0
    out[9] = c / close_sma - 1.0
    out[10] = rsi / 100.0
    out[11] = hist / c
    out[12] = _quotient(c - lower, band, 0.5)
    out[13] = band / middle
    out[14] = atr / c
    out[15] = adx / 100.0
    out[16] = k / 100.0
    out[17] = np.minimum(np.maximum(cci / 200.0, -2.0), 2.0)
    out[18] = elapsed[a:] / np.repeat(minutes[first:], counts[first:])
    out[19] = np.repeat(gaps, counts[first:])
    return FeatureTable(values, warm)


def _session_ends(starts: IntArray, rows: int) -> IntArray:
    """Return the row after each session's last; `ValueError` unless `starts` is 0, then ascending rows < `rows`."""
    ends = np.append(starts[1:], rows)
    if len(starts) == 0 or starts[0] != 0 or bool(np.any(ends <= starts)):
        raise ValueError(
            f"session_starts {starts.tolist()[:5]}... over {rows} rows: expected 0 first, then ascending row indices"
        )
    return ends


def _indicators(columns: Float64Array, starts: IntArray, ends: IntArray) -> Float64Array:
    """Compute (14, n) from H, L, C, V (4, n): TA-Lib's outputs and the session VWAP (0 while no volume).

    Each session is computed on its own, with the `HISTORY_BARS` rows before it; rows of other sessions hold 0.
    """
    h, low, c, v = columns
    p = PERIODS
    raw = np.zeros((14, len(c)), dtype=np.float64)
    value = v * ((h + low + c) / 3.0)
    for s, e in zip(starts.tolist(), ends.tolist(), strict=True):
        w = s - HISTORY_BARS
        hh, ll, cc = h[w:e], low[w:e], c[w:e]
        upper, middle, lower = talib.BBANDS(
            cc, timeperiod=p.bollinger, nbdevup=p.bollinger_deviations, nbdevdn=p.bollinger_deviations
        )
        macd = talib.MACD(cc, fastperiod=p.macd_fast, slowperiod=p.macd_slow, signalperiod=p.macd_signal)
        stochastic = talib.STOCHF(hh, ll, cc, fastk_period=p.stochastic_k, fastd_period=p.stochastic_d)
        outputs = (
            talib.SMA(v[w:e], timeperiod=p.volume_sma),
            talib.EMA(cc, timeperiod=p.ema_fast),
            talib.EMA(cc, timeperiod=p.ema_slow),
            talib.SMA(cc, timeperiod=p.close_sma),
            talib.RSI(cc, timeperiod=p.rsi),
            macd[2],
            upper,
            middle,
            lower,
            talib.ATR(hh, ll, cc, timeperiod=p.atr),
            talib.ADX(hh, ll, cc, timeperiod=p.adx),
            stochastic[0],
            talib.CCI(hh, ll, cc, timeperiod=p.cci),
        )
        for i, output in enumerate(outputs):
            raw[i, s:e] = output[HISTORY_BARS:]
        raw[13, s:e] = _quotient(np.cumsum(value[s:e]), np.cumsum(v[s:e]), 0.0)
    return raw


def _quotient(numerator: Float64Array, denominator: Float64Array, otherwise: float) -> Float64Array:
    """Return `numerator / denominator`, and `otherwise` where the denominator is 0."""
    out = np.full(len(numerator), otherwise)
    np.divide(numerator, denominator, out=out, where=denominator != 0.0)
    return out


def _log(x: Float64Array) -> list[float]:
    """Return `math.log` of each element, as the stream does: `np.log` may differ in the last bit."""
    return list(map(log, x.tolist()))


# --- the strategy ---------------------------------------------------------------------------------------------------

HOLD, BUY_CALL, BUY_PUT, TRIM_50, TRIM_70, EXIT = range(6)
ACTIONS = ("HOLD", "BUY_CALL", "BUY_PUT", "TRIM_50", "TRIM_70", "EXIT")
WINDOW = 20
ROW = struct.Struct("<23f")  # one emitted row: 23 little-endian float32

SPEC = Spec(
    name="option_scalper",
    revision=1,
    symbols=("SPY",),
    bar_interval_s=60,
    history_bars=HISTORY_BARS,
    window=WINDOW,
    observation_shape=(WINDOW, len(FEATURES)),
    dtype="float32",
    features=tuple(feature.name for feature in FEATURES),
    actions=ACTIONS,
    temperature=0.7,
)

RESOLUTION: dict[int, tuple[int, int, int, int, int, int]] = {
    0: (HOLD, BUY_CALL, BUY_PUT, HOLD, HOLD, HOLD),
    +1: (HOLD, HOLD, EXIT, TRIM_50, TRIM_70, EXIT),
    -1: (HOLD, EXIT, HOLD, TRIM_50, TRIM_70, EXIT),
}
"""Side held (+1 calls, -1 puts, 0 flat) -> meaning of each action, by its index. Shared by training and live."""

KEPT_PERCENT = {TRIM_50: 50, TRIM_70: 30}
"""Percent of the present holding that a trim keeps."""

TARGETS: dict[int, tuple[Target, ...]] = {
    side: (
        Target(side=side, percent=100, keep=True),
        Target(side=+1, percent=100),
        Target(side=-1, percent=100),
        Target(side=side, percent=KEPT_PERCENT[TRIM_50]),
        Target(side=side, percent=KEPT_PERCENT[TRIM_70]),
        Target(side=0, percent=0),
    )
    for side in RESOLUTION
}
"""Side held -> the target of each action after resolution, by its index."""

DECLARATION: dict[str, object] = {
    "features": FEATURES,
    "periods": PERIODS,
    "rows": "history_bars before the session's open, then this session's bars; a window's rows are all of this session",
    "sampling": SAMPLING,
    "resolution": [(side, [ACTIONS[action] for action in actions]) for side, actions in RESOLUTION.items()],
    "kept_percent": [(ACTIONS[action], percent) for action, percent in KEPT_PERCENT.items()],
}
"""The declared meaning of observations and answers; with `SPEC` the input of the contract hash."""


class ScalperState(msgspec.Struct, frozen=True, gc=False):
    """The state on which later results depend. `session` None before the first bar."""

    session: Session | None = None
    history: tuple[Bar, ...] = ()  # regular bars before this session's open, at most `HISTORY_BARS`, oldest first
    bars: tuple[Bar, ...] = ()  # this session's, oldest first
    rows: tuple[bytes, ...] = ()  # this session's last `WINDOW` emitted rows, each `ROW`, oldest first


class OptionScalper:
    """The strategy over `ScalperState`; see `strategies.kit.contract.Strategy`."""

    __slots__ = ("_last_bar", "_stream")
    spec = SPEC
    state_type = ScalperState

    def __init__(self) -> None:
        self._last_bar: _SeenBar | None = None  # the newest bar of `_stream`
        self._stream: SessionStream | None = None

    def start(self) -> ScalperState:
        """Return the state before any bar."""
        return ScalperState()

    def observe(
        self, state: ScalperState, bars: tuple[Bar, ...], view: View
    ) -> tuple[ScalperState, Observation | None]:
        """Append the bars of SPY within `view.session`; a session date other than the state's opens a new session.

        Bars outside of the session's hours and of other symbols are left out. Bars come in time order, each once. A row
        is emitted when `HISTORY_BARS` bars precede the open; the observation (20, 23) exists from 20 rows on.
        """
        session = state.session
        if session is None or session.date != view.session.date:
            session = view.session
            state = ScalperState(session=session, history=(state.history + state.bars)[-HISTORY_BARS:])
        observation = None
        for bar in bars:
            if bar.symbol in SPEC.symbols and session.open_ns <= bar.start_ns < session.close_ns:
                state = self._append(state, session, bar, view)
                if len(state.rows) == WINDOW:
                    observation = Observation(b"".join(state.rows), SPEC.observation_shape)
        return state, observation

    def correct(self, state: ScalperState, bar: Bar) -> ScalperState:
        """Replace the bar of the same symbol and start; an unknown start changes nothing. Emitted rows stand."""
        return msgspec.structs.replace(
            state, history=_replace_bar(state.history, bar), bars=_replace_bar(state.bars, bar)
        )

    def decide(self, state: ScalperState, answer: Answer, view: View) -> tuple[ScalperState, Decision]:
        """Take the most probable action, resolved against the side held. State unchanged."""
        choice = choose(answer.logits, SPEC.temperature)
        actions = RESOLUTION[view.side][choice.action]
        return state, Decision(choice=choice, resolved=actions, target=TARGETS[view.side][actions])

    def _append(self, state: ScalperState, session: Session, bar: Bar, view: View) -> ScalperState:
        """Append a bar. Columns 0-19 depend on bars alone, so desks with the same bars share one computation."""
        history, bars = state.history, state.bars
        if len(history) < HISTORY_BARS:
            return msgspec.structs.replace(state, bars=bars + (bar,))
        last_bar, stream = self._last_bar, self._stream
        if (
            last_bar is None
            or last_bar.history is not history
            or last_bar.before is not bars
            or last_bar.bar is not bar
        ):
            if stream is None or last_bar is None or last_bar.history is not history or last_bar.after is not bars:
                stream = SessionStream(history, session)
                for earlier in bars:
                    stream.update(earlier)
            self._last_bar = None  # if the next line raises, the stream matches no bars
            market = stream.update(bar)
            self._stream, self._last_bar = stream, (last_bar := _SeenBar(history, bars, bar, bars + (bar,), market))
        row = ROW.pack(*last_bar.market, *position_features(view.side, view.position_return, view.position_age_min))
        return ScalperState(session, history, last_bar.after, (*state.rows[1 - WINDOW :], row))


class _SeenBar(msgspec.Struct, frozen=True, gc=False):
    """Cache entry: a bar, the bars before it, and the resulting columns."""

    history: tuple[Bar, ...]
    before: tuple[Bar, ...]  # of its session
    bar: Bar
    after: tuple[Bar, ...]  # with it
    market: tuple[float, ...]  # columns 0-19


def _replace_bar(bars: tuple[Bar, ...], bar: Bar) -> tuple[Bar, ...]:
    return tuple(bar if (b.start_ns, b.symbol) == (bar.start_ns, bar.symbol) else b for b in bars)


def _band(place: int, bars: Float64Array) -> Float64Array:
    deviations = PERIODS.bollinger_deviations
    bands = talib.BBANDS(bars[3], timeperiod=PERIODS.bollinger, nbdevup=deviations, nbdevdn=deviations)
    return np.asarray(bands[place])


INDICATORS: dict[str, ChartLine] = {
    "EMA 9": ChartLine("EMA of 9 bars", lambda bars: talib.EMA(bars[3], timeperiod=PERIODS.ema_fast), True),
    "EMA 21": ChartLine("EMA of 21 bars", lambda bars: talib.EMA(bars[3], timeperiod=PERIODS.ema_slow), True),
    "SMA 50": ChartLine("SMA of 50 bars", lambda bars: talib.SMA(bars[3], timeperiod=PERIODS.close_sma), True),
    "Bollinger upper": ChartLine("upper band of 20 bars, 2 deviations", partial(_band, 0), True),
    "Bollinger lower": ChartLine("lower band of 20 bars, 2 deviations", partial(_band, 2), True),
    "RSI 14": ChartLine("RSI of 14 bars, 0 to 100", lambda bars: talib.RSI(bars[3], timeperiod=PERIODS.rsi)),
}
"""Computed over all bars; the features start anew at each session."""

STRATEGY = StrategyEntry(
    OptionScalper,
    DECLARATION,
    desk="scalper",
    training="training.desks.scalper.kind:KIND",
    table=feature_table,
    indicators=INDICATORS,
)
