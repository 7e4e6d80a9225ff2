"""What a journal's strategy is made with for the journal's whole life: its symbols, and its model configuration."""

from __future__ import annotations

from collections.abc import Mapping

from daemon.journal.rows import STRATEGY_FROM, STRATEGY_SPEC
from strategies.kit.contract import AnyStrategy, Spec, configured
from strategies.registry import own
from strategies.registry import strategy as strategy_named

SYMBOLS = "symbols"  # the key in the journal's table meta; absent where the symbols are the strategy's own
MODEL_CONFIG = "model_config"  # the same of its canonical text; absent where the strategy has none


def made_with(spec: Spec) -> dict[str, str]:
    """What a journal's table meta holds of symbols, model configuration and the file of a strategy of one's own."""
    symbols = configured(spec)
    named = {SYMBOLS: ",".join(symbols)} if symbols else {}
    there = own(spec.name)
    place = {}
    if there is not None:
        from strategies.kit.own.stand_in import spec_text

        place = {STRATEGY_FROM: there.place, STRATEGY_SPEC: spec_text(spec)}
    return named | place | ({MODEL_CONFIG: spec.config} if spec.config else {})


def symbols_of(meta: Mapping[str, str]) -> tuple[str, ...]:
    """The symbols that the table meta names; () where they are the strategy's own."""
    symbols = meta.get(SYMBOLS, "")
    return tuple(symbols.split(",")) if symbols else ()


def strategy_of(meta: Mapping[str, str]) -> AnyStrategy:
    """The strategy of a journal, as it was made. Raises KeyError without a name, ValueError as the registry."""
    return strategy_named(meta["strategy"], symbols_of(meta), meta.get(MODEL_CONFIG, ""))
