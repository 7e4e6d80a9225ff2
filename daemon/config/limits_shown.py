"""The limits in force at a desk and the source of each: a default, a file, a variable, the command line.

Pure except for reading the journal's newest start. `rltraderd --check` and `rltraderctl status` show them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import msgspec

from daemon.config.checks import values
from daemon.config.load import DeskSettings
from daemon.core.events import RunStarted
from daemon.core.limits import OVERLAY, Limit, Risk, Trading
from daemon.core.session import LATER, flatten_from_ns, in_window, new_york_minute
from daemon.journal.reader import JournalReader
from daemon.journal.rows import decode_event
from strategies.kit.contract import Session, Spec
from strategies.kit.units import MINUTE_NS, SECOND_NS
from strategies.registry import strategy as strategy_named

DEFAULT = "default"
OF_SHARES = frozenset(
    (
        "no_trade_windows",
        "quote_age_max_s",
        "daily_loss_max",
        "daily_loss_flatten",
        "drawdown_max",
        "reject_rate_max",
        "reject_rate_orders",
    )
)
"""Keys of `[risk]` that apply to a daily desk; the others concern options and minutes."""
OF_BARS = frozenset(
    (
        "no_entry_before_close_min",
        "no_entry_after_open_min",
        "stale_bar_s",
        "bar_leap_max",
        "gap_min",
        "cooldown_trade_s",
        "cooldown_loss_s",
        "orders_per_minute",
        "orders_per_day",
        "consecutive_losses_max",
        "consecutive_losses_pause_min",
    )
)
"""Further keys for a desk that decides about shares at each bar."""
PREMIUM = "risk.order_notional_max_usd"
"""Shown with its effective value: `risk.gross_exposure_max_usd` limits it too."""
STOPS = ("stop_loss", "take_profit", "trailing_stop", "time_stop_min")
WEIGHTS = ("price_collar", "order_weight_max", "position_weight_max", "gross_weight_max", "turnover_max")


_RISK = tuple(field.name for field in dataclasses.fields(Risk))
_KEYS: dict[tuple[str, str], tuple[str, ...]] = {
    ("bar", "option"): (
        *(f"sizing.{field.name}" for field in dataclasses.fields(Trading().sizing)),
        *(f"risk.{key}" for key in _RISK),
    ),
    ("bar", "shares"): (
        *(f"sizing.{key}" for key in STOPS),
        *(f"risk.{key}" for key in _RISK if key in OF_SHARES | OF_BARS),
        *(f"basket.{key}" for key in ("weight_max", *WEIGHTS)),
    ),
    ("session", "shares"): (
        *(f"risk.{key}" for key in _RISK if key in OF_SHARES),
        *(f"basket.{key}" for key in (*WEIGHTS, *OVERLAY)),
    ),
}


def keys_of(strategy: str) -> tuple[str, ...]:
    """Return the dotted keys of the limits that apply to a desk of this strategy."""
    return _KEYS[strategy_named(strategy).spec.kind]


def origins_of(settings: DeskSettings) -> dict[str, tuple[str, ...]]:
    """Return source -> its limits, as a start journals them; common defaults are left out."""
    by_source: dict[str, list[str]] = {}
    for key in keys_of(settings.desk.strategy):
        if (origin := settings.origin(key)) != DEFAULT:
            by_source.setdefault(origin, []).append(key)
    return {origin: tuple(keys) for origin, keys in by_source.items()}


def limits_of(strategy: str, trading: Trading, origins: dict[str, tuple[str, ...]]) -> tuple[Limit, ...]:
    """Return the limits of a desk of this strategy with their values and sources."""
    came_from = {key: origin for origin, keys in origins.items() for key in keys}
    limits = []
    for key in keys_of(strategy):
        table, _, name = key.partition(".")
        value = trading.risk.premium_max_usd if key == PREMIUM else values(getattr(trading, table))[name]
        text = str(value).lower() if isinstance(value, bool) else str(value)  # as written in a file
        text = ", ".join(value) or "none" if isinstance(value, tuple) else text
        limits.append(Limit(key, text, came_from.get(key, DEFAULT)))
    return tuple(limits)


def journaled_origins(reader: JournalReader) -> dict[str, tuple[str, ...]]:
    """Return the sources in the newest start of this journal; empty without one, or if damaged."""
    payload = reader.newest_of(RunStarted.__name__)
    try:
        event = decode_event(payload) if payload else None
    except msgspec.DecodeError:
        return {}
    return event.origins if isinstance(event, RunStarted) else {}


def by_origin(limits: Iterable[Limit]) -> list[tuple[str, str]]:
    """Return (source, its limits on one line), in order of first appearance."""
    limits_of: dict[str, list[str]] = {}
    for limit in limits:
        limits_of.setdefault(limit.origin, []).append(f"{limit.key} {limit.value}")
    return [(origin, ", ".join(lines)) for origin, lines in limits_of.items()]


WHOLE = "all of the account, so it never acts: a part, of which 0.01 is 1 %"
GAIN = "a gain of so many times the price paid: a part, of which 0.05 is 5 %"
SESSION = "longer than a session of 23,400 s, so it denies nothing: seconds, not milliseconds"
_ODD_FROM: dict[str, tuple[float, str]] = {
    "sizing.take_profit": (5, GAIN),
    "risk.daily_loss_max": (1, WHOLE),
    "risk.drawdown_max": (1, WHOLE),
    "risk.stale_bar_s": (23_401, SESSION),
    "risk.quote_age_max_s": (23_401, SESSION),
}
"""Value of a limit from which on another unit was most likely meant, and the reason."""


def odd_limits(settings: DeskSettings) -> str:
    """Return the limits that were most likely set in another unit, in words; "" without any."""
    return "; ".join(
        f"{limit.key} is {limit.value}, {_ODD_FROM[limit.key][1]}"
        for limit in limits_of(settings.desk.strategy, settings.trading(), origins_of(settings))
        if limit.key in _ODD_FROM
        and not limit.origin.startswith(DEFAULT)
        and float(limit.value) >= _ODD_FROM[limit.key][0]
    )


WHOLE_DAY = Session("2024-07-01", 1_719_840_600 * SECOND_NS, 1_719_864_000 * SECOND_NS)  # 9:30 to 16:00 in New York
_NEVER_AT: dict[str, tuple[float, str]] = {
    "risk.confidence_min": (1, "no policy is wholly sure, so each buy becomes a hold: lower it, such as to 0.5"),
    "risk.spread_max": (0, "no quote is so narrow: raise it, such as to 0.1"),
}
"""Value of a limit at which a desk enters nothing, or hardly anything, and the reason."""
_TIMES = {
    "bar": ("risk.no_entry_after_open_min", "risk.no_entry_before_close_min", "risk.no_trade_windows"),
    "session": ("basket.end_before_close_min", "risk.no_trade_windows"),
}
"""Keys of the times at which a desk may enter, by its kind of decision."""


def never_enters(settings: DeskSettings) -> str:
    """Return the limits with which this desk sells its holdings and never buys, in words; "" if it may buy."""
    trading, spec = settings.trading(), strategy_named(settings.desk.strategy).spec
    shown = {limit.key: limit.value for limit in limits_of(settings.desk.strategy, trading, {})}
    reasons = [
        f"{key} is {shown[key]}: {why}" for key, (at, why) in _NEVER_AT.items() if float(shown.get(key, "nan")) == at
    ]
    if not any(_may_enter(trading, time_ns) for time_ns in _ENTRY_TIMES[spec.decides](trading, spec)):
        shown["basket.end_before_close_min"] = str(trading.basket.end_before_close_min)
        keys = ", ".join(f"{key} = {shown[key]}" for key in _TIMES[spec.decides])
        reasons.append(f"no time of a whole session is left for a buy by {keys}: lower one, or shorten the windows")
    return "; ".join(reasons)


def _ends_of_bars(trading: Trading, spec: Spec) -> Iterator[int]:
    """Yield the times of a whole session at which a desk that decides at each bar may enter."""
    limits, end_ns = trading.risk, WHOLE_DAY.open_ns
    last_ns = WHOLE_DAY.close_ns - limits.no_entry_before_close_min * MINUTE_NS
    if not spec.overnight:
        last_ns = min(last_ns, flatten_from_ns(WHOLE_DAY, LATER, trading.execution, spec.grid))
    while (end_ns := spec.grid.at(end_ns, WHOLE_DAY)[1]) < last_ns:
        if end_ns - WHOLE_DAY.open_ns >= limits.no_entry_after_open_min * MINUTE_NS:
            yield end_ns


def _minutes_of_basket(trading: Trading, _: Spec) -> Iterator[int]:
    """Yield the minutes of a whole session in which a basket may buy."""
    rules, close_ns = trading.basket, WHOLE_DAY.close_ns
    begin_ns = WHOLE_DAY.open_ns if rules.decide == "after_close" else close_ns - rules.before_close_min * MINUTE_NS
    yield from range(begin_ns, close_ns - rules.end_before_close_min * MINUTE_NS, MINUTE_NS)


_ENTRY_TIMES: dict[str, Callable[[Trading, Spec], Iterator[int]]] = {
    "bar": _ends_of_bars,
    "session": _minutes_of_basket,
}


def _may_enter(trading: Trading, time_ns: int) -> bool:
    minute = new_york_minute(time_ns)
    return not any(in_window(minute, window) for window in trading.risk.no_trade_windows)


def in_force(settings: DeskSettings) -> str:
    """Return the limits in force and their sources, as one line."""
    limits = limits_of(settings.desk.strategy, settings.trading(), origins_of(settings))
    return "; ".join(f"from {origin}: {text}" for origin, text in by_origin(limits))
