"""Strategies by their names, and the bars that come with each."""

from __future__ import annotations

from pathlib import Path

from daemon import tapes
from daemon.tapes.files import TapeError
from strategies.registry import add, names, strategy


def strategy_names() -> tuple[str, ...]:
    """Return the names of all strategies: shipped ones first, then added and installed ones.

    >>> import training
    >>> training.strategy_names()[:2]
    ('option_scalper', 'daily_rebalancer')
    """
    return names()


def add_strategy(path: Path | str) -> str:
    """Make the strategy in a file of yours known by its name, and return the name: `path/to/file.py`, or `…:Class`.

    Whatever takes a strategy's name takes the path as well.

    Raises:
        ValueError: the file cannot be used, or its name is taken (an `OwnStrategyError`); or no strategy has that name.
    """
    return add(str(path))


def bundled_bars(name: str) -> Path:
    """Return the bars that come with this package for a strategy: thirty sessions of minutes, or 500 of days.

    They are made up: enough to try everything, and nothing to learn from. `forecast_ensemble` needs more years.

    Raises:
        ValueError: no strategy has that name.

    >>> import training
    >>> training.bundled_bars("option_scalper").name
    'spy_synthetic_30.csv.gz'
    """
    return tapes.bundled_tape(strategy(add(name)).spec)


def bars_of(name: str, path: Path | str | None) -> Path:
    """Return the file to read for a strategy, the bundled one where none is named. Raises TapeError without a file."""
    if path is None:
        return bundled_bars(name)
    if not Path(path).is_file():
        raise TapeError(f"{path}: no such file; expected a file of bars: CSV, CSV.gz or Parquet")
    return Path(path)
