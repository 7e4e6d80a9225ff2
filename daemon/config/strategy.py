"""The strategy that the settings describe: its name, its symbols, and the file of its model configuration."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from daemon.config.load import ConfigError, DeskSettings
from strategies.golden import contract_hash, own_values
from strategies.kit.contract import AnyStrategy
from strategies.kit.parameters import Parameter, given_by, text_of, words_of
from strategies.online_dqn.model_config import ModelConfigError
from strategies.online_dqn.state_vector import read_file, shipped
from strategies.registry import configured, entry, own
from strategies.registry import strategy as strategy_named


def strategy_of(settings: DeskSettings) -> AnyStrategy:
    """Return the desk's strategy. Raises ConfigError for a model configuration that cannot be used."""
    desk = settings.desk
    if (parameters := entry(desk.strategy).parameters) and not desk.symbols:
        return strategy_named(desk.strategy, (), text_of(parameters, given_by(desk.parameters)))
    if entry(desk.strategy).with_config is None:
        return strategy_named(desk.strategy, desk.symbols)
    try:
        config = read_file(Path(desk.model_config)) if desk.model_config else shipped()
    except ModelConfigError as error:
        raise ConfigError(f"desk.model_config (from {settings.origin('desk.model_config')}): {error}") from error
    return strategy_named(desk.strategy, desk.symbols or config.symbols, config.text)


def describe(strategy: AnyStrategy) -> str:
    """Return the strategy's name; of one's own also package or file, digest and contract hash."""
    strategy_files = own(strategy.spec.name)
    if strategy_files is None:
        return strategy.spec.name
    contract, parameters = contract_hash(strategy)[:12], strategy_files.entry.parameters
    if parameters:
        contract += f", parameters: {words_of(parameters, _values_text(strategy, parameters))}"
    return f"{strategy_files.shown}, contract {contract}; it is not shipped, and runs with the daemon's rights"


def _values_text(strategy: AnyStrategy, parameters: Mapping[str, Parameter]) -> str:
    """Return the canonical text of the values that it is made with.

    For a desk's symbols `with_symbols` makes it: then the values of its object's attributes, where these are values.
    """
    if configured(strategy.spec):
        made = own_values(strategy)
        with contextlib.suppress(ValueError):
            return text_of(parameters, {name: made[name] for name in parameters if name in made})
    return strategy.spec.config
