"""The five desks of the years: what each one's world needs, and what befalls the companies that it trades.

Drawn: splits, dividends, new names, halts, removals and days without a print. Limits and waits are the daemon's
defaults, but for what a lively policy meets by itself and for polls that find nothing here.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path

from daemon.brokers.registry import BROKERS
from daemon.host.time.calendar import SessionCalendar
from daemon.models import runtime
from simulator.prices.corporate_actions import Dividend, Rename, Split, as_traded
from simulator.prices.day_prices import DailyPrices
from strategies import daily_rebalancer, forecast_ensemble, option_scalper, regime_switcher
from strategies.forecast_ensemble.features import HISTORY_BARS as FORECAST_BARS
from strategies.golden import golden_observations
from strategies.kit.contract import AnyStrategy, Bar, Observation, Session
from strategies.registry import strategy as strategy_named
from tests.support.desks.live_desk import LOOSE
from tests.support.paths import FIXTURE_MODELS
from tests.years.market import MovedMarket
from tests.years.models import BY_MINUTE, FIVE_MINUTES, STORE

SCALPER = option_scalper.SPEC.name
REBALANCER, SWITCHER, FORECAST = DAILY = tuple(
    module.SPEC.name for module in (daily_rebalancer, regime_switcher, forecast_ensemble)
)
ONLINE = "online_dqn"
DESKS = (SCALPER, *DAILY, ONLINE)
SYMBOLS: Mapping[str, tuple[str, ...]] = {
    SCALPER: ("SPY",),
    REBALANCER: daily_rebalancer.SYMBOLS,
    SWITCHER: regime_switcher.SYMBOLS,
    FORECAST: forecast_ensemble.SYMBOLS,
    ONLINE: BY_MINUTE,
}
UNDERLYING = "SPY"
CASH_USD = {SCALPER: 30_000, REBALANCER: 150_000, SWITCHER: 100_000, FORECAST: 100_000, ONLINE: 100_000}
HISTORY = {SCALPER: 25, REBALANCER: 430, SWITCHER: 280, FORECAST: FORECAST_BARS + 30, ONLINE: 25}
"""Sessions of the market before the first that is lived through."""
CALENDAR_FROM = "2018-02-01"
REPORT_S = 150  # seconds: every second report may fail before the desk counts as blind (`broker.blind_min`)
AFTER = 14  # sessions of the market after the last: expiries, and what the daemon wants to know ahead
YEARS_BEFORE = 4  # of the calendar that a daemon asks for, at most
WALKS = 2  # histories of prices for each year
LEVELS = {"SPY": 480.0, "QQQ": 400.0, "IWM": 200.0}  # USD, at the year's first session

RATES = {"split": 0.1, "dividend": 0.15, "halted": 0.08, "no print": 0.08, "delisted": 0.02, "renamed": 0.02}
"""What befalls one of many stocks, in a session; one of a few funds meets the first four, at a fifth of that."""
OF_FUNDS = ("split", "dividend", "halted", "no print")
FUNDS = 0.2
RATIOS = ("2", "3", "10", "0.1", "1.5")  # of splits
AMOUNTS = ("0.25", "1.11", "0.03")  # of dividends, USD a share

Table = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Happening:
    """What befalls one share on one date, one of `RATES`."""

    kind: str
    symbol: str
    date: str


@dataclass(frozen=True)
class DeskPlan:
    """What a world of one desk needs. `symbols` are those that it may trade, none for any contract of `UNDERLYING`."""

    name: str
    market: MovedMarket
    sessions: tuple[Session, ...]  # those lived through
    models_dir: Path
    tables: Table  # settings beside the world's own
    cash: Decimal  # USD
    symbols: frozenset[str]
    happenings: tuple[Happening, ...] = ()


def desk_of(name: str, seed: int, sessions_first: str, count: int, folder: Path, chance: random.Random) -> DeskPlan:
    """What the desk of this strategy lives with for `count` sessions from the first one at or after `sessions_first`.

    `chance` draws what befalls its shares, `seed` their minutes. Raises ValueError where too few sessions are known.
    """
    market, live, happenings = market_of((name,), seed, sessions_first, count, chance)
    models_dir = FIXTURE_MODELS if name == SCALPER else STORE
    return DeskPlan(
        name,
        market,
        live,
        models_dir,
        tables(name, models_dir),
        Decimal(CASH_USD[name]),
        frozenset() if name == SCALPER else frozenset(SYMBOLS[name]),
        happenings,
    )


def market_of(
    names: Sequence[str], seed: int, sessions_first: str, count: int, chance: random.Random
) -> tuple[MovedMarket, tuple[Session, ...], tuple[Happening, ...]]:
    """The market of these desks, the sessions to live through, and what befalls its companies: as `desk_of`."""
    all_sessions = calendar()
    place = next((i for i, session in enumerate(all_sessions) if session.date >= sessions_first), len(all_sessions))
    before = max(HISTORY[name] for name in names)
    if place + count + AFTER > len(all_sessions) or place < before:
        raise ValueError(
            f"{count} sessions from {sessions_first} are not all known: the last is {all_sessions[-1].date}"
        )
    live = all_sessions[place : place + count]
    around = all_sessions[place - before : place + count + AFTER]
    symbols = tuple(dict.fromkeys(symbol for name in names for symbol in SYMBOLS[name]))
    happenings = draw_happenings(symbols, [session.date for session in live], chance)
    days = _prices(_symbols(*names), around, int(live[0].date[:4]), seed, happenings, chance)
    market = MovedMarket((), UNDERLYING, sessions=around, days=days, seed=seed)
    return market, tuple(live), tuple(happenings)


def warm(names: Sequence[str], seed: int, sessions_first: str) -> None:
    """Make once in this process what each run of a child would make anew: the broker, calendars, walks of prices."""
    importlib.import_module(BROKERS["alpaca"])
    year = int(sessions_first[:4])
    for before in range(YEARS_BEFORE + 1):
        SessionCalendar.to_horizon(f"{year - before}-06-01")
    first = next((session.date for session in calendar() if session.date >= sessions_first), sessions_first)
    walks_of(_symbols(*names), int(first[:4]), seed % WALKS)
    runtime.golden_observations = golden  # type: ignore[attr-defined]
    for name in names:
        golden(strategy_named(name, BY_MINUTE if name == ONLINE else ()))


def golden(strategy: AnyStrategy) -> tuple[Observation, ...]:
    """The strategy's golden observations, made once in this process: each life of a desk checks its model by them."""
    key = f"{type(strategy).__qualname__} {strategy.spec!r}"
    if key not in _GOLDEN:
        _GOLDEN[key] = golden_observations(strategy)
    return _GOLDEN[key]


_GOLDEN: dict[str, tuple[Observation, ...]] = {}


def _symbols(*names: str) -> tuple[str, ...]:
    return tuple(sorted({UNDERLYING, *(symbol for name in names for symbol in SYMBOLS[name])}))


@cache
def calendar() -> tuple[Session, ...]:
    """All sessions that are known."""
    return SessionCalendar.to_horizon(CALENDAR_FROM).sessions


# --- what befalls the companies -----------------------------------------------------------------------------------


def draw_happenings(symbols: Sequence[str], dates: Sequence[str], chance: random.Random) -> list[Happening]:
    """What befalls whom, in the order of dates; no share meets two things on one date, and none after it has left."""
    few = len(symbols) <= len(LEVELS)
    kinds = OF_FUNDS if few else tuple(RATES)
    result: list[Happening] = []
    leavers: set[str] = set()
    leave_max = len(symbols) // 4
    for date in dates:
        subjects: set[str] = set()
        for kind in kinds:
            if chance.random() >= RATES[kind] * (FUNDS if few else 1.0):
                continue
            symbol = chance.choice(symbols)
            if symbol in leavers or symbol in subjects or date == dates[0]:
                continue
            if kind in ("delisted", "renamed"):
                if len(leavers) >= leave_max:
                    continue
                leavers.add(symbol)
            subjects.add(symbol)
            result.append(Happening(kind, symbol, date))
    return result


def _prices(
    symbols: tuple[str, ...],
    around: Sequence[Session],
    year: int,
    seed: int,
    happenings: Sequence[Happening],
    chance: random.Random,
) -> DailyPrices:
    """Daily prices of the market: walks of the year, and what happenings make of those that they befall."""
    walks = walks_of(symbols, year, seed % WALKS)
    subjects = {it.symbol for it in happenings}
    splits = [
        Split(it.symbol, it.date, Decimal(chance.choice(RATIOS)), chance.random() < 0.3)
        for it in happenings
        if it.kind == "split"
    ]
    dividends = [
        Dividend(it.symbol, it.date, Decimal(chance.choice(AMOUNTS))) for it in happenings if it.kind == "dividend"
    ]
    bars: list[Bar] = []
    for symbol in sorted(subjects):
        split, payments = [it for it in splits if it.symbol == symbol], [it for it in dividends if it.symbol == symbol]
        bars += as_traded(walks[symbol], split, payments).values()
    days = DailyPrices(
        bars,
        around,
        splits=splits,
        dividends=dividends,
        renames=[Rename(it.symbol, it.date, new_name(it.symbol)) for it in happenings if it.kind == "renamed"],
        halts={s: {it.date for it in happenings if (it.kind, it.symbol) == ("halted", s)} for s in subjects},
        delisted={it.symbol: it.date for it in happenings if it.kind == "delisted"},
        seed=seed,
    )
    for it in happenings:
        if it.kind == "no print":
            days.bars[it.symbol].pop(it.date, None)
    for symbol in symbols:
        if symbol not in subjects:
            days.bars[symbol] = walks[symbol]
    return days


def new_name(symbol: str) -> str:
    """What a renamed share is called."""
    return f"{symbol.replace('.', '')[:3]}X"


@cache
def walks_of(symbols: tuple[str, ...], year: int, number: int) -> dict[str, dict[str, Bar]]:
    """Seeded walks of these shares from what a desk needs before the year to the end of the next one, on the grid."""
    all_sessions = calendar()
    place = next(i for i, session in enumerate(all_sessions) if session.date >= f"{year}-01-01")
    around = [s for s in all_sessions[max(0, place - max(HISTORY.values())) :] if s.date < f"{year + 2}-03-01"]
    closes = {symbol: (all_sessions[place].date, level) for symbol, level in LEVELS.items() if symbol in symbols}
    return DailyPrices.made_up(symbols, around, seed=100 * year + number, closes=closes).bars


# --- settings -----------------------------------------------------------------------------------------------------


def tables(name: str, models_dir: Path) -> Table:
    """The desk's settings: defaults, but for limits that its lively policy meets by itself."""
    sections: dict[str, dict[str, object]] = {key: dict(values) for key, values in LOOSE.items()}
    sections |= {
        "desk": {"name": name, "strategy": name},
        "paths": {"models_dir": str(models_dir)},
        "journal": {"ballast_mib": 1},
        "alpaca": {"report_every_s": REPORT_S, "ping_s": 60},
        "policy": {"poll_s": 300},
    }
    if name == ONLINE:
        sections["desk"] |= {"symbols": list(BY_MINUTE), "model_config": str(FIVE_MINUTES)}
    return sections
