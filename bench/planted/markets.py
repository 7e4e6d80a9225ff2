"""Made-up markets with an edge that each strategy can see, and the same prices without one.

Each file is drawn from a seed. Sessions are those of New York's calendar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daemon.host.time.calendar import SessionCalendar, midnight_ns
from simulator.online import prices
from strategies import daily_rebalancer, regime_switcher
from strategies.kit.contract import Bar, Session
from strategies.kit.units import MINUTE_NS
from tests.support.training.made_up import write_csv

SCALPED, LEARNED = 160, 110  # sessions of minutes of `option_scalper`, and of `online_dqn`
REBALANCED, SWITCHED, FORECASTED = 3200, 3200, 3271  # sessions of days
GROUPS = 10  # of stocks that lead and lag together
AWAY, KEPT = 0.03, 0.93  # of a price: how far it goes from its path; of that, what is left a day later
FORECAST = ("AAA", "BBB", "CCC", "DDD", "EEE", "FFF")
SPREAD_USD = 0.01
QUIET, LOUD = 0.00005, 0.0006  # deviation of a minute's return: of a session that swings, and of one that does not
SWING, PERIOD = 0.004, 40  # of the price, and minutes
STILL = prices.PlantedRule(noise=0.0012, move=0.0, back=0.0)  # bursts of volume that mean nothing

Returns = NDArray[np.float64]


def write(market: str, path: Path, seed: int, *, edge: bool) -> Path:
    """Write the market of this name, with or without its edge, as a bars file."""
    return write_csv(path, MARKETS[market](seed, edge))


def scalped(seed: int, edge: bool) -> Iterator[Bar]:
    """Yield minutes of SPY. The edge: the price swings to and fro, so fast that a cross of averages comes too late."""
    random, price = np.random.default_rng(seed), 500.0
    for session in _sessions("2024-01-02", "2024-12-31")[:SCALPED]:
        count = (session.close_ns - session.open_ns) // MINUTE_NS
        swing = SWING * np.sin(2.0 * np.pi * (np.arange(count + 1) / PERIOD + random.random()))
        returns = random.normal(0.0, QUIET if edge else LOUD, count)
        returns += (np.diff(swing) if edge else 0.0) - np.log(price / 500.0) / count  # it comes back to where it was
        closes = price * np.exp(returns.cumsum())
        opens = np.append(price, closes[:-1])
        for minute, (opened, close) in enumerate(zip(opens.tolist(), closes.tolist(), strict=True)):
            start_ns, volume = session.open_ns + minute * MINUTE_NS, float(random.integers(50_000, 150_000))
            yield _bar("SPY", start_ns, opened, close, volume)
        price = float(closes[-1])


def learned(seed: int, edge: bool) -> Iterator[Bar]:
    """Yield minutes of SPY. The edge: the price rises in the minute after a burst of volume; a bar late it is gone."""
    rule = prices.USUAL if edge else STILL
    sessions = _sessions("2024-01-02", "2024-12-31")[:LEARNED]
    yield from prices.bars_of(("SPY",), sessions, seed, recorded=True, rule=rule)


def rebalanced(seed: int, edge: bool) -> Iterator[Bar]:
    """Yield days of 50 stocks. The edge: one half of them, drawn by the seed, leads the other, in turn."""
    random, stocks = np.random.default_rng(seed), len(daily_rebalancer.SYMBOLS)
    halves = random.permutation(np.repeat((1.0, -1.0), stocks // 2))
    leads = np.where(_turns(random, REBALANCED, 12, 28) % 2 == 0, 0.004, -0.004)[:, None] * halves
    market = random.normal(0.0003, 0.006, (REBALANCED, 1))
    noise = random.normal(0.0, 0.004, (REBALANCED, stocks))
    yield from _days(daily_rebalancer.SYMBOLS, market + noise + (leads if edge else 0.0), random)


def leaders(seed: int, edge: bool) -> Iterator[Bar]:
    """Yield days of 50 stocks in ten groups. The edge: three groups lead and three lag, drawn anew every few weeks."""
    random, stocks = np.random.default_rng(seed), len(daily_rebalancer.SYMBOLS)
    groups = random.permutation(np.arange(stocks) % GROUPS)
    ways = random.permuted(np.tile(np.repeat((0.003, 0.0, -0.003), (3, 4, 3)), (REBALANCED, 1)), axis=1)
    leads = ways[_turns(random, REBALANCED, 12, 28)][:, groups]
    yield from _days(daily_rebalancer.SYMBOLS, _stocks(random, groups) + (leads if edge else 0.0), random)


def reversal(seed: int, edge: bool) -> Iterator[Bar]:
    """Yield days of 50 stocks. The edge: a price leaves its path by 3 %, of which ten days later half is left."""
    random, stocks = np.random.default_rng(seed), len(daily_rebalancer.SYMBOLS)
    groups = random.permutation(np.arange(stocks) % GROUPS)
    away = _returning(random, stocks) if edge else 0.0
    yield from _days(daily_rebalancer.SYMBOLS, _stocks(random, groups) + away, random)


def pairs(seed: int, edge: bool) -> Iterator[Bar]:
    """Yield days of 25 pairs of stocks. The edge: two of a pair drift 6 % apart and come back together."""
    random, stocks = np.random.default_rng(seed), len(daily_rebalancer.SYMBOLS)
    places = random.permutation(stocks)
    firsts, seconds = places[: stocks // 2], places[stocks // 2 :]
    groups = np.empty(stocks, dtype=np.int64)
    groups[firsts] = groups[seconds] = np.arange(stocks // 2)
    returns = _stocks(random, groups)
    if edge:
        apart = _returning(random, stocks // 2)
        returns[:, firsts] += apart
        returns[:, seconds] -= apart
    yield from _days(daily_rebalancer.SYMBOLS, returns, random)


def _stocks(random: np.random.Generator, groups: NDArray[np.int64]) -> Returns:
    """Return days of stocks that move with the market, with their group and alone, float64 (sessions, stocks)."""
    market = random.normal(0.0003, 0.006, (REBALANCED, 1))
    together = random.normal(0.0, 0.003, (REBALANCED, int(groups.max()) + 1))[:, groups]
    return market + together + random.normal(0.0, 0.008, (REBALANCED, len(groups)))


def _returning(random: np.random.Generator, count: int) -> Returns:
    """Return how far `count` prices move as they leave their path and return to it, float64 (sessions, count)."""
    shocks = random.normal(0.0, AWAY * np.sqrt(1.0 - KEPT**2), (REBALANCED, count))
    away = np.zeros((REBALANCED + 1, count))
    for day in range(REBALANCED):
        away[day + 1] = KEPT * away[day] + shocks[day]
    return np.diff(away, axis=0)


def switched(seed: int, edge: bool) -> Iterator[Bar]:
    """Yield days of three funds. The edge: one leads the others for 8 to 16 sessions, then the next in turn."""
    random, funds = np.random.default_rng(seed), len(regime_switcher.SYMBOLS)
    leader = _turns(random, SWITCHED, 8, 16) % funds  # in turn: who holds one fund does not earn by luck
    leads = np.where(np.arange(funds) == leader[:, None], 0.006, -0.003)
    market = random.normal(0.0003, 0.008, (SWITCHED, 1))
    noise = random.normal(0.0, 0.003, (SWITCHED, funds))
    yield from _days(regime_switcher.SYMBOLS, market + noise + (leads if edge else 0.0), random)


def forecast(seed: int, edge: bool) -> Iterator[Bar]:
    """Yield days of six stocks. The edge: each price goes one way for 20 to 40 sessions, then the other way as long.

    The lengths are bounded and nothing drifts: to hold a stock from the first to the last session earns nothing, and
    half of them go the other half's opposite way, so that all together earn nothing in between either.
    """
    random, stocks = np.random.default_rng(seed), len(FORECAST)
    turns = np.stack([_turns(random, FORECASTED, 20, 40) for _ in range(stocks // 2)], axis=1)
    ways = np.where((turns + random.integers(2, size=stocks // 2)) % 2 == 0, 0.006, -0.006)
    noise = random.normal(0.0, 0.008, (FORECASTED, stocks))
    returns = noise + (np.hstack([ways, -ways]) if edge else 0.0)
    yield from _days(FORECAST, returns - returns.mean(axis=0), random)


MARKETS: Mapping[str, Callable[[int, bool], Iterator[Bar]]] = {
    "option_scalper": scalped,
    "daily_rebalancer": rebalanced,
    "daily_rebalancer/leaders": leaders,
    "daily_rebalancer/reversal": reversal,
    "daily_rebalancer/pairs": pairs,
    "regime_switcher": switched,
    "forecast_ensemble": forecast,
    "online_dqn": learned,
}


def _sessions(first: str, last: str) -> tuple[Session, ...]:
    return tuple(session for session in SessionCalendar.load(first, last).sessions if first <= session.date <= last)


def _turns(random: np.random.Generator, sessions: int, fewest: int, most: int) -> NDArray[np.int64]:
    """How often a lead has gone on, int64 (sessions,): each stays for `fewest` to `most` sessions."""
    stays = random.integers(fewest, most + 1, sessions)
    return np.repeat(np.arange(sessions), stays)[:sessions]


def _days(symbols: Sequence[str], returns: Returns, random: np.random.Generator) -> Iterator[Bar]:
    """Yield days whose logarithmic returns these are, float64 (sessions, symbols); a fifth of each comes at night."""
    sessions = _sessions("2010-01-04", "2022-12-30")[: len(returns)]
    closes = random.uniform(50.0, 200.0, len(symbols)) * np.exp(returns.cumsum(axis=0))
    previous_closes = np.vstack([closes[:1] / np.exp(returns[:1]), closes[:-1]])
    opens = previous_closes * (closes / previous_closes) ** 0.2
    for day, session in enumerate(sessions):
        start_ns = midnight_ns(session.date)
        for symbol, opened, close in zip(symbols, opens[day].tolist(), closes[day].tolist(), strict=True):
            yield _bar(symbol, start_ns, opened, close, float(random.integers(100_000, 1_000_000)))


def _bar(symbol: str, start_ns: int, opened: float, close: float, volume: float) -> Bar:
    opened, close = (max(round(price, 2), SPREAD_USD) for price in (opened, close))
    high, low = round(max(opened, close) + SPREAD_USD, 2), max(round(min(opened, close) - SPREAD_USD, 2), SPREAD_USD)
    return Bar(symbol, start_ns, opened, high, low, close, volume)
