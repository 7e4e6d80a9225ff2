"""The features of `forecast_ensemble` on 5-minute bars of one symbol, to be analysed; nothing is traded with it.

    train-and-export analyse warmup --strategy training.analysis.forecast_minutes:ForecastMinutes --bars FILE

Blocks are weeks, and the calendar's columns count the part of the session that is over at a bar's end.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from strategies.forecast_ensemble.calls import LEAD
from strategies.forecast_ensemble.features import COUNT, NAMES, WINDOW, newest, table
from strategies.kit.contract import Answer, Bar, Decision, Observation, Spec, Target, View, choose

Float64Array = npt.NDArray[np.float64]
SESSION = 78  # 5-minute bars
HISTORY_BARS = LEAD + 5 * SESSION + WINDOW - 1
ROW = Struct("<q6d")  # days since 1970-01-01, open, high, low, close, volume, part of the session that is over

SPEC = Spec(
    name="forecast_minutes",
    revision=1,
    symbols=("SPY",),
    bar_interval_s=300,
    history_bars=HISTORY_BARS,
    window=WINDOW,
    observation_shape=(WINDOW, COUNT),
    dtype="float32",
    features=NAMES,
    actions=("HOLD", "BUY", "SELL"),
    temperature=1.0,
)


class MinutesState(msgspec.Struct, frozen=True, gc=False):
    """The newest bars, as many as an observation may depend on."""

    rows: bytes = b""


class ForecastMinutes:
    """See `strategies.kit.contract.Strategy`."""

    spec = SPEC
    state_type = MinutesState

    def start(self) -> MinutesState:
        """The state before any bar."""
        return MinutesState()

    def observe(
        self, state: MinutesState, bars: tuple[Bar, ...], view: View
    ) -> tuple[MinutesState, Observation | None]:
        """The last 60 rows; None while one of them has not settled."""
        session, bar = view.session, bars[0]
        day = int(np.datetime64(session.date, "D").astype(np.int64))
        over = (view.now_ns - session.open_ns) / (session.close_ns - session.open_ns)
        row = ROW.pack(day, bar.open, bar.high, bar.low, bar.close, bar.volume, over)
        rows = (state.rows + row)[-(HISTORY_BARS + SESSION) * ROW.size :]
        _, o, high, low, close, volume, elapsed = np.frombuffer(rows, dtype="<f8").reshape(-1, 7).T
        days = np.frombuffer(rows, dtype="<i8")[::7].astype("datetime64[D]")
        rows_seen = newest(o, high, low, close, volume, days, elapsed)
        state_after = MinutesState(rows)
        if len(rows_seen) < WINDOW or not np.isfinite(rows_seen).all():
            return state_after, None
        return state_after, Observation(rows_seen.tobytes(), rows_seen.shape)

    def correct(self, state: MinutesState, bar: Bar) -> MinutesState:
        """The state as it is."""
        del bar  # a recorded file has no late corrections
        return state

    def decide(self, state: MinutesState, answer: Answer, view: View) -> tuple[MinutesState, Decision]:
        """The most probable class, with which nothing is done."""
        del view
        choice = choose(answer.logits, SPEC.temperature)
        return state, Decision(choice, choice.action, Target(0, 0, keep=True))


class MinuteFeatures(NamedTuple):
    """A table of features, and which rows have settled."""

    values: Float64Array
    warm: npt.NDArray[np.bool_]


def feature_table(
    open_: Float64Array,
    high: Float64Array,
    low: Float64Array,
    close: Float64Array,
    volume: Float64Array,
    *,
    session_starts: Sequence[int],
    session_minutes: Sequence[int],
    elapsed_minutes: Sequence[float],
    dates: Sequence[str],
) -> MinuteFeatures:
    """The features at each bar; `dates` of the bars in New York."""
    bars = np.diff([*session_starts, len(dates)])
    length = np.repeat(np.asarray(session_minutes, dtype=np.float64), bars)
    over = np.asarray(elapsed_minutes, dtype=np.float64) / length
    values = table(open_, high, low, close, volume, dates, over).astype(np.float64)
    return MinuteFeatures(values, np.logical_and.reduce(np.isfinite(values), axis=1))
