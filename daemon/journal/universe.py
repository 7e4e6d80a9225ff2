"""The symbols of a journal: what its strategy trades for the journal's whole life, where a configuration names them."""

from __future__ import annotations

from collections.abc import Mapping

from strategies.kit.contract import Spec, Strategy, configured
from strategies.registry import strategy as strategy_named

SYMBOLS = "symbols"  # the key in the journal's table meta; absent where the symbols are the strategy's own


def made_with(spec: Spec) -> dict[str, str]:
    """What a journal's table meta says of the symbols; nothing where they are the strategy's own."""
    symbols = configured(spec)
    return {SYMBOLS: ",".join(symbols)} if symbols else {}


def symbols_of(meta: Mapping[str, str]) -> tuple[str, ...]:
    """The symbols that the table meta names; () where they are the strategy's own."""
    symbols = meta.get(SYMBOLS, "")
    return tuple(symbols.split(",")) if symbols else ()


def strategy_of(meta: Mapping[str, str]) -> Strategy:
    """The strategy of a journal, for its symbols. Raises KeyError without a name, ValueError as the registry."""
    return strategy_named(meta["strategy"], symbols_of(meta))
