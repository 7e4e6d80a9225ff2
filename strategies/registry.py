"""The strategies by name, each in a file of its own, imported on first use; and those of one's own.

No I/O but that import. Strategies never import one another. A strategy of one's own is a file that the user named
(`add`), one that a state directory remembers (`remember`), or an installed package with an entry point; a shipped
strategy's name always means the shipped one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, TypeGuard, TypeVar, cast

from strategies.kit.contract import AnyStrategy, DailyStrategy, ShareStrategy, Strategy
from strategies.kit.entry import GROUP, INSTALLED, OwnStrategyError, StrategyEntry

if TYPE_CHECKING:  # imported when a strategy is asked for that is not shipped
    from strategies.kit.own.load import OwnStrategy

STRATEGIES: dict[str, str] = {
    "option_scalper": "strategies.option_scalper",
    "daily_rebalancer": "strategies.daily_rebalancer",
    "regime_switcher": "strategies.regime_switcher",
    "forecast_ensemble": "strategies.forecast_ensemble",
    "online_dqn": "strategies.online_dqn",
}
"""Name -> module, whose `STRATEGY` is the entry (`strategies.kit.entry.StrategyEntry`)."""


T = TypeVar("T")
VARIABLE = "RLTRADER_OWN_STRATEGIES"
"""Environment: name -> place of the files that were added, as JSON. It lets child processes find them."""

_own: dict[str, OwnStrategy] = {}
_remembered: dict[str, str] = {}  # name -> place, as a state directory has it; not imported yet


def entry(name: str) -> StrategyEntry:
    """Return the strategy's entry. `ValueError` for an unknown name, with the nearest known one, and as `own`."""
    if name in STRATEGIES:
        return cast("StrategyEntry", import_module(STRATEGIES[name]).STRATEGY)
    found = own(name)
    if found is not None:
        return found.entry
    known = names()
    nearest = get_close_matches(name, known, n=1, cutoff=0.5)
    cure = f"did you mean {nearest[0]!r}?" if nearest else "choose one of these,"
    own_file = "or name a file of yours: path/to/file.py"
    raise ValueError(f"strategy is {name!r}, expected one of: {', '.join(sorted(known))}; {cure} {own_file}")


def names() -> tuple[str, ...]:
    """Return all known names: shipped ones first, then added and installed ones. Imports none of them."""
    from strategies.kit.own.load import installed

    return (*STRATEGIES, *sorted({*_own, *_remembered, *_of_environment(), *installed()} - {*STRATEGIES}))


def is_known(name: str) -> bool:
    """Return whether a strategy has this name. Imports nothing."""
    return name in STRATEGIES or name in _own or name in names()


def own(name: str) -> OwnStrategy | None:
    """Return the strategy of this name that is not shipped, imported at the first call; None where there is none.

    Raises OwnStrategyError where it cannot be imported.
    """
    if name in STRATEGIES or name in _own:
        return _own.get(name)
    from strategies.kit.own.load import installed, of_file, of_package

    place, by_user = _of_environment().get(name, ""), True
    if not place:
        place, by_user = _remembered.get(name, ""), False
    if place and not place.startswith(INSTALLED):
        return _kept(name, of_file(place, named_by_user=by_user))
    points = installed().get(name)
    if points:
        return _kept(name, of_package(name, points))
    if place:
        raise OwnStrategyError(
            f"the strategy {name!r} came with a package that offers it in the group {GROUP}, and none does here: "
            "install that package again, or name its file with --strategy path/to/file.py"
        )
    return None


def add(text: str) -> str:
    """Make the strategy that a user named usable, and return its name: a known name, or `path/to/file.py:NAME`.

    Raises ValueError for an unknown name, OwnStrategyError for a file that cannot be used, or whose name is taken.
    """
    if "/" not in text and not text.partition(":")[0].endswith(".py"):
        entry(text)
        return text
    from strategies.kit.own.load import of_file

    found = of_file(text)
    if found.name in STRATEGIES:
        raise OwnStrategyError(
            f"{found.file}: spec.name is {found.name!r}, the name of a shipped strategy: choose another name"
        )
    there = _own.get(found.name)
    if there is not None and there.place != found.place:
        raise OwnStrategyError(
            f"{found.file}: {found.name!r} is already the name of {there.shown}: give one of them another name"
        )
    if there is None:
        _kept(found.name, found)
        os.environ[VARIABLE] = places()
    return found.name


def typed(name: str) -> str:
    """Return what a command line calls this strategy: its name, or the file of one that is known by its file alone."""
    found = _own.get(name)
    return name if found is None or found.package else found.place.removesuffix(":STRATEGY")


def places() -> str:
    """Return the files of the strategies that were imported from one, as `VARIABLE` holds them for a child process."""
    files = {name: found.place for name, found in _own.items() if not found.place.startswith(INSTALLED)}
    return json.dumps(_of_environment() | files)


def remember(name: str, place: str) -> None:
    """Note where a state directory found its strategy. It is imported when it is asked for."""
    if name not in STRATEGIES and place:
        _remembered[name] = place


def stand_in(place: str, spec: str) -> str:
    """Let what decides nothing take the place of a strategy that cannot be imported; return its name.

    `spec` is what a journal keeps of it. Raises ValueError where that is none.
    """
    from strategies.kit.own import stand_in as maker

    made = maker.stand_in(place, spec)
    if made.name in STRATEGIES:
        raise ValueError(f"{made.name} is the name of a shipped strategy")
    return _kept(made.name, made).name


def _kept(name: str, found: OwnStrategy) -> OwnStrategy:
    if found.name != name:
        raise OwnStrategyError(
            f"{found.file}: spec.name is {found.name!r}, expected {name!r}: the file was changed; name the file of "
            f"{name} with --strategy path/to/file.py"
        )
    _own[name] = found
    return found


def _of_environment() -> dict[str, str]:
    """Return name -> place as a process above added them."""
    try:
        found = json.loads(os.environ.get(VARIABLE) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def once_a_session(strategy: AnyStrategy) -> TypeGuard[DailyStrategy]:
    """Return whether the strategy decides once a session, on daily bars, and holds shares."""
    return strategy.spec.decides == "session"


def shares_by_bar(strategy: AnyStrategy) -> TypeGuard[ShareStrategy]:
    """Return whether the strategy decides at each bar and holds shares."""
    return strategy.spec.decides == "bar" and strategy.spec.holds == "shares"


def option_by_bar(strategy: AnyStrategy) -> TypeGuard[Strategy]:
    """Return whether the strategy decides at each bar and holds one option position."""
    return strategy.spec.decides == "bar" and strategy.spec.holds == "option"


def by_kind(
    strategy: AnyStrategy,
    *,
    option: Callable[[Strategy], T],
    shares: Callable[[ShareStrategy], T],
    days: Callable[[DailyStrategy], T],
) -> T:
    """Return what the function for the strategy's kind of desk returns for it. ValueError for no kind of desk."""
    if once_a_session(strategy):
        return days(strategy)
    if shares_by_bar(strategy):
        return shares(strategy)
    if option_by_bar(strategy):
        return option(strategy)
    raise ValueError(f"{strategy.spec.name}: no desk decides and holds as {strategy.spec.kind}: use a spec of the kit")


def strategy(name: str, symbols: tuple[str, ...] = (), config: str = "") -> AnyStrategy:
    """Return a new strategy object with empty caches, for its own or the given symbols.

    `config` is the canonical text of a model configuration, "" for the shipped one. `ValueError` as `entry`, for
    symbols given to a strategy whose symbols are its own, and for a configuration given to one without.
    """
    return _made(name, symbols, config)


def daily_strategy(name: str, symbols: tuple[str, ...] = ()) -> DailyStrategy:
    """Return a new strategy that decides once a session. `ValueError` for another, and as `strategy`."""
    made = _made(name, symbols)
    if once_a_session(made):
        return made
    daily = [known for known in (*STRATEGIES, *_own) if once_a_session(entry(known).make())]
    raise ValueError(f"strategy is {name!r}, expected one that decides daily: choose one of {', '.join(daily)}")


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
