"""How an episode of training shows the stocks of `daily_rebalancer`: in an order of its own, and not all of them.

A policy that learned under any order cannot rest on the place of a stock; one that learned on parts cannot rest on one
stock.
"""

from __future__ import annotations

import torch
from torch import Tensor

from strategies.daily_rebalancer import CLOSES, HOLDINGS, INDICATOR_COLUMNS, INDICATORS, TRADABLE, WIDTH
from training.rl.presets import Practice


class Layout:
    """The layouts of many accounts."""

    def __init__(self, orders: Tensor, parts: Tensor, practice: Practice) -> None:
        """Lay out by draws in [0, 1), float64 (n, 50) each: their order is that of the stocks, the least are traded."""
        count, stocks = orders.shape
        self._kept = max(1, round(practice.universe * stocks))
        self._open = (parts.argsort(1).argsort(1) < self._kept).to(torch.float32)
        places = torch.arange(stocks, device=orders.device).expand(count, stocks)
        self._order = orders.argsort(1) if practice.permute else places  # which stock is shown at each place
        columns = torch.arange(WIDTH, device=orders.device).repeat(count, 1)
        for part in (CLOSES, HOLDINGS, TRADABLE):
            columns[:, part] = part.start + self._order
        each = torch.arange(len(INDICATORS), device=orders.device)
        begins = INDICATOR_COLUMNS.start + self._order * len(INDICATORS)
        columns[:, INDICATOR_COLUMNS] = (begins.unsqueeze(2) + each).flatten(1)
        self._columns = columns

    def shown(self, observations: Tensor) -> Tensor:
        """Raw observations, float32 (n, 803), as the episode shows them; a stock that is left out is all zeros."""
        for part in (CLOSES, TRADABLE):
            observations[:, part] *= self._open
        observations[:, INDICATOR_COLUMNS] *= self._open.repeat_interleave(len(INDICATORS), dim=1)
        return observations.gather(1, self._columns)

    def meant(self, actions: Tensor) -> Tensor:
        """Actions (n, 50) by their places, as those of the stocks; none of one that is left out."""
        return torch.zeros_like(actions).scatter(1, self._order, actions) * self._open
