"""The strategies by name, each in a file of its own, imported on first use.

No I/O but that import. Strategies never import one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import cast

from strategies.kit.contract import AnyStrategy, DailyStrategy, Strategy
from strategies.kit.entry import StrategyEntry

STRATEGIES: dict[str, str] = {
    "option_scalper": "strategies.option_scalper",
    "daily_rebalancer": "strategies.daily_rebalancer",
    "regime_switcher": "strategies.regime_switcher",
    "forecast_ensemble": "strategies.forecast_ensemble",
    "online_dqn": "strategies.online_dqn",
}
"""Name -> module, whose `STRATEGY` is the entry (`strategies.kit.entry.StrategyEntry`)."""


def entry(name: str) -> StrategyEntry:
    """Return the strategy's entry. `ValueError` for an unknown name, with the nearest known one."""
    if name not in STRATEGIES:
        known = ", ".join(sorted(STRATEGIES))
        nearest = get_close_matches(name, STRATEGIES, n=1, cutoff=0.5)
        cure = f"did you mean {nearest[0]!r}?" if nearest else "choose one of these."
        raise ValueError(f"strategy is {name!r}, expected one of: {known}; {cure}")
    return cast("StrategyEntry", import_module(STRATEGIES[name]).STRATEGY)


def strategy(name: str, symbols: tuple[str, ...] = (), config: str = "") -> Strategy:
    """Return a new strategy object with empty caches, for its own or the given symbols.

    `config` is the canonical text of a model configuration, "" for the shipped one. A daily strategy is typed as a
    `Strategy` here too: callers check its spec. `ValueError` as `entry`, for symbols given to a strategy whose symbols
    are its own, and for a configuration given to one without.
    """
    return cast("Strategy", _made(name, symbols, config))


def daily_strategy(name: str, symbols: tuple[str, ...] = ()) -> DailyStrategy:
    """Return a new strategy that decides once a session. `ValueError` for another, and as `strategy`."""
    made = _made(name, symbols)
    if made.spec.decides != "session":
        daily = [known for known in STRATEGIES if entry(known).make().spec.decides == "session"]
        raise ValueError(f"strategy is {name!r}, expected one that decides daily: choose one of {', '.join(daily)}")
    return cast("DailyStrategy", made)


def _made(name: str, symbols: tuple[str, ...], config: str = "") -> AnyStrategy:
    known = entry(name)
    if known.with_config is not None:
        return known.with_config(config, symbols)
    if config:
        raise ValueError(f"{name} has no model configuration, found one given to it: name none")
    if not symbols:
        return known.make()
    if known.with_symbols is None:
        own = ", ".join(known.make().spec.symbols)
        raise ValueError(f"{name} trades its own symbols ({own}), found others given to it: name none")
    return known.with_symbols(symbols)


def declaration(name: str) -> Mapping[str, object]:
    """Return the declaration: with the spec, it fixes the numbers' meaning. `ValueError` as `entry`."""
    return entry(name).declaration
