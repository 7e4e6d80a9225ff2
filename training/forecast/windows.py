"""Sequences out of a panel without copies of it: an index holds where each window ends, and a batch is gathered.

A panel of 3,272 sessions × 90 symbols × 78 features is 92 MB; its windows of 60 rows would be 5.5 GB.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Windows:
    """Windows of `length` rows over features (d, n, f). A symbol's rows are neighbours, so a window is one piece."""

    def __init__(self, features: NDArray[np.float32], length: int, device: torch.device | str = "cpu") -> None:
        """Take a copy of `features`, with 0 in place of what is not finite: no window of a valid row holds any."""
        days, symbols, width = features.shape
        rows = np.nan_to_num(features.transpose(1, 0, 2), copy=True, nan=0.0, posinf=0.0, neginf=0.0)
        self.length = length
        self.days = days
        self.rows = torch.from_numpy(np.ascontiguousarray(rows)).view(symbols * days, width).to(device)
        self._steps = torch.arange(1 - length, 1, device=device)

    @torch.no_grad()
    def mapped(self, change: Callable[[Tensor], Tensor]) -> Windows:
        """The same windows over changed rows."""
        windows = copy.copy(self)
        windows.rows = change(self.rows)
        return windows

    def cast(self, kind: torch.dtype) -> Windows:
        """The same windows over rows of another type."""
        return self.mapped(lambda rows: rows.to(kind))

    def places(self, rows: NDArray[np.int64]) -> Tensor:
        """Where the windows of rows (k, 2) of session and symbol end, int64 (k,).

        Raises:
            ValueError: a window would begin before the panel.
        """
        if len(rows) and int(rows[:, 0].min()) < self.length - 1:
            raise ValueError(
                f"a window of {self.length} rows ends in session {int(rows[:, 0].min())}: expected one that begins in "
                "the panel; leave out the rows that are not valid"
            )
        return torch.from_numpy(rows[:, 1] * self.days + rows[:, 0]).to(self.rows.device)

    def gather(self, places: Tensor) -> Tensor:
        """Sequences (k, length, f), the newest row last."""
        index = (places.unsqueeze(1) + self._steps).flatten()
        return self.rows.index_select(0, index).view(len(places), self.length, -1)
