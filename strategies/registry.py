"""The strategies by name, each in a file of its own. A file is imported when its strategy is first asked for.

No I/O but that import. Strategies never import one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import cast

from strategies.kit.contract import AnyStrategy, DailyStrategy, Strategy
from strategies.kit.entry import Entry

STRATEGIES: dict[str, str] = {
    "option_scalper": "strategies.option_scalper",
    "daily_rebalancer": "strategies.daily_rebalancer",
    "regime_switcher": "strategies.regime_switcher",
}
"""Name -> module, whose `STRATEGY` is the entry (`strategies.kit.entry.Entry`)."""


def entry(name: str) -> Entry:
    """All that the strategy's file gives. `ValueError` for an unknown name, with the nearest known one."""
    if name not in STRATEGIES:
        known = ", ".join(sorted(STRATEGIES))
        nearest = get_close_matches(name, STRATEGIES, n=1, cutoff=0.5)
        cure = f"did you mean {nearest[0]!r}?" if nearest else "choose one of these."
        raise ValueError(f"strategy is {name!r}, expected one of: {known}; {cure}")
    return cast("Entry", import_module(STRATEGIES[name]).STRATEGY)


def strategy(name: str, symbols: tuple[str, ...] = ()) -> Strategy:
    """A new strategy object with empty caches, of its own symbols or of those given.

    A daily strategy too comes as a `Strategy` here: who drives one asks its spec when it decides. `ValueError` as
    `entry`, and for symbols given to a strategy whose symbols are its own.
    """
    return cast("Strategy", _made(name, symbols))


def daily_strategy(name: str, symbols: tuple[str, ...] = ()) -> DailyStrategy:
    """A new strategy that decides once a session. `ValueError` for another, and as `strategy`."""
    made = _made(name, symbols)
    if made.spec.decides != "session":
        daily = [known for known in STRATEGIES if entry(known).make().spec.decides == "session"]
        raise ValueError(f"strategy is {name!r}, expected one that decides daily: choose one of {', '.join(daily)}")
    return cast("DailyStrategy", made)


def _made(name: str, symbols: tuple[str, ...]) -> AnyStrategy:
    known = entry(name)
    if not symbols:
        return known.make()
    if known.with_symbols is None:
        own = ", ".join(known.make().spec.symbols)
        raise ValueError(f"{name} trades its own symbols ({own}), found others given to it: name none")
    return known.with_symbols(symbols)


def declaration(name: str) -> Mapping[str, object]:
    """What gives the strategy's numbers their meaning, beside its spec. `ValueError` as `entry`."""
    return entry(name).declaration
