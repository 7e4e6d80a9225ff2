"""Two tensor markets that must be the same to the bit, whatever way each computes."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from training.desks.scalper.market import Market


def same_to_the_bit(one: Market, other: Market, choices: Iterable[torch.Tensor]) -> int:
    """Play both with int64 actions (n,) and assert that all is equal; returns how many sessions ended."""
    ended = 0
    for chosen in choices:
        step, twin = one.step(chosen), other.step(chosen)
        assert torch.equal(step.rewards, twin.rewards)
        assert torch.equal(step.terminals, twin.terminals)
        ended += int(step.terminals.sum())
    assert torch.equal(one.observe(), other.observe())
    assert torch.equal(one.account.cash, other.account.cash)
    return ended
