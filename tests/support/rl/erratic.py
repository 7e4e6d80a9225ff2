"""A player that trades at random."""

from __future__ import annotations

import torch
from torch import Tensor

from strategies.option_scalper import BUY_CALL, BUY_PUT, EXIT, HOLD, TRIM_50, TRIM_70


def erratic(observations: Tensor) -> Tensor:
    """Certain logits of an action that follows from the newest row's bits: often holds, uses everything."""
    digits = (observations[:, -1, :20].double() * 1e4).sum(dim=1).abs().long() * 7919 % 13
    menu = torch.tensor([HOLD] * 6 + [EXIT, BUY_CALL, BUY_PUT, BUY_CALL, BUY_PUT, TRIM_50, TRIM_70])
    return torch.nn.functional.one_hot(menu[digits], 6).float() * 50.0


def moody(observations: Tensor) -> Tensor:
    """As `erratic`, by the position's columns as well."""
    newest = observations[:, -1].double()
    digits = (newest[:, :20] * 1e4).sum(dim=1).abs().long() + (newest[:, 20:] * 1e6).abs().sum(dim=1).long()
    menu = torch.tensor([HOLD] * 6 + [EXIT, BUY_CALL, BUY_PUT, BUY_CALL, BUY_PUT, TRIM_50, TRIM_70])
    return torch.nn.functional.one_hot(menu[digits * 7919 % 13], 6).float() * 50.0
