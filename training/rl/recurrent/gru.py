"""A GRU layer that trains faster on a CPU than `torch.nn.GRU`, and has its parameters and results.

Knows no policy and no optimizer, and computes nothing itself: on a CPU the loops are those of `gru_kernel`, on other
devices and in an exported graph torch's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.rl.recurrent.gru_buffers import give_back
from training.rl.recurrent.gru_kernel import Recurrence, all_forward


def recurrence(
    inputs: Tensor, parameters: Sequence[Tensor], *, start: Tensor | None = None, starts: Tensor | None = None
) -> Tensor:
    """All outputs (steps, batch, hidden) of a GRU layer on the CPU, in the type of its parameters.

    Under `torch.autocast` too: at widths of about 128 a step's product is too small to gain by bfloat16.

    Args:
        inputs: (steps, batch, inputs), at least one step and one sample.
        parameters: float32 or float64 weight_ih, weight_hh, bias_ih, bias_hh, as `torch.nn.GRU` has them: one layer.
        start: (batch, hidden), the state before the first step; None: zeros.
        starts: bool (steps, batch), true where the state is zeroed before that step, and no gradient flows across.

    Raises:
        ValueError: more than one layer, or nothing to run over.
    """
    if len(parameters) != 4 or inputs.dim() != 3 or 0 in inputs.shape:
        raise ValueError(
            f"found {len(parameters)} parameters over inputs {tuple(inputs.shape)}; expected the 4 of one layer over "
            f"(steps, batch, inputs) without a 0: run a deeper stack layer by layer"
        )
    weight = parameters[1]
    before = weight.new_zeros(inputs.shape[1], weight.shape[1]) if start is None else start.to(weight.dtype)
    masks: list[Tensor | None] = [None] * inputs.shape[0]
    if starts is not None:
        keep = (~starts).to(weight.dtype).unsqueeze(2)
        masks = [keep[step] if fresh else None for step, fresh in enumerate(starts.any(dim=1).tolist())]
    rows = inputs.to(weight.dtype)
    with torch.autocast("cpu", enabled=False):
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (rows, before, *parameters)):
            apply: Any = Recurrence.apply
            result: Tensor = apply(rows, before, masks, *parameters)
            return result
        with torch.no_grad():
            result, kept = all_forward(rows, before, masks, parameters)
        for work in kept:
            give_back(work)
        return result


class Gru(nn.Module):
    """One layer of `torch.nn.GRU` (`self.layers` holds its parameters) that trains faster on a CPU."""

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
        exported = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
        if exported or inputs.device.type != "cpu" or torch.is_grad_enabled():
            result: Tensor = self.layers(inputs.unsqueeze(1), state.unsqueeze(0))[0][:, 0]
            return result.float()
        return recurrence(inputs.unsqueeze(0), list(self.layers.parameters()), start=state)[0]

    def sequence(self, inputs: Tensor, state: Tensor, starts: Tensor) -> Tensor:
        """All outputs (steps, batch, hidden) over inputs (steps, batch, inputs).

        Args:
            state: (batch, hidden), before the first step.
            starts: bool (steps, batch), true where the state is zeroed before that step.
        """
        if inputs.device.type == "cpu":
            return recurrence(inputs, list(self.layers.parameters()), start=state, starts=starts)
        return self.one_by_one(inputs, state, starts)

    def one_by_one(self, inputs: Tensor, state: Tensor, starts: Tensor) -> Tensor:
        """The same as `sequence`, by torch's kernel at every step: on other devices than the CPU."""
        outputs = []
        for now, fresh in zip(inputs, starts, strict=True):
            state = self.step(now, state.masked_fill(fresh.unsqueeze(1), 0.0))
            outputs.append(state)
        return torch.stack(outputs)
