"""Synthetic bars for the golden tapes, simulations and speed tests: minutes like SPY's, and plain days.

The only file here that draws random numbers, always from a seed. Invariant: the same seed gives the same bars on every
platform and numpy release, so only raw PCG64 bits, + - * / and rounding to cents are used (no exp, log or Gaussian),
for days integers only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.random import PCG64

from strategies.kit.contract import Bar, Session
from strategies.kit.units import MINUTE_NS

MINUTE_DEVIATION = 0.0003  # about 13 % a year: 0.13 * sqrt(0.54 / 390 / 252)
NIGHT_DEVIATION = 0.0055  # 0.13 * sqrt(0.46 / 252)
MINUTE_VOLUME = 90_000  # shares in the quietest part of the day
STEPS = 4  # moves within a minute, from which high and low come
QUIET_SHARE = 0.02  # minutes with hardly a trade: one price, a few shares
DRAWN = 4_096  # draws at a time: those of 80 minutes


def synthetic_sessions(
    seed: int, sessions: Iterable[Session], *, symbol: str = "SPY", first_price: float = 500.0
) -> Iterator[Bar]:
    """Every minute's bar of the given sessions, in order: a driftless random walk with overnight gaps.

    Prices in USD are whole cents, volumes whole shares; moves and volumes follow a U over the day. Half days come from
    the sessions' own hours.
    """
    draws = _uniform(seed)
    price = first_price
    for number, session in enumerate(sessions):
        if number > 0:
            price *= 1.0 + NIGHT_DEVIATION * _bell(draws)
        minutes = (session.close_ns - session.open_ns) // MINUTE_NS
        for minute in range(minutes):
            start_ns = session.open_ns + minute * MINUTE_NS
            shape = _u_shape(minute, minutes)
            if next(draws) < QUIET_SHARE:
                flat = _cents(price)
                yield Bar(symbol, start_ns, flat, flat, flat, flat, float(100 + int(400 * next(draws))))
                continue
            path = [price]
            for _ in range(STEPS):
                price *= 1.0 + MINUTE_DEVIATION / STEPS**0.5 * shape * _bell(draws)
                path.append(price)
            burst = next(draws) ** 8  # sometimes several times the usual volume
            volume = MINUTE_VOLUME * shape * (0.5 + next(draws) + 4.0 * burst)
            yield Bar(
                symbol,
                start_ns,
                _cents(path[0]),
                _cents(max(path)),
                _cents(min(path)),
                _cents(price),
                float(int(volume)),
            )


def synthetic_days(seed: int, symbols: Sequence[str], starts_ns: Iterable[int]) -> Iterator[Bar]:
    """Yield a bar for each of `symbols` at each of `starts_ns`, in this order: driftless walks of whole cents.

    A symbol's bars depend only on the seed and its place among the symbols. Integer arithmetic throughout (Knuth's
    64-bit congruential generator, MMIX), so the prices are the same everywhere; volumes are whole shares.
    """
    draws = [(seed + 1) * 2**32 + place for place in range(len(symbols))]
    closes = [2_000 + 1_537 * place % 40_000 for place in range(len(symbols))]  # cents

    def draw(place: int, below: int) -> int:
        draws[place] = (draws[place] * 6364136223846793005 + 1442695040888963407) % 2**64
        return (draws[place] >> 33) % below

    for start_ns in starts_ns:
        for place, symbol in enumerate(symbols):
            open_ = max(closes[place] + closes[place] * (draw(place, 201) - 100) // 10_000, 100)  # a night: 1 % at most
            close = max(open_ + open_ * (draw(place, 401) - 200) // 10_000, 100)  # a day: 2 % at most
            high = max(open_, close) * (10_000 + draw(place, 100)) // 10_000
            low = min(open_, close) * (10_000 - draw(place, 100)) // 10_000
            volume = 100_000 + draw(place, 900_000)
            closes[place] = close
            yield Bar(symbol, start_ns, open_ / 100, high / 100, low / 100, close / 100, float(volume))


def _uniform(seed: int) -> Iterator[float]:
    """Yield numbers in [0, 1), each from the 53 highest bits of a draw; many are drawn at once, which costs less."""
    bits = PCG64(seed)
    while True:
        yield from ((bits.random_raw(DRAWN) >> np.uint64(11)) * 2.0**-53).tolist()


def _bell(draws: Iterator[float]) -> float:
    """Return a number of mean 0, deviation 1: twelve uniform numbers less 6 (Irwin-Hall), exact everywhere."""
    total = -6.0
    for draw in islice(draws, 12):
        total += draw
    return total


def _u_shape(minute: int, minutes: int) -> float:
    """Return 2 at the open, 0.8 in the middle, 1.5 at the close."""
    x = 2.0 * minute / minutes - 1.0  # from -1 at the open to +1 at the close
    return 0.8 + (1.2 if x < 0.0 else 0.7) * x * x


def _cents(price: float) -> float:
    return round(price * 100.0) / 100.0
