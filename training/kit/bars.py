"""Strategies by their names, the bars that come with each, and a file of bars as columns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from daemon import tapes
from daemon.tapes.bars import open_bars
from daemon.tapes.files import PRICES, TapeError
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


Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bars:
    """The n bars of a file in the order of time, as columns of numpy.

    Attributes:
        symbol: (n,) str.
        start_ns: (n,) int64, when each bar begins, nanoseconds UTC.
        open, high, low, close: (n,) float64, USD a share; NaN where the file has none.
        volume: (n,) float64, shares.
        synthetic: the label of made-up bars, "" of recorded ones.

    >>> import training
    >>> bars = training.load_bars(training.bundled_bars("daily_rebalancer"))
    >>> spy = bars.of("SPY")
    >>> len(spy), spy.close.dtype.name, bool((spy.low <= spy.close).all())
    (500, 'float64', True)
    >>> bars.frame().columns.tolist()
    ['symbol', 'open', 'high', 'low', 'close', 'volume']
    """

    symbol: npt.NDArray[np.str_]
    start_ns: npt.NDArray[np.int64]
    open: Float64Array
    high: Float64Array
    low: Float64Array
    close: Float64Array
    volume: Float64Array
    synthetic: str = ""

    def __len__(self) -> int:
        return len(self.start_ns)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols of the file, in alphabetical order."""
        return tuple(np.unique(self.symbol).tolist())

    def of(self, symbol: str) -> Bars:
        """Return the bars of one symbol. Raises ValueError where there is none."""
        chosen = self.symbol == symbol
        if not chosen.any():
            raise ValueError(f"there is no bar of {symbol!r}: expected one of {', '.join(self.symbols)}")
        columns = {name: getattr(self, name)[chosen] for name in ("symbol", "start_ns", *PRICES)}
        return replace(self, **columns)

    def frame(self) -> Any:
        """Return a `pandas.DataFrame` with the column `symbol` and the prices, indexed by the time, UTC."""
        import pandas as pd

        index = pd.DatetimeIndex(self.start_ns, tz="UTC", name="start")
        return pd.DataFrame({name: getattr(self, name) for name in ("symbol", *PRICES)}, index=index)


def load_bars(path: Path | str, *, symbol: str = "", adjust: bool = False) -> Bars:
    """Read a CSV, CSV.gz or Parquet file of bars, as it is: values are not checked, no session is cut out.

    A path `FOLDER/SPY_1min_raw_2024-01-02_2024-06-28.span` names bars of a folder (docs/DATA.md), which is checked.

    The file has the columns timestamp, open, high, low, close, volume, and symbol unless all bars are of one.

    Args:
        symbol: whose bars they are, of a file without a column of symbols.
        adjust: multiply prices by `adj_close` / `close` where the file has that column.

    Raises:
        TapeError: it is no such file; the text names file, fault and cure.

    >>> import training
    >>> bars = training.load_bars(training.bundled_bars("option_scalper"))
    >>> len(bars), bars.symbols, bool(bars.synthetic)
    (11520, ('SPY',), True)
    """
    file = open_bars(Path(path), (symbol,), adjust=adjust)
    batches = list(file.in_order())
    if not batches:
        raise TapeError(f"{path}: the file has a header and no row; expected bars: check how it was written")
    symbols = np.concatenate([np.array(rows.names)[rows.codes] for rows in batches])
    start_ns = np.concatenate([rows.start_ns for rows in batches])
    opened, high, low, close, volume = np.concatenate([rows.prices for rows in batches], axis=1)
    return Bars(symbols, start_ns, opened, high, low, close, volume, file.synthetic)
