"""Corporate actions (splits, dividends, new names, mergers, spin-offs) and their effect on prices.

Pure data and arithmetic. An action takes effect at 04:00 New York of its date: history, quotes and books at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache

from msgspec.structs import replace

from simulator.prices.tape import midnight_ns, new_york_date
from strategies.kit.contract import Bar
from strategies.kit.units import SECOND_NS

MORNING_NS = 4 * 3_600 * SECOND_NS  # time at which a day of data and books begins, before any trading
ADJUSTMENTS = ("raw", "split", "dividend", "spin-off", "all")
DECIMALS = 4  # of adjusted prices


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """A split: from `date` on there are `ratio` shares for each one before (below 1: a reverse split).

    A position may become a fraction, as at Alpaca; with `fraction_in_cash` the fraction is paid out (CIL) instead.
    """

    symbol: str
    date: str
    ratio: Decimal
    fraction_in_cash: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Dividend:
    """A dividend of `amount` USD a share to holders before `date` (the ex-date), paid on `paid` ("": the ex-date)."""

    symbol: str
    date: str
    amount: Decimal
    paid: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Rename:
    """A rename: from `date` on `symbol` is called `new`; all other data of the share name it `symbol`."""

    symbol: str
    date: str
    new: str


@dataclasses.dataclass(frozen=True, slots=True)
class Merger:
    """A merger: from `date` on a share of `symbol` becomes `cash` USD, `ratio` shares of `new`, or both.

    The cash is in the row that removes the shares, or with `cash_apart` in its own. Fractions as for a split.
    """

    symbol: str
    date: str
    cash: Decimal = Decimal(0)
    new: str = ""
    ratio: Decimal = Decimal(0)
    fraction_in_cash: bool = False
    cash_apart: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class SpinOff:
    """A spin-off: holders of `symbol` before `date` get `ratio` shares of `new` for each, worth `part` of its price.

    Fractions as for a split.
    """

    symbol: str
    date: str
    new: str
    ratio: Decimal
    part: float
    fraction_in_cash: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class BackAdjustment:
    """Factors of bars before `date`: prices are multiplied by `price`, volume by `volume`."""

    date: str
    price: float
    volume: float


Days = Mapping[str, Bar]  # by New York date, in order


@lru_cache(maxsize=16_384)
def morning_ns(day: str) -> int:
    """Return the time at which an action dated `day` takes effect."""
    return midnight_ns(day) + MORNING_NS


def effective_day(now_ns: int) -> str:
    """Return the day whose actions are in effect at `now_ns`: New York's date, from 04:00 on."""
    return new_york_date(now_ns - MORNING_NS)


def close_before(days: Days, day: str) -> float | None:
    """Return the close of the last bar before `day`; None without one."""
    return next((days[date].close for date in sorted(days, reverse=True) if date < day), None)


def steps_of(
    days: Days,
    splits: Iterable[Split],
    dividends: Iterable[Dividend],
    spin_offs: Iterable[SpinOff],
    adjustment: str,
    day: str,
) -> list[BackAdjustment]:
    """Return the back adjustments of one share's bars for this `adjustment`, as of `day`; none for `raw`.

    A dividend's factor is 1 - amount / close, with the close before (Center for Research in Security Prices).
    """
    steps: list[BackAdjustment] = []
    if adjustment in {"split", "all"}:
        shares = [(split.date, float(split.ratio)) for split in splits if split.date <= day]
        steps += [BackAdjustment(date, 1 / ratio, ratio) for date, ratio in shares]
    if adjustment in {"dividend", "all"}:
        for dividend in dividends:
            close = close_before(days, dividend.date) if dividend.date <= day else None
            if close is not None:
                steps.append(BackAdjustment(dividend.date, 1 - float(dividend.amount) / close, 1.0))
    if adjustment in {"spin-off", "all"}:
        steps += [BackAdjustment(it.date, 1 - it.part, 1.0) for it in spin_offs if it.date <= day]
    return steps


def adjust_bar(bar: Bar, day: str, steps: Sequence[BackAdjustment]) -> Bar:
    """Return the bar of `day` adjusted by `steps`: prices with four decimals, whole shares."""
    price = volume = 1.0
    for step in steps:
        if day < step.date:
            price, volume = price * step.price, volume * step.volume
    return bar if price == volume == 1.0 else _times(bar, price, volume)


@lru_cache(maxsize=65_536)
def _times(bar: Bar, price: float, volume: float) -> Bar:
    names = ("open", "high", "low", "close")
    prices = {name: round(getattr(bar, name) * price, DECIMALS) for name in names}
    return replace(bar, volume=float(round(bar.volume * volume)), **prices)


def as_traded(
    days: Days, splits: Iterable[Split], dividends: Iterable[Dividend], spin_offs: Iterable[SpinOff] = ()
) -> dict[str, Bar]:
    """Return the bars as traded from a series adjusted for all scripted actions: the inverse of adjustment."""
    raw_bars = dict(days)
    actions: list[Split | Dividend | SpinOff] = [*splits, *dividends, *spin_offs]
    for action in sorted(actions, key=lambda action: action.date, reverse=True):
        if isinstance(action, Split):
            factor, volume = float(action.ratio), 1 / float(action.ratio)
        elif isinstance(action, SpinOff):
            factor, volume = 1 / (1 - action.part), 1.0
        else:
            close = close_before(raw_bars, action.date)
            factor, volume = (1.0 if close is None else 1 + float(action.amount) / close), 1.0
        for day, bar in raw_bars.items():
            if day < action.date:
                prices = {name: getattr(bar, name) * factor for name in ("open", "high", "low", "close")}
                raw_bars[day] = replace(bar, volume=float(round(bar.volume * volume)), **prices)
    return raw_bars


def spun_off(days: Days, action: SpinOff, splits: Iterable[Split]) -> dict[str, Bar]:
    """Return the new share's bars from the old one's as traded, without the old one's `splits`."""
    later_splits = [split for split in splits if split.date > action.date]
    new_bars: dict[str, Bar] = {}
    for day, bar in days.items():
        if day >= action.date:
            factor = action.part / (1 - action.part) / float(action.ratio)
            for split in later_splits:
                factor *= float(split.ratio) if split.date <= day else 1.0
            prices = {name: getattr(bar, name) * factor for name in ("open", "high", "low", "close")}
            new_bars[day] = replace(bar, symbol=action.new, **prices)
    return new_bars
