"""Work buffers of the LSTM loops, allocated once for each shape and reused.

Nothing is computed here. Samples lie along the last axis, so that each gate is one contiguous block of rows, and what a
product reads lies together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

KEPT_BYTES = 1 << 29
"""Buffers kept from forward to backward; what would not fit is computed again in backward."""


class Shape(NamedTuple):
    """What a workspace is made for."""

    steps: int
    samples: int
    inputs: int
    hidden: int
    layers: int
    products: torch.dtype
    cells: torch.dtype


class Cell(NamedTuple):
    """The views of one layer at one step; all (rows, samples)."""

    reads: Tensor  # what the product reads: input, ones, y before; in the second layer ones, y of the first, y before
    first_reads: Tensor  # without y before
    y_before: Tensor
    y_after: Tensor
    gates: Tensor  # the sigmoids of input, forget, output, candidate
    input: Tensor
    forget: Tensor
    output: Tensor
    candidate: Tensor
    state_before: Tensor
    state_after: Tensor
    squashed: Tensor  # q
    change: Tensor  # gradient of the gates before their sigmoid; takes their place where it has their type


class Workspace:
    """All buffers for one chunk of samples."""

    def __init__(self, shape: Shape) -> None:
        steps, samples, inputs, hidden, layers, products, cells = shape
        self.shape = shape
        self.reads = _wide(inputs + 1 + layers * hidden, steps + layers, samples, products)
        self.reads[inputs] = 1.0
        self.differ = products != cells
        self.changes = [_wide(4 * hidden, steps, samples, products) for _ in range(layers)]
        self.gates = self.changes  # which come after them
        if self.differ:
            self.gates = [torch.empty(steps, 4 * hidden, samples, dtype=cells).transpose(0, 1) for _ in range(layers)]
        self.states = torch.empty(layers, steps + 1, hidden, samples, dtype=cells)
        self.squashed = torch.empty(layers, steps, hidden, samples, dtype=cells)
        self.cells = [[self._cell(layer, step) for layer in range(layers)] for step in range(steps)]
        kept = [self.reads, self.states, self.squashed, *self.gates, *(self.changes if self.differ else ())]
        self.bytes = sum(tensor.nbytes for tensor in kept)
        # read again at once, so shared by all steps
        self.raw = torch.empty(4 * hidden, samples, dtype=products)
        self.spare = torch.empty(hidden, samples, dtype=cells)
        self.total = torch.empty(hidden, samples, dtype=cells)
        self.change = torch.empty(4 * hidden, samples, dtype=cells)
        self.state_change = torch.empty(layers, hidden, samples, dtype=cells)
        widths = [hidden, 2 * hidden][:layers]
        self.back = [torch.empty(width, samples, dtype=products) for width in widths]
        self.back_cells = [torch.empty(width, samples, dtype=cells) for width in widths] if self.differ else self.back

    def rows(self, layer: int) -> slice:
        """The rows of `reads` that a layer's product reads."""
        inputs, hidden = self.shape.inputs, self.shape.hidden
        return slice(inputs if layer else 0, inputs + 1 + (layer + 1) * hidden)

    def _cell(self, layer: int, step: int) -> Cell:
        hidden, states = self.shape.hidden, self.states[layer]
        reads = self.reads[self.rows(layer)]
        gates = self.gates[layer][:, step]
        gate_i, gate_f, gate_o, gate_g = gates.chunk(4)
        return Cell(
            reads=reads[:, step + layer],
            first_reads=reads[:-hidden, step + layer],
            y_before=reads[-hidden:, step + layer],
            y_after=reads[-hidden:, step + layer + 1],
            gates=gates,
            input=gate_i,
            forget=gate_f,
            output=gate_o,
            candidate=gate_g,
            state_before=states[step],
            state_after=states[step + 1],
            squashed=self.squashed[layer, step],
            change=self.changes[layer][:, step],
        )


def _wide(rows: int, steps: int, samples: int, dtype: torch.dtype) -> Tensor:
    """A buffer (rows, steps, samples) of zeros; rows do not lie a power of two apart (they would share cache sets).

    A bfloat16 product on AMX reads rows in blocks of 32 and multiplies what lies beyond a row by zero (oneDNN as of
    torch 2.13): a NaN there would spread. So what is never written is zero, and after the last row comes a block more.
    """
    return torch.zeros(rows, steps * samples + 32, dtype=dtype)[:, : steps * samples].view(rows, steps, samples)


_free: list[Workspace] = []  # held by no run


def take(shape: Shape) -> Workspace:
    """A workspace of this shape, filled with whatever was left there; it is the caller's until `give_back`."""
    for index in range(len(_free) - 1, -1, -1):
        if _free[index].shape == shape:
            return _free.pop(index)
    with torch.inference_mode(mode=False):  # whose tensors could not be written to elsewhere
        return Workspace(shape)


def give_back(workspace: Workspace) -> None:
    """Keep a workspace for the next run, and let go of the oldest ones beyond `KEPT_BYTES`."""
    _free.append(workspace)
    while sum(free.bytes for free in _free) > KEPT_BYTES:
        del _free[0]
