"""The memory of a GRU's run over a chunk of samples, and its views of every step, made once for each shape.

Nothing is computed here. Samples lie before features, as the layers around have them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from training.rl.workspaces import Pool

KEPT_BYTES = 1 << 28
"""Of workspaces that no run holds."""


class Shape(NamedTuple):
    """What a workspace is made for."""

    steps: int
    samples: int
    hidden: int
    dtype: torch.dtype


class Cell(NamedTuple):
    """The views of one step; all (samples, ...)."""

    n: Tensor  # what the input gives to the candidate, then the candidate
    rz: Tensor  # before their sigmoids, then after
    r: Tensor
    z: Tensor
    m: Tensor  # what the state gives to the candidate
    rzm: Tensor
    before: Tensor  # the state that the step began from, after resets
    after: Tensor
    of_n: Tensor  # gradients of n, r, z, m before their functions
    of_rz: Tensor
    of_r: Tensor
    of_z: Tensor
    of_m: Tensor
    of_rzm: Tensor


class Workspace:
    """All buffers for one chunk of samples."""

    def __init__(self, shape: Shape) -> None:
        steps, samples, hidden, dtype = shape
        self.shape = shape
        self.gates, self.of_gates = torch.empty(2, steps, samples, 4 * hidden, dtype=dtype)  # n, r, z, m
        self.states = torch.empty(steps + 1, samples, hidden, dtype=dtype)
        n, r, z, m = self.gates.chunk(4, dim=2)
        of_n, of_r, of_z, of_m = self.of_gates.chunk(4, dim=2)
        rzm, of_rzm = self.gates[..., hidden:], self.of_gates[..., hidden:]
        rz, of_rz = rzm[..., : 2 * hidden], of_rzm[..., : 2 * hidden]
        before, after = self.states[:-1], self.states[1:]
        views = (n, rz, r, z, m, rzm, before, after, of_n, of_rz, of_r, of_z, of_m, of_rzm)
        self.cells = [Cell(*(view[step] for view in views)) for step in range(steps)]
        # read again at once, so shared by all steps
        self.of_state, self.carried, self.spare = torch.empty(3, samples, hidden, dtype=dtype)
        self.minus_one = torch.tensor(-1.0, dtype=dtype)

    @property
    def bytes(self) -> int:
        """Of what grows with the steps."""
        return sum(room.nbytes for room in (self.gates, self.of_gates, self.states))


_pool = Pool(Workspace)


def take(shape: Shape) -> Workspace:
    """A workspace of this shape, filled with whatever was left there; it is the caller's until `give_back`."""
    return _pool.take(shape)


def give_back(workspace: Workspace) -> None:
    """Keep a workspace for the next run, and let go of the oldest ones beyond `KEPT_BYTES`."""
    _pool.give_back(workspace.shape, workspace, KEPT_BYTES)
