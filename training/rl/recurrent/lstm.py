"""An LSTM of one or two layers that trains faster on a CPU than `torch.nn.LSTM`, with its parameters and results.

Whole PPO updates of the recurrent `option_scalper` network (rollout and 10 epochs, one thread) run 1.6 times as fast:
the median of eight alternating pairs of runs with the hand-written loops and with torch's own.

Knows no policy and no optimizer, and computes nothing itself: on a CPU the loops are those of `lstm_kernel`, on other
devices and in an exported graph torch's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.rl.recurrent.lstm_kernel import Call, Recurrence, all_forward


def recurrence(
    inputs: Tensor,
    parameters: Sequence[Tensor],
    *,
    start: Tensor | None = None,
    starts: Tensor | None = None,
    every: bool = False,
) -> Tensor:
    """Outputs of an LSTM on the CPU: the last, (batch, hidden), or with `every` all of them, (steps, batch, hidden).

    Under `torch.autocast` the matrix products are taken in its type; cell state, gates and sums keep theirs, which is
    that of the parameters, and so is that of the result.

    Args:
        inputs: (steps, batch, inputs), at least one step and one sample.
        parameters: float32 or float64 weight_ih, weight_hh, bias_ih, bias_hh of each layer, as `torch.nn.LSTM` has
            them: one or two layers.
        start: (batch, layers, 2, hidden), output and cell state before the first step; None: zeros.
        starts: bool (steps, batch), true where the state is zeroed before that step, and no gradient flows across.

    Raises:
        ValueError: more than two layers, or `starts` with more than one, or nothing to run over.
    """
    layers, cells = len(parameters) // 4, parameters[0].dtype
    if not 1 <= layers <= (2 if starts is None else 1) or 0 in inputs.shape:
        raise ValueError(
            f"found {layers} layers over inputs {tuple(inputs.shape)}, resets: {starts is not None}; expected one "
            f"layer, or two without resets, over (steps, batch, inputs) without a 0: run a deeper stack layer by layer"
        )
    traced = (inputs, *parameters, *(() if start is None else (start,)))
    call = Call(
        every=every,
        products=torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else cells,
        cells=cells,
        training=torch.is_grad_enabled() and any(tensor.requires_grad for tensor in traced),
        keep=None if starts is None else (~starts).to(cells).unsqueeze(1),
    )
    if call.training:
        apply: Any = Recurrence.apply
        result: Tensor = apply(call, inputs, start, *parameters)
        return result
    with torch.no_grad():
        return all_forward(call, inputs, start, parameters)[0]


class Lstm(nn.Module):
    """`torch.nn.LSTM` (`self.layers` holds its parameters) that trains faster on a CPU; elsewhere it is that one."""

    def __init__(self, inputs: int, hidden: int, layers: int, generator: torch.Generator) -> None:
        """Orthogonal weights, biases 0: Huang et al. 2022, "The 37 Implementation Details of PPO", detail L1."""
        super().__init__()
        self.layers = nn.LSTM(inputs, hidden, layers, batch_first=True)
        for parameter in self.layers.parameters():
            if parameter.dim() > 1:
                nn.init.orthogonal_(parameter, 1.0, generator)
            else:
                nn.init.zeros_(parameter)

    def forward(self, rows: Tensor) -> Tensor:
        """The last output (batch, hidden) over rows (batch, steps, inputs), from a zero state.

        Without gradients torch's own kernel is the faster one, and it is the one that an ONNX graph has.
        """
        if _torchs_own(rows):
            result: Tensor = self.layers(rows)[0][:, -1]
            return result
        return recurrence(rows.transpose(0, 1), list(self.layers.parameters()))

    def outputs(self, rows: Tensor) -> Tensor:
        """All outputs (batch, steps, hidden) over rows (batch, steps, inputs), from a zero state; as `forward`."""
        if _torchs_own(rows):
            result: Tensor = self.layers(rows)[0]
            return result
        return recurrence(rows.transpose(0, 1), list(self.layers.parameters()), every=True).transpose(0, 1)

    def step(self, inputs: Tensor, state: Tensor) -> Tensor:
        """The state (batch, layers, 2, hidden), output and cell state, after one step over inputs (batch, inputs)."""
        before = state.permute(2, 1, 0, 3).contiguous()
        after = self.layers(inputs.unsqueeze(1), (before[0], before[1]))[1]
        return torch.stack(after).permute(2, 1, 0, 3).float()

    def sequence(self, inputs: Tensor, state: Tensor, starts: Tensor) -> Tensor:
        """All outputs (steps, batch, hidden) of one layer over inputs (steps, batch, inputs).

        Args:
            state: (batch, 1, 2, hidden), before the first step.
            starts: bool (steps, batch), true where the state is zeroed before that step.
        """
        if inputs.device.type == "cpu":
            return recurrence(inputs, list(self.layers.parameters()), start=state, starts=starts, every=True)
        return self.one_by_one(inputs, state, starts)

    def one_by_one(self, inputs: Tensor, state: Tensor, starts: Tensor) -> Tensor:
        """The same as `sequence`, by torch's kernel at every step: on other devices than the CPU."""
        outputs = []
        for now, fresh in zip(inputs, starts, strict=True):
            state = self.step(now, state.masked_fill(fresh.view(-1, 1, 1, 1), 0.0))
            outputs.append(state[:, -1, 0])
        return torch.stack(outputs)


def _torchs_own(rows: Tensor) -> bool:
    """Whether torch's own kernel runs: in a graph, on another device, or where no gradient is asked for."""
    exported = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
    return exported or rows.device.type != "cpu" or not torch.is_grad_enabled()
