"""The passive policy of `daily_rebalancer`: as many dollars of each stock, bought once and kept. Nothing is learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from strategies.daily_rebalancer import CASH, CLOSES, HOLDINGS, STOCKS, TRADABLE, VALUE

INVESTED = 0.98
"""Of the portfolio value, so that no buy lacks cash for its costs and for a price above the last close."""
LEAST = 0.015
"""Of the portfolio value: free cash below it stays cash. Whole shares of 50 stocks leave about half a per cent."""


class EqualMoney(nn.Module):
    """Spends free cash on the stocks below a fiftieth of 98 % of the value, each by what it lacks; it never sells.

    Free is the cash beyond 2 % of the value and beyond the share of each stock that is not held and cannot be traded
    yet. An action is dollars over `unit_usd`, the desk's `basket.notional_per_unit_usd`: a price enters by the value of
    what is held alone, so shares that were split, or prices adjusted for it, get the same money.
    """

    unit_usd: Tensor

    def __init__(self, unit_usd: float) -> None:
        super().__init__()
        self.register_buffer("unit_usd", torch.tensor(unit_usd))

    def forward(self, observation: Tensor) -> Tensor:
        """Actions, float32 (batch, 50) in [0, 1], of raw observations, float32 (batch, 803)."""
        closes, held = observation[:, CLOSES], observation[:, HOLDINGS]
        cash, value = observation[:, CASH : CASH + 1], observation[:, VALUE : VALUE + 1].clamp(min=0.0)
        known = (observation[:, TRADABLE] != 0.0) & (closes > 0.0)
        goal = value * (INVESTED / STOCKS)
        waits = (~known & (held == 0.0)).to(goal.dtype).sum(dim=1, keepdim=True)
        free = cash - (1.0 - INVESTED) * value - goal * waits
        lacks = torch.where(known, (goal - held * closes).clamp(min=0.0), 0.0)
        in_all = lacks.sum(dim=1, keepdim=True)
        part = torch.where(in_all > 0.0, free / in_all.clamp(min=1e-6), 0.0).clamp(0.0, 1.0)
        wanted = torch.where(free >= LEAST * value, lacks * part, 0.0)
        return (wanted / self.unit_usd).clamp(max=1.0)
