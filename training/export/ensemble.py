"""An ensemble of policies that differ in their seed: the mean of their answers, in one graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class SeedEnsemble(nn.Module):
    """The mean of the members' logits, or actions, and of each head; the members know nothing of one another.

    Members with a memory keep one each: its state is (batch, members, *state of one).
    """

    def __init__(self, members: Sequence[nn.Module], state: tuple[int, ...] | None = None) -> None:
        """Join them; `state` is the shape of one member's memory, None for members without one.

        Raises:
            ValueError: there is no member.
        """
        super().__init__()
        if not members:
            raise ValueError("an ensemble has no member: expected at least one policy")
        self.members = nn.ModuleList(members)
        self._state = state

    def forward(self, observation: Tensor, hidden: Tensor | None = None) -> Any:
        """The ensemble's answer in the form of a member's: a tensor, or (answer, heads...), or (answer, next state).

        A hidden state without the members' dimension, such as the initial zeros, is used for every member.
        """
        if self._state is None:
            outputs_of_members = [member(observation) for member in self.members]
            if isinstance(outputs_of_members[0], tuple):
                return tuple(torch.stack(outputs).mean(dim=0) for outputs in zip(*outputs_of_members, strict=True))
            return torch.stack(outputs_of_members).mean(dim=0)
        assert hidden is not None, "members with a memory are asked with one"
        if hidden.dim() == len(self._state) + 1:
            hidden = hidden.unsqueeze(1).expand(-1, len(self.members), *self._state)
        outputs_of_members = [
            member(observation, hidden[:, place].contiguous()) for place, member in enumerate(self.members)
        ]
        answers, states = zip(*outputs_of_members, strict=True)
        return torch.stack(answers).mean(dim=0), torch.stack(states, dim=1)


def together(members: Sequence[nn.Module], state: tuple[int, ...] | None) -> nn.Module:
    """The members as one policy in evaluation mode; a single one stays what it is."""
    return members[0] if len(members) == 1 else SeedEnsemble(members, state).eval()


def count_of(policy: nn.Module) -> int:
    """How many seeds are in a policy."""
    return len(policy.members) if isinstance(policy, SeedEnsemble) else 1
