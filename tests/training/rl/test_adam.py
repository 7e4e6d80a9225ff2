"""Adam and AdamW step, keep and go on as PyTorch's own, to the last bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from training.rl import layers

PAIRS = [(layers.Adam, torch.optim.Adam), (layers.AdamW, torch.optim.AdamW)]
STEPS = 6


def train_with(kind: type[torch.optim.Optimizer]) -> tuple[list[torch.Tensor], dict[str, object]]:
    """The weights after some steps, of which one was left out and after half of which the state was kept and read."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    optimizer = kind(network.parameters(), lr=1e-2, weight_decay=0.1, fused=True)  # type: ignore[call-arg]
    for step in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(network(torch.randn(9, 5)).square().mean())
        vars(optimizer)["found_inf"] = torch.tensor(float(step == 1))
        optimizer.step()
        if step == STEPS // 2:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = kind(network.parameters(), lr=1.0, weight_decay=0.5, fused=True)  # type: ignore[call-arg]
            optimizer.load_state_dict(state)
    return [weights.detach() for weights in network.parameters()], optimizer.state_dict()


@pytest.mark.parametrize("pair", PAIRS, ids=["Adam", "AdamW"])
def test_steps_and_state_are_those_of_torch(
    pair: tuple[type[torch.optim.Optimizer], type[torch.optim.Optimizer]],
) -> None:
    (weights, state), (torch_weights, expected) = (train_with(kind) for kind in pair)
    assert all(torch.equal(one, other) for one, other in zip(weights, torch_weights, strict=True))
    torch.testing.assert_close(state, expected, rtol=0.0, atol=0.0)


def test_adam_and_adamw_decay_weights_in_different_ways() -> None:
    one, other = (train_with(kind)[0] for kind in (layers.Adam, layers.AdamW))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
