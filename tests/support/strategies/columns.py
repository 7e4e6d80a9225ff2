"""Daily prices as columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class DailyColumns:
    """Adjusted daily prices in USD, each column (days, symbols)."""

    symbols: tuple[str, ...]
    columns: dict[str, npt.NDArray[np.float64]]

    def of(self, symbol: str, name: str) -> npt.NDArray[np.float64]:
        return np.ascontiguousarray(self.columns[name][:, self.symbols.index(symbol)])
