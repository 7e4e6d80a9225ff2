"""What a run takes from a desk's configuration: its trading rules, and the file of its state vector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from daemon.config.load import ConfigError, DeskSettings, load
from daemon.core.limits import Trading
from daemon.core.strategy_rules import trading_for
from daemon.tapes.quotes.calibration_file import read_calibration


def trading_of(strategy: str, config: Path | None, changes: Mapping[str, object] | None = None) -> Trading:
    """The rules of this strategy under `config` and the environment; None: its defaults. `changes` are by dotted keys.

    Raises:
        ValueError: the configuration cannot be read or is wrong; the text names each key, its value and the cure.
    """
    if config is None and not changes:
        return trading_for(strategy)
    return _settings(strategy, config, changes).trading()


def calibration_of(strategy: str, config: Path | None) -> dict[str, object]:
    """What `paths.calibration` of `config` gave the option market, with the values that count; {} without one.

    Raises ValueError as above.
    """
    settings = None if config is None else _settings(strategy, config)
    if settings is None or not settings.paths.calibration:
        return {}
    made, paper = read_calibration(Path(settings.paths.calibration)), settings.trading().paper
    values = {key: getattr(paper, key) for key in made.fitted.__struct_fields__}
    return {"quotes": made.quotes, "roots": made.roots, "digest": made.digest, **values}


def model_config_of(strategy: str, config: Path | None) -> Path | None:
    """The file that `config` names for the state vector; None where it names none. Raises ValueError as above."""
    named = "" if config is None else _settings(strategy, config).desk.model_config
    return Path(named) if named else None


def _settings(strategy: str, config: Path | None, changes: Mapping[str, object] | None = None) -> DeskSettings:
    environment: dict[str, str] | None = (
        {} if config is None else None
    )  # the strategy's defaults alone, or the process's
    try:
        return load(config, {"desk.strategy": strategy, **(changes or {})}, environment)
    except ConfigError as error:
        raise ValueError(str(error)) from error
