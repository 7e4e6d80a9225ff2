"""An LSTM's parameters as the loops of `lstm_kernel` read them, and the gradients of those back as torch has them.

The loops keep y = -output and C = 2 x cell state, and double the candidate before its sigmoid (`lstm_kernel` says why):
those scales sit in the weights. All are powers of two, so that packing rounds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Weights:
    """One layer's weights as the loops read them."""

    forward: Tensor  # (4 x hidden, rows of what the product reads)
    first: Tensor  # without the columns of y before, for a step after a zero state
    back: Tensor  # (hidden, 4 x hidden), to the gradient of y before; in the second layer that of y below above it
    inputs: Tensor  # (inputs, 4 x hidden), to the gradient of the input


def _by_gate(wide: Tensor, order: Sequence[int], factors: Sequence[float]) -> Tensor:
    blocks = wide.chunk(4)
    return torch.cat([blocks[index] * factor for index, factor in zip(order, factors, strict=True)])


def pack(parameters: Sequence[Tensor], products: torch.dtype) -> list[Weights]:
    """From the order of `torch.nn.LSTM`: weight_ih, weight_hh, bias_ih, bias_hh of each layer; gates i, f, g, o."""
    packed = []
    for layer in range(len(parameters) // 4):
        from_below, from_before, bias_below, bias_before = parameters[4 * layer : 4 * layer + 4]
        bias = (bias_below + bias_before).unsqueeze(1)
        columns = [bias, -from_below, -from_before] if layer else [from_below, bias, -from_before]
        forward = _by_gate(torch.cat(columns, dim=1), (0, 1, 3, 2), (1.0, 1.0, 1.0, 2.0))
        hidden = from_before.shape[1]
        back = _by_gate(forward, (0, 1, 2, 3), (-1.0, 0.5, 1.0, 2.0)).t()
        packed.append(
            Weights(
                forward=forward.to(products),
                first=forward[:, :-hidden].to(products).contiguous(),
                back=back[1 if layer else -hidden :].to(products).contiguous(),
                inputs=back[: -hidden - 1].to(products).contiguous(),
            )
        )
    return packed


def unpack(wide: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a layer's four parameters from the product of `changes` and `reads`."""
    whole = _by_gate(wide, (0, 1, 3, 2), (-1.0, 0.5, 4.0, 1.0))
    hidden = whole.shape[0] // 4
    before = -whole[:, -hidden:]
    if layer:
        return -whole[:, 1:-hidden], before, whole[:, 0].clone(), whole[:, 0].clone()
    return whole[:, : -hidden - 1].clone(), before, whole[:, -hidden - 1].clone(), whole[:, -hidden - 1].clone()
