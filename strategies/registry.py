"""The registry of strategies by name: shipped ones and the user's own. Each is imported on first use.

No I/O except that import. Strategies never import one another. An own strategy is a file that the user named (`add`), a
file named in a state directory (`remember`), or an installed package with an entry point. The name of a shipped
strategy always means the shipped one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, cast

from msgspec.structs import replace

from strategies.kit.contract import AnyStrategy, DailyStrategy, ShareStrategy, Spec, Strategy
from strategies.kit.entry import GROUP, INSTALLED, OwnStrategyError, StrategyEntry, reporting
from strategies.kit.parameters import values_of

if TYPE_CHECKING:  # imported when a strategy that is not shipped is looked up
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

_own_strategies: dict[str, OwnStrategy] = {}
_places: dict[str, str] = {}  # name -> place, from a state directory; not imported yet


def entry(name: str) -> StrategyEntry:
    """Return the strategy's entry. `ValueError` for an unknown name, with the nearest known one, and as `own`."""
    if name in STRATEGIES:
        return cast("StrategyEntry", import_module(STRATEGIES[name]).STRATEGY)
    own_strategy = own(name)
    if own_strategy is not None:
        return own_strategy.entry
    all_names = names()
    nearest = get_close_matches(name, all_names, n=1, cutoff=0.5)
    cure = f"did you mean {nearest[0]!r}?" if nearest else "choose one of these,"
    own_file = "or name a file of yours: path/to/file.py"
    raise ValueError(f"strategy is {name!r}, expected one of: {', '.join(sorted(all_names))}; {cure} {own_file}")


def names() -> tuple[str, ...]:
    """Return all known names: shipped ones first, then added and installed ones. Imports none of them."""
    from strategies.kit.own.load import installed

    return (*STRATEGIES, *sorted({*_own_strategies, *_places, *_of_environment(), *installed()} - {*STRATEGIES}))


def is_known(name: str) -> bool:
    """Return whether a strategy has this name. Imports nothing."""
    return name in STRATEGIES or name in _own_strategies or name in names()


def own(name: str) -> OwnStrategy | None:
    """Return the strategy of this name that is not shipped, imported at the first call; None where there is none.

    Raises OwnStrategyError where it cannot be imported.
    """
    if name in STRATEGIES or name in _own_strategies:
        return _own_strategies.get(name)
    from strategies.kit.own.load import installed, of_file, of_package

    place, by_user = _of_environment().get(name, ""), True
    if not place:
        place, by_user = _places.get(name, ""), False
    if place and not place.startswith(INSTALLED):
        return _register(name, of_file(place, named_by_user=by_user))
    points = installed().get(name)
    if points:
        return _register(name, of_package(name, points))
    if place:
        raise OwnStrategyError(
            f"the strategy {name!r} came with a package that offers it in the group {GROUP}, and none does here: "
            "install that package again, or name its file with --strategy path/to/file.py"
        )
    return None


def is_file(text: str) -> bool:
    """Return whether this is the file of a strategy, rather than a name."""
    return "/" in text or text.partition(":")[0].endswith(".py")


def place_of(text: str) -> str:
    """Return this file by its full path, behind all links; a name as it is. Imports nothing that it names."""
    if not is_file(text):
        return text
    from strategies.kit.own.load import named_file

    path, attribute = named_file(text)
    return f"{path}:{attribute}" if attribute else str(path)


def add(text: str) -> str:
    """Make the strategy that a user named usable, and return its name: a known name, or `path/to/file.py:NAME`.

    Raises ValueError for an unknown name, OwnStrategyError for a file that cannot be used, or whose name is taken.
    """
    if not is_file(text):
        entry(text)
        return text
    from strategies.kit.own.load import of_file

    own_strategy = of_file(text)
    if own_strategy.name in STRATEGIES:
        raise OwnStrategyError(
            f"{own_strategy.file}: spec.name is {own_strategy.name!r}, the name of a shipped strategy: "
            "choose another name"
        )
    known_strategy = _own_strategies.get(own_strategy.name)
    if known_strategy is not None and known_strategy.place != own_strategy.place:
        raise OwnStrategyError(
            f"{own_strategy.file}: {own_strategy.name!r} is already the name of {known_strategy.shown}: "
            "give one of them another name"
        )
    if known_strategy is None:
        _register(own_strategy.name, own_strategy)
        os.environ[VARIABLE] = places()
    return own_strategy.name


def typed(name: str) -> str:
    """Return how a command line names this strategy: by name, or by its file if it was added as a file."""
    own_strategy = _own_strategies.get(name)
    return name if own_strategy is None or own_strategy.package else own_strategy.place.removesuffix(":STRATEGY")


def places() -> str:
    """Return the files of the strategies that were imported from one, as `VARIABLE` holds them for a child process."""
    files = {
        name: own_strategy.place
        for name, own_strategy in _own_strategies.items()
        if not own_strategy.place.startswith(INSTALLED)
    }
    return json.dumps(_of_environment() | files)


def remember(name: str, place: str) -> None:
    """Note the place of a strategy from a state directory. It is imported on first use."""
    if name not in STRATEGIES and place:
        _places[name] = place


def same_file(name: str, old_name: str) -> bool:
    """Return whether the strategy imported now comes from the place that a state directory remembers for `old_name`."""
    own_strategy = _own_strategies.get(name)
    return own_strategy is not None and own_strategy.place == _places.get(old_name)


def stand_in(place: str, spec: str, symbols: tuple[str, ...] = ()) -> str:
    """Register a stand-in that decides nothing for a strategy that cannot be used; return its name.

    `spec` is its text in the journal, `symbols` are those of its desk. Raises ValueError for any other text.
    """
    from strategies.kit.own import stand_in as maker

    stands_in = maker.stand_in(place, spec, symbols)
    if stands_in.name in STRATEGIES:
        raise ValueError(f"{stands_in.name} is the name of a shipped strategy")
    return _register(stands_in.name, stands_in).name


def _register(name: str, own_strategy: OwnStrategy) -> OwnStrategy:
    if own_strategy.name != name:
        raise OwnStrategyError(
            f"{own_strategy.file}: spec.name is {own_strategy.name!r}, expected {name!r}: the file was changed; "
            f"name the file of {name} with --strategy path/to/file.py"
        )
    _own_strategies[name] = own_strategy
    return own_strategy


def _of_environment() -> dict[str, str]:
    """Return name -> place of the files that a parent process added."""
    try:
        files = json.loads(os.environ.get(VARIABLE) or "{}")
    except ValueError:
        return {}
    return files if isinstance(files, dict) else {}


def once_a_session(strategy: AnyStrategy) -> TypeGuard[DailyStrategy]:
    """Return whether the strategy decides once a session, on daily bars, and holds shares."""
    return strategy.spec.decides == "session"


def shares_by_bar(strategy: AnyStrategy) -> TypeGuard[ShareStrategy]:
    """Return whether the strategy decides at each bar and holds shares."""
    return strategy.spec.decides == "bar" and strategy.spec.holds == "shares"


def option_by_bar(strategy: AnyStrategy) -> TypeGuard[Strategy]:
    """Return whether the strategy decides at each bar and holds one option position."""
    return strategy.spec.decides == "bar" and strategy.spec.holds == "option"


def takes_streams(strategy: AnyStrategy) -> bool:
    """Return whether a desk of it takes the account's market streams; one that decides once a session reads quotes."""
    return by_kind(strategy, option=lambda _: True, shares=lambda _: True, days=lambda _: False)


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
    return _make(name, symbols, config)


def daily_strategy(name: str, symbols: tuple[str, ...] = ()) -> DailyStrategy:
    """Return a new strategy that decides once a session. `ValueError` for another, and as `strategy`."""
    strategy = _make(name, symbols)
    if once_a_session(strategy):
        return strategy
    daily = [other for other in (*STRATEGIES, *_own_strategies) if once_a_session(entry(other).make())]
    raise ValueError(f"strategy is {name!r}, expected one that decides daily: choose one of {', '.join(daily)}")


def _make(name: str, symbols: tuple[str, ...], config: str = "") -> AnyStrategy:
    strategy_entry = entry(name)
    with reporting("make"):
        return _made(name, strategy_entry, symbols, config)


def _made(name: str, strategy_entry: StrategyEntry, symbols: tuple[str, ...], config: str) -> AnyStrategy:
    if strategy_entry.with_config is not None:
        return strategy_entry.with_config(config, symbols)
    if strategy_entry.with_parameters is not None and not symbols:
        return _with_parameters(name, strategy_entry, config) if config else strategy_entry.make()
    if config:
        raise ValueError(f"{name} has no model configuration, found one given to it: name none")
    if not symbols:
        return strategy_entry.make()
    if strategy_entry.with_symbols is None:
        default = ", ".join(strategy_entry.make().spec.symbols)
        raise ValueError(f"{name} trades its own symbols ({default}), found others given to it: name none")
    return _with_symbols(name, strategy_entry, symbols)


def _call(name: str, strategy_entry: StrategyEntry, make: Callable[[], Any], argument: object) -> AnyStrategy:
    """Return `make(argument)`. OwnStrategyError where the result is not the strategy of this name."""
    from strategies.kit.own.load import strategy_fault

    try:
        strategy: AnyStrategy = make()
    except (Exception, SystemExit) as error:
        cause = f"{type(error).__name__}: {error}: correct how it is made"
        raise OwnStrategyError(f"{name} cannot be made with {argument}: {cause}") from error
    fault = strategy_fault(strategy_entry, strategy)
    if not fault and strategy.spec.name != name:
        fault = f"spec.name is {strategy.spec.name!r}: give it one name"
    if fault:
        raise OwnStrategyError(f"{name} cannot be made with {argument}: {fault}")
    return strategy


def _with_parameters(name: str, strategy_entry: StrategyEntry, config: str) -> AnyStrategy:
    """Make the strategy with the parameters of this text, which is its spec's `config`. OwnStrategyError as `own`."""
    assert strategy_entry.with_parameters is not None
    values, with_parameters = values_of(strategy_entry.parameters, config), strategy_entry.with_parameters

    def make() -> Any:
        strategy: Any = with_parameters(values)
        strategy.spec = replace(strategy.spec, config=config)
        return strategy

    return _call(name, strategy_entry, make, dict(values))


def _with_symbols(name: str, strategy_entry: StrategyEntry, symbols: tuple[str, ...]) -> AnyStrategy:
    """Make the strategy for these symbols. OwnStrategyError as `own`, also where it is made for others."""
    assert strategy_entry.with_symbols is not None
    own_strategy = _own_strategies.get(name)
    if own_strategy is None or not own_strategy.sources:  # a stand-in has the symbols of the journal
        return strategy_entry.with_symbols(symbols)
    strategy = _call(name, strategy_entry, partial(strategy_entry.with_symbols, symbols), symbols)
    if strategy.spec.symbols != symbols:
        raise OwnStrategyError(
            f"{name} cannot be made with {symbols}: its spec.symbols is {strategy.spec.symbols}: correct with_symbols"
        )
    return strategy


def declaration(name: str, symbols: tuple[str, ...] = ()) -> Mapping[str, object]:
    """Return the declaration for these symbols, () for its own: with the spec, it fixes the numbers' meaning.

    `ValueError` as `entry`.
    """
    strategy_entry = entry(name)
    return (
        strategy_entry.declared(symbols)
        if symbols and strategy_entry.declared is not None
        else strategy_entry.declaration
    )


def configured(spec: Spec) -> tuple[str, ...]:
    """Return the symbols that a configuration named; () where they are the strategy's own.

    Where rows are symbols, one policy serves any, and its symbols always count as named.
    """
    if spec.rows_are_symbols:
        return spec.symbols
    strategy_entry = entry(spec.name) if is_known(spec.name) else None
    if (
        strategy_entry is None
        or strategy_entry.with_symbols is None
        or spec.symbols == strategy_entry.make().spec.symbols
    ):
        return ()
    return spec.symbols
