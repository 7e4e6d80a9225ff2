"""A synthetic market with a rule that its recorded history lacks.

After a burst of volume the price rises within the next minute, and falls a little in the one after. In the history a
dip has no effect; later it is reversed in the same way. Ordinary minutes compensate all of it, so that holding earns
nothing. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from strategies.kit.contract import Bar, Session
from strategies.kit.units import MINUTE_NS

PRICE, VOLUME = 100.0, 2000.0  # USD, shares a minute
NOISE = 1e-4  # standard deviation of a minute's log return
BURST = 6.0  # times the usual volume
MOVE = 0.004  # log return of the rise after a burst, and of a dip's two minutes
BACK = 0.0015  # log return of the fall in the minute after a rise
BURSTS = 0.08  # chance that a minute begins a burst
DIPS_BEFORE, DIPS = 0.01, 0.06  # chance of a dip in the history, and after it
APART = 4  # least minutes from one to the next


@dataclass(frozen=True, slots=True)
class PlantedRule:
    """Strength of the rule: log returns."""

    noise: float = NOISE
    move: float = MOVE
    back: float = BACK


USUAL = PlantedRule()


def bars_of(
    symbols: Sequence[str], sessions: Sequence[Session], seed: int, *, recorded: bool, rule: PlantedRule = USUAL
) -> list[Bar]:
    """Return minute bars of all symbols, by time: of the recorded history, or of the market after it."""
    series = [_series(symbol, sessions, [seed, place], recorded, rule) for place, symbol in enumerate(symbols)]
    return sorted((bar for bars in series for bar in bars), key=lambda bar: (bar.start_ns, bar.symbol))


def as_csv(bars: Sequence[Bar]) -> str:
    """Return the bars as the trainer's CSV."""
    rows = [f"{b.symbol},{b.start_ns},{b.open},{b.high},{b.low},{b.close},{b.volume}" for b in bars]
    return "\n".join(["symbol,timestamp,open,high,low,close,volume", *rows]) + "\n"


def _series(symbol: str, sessions: Sequence[Session], seed: list[int], recorded: bool, rule: PlantedRule) -> list[Bar]:
    draw, last, bars = np.random.default_rng(seed), PRICE, list[Bar]()
    for session in sessions:
        count = (session.close_ns - session.open_ns) // MINUTE_NS
        returns, volumes = _session(draw, count, recorded, last, rule)
        closes = last * np.exp(np.cumsum(returns))
        opens = np.append(last, closes[:-1])
        beyond = np.abs(draw.normal(0.0, rule.noise / 3, (2, count)))
        highs, lows = np.maximum(opens, closes) * (1 + beyond[0]), np.minimum(opens, closes) * (1 - beyond[1])
        prices = np.round([opens, highs, lows, closes], 2)
        for minute, (values, volume) in enumerate(zip(prices.T.tolist(), volumes.tolist(), strict=True)):
            open_price, high, low, close = values
            bars.append(Bar(symbol, session.open_ns + minute * MINUTE_NS, open_price, high, low, close, int(volume)))
        last = float(closes[-1])
    return bars


def _session(
    draw: np.random.Generator, count: int, recorded: bool, last: float, rule: PlantedRule
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return log returns and volumes of a session's minutes; prices end about where they began."""
    returns, volumes = draw.normal(0.0, rule.noise, count), draw.lognormal(np.log(VOLUME), 0.2, count)
    moves, minute, dips = np.zeros(count), APART, DIPS_BEFORE if recorded else DIPS
    while minute < count - 2 * APART:
        draw_value = draw.random()
        if draw_value < BURSTS:
            volumes[minute] *= BURST
            moves[minute + 1 : minute + 3] = (rule.move, -rule.back)
        elif draw_value < BURSTS + dips:
            moves[minute] = -rule.move
            moves[minute + 1 : minute + 3] = (0.0, 0.0) if recorded else (rule.move, -rule.back)
        minute += APART if draw_value < BURSTS + dips else 1
    ordinary = moves == 0.0
    returns += moves
    returns[ordinary] -= (moves.sum() + np.log(last / PRICE)) / ordinary.sum()
    return returns, volumes
