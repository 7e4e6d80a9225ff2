"""`torch.nn.GRU` with resets: the state is zeroed where an episode begins.

On a CPU a hand-written kernel gained 15 % of a whole PPO training of `regime_switcher`, too little to keep it. On a GPU
cuDNN takes no resets inside a sequence, so the loop over the steps is written here: few kernels a step, and those that
PyTorch's own cell is made of.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

_cell: Any = torch.ops.aten._thnn_fused_gru_cell  # (input's gates, state's gates, state) -> next state, workspace
_cell_back: Any = torch.ops.aten._thnn_fused_gru_cell_backward  # (gradient, workspace, False) -> gradients of these


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
        if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
            result: Tensor = self.layers(inputs.unsqueeze(1), state.unsqueeze(0))[0][:, 0]
            return result.float()
        if inputs.device.type != "cpu":
            parameters = list(self.layers.parameters())
            with torch.autocast(inputs.device.type, enabled=False):
                return torch.gru_cell(inputs.to(parameters[0].dtype), state, *parameters)
        return self._run(inputs.unsqueeze(1), state)[:, 0]

    def sequence(self, inputs: Tensor, state: Tensor, starts: Tensor) -> Tensor:
        """All outputs (steps, batch, hidden) over inputs (steps, batch, inputs).

        On a CPU, steps between two resets are one call of torch.

        Args:
            state: (batch, hidden), before the first step.
            starts: bool (steps, batch), true where the state is zeroed before that step, and no gradient flows across.
        """
        if inputs.device.type != "cpu":
            with torch.autocast(inputs.device.type, enabled=False):
                return looped(inputs, state, starts, *self.layers.parameters())
        zeroed = [step for step, fresh in enumerate(starts.any(dim=1).tolist()) if fresh and step]
        rows, parts = inputs.transpose(0, 1), []
        for first, last in pairwise((0, *zeroed, len(starts))):
            outputs = self._run(rows[:, first:last], state.masked_fill(starts[first].unsqueeze(1), 0.0))
            parts.append(outputs)
            state = outputs[:, -1]
        return torch.cat(parts, dim=1).transpose(0, 1)

    def _run(self, rows: Tensor, state: Tensor) -> Tensor:
        """Outputs (batch, steps, hidden) over rows (batch, steps, inputs)."""
        dtype = next(self.layers.parameters()).dtype
        with torch.autocast("cpu", enabled=False):
            result: Tensor = self.layers(rows.to(dtype), state.to(dtype).unsqueeze(0))[0]
        return result


def looped(
    inputs: Tensor, state: Tensor, starts: Tensor, in_weight: Tensor, weight: Tensor, in_bias: Tensor, bias: Tensor
) -> Tensor:
    """`Gru.sequence` on a GPU with the parameters of `torch.nn.GRU`, in their type; nothing waits for the device."""
    apply: Any = _Loop.apply
    result: Tensor = apply(inputs.to(weight.dtype), state, starts, in_weight, weight, in_bias, bias)
    return result


class _Loop(torch.autograd.Function):
    """The loop as an autograd function: input products and weight gradients are computed once over all steps."""

    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> Tensor:
        inputs, state, starts, in_weight, weight, in_bias, bias = arguments
        steps, batch = starts.shape
        gates = torch.addmm(in_bias, inputs.flatten(0, 1), in_weight.T).view(steps, batch, -1)
        fresh, turned = starts.unsqueeze(2), weight.T
        states, spaces, outputs = [], [], []
        for now, zeroed in zip(gates.unbind(0), fresh.unbind(0), strict=True):
            states.append(state.masked_fill(zeroed, 0.0))
            state, space = _cell(now, torch.addmm(bias, states[-1], turned), states[-1])
            spaces.append(space)
            outputs.append(state)
        ctx.save_for_backward(inputs, fresh, in_weight, weight, torch.stack(states), *spaces)
        return torch.stack(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, fresh, in_weight, weight, states, *spaces = ctx.saved_tensors
        by_output = gradients[0]
        carried = torch.zeros_like(by_output[0])
        by_gates, by_hidden = [], []
        for index in range(len(spaces) - 1, -1, -1):
            of_gates, of_hidden, direct, *_ = _cell_back(by_output[index] + carried, spaces[index], False)
            by_gates.append(of_gates)
            by_hidden.append(of_hidden)
            carried = torch.addmm(direct, of_hidden, weight).masked_fill(fresh[index], 0.0)
        of_gates, of_hidden = (torch.stack(gradients[::-1]).flatten(0, 1) for gradients in (by_gates, by_hidden))
        by_inputs = (of_gates @ in_weight).view_as(inputs) if ctx.needs_input_grad[0] else None
        weights = (of_gates.T @ inputs.flatten(0, 1), of_hidden.T @ states.flatten(0, 1))
        return by_inputs, carried, None, *weights, of_gates.sum(0), of_hidden.sum(0)
