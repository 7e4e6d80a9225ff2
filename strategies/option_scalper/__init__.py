"""`option_scalper`: 20 one-minute rows of SPY in, hold calls, puts or nothing out.

It decides what to hold, never how to order it; no I/O, clock or random number. Invariant: every result depends on the
arguments only. The indicator handles are a cache of the last state seen, reopened from any other state's bars.
"""

from __future__ import annotations

import struct

import msgspec

from strategies.kit.contract import SAMPLING, Answer, Bar, Decision, Observation, Session, Spec, Target, View, choose
from strategies.kit.entry import StrategyEntry
from strategies.option_scalper.features import (
    FEATURES,
    HISTORY_BARS,
    PERIODS,
    SessionStream,
    feature_table,
    position_features,
)

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
"""Side held (+1 calls, -1 puts, 0 flat) -> meaning of each action, by its index."""

KEPT_PERCENT = {TRIM_50: 50, TRIM_70: 30}
"""Percent of the present holding that a trim keeps."""

DECLARATION: dict[str, object] = {
    "features": FEATURES,
    "periods": PERIODS,
    "rows": "history_bars before the session's open, then this session's bars; a window's rows are all of this session",
    "sampling": SAMPLING,
    "resolution": [(side, [ACTIONS[action] for action in meant]) for side, meant in RESOLUTION.items()],
    "kept_percent": [(ACTIONS[action], percent) for action, percent in KEPT_PERCENT.items()],
}
"""The declared meaning of observations and answers; with `SPEC` the input of the contract hash."""


class ScalperState(msgspec.Struct, frozen=True, gc=False):
    """The state on which later results depend. `session` None before the first bar."""

    session: Session | None = None
    history: tuple[Bar, ...] = ()  # regular bars before this session's open, at most `HISTORY_BARS`, oldest first
    bars: tuple[Bar, ...] = ()  # this session's, oldest first
    rows: tuple[bytes, ...] = ()  # this session's last `WINDOW` emitted rows, each `ROW`, oldest first


def resolve(action: int, side: int) -> int:
    """Resolve `action` (index into `ACTIONS`) while holding `side`. Shared by training and live."""
    return RESOLUTION[side][action]


class OptionScalper:
    """The strategy over `ScalperState`; see `strategies.kit.contract.Strategy`."""

    __slots__ = ("_cached", "_stream")
    spec = SPEC
    state_type = ScalperState

    def __init__(self) -> None:
        self._cached: ScalperState | None = None  # the state whose bars `_stream` has seen
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
        return msgspec.structs.replace(state, history=_corrected(state.history, bar), bars=_corrected(state.bars, bar))

    def decide(self, state: ScalperState, answer: Answer, view: View) -> tuple[ScalperState, Decision]:
        """Sample at the spec's temperature and resolve against the side held. State unchanged."""
        choice = choose(answer.logits, SPEC.temperature)
        resolved = resolve(choice.action, view.side)
        return state, Decision(choice=choice, resolved=resolved, target=_target(resolved, view.side))

    def _append(self, state: ScalperState, session: Session, bar: Bar, view: View) -> ScalperState:
        if len(state.history) < HISTORY_BARS:
            return msgspec.structs.replace(state, bars=state.bars + (bar,))
        stream = self._stream
        if stream is None or self._cached is not state:
            stream = SessionStream(state.history, session)
            for earlier in state.bars:
                stream.update(earlier)
        self._cached = None  # if the next line raises, the stream matches no state
        market = stream.update(bar)
        row = ROW.pack(*market, *position_features(view.side, view.position_return, view.position_age_min))
        state = ScalperState(session, state.history, state.bars + (bar,), (*state.rows[1 - WINDOW :], row))
        self._cached, self._stream = state, stream
        return state


def _corrected(bars: tuple[Bar, ...], bar: Bar) -> tuple[Bar, ...]:
    return tuple(bar if (b.start_ns, b.symbol) == (bar.start_ns, bar.symbol) else b for b in bars)


def _target(resolved: int, side: int) -> Target:
    match resolved:
        case _ if resolved in KEPT_PERCENT:
            return Target(side=side, percent=KEPT_PERCENT[resolved])
        case _ if resolved == EXIT:
            return Target(side=0, percent=0)
        case _ if resolved == HOLD:
            return Target(side=side, percent=100, keep=True)
        case _:
            return Target(side=+1 if resolved == BUY_CALL else -1, percent=100)


STRATEGY = StrategyEntry(
    OptionScalper,
    DECLARATION,
    desk="scalper",
    training="training.desks.scalper.kind:KIND",
    table=feature_table,
)
