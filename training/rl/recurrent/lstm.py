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
    every: bool = False,
) -> Tensor:
    """Outputs of an LSTM on the CPU: the last, (batch, hidden), or with `every` all of them, (steps, batch, hidden).

    Under `torch.autocast` matrix products use autocast's type; cell state, gates, sums and the result have the type of
    the parameters.

    Args:
        inputs: (steps, batch, inputs), at least one step and one sample.
        parameters: float32 or float64 weight_ih, weight_hh, bias_ih, bias_hh of each layer, as `torch.nn.LSTM` has
            them: one or two layers.

    Raises:
        ValueError: more than two layers, or nothing to run over.
    """
    layers, cells = len(parameters) // 4, parameters[0].dtype
    if not 1 <= layers <= 2 or 0 in inputs.shape:
        raise ValueError(
            f"found {layers} layers over inputs {tuple(inputs.shape)}; expected one or two layers over (steps, batch, "
            f"inputs) without a 0: run a deeper stack layer by layer"
        )
    call = Call(
        every=every,
        products=torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else cells,
        cells=cells,
        training=torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (inputs, *parameters)),
    )
    if call.training:
        apply: Any = Recurrence.apply
        result: Tensor = apply(call, inputs, *parameters)
        return result
    with torch.no_grad():
        return all_forward(call, inputs, parameters)[0]


class Lstm(nn.Module):
    """`torch.nn.LSTM` that trains faster on a CPU, and is torch's elsewhere. `self.layers` holds its parameters."""

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

        Without gradients torch's own kernel is faster and is used; an ONNX graph always has torch's.
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


def _torchs_own(rows: Tensor) -> bool:
    """Whether torch's own kernel runs: in a graph, on another device, or where no gradient is asked for."""
    exported = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
    return exported or rows.device.type != "cpu" or not torch.is_grad_enabled()
