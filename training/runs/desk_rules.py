"""The trading rules that a run plays by: the strategy's defaults, or those of a desk's configuration."""

from __future__ import annotations

from pathlib import Path

from daemon.config.load import ConfigError, load
from daemon.core.limits import Trading
from daemon.core.strategy_rules import trading_for


def trading_of(strategy: str, config: Path | None) -> Trading:
    """The rules of this strategy under `config`; None: its defaults.

    Raises:
        ValueError: the configuration cannot be read or is wrong; the text names each key, its value and the cure.
    """
    if config is None:
        return trading_for(strategy)
    try:
        return load(config, {"desk.strategy": strategy}).trading()
    except ConfigError as error:
        raise ValueError(str(error)) from error
