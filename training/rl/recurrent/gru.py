"""`torch.nn.GRU` with episodes: its state becomes zero where one begins.

A hand-written kernel gained 15 % of a whole PPO training of `regime_switcher`, too little to keep it.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class Gru(nn.Module):
    """One layer of `torch.nn.GRU`; `self.layers` holds its parameters. It computes in their type, autocast or not."""

    def __init__(self, inputs: int, hidden: int, generator: torch.Generator) -> None:
        """Orthogonal weights, biases 0: Huang et al. 2022, "The 37 Implementation Details of PPO", detail L1."""
        super().__init__()
        self.layers = nn.GRU(inputs, hidden, batch_first=True)
        for parameter in self.layers.parameters():
            if parameter.dim() > 1:
                nn.init.orthogonal_(parameter, 1.0, generator)
            else:
                nn.init.zeros_(parameter)

    def step(self, inputs: Tensor, state: Tensor) -> Tensor:
        """The state (batch, hidden), which is the output too, after one step over inputs (batch, inputs)."""
        if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export() or inputs.device.type != "cpu":
            result: Tensor = self.layers(inputs.unsqueeze(1), state.unsqueeze(0))[0][:, 0]
            return result.float()
        return self._run(inputs.unsqueeze(1), state)[:, 0]

    def sequence(self, inputs: Tensor, state: Tensor, starts: Tensor) -> Tensor:
        """All outputs (steps, batch, hidden) over inputs (steps, batch, inputs).

        On a CPU torch takes each stretch of steps before which no state is zeroed in one call.

        Args:
            state: (batch, hidden), before the first step.
            starts: bool (steps, batch), true where the state is zeroed before that step, and no gradient flows across.
        """
        if inputs.device.type != "cpu":
            return self.one_by_one(inputs, state, starts)
        zeroed = [step for step, fresh in enumerate(starts.any(dim=1).tolist()) if fresh and step]
        rows, found = inputs.transpose(0, 1), []
        for first, last in pairwise((0, *zeroed, len(starts))):
            outputs = self._run(rows[:, first:last], state.masked_fill(starts[first].unsqueeze(1), 0.0))
            found.append(outputs)
            state = outputs[:, -1]
        return torch.cat(found, dim=1).transpose(0, 1)

    def one_by_one(self, inputs: Tensor, state: Tensor, starts: Tensor) -> Tensor:
        """The same as `sequence`, step by step, which asks the device for nothing: on other devices than the CPU."""
        outputs = []
        for now, fresh in zip(inputs, starts, strict=True):
            state = self.step(now, state.masked_fill(fresh.unsqueeze(1), 0.0))
            outputs.append(state)
        return torch.stack(outputs)

    def _run(self, rows: Tensor, state: Tensor) -> Tensor:
        """Outputs (batch, steps, hidden) over rows (batch, steps, inputs)."""
        own = next(self.layers.parameters()).dtype
        with torch.autocast("cpu", enabled=False):
            result: Tensor = self.layers(rows.to(own), state.to(own).unsqueeze(0))[0]
        return result
