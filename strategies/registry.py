"""The strategies by name. The one place that knows them all; they never import one another.

No I/O. A strategy enters here with its maker and with what its contract hash declares beside the spec.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import NamedTuple, cast

from strategies import daily_rebalancer, option_scalper, regime_switcher
from strategies.kit.contract import AnyStrategy, DailySpec, DailyStrategy, Strategy


class Registered(NamedTuple):
    """How to make a strategy, and its declaration (see `strategies.golden.contract_hash`)."""

    make: Callable[[], AnyStrategy]
    declaration: Mapping[str, object]


STRATEGIES: dict[str, Registered] = {
    option_scalper.SPEC.name: Registered(option_scalper.OptionScalper, option_scalper.DECLARATION),
    daily_rebalancer.SPEC.name: Registered(daily_rebalancer.DailyRebalancer, daily_rebalancer.DECLARATION),
    regime_switcher.SPEC.name: Registered(regime_switcher.RegimeSwitcher, regime_switcher.DECLARATION),
}


def strategy(name: str) -> Strategy:
    """A new strategy object with empty caches. `ValueError` for an unknown name, with the nearest known one.

    A daily strategy too comes as a `Strategy` here: who drives one asks for its spec's kind first (`DailySpec`).
    """
    return cast("Strategy", _registered(name).make())


def daily_strategy(name: str) -> DailyStrategy:
    """A new strategy whose spec is a `DailySpec`. `ValueError` for another, and as `strategy`."""
    entry = _registered(name)
    daily = [known for known, other in STRATEGIES.items() if isinstance(other.make().spec, DailySpec)]
    if name not in daily:
        raise ValueError(f"strategy is {name!r}, expected one that decides daily: choose one of {', '.join(daily)}")
    return cast("DailyStrategy", entry.make())


def declaration(name: str) -> Mapping[str, object]:
    """What gives the strategy's numbers their meaning, beside its spec. `ValueError` as `strategy`."""
    return _registered(name).declaration


def _registered(name: str) -> Registered:
    entry = STRATEGIES.get(name)
    if entry is None:
        known = ", ".join(sorted(STRATEGIES))
        nearest = get_close_matches(name, STRATEGIES, n=1, cutoff=0.5)
        cure = f"did you mean {nearest[0]!r}?" if nearest else "choose one of these."
        raise ValueError(f"strategy is {name!r}, expected one of: {known}; {cure}")
    return entry
