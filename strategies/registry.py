"""The strategies by name. The one place that knows them all; they never import one another.

No I/O. A strategy enters here with its maker and with what its contract hash declares beside the spec.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import NamedTuple

from strategies import option_scalper
from strategies.contract import Strategy


class Registered(NamedTuple):
    """How to make a strategy, and its declaration (see `strategies.golden.contract_hash`)."""

    make: Callable[[], Strategy]
    declaration: Mapping[str, object]


STRATEGIES: dict[str, Registered] = {
    option_scalper.SPEC.name: Registered(option_scalper.OptionScalper, option_scalper.DECLARATION),
}


def strategy(name: str) -> Strategy:
    """A new strategy object with empty caches. `ValueError` for an unknown name, with the nearest known one."""
    return _registered(name).make()


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
